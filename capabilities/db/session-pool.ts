/**
 * The sessions of all plugins' roles: made when first needed, few per role and in all, closed when idle.
 * Invariants: every session is idle, lent to exactly one call, or gone; every bound holds at any moment;
 * a plugin that uses a session takes another only while one is left for each plugin that uses none, or
 * three quarters of all. So a plugin is kept out only when more others than that use sessions at once.
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
  /** Calls that wait for a session: of one plugin, and of all together beyond one each. */
  readonly waitingPerPlugin: number;
  readonly waiting: number;
}

interface Waiter {
  readonly role: Role;
  resolve(session: Session): void;
  reject(error: Error): void;
  /** Its caller waits no longer. */
  gone: boolean;
}

/** A plugin's share. */
interface Member {
  readonly roles: Role[];
  /** Sessions that are lent, or being opened for a call. */
  busy: number;
  waiting: number;
}

interface Role {
  readonly name: string;
  readonly member: Member;
  /** Open sessions and those being opened. */
  count: number;
  /** The most recently used last. */
  readonly idle: { session: Session; since: number }[];
}

/** Most of all sessions that are kept for plugins that use none. */
const KEPT = 0.75;
/** How long a session may take to become fresh after a call before it is dropped. */
const FRESH_MS = 5_000;

export class SessionPool {
  readonly #bounds: PoolBounds;
  readonly #open: (role: string, onBroken: (session: Session) => void) => Promise<Session>;
  readonly #members = new Map<string, Member>();
  readonly #roles = new Map<string, Role>();
  /** Open sessions and those being opened; those of them that are busy. */
  #total = 0;
  #busy = 0;
  /** Plugins that use no session. */
  #resting = 0;
  /** In the order in which they came. */
  #waiters: Waiter[] = [];
  readonly #lent = new Map<Session, Role>();
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

  /** Those of them that are lent, or being opened for a call. */
  get busy(): number {
    return this.#busy;
  }

