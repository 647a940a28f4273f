/**
 * What tokens have spent. A child's use is charged to its ancestors as well, so that splitting a budget
 * over children never enlarges it. Charging is synchronous: a hundred parallel calls cannot race it.
 */
import { NoaError, type Usage } from '@noa/sdk/host';
import type { Budget, Claims } from './tokens.ts';

interface Account {
  readonly left: Required<Budget>;
  readonly parent: string | undefined;
  readonly expiresAt: number;
}

const FIELDS = ['calls', 'rows', 'tokens', 'bytes', 'ms'] as const;

export class Budgets {
  readonly #accounts = new Map<string, Account>();

  /** Opens the token's account, which else is done at its first use. */
  open(claims: Claims): void {
    if (this.#accounts.has(claims.id)) return;
    const left = {
      calls: Infinity,
      rows: Infinity,
      tokens: Infinity,
      bytes: Infinity,
      ms: Infinity,
    };
    Object.assign(left, claims.budget);
    this.#accounts.set(claims.id, { left, parent: claims.parent, expiresAt: claims.expiresAt });
  }

  /** Takes one call. Throws RESOURCE_EXHAUSTED, naming the field, when the token or an ancestor is spent. */
  begin(claims: Claims): void {
    if (claims.budget === undefined && claims.parent === undefined) return;
    this.open(claims);
    for (const account of this.#line(claims.id)) {
      const spent = FIELDS.find((field) => account.left[field] <= 0);
      if (spent !== undefined) {
        throw new NoaError('RESOURCE_EXHAUSTED', `the token's budget of ${spent} is spent`);
      }
    }
    for (const account of this.#line(claims.id)) account.left.calls -= 1;
  }

  /** Charges what the call used once that is known; the next `begin` sees it. */
  end(claims: Claims, usage: Usage, ms: number): void {
    if (!this.#accounts.has(claims.id)) return;
    for (const account of this.#line(claims.id)) {
      account.left.rows -= usage.rows ?? 0;
      account.left.tokens -= usage.tokens ?? 0;
      account.left.bytes -= usage.bytes ?? 0;
      account.left.ms -= ms;
    }
  }

  *#line(id: string): Generator<Account> {
    let next: string | undefined = id;
    while (next !== undefined) {
      const account = this.#accounts.get(next);
      if (account === undefined) return;
      yield account;
      next = account.parent;
    }
  }

  /** Forgets accounts of expired tokens. `now` in milliseconds since the epoch. */
  sweep(now: number): void {
    for (const [id, account] of this.#accounts) {
      if (account.expiresAt * 1000 < now) this.#accounts.delete(id);
    }
  }
}
