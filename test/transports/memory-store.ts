/** The kernel's state in memory, all or nothing a change: what a transport's test needs of a store. */
import { NoaError } from '@noa/sdk/host';
import type { AuditRecord, ChainHead } from '../../host/kernel/audit.ts';
import type {
  CallerTokenStore,
  CallerTokenTx,
  CallerTokenView,
  Spending,
} from '../../host/kernel/caller-token-records.ts';
import type { Grant } from '../../host/kernel/grants.ts';
import type {
  AuditPage,
  PluginRecord,
  PluginVersion,
  SealedSecret,
  SecretView,
  Snapshot,
  Store,
  StoredConfiguration,
  StoreTx,
} from '../../host/kernel/store.ts';
import type { TokenKey } from '../../host/kernel/key-ring.ts';
import type { Budget } from '../../host/kernel/tokens.ts';

/** Capability tokens of callers in memory. */
export class MemoryCallerTokens implements CallerTokenStore {
  readonly #tokens = new Map<string, CallerTokenView>();
  readonly #spent = new Map<string, Budget>();

  in(): CallerTokenTx {
    return {
      put: (token) => Promise.resolve(void this.#tokens.set(token.id, token)),
      count: () => Promise.resolve(this.#tokens.size),
      delete: (id) => Promise.resolve(this.#delete(id)),
    };
  }

  #delete(id: string): boolean {
    for (const { id: child, parent } of this.#tokens.values())
      if (parent === id) this.#delete(child);
    return this.#tokens.delete(id);
  }

  #familySize(id: string): number {
    const children = [...this.#tokens.values()].filter(({ parent }) => parent === id);
    return children.reduce((size, child) => size + this.#familySize(child.id), 1);
  }

  putChild(token: CallerTokenView, root: string, most: number): Promise<boolean> {
    const { parent } = token;
    const hasParent = parent !== null && this.#tokens.has(parent);
    const hasRoom = hasParent && this.#familySize(root) < most;
    if (hasRoom) this.#tokens.set(token.id, token);
    return Promise.resolve(hasRoom);
  }

  line(id: string, now: string): Promise<CallerTokenView[]> {
    const line: CallerTokenView[] = [];
    for (let next: string | null = id; next !== null;) {
      const token: CallerTokenView | undefined = this.#tokens.get(next);
      if (token === undefined || token.expiresAt <= now) break;
      line.push(token);
      next = token.parent;
    }
    return Promise.resolve(line);
  }

  /** One host alone: it knows what it has spent. */
  spend(spent: readonly Spending[]): Promise<Spending[]> {
    for (const { id, spent: more } of spent) {
      const sum: Record<string, number> = { ...this.#spent.get(id) };
      for (const [field, amount] of Object.entries<number>({ ...more }))
        sum[field] = (sum[field] ?? 0) + amount;
      this.#spent.set(id, sum);
    }
    return Promise.resolve(spent.map(({ id }) => ({ id, spent: { ...this.#spent.get(id) } })));
  }

  present(ids: readonly string[]): Promise<string[]> {
    return Promise.resolve(ids.filter((id) => this.#tokens.has(id)));
  }

  list(after = '', limit: number): Promise<CallerTokenView[]> {
    const later = [...this.#tokens.values()].filter(({ id }) => id > after);
    return Promise.resolve(later.toSorted((a, b) => (a.id < b.id ? -1 : 1)).slice(0, limit));
  }

  sweep(): Promise<void> {
    return Promise.resolve();
  }
}

class State {
  revision = 0;
  plugins = new Map<string, PluginRecord>();
  versions = new Map<string, PluginVersion>();
  bundles = new Map<string, Uint8Array>();
  grants = new Map<string, Grant>();
  configurations = new Map<string, StoredConfiguration>();
  keys = new Map<string, TokenKey>();
  secrets = new Map<string, SealedSecret>();
  leftovers = new Set<string>();
  audit: AuditRecord[] = [];
}

export class MemoryStore implements Store {
  #state = new State();

  async transaction<T>(work: (tx: StoreTx) => Promise<T>): Promise<T> {
    const state = structuredClone(this.#state);
    const next = Object.assign(new State(), state);
    const result = await work(transactionOn(next));
    next.revision += 1;
    this.#state = next;
    return result;
  }

  revision(): Promise<number> {
    return Promise.resolve(this.#state.revision);
  }

  snapshot(): Promise<Snapshot> {
    const { revision, plugins, versions, grants, configurations, keys } = this.#state;
    const all = {
      plugins: [...plugins.values()],
      versions: [...versions.values()],
      grants: [...grants.values()],
      configurations: [...configurations.values()],
      keys: [...keys.values()],
    };
    return Promise.resolve({ revision, ...all });
  }

  bundle(digest: string): Promise<Uint8Array> {
    const bytes = this.#state.bundles.get(digest);
    if (bytes === undefined) return Promise.reject(new NoaError('NOT_FOUND', 'no such bundle'));
    return Promise.resolve(bytes);
  }

  leftovers(): Promise<string[]> {
    return Promise.resolve([...this.#state.leftovers]);
  }

  secret(name: string): Promise<SealedSecret | undefined> {
    return Promise.resolve(this.#state.secrets.get(name));
  }

  secrets(): Promise<SecretView[]> {
    const views = [...this.#state.secrets.values()].map(({ name, createdAt, updatedAt }) => ({
      name,
      createdAt,
      updatedAt,
    }));
    return Promise.resolve(views.toSorted((a, b) => (a.name < b.name ? -1 : 1)));
  }

  head(chain: string): Promise<ChainHead | undefined> {
    return Promise.resolve(this.#state.audit.findLast((record) => record.chain === chain));
  }

  append(records: readonly AuditRecord[]): Promise<void> {
    this.#state.audit.push(...records);
    return Promise.resolve();
  }

  async appendIn(tx: StoreTx, records: readonly AuditRecord[]): Promise<void> {
    (tx as StoreTx & { audit: AuditRecord[] }).audit.push(...records);
  }

  /** The cursor is the number of records already read. */
  auditPage(query: { cursor?: string; limit: number; plugin?: string }): Promise<AuditPage> {
    const from = Number(query.cursor ?? 0);
    const found = this.#state.audit
      .filter(({ plugin }) => query.plugin === undefined || plugin === query.plugin)
      .toReversed();
    const end = from + query.limit;
    return Promise.resolve({
      records: found.slice(from, end),
      next: end < found.length ? String(end) : null,
    });
  }

  async *auditAll(): AsyncIterable<AuditRecord> {
    yield* this.#state.audit;
  }
}

function transactionOn(state: State): StoreTx & { audit: AuditRecord[] } {
  const put = <T>(map: Map<string, T>, key: string, value: T): Promise<void> => {
    map.set(key, value);
    return Promise.resolve();
  };
  const of = <T extends { plugin: string }>(map: Map<string, T>, name: string): Promise<T[]> =>
    Promise.resolve([...map.values()].filter(({ plugin }) => plugin === name));
  return {
    audit: state.audit,
    plugin: (name) => Promise.resolve(state.plugins.get(name)),
    grpcVersions: () => {
      const enabled = [...state.plugins.values()].filter((record) => record.enabled);
      const digests = enabled.flatMap(({ active, candidate }) => [active, candidate]);
      const versions = [...state.versions.values()].filter(({ digest }) =>
        digests.includes(digest),
      );
      return Promise.resolve(versions.filter(({ manifest }) => manifest.contributes?.grpc));
    },
    versions: (name) => of(state.versions, name),
    grants: (name) => of(state.grants, name),
    grant: (id) => Promise.resolve(state.grants.get(id)),
    keys: () => Promise.resolve([...state.keys.values()]),
    configuration: (name) => Promise.resolve(state.configurations.get(name)),
    // Nothing is delivered or timed in memory.
    keepSchedules: () => Promise.resolve(),
    keepSubscriptions: () => Promise.resolve(),
    putConfiguration: (value) => put(state.configurations, value.plugin, value),
    putPlugin: (record) => put(state.plugins, record.name, record),
    putVersion: async (version, bundle) => {
      await put(state.versions, version.digest, version);
      await put(state.bundles, version.digest, bundle);
    },
    keepVersions: (name, digests) => {
      for (const [digest, { plugin }] of state.versions) {
        if (plugin === name && !digests.includes(digest)) state.versions.delete(digest);
      }
      return Promise.resolve();
    },
    deletePlugin: (name) => {
      state.plugins.delete(name);
      state.configurations.delete(name);
      for (const [digest, { plugin }] of state.versions) {
        if (plugin === name) state.versions.delete(digest);
      }
      for (const [id, { plugin }] of state.grants) if (plugin === name) state.grants.delete(id);
      return Promise.resolve();
    },
    putLeftover: (name) => Promise.resolve(void state.leftovers.add(name)),
    deleteLeftover: (name) => Promise.resolve(void state.leftovers.delete(name)),
    putGrant: (grant) => put(state.grants, grant.id, grant),
    deleteGrant: (id) => Promise.resolve(void state.grants.delete(id)),
    putKey: (key) => put(state.keys, key.kid, key),
    secret: (name) => Promise.resolve(state.secrets.get(name)),
    countSecrets: () => Promise.resolve(state.secrets.size),
    putSecret: (secret) => put(state.secrets, secret.name, secret),
    deleteSecret: (name) => Promise.resolve(void state.secrets.delete(name)),
  };
}
