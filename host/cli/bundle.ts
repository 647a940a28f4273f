/** A plugin as the host takes it: from a bundle as it is, from a folder by packing it. */
import { access, readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { packPlugin } from '@noa/sdk/author';
import { NoaError } from '@noa/sdk/host';
import { build, readManifest } from './author/project.ts';
import type { Session } from './session.ts';

/**
 * The bytes of the bundle at `path`. A folder whose module is missing is built first when it holds
 * src/index.ts. Rejects with NoaError: NOT_FOUND, or INVALID_ARGUMENT for what is no plugin.
 */
export async function bundleAt(path: string, session: Session): Promise<Uint8Array> {
  const place = resolve(session.io.cwd, path);
  const found = await stat(place).catch((cause: unknown) => {
    throw new NoaError('NOT_FOUND', `there is no file or folder ${path}`, { cause });
  });
  if (found.isDirectory()) {
    const { runtime } = await readManifest(place);
    const module = await isThere(join(place, runtime.file));
    if (!module && (await isThere(join(place, 'src/index.ts')))) {
      session.note(`building ${path}, which has no ${runtime.file} yet`);
      const built = await build({ dir: place, check: 'sources' });
      for (const warning of built.warnings) session.note(warning);
    }
    return (await packPlugin(place)).bytes;
  }
  if (!path.endsWith('.tgz')) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${path} is neither a plugin's folder nor a .tgz bundle`,
    );
  }
  return readFile(place);
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
