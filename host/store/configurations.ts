/** The rows of `noa.configurations`. Secret values in them are sealed already: see kernel/configuration.ts. */
import type { Json } from '@noa/sdk/host';
import type { PoolClient } from 'pg';
import type { StoredConfiguration } from '../kernel/store.ts';

interface Row {
  plugin: string;
  version: string;
  settings: Json;
  secrets: string[];
  key_id: string;
  nonce: Buffer;
  sealed: Buffer;
  updated_at: Date;
}

/** That of one plugin, or all. */
export async function selectConfigurations(
  client: PoolClient,
  plugin?: string,
): Promise<StoredConfiguration[]> {
  const { rows } = await client.query<Row>(
    `select plugin, version, settings, secrets, key_id, nonce, sealed, updated_at
     from noa.configurations where $1::text is null or plugin = $1`,
    [plugin ?? null],
  );
  return rows.map(({ version, key_id: keyId, updated_at, ...row }) => ({
    ...row,
    version: Number(version),
    keyId,
    updatedAt: updated_at.toISOString(),
  }));
}

export async function upsertConfiguration(
  client: PoolClient,
  configuration: StoredConfiguration,
): Promise<void> {
  const { plugin, version, settings, secrets, keyId, nonce, sealed, updatedAt } = configuration;
  await client.query(
    `insert into noa.configurations
       (plugin, version, settings, secrets, key_id, nonce, sealed, updated_at)
     values ($1, $2, $3, $4, $5, $6, $7, $8)
     on conflict (plugin) do update set version = excluded.version, settings = excluded.settings,
       secrets = excluded.secrets, key_id = excluded.key_id, nonce = excluded.nonce,
       sealed = excluded.sealed, updated_at = excluded.updated_at`,
    [plugin, version, JSON.stringify(settings), secrets, keyId, nonce, sealed, updatedAt],
  );
}
