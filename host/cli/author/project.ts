/** A plugin's folder as its author edits it: the manifest, the generated types, and what a build makes. */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { generateTypes } from '@noa/sdk/author';
import { effectiveLimits, type Manifest, NoaError, parseManifest } from '@noa/sdk/host';
import { buildPlugin } from '@noa/sdk/build';
import { builtinContracts } from '../../builtin.ts';
import { judgeManifest } from '../../kernel/judge.ts';
import { admit } from '../../loaders/wasm/admission.ts';
import { COMPILERS, type Language, languageOf } from './language.ts';
import type { Compiled } from './tool.ts';
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

/**
 * The manifest as its author wrote it. Throws NoaError NOT_FOUND when there is no plugin.json,
 * INVALID_ARGUMENT when it is wrong, or when an installation would refuse it.
 */
export async function readManifest(dir: string): Promise<Manifest> {
  const file = path.join(dir, 'plugin.json');
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    const fix = 'Go to the folder of a plugin, name it, or make one: noa plugin new NAME';
    throw new NoaError('NOT_FOUND', `There is no ${file}. ${fix}`, { cause: error });
  });
  const manifest = parseManifest(text);
  judgeManifest(manifest, builtinContracts);
  return manifest;
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

/** What a host that is not told otherwise installs. */
const MAX_MODULE_BYTES = 32 << 20;

/**
 * Makes the module from the sources, in whatever language. It is written when all went well, and whole.
 * Throws NoaError INVALID_ARGUMENT with what is wrong in the plugin, NOT_FOUND when a tool is missing.
 */
export async function build({ dir, out, check }: BuildPlan): Promise<Built> {
  const started = performance.now();
  const manifest = await readManifest(dir);
  const { kind, file: module } = manifest.runtime;
  if (kind !== 'wasm') {
    const fix =
      kind === 'native'
        ? 'bundle the sources into that file yourself, then noa plugin pack'
        : 'it is a part of the host, and nothing of it is built';
    const words = `runtime.kind: ${kind}, and this builds WebAssembly; ${fix}`;
    throw new NoaError('INVALID_ARGUMENT', words);
  }
  const language = languageOf(dir);
  const { wasm, warnings } =
    language === 'ts'
      ? await compileTypeScript(dir, manifest, check)
      : await compileOther(language, dir, manifest);
  const file = out ?? path.join(dir, module);
  await replaceFile(file, wasm);
  return {
    name: manifest.name,
    version: manifest.version,
    file,
    bytes: wasm.length,
    sha256: createHash('sha256').update(wasm).digest('hex'),
    exports: Object.keys(manifest.exports),
    milliseconds: Math.round(performance.now() - started),
    warnings,
  };
}

/** Types, then the TypeScript check beside the bundling. */
async function compileTypeScript(
  dir: string,
  manifest: Manifest,
  check: BuildPlan['check'],
): Promise<Compiled> {
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
  return module.value;
}

/** What a host would say of the module at installation, its author hears now. */
async function compileOther(
  language: Exclude<Language, 'ts'>,
  dir: string,
  manifest: Manifest,
): Promise<Compiled> {
  const module = await COMPILERS[language](dir, manifest);
  admit(manifest, effectiveLimits(manifest), module.wasm, MAX_MODULE_BYTES);
  return module;
}

/** Writes a file whole or not at all, and makes its folder. */
export async function replaceFile(file: string, content: string | Uint8Array): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  const fresh = `${file}.${process.pid}.new`;
  await writeFile(fresh, content);
  await rename(fresh, file);
}
