/**
 * Runs the vectors of sdk/conformance on one built plugin under the real loader. What the plugin asks of
 * capabilities is answered as the vector says; everything between the two is what a host runs.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { NoaError, effectiveLimits, parseManifest } from '@noa/sdk/host';
import type { ErrorCode, Json } from '@noa/sdk/host';
import type { Test } from 'tap';
import { builtinBytes } from '../../host/builtin.ts';
import type { LoadRequest, Loader, Runtime, RuntimeCall } from '../../host/kernel/loader.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import type { WasmLoaderOptions } from '../../host/loaders/wasm/loader.ts';

const VECTORS = join(import.meta.dirname, '../../sdk/conformance/vectors');
const CALL_MS = 20_000;
const GROWTH_BYTES = 2 << 20;

interface Failure {
  readonly code: ErrorCode;
  readonly message?: string;
  readonly details?: Json;
  readonly retryAfterMs?: number;
}

interface Ending {
  readonly output?: Json;
  readonly error?: Failure;
}

interface Answer {
  readonly value?: Json;
  readonly error?: Failure;
  readonly never?: true;
}

interface Line {
  readonly level: string;
  readonly message: string;
}

interface CapabilityCall {
  readonly capability: string;
  readonly operation: string;
  readonly arguments: Json;
}

interface Vector extends Ending {
  readonly name: string;
  readonly export: string;
  readonly input?: Json;
  readonly text?: string;
  readonly host?: { readonly [operation: string]: Answer };
  readonly anyOf?: readonly Ending[];
  readonly calls?: readonly CapabilityCall[];
  readonly logs?: readonly Line[];
  readonly config?: Json;
  readonly cancel?: true;
  readonly times?: number;
}

export interface Subject {
  /** For the reader of the report. */
  readonly name: string;
  /** Holds `plugin.json` and, at its `runtime.file`, the module. */
  readonly folder: string;
  /** What runs it; one thread of this process when absent. */
  readonly createLoader?: (options: WasmLoaderOptions) => Loader;
}

/** One subtest with one a file of vectors, one assertion a vector; closes what it starts. */
export async function runConformance(
  t: Test,
  { name, folder, createLoader = createWasmLoader }: Subject,
): Promise<void> {
  const loader = createLoader({ threads: 1, bytes: builtinBytes });
  await t.test(`${name} conforms`, (test) => runVectors(test, folder, loader));
}

async function runVectors(t: Test, folder: string, loader: Loader): Promise<void> {
  const manifest = parseManifest(readFileSync(join(folder, 'plugin.json'), 'utf8'));
  const wasm = readFileSync(join(folder, manifest.runtime.file ?? ''));
  const limits = effectiveLimits(manifest);
  const lines: Line[] = [];
  const log: LoadRequest['log'] = (level, message) => lines.push({ level, message });
  const load = (config: Json, generation: number): Promise<Runtime> =>
    loader.load({ plugin: manifest.name, generation, manifest, limits, wasm, config, log });
  try {
    await loader.inspect(manifest, limits, wasm);
    const runtime = await load({}, 1);
    let generation = 1;
    for (const file of readdirSync(VECTORS)) {
      const text = readFileSync(join(VECTORS, file), 'utf8');
      const { about, vectors } = JSON.parse(text) as { about: string; vectors: Vector[] };
      await t.test(about, async (test) => {
        for (const vector of vectors) {
          lines.length = 0;
          const { config } = vector;
          const subject = config === undefined ? runtime : await load(config, (generation += 1));
          const problem = await violation(subject, expand(vector), lines);
          test.equal(problem, undefined, vector.name);
          if (subject !== runtime) await subject.stop();
        }
      });
    }
  } finally {
    await loader.close();
  }
}

/** What the vector forbids and the plugin did; undefined when it conforms. */
async function violation(
  runtime: Runtime,
  vector: Vector,
  lines: readonly Line[],
): Promise<string | undefined> {
  const { times = 1 } = vector;
  let memory = 0;
  let before: Ending | undefined;
  for (let turn = 1; turn <= times; turn += 1) {
    const host = new Host(vector);
    const ending = await run(runtime, vector, host);
    const allowed = vector.anyOf ?? [vector];
    if (!allowed.some((one) => ends(ending, one, before))) {
      return `ended with ${short(ending)}, expected ${short(vector.anyOf ?? allowed.map(({ output, error }) => ({ output, error })))}`;
    }
    before = ending;
    const missing = (vector.calls ?? []).find((call) => !host.calls.some((c) => made(c, call)));
    if (missing !== undefined) return `did not make ${short(missing)} but ${short(host.calls)}`;
    if (turn === Math.ceil(times / 10)) memory = runtime.stats().memoryBytes;
  }
  const growth = runtime.stats().memoryBytes - memory;
  if (growth > GROWTH_BYTES) return `${times} calls took ${growth} bytes of memory and kept them`;
  if (vector.cancel === true) {
    const after = await run(runtime, { name: 'after', export: 'echo', input: 1 }, undefined);
    if (after.output !== 1) return `the call after it ended with ${short(after)}`;
  }
  const unlogged = (vector.logs ?? []).find(
    (line) => !lines.some((l) => isDeepStrictEqual(l, line)),
  );
  return unlogged && `did not log ${short(unlogged)} but ${short(lines)}`;
}

/** Answers capability calls as the vector says, and keeps the bytes of the last blob. */
class Host {
  readonly calls: CapabilityCall[] = [];
  readonly #answers: NonNullable<Vector['host']>;
  readonly #waits = Promise.withResolvers<void>();
  #aborted = false;
  #blob = Buffer.alloc(0);

  constructor({ host = {} }: Vector) {
    this.#answers = host;
  }

  /** Resolves once a call is pending that is never answered. */
  get waits(): Promise<void> {
    return this.#waits.promise;
  }

