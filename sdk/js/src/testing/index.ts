/**
 * Tests of plugins. `createTestHost` stands in for the host at two levels, with one form of call: the
 * handlers run natively, or the built module runs under the host's real loader. Invariant: both levels
 * check inputs, outputs, sizes, deadlines and rights by the manifest, and fail with the host's codes.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import path from 'node:path';
import { NoaError, type ErrorCode } from '../errors.ts';
import type { PluginContract, PluginDefinition } from '../guest/define.ts';
import type { Json } from '../json.ts';
import { effectiveLimits, type Manifest } from '../manifest.ts';
import { parseManifest } from '../manifest-parse.ts';
import { jsonExcess } from '../json-text.ts';
import { compileSchema, type CompiledSchema } from '../schema.ts';
import { FakeDoor, type CapabilityCall, type LogLine } from './door.ts';
import type { FakeBlob, FakeSecrets } from './fake-storage.ts';
import { copy, type FakeCache, type FakeDb, type FakePlugins } from './fakes.ts';
import type { FakeEvents } from './fake-events.ts';
import type { FakeModels } from './fake-models.ts';
import type { FakeVectors } from './fake-vectors.ts';
import type { FakeHttp } from './fake-http.ts';
import { moduleRunner } from './module.ts';
import { nativeRunner, type Run } from './native.ts';

export { provideLoader, type LoaderFactory, type TestLoader, type TestRuntime } from './loader.ts';
export type { FakeEvents } from './fake-events.ts';
export type { FakeModels } from './fake-models.ts';
export type { FakeVectors } from './fake-vectors.ts';
export type { FakeAnswer, FakeHttp, SentRequest } from './fake-http.ts';
export type { CapabilityCall, LogLine } from './door.ts';
export type { FakeBlob, FakeSecrets } from './fake-storage.ts';
export type { FakeCache, FakeDb, FakePlugins, RanStatement, SqlAnswer } from './fakes.ts';

export interface TestHostOptions<Plugin extends PluginContract> {
  /** The plugin's folder: where plugin.json is. */
  readonly folder: string | URL;
  /** The default export of `src/index.ts`, to run natively; absent, the built module runs. */
  readonly plugin?: PluginDefinition<Plugin>;
  /** The plugin's configuration; checked against the manifest, which fills in its defaults. */
  readonly config?: Partial<Plugin['config']>;
  /** Where the clock stands, in milliseconds since the epoch; it moves by `clock.advance` only. */
  readonly now?: number;
  /** Another seed gives the handlers other random bytes. */
  readonly seed?: string;
}

type Exports<Plugin extends PluginContract> = Plugin['exports'];

