/**
 * A plugin's area: its schema, its three roles, which hold exactly the privileges of its
 * grants. Invariant: PostgreSQL alone enforces the grants. Roles are logged in to and never switched to, they own nothing
 * outside their schema, belong to no other role, and schemas belong to the host, so no plugin can open
 * its schema to another.
 *
 * What the host remembers is in schema `noa`, closed to every plugin.
 */
import { createHash, pbkdf2Sync, createHmac, randomBytes } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';
import pg from 'pg';

const NAME_MAX = 63;
const SCRAM_ITERATIONS = 4096;
/** Of one role, over all hosts. */
const CONNECTION_LIMIT = 64;
/** One lock for all areas and hosts: privileges of two plugins touch the same catalog rows. */
const LOCK = [0x6e6f61, 1];
const LOCK_TIMEOUT = '30s';
/** Longest wait for a session that was told to end, in milliseconds. */
const END_MS = 5_000;
const CLOSING_TRIES = 20;

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

export function allRoles({ roles }: Area): string[] {
  return [roles.owner, roles.rw, roles.ro];
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/**
 * True when the area is there and was made from the same grants and migrations. A role that gave all its
 * privileges away (DROP OWNED) has lost CONNECT as well.
 */
export async function isUpToDate(
  admin: pg.ClientBase,
  area: Area,
  fingerprint: string,
): Promise<boolean> {
  const { rows } = await admin.query<{ same: boolean }>(
    `SELECT a.fingerprint = $2 AND n.oid IS NOT NULL
        AND (SELECT count(*) = 3 FROM pg_roles WHERE rolname = ANY ($3)
                AND has_database_privilege(rolname, current_database(), 'CONNECT')) AS same
       FROM noa.plugin_areas a LEFT JOIN pg_namespace n ON n.nspname = a.schema
      WHERE a.plugin = $1`,
    [area.plugin, fingerprint, allRoles(area)],
  );
  return rows[0]?.same === true;
}

/** Remembers what the area was made from, once all of it is done. */
export async function recordFingerprint(
  admin: pg.ClientBase,
  { plugin }: Area,
  fingerprint: string,
): Promise<void> {
  const sql = 'UPDATE noa.plugin_areas SET fingerprint = $2 WHERE plugin = $1';
  await admin.query(sql, [plugin, fingerprint]);
}

/** So that the area is made again, whatever happens next. */
export async function forgetFingerprint(admin: pg.ClientBase, { plugin }: Area): Promise<void> {
  const sql = 'UPDATE noa.plugin_areas SET fingerprint = NULL WHERE plugin = $1';
  await admin.query(sql, [plugin]);
}

/** Undoes `closeRoles`. */
export async function openRoles(admin: pg.ClientBase, area: Area): Promise<void> {
  for (const role of allRoles(area)) await admin.query(`ALTER ROLE ${id(role)} LOGIN`);
}

/** Serialises the making of areas over all hosts while `work` runs. */
export async function withLock<T>(admin: pg.ClientBase, work: () => Promise<T>): Promise<T> {
  await admin.query(`SET lock_timeout = '${LOCK_TIMEOUT}'`);
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
  if (found?.plugin ? found.plugin !== plugin : found?.taken || schema.startsWith('pg_')) {
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
  for (const role of allRoles(area)) {
    await admin.query(`
      DO $$ BEGIN
        CREATE ROLE ${id(role)} LOGIN NOINHERIT CONNECTION LIMIT ${CONNECTION_LIMIT};
      EXCEPTION WHEN duplicate_object THEN NULL; END $$`);
    await resetRole(admin, role, password(role));
    await admin.query(`
      DO $$ BEGIN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO ${id(role)}', current_database());
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN NULL;
        ELSIF current_setting('server_version_num')::int >= 160000 THEN
          EXECUTE 'GRANT ${id(role)} TO CURRENT_USER WITH INHERIT TRUE, SET TRUE';
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
       IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
         ALTER ROLE ${id(role)} SET temp_file_limit = '1GB';
       END IF;
     END $$`,
  );
  await admin.query(`ALTER ROLE ${id(role)} PASSWORD '${scramVerifier(password)}'`);
}

/** Ends the sessions of these roles on every host, and waits until they are gone. */
export async function endSessions(admin: pg.ClientBase, roles: readonly string[]): Promise<void> {
  const sql = 'SELECT pg_terminate_backend(pid, $2) FROM pg_stat_activity WHERE usename = ANY ($1)';
  await admin.query(sql, [roles, END_MS]);
}

/**
 * Ends the sessions of these roles and lets them log in no more. The sessions go first, since what they
 * have not committed may lock the role itself, and again afterwards; somebody may log in between.
 */
export async function closeRoles(admin: pg.ClientBase, roles: readonly string[]): Promise<void> {
  const sql = 'SELECT rolname AS name FROM pg_roles WHERE rolname = ANY ($1)';
  const { rows } = await admin.query<{ name: string }>(sql, [roles]);
  const closing = rows.map(({ name }) => `ALTER ROLE ${id(name)} NOLOGIN`).join(';\n');
  for (let left = CLOSING_TRIES; ; left -= 1) {
    await endSessions(admin, roles);
    try {
      await withTimeout(admin, '500ms', () => admin.query(closing));
      break;
    } catch (error) {
      if (!isLockTimeout(error) || left === 0) throw error;
    }
  }
  await endSessions(admin, roles);
}

/** Runs `work` with another bound on waiting for a lock. */
export async function withTimeout<T>(
  admin: pg.ClientBase,
  bound: string,
  work: () => Promise<T>,
): Promise<T> {
  await admin.query(`SET lock_timeout = '${bound}'`);
  try {
    return await work();
  } finally {
    await admin.query(`SET lock_timeout = '${LOCK_TIMEOUT}'`);
  }
}

export function isLockTimeout(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '55P03';
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
