/** What identities may do. Invariant: whatever a credential says, it gives at most what its owner has now. */
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../../kernel/chain.ts';
import type { Holder } from './store.ts';

/** A scope: `admin`, `<area>:read`, `<area>:write`, `plugins:call` …, or one that policies go by. */
export const SCOPE = '[a-z][a-z0-9:._-]{0,63}';

const ADMINISTRATION = ['read', 'write'];
/** What the host itself asks for. Scopes of one's own lie in no such area. */
const OF_THE_HOST: { readonly [area: string]: readonly string[] } = {
  plugins: [...ADMINISTRATION, 'call'],
  grants: ADMINISTRATION,
  secrets: ADMINISTRATION,
  tokens: ADMINISTRATION,
  audit: ADMINISTRATION,
  auth: ADMINISTRATION,
  hosts: ADMINISTRATION,
  models: ADMINISTRATION,
  events: ['read'],
  metrics: ['read'],
};

/** Throws INVALID_ARGUMENT for what looks like a scope of the host and gives nothing. */
export function assertScopes(scopes: readonly string[] = []): void {
  for (const scope of scopes) {
    const [area = '', ...right] = scope.split(':');
    const known = Object.hasOwn(OF_THE_HOST, area) ? OF_THE_HOST[area] : undefined;
    if (known === undefined || known.includes(right.join(':'))) continue;
    const text = `scopes: ${scope} is none of this host: of ${area} there are ${known.join(', ')}`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
}

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
