/**
 * Who holds how much of the embedded cache. Invariant: what is used is the sum of all accounts, and
 * while something must go it is the oldest value of the account that holds most, so that no plugin
 * costs a smaller one anything. Locks never go before their time; so they have bounds of their own.
 */

export interface Bounds {
  readonly maxEntries: number;
  readonly maxBytes: number;
}

/** One key's part of an account. */
export interface Holding {
  readonly account: string;
  readonly bytes: number;
  readonly isLock: boolean;
}

/** Locks of one account, as a part of the cache. */
const LOCK_SHARE = 1 / 16;
/** All locks together, as a part of the cache: the rest is always there for values. */
const LOCKS_SHARE = 1 / 2;

class Account {
  entries = 0;
  bytes = 0;
  locks = 0;
  lockBytes = 0;
  /** Values, the least recently used first. */
  readonly values = new Set<string>();
  #oldest: Iterator<string> = this.values.values();

  /**
   * The value to give up next. The iterator is kept: a fresh one would first pass over the places of all
   * that were given up before.
   */
  oldest(): string | undefined {
    let next = this.#oldest.next();
    if (next.done) {
      this.#oldest = this.values.values();
      next = this.#oldest.next();
    }
    return next.done ? undefined : next.value;
  }
}

export class Accounts {
  readonly #accounts = new Map<string, Account>();
  readonly #bounds: Bounds;
  readonly #all = new Account();

  constructor(bounds: Bounds) {
    this.#bounds = bounds;
  }

  get bytes(): number {
    return this.#all.bytes;
  }

  add(key: string, holding: Holding): void {
    let account = this.#accounts.get(holding.account);
    if (!account) this.#accounts.set(holding.account, (account = new Account()));
    count(account, holding, 1);
    count(this.#all, holding, 1);
    if (!holding.isLock) account.values.add(key);
  }

  remove(key: string, holding: Holding): void {
    const account = this.#accounts.get(holding.account);
    if (!account) return;
    count(account, holding, -1);
    count(this.#all, holding, -1);
    account.values.delete(key);
    if (account.entries === 0) this.#accounts.delete(holding.account);
  }

  /** The key was used: of its account's values it goes last. */
  touch(key: string, { account: name, isLock }: Holding): void {
    const account = this.#accounts.get(name);
    if (isLock || !account) return;
    account.values.delete(key);
    account.values.add(key);
  }

  /** Why this can have no room, whatever else goes; undefined when it can. `before` is what it replaces. */
  refusal(holding: Holding, before: Holding | undefined): string | undefined {
    const { maxBytes, maxEntries } = this.#bounds;
    const own = this.#accounts.get(holding.account) ?? { locks: 0, lockBytes: 0 };
    const old = before?.isLock ? before : undefined;
    const oldOwn = old?.account === holding.account ? old : undefined;
    const all = this.#all;
    const over = (
      part: number,
      { locks, lockBytes }: { locks: number; lockBytes: number },
      minus: Holding | undefined,
    ) =>
      locks + 1 - (minus ? 1 : 0) > maxEntries * part ||
      lockBytes + holding.bytes - (minus?.bytes ?? 0) > maxBytes * part;
    if (over(1, all, old))
      return `it is larger than the ${maxBytes} bytes of the cache, or locks fill it`;
    if (!holding.isLock) return undefined;
    if (over(LOCK_SHARE, own, oldOwn)) {
      return (
        `one plugin may hold ${Math.floor(maxEntries * LOCK_SHARE)} locks, of ` +
        `${Math.floor(maxBytes * LOCK_SHARE)} bytes together; release some`
      );
    }
    if (over(LOCKS_SHARE, all, old))
      return 'locks of all plugins fill half of the cache; try later';
    return undefined;
  }

  /** The value that goes next when `holding` is to come; undefined when there is room for it. */
  victim({ bytes }: Holding): string | undefined {
    const { maxBytes, maxEntries } = this.#bounds;
    if (this.#all.entries < maxEntries && this.#all.bytes + bytes <= maxBytes) return undefined;
    let most: Account | undefined;
    let weight = -1;
    for (const account of this.#accounts.values()) {
      if (account.values.size === 0) continue;
      const own = Math.max(account.entries / maxEntries, account.bytes / maxBytes);
      if (own > weight) [most, weight] = [account, own];
    }
    return most?.oldest();
  }
}

function count(account: Account, { bytes, isLock }: Holding, sign: 1 | -1): void {
  account.entries += sign;
  account.bytes += sign * bytes;
  if (!isLock) return;
  account.locks += sign;
  account.lockBytes += sign * bytes;
}
