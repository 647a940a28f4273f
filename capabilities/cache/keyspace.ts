/**
 * The keys of the embedded cache and the Redis commands on them, with Redis's own replies. Invariant:
 * keys and bytes never exceed their bounds; the least recently used value goes first, locks (sets) never
 * go before their time.
 */
import { OK, type Reply, ReplyError, Status } from './resp.ts';

export interface KeyspaceBounds {
  readonly maxEntries: number;
  readonly maxBytes: number;
}

interface Entry {
  value: string | Set<string>;
  /** Milliseconds since the epoch; never when undefined. */
  expiresAt: number | undefined;
  bytes: number;
}

/** What one entry costs beside its text. */
const ENTRY_BYTES = 128;
const NOT_INTEGER = new ReplyError('ERR value is not an integer or out of range');
const WRONG_TYPE = new ReplyError(
  'WRONGTYPE Operation against a key holding the wrong kind of value',
);
const SYNTAX = new ReplyError('ERR syntax error');
const FULL = new ReplyError('OOM command not allowed when used memory > maxmemory.');
const INT64_MAX = 2n ** 63n - 1n;

type Command = (args: readonly string[]) => Reply;

export class Keyspace {
  readonly #entries = new Map<string, Entry>();
  readonly #bounds: KeyspaceBounds;
  readonly #now: () => number;
  readonly #commands: { readonly [name: string]: readonly [least: number, run: Command] };
  #bytes = 0;
  /** Commands that lead to what the last ones did, with absolute times; taken by the journal. */
  #effects: string[][] = [];

