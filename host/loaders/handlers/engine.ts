/**
 * Runs the handlers of a plugin that has no sandbox, with the ports that handlers have there, over the
 * host's door. Invariant: a call's way to the door is shut when the call is over, so nothing that a handler
 * leaves behind reaches it.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { isErrorCode, type Json, makePorts, NoaError, toBody } from '@noa/sdk/host';
import type { LoadRequest, RuntimeCall, RuntimeStats } from '../../kernel/loader.ts';
import { failure, retryOf } from '../wasm/outcome.ts';
import type { PluginLog } from './log.ts';

type Handler = (input: Json, context: object) => unknown;
export type Handlers = ReadonlyMap<string, Handler>;
type Ports = ReturnType<typeof makePorts>;

export interface HandlerEngineOptions extends Pick<LoadRequest, 'config' | 'limits'> {
  readonly handlers: Handlers;
  readonly log: PluginLog;
  /** A call does one capability call at a time, as in the sandbox; else as many as it likes. */
  readonly isSequential: boolean;
  /** Of the JSON of one capability call; unbounded when absent. */
  readonly maxRequestBytes?: number;
  /** What surrounds a handler that runs. */
  readonly around: (ports: Ports, run: () => unknown) => unknown;
  /** Whether a line of a stack may be shown to the plugin's author. */
  readonly isOwnFrame: (line: string) => boolean;
  readonly stats: () => RuntimeStats;
}

/** Handlers at one time, those whose callers went away included, for each call that may run. */
const LEFT_BEHIND = 2;
const MAX_RANDOM_BYTES = 65_536;

