/** What a change of identities reads and writes, on the connection of its transaction. */
import { NoaError } from '@noa/sdk/host';
import type { PoolClient } from 'pg';
import type {
  ApiKey,
  ApiKeyView,
  Holder,
  Identity,
  IdentityKind,
  IdentityTx,
  Role,
  Session,
  SigningKey,
} from '../gateway/identity/store.ts';
import {
  API_KEY,
  HOLDER,
  type HolderRow,
  type KeyRow,
  ROLE,
  type RoleRow,
  SESSION,
  type SessionRow,
  SIGNING_KEY,
  type SigningKeyRow,
  toApiKeyView,
  toHolder,
  toRole,
  toSession,
  toSigningKey,
} from './identity-rows.ts';

const UNIQUE_VIOLATION = '23505';

export class PostgresIdentityTx implements IdentityTx {
  readonly #client: PoolClient;

  constructor(client: PoolClient) {
    this.#client = client;
  }

  async identity(subject: string): Promise<Holder | undefined> {
    const rows = await this.#rows<HolderRow>(
      `select ${HOLDER} from noa.auth_identities i where subject = $1`,
      [subject],
    );
    return rows.map(toHolder)[0];
  }

  countIdentities(kind: IdentityKind): Promise<number> {
    const from = 'noa.auth_identities where starts_with(subject, $1)';
    return this.#count(from, `${kind}:`);
  }

  async putIdentity(identity: Identity, secretDigest?: Uint8Array): Promise<void> {
    const { subject, description, roles, scopes, level, disabled } = identity;
    const { issuer, externalSubject, createdAt, updatedAt } = identity;
    await this.#client
      .query(
        `insert into noa.auth_identities (subject, description, roles, scopes, level, disabled, issuer,
           external_subject, created_at, updated_at, secret_digest)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (subject) do update set description = excluded.description,
           roles = excluded.roles, scopes = excluded.scopes, level = excluded.level,
           disabled = excluded.disabled, issuer = excluded.issuer,
           external_subject = excluded.external_subject, updated_at = excluded.updated_at,
           secret_digest = coalesce(excluded.secret_digest, auth_identities.secret_digest)`,
        [
          subject,
          description,
          roles,
          scopes,
          level,
          disabled,
          issuer,
          externalSubject,
          createdAt,
          updatedAt,
          secretDigest ?? null,
        ],
      )
      .catch((cause: unknown) => {
        if (!isUniqueViolation(cause)) throw cause;
        const text = `externalSubject: another user has this subject of the issuer ${issuer}`;
        throw new NoaError('CONFLICT', text, { cause });
      });
  }

  async deleteIdentity(subject: string): Promise<void> {
    await this.#rows('delete from noa.auth_identities where subject = $1', [subject]);
  }

  async role(name: string): Promise<Role | undefined> {
    const sql = `select ${ROLE} from noa.auth_roles where name = $1`;
    return (await this.#rows<RoleRow>(sql, [name])).map(toRole)[0];
  }

  countRoles(): Promise<number> {
    return this.#count('noa.auth_roles');
  }

  async holdersOf(role: string, limit: number): Promise<string[]> {
    const rows = await this.#rows<{ subject: string }>(
      `select subject from noa.auth_identities where $1 = any (roles)
       order by subject collate "C" limit $2`,
      [role, limit],
    );
    return rows.map(({ subject }) => subject);
  }

  async putRole({ name, description, scopes, createdAt, updatedAt }: Role): Promise<void> {
    await this.#rows(
      `insert into noa.auth_roles (${ROLE}) values ($1, $2, $3, $4, $5)
       on conflict (name) do update set description = excluded.description,
         scopes = excluded.scopes, updated_at = excluded.updated_at`,
      [name, description, scopes, createdAt, updatedAt],
    );
  }

  async deleteRole(name: string): Promise<void> {
    await this.#rows('delete from noa.auth_roles where name = $1', [name]);
  }

  async apiKey(id: string): Promise<ApiKeyView | undefined> {
    const sql = `select ${API_KEY} from noa.auth_api_keys k where id = $1`;
    return (await this.#rows<KeyRow>(sql, [id])).map(toApiKeyView)[0];
  }

  countApiKeys(subject: string): Promise<number> {
    return this.#count('noa.auth_api_keys where subject = $1', subject);
  }

  async putApiKey(key: ApiKey): Promise<void> {
    const { id, subject, description, digest, scopes, createdAt, expiresAt } = key;
    await this.#rows(
      `insert into noa.auth_api_keys
         (id, subject, description, digest, scopes, created_at, expires_at)
       values ($1, $2, $3, $4, $5, $6, $7)`,
      [id, subject, description, digest, scopes, createdAt, expiresAt],
    );
  }

  async deleteApiKey(id: string): Promise<void> {
    await this.#rows('delete from noa.auth_api_keys where id = $1', [id]);
  }

  async session(id: string): Promise<Session | undefined> {
    const sql = `select ${SESSION} from noa.auth_sessions s where id = $1`;
    return (await this.#rows<SessionRow>(sql, [id])).map(toSession)[0];
  }

  async deleteSession(id: string): Promise<void> {
    await this.#rows('delete from noa.auth_sessions where id = $1', [id]);
  }

  async deleteSessions(subject: string): Promise<number> {
    const sql = 'delete from noa.auth_sessions where subject = $1';
    return (await this.#client.query(sql, [subject])).rowCount ?? 0;
  }

  async signingKeys(): Promise<SigningKey[]> {
    const sql = `select ${SIGNING_KEY} from noa.auth_signing_keys`;
    return (await this.#rows<SigningKeyRow>(sql)).map(toSigningKey);
  }

  async putSigningKey(key: SigningKey): Promise<void> {
    const { kid, createdAt, retiredAt, publicJwk, keyId, nonce, sealed } = key;
    await this.#rows(
      `insert into noa.auth_signing_keys (${SIGNING_KEY}) values ($1, $2, $3, $4, $5, $6, $7)
       on conflict (kid) do update set retired_at = excluded.retired_at`,
      [kid, createdAt, retiredAt, JSON.stringify(publicJwk), keyId, nonce, sealed],
    );
  }

  async deleteSigningKey(kid: string): Promise<void> {
    await this.#rows('delete from noa.auth_signing_keys where kid = $1', [kid]);
  }

  async #count(from: string, ...values: string[]): Promise<number> {
    const rows = await this.#rows<{ count: string }>(`select count(*) from ${from}`, values);
    return Number(rows[0]?.count);
  }

  async #rows<R extends object>(sql: string, values: unknown[] = []): Promise<R[]> {
    return (await this.#client.query<R>(sql, values)).rows;
  }
}

function isUniqueViolation(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === UNIQUE_VIOLATION;
}