export interface TestHost<Plugin extends PluginContract> {
  /** Calls an export as the host does: input checked, run, output checked. Rejects with NoaError. */
  call<Name extends keyof Exports<Plugin> & string>(
    exportName: Name,
    input: Parameters<Exports<Plugin>[Name]>[0],
  ): Promise<ReturnType<Exports<Plugin>[Name]>>;
  /** The same for what no type allows: what a careless client would send. */
  callUnchecked(exportName: string, input: Json): Promise<Json>;
  readonly db: FakeDb;
  readonly cache: FakeCache;
  readonly blob: FakeBlob;
  readonly secrets: FakeSecrets;
  readonly http: FakeHttp;
  readonly events: FakeEvents;
  readonly plugin: FakePlugins;
  readonly models: FakeModels;
  /** Collections of `vector`. */
  readonly vectors: FakeVectors;
  /** Every capability call of the plugin so far, logs apart. */
  readonly calls: readonly CapabilityCall[];
  /** Every value that exports with `stream: true` have emitted so far; `call` answers their result alone. */
  readonly emitted: readonly Json[];
  /** Every line that the plugin logged. */
  readonly log: readonly LogLine[];
  /** Refuses a right (`db` or `db.execute`) from now on with CAPABILITY_DENIED, or no longer. */
  deny(right: string): void;
  allow(right: string): void;
  /** The clock of natively run handlers and of the cache. The built module reads the machine's clock. */
  readonly clock: { now(): number; advance(ms: number): void };
  /** Ends the module and its workers. */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * A host for one plugin under test. Rejects with NoaError when the manifest, the configuration or the
 * built module is wrong.
 */
export async function createTestHost<Plugin extends PluginContract>(
  options: TestHostOptions<Plugin>,
): Promise<TestHost<Plugin>> {
  const folder = options.folder instanceof URL ? fileURLToPath(options.folder) : options.folder;
  const manifest = parseManifest(await readFile(path.join(folder, 'plugin.json'), 'utf8'));
  let now = options.now ?? Date.UTC(2026, 0, 1);
  const clock = {
    now: () => now,
    advance: (ms: number) => {
      now += ms;
    },
  };
  const door = new FakeDoor(manifest, clock.now);
  const config = checkedConfig(manifest, options.config ?? {});
  const { run, close } =
    options.plugin === undefined
      ? await moduleRunner(folder, config, door)
      : nativeRunner(options.plugin, {
          door,
          config,
          now: clock.now,
          seed: options.seed ?? manifest.name,
        });
  const callUnchecked = checked(manifest, run);
  return {
    call: async (exportName, input) =>
      (await callUnchecked(exportName, input)) as ReturnType<Exports<Plugin>[typeof exportName]>,
    callUnchecked,
    db: door.db,
    cache: door.cache,
    blob: door.blob,
    secrets: door.secrets,
    http: door.http,
    events: door.events,
    models: door.models,
    vectors: door.vectors,
    plugin: door.plugin,
    calls: door.calls,
    emitted: door.emitted,
    log: door.lines,
    deny: (right) => door.deny(right),
    allow: (right) => door.allow(right),
    clock,
    close,
    [Symbol.asyncDispose]: close,
  };
}

function checkedConfig(manifest: Manifest, given: object): Json {
  const config = copy(given);
  const [broken] = manifest.config
    ? compileSchema(manifest.config, { defaults: true })(config)
    : [];
  if (broken === undefined) return config;
  const message = `the configuration breaks the schema: ${broken.path || '(root)'} ${broken.message}`;
  throw new NoaError('INVALID_ARGUMENT', message);
}

/** Puts the host's checks around a run: the same order, codes and words. */
function checked(
  manifest: Manifest,
  run: Run,
): (exportName: string, input: unknown) => Promise<Json> {
  const limits = effectiveLimits(manifest);
  const exports = new Map(
    Object.entries(manifest.exports).map(([name, { input, output, timeoutMs }]) => [
      name,
      {
        checkInput: input && compileSchema(input),
        checkOutput: output && compileSchema(output),
        timeoutMs: timeoutMs ?? limits.timeoutMs,
      },
    ]),
  );
  return async (exportName, value) => {
    const target = exports.get(exportName);
    if (target === undefined) {
      const known = [...exports.keys()].join(', ');
      throw new NoaError(
        'NOT_FOUND',
        `plugin ${manifest.name} has no export ${exportName}; it has ${known}`,
      );
    }
    const input = copy(value);
    const given = JSON.stringify(input);
    if (Buffer.byteLength(given) > limits.maxInputBytes) {
      throw new NoaError('PAYLOAD_TOO_LARGE', 'the input is over limits.maxInputBytes');
    }
    bound(given, 'INVALID_ARGUMENT', 'the input');
    check(target.checkInput, input, 'INVALID_ARGUMENT', 'the input breaks the schema');
    const output = await run(exportName, input, target.timeoutMs);
    const answered = JSON.stringify(output);
    if (Buffer.byteLength(answered) > limits.maxOutputBytes) {
      throw new NoaError('PLUGIN_OUTPUT_INVALID', 'the output is over limits.maxOutputBytes');
    }
    bound(answered, 'PLUGIN_OUTPUT_INVALID', 'the output');
    check(
      target.checkOutput,
      output,
      'PLUGIN_OUTPUT_INVALID',
      'the plugin broke its output schema',
    );
    return output;
  };
}

function bound(text: string, code: ErrorCode, what: string): void {
  const excess = jsonExcess(text);
  if (excess !== undefined) throw new NoaError(code, `${what} ${excess}`);
}

function check(
  schema: CompiledSchema | undefined,
  value: Json,
  code: ErrorCode,
  title: string,
): void {
  const broken = schema?.(value) ?? [];
  if (broken.length === 0) return;
  const text = broken.map(({ path: at, message }) => `${at || '(root)'} ${message}`).join('; ');
  throw new NoaError(code, `${title}: ${text}`, { details: broken });
}
