/** A plugin as the host takes it: from a folder, a bundle, or an npm package by name or as its tarball. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { packPlugin, readPackage, writeBundle } from '@noa/sdk/author';
import { NoaError, readBundle } from '@noa/sdk/host';
import { languageOf } from './author/language.ts';
import { build, readManifest, TYPES_FILE } from './author/project.ts';
import { fetchPackage, packageSpec } from './npm-package.ts';
import type { Session } from './session.ts';

export interface BundleOptions {
  /** Takes a folder's module as it is, also when sources are newer. */
  readonly build?: boolean;
}

/**
 * The bytes of the bundle at `place`: a folder, a `.tgz`, `npm:NAME[@VERSION]`, or a name that is no path
 * and so a package. A folder's sources are built when its module is missing or older. Rejects with
 * NoaError: NOT_FOUND, CONFLICT for a module that is older than sources which nothing here builds, or
 * INVALID_ARGUMENT for what is no plugin.
 */
export async function bundleAt(
  place: string,
  session: Session,
  { build: builds = true }: BundleOptions = {},
): Promise<Uint8Array> {
  const path = resolve(session.io.cwd, place);
  const found = place.startsWith('npm:') ? undefined : await stat(path).catch(() => undefined);
  if (found?.isDirectory() === true) {
    if (builds) await refresh(path, place, session);
    return (await packPlugin(path)).bytes;
  }
  if (found === undefined) {
    const spec = packageSpec(place);
    if (spec === undefined) {
      throw new NoaError('NOT_FOUND', `there is no file or folder ${place}`);
    }
    session.note(`${spec} is no file or folder here: asking npm for the package`);
    return asBundle(await fetchPackage(spec, session));
  }
  if (!place.endsWith('.tgz')) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${place} is neither a plugin's folder nor a .tgz bundle`,
    );
  }
  return asBundle(await readFile(path));
}

/** A bundle stays as it is, to the byte; an npm package's tarball becomes the bundle that it holds. */
async function asBundle(bytes: Uint8Array): Promise<Uint8Array> {
  try {
    await readBundle(bytes);
    return bytes;
  } catch (error) {
    if (!(error instanceof NoaError)) throw error;
    const held = await readPackage(bytes).catch(() => undefined); // the first error says more
    if (held === undefined) throw error;
    return writeBundle(held.files);
  }
}

/** Builds the module when it is missing or older than what it is made of. */
async function refresh(dir: string, shown: string, session: Session): Promise<void> {
  const { runtime } = await readManifest(dir);
  if (runtime.kind === 'builtin') return;
  const module = await changedAt(join(dir, runtime.file));
  const newer = await newest(dir);
  if (newer === undefined || (module !== undefined && module >= newer.at)) return;
  const known =
    runtime.kind === 'wasm' &&
    (languageOf(dir) !== 'ts' || (await changedAt(join(dir, 'src/index.ts'))) !== undefined);
  if (!known) {
    if (module === undefined) return; // packing says what is missing
    throw new NoaError(
      'CONFLICT',
      `${newer.file} is newer than ${runtime.file}: build the plugin first, or take it as it is with --no-build`,
    );
  }
  const why = module === undefined ? `has no ${runtime.file} yet` : `has a newer ${newer.file}`;
  session.note(`building ${shown}, which ${why}`);
  const built = await build({ dir, check: 'sources' });
  for (const warning of built.warnings) session.note(warning);
}

/** The source that changed last, of src/ and plugin.json; undefined when there is no src/. */
async function newest(dir: string): Promise<{ file: string; at: number } | undefined> {
  const below = await readdir(join(dir, 'src'), { recursive: true }).catch(() => []); // no sources
  if (below.length === 0) return undefined;
  const files = ['plugin.json', ...below.map((name) => `src/${name}`)];
  let last = { file: '', at: 0 };
  for (const file of files) {
    // The generated types follow plugin.json, and a build writes them.
    const at = file === TYPES_FILE ? undefined : await changedAt(join(dir, file));
    if (at !== undefined && at > last.at) last = { file, at };
  }
  return last;
}

/** Time of a file's last change in milliseconds; undefined when it is no file. */
async function changedAt(file: string): Promise<number | undefined> {
  const found = await stat(file).catch(() => undefined);
  return found?.isFile() === true ? found.mtimeMs : undefined;
}
