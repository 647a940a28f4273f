/**
 * The kernel's state in PostgreSQL: the `Store` port over schema `noa` (see migrations/). Invariant: a
 * change holds the row of `noa.revision` from its first read to its commit, so that changes of all hosts
 * take turns and none is computed from a state that has passed.
 */
import { type Manifest, NoaError } from '@noa/sdk/host';
import type { Pool, PoolClient } from 'pg';
import type { AuditRecord, ChainHead } from '../kernel/audit.ts';
import type { Subscription } from '../kernel/events.ts';
import type { Grant } from '../kernel/grants.ts';
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
} from '../kernel/store.ts';
import type { TokenKey } from '../kernel/key-ring.ts';
import { allAudit, type AuditQuery, insertAudit, selectAuditPage, selectHead } from './audit.ts';
import { connected } from './connected.ts';
import { selectConfigurations, upsertConfiguration } from './configurations.ts';
import { keepSubscriptions } from './deliveries.ts';
import { selectGrant, selectGrants, upsertGrant } from './grants.ts';
import { keepSchedules } from './schedules.ts';
import {
  countSecrets,
  deleteSecret,
  selectSecret,
  selectSecrets,
  upsertSecret,
} from './secrets.ts';

interface VersionRow {
  plugin: string;
  version: string;
  digest: string;
  manifest: Manifest;
  installed_at: Date;
}

interface KeyRow {
  kid: string;
  created_at: Date;
  retired_at: Date | null;
}

const VERSION_COLUMNS = 'plugin, version, digest, manifest, installed_at';
const PLUGIN_COLUMNS = 'name, enabled, active, candidate, previous, pinned';

export class PostgresStore implements Store {
  readonly #pool: Pool;

  /** `pool` logs in as the owner of schema `noa`. */
  constructor(pool: Pool) {
    this.#pool = pool;
  }

  async revision(): Promise<number> {
    const { rows } = await this.#query<{ value: string }>('select value from noa.revision');
    return Number(rows[0]?.value);
  }

  async snapshot(): Promise<Snapshot> {
    return this.#connected(async (client) => {
      await client.query('begin isolation level repeatable read read only');
      const revision = await client.query<{ value: string }>('select value from noa.revision');
      const plugins = await client.query<PluginRecord>(
        `select ${PLUGIN_COLUMNS} from noa.plugins order by name`,
      );
      const versions = await client.query<VersionRow>(
        `select ${VERSION_COLUMNS} from noa.versions order by plugin, installed_at`,
      );
      const grants = await selectGrants(client);
      const configurations = await selectConfigurations(client);
      const keys = await client.query<KeyRow>(
        'select kid, created_at, retired_at from noa.token_keys',
      );
      await client.query('commit');
      return {
        revision: Number(revision.rows[0]?.value),
        plugins: plugins.rows,
        versions: versions.rows.map(toVersion),
        grants,
        configurations,
        keys: keys.rows.map(toKey),
      };
    });
  }

  async bundle(digest: string): Promise<Uint8Array> {
    const { rows } = await this.#query<{ bundle: Buffer }>(
      'select bundle from noa.versions where digest = $1 limit 1',
      [digest],
    );
    const bundle = rows[0]?.bundle;
    if (bundle === undefined) throw new NoaError('NOT_FOUND', `no bundle has the digest ${digest}`);
    return bundle;
  }

  async leftovers(): Promise<string[]> {
    const { rows } = await this.#query<{ plugin: string }>('select plugin from noa.leftovers');
    return rows.map(({ plugin }) => plugin);
  }

  secret(name: string): Promise<SealedSecret | undefined> {
    return this.#connected((client) => selectSecret(client, name));
  }

  secrets(): Promise<SecretView[]> {
    return this.#connected(selectSecrets);
  }

  auditPage(query: AuditQuery): Promise<AuditPage> {
    return this.#connected((client) => selectAuditPage(client, query));
  }

  auditAll(): AsyncGenerator<AuditRecord> {
    return allAudit((work) => this.#connected(work));
  }

  head(chain: string): Promise<ChainHead | undefined> {
    return this.#connected((client) => selectHead(client, chain));
  }

  append(records: readonly AuditRecord[]): Promise<void> {
    return this.#connected((client) => insertAudit(client, records));
  }

  appendIn(tx: StoreTx, records: readonly AuditRecord[]): Promise<void> {
    return insertAudit(clientOf(tx), records);
  }

  transaction<T>(work: (tx: StoreTx) => Promise<T>): Promise<T> {
    return this.#connected(async (client) => {
      await client.query('begin');
      try {
        await client.query('update noa.revision set value = value + 1');
        const result = await work(new PostgresTx(client));
        await client.query('commit');
        return result;
      } catch (error) {
        await client.query('rollback');
        throw error;
      }
    });
  }

  #connected<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    return connected(this.#pool, work);
  }

  #query<R extends object>(sql: string, values: unknown[] = []): Promise<{ rows: R[] }> {
    return this.#connected((client) => client.query<R>(sql, values));
  }
}

class PostgresTx implements StoreTx {
  readonly #client: PoolClient;

  constructor(client: PoolClient) {
    this.#client = client;
  }

