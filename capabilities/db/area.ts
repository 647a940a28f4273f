/**
 * A plugin's area: its schema, its three roles, and exactly the privileges of its grants. Invariant:
 * PostgreSQL alone enforces the grants. Roles are logged in to and never switched to, they own nothing
 * outside their schema, belong to no other role, and schemas belong to the host, so no plugin can open
 * its schema to another.
 *
 * What the host remembers is in schema `noa`, closed to every plugin.
 */
import { createHash, pbkdf2Sync, createHmac, randomBytes } from 'node:crypto';
import { NoaError, type Provision } from '@noa/sdk/host';
import pg from 'pg';

const NAME_MAX = 63;
/** Raised when the statements below change, so that every area is brought up to date once. */
const LAYOUT = 1;
const SCRAM_ITERATIONS = 4096;
/** Of one role, over all hosts. */
const CONNECTION_LIMIT = 64;
/** One lock for all areas and hosts: privileges of two plugins touch the same catalog rows. */
const LOCK = [0x6e6f61, 1];

export const LEDGER = `
  CREATE SCHEMA IF NOT EXISTS noa;
  CREATE TABLE IF NOT EXISTS noa.plugin_areas (
    plugin text PRIMARY KEY, schema text NOT NULL UNIQUE, fingerprint text);
  CREATE TABLE IF NOT EXISTS noa.plugin_grants (
    plugin text NOT NULL, access text NOT NULL, schema text NOT NULL, relation text NOT NULL,
    PRIMARY KEY (plugin, access, schema, relation));
  CREATE TABLE IF NOT EXISTS noa.plugin_migrations (
    plugin text NOT NULL, name text NOT NULL, sha256 text NOT NULL, xid xid8,
    applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (plugin, name))`;

export interface Roles {
  /** Runs the bundle's migrations and owns what they make. */
  readonly owner: string;
  /** Runs execute and transaction. */
  readonly rw: string;
  /** Runs query. */
  readonly ro: string;
}

export interface Area {
  readonly plugin: string;
  readonly schema: string;
  readonly roles: Roles;
}

/** `relation` is a table, or `*` for all tables that are and will be. */
export interface AreaGrant {
  readonly access: 'read' | 'write';
  readonly schema: string;
  readonly relation: string;
}

/**
 * The names of a plugin's area. Roles belong to the whole server, so their names carry a digest of the
 * database: two installations on one server never share a role.
 */
