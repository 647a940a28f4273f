/**
 * Deletes a plugin's area, whatever the plugin made: PostgreSQL has no bound on the objects of a schema,
 * yet locks each one that a transaction drops, in one table of fixed size for the whole server
 * (`max_locks_per_transaction`). So objects go a few at a time. Invariant: from `beginRemoval` on nobody
 * can log in to the area, and whatever interrupts the removal, the next one goes on with it; an area is
 * never made again around what is left of an old one.
 */
import pg from 'pg';
import { type Area, allRoles, closeRoles, inTransaction } from './area.ts';
import { shutOut } from './privileges.ts';

/** In place of an area's fingerprint while it is removed. */
export const REMOVAL = 'removal';
/** Objects read at a time, and dropped in one transaction: each may bring some ten others with it. */
const PAGE = 1_000;
const BATCH = 50;
const OID_END = 2 ** 32;
/** Out of memory for locks; dependents too deep to follow. */
const TOO_MUCH = new Set(['53200', '54001']);
/** Failures that come from the object itself, not from the server or from somebody's lock: it may go later. */
const OBJECT_FAULT = /^(2B|42|0A|55006|23|22)/;

/** Gives `work` the administrator's connection under the lock of all areas; others' turns may come between. */
export type Turn = <T>(work: (admin: pg.ClientBase) => Promise<T>) => Promise<T>;

interface Dependent {
  readonly class: string;
  readonly oid: string;
  /** The statement that drops it. */
  readonly drop: string;
}

/** Closes the area for good. False when there is none. */
export async function beginRemoval(admin: pg.ClientBase, area: Area): Promise<boolean> {
  const { rowCount } = await admin.query(
    'UPDATE noa.plugin_areas SET fingerprint = $2 WHERE plugin = $1',
    [area.plugin, REMOVAL],
  );
  if (rowCount === 0) return false;
  await closeRoles(admin, allRoles(area));
  return true;
}

export async function isBeingRemoved(admin: pg.ClientBase, { plugin }: Area): Promise<boolean> {
  const sql = 'SELECT FROM noa.plugin_areas WHERE plugin = $1 AND fingerprint = $2';
  return (await admin.query(sql, [plugin, REMOVAL])).rows.length > 0;
}

/** Carries out what `beginRemoval` began, here or on a host that died; nothing when another host did. */
export async function removeArea(turn: Turn, area: Area): Promise<void> {
  const oid = await turn(async (admin) => {
    await shutOut(admin, area);
    const sql = 'SELECT oid::text FROM pg_namespace WHERE nspname = $1';
    return (await admin.query<{ oid: string }>(sql, [area.schema])).rows[0]?.oid;
  });
  if (oid !== undefined) {
    await new Removal(turn, area).clear({ class: 'pg_namespace', oid, drop: '' });
  }
  await turn((admin) => inTransaction(admin, () => dropRest(admin, area)));
}

class Removal {
  readonly #turn: Turn;
  readonly #area: Area;
  /** What is being cleared now, from the schema down; objects may depend on each other in a ring. */
  readonly #path = new Set<string>();

  constructor(turn: Turn, area: Area) {
    this.#turn = turn;
    this.#area = area;
  }

