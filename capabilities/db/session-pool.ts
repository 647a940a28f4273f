/**
 * The sessions of all plugins' roles: made when first needed, few per role and in all, closed when idle.
 * Invariant: every session is idle, lent to exactly one call, or gone; every bound holds at any moment.
 */
import { NoaError } from '@noa/sdk/host';
import { away, fromDatabase } from './failures.ts';
import type { Session } from './session.ts';

export interface PoolBounds {
  /** Sessions of one role at the same time. */
  readonly perRole: number;
  /** Sessions of all roles at the same time. */
  readonly total: number;
  /** An unused session is closed after this time, in milliseconds. */
  readonly idleMs: number;
  /** Calls that wait for a session of one role, and of all roles. */
  readonly waitingPerRole: number;
  readonly waiting: number;
}

interface Waiter {
  readonly role: string;
  resolve(session: Session): void;
  reject(error: Error): void;
  /** Its caller waits no longer. */
  gone: boolean;
}

interface Role {
  /** Open sessions and those being opened. */
  count: number;
  /** The most recently used last. */
  readonly idle: { session: Session; since: number }[];
}

/** How long a session may take to become fresh after a call before it is dropped. */
const FRESH_MS = 5_000;

export class SessionPool {
  readonly #bounds: PoolBounds;
  readonly #open: (role: string, onBroken: (session: Session) => void) => Promise<Session>;
  readonly #roles = new Map<string, Role>();
  #total = 0;
  #waiters: Waiter[] = [];
  readonly #lent = new Set<Session>();
  readonly #reaper: NodeJS.Timeout;
  #closed = false;

  constructor(
    bounds: PoolBounds,
    open: (role: string, onBroken: (session: Session) => void) => Promise<Session>,
  ) {
    this.#bounds = bounds;
    this.#open = open;
    this.#reaper = setInterval(() => this.#reap(), Math.max(10, bounds.idleMs / 2)).unref();
  }

  /** Sessions that are open or being opened. */
  get size(): number {
    return this.#total;
  }

  /**
   * Lends a session to `work`. Rejects with RESOURCE_EXHAUSTED when too many wait, UNAVAILABLE when the
   * database is away, the signal's reason when it aborts while waiting.
   */
  async use<T>(
    role: string,
    signal: AbortSignal,
    work: (session: Session) => Promise<T>,
  ): Promise<T> {
    const session = await this.#acquire(role, signal);
    try {
      signal.throwIfAborted();
      return await work(session);
    } finally {
      void this.#release(session);
    }
  }

  async #acquire(role: string, signal: AbortSignal): Promise<Session> {
    signal.throwIfAborted();
    if (this.#closed) throw away();
    const { waiting, waitingPerRole } = this.#bounds;
    const mine = this.#waiters.filter((waiter) => waiter.role === role).length;
    if (mine >= waitingPerRole || this.#waiters.length >= waiting) {
      throw new NoaError(
        'RESOURCE_EXHAUSTED',
        'db: too many calls wait for a database connection; try again',
        { retryAfterMs: 100 },
      );
    }
    const { promise, resolve, reject } = Promise.withResolvers<Session>();
    const waiter: Waiter = { role, resolve, reject, gone: false };
    const leave = () => {
      waiter.gone = true;
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
      reject(signal.reason);
    };
    signal.addEventListener('abort', leave, { once: true });
    this.#waiters.push(waiter);
    this.#serve();
    try {
      return await promise;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  /** Gives idle sessions to those who wait, in order, and opens new ones as far as the bounds allow. */
  #serve(): void {
    for (const waiter of this.#waiters) {
      const { role } = waiter;
      const idle = this.#role(role).idle.pop();
      if (idle) {
        this.#take(waiter);
        this.#hand(idle.session, waiter);
      } else if (this.#role(role).count < this.#bounds.perRole && this.#makeRoom()) {
        this.#take(waiter);
        void this.#connect(waiter);
      }
    }
  }

  async #connect(waiter: Waiter): Promise<void> {
    const { role } = waiter;
    this.#role(role).count += 1;
    this.#total += 1;
    try {
      this.#hand(await this.#open(role, (session) => this.#forget(session)), waiter);
    } catch (cause) {
      this.#uncount(role);
      const error = fromDatabase(cause);
      waiter.reject(error);
      // Those who wait for the same would each find it out after a time-out of their own.
      if (error.code === 'UNAVAILABLE') this.#rejectWaiters(role, error);
      this.#serve();
    }
  }

  #hand(session: Session, waiter: Waiter): void {
    this.#lent.add(session);
    if (waiter.gone) void this.#release(session);
    else waiter.resolve(session);
  }

  /** True when one more session fits, if need be at the cost of another role's idle one. */
  #makeRoom(): boolean {
    if (this.#total < this.#bounds.total) return true;
    let oldest: { session: Session; since: number } | undefined;
    for (const { idle } of this.#roles.values()) {
      const [first] = idle;
      if (first && (!oldest || first.since < oldest.since)) oldest = first;
    }
    if (!oldest) return false;
    this.#drop(oldest.session);
    return true;
  }

  async #release(session: Session): Promise<void> {
    const timer = setTimeout(() => session.abort(away()), FRESH_MS);
    await session.fresh.catch(() => undefined);
    clearTimeout(timer);
    this.#lent.delete(session);
    if (session.broken) return;
    if (this.#closed) return this.#drop(session);
    this.#role(session.role).idle.push({ session, since: performance.now() });
    this.#serve();
  }

  #take(waiter: Waiter): void {
    this.#waiters = this.#waiters.filter((other) => other !== waiter);
  }

  #rejectWaiters(role: string | undefined, error: Error): void {
    const rejected = this.#waiters.filter((waiter) => role === undefined || waiter.role === role);
    this.#waiters = this.#waiters.filter((waiter) => !rejected.includes(waiter));
    for (const waiter of rejected) waiter.reject(error);
  }

  #role(name: string): Role {
    let role = this.#roles.get(name);
    if (!role) {
      role = { count: 0, idle: [] };
      this.#roles.set(name, role);
    }
    return role;
  }

  #uncount(name: string): void {
    const role = this.#role(name);
    role.count -= 1;
    this.#total -= 1;
    if (role.count === 0) this.#roles.delete(name);
  }

  /** A session was lost: its place is free. */
  #forget(session: Session): void {
    const { idle } = this.#role(session.role);
    const index = idle.findIndex((entry) => entry.session === session);
    if (index >= 0) idle.splice(index, 1);
    this.#uncount(session.role);
    this.#serve();
  }

  #drop(session: Session): void {
    const { idle } = this.#role(session.role);
    const index = idle.findIndex((entry) => entry.session === session);
    if (index >= 0) idle.splice(index, 1);
    this.#uncount(session.role);
    session.close().catch(() => undefined);
  }

  #reap(): void {
    const before = performance.now() - this.#bounds.idleMs;
    for (const { idle } of this.#roles.values()) {
      for (const { session } of idle.filter(({ since }) => since < before)) this.#drop(session);
    }
  }

  #dropIdle({ idle }: Role): void {
    for (let [first] = idle; first; [first] = idle) this.#drop(first.session);
  }

  /** Ends every session of a role; running calls fail with UNAVAILABLE. */
  closeRole(name: string): void {
    this.#rejectWaiters(name, away());
    this.#dropIdle(this.#role(name));
    for (const session of this.#lent) if (session.role === name) session.abort(away());
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#reaper);
    this.#rejectWaiters(undefined, away());
    for (const role of this.#roles.values()) this.#dropIdle(role);
    for (const session of this.#lent) session.abort(away());
  }
}
