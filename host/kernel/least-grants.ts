/** The least that grants would have to be, judged by recorded use. Pure. */
import { covers } from '@noa/sdk/host';
import type { AuditRecord } from './audit.ts';
import type { Grant } from './grants.ts';

export interface LeastGrant {
  readonly grant: string;
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
  /** How often the grant was used; 0 proposes to revoke it. */
  readonly uses: number;
  /** What would do; equal to the above when it cannot be less. */
  readonly least: { readonly operations: readonly string[]; readonly resources: readonly string[] };
}

/** More names than these become their common prefix. */
const MAX_NAMES = 8;

/**
 * For each approved grant, the operations and resources that the records show in use. An event that was
 * brought to the plugin used its grant, whatever the plugin made of it.
 */
export function leastGrants(
  grants: readonly Grant[],
  records: readonly AuditRecord[],
): LeastGrant[] {
  const used = records.filter(
    ({ kind, outcome }) =>
      (kind === 'capability.use' && outcome === 'ok') || kind === 'event.delivery',
  );
  return grants
    .filter(({ status }) => status === 'approved')
    .map((grant) => {
      const { id, capability, operations, resources } = grant;
      const mine = used.filter((record) => record.capability === capability);
      const through = mine.filter(
        (record) =>
          operations.includes(record.operation ?? '') &&
          record.resources.some((name) => resources.some((pattern) => covers(pattern, name))),
      );
      const names = new Set(through.flatMap((record) => record.resources));
      const least = {
        operations: operations.filter((name) =>
          through.some(({ operation }) => operation === name),
        ),
        resources: resources.flatMap((pattern) => narrow(pattern, names)),
      };
      return { grant: id, capability, operations, resources, uses: through.length, least };
    });
}

/** What of a pattern was used: nothing, a few names, or the prefix that they share. */
function narrow(pattern: string, used: ReadonlySet<string>): string[] {
  const names = [...used].filter((name) => covers(pattern, name));
  if (names.length <= MAX_NAMES) return names.toSorted();
  let shared = [...(names[0] ?? '')];
  for (const name of names) {
    const characters = [...name];
    const end = shared.findIndex((character, i) => character !== characters[i]);
    if (end >= 0) shared = shared.slice(0, end);
  }
  const prefix = `${shared.join('').replace(/\*$/, '')}*`;
  return [covers(pattern, prefix) ? prefix : pattern];
}
