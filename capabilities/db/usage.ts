/** What a schema holds, as PostgreSQL's catalogs tell it. */
import type pg from 'pg';
import { inTransaction, isLockTimeout } from './area.ts';
import type { Usage } from './quota.ts';

/**
 * Measuring opens each relation, behind whoever has locked it for himself: of a locked one counts what the
 * server last noted. Indexes and TOAST tables are measured each for itself, because a function that
 * measures a table as a whole waits for a lock on any of them. What definitions take is in the catalogs,
 * and `pg_column_size` tells it without reading it.
 */
const SQL = `
  WITH own AS (
    SELECT oid, relkind, relpages, reltoastrelid FROM pg_class
      WHERE relnamespace = to_regnamespace($1)
  ), toast AS (
    SELECT oid, relpages FROM pg_class WHERE oid IN (SELECT reltoastrelid FROM own)
  ), files AS (
    SELECT oid, relpages FROM own WHERE relkind IN ('r', 'm', 'S', 'i')
    UNION ALL SELECT * FROM toast
    UNION ALL SELECT c.oid, c.relpages FROM toast
      JOIN pg_index ON indrelid = toast.oid JOIN pg_class c ON c.oid = indexrelid
  ), functions AS (
    SELECT * FROM pg_proc WHERE pronamespace = to_regnamespace($1)
  ), kinds AS (
    SELECT * FROM pg_type WHERE typnamespace = to_regnamespace($1)
  ), texts AS (
    SELECT oid, pg_column_size(prosrc) + coalesce(pg_column_size(prosqlbody), 0)
        + coalesce(pg_column_size(proargdefaults), 0) + coalesce(pg_column_size(proconfig), 0)
        + coalesce(pg_column_size(proargnames), 0) AS bytes FROM functions
    UNION ALL SELECT oid, coalesce(pg_column_size(typdefault), 0)
        + coalesce(pg_column_size(typdefaultbin), 0) FROM kinds
    UNION ALL SELECT oid, pg_column_size(ev_action) + pg_column_size(ev_qual)
      FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM own)
    UNION ALL SELECT oid, pg_column_size(adbin)
      FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM own)
    UNION ALL SELECT oid, pg_column_size(conbin)
      FROM pg_constraint WHERE connamespace = to_regnamespace($1)
    UNION ALL SELECT oid, pg_column_size(tgargs) + coalesce(pg_column_size(tgqual), 0)
      FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM own)
    UNION ALL SELECT oid, coalesce(pg_column_size(polqual), 0)
        + coalesce(pg_column_size(polwithcheck), 0)
      FROM pg_policy WHERE polrelid IN (SELECT oid FROM own)
    UNION ALL SELECT oid, pg_column_size(stxexprs)
      FROM pg_statistic_ext WHERE stxnamespace = to_regnamespace($1)
    UNION ALL SELECT oid, 2 * pg_column_size(enumlabel)
      FROM pg_enum WHERE enumtypid IN (SELECT oid FROM kinds)
    UNION ALL SELECT oid, 0 FROM own
    UNION ALL SELECT to_regnamespace($1), 0
  )
  SELECT
    (SELECT coalesce(sum(CASE WHEN oid IN (SELECT relation FROM pg_locks
                WHERE locktype = 'relation' AND granted AND mode = 'AccessExclusiveLock')
              THEN relpages::float8 * 8192
              ELSE pg_relation_size(oid)::float8 + pg_relation_size(oid, 'fsm')
                + pg_relation_size(oid, 'vm') END), 0) FROM files)
      + (SELECT coalesce(sum(bytes::float8), 0) FROM texts)
      + (SELECT coalesce(sum(pg_column_size(description)::float8), 0) FROM pg_description
          WHERE objoid IN (SELECT oid FROM texts)) AS bytes,
    ((SELECT count(*) FROM own) + (SELECT count(*) FROM functions)
      + (SELECT count(*) FROM kinds WHERE typtype IN ('d', 'e', 'r')))::int AS objects,
    (SELECT count(*) FROM pg_attribute a JOIN own ON own.oid = a.attrelid)::int AS columns`;

/** Undefined when a relation cannot be opened now. */
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
