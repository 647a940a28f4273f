/**
 * Plugins for NOA in AssemblyScript. A refused or failed call ends the export, and its error reaches the
 * caller with its own code; `tryCall` is there for what a plugin wants to handle itself.
 */
import { call, tryCallBytes } from './call';
import { Level, nanoseconds, randomBits, writeLog } from './host';
import { Value, array, object } from './value';

export { Reply, call, config, run, tryCall, tryCallBytes } from './call';
export { fail, failWith } from './error';
export { parse } from './parse';
export { Kind, Value, array, object } from './value';

/** The plugin's relational data, in PostgreSQL's dialect, in its own schema. */
export namespace db {
  function statement(sql: string, params: Value[]): Value {
    const list = array();
    for (let at = 0; at < params.length; at += 1) list.push(params[at]);
    return object().set('sql', Value.of(sql)).set('params', list);
  }

  /** Reads: one object a row. A statement that writes is refused. */
  export function query(sql: string, params: Value[] = []): Value[] {
    return call('db', 'query', statement(sql, params)).get('rows').items();
  }

  /** Runs one statement that may write: `{rows, rowCount}`. */
  export function execute(sql: string, params: Value[] = []): Value {
    return call('db', 'execute', statement(sql, params));
  }
}

/** Short-lived state that all instances share. Anything in it may be gone at the next call. */
export namespace cache {
  function withTtl(args: Value, ttlMs: f64): Value {
    return ttlMs > 0 ? args.set('ttlMs', Value.number(ttlMs)) : args;
  }

  /** The value; null when there is none. */
  export function get(key: string): Value {
    return call('cache', 'get', object().set('key', Value.of(key))).get('value');
  }

  /** Stores a value, for `ttlMs` milliseconds if that is above 0. */
  export function set(key: string, value: Value, ttlMs: f64 = 0): void {
    call('cache', 'set', withTtl(object().set('key', Value.of(key)).set('value', value), ttlMs));
  }

  /** True when there was a value. */
  export function remove(key: string): bool {
    return call('cache', 'delete', object().set('key', Value.of(key)))
      .get('deleted')
      .isTrue();
  }

  /** Adds to a number atomically, from 0, and answers the sum; `ttlMs` counts from the first. */
  export function increment(key: string, by: f64 = 1, ttlMs: f64 = 0): f64 {
    const args = object().set('key', Value.of(key)).set('by', Value.number(by));
    return call('cache', 'increment', withTtl(args, ttlMs)).get('value').float();
  }
}

/** Bytes under paths such as `reports/2026.pdf`, on the disk of the host. */
export namespace blob {
  /** The whole content. */
  export function read(path: string): ArrayBuffer {
    const args = object().set('path', Value.of(path));
    const reply = tryCallBytes('blob', 'read', args, 'base64', null);
    reply.orFail();
    return reply.bytes;
  }

  /** Makes or replaces a blob as a whole: `{etag, size}`. */
  export function write(path: string, content: ArrayBuffer): Value {
    const args = object().set('path', Value.of(path));
    return tryCallBytes('blob', 'write', args, 'base64', content).orFail();
  }
}

/** Values that an administrator set for this plugin to read. */
export namespace secrets {
  /** What is read must not be logged or answered. */
  export function read(name: string): string {
    return call('secrets', 'read', object().set('name', Value.of(name)))
      .get('value')
      .text();
  }
}

/** Exports of other plugins. */
export namespace plugin {
  /** Calls an export of another plugin and answers its output. */
  export function invoke(name: string, exported: string, input: Value): Value {
    const args = object().set('plugin', Value.of(name)).set('export', Value.of(exported));
    return call('plugin', 'call', args.set('input', input)).get('output');
  }
}

/** The plugin's log; open to every plugin within a rate. */
export namespace log {
  export function debug(message: string): void {
    writeLog(Level.Debug, message);
  }
  export function info(message: string): void {
    writeLog(Level.Info, message);
  }
  export function warn(message: string): void {
    writeLog(Level.Warn, message);
  }
  export function error(message: string): void {
    writeLog(Level.Error, message);
  }
}

/** The host's clock; open to every plugin. */
export namespace clock {
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  export function now(): u64 {
    return nanoseconds() / 1_000_000;
  }
}

/** The host's cryptographic random source; open to every plugin. */
export namespace random {
  /** 64 random bits. */
  export function bits(): u64 {
    return randomBits();
  }

  export function bytes(length: i32): Uint8Array {
    const made = new Uint8Array(length);
    for (let at = 0; at < length; at += 8) {
      const bits = randomBits();
      for (let i = 0; i < 8 && at + i < length; i += 1) made[at + i] = <u8>(bits >> (8 * i));
    }
    return made;
  }
}