/** The handlers of what a module has as its default export. Throws Error in words for its author. */
export function handlersOf(module: unknown, exports: readonly string[]): Handlers {
  const definition: unknown = isObject(module) ? Reflect.get(module, 'default') : undefined;
  const given: unknown = isObject(definition) ? Reflect.get(definition, 'handlers') : undefined;
  if (!isObject(given)) {
    throw new Error('the default export is no plugin: write `export default definePlugin({ … })`');
  }
  const handlers = exports.map((name): [string, Handler] => {
    const handler: unknown = Object.hasOwn(given, name) ? Reflect.get(given, name) : undefined;
    if (typeof handler !== 'function') {
      throw new Error(`definePlugin has no handler for the export ${name} of plugin.json`);
    }
    return [name, (...args) => Reflect.apply(handler, undefined, args) as unknown];
  });
  return new Map(handlers);
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

export class HandlerEngine {
  readonly #options: HandlerEngineOptions;
  /** What is the same in all calls. */
  readonly #surroundings: object;
  #running = 0;

  constructor(options: HandlerEngineOptions) {
    this.#options = options;
    const clock = { now: Date.now };
    const random = { bytes: takeRandom, uuid: randomUUID };
    const config = freeze(options.config);
    this.#surroundings = { config, log: options.log, clock, random };
  }

  stats(): RuntimeStats {
    return this.#options.stats();
  }

  /**
   * Settles when the handler has, also when nobody waits any more: whether it is ended before is the
   * host's decision, by the plugin's own limit.
   */
  async call(call: RuntimeCall): Promise<string> {
    const { handlers, limits, around } = this.#options;
    const handler = handlers.get(call.export);
    if (handler === undefined) {
      throw new NoaError('INVALID_ARGUMENT', `The plugin exports no ${call.export}.`);
    }
    if (this.#running >= LEFT_BEHIND * limits.concurrency) {
      const words = 'Handlers of the plugin whose callers went away are still running; try again.';
      throw new NoaError('RESOURCE_EXHAUSTED', words, { retryAfterMs: 1000 });
    }
    this.#running += 1;
    const door = openDoor(call, this.#options);
    try {
      const ports = makePorts(door.invoke);
      const context = { ...ports, ...this.#surroundings };
      const input = JSON.parse(call.input) as Json;
      const value = await around(ports, async () => handler(input, context));
      return this.#output(call.export, value);
    } catch (error) {
      throw asReported(error, this.#options.isOwnFrame);
    } finally {
      door.shut();
      this.#running -= 1;
    }
  }

  #output(name: string, value: unknown): string {
    let output: string;
    try {
      output = JSON.stringify(value) ?? 'null';
    } catch (error) {
      const words = `what '${name}' answered is not JSON: ${String(error)}`;
      throw new NoaError('PLUGIN_OUTPUT_INVALID', words, { cause: error });
    }
    const { maxOutputBytes } = this.#options.limits;
    const bytes = Buffer.byteLength(output);
    if (bytes <= maxOutputBytes) return output;
    const words = `The plugin's output has ${bytes} bytes; limits.maxOutputBytes is ${maxOutputBytes}.`;
    throw new NoaError('PLUGIN_OUTPUT_INVALID', words);
  }
}

interface Door {
  readonly invoke: (capability: string, operation: string, args: object) => Promise<unknown>;
  readonly shut: () => void;
}

function openDoor(
  call: RuntimeCall,
  { isSequential, maxRequestBytes = Infinity }: HandlerEngineOptions,
): Door {
  const over = Promise.withResolvers<never>();
  over.promise.catch(() => undefined); // A call that waits for nothing has nobody to hear it.
  let open = true;
  const shut = (): void => {
    open = false;
    over.reject(new NoaError('UNAVAILABLE', 'The call is over, and so is its way to the host.'));
  };
  call.signal.addEventListener('abort', shut, { once: true });
  const ask = (capability: string, operation: string, args: object): Promise<unknown> => {
    if (!open) return over.promise;
    const bytes = maxRequestBytes === Infinity ? 0 : Buffer.byteLength(JSON.stringify(args));
    if (bytes > maxRequestBytes) {
      const words = `The request of ${capability}.${operation} has ${bytes} bytes, over ${maxRequestBytes}.`;
      return Promise.reject(new NoaError('RESOURCE_EXHAUSTED', words));
    }
    const answered = call.invoke(capability, operation, args as Json, call.signal);
    return Promise.race([answered, over.promise]);
  };
  if (!isSequential) return { shut, invoke: ask };
  let turn: Promise<unknown> = Promise.resolve();
  return {
    shut,
    invoke: (capability, operation, args) => {
      const asked = turn.then(() => ask(capability, operation, args));
      turn = asked.catch(() => undefined); // The handler hears of it; the next waits for its end only.
      return asked;
    },
  };
}

/**
 * As the sandbox reports it: a code that a plugin may choose, or PLUGIN_TRAP with the plugin's stack, of
 * which the frames outside the module are left out, because they name paths of the host.
 */
export function asReported(
  error: unknown,
  isOwnFrame: HandlerEngineOptions['isOwnFrame'],
): NoaError {
  const { stack, ...body } = toBody(ownError(error));
  const own = stack?.split('\n').filter((line) => !/^\s+at /.test(line) || isOwnFrame(line));
  return failure('error', JSON.stringify({ ...body, ...(own && { stack: own.join('\n') }) }));
}

/** A module that was bundled with a copy of the SDK throws that copy's errors. */
function ownError(error: unknown): unknown {
  if (error instanceof NoaError || !(error instanceof Error)) return error;
  if (error.name !== 'NoaError' || !('code' in error) || !isErrorCode(error.code)) return error;
  const details = 'details' in error ? error.details : undefined;
  const retry = 'retryAfterMs' in error ? retryOf({ retryAfterMs: error.retryAfterMs }) : {};
  return new NoaError(error.code, error.message, { details, ...retry, cause: error });
}

function takeRandom(length: number): Uint8Array {
  if (length >= 0 && length <= MAX_RANDOM_BYTES) return new Uint8Array(randomBytes(length));
  throw new RangeError(`random.bytes: length is from 0 to ${MAX_RANDOM_BYTES}`);
}

function freeze<Value>(value: Value): Value {
  if (typeof value !== 'object' || value === null) return value;
  for (const inner of Object.values(value)) freeze<unknown>(inner);
  return Object.freeze(value);
}
