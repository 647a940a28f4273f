/**
 * The driver of `cache` on Redis from version 6, or on the embedded engine through ioredis's own
 * connector. Invariant: one connection, no queue while it is down, no script on the server: every
 * operation is one command or one MULTI, so it is atomic for all hosts.
 *
 * A lock is a set with one member, its token. It is made under a name of its own and moved to its place
 * by RENAMENX, which keeps the time-out and fails when the place is taken; SREM with the token deletes it
 * only for its holder. So comparing and deleting needs neither a script nor a WATCH.
 *
 * The embedded engine is told for whom a command writes, and keeps what one plugin may cost others within
 * bounds. Redis knows no such thing: plugins share its memory. Its operator sets `maxmemory`, so that the
 * machine is safe, and `maxmemory-policy noeviction`: every other policy may evict a lock before its time,
 * and two would hold it. At `maxmemory` every plugin's writes are refused with RESOURCE_EXHAUSTED until
 * keys expire or are deleted; plugins that must not depend on each other's use get a Redis of their own.
 */
import { randomBytes } from 'node:crypto';
import { type Driver, type DriverCall, inSpan, type Json, NoaError, stopped } from '@noa/sdk/host';
import { Redis, type RedisOptions } from 'ioredis';
import { MAX_KEY_LENGTH, MAX_VALUE_BYTES } from './capability.ts';

const VALUES = 'noa:kv:';
const LOCKS = 'noa:lock:';
const CONNECT_TIMEOUT_MS = 2_000;
const COMMAND_TIMEOUT_MS = 1_000;
/** A server that lets commands wait this long is reconnected to. */
const SILENCE_MS = 3_000;
const RECONNECT_MAX_MS = 2_000;
/** Calls in flight; more are refused. */
const MAX_CALLS = 4_096;

/**
 * Where the engine is: a URL (`redis://user:password@host:port/db`, `rediss://`), or the embedded cache, by
 * a connector of our own or the path of its socket.
 */
export type RedisEndpoint =
  | { readonly url: string }
  | { readonly path: string }
  | { readonly Connector: NonNullable<RedisOptions['Connector']> };

/**
 * The options with which every connection of the host to Redis is made: bounded in time, refusing at once
 * while the server is away, reconnecting with back-off. Throws INVALID_ARGUMENT without repeating the
 * URL, which holds a secret.
 */
export function connectRedis(endpoint: RedisEndpoint): Redis {
  const options = {
    protocol: 2,
    disableClientInfo: true,
    // ioredis 6.0 misreads whole numbers near 2^53, so they come as text.
    stringNumbers: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: null,
    connectTimeout: CONNECT_TIMEOUT_MS,
    commandTimeout: COMMAND_TIMEOUT_MS,
    socketTimeout: SILENCE_MS,
    keepAlive: 30_000,
    retryStrategy: (attempt: number) => Math.min(25 * 2 ** Math.min(attempt, 10), RECONNECT_MAX_MS),
    // After a fail-over the old primary refuses writes; the name leads to the new one.
    reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
  } satisfies RedisOptions;
  if ('Connector' in endpoint) return new Redis({ ...options, Connector: endpoint.Connector });
  if ('path' in endpoint) return new Redis({ ...options, path: endpoint.path });
  const url = URL.parse(endpoint.url);
  if (!url || !/^rediss?:$/.test(url.protocol) || url.hostname === '') {
    throw new NoaError(
      'INVALID_ARGUMENT',
      'cache.url must be written redis://user:password@host:6379/0, or rediss:// for TLS',
    );
  }
  return new Redis(endpoint.url, options);
}

export function createRedisDriver(endpoint: RedisEndpoint): Driver {
  return new RedisDriver(connectRedis(endpoint), !('url' in endpoint));
}

class RedisDriver implements Driver {
  readonly #redis: Redis;
  readonly #keepsAccounts: boolean;
  /** The first connection, or the first failure to make one. */
  readonly #attempted: Promise<void>;
  #calls = 0;

