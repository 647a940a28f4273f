/**
 * The kernel's state in PostgreSQL: the `Store` port over schema `noa` (see migrations/). Invariant: a
 * change holds the row of `noa.revision` from its first read to its commit, so that changes of all hosts
 * take turns and none is computed from a state that has passed.
 */
import { type Manifest, NoaError } from '@noa/sdk/host';
import type { Pool, PoolClient } from 'pg';
import type { AuditRecord, ChainHead } from '../kernel/audit.ts';
import type { Grant, GrantStatus } from '../kernel/grants.ts';
import type {
  AuditPage,
  PluginRecord,
  PluginVersion,
  SealedSecret,
  SecretView,
  Snapshot,
  Store,
  StoreTx,
} from '../kernel/store.ts';
import type { TokenKey } from '../kernel/tokens.ts';
import {
  countSecrets,
  deleteSecret,
  selectSecret,
  selectSecrets,
  upsertSecret,
} from './secrets.ts';

/** Records read at once when the whole log is read. */
const AUDIT_CHUNK = 1000;

interface GrantRow {
  id: string;
  plugin: string;
  capability: string;
  operations: string[];
  resources: string[];
  requested_operations: string[] | null;
  requested_resources: string[] | null;
  optional: boolean;
  reason: string;
  status: GrantStatus;
  created_at: Date;
  decided_at: Date | null;
  decided_by: string | null;
}

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

const GRANT_COLUMNS = `id, plugin, capability, operations, resources, requested_operations,
  requested_resources, optional, reason, status, created_at, decided_at, decided_by`;
