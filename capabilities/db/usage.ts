/** What a schema holds, as PostgreSQL's catalogs tell it. */
import type pg from 'pg';
import { inTransaction, isLockTimeout } from './area.ts';
import type { Usage } from './quota.ts';

/**
 * Measuring opens each table, behind whoever has locked it for himself: of a locked one counts what the
 * server last noted.
 */
const SQL = `
  WITH own AS (
    SELECT c.oid, c.relkind, c.relpages, EXISTS (SELECT FROM pg_locks l WHERE l.relation = c.oid
        AND l.granted AND l.mode = 'AccessExclusiveLock') AS locked
      FROM pg_class c WHERE c.relnamespace = to_regnamespace($1))
  SELECT
    (SELECT coalesce(sum(CASE WHEN locked THEN relpages::float8 * 8192
                              ELSE pg_total_relation_size(oid)::float8 END), 0)
       FROM own WHERE relkind IN ('r', 'm', 'S')) AS bytes,
    ((SELECT count(*) FROM own)
      + (SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace($1))
      + (SELECT count(*) FROM pg_type WHERE typnamespace = to_regnamespace($1)
          AND typtype IN ('d', 'e', 'r')))::int AS objects,
    (SELECT count(*) FROM pg_attribute a JOIN own ON own.oid = a.attrelid)::int AS columns`;

/** Undefined when a table cannot be opened now. */
export async function usageOf(admin: pg.ClientBase, schema: string): Promise<Usage | undefined> {
  try {
    return await inTransaction(admin, async () => {
      await admin.query("SET LOCAL lock_timeout = '100ms'");
      const { rows } = await admin.query<Usage & pg.QueryResultRow>(SQL, [schema]);
      return rows[0];
    });
  } catch (error) {
    if (isLockTimeout(error)) return undefined;
    throw error;
  }
}
