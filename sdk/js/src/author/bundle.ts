/**
 * The bundle NAME-VERSION.tgz, the one form in which a plugin travels: which files it may hold, how it is
 * read and how it is written. Invariant: the reader answers nothing that it has not checked (names, kinds,
 * sizes, manifest, digest), and equal files are written as equal bytes.
 */
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gunzip, gzipSync } from 'node:zlib';
import { NoaError } from '../errors.ts';
import { type Manifest, moduleOf, type ModuleRuntime } from '../manifest.ts';
import { parseManifest } from '../manifest-parse.ts';
import { TarError, readTar, writeTar } from './tar.ts';

export interface BundleLimits {
  /** Compressed size in bytes. */
  readonly maxBytes: number;
  /** Total size of the archive after decompression, in bytes. */
  readonly maxUnpackedBytes: number;
  /** Files and folders in the archive. */
  readonly maxEntries: number;
}

export const BUNDLE_LIMITS: BundleLimits = {
  maxBytes: 32 << 20,
  maxUnpackedBytes: 128 << 20,
  maxEntries: 512,
};

export interface Bundle {
  /** With `runtime.sha256` filled in. */
  readonly manifest: Manifest;
  /** Content by path: `plugin.json` (of this very manifest), the module, `migrations/*.sql`, documents. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

const MANIFEST_FILE = 'plugin.json';
const DOCUMENTS = ['CHANGELOG.md', 'LICENSE', 'LICENSE.md', 'LICENSE.txt', 'NOTICE', 'README.md'];
const MIGRATION = /^migrations\/\d{4,14}[_-][a-z0-9][a-z0-9_-]{0,80}\.sql$/;

/** Whether a bundle of this manifest may hold a file of this name. */
export function belongs(manifest: Manifest, name: string): boolean {
  return (
    name === MANIFEST_FILE ||
    name === moduleOf(manifest)?.file ||
    DOCUMENTS.includes(name) ||
    MIGRATION.test(name)
  );
}

/**
 * Reads a bundle from anywhere. Throws NoaError PAYLOAD_TOO_LARGE when it is over a limit and
 * INVALID_ARGUMENT for everything else that is wrong with it; answers the checked manifest and files.
 */
export async function readBundle(
  bytes: Uint8Array,
  limits: BundleLimits = BUNDLE_LIMITS,
): Promise<Bundle> {
  if (bytes.length > limits.maxBytes) throw tooLarge('is', `${limits.maxBytes} bytes`);
  return checkFiles(entries(await unzip(bytes, limits), limits, safePath));
}

/**
 * Reads the tarball of an npm package that holds a plugin: `plugin.json` and its module, at the top or
 * below `package/`. What does not belong in a bundle, such as package.json and sources, is left out.
 * Throws as `readBundle`.
 */
export async function readPackage(
  bytes: Uint8Array,
  limits: BundleLimits = BUNDLE_LIMITS,
): Promise<Bundle> {
  if (bytes.length > limits.maxBytes) throw tooLarge('is', `${limits.maxBytes} bytes`);
  const plain = (name: string): string | undefined => (isSafe(trim(name)) ? trim(name) : undefined);
  const all = entries(await unzip(bytes, limits), limits, plain);
  const below = all.has(MANIFEST_FILE) ? '' : 'package/';
  const text = all.get(below + MANIFEST_FILE);
  if (text === undefined) {
    const problem = `holds no ${MANIFEST_FILE}, neither at the top nor below package/`;
    throw refused(problem, 'It is no plugin, or its package.json leaves the file out');
  }
  const manifest = parseManifest(decode(text));
  const inside = [...all]
    .filter(([name]) => name.startsWith(below))
    .map(([name, content]) => [name.slice(below.length), content] as const);
  return checkFiles(new Map(inside.filter(([name]) => belongs(manifest, name))));
}

/**
 * Checks files, by path, as a bundle: manifest there and valid, nothing that does not belong, module
 * there and equal to its digest. Throws NoaError INVALID_ARGUMENT.
 */
export function checkFiles(files: ReadonlyMap<string, Uint8Array>): Bundle {
  const text = files.get(MANIFEST_FILE);
  if (text === undefined)
    throw refused(`holds no ${MANIFEST_FILE}`, 'Pack it with `noa plugin pack`');
  const manifest = parseManifest(decode(text));
  const strange = [...files.keys()].find((name) => !belongs(manifest, name));
  if (strange !== undefined) {
    const module = moduleOf(manifest);
    const own = [MANIFEST_FILE, ...(module ? [module.file] : []), 'migrations/NNNN_name.sql'];
    const fix = `A bundle holds ${own.join(', ')} and ${DOCUMENTS.join(', ')}`;
    throw refused(`holds ${show(strange)}, which does not belong in it`, fix);
  }
  const module = moduleOf(manifest);
  if (module !== undefined) module.sha256 = digestOf(module, files);
  const own = new TextEncoder().encode(`${JSON.stringify(manifest, null, 2)}\n`);
  return { manifest, files: new Map([...files, [MANIFEST_FILE, own]]) };
}

/** Of the module, which is there and has the digest that is written down, if one is. */
function digestOf({ file, sha256 }: ModuleRuntime, files: Bundle['files']): string {
  const wasm = files.get(file);
  if (wasm === undefined) {
    throw refused(`holds no ${file}, which runtime.file names`, 'Build the plugin, then pack it');
  }
  const digest = createHash('sha256').update(wasm).digest('hex');
  if (sha256 === undefined || sha256 === digest) return digest;
  const message = `holds a ${file} whose SHA-256 is ${digest}, and runtime.sha256 says ${sha256}`;
  throw refused(message, 'Pack it again, or get an undamaged copy');
}

/** Writes the files as a bundle: sorted, owned by nobody, of no date; equal files give equal bytes. */
export function writeBundle(files: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const sorted = [...files].toSorted(([a], [b]) => (a < b ? -1 : 1));
  const zipped = gzipSync(writeTar(sorted), { level: 9 });
  zipped[9] = 255; // the system that wrote it (RFC 1952): unknown, or it would differ by platform
  return zipped;
}

async function unzip(bytes: Uint8Array, limits: BundleLimits): Promise<Uint8Array> {
  try {
    return await promisify(gunzip)(bytes, { maxOutputLength: limits.maxUnpackedBytes });
  } catch (error) {
    if (error instanceof RangeError)
      throw tooLarge('unpacks to', `${limits.maxUnpackedBytes} bytes`);
    throw refused('is not a gzip archive, or is damaged', 'Pack it with `noa plugin pack`', error);
  }
}

/** `pathOf` answers the path of an entry, undefined for one to leave out. */
function entries(
  archive: Uint8Array,
  limits: BundleLimits,
  pathOf: (name: string) => string | undefined,
): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  let count = 0;
  const visit = (name: string, content: Uint8Array | undefined): void => {
    count += 1;
    if (count > limits.maxEntries) throw tooLarge('holds', `${limits.maxEntries} entries`);
    const path = pathOf(name);
    if (content === undefined || path === undefined) return;
    if (files.has(path)) throw refused(`holds ${show(name)} twice`, 'Keep one');
    files.set(path, content);
  };
  try {
    readTar(archive, visit);
  } catch (error) {
    if (error instanceof TarError) throw refused(error.message, 'Pack it with `noa plugin pack`');
    throw error;
  }
  return files;
}

