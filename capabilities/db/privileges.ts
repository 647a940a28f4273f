/**
 * Grants as PostgreSQL privileges of a plugin's roles. Invariant: after `applyGrants` its roles hold what
 * the grants say and nothing that they held before, on any schema.
 */
import type { Provision } from '@noa/sdk/host';
import pg from 'pg';
import { type Area, type Roles, areaOf, endSessions, sha256 } from './area.ts';

/** Raised when the statements below change, so that every area is brought up to date once. */
const LAYOUT = 1;
/** Relations whose owner is changed in one transaction. */
const HANDED_AT_ONCE = 50;

/** `relation` is a table, or `*` for all tables that are and will be. */
export interface AreaGrant {
  readonly access: 'read' | 'write';
  readonly schema: string;
  readonly relation: string;
}

/** Grants as privileges: what each operation needs of which tables. */
export function privilegesOf(request: Provision): AreaGrant[] {
  const grants = new Map<string, AreaGrant>();
  for (const { operations, resources } of request.grants) {
    for (const operation of operations) {
      const access = operation === 'query' ? 'read' : 'write';
      for (const resource of resources) {
        const [schema = '', relation = ''] = resource.split('.');
        grants.set(`${access} ${resource}`, { access, schema, relation });
      }
    }
  }
  return [...grants.values()];
}

/** What an area was made from; while it is the same there is nothing to do. */
export function fingerprintOf(request: Provision): string {
  const grants = privilegesOf(request).map((grant) => JSON.stringify(grant));
  const migrations = request.migrations.map(({ name, sql }) => [name, sha256(sql)]);
  return sha256(JSON.stringify([LAYOUT, grants.toSorted(), migrations]));
}

/** True when the plugin may do everything in its own schema. */
function holdsOwn({ schema }: Area, grants: readonly AreaGrant[]): boolean {
  return grants.some(
    (grant) => grant.access === 'write' && grant.schema === schema && grant.relation === '*',
  );
}

/**
 * Gives what the writer made to the owner, unless `grants` leave it the schema. A few at a time, because
 * each relation is locked until the transaction ends and locks are few; what is no relation takes none.
 */
export async function handOver(
  admin: pg.ClientBase,
  area: Area,
  grants: readonly AreaGrant[],
): Promise<void> {
  if (holdsOwn(area, grants)) return;
  const { owner, rw } = area.roles;
  for (;;) {
    const { rows } = await admin.query<{ sql: string }>(
      `SELECT format('ALTER %s %s OWNER TO %I',
          CASE c.relkind WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, c.oid::regclass, $2::text) AS sql
         FROM pg_class c
        WHERE c.relowner = to_regrole($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE c.relkind = 'S' AND d.objid = c.oid
            AND d.classid = 'pg_class'::regclass AND d.refclassid = d.classid AND d.deptype IN ('a', 'i'))
        LIMIT 1000`,
      [id(rw), owner],
    );
    if (rows.length === 0) return;
    for (let at = 0; at < rows.length; at += HANDED_AT_ONCE) {
      const batch = rows.slice(at, at + HANDED_AT_ONCE);
      await admin.query(batch.map(({ sql }) => sql).join(';\n'));
    }
  }
}

/** True when the plugin's roles hold something that is not in `grants`. */
export async function holdsMore(
  admin: pg.ClientBase,
  area: Area,
  grants: readonly AreaGrant[],
): Promise<boolean> {
  const kept = new Set(grants.map(textOf));
  return (await heldBy(admin, area)).some((grant) => !kept.has(textOf(grant)));
}

async function heldBy(admin: pg.ClientBase, { plugin }: Area): Promise<AreaGrant[]> {
  const sql = 'SELECT access, schema, relation FROM noa.plugin_grants WHERE plugin = $1';
  return (await admin.query<AreaGrant>(sql, [plugin])).rows;
}

/** Replaces the privileges of the plugin's roles by those of `grants`, on every schema they ever had. */
export async function applyGrants(
  admin: pg.ClientBase,
  area: Area,
  grants: readonly AreaGrant[],
): Promise<void> {
  const { plugin, schema, roles } = area;
  const own = holdsOwn(area, grants);
  // A role that owned its tables could give itself back what is revoked below.
  if (!own) await admin.query(`REASSIGN OWNED BY ${id(roles.rw)} TO ${id(roles.owner)}`);
  // Nor may it keep what the plugin gave to everybody while it could.
  await admin.query(`REVOKE ALL ON ALL TABLES IN SCHEMA ${id(schema)} FROM PUBLIC`);
  await admin.query(`REVOKE ALL ON ALL SEQUENCES IN SCHEMA ${id(schema)} FROM PUBLIC`);
  const before = await heldBy(admin, area);
  for (const name of new Set([schema, ...before.map((grant) => grant.schema)])) {
    const makers = await makersOf(admin, name);
    if (!makers) continue;
    for (const role of own && name === schema ? [roles.ro] : [roles.ro, roles.rw]) {
      for (const kind of ['TABLES', 'SEQUENCES', 'ROUTINES']) {
        await admin.query(`REVOKE ALL ON ALL ${kind} IN SCHEMA ${id(name)} FROM ${id(role)}`);
      }
      await admin.query(`REVOKE ALL ON SCHEMA ${id(name)} FROM ${id(role)}`);
      for (const kind of ['TABLES', 'SEQUENCES']) {
        await admin.query(
          `ALTER DEFAULT PRIVILEGES FOR ROLE ${makers} IN SCHEMA ${id(name)} REVOKE ALL ON ${kind} FROM ${id(role)}`,
        );
      }
    }
  }
  await admin.query('DELETE FROM noa.plugin_grants WHERE plugin = $1', [plugin]);
  for (const { access, schema: name, relation } of grants) {
    await admin.query('INSERT INTO noa.plugin_grants VALUES ($1, $2, $3, $4)', [
      plugin,
      access,
      name,
      relation,
    ]);
  }
  if (own) await admin.query(`GRANT CREATE ON SCHEMA ${id(schema)} TO ${id(roles.rw)}`);
  for (const grant of grants) await grantOne(admin, roles, grant);
}

