/** The rows of `noa.secrets`. What they hold is sealed already: see kernel/secrets.ts. */
import type { PoolClient } from 'pg';
import type { SealedSecret, SecretView } from '../kernel/store.ts';

interface ViewRow {
  name: string;
  created_at: Date;
  updated_at: Date;
}

interface SecretRow extends ViewRow {
  version: string;
  key_id: string;
  nonce: Buffer;
  sealed: Buffer;
}

export async function selectSecret(
  client: PoolClient,
  name: string,
): Promise<SealedSecret | undefined> {
  const { rows } = await client.query<SecretRow>(
    `select name, version, key_id, nonce, sealed, created_at, updated_at
     from noa.secrets where name = $1`,
    [name],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  const { version, key_id: keyId, nonce, sealed } = row;
  return { ...toView(row), version: Number(version), keyId, nonce, sealed };
}

/** Names and times, in order of name whatever the database sorts by. */
export async function selectSecrets(client: PoolClient): Promise<SecretView[]> {
  const { rows } = await client.query<ViewRow>(
    'select name, created_at, updated_at from noa.secrets order by name collate "C"',
  );
  return rows.map(toView);
}

export async function countSecrets(client: PoolClient): Promise<number> {
  const { rows } = await client.query<{ count: string }>('select count(*) from noa.secrets');
  return Number(rows[0]?.count);
}

export async function upsertSecret(client: PoolClient, secret: SealedSecret): Promise<void> {
  const { name, version, keyId, nonce, sealed, createdAt, updatedAt } = secret;
  await client.query(
    `insert into noa.secrets (name, version, key_id, nonce, sealed, created_at, updated_at)
     values ($1, $2, $3, $4, $5, $6, $7)
     on conflict (name) do update set version = excluded.version, key_id = excluded.key_id,
       nonce = excluded.nonce, sealed = excluded.sealed, updated_at = excluded.updated_at`,
    [name, version, keyId, nonce, sealed, createdAt, updatedAt],
  );
}

export async function deleteSecret(client: PoolClient, name: string): Promise<void> {
  await client.query('delete from noa.secrets where name = $1', [name]);
}

function toView({ name, created_at, updated_at }: ViewRow): SecretView {
  return { name, createdAt: created_at.toISOString(), updatedAt: updated_at.toISOString() };
}
