/**
 * One instance of a plugin's module with the host functions it may import. Behaviour follows the
 * Extism ABI: a block given to `config_get`, `var_get` or a log function belongs to the host and is
 * freed; the guest owns what it is given.
 */
import { webcrypto } from 'node:crypto';
import type { LogLevel } from '../../kernel/loader.ts';
import { ENV_MODULE, MEMORY_EXPORT, SUSPENDING, USER_MODULE } from './admission.ts';
import { Arena } from './arena.ts';
import { FUEL_EXPORT, Fuel } from './fuel.ts';
import { ExtismHttp } from './extism-http.ts';
import type { Unit } from './unit.ts';
import { WASI_MODULE, Wasi } from './wasi.ts';

const MAX_KEY_BYTES = 1024;
const MAX_LOG_BYTES = 8192;
/** All variables of one instance: bytes of keys and values. */
const MAX_VAR_BYTES = 1 << 20;
const MAX_VARS = 1024;
/** A log line costs as much fuel as so many bytes copied, and its own. */
const LOG_WEIGHT_BYTES = 16 << 10;
/** So does any call of a host function, be it that it only fails: some microseconds. */
const HOST_CALL_WEIGHT_BYTES = 16 << 10;
/** Blocks of one call beyond its input and output: capability requests and replies, logs, copies. */
const ARENA_SLACK_BYTES = 8 << 20;

/** What an instance needs of the thread it lives in. */
export interface InstanceHost {
  /**
   * Answers the block of the reply, now or when it has come. Throws to end the call. `attachment` is the
   * block beside the request or 0; undefined when the guest does not speak of attachments.
   */
  invoke(instance: Instance, request: number, attachment?: number): bigint | Promise<bigint>;
  log(unit: Unit, level: LogLevel, text: string): void;
  /** Answers a guest that asks whether it may go on: of `asking`. */
  readonly ask: WebAssembly.ExportedFunction;
}

export class Instance {
  readonly unit: Unit;
  readonly arena: Arena;
  /** The id of the job it serves now. */
  job: number | undefined;
  /** When it became idle, by the thread's monotonic clock. */
  idleSince = 0;
  /** Bytes last counted against the thread's budget. */
  counted = 0;
  readonly #exports: Readonly<Record<string, unknown>>;
  readonly #memory: WebAssembly.Memory | undefined;
  #variableBytes = 0;
  readonly #wasi: Wasi;
  readonly #fuel: Fuel;

