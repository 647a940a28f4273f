/** What the suites of the WebAssembly loader share: the kit, assembling, loading and calling it. */
import { readFileSync } from 'node:fs';
import { DEFAULT_LIMITS, NoaError } from '@noa/sdk/host';
import type { Json, Limits, Manifest } from '@noa/sdk/host';
import type { Test } from 'tap';
import wabtFactory from 'wabt';
import type { Harm, Loader, LogLevel, Runtime, RuntimeCall } from '../../host/kernel/loader.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import type { WasmLoaderOptions } from '../../host/loaders/wasm/loader.ts';

const wabt = await wabtFactory();

export function assemble(wat: string, features: object = {}): Uint8Array {
  const module = wabt.parseWat('test.wat', wat, {
    exceptions: true,
    reference_types: true,
    bulk_memory: true,
    ...features,
  });
  try {
    return module.toBinary({}).buffer;
  } finally {
    module.destroy();
  }
}

const source = readFileSync(new URL('./kit.wat', import.meta.url), 'utf8');
export const KIT = assemble(source);
export const KIT_EXPORTS = [...source.matchAll(/\(func (?:\$\w+ )?\(export "(\w+)"\)/g)].map(
  (match) => String(match[1]),
);

export function manifestOf(exports: readonly string[], name = 'kit'): Manifest {
  return {
    name,
    version: '1.0.0',
    runtime: { kind: 'wasm', file: 'kit.wasm' },
    exports: Object.fromEntries(exports.map((key) => [key, {}])),
  };
}

let create: (options: WasmLoaderOptions) => Loader = createWasmLoader;
let apart = false;

/**
 * Has the suites run through another loader of the same contract, one under which no two plugins share
 * a thread. Called before they are imported.
 */
export function useLoaderApart(make: (options: WasmLoaderOptions) => Loader): void {
  create = make;
  apart = true;
}

/** Whether a plugin has what it runs on to itself. */
export function isApart(): boolean {
  return apart;
}

/** Another plugin that shares the threads of this one or, where none does, this one itself. */
export async function neighbour(
  of: Runtime,
  into: Loader,
  name: string,
  setup: Setup = {},
): Promise<Runtime> {
  return apart ? of : load(into, { ...setup, name });
}

/** A loader of one serving thread that is closed with the test. */
export function loader(test: Test, options: WasmLoaderOptions = {}): Loader {
  const made = create({ threads: 1, ...options });
  test.teardown(() => made.close());
  return made;
}

/** The kit with a source map that takes long to read. */
const STALLING = ((): Uint8Array => {
  const map = { version: 3, sources: ['a.ts'], names: [], mappings: 'AAAA,'.repeat(1_500_000) };
  const name = Buffer.from('noa.sourcemap');
  const content = Buffer.concat([Buffer.of(name.length), name, Buffer.from(JSON.stringify(map))]);
  const size = Buffer.from(
    [0, 7, 14, 21].map((by) => ((content.length >> by) & 127) | (by < 21 ? 128 : 0)),
  );
  return Buffer.concat([KIT, Buffer.of(0), size, content]);
})();

/** Holds its worker for some 300 ms in the host's own code, where no guest asks for fuel. */
export function stall(runtime: Runtime, options: CallOptions = {}): Promise<string> {
  const error = { message: 'stalled', stack: 'Error: stalled\n    at f (plugin.js:1:9)' };
  return call(runtime, 'fail', JSON.stringify(error), options);
}

export interface Setup {
  readonly wasm?: 'kit' | 'stalling';
  readonly name?: string;
  readonly limits?: Partial<Limits>;
  readonly config?: Json;
  readonly log?: (level: LogLevel, message: string) => void;
  readonly harmed?: (what: Harm) => void;
}

/** Loads the kit. */
export function load(into: Loader, setup: Setup = {}): Promise<Runtime> {
  const name = setup.name ?? 'kit';
  return into.load({
    plugin: name,
    generation: 1,
    manifest: manifestOf(KIT_EXPORTS, name),
    limits: { ...DEFAULT_LIMITS, ...setup.limits },
    wasm: setup.wasm === 'stalling' ? STALLING : KIT,
    config: setup.config ?? {},
    log: setup.log ?? (() => undefined),
    harmed: setup.harmed ?? (() => undefined),
  });
}

export interface CallOptions {
  readonly ms?: number;
  readonly signal?: AbortSignal;
  readonly invoke?: RuntimeCall['invoke'];
  readonly idempotent?: boolean;
}

const never = new AbortController().signal;

export function call(
  runtime: Runtime,
  name: string,
  input = '',
  { ms = 8000, signal = never, invoke = deny, idempotent = false }: CallOptions = {},
): Promise<string> {
  const deadline = Date.now() + ms;
  return runtime.call({ export: name, input, deadline, signal, invoke, idempotent });
}

function deny(): Promise<unknown> {
  return Promise.reject(new NoaError('CAPABILITY_DENIED', 'denied'));
}

/** The NoaError that a promise rejects with. */
export async function refusal(promise: Promise<unknown>): Promise<NoaError> {
  const error: unknown = await promise.then(
    (value) => `answered ${JSON.stringify(value)}`,
    (reason: unknown) => reason,
  );
  if (error instanceof NoaError) return error;
  throw new Error('expected a NoaError', { cause: error });
}

export function request(args: Json): string {
  return JSON.stringify({ capability: 'test', operation: 'run', arguments: args });
}

/** A capability that never answers, and says when it was called and when its work was aborted. */
export function hanging(): {
  invoke: (c: string, o: string, i: unknown, signal: AbortSignal) => Promise<unknown>;
  called: Promise<void>;
  aborted: Promise<unknown>;
  answer: (value: unknown) => void;
} {
  const called = Promise.withResolvers<void>();
  const aborted = Promise.withResolvers<unknown>();
  const reply = Promise.withResolvers<unknown>();
  return {
    invoke: (_capability, _operation, _input, signal) => {
      signal.addEventListener('abort', () => aborted.resolve(signal.reason));
      called.resolve();
      return reply.promise;
    },
    called: called.promise,
    aborted: aborted.promise,
    answer: reply.resolve,
  };
}
