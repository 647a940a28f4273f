/**
 * Grants: what an administrator allows, against what a manifest requests. A plugin's rights are always
 * the intersection of both; neither side alone gives anything.
 */
import { covers, type CapabilityRequest, NoaError } from '@noa/sdk/host';

export type GrantStatus = 'pending' | 'approved' | 'revoked';

export interface Grant {
  readonly id: string;
  readonly plugin: string;
  readonly capability: string;
  readonly operations: readonly string[];
  /** Canonical patterns: exact names or prefixes that end in `*`. */
  readonly resources: readonly string[];
  /** What the manifest asked for, when the grant answers a request: approval may have narrowed it. */
  readonly requested: {
    readonly operations: readonly string[];
    readonly resources: readonly string[];
  } | null;
  /** The plugin serves without it. */
  readonly optional: boolean;
  readonly reason: string;
  readonly status: GrantStatus;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly decidedAt: string | null;
  readonly decidedBy: string | null;
}

/** What an administrator grants ahead of or beyond a request. */
export interface GrantRequest {
  readonly plugin: string;
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
  readonly reason?: string;
}

/** One line of a token: operations on resources, valid only while every grant named is approved. */
export interface Right {
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
  /** Ids of the grants that this right comes from: the plugin's own and those of its callers. */
  readonly grants: readonly string[];
}

/** The narrower of two resource patterns where they overlap. */
export function overlap(a: string, b: string): string | undefined {
  if (covers(a, b)) return b;
  if (covers(b, a)) return a;
  return undefined;
}

function intersect(left: readonly string[], right: readonly string[]): string[] {
  const found = new Set<string>();
  for (const a of left) {
    for (const b of right) {
      const common = overlap(a, b);
      if (common !== undefined) found.add(common);
    }
  }
  return [...found].sort();
}

interface Reach {
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
}

/** What two reaches have in common, or undefined when that is nothing. */
function common(a: Reach, b: Reach): Reach | undefined {
  if (a.capability !== b.capability) return undefined;
  const operations = a.operations.filter((operation) => b.operations.includes(operation));
  const resources = intersect(a.resources, b.resources);
  if (operations.length === 0 || resources.length === 0) return undefined;
  return { capability: a.capability, operations, resources };
}

/** Requests ∩ approved grants. */
export function effectiveRights(
  requests: readonly CapabilityRequest[],
  grants: readonly Grant[],
): Right[] {
  const rights: Right[] = [];
  for (const request of requests) {
    for (const grant of grants) {
      if (grant.status !== 'approved') continue;
      const reach = common(request, grant);
      if (reach) rights.push({ ...reach, grants: [grant.id] });
    }
  }
  return rights;
}

/** The rights of a call that `caller` makes into a plugin that has `callee`: what both have. */
export function intersectRights(caller: readonly Right[], callee: readonly Right[]): Right[] {
  const rights: Right[] = [];
  for (const a of caller) {
    for (const b of callee) {
      const reach = common(a, b);
      if (reach) rights.push({ ...reach, grants: [...new Set([...a.grants, ...b.grants])] });
    }
  }
  return rights;
}

/** True when every line of `narrow` lies within some line of `wide`, grants included. */
export function within(narrow: readonly Right[], wide: readonly Right[]): boolean {
  return narrow.every((right) =>
    right.operations.every((operation) =>
      right.resources.every((resource) =>
        wide.some(
          (other) =>
            other.capability === right.capability &&
            other.operations.includes(operation) &&
            other.resources.some((pattern) => covers(pattern, resource)) &&
            other.grants.every((grant) => right.grants.includes(grant)),
        ),
      ),
    ),
  );
}

/**
 * What callers and callees have in common, worked out once for two of them as they stand: it compares each
 * resource of one with each of the other, and calls are many.
 */
export class CommonRights {
  readonly #known = new WeakMap<readonly Right[], WeakMap<readonly Right[], readonly Right[]>>();

  /** Lists of rights are never changed: others are other lists. */
  of(caller: readonly Right[], callee: readonly Right[]): readonly Right[] {
    const known = this.#known.get(caller) ?? new WeakMap<readonly Right[], readonly Right[]>();
    this.#known.set(caller, known);
    const remembered = known.get(callee);
    if (remembered) return remembered;
    const rights = intersectRights(caller, callee);
    if (!within(rights, caller)) {
      throw new NoaError('INTERNAL', 'an attenuated token would be wider than its parent');
    }
    known.set(callee, rights);
    return rights;
  }
}

/** True when approved grants cover every operation and resource of the request. */
export function isCovered(request: Reach, grants: readonly Grant[]): boolean {
  return request.operations.every((operation) =>
    request.resources.every((resource) =>
      grants.some(
        (grant) =>
          grant.status === 'approved' &&
          grant.capability === request.capability &&
          grant.operations.includes(operation) &&
          grant.resources.some((pattern) => covers(pattern, resource)),
      ),
    ),
  );
}

/** The grant that was opened for this request, whatever was decided of it. */
export function grantOf(request: Reach, grants: readonly Grant[]): Grant | undefined {
  return grants.find(
    (grant) =>
      grant.capability === request.capability &&
      grant.requested !== null &&
      sameSet(grant.requested.operations, request.operations) &&
      sameSet(grant.requested.resources, request.resources),
  );
}

/** Required requests that nobody has decided yet: while there is one, the plugin is pending. */
export function undecided(
  requests: readonly CapabilityRequest[],
  grants: readonly Grant[],
): CapabilityRequest[] {
  return requests.filter((request) => {
    if (request.optional || isCovered(request, grants)) return false;
    const grant = grantOf(request, grants);
    return grant === undefined || grant.status === 'pending';
  });
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item) => b.includes(item));
}
