/** What a manifest's event subscriptions ask for, and whether they are given it. Pure. */
import { type CapabilityRequest, covers, type Manifest } from '@noa/sdk/host';
import { effectiveRights, type Grant, overlap } from './grants.ts';

export interface SubscriptionView {
  readonly subject: string;
  readonly export: string;
  /** Why none of its events are delivered, and what changes that; null when they are. */
  readonly undelivered: string | null;
}

/** What the subscriptions ask for beyond what is requested anyway. */
export function subscriptionRequests(
  { contributes }: Manifest,
  requests: readonly CapabilityRequest[],
): CapabilityRequest[] {
  const asked = (subject: string): boolean =>
    requests.some(
      (request) =>
        isSubscribe(request) && request.resources.some((pattern) => covers(pattern, subject)),
    );
  const wanted = Map.groupBy(contributes?.subscriptions ?? [], ({ subject }) => subject);
  return [...wanted].flatMap(([subject, specs]) => {
    if (asked(subject)) return [];
    const exports = specs.map((spec) => spec.export).join(', ');
    const reason = `Events on ${subject} are delivered to its export ${exports}.`;
    return [{ capability: 'events', operations: ['subscribe'], resources: [subject], reason }];
  });
}

/** The subscriptions of an installed version, against the plugin's grants. */
export function viewSubscriptions(
  { name, capabilities = [], contributes }: Manifest,
  grants: readonly Grant[],
): SubscriptionView[] {
  const touches = (subject: string) => (reach: Reach) =>
    isSubscribe(reach) && reach.resources.some((pattern) => overlap(pattern, subject));
  const rights = effectiveRights(capabilities, grants);
  return (contributes?.subscriptions ?? []).map(({ subject, export: target }) => {
    const given = rights.some(touches(subject));
    if (given) return { subject, export: target, undelivered: null };
    const grant = grants.find(touches(subject));
    const why = grant === undefined ? 'not granted' : `grant ${grant.status}`;
    const remedy = `noa grant approve ${grant?.id ?? `${name} --all`}`;
    const undelivered = `events on ${subject} are not delivered: ${why}; ${remedy}`;
    return { subject, export: target, undelivered };
  });
}

type Reach = Pick<CapabilityRequest, 'capability'> & {
  readonly operations: readonly string[];
  readonly resources: readonly string[];
};

function isSubscribe({ capability, operations }: Reach): boolean {
  return capability === 'events' && operations.includes('subscribe');
}