  constructor(bounds: KeyspaceBounds, now: () => number) {
    this.#bounds = bounds;
    this.#now = now;
    this.#commands = {
      PING: [0, () => new Status('PONG')],
      INFO: [0, () => '# Server\r\nredis_mode:standalone\r\nloading:0\r\n'],
      GET: [1, ([key = '']) => this.#get(key)],
      SET: [2, (args) => this.#setCommand(args)],
      UNLINK: [1, (keys) => keys.filter((key) => this.#delete(key)).length],
      INCRBY: [2, ([key = '', by = '']) => this.#increment(key, by, 1n)],
      DECRBY: [2, ([key = '', by = '']) => this.#increment(key, by, -1n)],
      SADD: [2, ([key = '', ...members]) => this.#addMembers(key, members)],
      SREM: [2, ([key = '', ...members]) => this.#removeMembers(key, members)],
      PEXPIRE: [2, ([key = '', ms = '']) => this.#expire(key, this.#now() + Number(ms))],
      PEXPIREAT: [2, ([key = '', at = '']) => this.#expire(key, Number(at))],
      RENAMENX: [2, ([from = '', to = '']) => this.#rename(from, to)],
    };
  }

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  run([name = '', ...args]: readonly string[]): Reply {
    const command = Object.hasOwn(this.#commands, name.toUpperCase())
      ? this.#commands[name.toUpperCase()]
      : undefined;
    if (!command) return new ReplyError(`ERR unknown command '${name.slice(0, 32)}'`);
    const [least, run] = command;
    if (args.length < least) {
      return new ReplyError(`ERR wrong number of arguments for '${name.toLowerCase()}' command`);
    }
    return run(args);
  }

  /** The effects since the last time, for the journal. */
  takeEffects(): string[][] {
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }

  /** Commands that make all this again; consistent although it is read in steps. */
  *snapshot(): Generator<string[]> {
    const frozen = [...this.#entries];
    for (const [key, { value, expiresAt }] of frozen) {
      if (this.#isExpired(expiresAt)) continue;
      if (typeof value === 'string') yield setEffect(key, value, expiresAt);
      else yield* setMembersEffect(key, value, expiresAt);
    }
  }

  /** Frees what has expired and was not asked for since. */
  sweep(): void {
    for (const [key, { expiresAt }] of this.#entries) {
      if (this.#isExpired(expiresAt)) this.#remove(key);
    }
  }

  #isExpired(expiresAt: number | undefined): boolean {
    return expiresAt !== undefined && expiresAt <= this.#now();
  }

  /** The live entry of a key, which becomes the most recently used. */
  #live(key: string): Entry | undefined {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    if (this.#isExpired(entry.expiresAt)) {
      this.#bytes -= entry.bytes;
      return undefined;
    }
    this.#entries.set(key, entry);
    return entry;
  }

  #get(key: string): Reply {
    const value = this.#live(key)?.value ?? null;
    return value instanceof Set ? WRONG_TYPE : value;
  }

  #setCommand([key = '', value = '', ...options]: readonly string[]): Reply {
    let expiresAt: number | undefined;
    let onlyNew = false;
    for (let index = 0; index < options.length; index += 1) {
      const option = options[index]?.toUpperCase();
      if (option === 'NX') onlyNew = true;
      else if (option === 'PX') expiresAt = this.#now() + Number(options[(index += 1)]);
      else if (option === 'PXAT') expiresAt = Number(options[(index += 1)]);
      else return SYNTAX;
    }
    if (expiresAt !== undefined && !Number.isSafeInteger(expiresAt)) return NOT_INTEGER;
    if (onlyNew && this.#live(key)) return null;
    if (!this.#put(key, value, expiresAt)) return FULL;
    this.#effects.push(setEffect(key, value, expiresAt));
    return OK;
  }

  #increment(key: string, by: string, sign: 1n | -1n): Reply {
    const entry = this.#live(key);
    const text = entry?.value ?? '0';
    if (text instanceof Set) return WRONG_TYPE;
    if (!/^(0|-?[1-9]\d{0,18})$/.test(text) || !/^-?\d{1,19}$/.test(by)) return NOT_INTEGER;
    const sum = BigInt(text) + sign * BigInt(by);
    if (sum > INT64_MAX || sum < -INT64_MAX - 1n) {
      return new ReplyError('ERR increment or decrement would overflow');
    }
    if (!this.#put(key, String(sum), entry?.expiresAt)) return FULL;
    this.#effects.push(setEffect(key, String(sum), entry?.expiresAt));
    return sum;
  }

  #addMembers(key: string, members: readonly string[]): Reply {
    const entry = this.#live(key);
    if (typeof entry?.value === 'string') return WRONG_TYPE;
    const set = new Set(entry?.value);
    const before = set.size;
    for (const member of members) set.add(member);
    if (!this.#put(key, set, entry?.expiresAt)) return FULL;
    this.#effects.push(['SADD', key, ...members]);
    return set.size - before;
  }

  #removeMembers(key: string, members: readonly string[]): Reply {
    const entry = this.#live(key);
    if (!entry) return 0;
    if (typeof entry.value === 'string') return WRONG_TYPE;
    const set = entry.value;
    const removed = members.filter((member) => set.delete(member)).length;
    if (removed > 0) this.#effects.push(['SREM', key, ...members]);
    if (set.size === 0) this.#remove(key);
    return removed;
  }

  #expire(key: string, at: number): Reply {
    if (!Number.isSafeInteger(at)) return NOT_INTEGER;
    const entry = this.#live(key);
    if (!entry) return 0;
    entry.expiresAt = at;
    this.#effects.push(['PEXPIREAT', key, String(at)]);
    return 1;
  }

  #rename(from: string, to: string): Reply {
    const entry = this.#live(from);
    if (!entry) return new ReplyError('ERR no such key');
    if (this.#live(to)) return 0;
    this.#remove(from);
    this.#put(to, entry.value, entry.expiresAt);
    this.#effects.push(['RENAMENX', from, to]);
    return 1;
  }

  #delete(key: string): boolean {
    if (!this.#live(key)) return false;
    this.#remove(key);
    this.#effects.push(['UNLINK', key]);
    return true;
  }

  #remove(key: string): void {
    this.#bytes -= this.#entries.get(key)?.bytes ?? 0;
    this.#entries.delete(key);
  }

  /** Puts a value after making room for it; false, with nothing changed, when only locks would have to go. */
  #put(key: string, value: Entry['value'], expiresAt: number | undefined): boolean {
    const text = typeof value === 'string' ? value : [...value].join('');
    const bytes = ENTRY_BYTES + 2 * (key.length + text.length);
    const before = this.#entries.get(key);
    if (!this.#makeRoom(key, bytes - (before?.bytes ?? 0), before ? 0 : 1)) return false;
    this.#remove(key);
    this.#entries.set(key, { value, expiresAt, bytes });
    this.#bytes += bytes;
    return true;
  }

  #makeRoom(key: string, bytes: number, entries: number): boolean {
    const { maxBytes, maxEntries } = this.#bounds;
    const fits = () =>
      this.#entries.size + entries <= maxEntries && this.#bytes + bytes <= maxBytes;
    if (fits()) return true;
    if (bytes > maxBytes) return false;
    for (const [old, entry] of this.#entries) {
      const held = entry.value instanceof Set && !this.#isExpired(entry.expiresAt);
      if (old === key || held) continue;
      this.#remove(old);
      this.#effects.push(['UNLINK', old]);
      if (fits()) return true;
    }
    return false;
  }
}

function setEffect(key: string, value: string, expiresAt: number | undefined): string[] {
  return ['SET', key, value, ...(expiresAt === undefined ? [] : ['PXAT', String(expiresAt)])];
}

function* setMembersEffect(
  key: string,
  members: ReadonlySet<string>,
  expiresAt: number | undefined,
): Generator<string[]> {
  yield ['SADD', key, ...members];
  if (expiresAt !== undefined) yield ['PEXPIREAT', key, String(expiresAt)];
}
