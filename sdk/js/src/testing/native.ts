/** Handlers run in this process: ports over the fakes, with the clock and the randomness of the test. */
import { createHash } from 'node:crypto';
import { NoaError } from '../errors.ts';
import type { Context, PluginContract, PluginDefinition } from '../guest/define.ts';
import type { Json } from '../json.ts';
import { withFetch } from '../native-fetch.ts';
import { makePorts } from '../native-ports.ts';
import type { Capabilities, Log, Random } from '../ports.ts';
import type { FakeDoor } from './door.ts';
import { copy } from './fakes.ts';

/** Runs one export on a JSON value and answers its JSON output; rejects with the NoaError of a caller. */
export type Run = (exportName: string, input: Json, timeoutMs: number) => Promise<Json>;

export interface Runner {
  readonly run: Run;
  readonly close: () => Promise<void>;
}

export interface Surroundings {
  readonly door: FakeDoor;
  readonly config: Json;
  readonly now: () => number;
  readonly seed: string;
}

export function nativeRunner<Plugin extends PluginContract>(
  { handlers }: PluginDefinition<Plugin>,
  surroundings: Surroundings,
): Runner {
  const context = makeContext(surroundings);
  const run: Run = async (exportName, input, timeoutMs) => {
    const handler: unknown = Reflect.get(handlers, exportName);
    if (typeof handler !== 'function') {
      const message = `definePlugin has no handler for the export ${exportName} of plugin.json`;
      throw new NoaError('INVALID_ARGUMENT', message);
    }
    const handled = withFetch(context.http, () => start(handler, input, context));
    return toOutput(exportName, await settled(handled, timeoutMs));
  };
  return { run, close: async () => {} };
}

async function start(handler: object, input: Json, context: unknown): Promise<unknown> {
  return Reflect.apply(handler as (...args: unknown[]) => unknown, undefined, [input, context]);
}

async function settled(handled: Promise<unknown>, timeoutMs: number): Promise<unknown> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new NoaError('DEADLINE_EXCEEDED', `the call took longer than ${timeoutMs} ms`));
  }, timeoutMs);
  try {
    return await Promise.race([handled, late.promise]);
  } catch (error) {
    if (error instanceof NoaError) throw error;
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    throw new NoaError('PLUGIN_TRAP', `The plugin reported: ${text}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

function toOutput(exportName: string, value: unknown): Json {
  try {
    return copy(value);
  } catch (error) {
    const message = `what '${exportName}' answered is not JSON: ${String(error)}`;
    throw new NoaError('PLUGIN_OUTPUT_INVALID', message, { cause: error });
  }
}

function makeContext({
  door,
  config,
  now,
  seed,
}: Surroundings): Capabilities & Omit<Context<PluginContract>, 'plugin'> {
  return {
    ...makePorts((capability, operation, args) => door.invoke(capability, operation, args)),
    config: freeze(copy<{ [key: string]: Json }>(config)),
    log: makeLog(door),
    clock: { now },
    random: seededRandom(seed),
  };
}

function makeLog(door: FakeDoor): Log {
  const write =
    (level: string) =>
    (message: string, fields?: Record<string, unknown>): void => {
      door.write({
        level,
        message: String(message),
        ...(fields && { fields: copy<Json>(fields) }),
      });
    };
  return { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') };
}

/** The same seed gives the same bytes, in order of use. */
function seededRandom(seed: string): Random {
  let used = 0;
  const bytes = (length: number): Uint8Array<ArrayBuffer> => {
    if (!(length >= 0 && length <= 65_536)) {
      throw new RangeError('random.bytes: length is from 0 to 65536');
    }
    const filled = new Uint8Array(length);
    for (let at = 0; at < length; at += 32) {
      used += 1;
      const block = createHash('sha256').update(`${seed} ${used}`).digest();
      filled.set(block.subarray(0, length - at), at);
    }
    return filled;
  };
  const uuid = (): string => {
    const id = bytes(16);
    id[6] = ((id[6] ?? 0) & 0x0f) | 0x40;
    id[8] = ((id[8] ?? 0) & 0x3f) | 0x80;
    return Buffer.from(id)
      .toString('hex')
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  };
  return { bytes, uuid };
}

function freeze<Value>(value: Value): Value {
  if (typeof value === 'object' && value !== null) {
    for (const inner of Object.values(value)) freeze<unknown>(inner);
    Object.freeze(value);
  }
  return value;
}
