/**
 * Takes from PUBLIC, in the host's database, what reaches across schemas. PostgreSQL grants it to every
 * role by default, so a plugin's role would have it without any grant.
 */
import type pg from 'pg';

/**
 * Functions that act outside the schema: advisory locks share one space of keys (a plugin could stop the
 * host's migrations), large objects share one store. `pg_sleep` and their like only take time, which
 * every call has a bound for.
 */
const SHARED = `
  SELECT oid::regprocedure::text AS name FROM pg_proc
   WHERE pronamespace = 'pg_catalog'::regnamespace
     AND (proname ~ '^pg_(try_)?advisory_' OR proname ~ '^lo_' OR proname IN ('loread', 'lowrite'))
     AND has_function_privilege('public', oid, 'EXECUTE')`;

/** What PUBLIC, and so every plugin, still has. */
interface Left {
  readonly temp: boolean;
  readonly open: boolean;
  readonly shared: boolean;
  readonly prepared: boolean;
}

/**
 * Does what the connected user may do, and answers what plugins keep because it may not: one sentence
 * each, for the operator. Idempotent.
 */
export async function harden(admin: pg.ClientBase): Promise<string[]> {
  await admin.query(`
    DO $$
    DECLARE routine text;
    BEGIN
      BEGIN
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
      EXCEPTION WHEN insufficient_privilege THEN NULL; END;
      BEGIN
        REVOKE ALL ON SCHEMA public FROM PUBLIC;
      EXCEPTION WHEN insufficient_privilege OR invalid_schema_name THEN NULL; END;
      IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        FOR routine IN ${SHARED} LOOP
          EXECUTE 'REVOKE ALL ON FUNCTION ' || routine || ' FROM PUBLIC';
        END LOOP;
      END IF;
    END $$`);
  const { rows } = await admin.query<Left>(`
    SELECT has_database_privilege('public', current_database(), 'TEMP') AS temp,
           coalesce(has_schema_privilege('public', to_regnamespace('public'), 'CREATE'), false) AS open,
           EXISTS (${SHARED}) AS shared,
           current_setting('max_prepared_transactions') <> '0' AS prepared`);
  const [left] = rows;
  const kept: string[] = [];
  if (left?.temp) {
    kept.push(
      'plugins can make temporary tables: let the user of database.url own the database, or run REVOKE TEMP ON DATABASE … FROM PUBLIC',
    );
  }
  if (left?.open) {
    kept.push(
      'plugins can make objects in schema public: run REVOKE CREATE ON SCHEMA public FROM PUBLIC',
    );
  }
  if (left?.shared) {
    kept.push(
      'plugins can use advisory locks and large objects: only a superuser can revoke EXECUTE on pg_advisory_* and lo_* from PUBLIC in this database',
    );
  }
  if (left?.prepared) {
    kept.push(
      'plugins can leave prepared transactions behind, with their locks: set max_prepared_transactions = 0',
    );
  }
  return kept;
}
