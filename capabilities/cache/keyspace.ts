/**
 * The keys of the embedded cache and the Redis commands on them, with Redis's own replies. Invariant:
 * keys and bytes never exceed their bounds; of the account that holds most the least recently used value
 * goes first, locks (sets) never go before their time.
 *
 * One command is not Redis's: `FOR account command …` runs a command and puts what it writes down to
 * that account.
 */
import { Accounts, type Bounds, type Holding } from './accounts.ts';
import { OK, type Reply, ReplyError, Status } from './resp.ts';

interface Entry extends Holding {
  value: string | Set<string>;
  /** Milliseconds since the epoch; never when undefined. */
  expiresAt: number | undefined;
}

/** What one entry costs beside its text. */
const ENTRY_BYTES = 192;
const NOT_INTEGER = new ReplyError('ERR value is not an integer or out of range');
const WRONG_TYPE = new ReplyError(
  'WRONGTYPE Operation against a key holding the wrong kind of value',
);
const SYNTAX = new ReplyError('ERR syntax error');
const INT64_MAX = 2n ** 63n - 1n;

type Command = (args: readonly string[]) => Reply;

export class Keyspace {
  readonly #entries = new Map<string, Entry>();
  readonly #accounts: Accounts;
  readonly #now: () => number;
  readonly #commands: { readonly [name: string]: readonly [least: number, run: Command] };
  /** Whoever the running command is for. */
  #account = '';
  /** Commands that lead to what the last ones did, with absolute times; taken by the journal. */
  #effects: string[][] = [];

  constructor(bounds: Bounds, now: () => number) {
    this.#accounts = new Accounts(bounds);
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
    return this.#accounts.bytes;
  }

  run(command: readonly string[]): Reply {
    const [name = '', account = '', ...rest] = command;
    const isFor = name.toUpperCase() === 'FOR';
    this.#account = isFor ? account : '';
    return this.#run(isFor ? rest : command);
  }

  #run([name = '', ...args]: readonly string[]): Reply {
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
    for (const [key, { account, value, expiresAt }] of frozen) {
      if (this.#isExpired(expiresAt)) continue;
      if (typeof value === 'string') yield forAccount(account, setEffect(key, value, expiresAt));
      else yield* setMembersEffect(account, key, value, expiresAt);
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
    if (this.#isExpired(entry.expiresAt)) {
      this.#remove(key);
      return undefined;
    }
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    this.#accounts.touch(key, entry);
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
    const refused = this.#put(key, value, expiresAt);
    if (refused) return refused;
    this.#note(setEffect(key, value, expiresAt));
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
    const refused = this.#put(key, String(sum), entry?.expiresAt);
    if (refused) return refused;
    this.#note(setEffect(key, String(sum), entry?.expiresAt));
    return sum;
  }

  #addMembers(key: string, members: readonly string[]): Reply {
    const entry = this.#live(key);
    if (typeof entry?.value === 'string') return WRONG_TYPE;
    const set = new Set(entry?.value);
    const before = set.size;
    for (const member of members) set.add(member);
    const refused = this.#put(key, set, entry?.expiresAt);
    if (refused) return refused;
    this.#note(['SADD', key, ...members]);
    return set.size - before;
  }

  #removeMembers(key: string, members: readonly string[]): Reply {
    const entry = this.#live(key);
    if (!entry) return 0;
    if (typeof entry.value === 'string') return WRONG_TYPE;
    const set = entry.value;
    const removed = members.filter((member) => set.delete(member)).length;
    if (removed > 0) this.#note(['SREM', key, ...members]);
    if (set.size === 0) this.#remove(key);
    return removed;
  }

  #expire(key: string, at: number): Reply {
    if (!Number.isSafeInteger(at)) return NOT_INTEGER;
    const entry = this.#live(key);
    if (!entry) return 0;
    entry.expiresAt = at;
    this.#note(['PEXPIREAT', key, String(at)]);
    return 1;
  }

  #rename(from: string, to: string): Reply {
    const entry = this.#live(from);
    if (!entry) return new ReplyError('ERR no such key');
    if (this.#live(to)) return 0;
    this.#remove(from);
    const refused = this.#put(to, entry.value, entry.expiresAt);
    if (refused) {
      this.#put(from, entry.value, entry.expiresAt);
      return refused;
    }
    this.#note(['RENAMENX', from, to]);
    return 1;
  }

  #delete(key: string): boolean {
    if (!this.#live(key)) return false;
    this.#remove(key);
    this.#note(['UNLINK', key]);
    return true;
  }

  #note(effect: readonly string[]): void {
    this.#effects.push(forAccount(this.#account, effect));
  }

  #remove(key: string): void {
    const entry = this.#entries.get(key);
    if (!entry) return;
    this.#entries.delete(key);
    this.#accounts.remove(key, entry);
  }

  /**
   * Puts a value after making room for it, or answers why there can be none, with nothing changed.
   */
  #put(key: string, value: Entry['value'], expiresAt: number | undefined): ReplyError | undefined {
    const text = typeof value === 'string' ? value : [...value].join('');
    const bytes = ENTRY_BYTES + 2 * (key.length + text.length);
    const isLock = typeof value !== 'string';
    const entry: Entry = { account: this.#account, value, expiresAt, bytes, isLock };
    const why = this.#accounts.refusal(entry, this.#entries.get(key));
    if (why !== undefined) return new ReplyError(`OOM ${why}`);
    this.#remove(key);
    for (;;) {
      const victim = this.#accounts.victim(entry);
      if (victim === undefined) break;
      this.#remove(victim);
      this.#effects.push(['UNLINK', victim]);
    }
    this.#entries.set(key, entry);
    this.#accounts.add(key, entry);
    return undefined;
  }
}

function forAccount(account: string, command: readonly string[]): string[] {
  return account === '' ? [...command] : ['FOR', account, ...command];
}

function setEffect(key: string, value: string, expiresAt: number | undefined): string[] {
  return ['SET', key, value, ...(expiresAt === undefined ? [] : ['PXAT', String(expiresAt)])];
}

function* setMembersEffect(
  account: string,
  key: string,
  members: ReadonlySet<string>,
  expiresAt: number | undefined,
): Generator<string[]> {
  yield forAccount(account, ['SADD', key, ...members]);
  if (expiresAt !== undefined) yield ['PEXPIREAT', key, String(expiresAt)];
}
