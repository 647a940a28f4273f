/**
 * What tokens have spent. A child's use is charged to its ancestors as well, so that splitting a budget
 * over children never enlarges it. Charging is synchronous: a hundred parallel calls cannot race it.
 */
import { NoaError, type Usage } from '@noa/sdk/host';
import type { Budget, Claims } from './tokens.ts';

interface Account {
  readonly left: Required<Budget>;
  /** What was spent here and not told to other hosts yet; only of a budget that hosts share. */
  readonly untold: Required<Budget> | undefined;
  readonly parent: string | undefined;
  readonly expiresAt: number;
}

const FIELDS = ['calls', 'rows', 'tokens', 'bytes', 'ms'] as const;

export class Budgets {
  readonly #accounts = new Map<string, Account>();

  /** Opens the token's account, which else is done at its first use. `shared`: other hosts spend of it too. */
  open(claims: Claims, shared = false): void {
    if (this.#accounts.has(claims.id)) return;
    const left = {
      calls: Infinity,
      rows: Infinity,
      tokens: Infinity,
      bytes: Infinity,
      ms: Infinity,
    };
    Object.assign(left, claims.budget);
    const { id, parent, expiresAt } = claims;
    this.#accounts.set(id, { left, untold: shared ? nothing() : undefined, parent, expiresAt });
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
    for (const account of this.#line(claims.id)) spend(account, { calls: 1 });
  }

  /** Charges what the call used once that is known; the next `begin` sees it. */
  end(claims: Claims, usage: Usage, ms: number): void {
    if (!this.#accounts.has(claims.id)) return;
    const { rows = 0, tokens = 0, bytes = 0 } = usage;
    for (const account of this.#line(claims.id)) spend(account, { rows, tokens, bytes, ms });
  }

  /** What was spent here of a shared budget since this was last asked. */
  take(id: string): Required<Budget> {
    const untold = this.#accounts.get(id)?.untold;
    const taken = { ...nothing(), ...untold };
    Object.assign(untold ?? {}, nothing());
    return taken;
  }

  /** Takes back what could not be told. */
  keep(id: string, taken: Required<Budget>): void {
    const untold = this.#accounts.get(id)?.untold;
    if (untold !== undefined) for (const field of FIELDS) untold[field] += taken[field];
  }

  /** Sets what is left of a shared budget by what all hosts told of. */
  settle(id: string, whole: Budget, told: Budget): void {
    const account = this.#accounts.get(id);
    for (const field of FIELDS) {
      if (account?.untold === undefined) return;
      account.left[field] = (whole[field] ?? Infinity) - (told[field] ?? 0) - account.untold[field];
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

function nothing(): Required<Budget> {
  return { calls: 0, rows: 0, tokens: 0, bytes: 0, ms: 0 };
}

function spend({ left, untold }: Account, amounts: Budget): void {
  for (const field of FIELDS) {
    const amount = amounts[field] ?? 0;
    left[field] -= amount;
    if (untold !== undefined) untold[field] += amount;
  }
}
