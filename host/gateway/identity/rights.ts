/** What identities may do. Invariant: whatever a credential says, it gives at most what its owner has now. */
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