  async plugin(name: string): Promise<PluginRecord | undefined> {
    const { rows } = await this.#client.query<PluginRecord>(
      `select ${PLUGIN_COLUMNS} from noa.plugins where name = $1`,
      [name],
    );
    return rows[0];
  }

  async versions(plugin: string): Promise<PluginVersion[]> {
    const { rows } = await this.#client.query<VersionRow>(
      `select ${VERSION_COLUMNS} from noa.versions where plugin = $1 order by installed_at`,
      [plugin],
    );
    return rows.map(toVersion);
  }

  async grpcVersions(): Promise<PluginVersion[]> {
    const { rows } = await this.#client.query<VersionRow>(
      `select ${VERSION_COLUMNS} from noa.versions where digest in (
         select unnest(array[active, candidate]) from noa.plugins where enabled
       ) and manifest -> 'contributes' -> 'grpc' is not null order by plugin, installed_at`,
    );
    return rows.map(toVersion);
  }

  grants(plugin: string): Promise<Grant[]> {
    return selectGrants(this.#client, plugin);
  }

  grant(id: string): Promise<Grant | undefined> {
    return selectGrant(this.#client, id);
  }

  async configuration(plugin: string): Promise<StoredConfiguration | undefined> {
    return (await selectConfigurations(this.#client, plugin))[0];
  }

  keepSubscriptions(
    plugin: string,
    wanted: readonly Omit<Subscription, 'plugin'>[],
  ): Promise<void> {
    return keepSubscriptions(this.#client, plugin, wanted);
  }

  keepSchedules(plugin: string, names: readonly string[]): Promise<void> {
    return keepSchedules(this.#client, plugin, names);
  }

  putConfiguration(configuration: StoredConfiguration): Promise<void> {
    return upsertConfiguration(this.#client, configuration);
  }

  async keys(): Promise<TokenKey[]> {
    const { rows } = await this.#client.query<KeyRow>(
      'select kid, created_at, retired_at from noa.token_keys',
    );
    return rows.map(toKey);
  }

  async putPlugin(record: PluginRecord): Promise<void> {
    await this.#client.query(
      `insert into noa.plugins (${PLUGIN_COLUMNS}) values ($1, $2, $3, $4, $5, $6)
       on conflict (name) do update set enabled = excluded.enabled, active = excluded.active,
         candidate = excluded.candidate, previous = excluded.previous, pinned = excluded.pinned`,
      [
        record.name,
        record.enabled,
        record.active,
        record.candidate,
        record.previous,
        record.pinned,
      ],
    );
  }

  async putVersion(version: PluginVersion, bundle: Uint8Array): Promise<void> {
    const { plugin, digest, installedAt, manifest } = version;
    await this.#client.query(
      `insert into noa.versions (plugin, version, digest, manifest, installed_at, bundle)
       values ($1, $2, $3, $4, $5, $6) on conflict (plugin, digest) do nothing`,
      [plugin, version.version, digest, JSON.stringify(manifest), installedAt, bundle],
    );
  }

  async keepVersions(plugin: string, digests: readonly string[]): Promise<void> {
    await this.#client.query('delete from noa.versions where plugin = $1 and digest <> all ($2)', [
      plugin,
      digests,
    ]);
  }

  async deletePlugin(name: string): Promise<void> {
    await this.#client.query('delete from noa.plugins where name = $1', [name]);
  }

  async putLeftover(plugin: string): Promise<void> {
    await this.#client.query('insert into noa.leftovers values ($1) on conflict do nothing', [
      plugin,
    ]);
  }

  async deleteLeftover(plugin: string): Promise<void> {
    await this.#client.query('delete from noa.leftovers where plugin = $1', [plugin]);
  }

  putGrant(grant: Grant): Promise<void> {
    return upsertGrant(this.#client, grant);
  }

  async deleteGrant(id: string): Promise<void> {
    await this.#client.query('delete from noa.grants where id = $1', [id]);
  }

  async putKey(key: TokenKey): Promise<void> {
    await this.#client.query(
      `insert into noa.token_keys (kid, created_at, retired_at) values ($1, $2, $3)
       on conflict (kid) do update set retired_at = excluded.retired_at`,
      [key.kid, key.createdAt, key.retiredAt],
    );
  }

  secret(name: string): Promise<SealedSecret | undefined> {
    return selectSecret(this.#client, name);
  }

  countSecrets(): Promise<number> {
    return countSecrets(this.#client);
  }

  putSecret(secret: SealedSecret): Promise<void> {
    return upsertSecret(this.#client, secret);
  }

  deleteSecret(name: string): Promise<void> {
    return deleteSecret(this.#client, name);
  }

  get client(): PoolClient {
    return this.#client;
  }
}

/** The connection of a change, for what else is kept beside the kernel's state. */
export function clientOf(tx: StoreTx): PoolClient {
  if (!(tx instanceof PostgresTx)) throw new TypeError('the transaction is of another store');
  return tx.client;
}

function toVersion({ installed_at, ...rest }: VersionRow): PluginVersion {
  return { ...rest, installedAt: installed_at.toISOString() };
}

function toKey({ kid, created_at, retired_at }: KeyRow): TokenKey {
  return { kid, createdAt: created_at.toISOString(), retiredAt: retired_at?.toISOString() ?? null };
}