  /** Runs the module's start function and `_initialize`; throws what they throw. */
  constructor(unit: Unit, arena: WebAssembly.Module, host: InstanceHost) {
    const { limits, module } = unit.spec;
    this.unit = unit;
    this.arena = new Arena(arena, limits.maxInputBytes + limits.maxOutputBytes + ARENA_SLACK_BYTES);
    this.#wasi = new Wasi({
      memory: () => this.#memory?.buffer,
      charge: (bytes) => this.#fuel.charge(bytes),
      line: (level, text) => host.log(unit, level, text),
      trap: (words) => {
        throw new GuestTrap(words);
      },
    });
    const imports = {
      [ENV_MODULE]: {
        ...this.arena.exports, // Compiled code, which costs what a call costs.
        ...this.#charged(this.#environment(host)),
        ...this.#http(host),
      },
      [WASI_MODULE]: this.#charged(this.#wasi.imports),
      [USER_MODULE]: this.#charged({
        noa_call: (block: bigint) => host.invoke(this, Number(block)),
        noa_call_bytes: (block: bigint, attachment: bigint) =>
          host.invoke(this, Number(block), Number(attachment)),
        noa_reply_bytes: () => BigInt(this.arena.takeBeside()),
        noa_clock: () => BigInt(Date.now()) * 1_000_000n,
        noa_random: random64,
        ...this.#bulk(),
      }),
    } as WebAssembly.Imports;
    this.#exports = new WebAssembly.Instance(module, imports).exports;
    const memory = this.#exports[MEMORY_EXPORT];
    this.#memory = memory instanceof WebAssembly.Memory ? memory : undefined;
    this.#fuel = new Fuel(this.#exports, host.ask);
    this.export(FUEL_EXPORT.start)?.();
    this.#initialize();
  }

  /** Fuel that its code has burned so far. */
  get burned(): number {
    return this.#fuel.burned;
  }

  /** Linear memory of the guest and of its blocks, and its variables. */
  get byteLength(): number {
    return this.memoryBytes + this.arena.byteLength + this.#variableBytes;
  }

  /** Linear memory of the guest alone. */
  get memoryBytes(): number {
    return this.#memory?.buffer.byteLength ?? 0;
  }

  export(name: string): WebAssembly.ExportedFunction | undefined {
    const value = Object.hasOwn(this.#exports, name) ? this.#exports[name] : undefined;
    return typeof value === 'function' ? (value as WebAssembly.ExportedFunction) : undefined;
  }

  /** Writes what the guest's standard output and error hold of unfinished lines. */
  flush(): void {
    this.#wasi.flush();
  }

  /**
   * As Extism starts its guests: a reactor by `_initialize`, a command by `_start` when it is none of
   * WASI's (those run their whole program there), Haskell's runtime by `hs_init`.
   */
  #initialize(): void {
    const [reactor, command] = [this.export('_initialize'), this.export('_start')];
    if (reactor !== undefined) reactor();
    else if (command !== undefined && !importsWasi(this.unit.spec.module)) command();
    this.export('hs_init')?.(0, 0);
    this.flush();
  }

  /** The host's functions as they are imported: each charges, and those that wait may. */
  #charged(
    functions: Readonly<Record<string, (...values: never[]) => unknown>>,
  ): Record<string, unknown> {
    const entries = Object.entries(functions).map(([name, run]): [string, unknown] => {
      const charging = (...values: never[]): unknown => {
        this.#fuel.charge(HOST_CALL_WEIGHT_BYTES);
        return run(...values);
      };
      return [name, SUSPENDING.has(name) ? new WebAssembly.Suspending(charging) : charging];
    });
    return Object.fromEntries(entries);
  }

  #http(host: InstanceHost): Record<string, unknown> {
    const http = new ExtismHttp(
      this.arena,
      (request, body) => host.invoke(this, request, body),
      (bytes) => this.#fuel.charge(bytes),
    );
    return this.#charged({
      http_request: (request: bigint, body: bigint) => http.request(Number(request), Number(body)),
      http_status_code: () => http.status,
      http_headers: () => http.headers(),
    });
  }

  /** Whole ranges between blocks and the guest's memory, in one copy. Lengths and pointers are unsigned. */
  #bulk(): Record<string, (address: bigint, pointer: number, length: number) => void> {
    const ends = (
      name: string,
      address: bigint,
      pointer: number,
      length: number,
    ): [block: Uint8Array, own: Uint8Array] => {
      const buffer = this.#memory?.buffer; // Anew each time: growth detaches it.
      const [at, size] = [pointer >>> 0, length >>> 0];
      if (buffer === undefined || at + size > buffer.byteLength) {
        throw new GuestTrap(
          `${name} was given ${size} bytes at ${at}, outside of the module's memory`,
        );
      }
      this.#fuel.charge(size);
      const block = this.arena.range(address, size);
      if (block === undefined) {
        throw new GuestTrap(
          `${name} was given ${size} bytes at address ${address}, not in a block`,
        );
      }
      return [block, new Uint8Array(buffer, at, size)];
    };
    return {
      noa_read: (address, pointer, length) => {
        const [block, own] = ends('noa_read', address, pointer, length);
        own.set(block);
      },
      noa_write: (address, pointer, length) => {
        const [block, own] = ends('noa_write', address, pointer, length);
        block.set(own);
      },
    };
  }

  #environment(host: InstanceHost): Record<string, (...args: never[]) => unknown> {
    const { arena, unit } = this;
    const variables = new Map<string, Uint8Array>();

    /** Reads a key and frees its block. */
    const takeKey = (block: bigint): string | undefined => {
      const key = arena.text(Number(block), MAX_KEY_BYTES);
      arena.drop(Number(block));
      return key;
    };
    const log = (level: LogLevel) => (block: bigint) => {
      const text = arena.text(Number(block), MAX_LOG_BYTES) ?? '';
      arena.drop(Number(block));
      this.#fuel.charge(LOG_WEIGHT_BYTES + text.length);
      host.log(unit, level, text);
    };
    return {
      config_get: (block: bigint) => {
        const value = unit.config.get(takeKey(block) ?? '');
        this.#fuel.charge(value?.length ?? 0);
        return BigInt(value === undefined ? 0 : arena.put(value));
      },
      var_get: (block: bigint) => {
        const value = variables.get(takeKey(block) ?? '');
        this.#fuel.charge(value?.length ?? 0);
        return BigInt(value === undefined ? 0 : arena.putBytes(value));
      },
      var_set: (block: bigint, valueBlock: bigint) => {
        const key = arena.text(Number(block), MAX_KEY_BYTES);
        if (key === undefined) return;
        const old = variables.get(key);
        if (old !== undefined) this.#variableBytes -= key.length + old.length;
        variables.delete(key);
        if (valueBlock === 0n) return;
        const size = arena.size(Number(valueBlock));
        this.#fuel.charge(size);
        const bytes = this.#variableBytes + key.length + size;
        if (bytes > MAX_VAR_BYTES || variables.size >= MAX_VARS) {
          throw new GuestLimit(
            `The plugin's variables are over their limit of ${MAX_VAR_BYTES} bytes or ${MAX_VARS} names.`,
          );
        }
        variables.set(key, arena.copy(Number(valueBlock)) ?? new Uint8Array());
        this.#variableBytes = bytes;
      },
      log_trace: log('debug'),
      log_debug: log('debug'),
      log_info: log('info'),
      log_warn: log('warn'),
      log_error: log('error'),
      get_log_level: () => 0,
    };
  }
}

function importsWasi(of: WebAssembly.Module): boolean {
  return WebAssembly.Module.imports(of).some(({ module }) => module === WASI_MODULE);
}

/** A bound of the sandbox that the guest ran into; its message may be shown. */
export class GuestLimit extends Error {}

/** An import that was used wrongly ends the call as a trap would; its message may be shown. */
export class GuestTrap extends Error {}

const randomWords = new BigInt64Array(128);
let randomLeft = 0;

function random64(): bigint {
  if (randomLeft === 0) {
    webcrypto.getRandomValues(randomWords);
    randomLeft = randomWords.length;
  }
  randomLeft -= 1;
  const word = randomWords[randomLeft] ?? 0n;
  randomWords[randomLeft] = 0n;
  return word;
}
