/**
 * Runs the handlers of a native plugin in its own process, with the ports that handlers have in the
 * sandbox, over the host's door. Invariants: a call's way to the door is shut when the call is over, so
 * nothing that a handler leaves behind reaches it; a call does one capability call at a time.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { registerHooks } from 'node:module';
import {
  isErrorCode,
  type Json,
  type Limits,
  makePorts,
  NoaError,
  toBody,
  withFetch,
} from '@noa/sdk/host';
import type { LoadRequest, RuntimeCall, RuntimeStats } from '../../kernel/loader.ts';
import { failure } from '../wasm/outcome.ts';
import type { PluginLog } from './log.ts';

type Handler = (input: Json, context: object) => unknown;
export type Handlers = ReadonlyMap<string, Handler>;

/** Handlers at one time, those whose callers went away included, for each call that may run. */
const LEFT_BEHIND = 2;
const USAGE_MS = 1000;
const MAX_RANDOM_BYTES = 65_536;
const SDK = '@noa/sdk';
/** Of the module's address, which its stacks show. */
const SCHEME = 'noa-plugin:';

/**
 * Evaluates the module from the bytes that were checked: no file is read again. It may import what Node
 * has built in and `@noa/sdk`, which is the host's own. Rejects with PLUGIN_TRAP in the module's words.
 */
export async function importHandlers(request: LoadRequest): Promise<Handlers> {
  const source = Buffer.from(request.wasm).toString('utf8');
  const address = `${SCHEME}${request.plugin}.mjs`;
  const sdk = import.meta.resolve(SDK);
  const format = 'module';
  registerHooks({
    resolve(specifier, context, next) {
      if (specifier === address) return { url: address, format, shortCircuit: true };
      return specifier === SDK ? { url: sdk, shortCircuit: true } : next(specifier, context);
    },
    load: (url, context, next) =>
      url === address ? { format, source, shortCircuit: true } : next(url, context),
  });
  try {
    const module: unknown = await import(address);
    return handlersOf(module, Object.keys(request.manifest.exports));
  } catch (error) {
    throw asReported(error);
  }
}

function handlersOf(module: unknown, exports: readonly string[]): Handlers {
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

export class NativeEngine {
  readonly #handlers: Handlers;
  readonly #limits: Limits;
  readonly #requestBytes: number;
  /** What is the same in all calls. */
  readonly #surroundings: object;
  #running = 0;
  #stats: RuntimeStats = { instances: 1, memoryBytes: 0 };
  #measuredAt = -Infinity;

  constructor(request: LoadRequest, handlers: Handlers, log: PluginLog, requestBytes: number) {
    this.#handlers = handlers;
    this.#limits = request.limits;
    this.#requestBytes = requestBytes;
    const clock = { now: Date.now };
    const random = { bytes: takeRandom, uuid: randomUUID };
    this.#surroundings = { config: freeze(request.config), log, clock, random };
  }

  /** The whole process's memory, measured now and then. */
  stats(): RuntimeStats {
    const now = performance.now();
    if (now - this.#measuredAt >= USAGE_MS) {
      this.#measuredAt = now;
      this.#stats = { instances: 1, memoryBytes: process.memoryUsage.rss() };
    }
    return this.#stats;
  }

  /**
   * Settles when the handler has, also when nobody waits any more: whether it is ended before is the
   * host's decision, by the plugin's own limit.
   */
  async call(call: RuntimeCall): Promise<string> {
    const handler = this.#handlers.get(call.export);
    if (handler === undefined) {
      throw new NoaError('INVALID_ARGUMENT', `The plugin exports no ${call.export}.`);
    }
    if (this.#running >= LEFT_BEHIND * this.#limits.concurrency) {
      const words = 'Handlers of the plugin whose callers went away are still running; try again.';
      throw new NoaError('RESOURCE_EXHAUSTED', words, { retryAfterMs: 1000 });
    }
    this.#running += 1;
    const door = openDoor(call, this.#requestBytes);
    try {
      const ports = makePorts(door.invoke);
      const context = { ...ports, ...this.#surroundings };
      const input = JSON.parse(call.input) as Json;
      return this.#output(
        call.export,
        await withFetch(ports.http, async () => handler(input, context)),
      );
    } catch (error) {
      throw asReported(error);
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
    const { maxOutputBytes } = this.#limits;
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

function openDoor(call: RuntimeCall, maxBytes: number): Door {
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
    const bytes = Buffer.byteLength(JSON.stringify(args));
    if (bytes > maxBytes) {
      const words = `The request of ${capability}.${operation} has ${bytes} bytes, over ${maxBytes}.`;
      return Promise.reject(new NoaError('RESOURCE_EXHAUSTED', words));
    }
    const answered = call.invoke(capability, operation, args as Json, call.signal);
    return Promise.race([answered, over.promise]);
  };
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
function asReported(error: unknown): NoaError {
  const { stack, ...body } = toBody(ownError(error));
  const own = stack?.split('\n').filter((line) => !/^\s+at /.test(line) || line.includes(SCHEME));
  return failure('error', JSON.stringify({ ...body, ...(own && { stack: own.join('\n') }) }));
}

/** A module that was bundled with a copy of the SDK throws that copy's errors. */
function ownError(error: unknown): unknown {
  if (error instanceof NoaError || !(error instanceof Error)) return error;
  if (error.name !== 'NoaError' || !('code' in error) || !isErrorCode(error.code)) return error;
  const details = 'details' in error ? error.details : undefined;
  return new NoaError(error.code, error.message, { details, cause: error });
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