function textOf({ access, schema, relation }: AreaGrant): string {
  return `${access} ${schema}.${relation}`;
}

interface GrantOfOther extends AreaGrant {
  readonly plugin: string;
  readonly database: string;
}

async function grantsOfOthers(admin: pg.ClientBase, area: Area): Promise<GrantOfOther[]> {
  const { rows } = await admin.query<GrantOfOther>(
    `SELECT g.plugin, g.access, g.schema, g.relation, current_database() AS database
       FROM noa.plugin_grants g JOIN noa.plugin_areas a ON a.plugin = g.plugin
      WHERE g.schema = $1 AND g.plugin <> $2`,
    [area.schema, area.plugin],
  );
  return rows;
}

/** Gives other plugins what was granted to them on this schema, whose tables may be new. */
export async function applyGrantsOfOthers(admin: pg.ClientBase, area: Area): Promise<void> {
  for (const { plugin, database, ...grant } of await grantsOfOthers(admin, area)) {
    await grantOne(admin, areaOf(plugin, database).roles, grant);
  }
}

/**
 * Closes the schema to other plugins and ends their sessions, which may hold locks on its tables for as
 * long as their calls run. `applyGrantsOfOthers` opens it again.
 */
export async function shutOut(admin: pg.ClientBase, area: Area): Promise<void> {
  const others = await grantsOfOthers(admin, area);
  for (const { plugin, database } of others) {
    const { ro, rw } = areaOf(plugin, database).roles;
    await admin.query(
      `DO $$ BEGIN REVOKE ALL ON SCHEMA ${id(area.schema)} FROM ${id(ro)}, ${id(rw)};
       EXCEPTION WHEN undefined_object OR invalid_schema_name THEN NULL; END $$`,
    );
    await endSessions(admin, [ro, rw]);
  }
}

/**
 * Functions that run with their owner's rights are open to everybody when they are made; here only to
 * those who hold the whole schema. Called last: it looks at the privileges as they are by now.
 */
export async function closeDefinerFunctions(admin: pg.ClientBase, area: Area): Promise<void> {
  const { rows } = await admin.query<{ routine: string }>(
    `SELECT format('%s %s', CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
                   oid::regprocedure) AS routine
       FROM pg_proc WHERE prosecdef AND pronamespace = to_regnamespace($1)`,
    [id(area.schema)],
  );
  for (const { routine } of rows) await admin.query(`REVOKE ALL ON ${routine} FROM PUBLIC`);
}

async function grantOne(admin: pg.ClientBase, roles: Roles, grant: AreaGrant): Promise<void> {
  const makers = await makersOf(admin, grant.schema);
  if (!makers) return;
  const schema = id(grant.schema);
  const to = grant.access === 'read' ? `${id(roles.ro)}, ${id(roles.rw)}` : id(roles.rw);
  const onTables = grant.access === 'read' ? 'SELECT' : 'SELECT, INSERT, UPDATE, DELETE';
  await admin.query(`GRANT USAGE ON SCHEMA ${schema} TO ${to}`);
  if (grant.relation !== '*') {
    await grantRelation(admin, grant, onTables, to);
    return;
  }
  const defaults = `ALTER DEFAULT PRIVILEGES FOR ROLE ${makers} IN SCHEMA ${schema}`;
  await admin.query(`GRANT ${onTables} ON ALL TABLES IN SCHEMA ${schema} TO ${to}`);
  await admin.query(`${defaults} GRANT ${onTables} ON TABLES TO ${to}`);
  await admin.query(`GRANT EXECUTE ON ALL ROUTINES IN SCHEMA ${schema} TO ${to}`);
  if (grant.access === 'read') return;
  await admin.query(`GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA ${schema} TO ${to}`);
  await admin.query(`${defaults} GRANT USAGE, SELECT ON SEQUENCES TO ${to}`);
}

async function grantRelation(
  admin: pg.ClientBase,
  grant: AreaGrant,
  privileges: string,
  to: string,
): Promise<void> {
  const name = `${id(grant.schema)}.${id(grant.relation)}`;
  const { rows } = await admin.query<{ there: boolean; sequences: string[] }>(
    `SELECT to_regclass($1) IS NOT NULL AS there, ARRAY(
       SELECT s.oid::regclass::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND d.refobjid = to_regclass($1)
          AND d.deptype IN ('a', 'i') AND s.relkind = 'S') AS sequences`,
    [name],
  );
  const [found] = rows;
  if (!found?.there) return;
  await admin.query(`GRANT ${privileges} ON ${name} TO ${to}`);
  if (grant.access === 'read') return;
  for (const sequence of found.sequences) {
    await admin.query(`GRANT USAGE, SELECT ON SEQUENCE ${sequence} TO ${to}`);
  }
}

/** The roles that make tables in a schema, as a list; undefined when the schema is no plugin's. */
async function makersOf(admin: pg.ClientBase, schema: string): Promise<string | undefined> {
  const { rows } = await admin.query<{ plugin: string; database: string }>(
    `SELECT a.plugin, current_database() AS database FROM noa.plugin_areas a
       JOIN pg_namespace n ON n.nspname = a.schema WHERE a.schema = $1`,
    [schema],
  );
  const [found] = rows;
  if (!found) return undefined;
  const { roles } = areaOf(found.plugin, found.database);
  return `${id(roles.owner)}, ${id(roles.rw)}`;
}

const id = pg.escapeIdentifier;
