/** Makes the folder of a new plugin that builds, tests and installs as it is. */
import { mkdir, realpath, readdir, symlink } from 'node:fs/promises';
import { findPackageJSON } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { NoaError, parseManifest } from '@noa/sdk/host';
import { ASSEMBLYSCRIPT_SDK } from './assemblyscript.ts';
import { C_SDK } from './c.ts';
import type { Language } from './language.ts';
import { replaceFile, TYPES_FILE, writeTypes } from './project.ts';
import { RUST_SDK } from './rust.ts';
import { compiledTemplate } from './template-compiled.ts';
import { manifest, template } from './template.ts';

const SDK = '@noa/sdk';
/** The package whose bin is `noa`. */
const HOST = '@noa/host';

const SDKS: { readonly [language in Exclude<Language, 'ts'>]: string } = {
  rust: RUST_SDK,
  c: C_SDK,
  as: ASSEMBLYSCRIPT_SDK,
};

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
export async function newPlugin(
  name: string,
  dir: string,
  language: Language = 'ts',
): Promise<NewPlugin> {
  const checked = parseManifest(manifest(name));
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).length > 0) {
    throw new NoaError('CONFLICT', `${dir} is not empty. Name another folder with --dir.`);
  }
  const linked = await linkPackages(dir);
  const version = async (tool: string): Promise<string> =>
    `file:${await relativeTo(dir, ownPackage(tool) ?? '')}`;
  const tools = {
    [SDK]: linked.includes(SDK) ? await version(SDK) : '^0.1.0',
    ...(linked.includes(HOST) && { [HOST]: await version(HOST) }),
  };
  const files =
    language === 'ts'
      ? template(name, tools)
      : compiledTemplate(name, language, { tools, folder: await relativeTo(dir, SDKS[language]) });
  for (const [file, text] of Object.entries(files)) await replaceFile(path.join(dir, file), text);
  if (language === 'ts') await writeTypes(dir, checked);
  const generated = language === 'ts' ? [TYPES_FILE] : [];
  return { name, dir, files: [...Object.keys(files), ...generated], linked };
}

/** A path as files in `dir` name it: with slashes, and past links on the way. */
async function relativeTo(dir: string, target: string): Promise<string> {
  const relative = path.relative(await realpath(dir), await realpath(target));
  return relative.replaceAll(path.sep, '/');
}

/**
 * Links what a plugin's tools look for and do not find from its folder, `noa` for the scripts of its
 * package.json among them; answers the names of the packages.
 */
export async function linkPackages(dir: string): Promise<string[]> {
  const linked: string[] = [];
  for (const name of [SDK, HOST, '@types/node']) {
    if (await link(dir, name)) linked.push(name);
  }
  if (linked.includes(HOST)) {
    // As npm does for a package with a bin.
    const bin = path.join(dir, 'node_modules/.bin');
    await mkdir(bin, { recursive: true });
    await symlink(path.join('..', HOST, 'noa.js'), path.join(bin, 'noa'));
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
