/** Makes the folder of a new plugin that builds, tests and installs as it is. */
import { mkdir, realpath, readdir, symlink } from 'node:fs/promises';
import { findPackageJSON } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { NoaError, parseManifest } from '@noa/sdk/host';
import { replaceFile, writeTypes } from './project.ts';
import { manifest, template } from './template.ts';

export interface NewPlugin {
  readonly name: string;
  readonly dir: string;
  readonly files: readonly string[];
  /** Packages that did not resolve from there and are linked to those of this host. */
  readonly linked: readonly string[];
}

/**
 * Throws NoaError INVALID_ARGUMENT for a name that no plugin may have, CONFLICT when the folder holds
 * something.
 */
export async function newPlugin(name: string, dir: string): Promise<NewPlugin> {
  const checked = parseManifest(manifest(name));
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).length > 0) {
    throw new NoaError('CONFLICT', `${dir} is not empty. Name another folder with --dir.`);
  }
  const linked = await linkPackages(dir);
  const sdk = linked.includes('@noa/sdk')
    ? `file:${path.relative(dir, await realpath(ownPackage('@noa/sdk') ?? ''))}`
    : '^0.1.0';
  const files = template(name, sdk);
  for (const [file, text] of Object.entries(files)) await replaceFile(path.join(dir, file), text);
  await writeTypes(dir, checked);
  return { name, dir, files: [...Object.keys(files), 'src/noa.gen.ts'], linked };
}

/** Links what a plugin's tools look for and do not find from its folder; answers the names. */
export async function linkPackages(dir: string): Promise<string[]> {
  const linked: string[] = [];
  for (const name of ['@noa/sdk', '@types/node']) {
    if (await link(dir, name)) linked.push(name);
  }
  return linked;
}

/** Links a package of this host into the plugin's folder when none resolves from there. */
async function link(dir: string, name: string): Promise<boolean> {
  if (packageRoot(name, pathToFileURL(path.join(dir, 'plugin.json')).href) !== undefined)
    return false;
  const own = ownPackage(name);
  if (own === undefined) return false;
  const at = path.join(dir, 'node_modules', name);
  await mkdir(path.dirname(at), { recursive: true });
  await symlink(await realpath(own), at, 'dir');
  return true;
}

function ownPackage(name: string): string | undefined {
  return packageRoot(name, import.meta.url);
}

/** The folder of a package as a file at `from` would find it. */
function packageRoot(name: string, from: string): string | undefined {
  try {
    const file = findPackageJSON(name, from);
    return file === undefined ? undefined : path.dirname(file);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ERR_MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}
