/**
 * Answers to what an administrator asks of rights before deciding: why a use is or is not allowed, what
 * recorded use would need at least, and how grants differ from what is asked for. Changes nothing, and
 * says of each answer by which decision or command it would be another.
 */
import { type CapabilityRequest, covers, type Manifest } from '@noa/sdk/host';
import type { Audit, AuditRecord } from './audit.ts';
import { effectiveRights, type Grant, grantOf, isCovered } from './grants.ts';
import type { Judge } from './judge.ts';
import type { Store, StoreTx } from './store.ts';
import type { Supervisor } from './supervisor.ts';
import { type LeastGrant, leastGrants } from './least-grants.ts';
import { noPlugin } from './views.ts';

export interface Question {
  readonly plugin: string;
  readonly capability: string;
  readonly operation: string;
  /** Any resource when absent. */
  readonly resource?: string;
}

/** `open`: to every plugin. `unrequested`: no grant can give what plugin.json does not ask for. */
export type Rule = 'open' | 'granted' | 'unrequested' | 'pending' | 'revoked' | 'narrowed';

export interface Explanation extends Question {
  readonly allowed: boolean;
  readonly rule: Rule;
  readonly because: string;
  /** The grants that decided. */
  readonly grants: readonly string[];
  /** What would allow it; null when it is allowed. */
  readonly remedy: string | null;
}

export interface Suggestion {
  readonly plugin: string;
  /** Uses and denials that were looked at, of the newest records. */
  readonly records: number;
  /** ISO 8601 time of the oldest of them; null when there is none. */
  readonly since: string | null;
  readonly grants: readonly LeastGrant[];
}

interface Reach {
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
}

/** One line of the difference: a request with what became of it, or a grant that nothing asks for. */
export interface Difference extends Reach {
  readonly status: 'granted' | 'narrowed' | 'pending' | 'revoked' | 'unrequested';
  readonly optional: boolean;
  /** What approved grants give of it. */
  readonly given: readonly Reach[];
  readonly grant: string | null;
}

export interface AdviceOptions {
  readonly store: Pick<Store, 'auditPage'>;
  readonly audit: Pick<Audit<StoreTx>, 'flush'>;
  readonly supervisor: Supervisor;
  readonly judge: Judge;
}

/** Records of the audit that a suggestion looks at, newest first. */
const MAX_RECORDS = 20_000;
const PAGE = 1000;

export class Advice {
  readonly #options: AdviceOptions;

  constructor(options: AdviceOptions) {
    this.#options = options;
  }

  /** Throws NOT_FOUND, and INVALID_ARGUMENT for a capability or operation that this host has not. */
  explain(question: Question): Explanation {
    const { plugin, capability, operation, resource } = question;
    const { manifest, grants } = this.#of(plugin, 'active');
    const answer = (rule: Rule, because: string, by: readonly Grant[], remedy: string | null) => ({
      ...question,
      allowed: remedy === null,
      rule,
      because,
      grants: by.map(({ id }) => id),
      remedy,
    });
    if (this.#options.judge.isOpen(capability, operation)) {
      return answer('open', `${capability} is open to every plugin`, [], null);
    }
    const wanted = this.#spellings(question);
    const touches = ({ operations, resources }: Reach): boolean =>
      operations.includes(operation) &&
      (resource === undefined ||
        resources.some((pattern) => wanted.some((name) => covers(pattern, name))));
    const requests = manifest.capabilities ?? [];
    const asked = requests.filter(
      (request) => request.capability === capability && touches(request),
    );
    const on = resource === undefined ? '' : ` on ${JSON.stringify(resource)}`;
    const use = `${capability}.${operation}${on}`;
    if (asked.length === 0) {
      const known = requests.filter((request) => request.capability === capability).map(reachText);
      const has = known.length === 0 ? `nothing of ${capability}` : known.join('; ');
      return answer(
        'unrequested',
        `plugin.json does not ask for ${use}; it asks for ${has}`,
        [],
        `a version of ${plugin} whose plugin.json asks for it; no grant gives more than is asked for`,
      );
    }
    const given = effectiveRights(requests, grants).filter(
      (right) => right.capability === capability && touches(right),
    );
    if (given.length > 0) {
      const ids = new Set(given.flatMap((right) => right.grants));
      const by = grants.filter(({ id }) => ids.has(id));
      return answer('granted', `${by.map(decision).join('; ')}`, by, null);
    }
    const opened = asked.flatMap((request) => grantOf(request, grants) ?? []);
    const [grant] = opened;
    if (grant === undefined || grant.status === 'pending') {
      const because = `${use} is asked for, and nobody has decided`;
      return answer('pending', because, opened, remedyFor(plugin, grant));
    }
    const because = `${decision(grant)}; that does not cover ${use}`;
    const rule = grant.status === 'revoked' ? 'revoked' : 'narrowed';
    return answer(rule, because, opened, remedyFor(plugin, grant));
  }