  get aborted(): boolean {
    return this.#aborted;
  }

  readonly invoke: RuntimeCall['invoke'] = async (capability, operation, input, signal) => {
    this.calls.push({ capability, operation, arguments: input });
    const answer = this.#answers[`${capability}.${operation}`];
    if (answer?.never === true) {
      signal.addEventListener('abort', () => {
        this.#aborted = true;
      });
      this.#waits.resolve();
      return new Promise(() => undefined);
    }
    if (answer?.error !== undefined) {
      const { code, message = '', details, retryAfterMs } = answer.error;
      throw new NoaError(code, message, {
        details,
        ...(retryAfterMs !== undefined && { retryAfterMs }),
      });
    }
    if (answer !== undefined) return answer.value;
    if (capability === 'blob') return this.#keep(operation, input);
    throw new NoaError('CAPABILITY_DENIED', `the vector has no ${capability}.${operation}`);
  };

  #keep(operation: string, input: Json): Json {
    const { path, base64 } = input as { readonly path: string; readonly base64?: Json };
    if (path !== 'conformance') throw new NoaError('NOT_FOUND', `no blob ${path}`);
    if (operation === 'write') {
      if (typeof base64 !== 'string') throw new NoaError('INVALID_ARGUMENT', 'base64 is no text');
      this.#blob = Buffer.from(base64, 'base64');
      return { size: this.#blob.length, etag: '1' };
    }
    const reversed = Buffer.from(this.#blob).reverse().toString('base64');
    return { base64: reversed, size: this.#blob.length, etag: '1' };
  }
}

async function run(runtime: Runtime, vector: Vector, host: Host | undefined): Promise<Ending> {
  const caller = new AbortController();
  const ended = runtime
    .call({
      export: vector.export,
      input: vector.text ?? JSON.stringify(vector.input),
      deadline: Date.now() + CALL_MS,
      signal: caller.signal,
      invoke: host?.invoke ?? (() => Promise.reject(new NoaError('CAPABILITY_DENIED', 'no host'))),
    })
    .then(
      (output): Ending => ({ output: JSON.parse(output) as Json }),
      (error: unknown): Ending => {
        if (!(error instanceof NoaError)) throw error;
        const { code, message, details, retryAfterMs } = error;
        return {
          error: {
            code,
            message,
            ...(details !== undefined && { details: details as Json }),
            ...(retryAfterMs !== undefined && { retryAfterMs }),
          },
        };
      },
    );
  if (vector.cancel !== true || host === undefined) return ended;
  await Promise.race([host.waits, ended]);
  caller.abort();
  const ending = await ended;
  return host.aborted ? ending : { output: 'the host was not told that the call was given up' };
}

function ends(actual: Ending, wanted: Ending, before: Ending | undefined): boolean {
  if (wanted.error === undefined) {
    return 'output' in actual && equal(actual.output, wanted.output, before?.output);
  }
  const { code, message, details, retryAfterMs } = wanted.error;
  return (
    actual.error?.code === code &&
    (message === undefined || actual.error.message === message) &&
    actual.error.retryAfterMs === retryAfterMs &&
    (details === undefined || isDeepStrictEqual(actual.error.details, details))
  );
}

/** Equal as JSON; 0 and -0 are one number. */
function equal(actual: unknown, wanted: unknown, before: unknown): boolean {
  if (wanted === '$now')
    return typeof actual === 'number' && Math.abs(actual - Date.now()) < 10_000;
  if (wanted === '$random') {
    const byte = (each: unknown): boolean =>
      Number.isInteger(each) && Number(each) >= 0 && Number(each) < 256;
    return (
      Array.isArray(actual) &&
      actual.length === 16 &&
      actual.every(byte) &&
      !isDeepStrictEqual(actual, before) &&
      new Set(actual).size > 1
    );
  }
  if (typeof wanted !== 'object' || wanted === null) return actual === wanted;
  if (typeof actual !== 'object' || actual === null) return false;
  if (Array.isArray(actual) !== Array.isArray(wanted)) return false;
  const [mine, theirs] = [Object.entries(actual), new Map(Object.entries(wanted))];
  const last = new Map(Object.entries(before ?? {}));
  return (
    mine.length === theirs.size &&
    mine.every(([key, value]) => theirs.has(key) && equal(value, theirs.get(key), last.get(key)))
  );
}

function made(actual: CapabilityCall, wanted: CapabilityCall): boolean {
  if (actual.capability !== wanted.capability || actual.operation !== wanted.operation)
    return false;
  const given = new Map(Object.entries(actual.arguments ?? {}));
  return Object.entries(wanted.arguments ?? {}).every(([key, value]) =>
    equal(given.get(key), value, undefined),
  );
}

/** Replaces `$repeat`, `$nest` and `$list` by what they stand for. */
function expand<Value>(written: Value): Value {
  return grow(written) as Value; // The same shape: what is replaced stands where any JSON may.
}

function grow(written: unknown): unknown {
  if (typeof written !== 'object' || written === null) return written;
  if (Array.isArray(written)) return written.map(grow);
  const entries = Object.entries(written);
  const [[key, value] = ['', null]] = entries;
  if (entries.length !== 1 || !key.startsWith('$')) {
    return Object.fromEntries(entries.map(([name, inner]) => [name, grow(inner)]));
  }
  if (key === '$nest') {
    let nested: unknown[] = [];
    for (let depth = 1; depth < Number(value); depth += 1) nested = [nested];
    return nested;
  }
  const [item, count] = value as readonly [unknown, number];
  return key === '$repeat' ? String(item).repeat(count) : Array.from({ length: count }, () => item);
}

function short(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 300 ? `${text.slice(0, 300)}… (${text.length} characters)` : text;
}