  /** Keeps a place for a plugin whose calls run as these roles, until it leaves. */
  join(plugin: string, roles: readonly string[]): void {
    if (this.#members.has(plugin)) return;
    const member: Member = { roles: [], busy: 0, waiting: 0 };
    for (const name of roles) {
      const role = { name, member, count: 0, idle: [] };
      member.roles.push(role);
      this.#roles.set(name, role);
    }
    this.#members.set(plugin, member);
    this.#resting += 1;
  }

  /** Ends every session of a plugin; running calls fail with UNAVAILABLE. */
  leave(plugin: string): void {
    const member = this.#members.get(plugin);
    if (!member) return;
    this.#members.delete(plugin);
    if (member.busy === 0) this.#resting -= 1;
    for (const role of member.roles) {
      this.#roles.delete(role.name);
      this.#rejectWaiters((waiter) => waiter.role === role, away());
      this.#dropIdle(role);
    }
    for (const [session, role] of this.#lent) if (role.member === member) session.abort(away());
    this.#serve();
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

  async #acquire(name: string, signal: AbortSignal): Promise<Session> {
    signal.throwIfAborted();
    const role = this.#roles.get(name);
    if (this.#closed || !role) throw away();
    if (!this.#mayWait(role)) {
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
      if (this.#waiters.includes(waiter)) this.#take(waiter);
      reject(signal.reason);
    };
    signal.addEventListener('abort', leave, { once: true });
    this.#waiters.push(waiter);
    role.member.waiting += 1;
    this.#serve();
    try {
      return await promise;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  /** The fuller the line, the shorter one plugin's part of it may be; the first of a plugin always waits. */
  #mayWait(role: Role): boolean {
    const { waiting, waitingPerPlugin } = this.#bounds;
    const { member } = role;
    if (member.waiting === 0 || this.#mayTake(role)) return true;
    return member.waiting < Math.min(waitingPerPlugin, waiting - this.#waiters.length);
  }

  #mayTake({ member, idle, count }: Role): boolean {
    if (idle.length === 0 && count >= this.#bounds.perRole) return false;
    const { total } = this.#bounds;
    const kept = member.busy === 0 ? 0 : Math.min(this.#resting, Math.floor(total * KEPT));
    return total - this.#busy > kept;
  }

  /** Gives sessions to those who wait as far as the bounds allow, first to the plugin that has the fewest. */
  #serve(): void {
    for (let next = this.#next(); next; next = this.#next()) {
      const { role } = next;
      this.#take(next);
      this.#occupy(role);
      const idle = role.idle.pop();
      if (idle) this.#hand(idle.session, next);
      else void this.#connect(next);
    }
  }

  #next(): Waiter | undefined {
    let best: Waiter | undefined;
    for (const waiter of this.#waiters) {
      const { busy } = waiter.role.member;
      if (best && best.role.member.busy <= busy) continue;
      if (this.#mayTake(waiter.role)) best = waiter;
      if (best && busy === 0) break;
    }
    return best;
  }

  async #connect(waiter: Waiter): Promise<void> {
    const { role } = waiter;
    this.#makeRoom();
    role.count += 1;
    this.#total += 1;
    try {
      this.#hand(await this.#open(role.name, (session) => this.#forget(role, session)), waiter);
    } catch (cause) {
      this.#uncount(role);
      this.#vacate(role);
      const error = fromDatabase(cause);
      waiter.reject(error);
      // Those who wait for the same would each find it out after a time-out of their own.
      if (error.code === 'UNAVAILABLE') this.#rejectWaiters((other) => other.role === role, error);
      this.#serve();
    }
  }

  #hand(session: Session, waiter: Waiter): void {
    this.#lent.set(session, waiter.role);
    if (waiter.gone) void this.#release(session);
    else if (this.#roles.has(waiter.role.name)) waiter.resolve(session);
    else {
      waiter.reject(away());
      session.abort(away());
      void this.#release(session);
    }
  }

  /** Where all sessions are open, an idle one gives way: not all of them are busy. */
  #makeRoom(): void {
    if (this.#total < this.#bounds.total) return;
    let oldest: { role: Role; session: Session; since: number } | undefined;
    for (const role of this.#roles.values()) {
      const [first] = role.idle;
      if (first && (!oldest || first.since < oldest.since)) oldest = { role, ...first };
    }
    if (oldest) this.#drop(oldest.role, oldest.session);
  }

  async #release(session: Session): Promise<void> {
    const role = this.#lent.get(session);
    if (!role) return;
    const timer = setTimeout(() => session.abort(away()), FRESH_MS);
    await session.fresh.catch(() => undefined);
    clearTimeout(timer);
    this.#lent.delete(session);
    this.#vacate(role);
    if (!session.broken) {
      role.idle.push({ session, since: performance.now() });
      if (this.#closed || !this.#roles.has(role.name)) this.#drop(role, session);
    }
    this.#serve();
  }

  #occupy({ member }: Role): void {
    if (member.busy === 0) this.#resting -= 1;
    member.busy += 1;
    this.#busy += 1;
  }

  #vacate({ name, member }: Role): void {
    member.busy -= 1;
    this.#busy -= 1;
    if (member.busy === 0 && this.#roles.get(name)?.member === member) this.#resting += 1;
  }

  #take(waiter: Waiter): void {
    this.#waiters = this.#waiters.filter((other) => other !== waiter);
    waiter.role.member.waiting -= 1;
  }

  #rejectWaiters(whom: (waiter: Waiter) => boolean, error: Error): void {
    for (const waiter of this.#waiters.filter(whom)) {
      this.#take(waiter);
      waiter.reject(error);
    }
  }

  #uncount(role: Role): void {
    role.count -= 1;
    this.#total -= 1;
  }

  /** A session was lost: its place is free. */
  #forget(role: Role, session: Session): void {
    const index = role.idle.findIndex((entry) => entry.session === session);
    if (index >= 0) role.idle.splice(index, 1);
    this.#uncount(role);
    this.#serve();
  }

  #drop(role: Role, session: Session): void {
    const index = role.idle.findIndex((entry) => entry.session === session);
    if (index >= 0) role.idle.splice(index, 1);
    this.#uncount(role);
    session.close().catch(() => undefined);
  }

  #reap(): void {
    const before = performance.now() - this.#bounds.idleMs;
    for (const role of this.#roles.values()) {
      for (const { session } of role.idle.filter(({ since }) => since < before)) {
        this.#drop(role, session);
      }
    }
  }

  #dropIdle(role: Role): void {
    for (const { session } of role.idle.splice(0)) this.#drop(role, session);
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#reaper);
    this.#rejectWaiters(() => true, away());
    for (const role of this.#roles.values()) this.#dropIdle(role);
    for (const session of this.#lent.keys()) session.abort(away());
  }
}
