/**
 * The second argument of every handler. All ports are there at run time; which of them a plugin may use
 * is decided by its types at compile time and by the host at every call.
 */
import { NoaError } from '../errors.ts';
import type {
  Cache,
  CallBudget,
  Capabilities,
  Clock,
  Db,
  Emit,
  Log,
  PluginPort,
  Random,
} from '../ports.ts';
import { type InvokeParts, type Whole, inferencePort, vectorPort } from '../inference-port.ts';
import { type Answered, blobPort, eventsPort, httpPort, secretsPort } from '../storage-ports.ts';
import { randomUUID } from './crypto.ts';
import * as engine from './engine.ts';

function invoke<Value>(capability: string, operation: string, args: object): Value {
  return valueOf(engine.call(JSON.stringify({ capability, operation, arguments: args })));
}

function valueOf<Value>(reply: engine.Reply): Value {
  if (reply.ok) return reply.value as Value;
  const { code, message, ...more } = reply.error;
  throw new NoaError(code, message, more);
}

/** The bytes of the member go beside the request and come beside the reply. */
function invokeBytes<Value>(
  capability: string,
  operation: string,
  args: object,
  member: string,
  content?: Uint8Array,
): Answered<Value> {
  const place = content && { [member]: { $bytes: [0, content.length] } };
  const request = { capability, operation, arguments: { ...args, ...place } };
  const { reply, bytes } = engine.callBytes(JSON.stringify(request), content);
  const value = valueOf<Value & { [name: string]: { $bytes?: [number, number] } | undefined }>(
    reply,
  );
  const [offset, length] = value[member]?.$bytes ?? [];
  if (offset === undefined || length === undefined) return { value };
  const whole = offset === 0 && length === bytes.length;
  return { value, bytes: whole ? bytes : bytes.slice(offset, offset + length) };
}

/** The same for any number of members, whose bytes follow one another. */
function invokeParts<Value>(
  capability: string,
  operation: string,
  args: Parameters<InvokeParts>[2],
): Whole<Value> {
  const pieces: Uint8Array[] = [];
  let end = 0;
  const place = (piece: Uint8Array): unknown => {
    pieces.push(piece);
    end += piece.length;
    return { $bytes: [end - piece.length, piece.length] };
  };
  const request = JSON.stringify({ capability, operation, arguments: args({ place }) });
  const content = new Uint8Array(end);
  let at = 0;
  for (const piece of pieces) {
    content.set(piece, at);
    at += piece.length;
  }
  const { reply, bytes } = engine.callBytes(request, content);
  return whole(valueOf<Value>(reply), bytes);
}

function whole<Value>(value: Value, bytes: Uint8Array<ArrayBuffer>): Whole<Value> {
  const bytesOf = (member: unknown): Uint8Array<ArrayBuffer> => {
    const { $bytes: [offset, length] = [0, 0] } = (member ?? {}) as { $bytes?: [number, number] };
    return bytes.subarray(offset, offset + length);
  };
  return { value, bytesOf };
}

const db: Db = {
  async query<Row>(sql: string, params: readonly unknown[] = []) {
    return invoke<{ rows: Row[] }>('db', 'query', { sql, params }).rows;
  },
  async execute(sql, params = []) {
    return invoke('db', 'execute', { sql, params });
  },
  async transaction(statements) {
    return invoke<{ results: Awaited<ReturnType<Db['transaction']>> }>('db', 'transaction', {
      statements,
    }).results;
  },
};

const cache: Cache = {
  async get<Value>(key: string) {
    return invoke<{ value: Value | null }>('cache', 'get', { key }).value;
  },
  async set(key, value, options = {}) {
    invoke('cache', 'set', { key, value: value ?? null, ...options });
  },
  async delete(key) {
    return invoke<{ deleted: boolean }>('cache', 'delete', { key }).deleted;
  },
  async increment(key, by = 1, options = {}) {
    return invoke<{ value: number }>('cache', 'increment', { key, by, ...options }).value;
  },
  async lock(key, { ttlMs }) {
    const { token } = invoke<{ acquired: boolean; token?: string }>('cache', 'lock', {
      key,
      ttlMs,
    });
    if (token === undefined) return null;
    return {
      release: async () =>
        invoke<{ released: boolean }>('cache', 'lock', { key, release: token }).released,
    };
  },
};

const plugin: PluginPort = {
  async call<Output>(
    name: string,
    exportName: string,
    input: unknown = null,
    options: { readonly budget?: CallBudget } = {},
  ) {
    const args = { plugin: name, export: exportName, input, ...options };
    return invoke<{ output: Output }>('plugin', 'call', args).output;
  },
};

function write(level: engine.LogLevel, message: string, fields?: Record<string, unknown>): void {
  if (fields === undefined) return engine.log(level, String(message).toWellFormed());
  const args = { level, message: String(message), fields };
  const request = { capability: 'log', operation: 'write', arguments: args };
  const reply = engine.call(JSON.stringify(request));
  // A line that the host has no room for is not worth a failed call: it goes the plain way.
  if (!reply.ok) engine.log(level, `${message} ${JSON.stringify(fields)}`.toWellFormed());
}

const log: Log = {
  debug: (message, fields) => write('debug', message, fields),
  info: (message, fields) => write('info', message, fields),
  warn: (message, fields) => write('warn', message, fields),
  error: (message, fields) => write('error', message, fields),
};

const clock: Clock = { now: () => Math.floor(engine.clock()) };

const random: Random = {
  bytes(length) {
    if (!(length >= 0 && length <= 65_536)) {
      throw new RangeError('random.bytes: length is from 0 to 65536');
    }
    const bytes = new Uint8Array(length);
    engine.fill(bytes);
    return bytes;
  },
  uuid: randomUUID,
};

function freeze(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  for (const inner of Object.values(value)) freeze(inner);
  return Object.freeze(value);
}

let config: unknown;

const emit: Emit = async (value) => {
  invoke('stream', 'emit', { value: value ?? null });
};

export const context: Capabilities & {
  readonly config: unknown;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  readonly emit: Emit;
} = {
  db,
  cache,
  blob: blobPort(invoke, invokeBytes, engine.decode),
  secrets: secretsPort(invoke),
  http: httpPort(invokeBytes),
  events: eventsPort(invoke),
  plugin,
  inference: inferencePort(invokeParts),
  vector: vectorPort(invokeParts),
  log,
  clock,
  random,
  emit,
  /** Read at its first use, for the build has no configuration; then the same frozen object. */
  get config() {
    return (config ??= freeze(engine.config() ?? {}));
  },
};
