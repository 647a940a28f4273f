/**
 * What identities may do. Invariant: nobody hands out a scope that they do not have, and whatever is made
 * from a credential has at most what its owner has now.
 */
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../../kernel/chain.ts';
import type { Holder } from './store.ts';

/** A scope: `admin`, `<area>:read`, `<area>:write`, `plugins:call` …, or one that policies go by. */
export const SCOPE = '[a-z][a-z0-9:._-]{0,63}';

export function covers(held: readonly string[], scope: string): boolean {
  return held.includes(scope) || held.includes('admin');
}

/** What two lists of scopes both give. */
export function common(a: readonly string[], b: readonly string[]): string[] {
  const ofA = a.filter((scope) => covers(b, scope));
  const ofB = b.filter((scope) => covers(a, scope));
  return [...new Set([...ofA, ...ofB])];
}

/** The principal that a credential of `holder` with at most these scopes makes. */
export function principalOf(holder: Holder, most: readonly string[] = holder.effective): Principal {
  const { subject, roles, level, effective } = holder;
  return {
    subject,
    scopes: common(effective, most),
    roles,
    ...(level === null ? {} : { level }),
  };
}

/** Throws PERMISSION_DENIED when `actor` lacks one of the scopes that a change would put in someone's hands. */
export function assertMayGive(actor: Principal, scopes: readonly string[]): void {
  const missing = scopes.filter((scope) => !covers(actor.scopes, scope));
  if (missing.length === 0) return;
  const text = `${actor.subject} lacks ${missing.join(', ')} and so may not hand it out: ask an administrator who has it`;
  throw new NoaError('PERMISSION_DENIED', text);
}