  constructor(redis: Redis, keepsAccounts: boolean) {
    this.#redis = redis;
    this.#keepsAccounts = keepsAccounts;
    this.#attempted = new Promise((done) => {
      for (const event of ['ready', 'close', 'end']) redis.once(event, () => done());
    });
    // Every call says for itself that the server is away.
    redis.on('error', () => {});
  }

  async invoke(operation: string, input: Json, call: DriverCall): Promise<unknown> {
    if (this.#calls >= MAX_CALLS) {
      throw new NoaError('RESOURCE_EXHAUSTED', 'cache: too many calls are under way; try again');
    }
    this.#calls += 1;
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const stop = () => reject(stopped('cache', call));
    call.signal.addEventListener('abort', stop, { once: true });
    try {
      if (call.signal.aborted) throw stopped('cache', call);
      const about = { 'db.system.name': 'redis', 'db.operation.name': operation };
      return await inSpan(call.span, `redis ${operation}`, about, () =>
        Promise.race([this.#run(operation, input, call.plugin), aborted]),
      );
    } catch (error) {
      throw fromRedis(error);
    } finally {
      call.signal.removeEventListener('abort', stop);
      this.#calls -= 1;
    }
  }

  async #run(operation: string, input: Json, plugin: string): Promise<unknown> {
    await this.#attempted;
    const args = new Arguments(input);
    const key = args.key();
    switch (operation) {
      case 'get': {
        const text = await this.#redis.get(VALUES + key);
        const value: unknown = text === null ? null : JSON.parse(text);
        return { value };
      }
      case 'set': {
        const text = args.value();
        const ttl = args.integer('ttlMs');
        const name = VALUES + key;
        await this.#write(plugin, ['SET', name, text, ...(ttl === undefined ? [] : ['PX', ttl])]);
        return {};
      }
      case 'delete':
        return { deleted: isOne(await this.#redis.unlink(VALUES + key)) };
      case 'increment':
        return {
          value: await this.#increment(plugin, key, args.integer('by') ?? 1, args.integer('ttlMs')),
        };
      case 'lock': {
        const token = args.text('release');
        if (token !== undefined) {
          return { released: isOne(await this.#redis.srem(LOCKS + key, token)) };
        }
        return this.#lock(plugin, key, args.integer('ttlMs') ?? 0);
      }
      default:
        throw new NoaError('INVALID_ARGUMENT', `cache: there is no operation ${operation}`);
    }
  }

  async #increment(
    plugin: string,
    key: string,
    by: number,
    ttlMs: number | undefined,
  ): Promise<number> {
    const name = VALUES + key;
    const start = ttlMs === undefined ? [] : [['SET', name, '0', 'PX', ttlMs, 'NX']];
    const replies = await this.#write(plugin, ...start, ['INCRBY', name, by]);
    const value = Number(replies.at(-1));
    if (Number.isSafeInteger(value)) return value;
    await this.#redis.decrby(name, by);
    throw new NoaError('CONFLICT', 'cache: the counter would leave the range of exact numbers');
  }

  async #lock(
    plugin: string,
    key: string,
    ttlMs: number,
  ): Promise<{ acquired: boolean; token?: string }> {
    const token = randomBytes(16).toString('base64url');
    const name = `${LOCKS}${key}`;
    const own = `${LOCKS}:${token}`;
    const replies = await this.#write(
      plugin,
      ['SADD', own, token],
      ['PEXPIRE', own, ttlMs],
      ['RENAMENX', own, name],
      ['UNLINK', own],
    );
    return isOne(replies[2]) ? { acquired: true, token } : { acquired: false };
  }

  /**
   * Runs commands for a plugin, several in one MULTI, and answers their replies; rejects with the first
   * error among them.
   */
  async #write(plugin: string, ...commands: (string | number)[][]): Promise<unknown[]> {
    const named = this.#keepsAccounts ? commands.map((each) => ['FOR', plugin, ...each]) : commands;
    const [[name, ...args] = [], ...others] = named;
    if (others.length === 0) return [await this.#redis.call(String(name), ...args)];
    const replies = await this.#redis.multi(named.map((each) => ['call', ...each])).exec();
    if (replies === null) throw away();
    return replies.map(([error, reply]) => {
      if (error) throw error;
      return reply;
    });
  }

  async check(): Promise<void> {
    await this.#attempted;
    try {
      await this.#redis.ping();
    } catch (error) {
      throw fromRedis(error);
    }
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
  }
}

/** Numbers come as text, whatever the types say. */
function isOne(reply: unknown): boolean {
  return Number(reply) === 1;
}

/** Reads arguments that the broker has checked; checks again what a command would misread. */
class Arguments {
  readonly #input: { readonly [name: string]: Json };

  constructor(input: Json) {
    if (typeof input !== 'object' || input === null || Array.isArray(input)) {
      throw new NoaError('INVALID_ARGUMENT', 'cache: the arguments must be an object');
    }
    this.#input = input;
  }

  key(): string {
    const key = this.text('key');
    if (key !== undefined && key !== '' && key.length <= MAX_KEY_LENGTH) return key;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `cache: key must have 1 to ${MAX_KEY_LENGTH} characters`,
    );
  }

  text(name: string): string | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === 'string') return value;
    throw new NoaError('INVALID_ARGUMENT', `cache: ${name} must be a string`);
  }

  integer(name: string): number | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isSafeInteger(value)) return value;
    throw new NoaError('INVALID_ARGUMENT', `cache: ${name} must be a whole number`);
  }

  value(): string {
    const text = JSON.stringify(this.#get('value') ?? null);
    if (Buffer.byteLength(text) <= MAX_VALUE_BYTES) return text;
    throw new NoaError(
      'PAYLOAD_TOO_LARGE',
      `cache: value is over ${MAX_VALUE_BYTES} bytes as JSON; keep it in db and its key here`,
    );
  }

  #get(name: string): Json | undefined {
    return Object.hasOwn(this.#input, name) ? this.#input[name] : undefined;
  }
}

function fromRedis(error: unknown): NoaError {
  if (error instanceof NoaError) return error;
  const text = reasonOf(error);
  if (/not an integer|would overflow|WRONGTYPE/.test(text)) {
    return new NoaError(
      'CONFLICT',
      'cache: what the key holds is not a whole number that can grow',
      {
        cause: error,
      },
    );
  }
  if (text.startsWith('OOM')) {
    return new NoaError('RESOURCE_EXHAUSTED', `cache: no room for more: ${text.slice(4)}`, {
      cause: error,
    });
  }
  return away(error);
}

/** What the server said; of a MULTI that it refused to run, what it said to the first command. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  const previous: unknown = 'previousErrors' in error ? error.previousErrors : undefined;
  const first: unknown = Array.isArray(previous) ? previous[0] : undefined;
  return first instanceof Error ? first.message : error.message;
}

function away(cause?: unknown): NoaError {
  return new NoaError('UNAVAILABLE', 'cache: the cache does not answer now; try again', { cause });
}
