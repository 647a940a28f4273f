/** The rows of `noa.grants`. */
import type { PoolClient } from 'pg';
import type { Grant, GrantStatus } from '../kernel/grants.ts';

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

const COLUMNS = `id, plugin, capability, operations, resources, requested_operations,
  requested_resources, optional, reason, status, created_at, decided_at, decided_by`;

/** Those of one plugin, or all, in order of plugin and age. */
export async function selectGrants(client: PoolClient, plugin?: string): Promise<Grant[]> {
  const { rows } = await client.query<GrantRow>(
    `select ${COLUMNS} from noa.grants where $1::text is null or plugin = $1
     order by plugin, created_at, id`,
    [plugin ?? null],
  );
  return rows.map(toGrant);
}

export async function selectGrant(client: PoolClient, id: string): Promise<Grant | undefined> {
  const { rows } = await client.query<GrantRow>(`select ${COLUMNS} from noa.grants where id = $1`, [
    id,
  ]);
  return rows.map(toGrant)[0];
}

export async function upsertGrant(client: PoolClient, grant: Grant): Promise<void> {
  await client.query(
    `insert into noa.grants (${COLUMNS})
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
