/**
 * What is known of a capability token of a caller, the port to where it is kept, and when one is narrower than
 * another.
 */
import { NoaError } from '@noa/sdk/host';
import { overlap, type Right } from './grants.ts';
import type { StoreTx } from './store.ts';
import type { Budget, Claims } from './tokens.ts';

export const BUDGET_FIELDS = ['calls', 'rows', 'tokens', 'bytes', 'ms'] as const;

/** Any host of these. */
export const AUDIENCE = 'noa';

/** Operations on resources, without the grants that allow them: those are the plugins' own. */
export type Reach = Omit<Right, 'grants'>;

/** What a token is to hold. */
export interface CallerTokenInput {
  /** Exports that its bearer may call: `plugin/export`, or a prefix that ends in `*`. */
  readonly calls: readonly string[];
  /** What the called plugins may use, as far as they have it; all that they have when absent. */
  readonly rights?: readonly Reach[];
  /** Of all calls together; what other hosts spend of it counts a second later. */
  readonly budget?: Budget;
  /** Seconds, 60 to 300; 300 when absent. */
  readonly lifeSeconds?: number;
}

/** As it is kept and shown; its text is shown once. */
export interface CallerTokenView {
  readonly id: string;
  readonly parent: string | null;
  /** `caller:<name>`: who it speaks for in logs, limits and the audit. */
  readonly subject: string;
  readonly calls: readonly string[];
  readonly rights: readonly Reach[] | null;
  readonly budget: Budget | null;
  /** Of its rate limit. */
  readonly level: string | null;
  readonly createdBy: string;
  readonly createdAt: string;
  readonly expiresAt: string;
}

export interface CallerTokenTx {
  put(token: CallerTokenView): Promise<void>;
  count(now: string): Promise<number>;
  /** With all that descend from it; false when there is none. */
  delete(id: string): Promise<boolean>;
}

/** What was spent of one token's budget. */
export interface Spending {
  readonly id: string;
  readonly spent: Budget;
}

/** What is kept of them. */
export interface CallerTokenStore {
  in(tx: StoreTx): CallerTokenTx;
  /** A child. False when its parent is gone, or `root`, which all of them descend from, has a family of `most`. */
  putChild(token: CallerTokenView, root: string, most: number): Promise<boolean>;
  /** The token and its ancestors, itself first; none when it is gone. */
  line(id: string, now: string): Promise<readonly CallerTokenView[]>;
  /** Which of these are there. */
  present(ids: readonly string[]): Promise<readonly string[]>;
  /** Adds what was spent of these budgets, and tells what all hosts have. Of those that are gone, nothing. */
  spend(spent: readonly Spending[]): Promise<readonly Spending[]>;
  /** In order of id. */
  list(after: string | undefined, limit: number, now: string): Promise<readonly CallerTokenView[]>;
  sweep(now: string): Promise<void>;
}

/** Throws PERMISSION_DENIED with what of a token its parent does not hold. */
export function assertNarrower(view: CallerTokenView, parent: CallerTokenView): void {
  const isIn = (patterns: readonly string[]) => (resource: string) =>
    patterns.some((pattern) => overlap(pattern, resource) === resource);
  const call = view.calls.find((resource) => !isIn(parent.calls)(resource));
  if (call !== undefined) throw wider(`calls: ${call}`);
  if (parent.rights !== null) {
    if (view.rights === null) throw wider('rights: all that the plugins have');
    for (const { capability, operations, resources } of view.rights) {
      for (const operation of operations) {
        const held = parent.rights
          .filter(
            (right) => right.capability === capability && right.operations.includes(operation),
          )
          .flatMap((right) => right.resources);
        const lacking = resources.find((resource) => !isIn(held)(resource));
        if (lacking !== undefined) throw wider(`rights: ${capability}.${operation} on ${lacking}`);
      }
    }
  }
  for (const field of BUDGET_FIELDS) {
    const most = parent.budget?.[field] ?? Infinity;
    const wanted = view.budget?.[field];
    if (wanted !== undefined && wanted > most) throw wider(`budget: ${field} over ${most}`);
  }
}

function wider(what: string): NoaError {
  return new NoaError(
    'PERMISSION_DENIED',
    `${what} is more than the token holds that makes this one`,
  );
}

/** As the tokens of plugins are told of it, for it stands above theirs. */
export function claimsOf(view: CallerTokenView): Claims {
  const { id, parent, subject, budget, createdAt, expiresAt } = view;
  return {
    id,
    parent: parent ?? undefined,
    kid: '',
    plugin: subject,
    instance: AUDIENCE,
    generation: 0,
    issuedAt: Date.parse(createdAt) / 1000,
    expiresAt: Date.parse(expiresAt) / 1000,
    rights: [],
    budget: budget ?? undefined,
  };
}

/** As the audit has it. */
export function describe({ id, parent, calls, rights, budget, expiresAt }: CallerTokenView) {
  return {
    token: id,
    ...(parent === null ? {} : { parent }),
    calls: calls.slice(0, 16),
    rights: (rights ?? []).slice(0, 16).map(({ capability }) => capability),
    ...(budget === null ? {} : { budget: { ...budget } }),
    expiresAt,
  };
}