/** The name without `./` before and `/` after it. Refuses what could lead outside. */
function safePath(name: string): string {
  const path = trim(name);
  if (path === '' || isSafe(path)) return path;
  const fix = 'Use relative paths of letters, digits and . _ -';
  throw refused(`holds ${show(name)}, which is not a safe path`, fix);
}

function trim(name: string): string {
  return name.replace(/^(\.\/)+/, '').replace(/\/$/, '');
}

function isSafe(path: string): boolean {
  const plain = /^[A-Za-z0-9._-]+(\/[A-Za-z0-9._-]+)*$/.test(path) && path.length <= 200;
  return plain && path.split('/').every((segment) => segment !== '..' && segment !== '.');
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw refused(`holds a ${MANIFEST_FILE} that is not UTF-8`, 'Save it as UTF-8', error);
  }
}

function show(name: string): string {
  return JSON.stringify(name.slice(0, 100));
}

function refused(problem: string, fix: string, cause?: unknown): NoaError {
  return new NoaError('INVALID_ARGUMENT', `The bundle ${problem}. ${fix}.`, { cause });
}

function tooLarge(verb: string, bound: string): NoaError {
  const message = `The bundle ${verb} more than ${bound}. Make it smaller.`;
  return new NoaError('PAYLOAD_TOO_LARGE', message);
}