  /** The least that each approved grant would have to be for the recorded uses. Rejects with NOT_FOUND. */
  async suggest(plugin: string): Promise<Suggestion> {
    const { grants } = this.#of(plugin, 'active');
    await this.#options.audit.flush();
    const records: AuditRecord[] = [];
    let seen = 0;
    for (let cursor: string | null = ''; cursor !== null && seen < MAX_RECORDS;) {
      const page = await this.#options.store.auditPage({
        limit: PAGE,
        plugin,
        ...(cursor === '' ? {} : { cursor }),
      });
      seen += page.records.length;
      records.push(...page.records.filter(({ kind }) => isUse(kind)));
      cursor = page.next;
    }
    const since = records.at(-1)?.timestamp ?? null;
    return { plugin, records: records.length, since, grants: leastGrants(grants, records) };
  }

  /** The requests of the version that is to serve, against what is granted. Throws NOT_FOUND. */
  diff(plugin: string): Difference[] {
    const { manifest, grants } = this.#of(plugin, 'newest');
    const requests = manifest.capabilities ?? [];
    const asked = requests.map((request) => difference(request, grants));
    const beyond = grants.filter(
      (grant) => grant.status === 'approved' && effectiveRights(requests, [grant]).length === 0,
    );
    return [
      ...asked,
      ...beyond.map(({ id, capability, operations, resources }): Difference => {
        const reach = { capability, operations, resources };
        return { ...reach, status: 'unrequested', optional: true, given: [], grant: id };
      }),
    ];
  }

  /** As it was written and, where that is another, as it is kept. */
  #spellings({ capability, operation, resource }: Question): string[] {
    if (resource === undefined) {
      this.#options.judge.operation(capability, operation);
      return [];
    }
    const { resources } = this.#options.judge.reach(capability, [operation], [resource]);
    return [resource, ...resources];
  }

  #of(plugin: string, which: 'active' | 'newest'): { manifest: Manifest; grants: Grant[] } {
    const { plugins, versions, grants } = this.#options.supervisor.snapshot;
    const record = plugins.find(({ name }) => name === plugin);
    const digest = which === 'newest' ? (record?.candidate ?? record?.active) : record?.active;
    const version = versions.find((item) => item.plugin === plugin && item.digest === digest);
    if (version === undefined) throw noPlugin(plugin);
    return {
      manifest: version.manifest,
      grants: grants.filter((grant) => grant.plugin === plugin),
    };
  }
}

function isUse(kind: string): boolean {
  return kind.startsWith('capability.') || kind === 'event.delivery';
}

function difference(request: CapabilityRequest, grants: readonly Grant[]): Difference {
  const { capability, operations, resources, optional = false } = request;
  const given = effectiveRights([request], grants).map((right) => ({
    capability,
    operations: right.operations,
    resources: right.resources,
  }));
  const grant = grantOf(request, grants);
  const open = grant === undefined || grant.status === 'approved' ? 'pending' : grant.status;
  const status = isCovered(request, grants) ? 'granted' : given.length > 0 ? 'narrowed' : open;
  return {
    capability,
    operations,
    resources,
    optional,
    status,
    given,
    grant: grant?.id ?? null,
  };
}

function reachText({ operations, resources }: Reach): string {
  return `${operations.join(',')} on ${resources.join(',')}`;
}

function decision(grant: Grant): string {
  const { id, capability, status, decidedBy, decidedAt } = grant;
  const when = decidedAt === null ? '' : ` by ${decidedBy ?? 'nobody'} at ${decidedAt}`;
  return `grant ${id} (${capability} ${reachText(grant)}) was ${status}${when}`;
}

function remedyFor(plugin: string, grant: Grant | undefined): string {
  return `noa grant approve ${grant?.id ?? plugin}`;
}