const VERSION_COLUMNS = 'plugin, version, digest, manifest, installed_at';
const PLUGIN_COLUMNS = 'name, enabled, active, candidate, previous';

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
      const grants = await client.query<GrantRow>(
        `select ${GRANT_COLUMNS} from noa.grants order by plugin, created_at, id`,
      );
      const keys = await client.query<KeyRow>(
        'select kid, created_at, retired_at from noa.token_keys',
      );
      await client.query('commit');
      return {
        revision: Number(revision.rows[0]?.value),
        plugins: plugins.rows,
        versions: versions.rows.map(toVersion),
        grants: grants.rows.map(toGrant),
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

  async auditPage(query: { cursor?: string; limit: number; plugin?: string }): Promise<AuditPage> {
    const { rows } = await this.#query<{ position: string; body: string }>(
      `select position, body from noa.audit
       where ($1::bigint is null or position < $1) and ($2::text is null or plugin = $2)
       order by position desc limit $3`,
      [query.cursor ?? null, query.plugin ?? null, query.limit + 1],
    );
    const page = rows.slice(0, query.limit);
    const next = rows.length > query.limit ? (page.at(-1)?.position ?? null) : null;
    return { records: page.map(({ body }) => JSON.parse(body) as AuditRecord), next };
  }

  async *auditAll(): AsyncGenerator<AuditRecord> {
    let chain = '';
    let seq = 0;
    for (;;) {
      const { rows } = await this.#query<{ body: string }>(
        `select body from noa.audit where (chain, seq) > ($1, $2) order by chain, seq limit ${AUDIT_CHUNK}`,
        [chain, seq],
      );
      for (const { body } of rows) {
        const record = JSON.parse(body) as AuditRecord;
        yield record;
        ({ chain, seq } = record);
      }
      if (rows.length < AUDIT_CHUNK) return;
    }
  }

  async head(chain: string): Promise<ChainHead | undefined> {
    const { rows } = await this.#query<{ body: string }>(
      'select body from noa.audit where chain = $1 order by seq desc limit 1',
      [chain],
    );
    const body = rows[0]?.body;
    if (body === undefined) return undefined;
    const { seq, hash } = JSON.parse(body) as AuditRecord;
    return { seq, hash };
  }

  append(records: readonly AuditRecord[]): Promise<void> {
    return this.#connected((client) => insertAudit(client, records));
  }

  appendIn(tx: StoreTx, records: readonly AuditRecord[]): Promise<void> {
    if (!(tx instanceof PostgresTx)) throw new TypeError('the transaction is of another store');
    return tx.appendAudit(records);
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

  async #connected<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect().catch((cause: unknown) => {
      throw away(cause);
    });
    try {
      const result = await work(client);
      client.release();
      return result;
    } catch (error) {
      // Its session may be broken or in the middle of something: close it.
      client.release(true);
      throw isConnectionLoss(error) ? away(error) : error;
    }
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

  async grants(plugin: string): Promise<Grant[]> {
    const { rows } = await this.#client.query<GrantRow>(
      `select ${GRANT_COLUMNS} from noa.grants where plugin = $1 order by created_at, id`,
      [plugin],
    );
    return rows.map(toGrant);
  }

  async grant(id: string): Promise<Grant | undefined> {
    const { rows } = await this.#client.query<GrantRow>(
      `select ${GRANT_COLUMNS} from noa.grants where id = $1`,
      [id],
    );
    return rows.map(toGrant)[0];
  }

  async keys(): Promise<TokenKey[]> {
    const { rows } = await this.#client.query<KeyRow>(
      'select kid, created_at, retired_at from noa.token_keys',
    );
    return rows.map(toKey);
  }

  async putPlugin(record: PluginRecord): Promise<void> {
    await this.#client.query(
      `insert into noa.plugins (${PLUGIN_COLUMNS}) values ($1, $2, $3, $4, $5)
       on conflict (name) do update set enabled = excluded.enabled, active = excluded.active,
         candidate = excluded.candidate, previous = excluded.previous`,
      [record.name, record.enabled, record.active, record.candidate, record.previous],
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

  async putGrant(grant: Grant): Promise<void> {
    await this.#client.query(
      `insert into noa.grants (${GRANT_COLUMNS})
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
       on conflict (id) do update set operations = excluded.operations,
         resources = excluded.resources, optional = excluded.optional, reason = excluded.reason,
         status = excluded.status, decided_at = excluded.decided_at, decided_by = excluded.decided_by`,
      [
        grant.id,
        grant.plugin,
        grant.capability,
        grant.operations,
        grant.resources,
        grant.requested?.operations ?? null,
        grant.requested?.resources ?? null,
        grant.optional,
        grant.reason,
        grant.status,
        grant.createdAt,
        grant.decidedAt,
        grant.decidedBy,
      ],
    );
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

  appendAudit(records: readonly AuditRecord[]): Promise<void> {
    return insertAudit(this.#client, records);
  }
}

async function insertAudit(client: PoolClient, records: readonly AuditRecord[]): Promise<void> {
  await client.query(
    `insert into noa.audit (chain, seq, plugin, body)
     select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[])`,
    [
      records.map(({ chain }) => chain),
      records.map(({ seq }) => seq),
      records.map(({ plugin }) => plugin),
      records.map((record) => JSON.stringify(record)),
    ],
  );
}

function toVersion({ installed_at, ...rest }: VersionRow): PluginVersion {
  return { ...rest, installedAt: installed_at.toISOString() };
}

function toKey({ kid, created_at, retired_at }: KeyRow): TokenKey {
  return { kid, createdAt: created_at.toISOString(), retiredAt: retired_at?.toISOString() ?? null };
}

function toGrant(row: GrantRow): Grant {
  const { requested_operations: operations, requested_resources: resources } = row;
  return {
    id: row.id,
    plugin: row.plugin,
    capability: row.capability,
    operations: row.operations,
    resources: row.resources,
    requested: operations && resources && { operations, resources },
    optional: row.optional,
    reason: row.reason,
    status: row.status,
    createdAt: row.created_at.toISOString(),
    decidedAt: row.decided_at?.toISOString() ?? null,
    decidedBy: row.decided_by,
  };
}

/** SQLSTATE classes 08 and 57P, and what has no SQLSTATE, are losses of the connection. */
function isConnectionLoss(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof NoaError || error instanceof TypeError)
    return false;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  return code === '' || /^(08|57P|53|E[A-Z]+$)/.test(code);
}

function away(cause: unknown): NoaError {
  return new NoaError('UNAVAILABLE', 'the database does not answer: try again later', {
    cause,
    retryAfterMs: 1000,
  });
}
