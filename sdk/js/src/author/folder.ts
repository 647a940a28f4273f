/**
 * Reads a plugin's folder as the bundle it would be packed to. Invariant: nothing outside the folder is
 * read, whatever links lie in it.
 */
import { createHash } from 'node:crypto';
import { lstat, readFile, readdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { NoaError } from '../errors.ts';
import { moduleOf } from '../manifest.ts';
import { parseManifest } from '../manifest-parse.ts';
import {
  BUNDLE_LIMITS,
  belongs,
  checkFiles,
  writeBundle,
  type Bundle,
  type BundleLimits,
} from './bundle.ts';

/**
 * The bundle of a plugin's folder: what belongs to one is read, all else (sources, tests) is left out.
 * Throws NoaError NOT_FOUND when the folder or its plugin.json is not there, else as `readBundle`.
 */
export async function readPluginFolder(
  dir: string,
  limits: BundleLimits = BUNDLE_LIMITS,
): Promise<Bundle> {
  const root = await realpath(dir).catch((error: unknown) => {
    throw new NoaError('NOT_FOUND', `There is no folder ${dir}.`, { cause: error });
  });
  const manifestFile = await readInside(root, 'plugin.json', limits);
  if (manifestFile === undefined) {
    throw new NoaError(
      'NOT_FOUND',
      `There is no plugin.json in ${dir}. Name the folder of a plugin.`,
    );
  }
  const manifest = parseManifest(new TextDecoder().decode(manifestFile));
  const files = new Map([['plugin.json', manifestFile]]);
  const module = moduleOf(manifest);
  const found = [
    ...(await names(root, '')),
    ...(await names(root, 'migrations/')),
    ...(module === undefined ? [] : [module.file]),
  ];
  let total = manifestFile.length;
  for (const name of new Set(found)) {
    if (name === 'plugin.json' || !belongs(manifest, name)) continue;
    const content = await readInside(root, name, limits);
    if (content === undefined) continue;
    total += content.length;
    if (total > limits.maxUnpackedBytes || files.size >= limits.maxEntries) throw tooLarge(limits);
    files.set(name, content);
  }
  return checkFiles(files);
}

export interface PackedPlugin {
  /** `NAME-VERSION.tgz` */
  readonly file: string;
  readonly bytes: Uint8Array;
  /** Lower-case hex digest of `bytes`. */
  readonly sha256: string;
}

/** Packs a built plugin's folder. The same folder gives the same bytes. Throws as `readPluginFolder`. */
export async function packPlugin(dir: string): Promise<PackedPlugin> {
  const { manifest, files } = await readPluginFolder(dir);
  const bytes = writeBundle(files);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  return { file: `${manifest.name}-${manifest.version}.tgz`, bytes, sha256 };
}

async function names(root: string, below: string): Promise<string[]> {
  const found = await readdir(path.join(root, below)).catch(absent);
  return (found ?? []).map((name) => below + name);
}

/** Content of a plain file in the folder, undefined when there is none. Refuses links. */
async function readInside(
  root: string,
  name: string,
  limits: BundleLimits,
): Promise<Uint8Array | undefined> {
  const file = path.join(root, name);
  const info = await lstat(file).catch(absent);
  if (info === undefined) return undefined;
  if (!info.isFile() || (await realpath(file)) !== file) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${name} is not a plain file in the plugin's folder. Replace the link or folder by the file.`,
    );
  }
  if (info.size > limits.maxUnpackedBytes) throw tooLarge(limits);
  return readFile(file);
}

function absent(error: unknown): undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
  throw error;
}

function tooLarge(limits: BundleLimits): NoaError {
  const { maxUnpackedBytes, maxEntries } = limits;
  return new NoaError(
    'PAYLOAD_TOO_LARGE',
    `The plugin's folder holds more than ${maxUnpackedBytes} bytes or ${maxEntries} files. Make it smaller.`,
  );
}