export function areaOf(plugin: string, database: string): Area {
  const full = plugin.replaceAll('-', '_');
  const digest = sha256(plugin).slice(0, 8);
  const schema = full.length <= NAME_MAX ? full : `${full.slice(0, NAME_MAX - 9)}_${digest}`;
  const key = sha256(`${database}\0${plugin}`).slice(0, 8);
  const role = (kind: string) => `noa_${key}_${schema.slice(0, 40)}_${kind}`;
  return { plugin, schema, roles: { owner: role('owner'), rw: role('rw'), ro: role('ro') } };
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
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

/** True when the area is there and was made from the same grants and migrations. */
export async function isUpToDate(
  admin: pg.ClientBase,
  area: Area,
  fingerprint: string,
): Promise<boolean> {
  const { rows } = await admin.query<{ same: boolean }>(
    `SELECT a.fingerprint = $2 AND n.oid IS NOT NULL
        AND (SELECT count(*) = 3 FROM pg_roles WHERE rolname = ANY ($3)) AS same
       FROM noa.plugin_areas a LEFT JOIN pg_namespace n ON n.nspname = a.schema
      WHERE a.plugin = $1`,
    [area.plugin, fingerprint, Object.values(area.roles)],
  );
  return rows[0]?.same === true;
}

/** Serialises the making of areas over all hosts while `work` runs. */
export async function withLock<T>(admin: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await admin.query("SET lock_timeout = '30s'");
  try {
    await admin.query('SELECT pg_advisory_lock($1, $2)', LOCK);
    try {
      return await work();
    } finally {
      await admin.query('SELECT pg_advisory_unlock($1, $2)', LOCK);
    }
  } finally {
    await admin.query('RESET lock_timeout');
  }
}

export async function inTransaction<T>(admin: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await admin.query('BEGIN');
  try {
    const value = await work();
    await admin.query('COMMIT');
    return value;
  } catch (error) {
    await admin.query('ROLLBACK');
    throw error;
  }
}

/** Makes the schema and the roles, without any privilege but the owner's. */
export async function createArea(
  admin: pg.ClientBase,
  area: Area,
  password: (role: string) => string,
): Promise<void> {
  const { plugin, schema, roles } = area;
  const { rows } = await admin.query<{ plugin: string | null; taken: boolean }>(
    `SELECT (SELECT plugin FROM noa.plugin_areas WHERE schema = $1) AS plugin,
            EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AS taken`,
    [schema],
  );
  const [found] = rows;
  if (found?.plugin ? found.plugin !== plugin : found?.taken || /^pg_/.test(schema)) {
    throw new NoaError(
      'CONFLICT',
      `db: the schema ${schema} of plugin ${plugin} is not free in this database; rename the plugin`,
    );
  }
  await admin.query(`CREATE SCHEMA IF NOT EXISTS ${id(schema)}`);
  await admin.query(
    `INSERT INTO noa.plugin_areas VALUES ($1, $2, NULL)
       ON CONFLICT (plugin) DO UPDATE SET fingerprint = NULL`,
    [plugin, schema],
  );
  for (const role of Object.values(roles)) {
    await admin.query(`
      DO $$ BEGIN
        CREATE ROLE ${id(role)} LOGIN NOINHERIT CONNECTION LIMIT ${CONNECTION_LIMIT};
      EXCEPTION WHEN duplicate_object THEN NULL; END $$`);
    await resetRole(admin, role, password(role));
    await admin.query(`
      DO $$ BEGIN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO ${id(role)}', current_database());
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
          ALTER ROLE ${id(role)} SET temp_file_limit = '1GB';
        ELSIF current_setting('server_version_num')::int >= 160000 THEN
          GRANT ${id(role)} TO CURRENT_USER WITH INHERIT TRUE, SET TRUE;
        ELSE
          GRANT ${id(role)} TO CURRENT_USER;
        END IF;
      END $$`);
  }
  await admin.query(`GRANT USAGE, CREATE ON SCHEMA ${id(schema)} TO ${id(roles.owner)}`);
}

/** Takes back what a role may have done to itself: its stored settings and its password. */
export async function resetRole(
  admin: pg.ClientBase,
  role: string,
  password: string,
): Promise<void> {
  await admin.query(`ALTER ROLE ${id(role)} RESET ALL`);
  await admin.query(
    `DO $$ BEGIN
       EXECUTE format('ALTER ROLE ${id(role)} IN DATABASE %I RESET ALL', current_database());
     END $$`,
  );
  await admin.query(`ALTER ROLE ${id(role)} PASSWORD '${scramVerifier(password)}'`);
}

/** Replaces the privileges of the plugin's roles by those of `grants`, on every schema they ever had. */
export async function applyGrants(
  admin: pg.ClientBase,
  area: Area,
  grants: readonly AreaGrant[],
): Promise<void> {
  const { plugin, schema, roles } = area;
  const own = grants.some(
    (grant) => grant.access === 'write' && grant.schema === schema && grant.relation === '*',
  );
  // A role that owned its tables could give itself back what is revoked below.
  if (!own) await admin.query(`REASSIGN OWNED BY ${id(roles.rw)} TO ${id(roles.owner)}`);
  const { rows: before } = await admin.query<{ schema: string }>(
    'SELECT DISTINCT schema FROM noa.plugin_grants WHERE plugin = $1 AND schema <> $2',
    [plugin, schema],
  );
  for (const name of [schema, ...before.map((row) => row.schema)]) {
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

/** Gives other plugins what was granted to them on this schema, whose tables may be new. */
export async function applyGrantsOfOthers(
  admin: pg.ClientBase,
  area: Area,
  rolesOf: (plugin: string) => Roles,
): Promise<void> {
  const { rows } = await admin.query<AreaGrant & { plugin: string }>(
    `SELECT g.plugin, g.access, g.schema, g.relation
       FROM noa.plugin_grants g JOIN noa.plugin_areas a ON a.plugin = g.plugin
      WHERE g.schema = $1 AND g.plugin <> $2`,
    [area.schema, area.plugin],
  );
  for (const { plugin, ...grant } of rows) await grantOne(admin, rolesOf(plugin), grant);
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

/** Deletes the schema, the roles and what the host remembers of them. */
export async function dropArea(admin: pg.ClientBase, area: Area): Promise<void> {
  const { plugin, schema, roles } = area;
  const { rows } = await admin.query('SELECT FROM noa.plugin_areas WHERE plugin = $1', [plugin]);
  if (rows.length === 0) return;
  await admin.query(`DROP SCHEMA IF EXISTS ${id(schema)} CASCADE`);
  for (const role of Object.values(roles)) {
    const { rowCount } = await admin.query('SELECT FROM pg_roles WHERE rolname = $1', [role]);
    if (rowCount === 0) continue;
    await admin.query(`DROP OWNED BY ${id(role)} CASCADE`);
    await admin.query(`DROP ROLE ${id(role)}`);
  }
  for (const table of ['plugin_grants', 'plugin_migrations', 'plugin_areas']) {
    await admin.query(`DELETE FROM noa.${table} WHERE plugin = $1`, [plugin]);
  }
}

/** Ends every session of these roles on every host. */
export async function endSessions(admin: pg.ClientBase, roles: readonly string[]): Promise<void> {
  await admin.query(
    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY ($1)',
    [roles],
  );
}

/** The stored form of a password (RFC 5803), so that the password itself never reaches a server log. */
function scramVerifier(password: string): string {
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password, salt, SCRAM_ITERATIONS, 32, 'sha256');
  const hmac = (text: string) => createHmac('sha256', salted).update(text).digest();
  const stored = createHash('sha256').update(hmac('Client Key')).digest('base64');
  const server = hmac('Server Key').toString('base64');
  return `SCRAM-SHA-256$${SCRAM_ITERATIONS}:${salt.toString('base64')}$${stored}:${server}`;
}

const id = pg.escapeIdentifier;
