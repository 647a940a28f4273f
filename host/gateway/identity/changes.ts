/**
 * How identities change: in a transaction of the kernel, beside the audit record. Invariants: once a change
 * is answered, nothing that this host remembers from before it counts any more; nobody hands out a scope that
 * they do not have.
 */
import { NoaError } from '@noa/sdk/host';
import type { Audit, AuditEvent } from '../../kernel/audit.ts';
import type { Principal } from '../../kernel/chain.ts';
import { event } from '../../kernel/records.ts';
import type { StoreTx } from '../../kernel/store.ts';
import { covers } from './rights.ts';
import type { IdentityStore, IdentityTx } from './store.ts';

export interface ChangesOptions {
  readonly store: IdentityStore;
  readonly audit: Pick<Audit<StoreTx>, 'change' | 'record'>;
  /** Of the state that this host follows. */
  readonly revision: () => number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

/** What somebody is, beside their scopes. */
export interface Standing {
  readonly roles: readonly string[];
  /** `L1`, the highest, to `L5`, which is that of everyone without one. */
  readonly level: string | null;
}

/** Less is higher. */
const rank = (level: string | null | undefined): number => Number(level?.slice(1) ?? 5);

export class Changes {
  readonly #options: ChangesOptions;
  #made = 0;

  constructor(options: ChangesOptions) {
    this.#options = options;
  }

  /**
   * Another number after every change that this host made or knows of: what was read under one number
   * need not hold under the next.
   */
  get epoch(): number {
    return this.#options.revision() + this.#made;
  }

  /** The present time as ISO 8601. */
  at(afterMs = 0): string {
    return new Date(this.#options.now() + afterMs).toISOString();
  }

  async make<T>(
    work: (tx: IdentityTx, note: (event: AuditEvent) => void) => Promise<T>,
  ): Promise<T> {
    const { audit, store } = this.#options;
    try {
      return await audit.change((tx, note) => work(store.in(tx), note));
    } finally {
      this.#made += 1;
    }
  }

  /**
   * Throws PERMISSION_DENIED, and notes it, when `actor` lacks one of the scopes that a change would put in
   * someone's hands.
   */
  assertMayGive(actor: Principal, scopes: readonly string[]): void {
    const missing = scopes.filter((scope) => !covers(actor.scopes, scope));
    if (missing.length === 0) return;
    const denied = event('auth.denial', actor.subject, null, { missing });
    this.record({ ...denied, outcome: 'denied', code: 'PERMISSION_DENIED' });
    const text = `${actor.subject} lacks ${missing.join(', ')} and so may not hand it out: ask an administrator who has it`;
    throw new NoaError('PERMISSION_DENIED', text);
  }

  /**
   * Throws PERMISSION_DENIED, and notes it, when a change gives a role or a level that `actor` lacks: policies
   * go by roles too, even by one without scopes, and the rate limit by the level.
   */
  assertMayRaise(actor: Principal, before: Standing, after: Standing): void {
    if (covers(actor.scopes, 'admin')) return;
    const missing = after.roles
      .filter((role) => !before.roles.includes(role) && !actor.roles?.includes(role))
      .map((role) => `the role ${role}`);
    if (rank(after.level) < Math.min(rank(before.level), rank(actor.level))) {
      missing.push(`the level ${after.level}`);
    }
    if (missing.length === 0) return;
    const denied = event('auth.denial', actor.subject, null, { missing });
    this.record({ ...denied, outcome: 'denied', code: 'PERMISSION_DENIED' });
    const text = `${actor.subject} lacks ${missing.join(', ')} and so may not give it: ask an administrator`;
    throw new NoaError('PERMISSION_DENIED', text);
  }

  /** Notes what is no change of anyone's rights. */
  record(event: AuditEvent): void {
    this.#options.audit.record(event);
  }
}
