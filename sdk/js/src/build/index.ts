/**
 * From a plugin's TypeScript to one WebAssembly module: esbuild makes one script, the engine compiles it
 * to bytecode, a second instance runs its top level, and a snapshot of that instance is the module. The
 * same sources, options and SDK give the same bytes.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readFile, realpath, rename, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { NoaError } from '../errors.ts';
import { mapFrames, mapStack } from '../stack.ts';
import { bundle } from './bundle.ts';
import { type Attempt, GuestError, Machine } from './machine.ts';
import { snapshot } from './snapshot.ts';
import { customSection } from './wasm.ts';

export { noNode } from './bundle.ts';

export interface BuildOptions {
  /** The plugin's folder. */
  readonly dir: string;
  /** Relative to `dir`; `src/index.ts` when absent. */
  readonly entry?: string;
  /** The names of the manifest's exports. */
  readonly exports: readonly string[];
  /** The most linear memory an instance may ever have (the manifest's `limits.memoryMiB`). */
  readonly memoryMiB: number;
  /** Relative to `dir`; nothing is written when absent. */
  readonly outFile?: string;
}

export interface BuildResult {
  readonly wasm: Uint8Array<ArrayBuffer>;
  /** Of `wasm`, in hexadecimal. */
  readonly sha256: string;
  readonly bytes: number;
  /** In alphabetical order. */
  readonly exports: readonly string[];
  readonly durationMs: number;
  readonly warnings: readonly string[];
}

/** The custom section with the source map of the bundle; see `mapStack`. */
export const SOURCE_MAP_SECTION = 'noa.sourcemap';

const PAGES_PER_MIB = 16;

/**
 * Builds a plugin. Rejects with NoaError INVALID_ARGUMENT for whatever is wrong in the plugin: a file
 * that does not parse or resolve, handlers and manifest that do not agree, a top level that throws or
 * asks the host for something. The message has one `file:line:column: text` for each.
 */
export async function buildPlugin(options: BuildOptions): Promise<BuildResult> {
  const started = performance.now();
  // Real, for esbuild names files by their real places.
  const dir = await realpath(options.dir).catch((error: unknown) => {
    throw refuse([`${options.dir}: no such folder`], error);
  });
  const exports = checkNames(options.exports);
  const [script, engine] = await Promise.all([
    bundle(dir, options.entry ?? 'src/index.ts'),
    loadEngine(),
  ]);
  const machine = new Machine(engine.module);
  const handlers = evaluate(machine, new Machine(engine.module).compile(script.code), script.map);
  agree(exports, handlers);
  const wasm = snapshot({
    engine: engine.bytes,
    instance: machine.instance,
    exports: exports.map((name) => ({ name, index: handlers.indexOf(name) })),
    maxPages: checkMemory(options.memoryMiB, machine.instance),
    custom: [customSection(SOURCE_MAP_SECTION, script.map)],
  });
  if (options.outFile !== undefined) {
    const file = resolve(dir, options.outFile);
    await mkdir(dirname(file), { recursive: true });
    // Somebody may be packing the file that is replaced: they get the old module or the new one.
    const fresh = `${file}.${randomUUID()}`;
    await writeFile(fresh, wasm);
    await rename(fresh, file);
  }
  return {
    wasm,
    sha256: createHash('sha256').update(wasm).digest('hex'),
    bytes: wasm.length,
    exports,
    durationMs: performance.now() - started,
    warnings: [...script.warnings, ...logged(machine.attempts, script.map)],
  };
}

interface Engine {
  readonly bytes: Uint8Array;
  readonly module: WebAssembly.Module;
}

let loaded: Engine | undefined;

/** The engine, compiled once a process. */
async function loadEngine(): Promise<Engine> {
  if (loaded === undefined) {
    const bytes = await readFile(new URL('../engine.wasm', import.meta.url)).catch(
      (cause: unknown) => {
        throw new Error('@noa/sdk has no engine: run `npm run build` in its repository', { cause });
      },
    );
    loaded = { bytes, module: await WebAssembly.compile(bytes) };
  }
  return loaded;
}

/** Runs the top level and answers the handlers' names in the order of their numbers. */
function evaluate(machine: Machine, bytecode: Uint8Array, map: string): string[] {
  try {
    machine.run(bytecode);
  } catch (error) {
    if (!(error instanceof GuestError)) throw error;
    const stack = mapStack(error.guestStack, map);
    throw refuse([`${place(error.guestStack, map)}the top level threw ${error.message}\n${stack}`]);
  }
  const used = machine.attempts.filter(({ capability }) => capability !== 'log');
  if (used.length > 0) {
    throw refuse(
      used.map(
        ({ capability, stack }) =>
          `${place(stack, map)}the top level uses '${capability}', and it runs once, at build time: ` +
          'move this into a handler',
      ),
    );
  }
  const names = JSON.parse(
    machine.evaluate(
      '(({ __noa_handlers }) => (delete globalThis.__noa_handlers, __noa_handlers))(globalThis)',
    ),
  ) as string[];
  machine.collectGarbage();
  return names;
}

function logged(attempts: readonly Attempt[], map: string): string[] {
  return attempts
    .filter(({ capability }) => capability === 'log')
    .map(({ text, stack }) => `${place(stack, map)}logged at build time: ${text}`);
}

/** `src/index.ts:3:7: `, of the innermost frame that is the plugin's own. */
function place(stack: string, map: string): string {
  const [frame] = mapFrames(stack, map);
  return frame === undefined ? '' : `${frame.source}:${frame.line}:${frame.column}: `;
}

function agree(exports: readonly string[], handlers: readonly string[]): void {
  const problems = [
    ...exports
      .filter((name) => !handlers.includes(name))
      .map((name) => `plugin.json exports '${name}', and definePlugin has no such handler`),
    ...handlers
      .filter((name) => !exports.includes(name))
      .map((name) => `definePlugin has a handler '${name}' that plugin.json does not export`),
  ];
  if (problems.length > 0) throw refuse(problems);
}

/** Names that the module or its loaders use for something else. */
const RESERVED = /^(memory|_start|_initialize|__wasm_call_ctors|hs_init|__noa_.*)$/;

function checkNames(names: readonly string[]): readonly string[] {
  const wrong = names.filter((name) => RESERVED.test(name) || name === '');
  if (wrong.length > 0) throw refuse(wrong.map((name) => `an export cannot be named '${name}'`));
  return [...new Set(names)].toSorted();
}

function checkMemory(memoryMiB: number, instance: WebAssembly.Instance): number {
  const maxPages = Math.floor(memoryMiB * PAGES_PER_MIB);
  const { memory } = instance.exports;
  const pages = memory instanceof WebAssembly.Memory ? memory.buffer.byteLength / 65_536 : 0;
  if (!(maxPages >= pages && maxPages <= 65_536)) {
    const least = Math.ceil((pages + 1) / PAGES_PER_MIB);
    throw refuse([`limits.memoryMiB is ${memoryMiB}: this plugin takes from ${least} to 4096`]);
  }
  return maxPages;
}

function refuse(problems: readonly string[], cause?: unknown): NoaError {
  return new NoaError('INVALID_ARGUMENT', problems.join('\n'), { cause });
}