  /** Drops what depends on this, the youngest first; goes on as long as something goes. */
  async clear(target: Dependent): Promise<void> {
    const key = `${target.class} ${target.oid}`;
    if (this.#path.has(key)) return;
    this.#path.add(key);
    while (await this.#pass(target));
    this.#path.delete(key);
  }

  async #pass(target: Dependent): Promise<boolean> {
    let dropped = false;
    let before = String(OID_END);
    for (;;) {
      const page = await this.#turn((admin) => this.#dependents(admin, target, before));
      for (let at = 0; at < page.length; at += BATCH) {
        if (await this.#drop(page.slice(at, at + BATCH))) dropped = true;
      }
      const last = page.at(-1);
      if (!last) return dropped;
      before = last.oid;
    }
  }

  /** True when one of them is gone. */
  async #drop(objects: readonly Dependent[]): Promise<boolean> {
    if ((await this.#run(objects)) === undefined) return true;
    let dropped = false;
    for (const object of objects) {
      let fault = await this.#run([object]);
      if (fault !== undefined && TOO_MUCH.has(fault)) {
        await this.clear(object);
        fault = await this.#run([object]);
      }
      if (fault === undefined) dropped = true;
    }
    return dropped;
  }

  /** Drops them in one transaction; answers the SQLSTATE when the server cannot. */
  #run(objects: readonly Dependent[]): Promise<string | undefined> {
    return this.#turn(async (admin) => {
      // Another host may have ended the removal and made the area again since these were read.
      if (!(await isBeingRemoved(admin, this.#area))) return '42000';
      try {
        await admin.query(objects.map(({ drop }) => drop).join(';\n'));
        return undefined;
      } catch (error) {
        const code = error instanceof pg.DatabaseError ? (error.code ?? '') : '';
        if (TOO_MUCH.has(code) || OBJECT_FAULT.test(code)) return code;
        throw error;
      }
    });
  }

  /** Objects that depend on this one directly and can be dropped by themselves, from the youngest. */
  async #dependents(
    admin: pg.ClientBase,
    { class: name, oid }: Dependent,
    before: string,
  ): Promise<Dependent[]> {
    if (!(await isBeingRemoved(admin, this.#area))) return [];
    const { rows } = await admin.query<Dependent>(
      `SELECT p.classid::regclass::text AS class, p.objid::text AS oid, CASE
          WHEN p.classid = 'pg_class'::regclass AND p.objsubid <> 0 THEN
            format('ALTER TABLE IF EXISTS %s DROP COLUMN IF EXISTS %I CASCADE', p.objid::regclass,
              (SELECT attname FROM pg_attribute WHERE attrelid = p.objid AND attnum = p.objsubid))
          WHEN a.oid IS NOT NULL THEN
            format('ALTER TABLE IF EXISTS %s ALTER COLUMN %I DROP DEFAULT', a.adrelid::regclass,
              (SELECT attname FROM pg_attribute WHERE attrelid = a.adrelid AND attnum = a.adnum))
          WHEN c.conrelid <> 0 THEN
            format('ALTER TABLE IF EXISTS %s DROP CONSTRAINT IF EXISTS %I CASCADE',
              c.conrelid::regclass, c.conname)
          WHEN c.contypid <> 0 THEN
            format('ALTER DOMAIN IF EXISTS %s DROP CONSTRAINT IF EXISTS %I CASCADE',
              c.contypid::regtype, c.conname)
          WHEN r.rulename = '_RETURN' THEN
            format('DROP %s IF EXISTS %s CASCADE',
              (SELECT CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END
                 FROM pg_class WHERE pg_class.oid = r.ev_class), r.ev_class::regclass)
          ELSE format('DROP %s IF EXISTS %s CASCADE', replace(i.type, ' object', ''), i.identity)
        END AS drop
       FROM (SELECT DISTINCT d.classid, d.objid, d.objsubid FROM pg_depend d
              WHERE d.refclassid = $1::regclass AND d.refobjid = $2::bigint::oid
                AND d.deptype IN ('n', 'a') AND d.objid::bigint < $3::bigint
                AND (d.classid, d.objid) <> (d.refclassid, d.refobjid)
                AND d.classid <> 'pg_default_acl'::regclass
                AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid = d.classid
                  AND o.objid = d.objid AND o.deptype = 'i' AND d.classid <> 'pg_rewrite'::regclass)
              ORDER BY d.objid DESC LIMIT ${PAGE}) p
       CROSS JOIN LATERAL pg_identify_object(p.classid, p.objid, p.objsubid) i
       LEFT JOIN pg_attrdef a ON p.classid = 'pg_attrdef'::regclass AND a.oid = p.objid
       LEFT JOIN pg_constraint c ON p.classid = 'pg_constraint'::regclass AND c.oid = p.objid
       LEFT JOIN pg_rewrite r ON p.classid = 'pg_rewrite'::regclass AND r.oid = p.objid
       WHERE i.identity IS NOT NULL ORDER BY p.objid::bigint DESC`,
      [name, oid, before],
    );
    return rows;
  }
}

/** The schema with the little that is left, the roles, and what the host remembers of them. */
async function dropRest(admin: pg.ClientBase, area: Area): Promise<void> {
  if (!(await isBeingRemoved(admin, area))) return;
  await admin.query(`DROP SCHEMA IF EXISTS ${id(area.schema)} CASCADE`);
  for (const role of await existing(admin, area)) {
    await admin.query(`DROP OWNED BY ${id(role)} CASCADE`);
    await admin.query(`DROP ROLE ${id(role)}`);
  }
  for (const table of ['plugin_grants', 'plugin_migrations', 'plugin_areas']) {
    await admin.query(`DELETE FROM noa.${table} WHERE plugin = $1`, [area.plugin]);
  }
}

async function existing(admin: pg.ClientBase, area: Area): Promise<string[]> {
  const sql = 'SELECT rolname AS name FROM pg_roles WHERE rolname = ANY ($1)';
  return (await admin.query<{ name: string }>(sql, [allRoles(area)])).rows.map(({ name }) => name);
}

const id = pg.escapeIdentifier;
