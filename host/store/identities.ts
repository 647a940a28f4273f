/**
 * Identities in PostgreSQL. Invariant: whatever changes what anybody may do goes through a change, which
 * raises the revision that all hosts follow; sessions that are opened, refreshed or swept change nothing
 * that another host has to hear of.
 */
import type { Pool, PoolClient } from 'pg';
import type {
  ApiKey,
  ApiKeyView,
  ClientHolder,
  Holder,
  Identity,
  IdentityKind,
  IdentityStore,
  IdentityTx,
  Role,
  Session,
  SigningKey,
  Slice,
} from '../gateway/identity/store.ts';
import type { StoreTx } from '../kernel/store.ts';
import { connected } from './connected.ts';
import { PostgresIdentityTx } from './identity-changes.ts';
import {
  API_KEY,
  HOLDER,
  type HolderRow,
  IDENTITY,
  type IdentityRow,
  type KeyRow,
  ROLE,
  type RoleRow,
  SESSION,
  type SessionRow,
  SIGNING_KEY,
  type SigningKeyRow,
  toApiKey,
  toApiKeyView,
  toHolder,
  toIdentity,
  toRole,
  toSession,
  toSigningKey,
} from './identity-rows.ts';
import { clientOf } from './postgres.ts';

export class PostgresIdentities implements IdentityStore {
  readonly #pool: Pool;

  /** `pool` logs in as the owner of schema `noa`. */
  constructor(pool: Pool) {
    this.#pool = pool;
  }

  in(tx: StoreTx): IdentityTx {
    return new PostgresIdentityTx(clientOf(tx));
  }

  async identities(kind: IdentityKind, { after = '', limit }: Slice): Promise<Identity[]> {
    const rows = await this.#rows<IdentityRow>(
      `select ${IDENTITY} from noa.auth_identities i
       where starts_with(i.subject, $1) and i.subject > $2 collate "C"
       order by i.subject collate "C" limit $3`,
      [`${kind}:`, after, limit],
    );
    return rows.map(toIdentity);
  }

  async holder(subject: string): Promise<Holder | undefined> {
    const row = await this.#holderRow('i.subject = $1', [subject]);
    return row && toHolder(row);
  }

  async client(subject: string): Promise<ClientHolder | undefined> {
    const row = await this.#holderRow('i.subject = $1 and i.secret_digest is not null', [subject]);
    return row && { ...toHolder(row), secretDigest: row.secret_digest ?? new Uint8Array() };
  }

  async linked(issuer: string, externalSubject: string): Promise<Holder | undefined> {
    const where = 'i.issuer = $1 and i.external_subject = $2';
    const row = await this.#holderRow(where, [issuer, externalSubject]);
    return row && toHolder(row);
  }

  async roles({ after = '', limit }: Slice): Promise<Role[]> {
    const rows = await this.#rows<RoleRow>(
      `select ${ROLE} from noa.auth_roles where name > $1 collate "C"
       order by name collate "C" limit $2`,
      [after, limit],
    );
    return rows.map(toRole);
  }

  async role(name: string): Promise<Role | undefined> {
    const sql = `select ${ROLE} from noa.auth_roles where name = $1`;
    return (await this.#rows<RoleRow>(sql, [name])).map(toRole)[0];
  }

  async apiKeys({ after = '', limit }: Slice, subject?: string): Promise<ApiKeyView[]> {
    const rows = await this.#rows<KeyRow>(
      `select ${API_KEY} from noa.auth_api_keys k
       where k.id > $1 collate "C" and ($2::text is null or k.subject = $2)
       order by k.id collate "C" limit $3`,
      [after, subject ?? null, limit],
    );
    return rows.map(toApiKeyView);
  }

  apiKey(id: string): Promise<{ key: ApiKey; holder: Holder } | undefined> {
    return connected(this.#pool, async (client) => {
      const { rows } = await client.query<KeyRow>(
        `select ${API_KEY} from noa.auth_api_keys k where k.id = $1`,
        [id],
      );
      const key = rows.map(toApiKey)[0];
      const holder = key && (await selectHolder(client, key.subject));
      return key && holder && { key, holder };
    });
  }

  session(id: string, now: string): Promise<{ session: Session; holder: Holder } | undefined> {
    return connected(this.#pool, async (client) => {
      const { rows } = await client.query<SessionRow>(
        `select ${SESSION} from noa.auth_sessions s where s.id = $1 and s.expires_at > $2`,
        [id, now],
      );
      const session = rows.map(toSession)[0];
      const holder = session && (await selectHolder(client, session.subject));
      return session && holder && { session, holder };
    });
  }

  async openSession(session: Session, most: number): Promise<void> {
    const { id, subject, scopes, serial, createdAt, expiresAt } = session;
    await this.#rows(
      `insert into noa.auth_sessions (id, subject, scopes, serial, created_at, used_at, expires_at)
       values ($1, $2, $3, $4, $5, $5, $6)`,
      [id, subject, scopes, serial, createdAt, expiresAt],
    );
    await this.#rows(
      `delete from noa.auth_sessions where id in (
         select id from noa.auth_sessions where subject = $1 order by used_at desc, id offset $2)`,
      [subject, most],
    );
  }

  async refreshSession(id: string, serial: number, now: string): Promise<boolean> {
    const rows = await this.#rows(
      `update noa.auth_sessions set serial = serial + 1, used_at = $3
       where id = $1 and serial = $2 and expires_at > $3 returning id`,
      [id, serial, now],
    );
    return rows.length === 1;
  }

  async sweepSessions(now: string): Promise<void> {
    await this.#rows('delete from noa.auth_sessions where expires_at <= $1', [now]);
  }

  async signingKeys(): Promise<SigningKey[]> {
    const sql = `select ${SIGNING_KEY} from noa.auth_signing_keys`;
    return (await this.#rows<SigningKeyRow>(sql)).map(toSigningKey);
  }

  async #holderRow(where: string, values: unknown[]): Promise<HolderRow | undefined> {
    const sql = `select ${HOLDER} from noa.auth_identities i where ${where}`;
    return (await this.#rows<HolderRow>(sql, values))[0];
  }

  #rows<R extends object>(sql: string, values: unknown[] = []): Promise<R[]> {
    return connected(this.#pool, async (client) => (await client.query<R>(sql, values)).rows);
  }
}

async function selectHolder(client: PoolClient, subject: string): Promise<Holder | undefined> {
  const sql = `select ${HOLDER} from noa.auth_identities i where i.subject = $1`;
  return (await client.query<HolderRow>(sql, [subject])).rows.map(toHolder)[0];
}
