/** A plugin's folder as its author edits it: the manifest, the generated types, and what a build makes. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { generateTypes } from '@noa/sdk/author';
import { effectiveLimits, type Manifest, NoaError, parseManifest } from '@noa/sdk/host';
import { buildPlugin } from '@noa/sdk/build';
import { checkTypes } from './typescript.ts';

export const TYPES_FILE = 'src/noa.gen.ts';

export interface Built {
  readonly name: string;
  readonly version: string;
  /** Of the module. */
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly exports: readonly string[];
  readonly milliseconds: number;
  readonly warnings: readonly string[];
}

/** Throws NoaError NOT_FOUND when there is no plugin.json, INVALID_ARGUMENT when it is wrong. */
export async function readManifest(dir: string): Promise<Manifest> {
  const file = path.join(dir, 'plugin.json');
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    const fix = 'Go to the folder of a plugin, name it, or make one: noa plugin new NAME';
    throw new NoaError('NOT_FOUND', `There is no ${file}. ${fix}`, { cause: error });
  });
  return parseManifest(text);
}

/** Writes `src/noa.gen.ts`, and leaves it alone when it is as it should be. Answers whether it changed. */
export async function writeTypes(dir: string, manifest: Manifest): Promise<boolean> {
  const file = path.join(dir, TYPES_FILE);
  const text = generateTypes(manifest);
  const before = await readFile(file, 'utf8').catch(() => undefined); // absent, or about to be replaced
  if (before === text) return false;
  await replaceFile(file, text);
  return true;
}

export interface BuildPlan {
  readonly dir: string;
  /** Where the module goes; `runtime.file` of the manifest when absent. */
  readonly out?: string | undefined;
  /** What the TypeScript check looks at. */
  readonly check: 'nothing' | 'sources' | 'sources and tests';
}

/**
 * Types, then the TypeScript check beside the bundling, then the module. The module is written when all
 * of it went well, and whole. Throws NoaError INVALID_ARGUMENT with what is wrong in the plugin.
 */
export async function build({ dir, out, check }: BuildPlan): Promise<Built> {
  const started = performance.now();
  const manifest = await readManifest(dir);
  await writeTypes(dir, manifest);
  const [types, module] = await Promise.allSettled([
    check === 'nothing' ? undefined : checkTypes(dir, { tests: check === 'sources and tests' }),
    buildPlugin({
      dir,
      exports: Object.keys(manifest.exports),
      memoryMiB: effectiveLimits(manifest).memoryMiB,
    }),
  ]);
  // A mistake that both see is said best by the compiler.
  if (types.status === 'rejected') throw types.reason;
  if (module.status === 'rejected') throw module.reason;
  const { wasm, bytes, sha256, exports, warnings } = module.value;
  const file = out ?? path.join(dir, manifest.runtime.file);
  await replaceFile(file, wasm);
  const { name, version } = manifest;
  const milliseconds = Math.round(performance.now() - started);
  return { name, version, file, bytes, sha256, exports, milliseconds, warnings };
}

/** Writes a file whole or not at all, and makes its folder. */
export async function replaceFile(file: string, content: string | Uint8Array): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  const fresh = `${file}.${process.pid}.new`;
  await writeFile(fresh, content);
  await rename(fresh, file);
}
