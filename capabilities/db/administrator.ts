/**
 * What the driver does as the user of `database.url`: preparing the database and the plugins' areas, and
 * ending statements. Invariant: no SQL text of a plugin runs here; migrations too run as the plugin's own
 * role.
 */
import { NoaError, type Provision } from '@noa/sdk/host';
import pg from 'pg';
import {
  type Area,
  LEDGER,
  allRoles,
  areaOf,
  closeRoles,
  createArea,
  forgetFingerprint,
  inTransaction,
  isLockTimeout,
  isUpToDate,
  openRoles,
  recordFingerprint,
  resetRole,
  withLock,
  withTimeout,
} from './area.ts';
import { CONNECT_TIMEOUT_MS, connectionConfig, roleConfig } from './connection.ts';
import { away, fromDatabase } from './failures.ts';
import { harden } from './hardening.ts';
import { migrate } from './migrations.ts';
import {
  applyGrants,
  applyGrantsOfOthers,
  closeDefinerFunctions,
  fingerprintOf,
  handOver,
  holdsMore,
  privilegesOf,
  shutOut,
} from './privileges.ts';
import type { Usage } from './quota.ts';
import { type Turn, beginRemoval, isBeingRemoved, removeArea } from './removal.ts';
import { Session } from './session.ts';
import { usageOf } from './usage.ts';

const LEAST_VERSION = 140_000;
const MIGRATION_MS = 300_000;
/** How long a change of rights waits for what the plugin runs before it is ended. */
const PATIENCE = '1s';

export interface AdministratorOptions {
  /**
   * libpq URI of a database for the host alone, as a user that may create roles and schemas in it; a
   * superuser can take the most from plugins.
   */
  readonly url: string;
  /** The password of a plugin's role: derived from the host's key, the same on every host. */
  readonly rolePassword: (role: string) => string;
  /** What the operator should know, such as privileges that could not be taken from PUBLIC. */
  readonly warn: (message: string) => void;
}

interface Database {
  readonly name: string;
  /** Whether the server can notice that a client is gone while it works for it. */
  readonly checksClients: boolean;
}

export class Administrator {
  readonly #options: AdministratorOptions;
  readonly #pool: pg.Pool;
  readonly #resets = new Map<string, Promise<void>>();
  readonly #logins = new Map<string, pg.ClientConfig>();
  #prepared: Promise<Database> | undefined;
  /** Areas are made one after the other, so that the pool always has a connection for the rest. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: AdministratorOptions) {
    this.#options = options;
    const config = connectionConfig(options.url);
    this.#pool = new pg.Pool({ ...config, max: 3, idleTimeoutMillis: 10_000 });
    // A lost idle connection is replaced when the next one is needed.
    this.#pool.on('error', () => {});
    // The pool stops listening to a connection that it closes, which may be cut off just then.
    this.#pool.on('connect', (client) => client.on('error', () => {}));
  }

  /** Rejects with UNAVAILABLE when the server does not answer within the time of a connection. */
  async check(): Promise<void> {
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(away()), CONNECT_TIMEOUT_MS);
    try {
      await Promise.race([this.#pool.query('SELECT'), promise]);
    } catch (error) {
      throw away(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Makes the plugin's area as the request says and answers it. */
  async provision(request: Provision): Promise<Area> {
    return this.#inTurn(async (admin) => {
      const database = await this.#prepare(admin);
      const area = areaOf(request.plugin, database.name);
      this.#learnLogins(area, database);
      if (!(await isUpToDate(admin, area, fingerprintOf(request)))) {
        await withLock(admin, () => this.#build(admin, request, area));
      }
      return area;
    });
  }

  /** Deletes the plugin's area. */
  async drop(plugin: string): Promise<void> {
    const area = await this.#inTurn(async (admin) =>
      areaOf(plugin, (await this.#prepare(admin)).name),
    );
    const turn: Turn = (work) => this.#inTurn((admin) => withLock(admin, () => work(admin)));
    if (await turn((admin) => beginRemoval(admin, area))) await removeArea(turn, area);
    for (const role of allRoles(area)) this.#logins.delete(role);
  }

  /** Logs in as a plugin's role; puts right what the plugin may have done to the role's own login. */
  async login(role: string, onBroken: (session: Session) => void): Promise<Session> {
    const config = this.#logins.get(role);
    if (!config) throw away();
    try {
      return await Session.open(role, config, onBroken);
    } catch (error) {
      // 28000: the role is closed, on purpose.
      const refused = error instanceof pg.DatabaseError && !/^(53|57|28000)/.test(error.code ?? '');
      if (!refused) throw error;
      await this.#reset(role);
      return Session.open(role, config, onBroken);
    }
  }

  /** Once for all logins that failed together: PostgreSQL refuses two changes of one role at a time. */
  async #reset(role: string): Promise<void> {
    const running = this.#resets.get(role);
    if (running !== undefined) return running;
    const reset = this.#withAdmin((admin) =>
      resetRole(admin, role, this.#options.rolePassword(role)),
    )
      .catch((cause: unknown) => {
        throw away(cause);
      })
      .finally(() => this.#resets.delete(role));
    this.#resets.set(role, reset);
    return reset;
  }

  /**
   * Fails what a session runs now, on the server too. Not by a cancel, which SQL can catch (`EXCEPTION
   * WHEN query_canceled`): the session is ended.
   */
  stop(session: Session, error: Error): void {
    if (session.broken) return;
    session.abort(error);
    this.#pool
      .query(
        'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND usename = $2',
        [session.pid, session.role],
      )
      .catch((cause: Error) => {
        this.#options.warn(`db: a statement could not be stopped: ${cause.message}`);
      });
  }

  /** What the plugin has; undefined when it holds a lock that keeps it from being measured. */
  async measure(plugin: string): Promise<Usage | undefined> {
    return this.#withAdmin(async (admin) => {
      const { schema } = areaOf(plugin, (await this.#prepare(admin)).name);
      return usageOf(admin, schema);
    });
  }

  /** Bytes of the whole database. */
  async size(): Promise<number> {
    const sql = 'SELECT pg_database_size(current_database())::float8 AS bytes';
    const { rows } = await this.#pool.query<{ bytes: number }>(sql);
    return rows[0]?.bytes ?? 0;
  }

  async #withAdmin<T>(work: (admin: pg.PoolClient) => Promise<T>): Promise<T> {
    const admin = await this.#pool.connect();
    let failed = true;
    try {
      const value = await work(admin);
      failed = false;
      return value;
    } finally {
      admin.release(failed);
    }
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }

  async #build(admin: pg.ClientBase, request: Provision, area: Area): Promise<void> {
    if (await isBeingRemoved(admin, area)) await removeArea((work) => work(admin), area);
    const close = () => this.#close(admin, area);
    // What runs under the old rights must neither finish nor make the new ones wait.
    if (await holdsMore(admin, area, privilegesOf(request))) await close();
    const make = () => this.#make(admin, request, area);
    try {
      await withTimeout(admin, PATIENCE, make);
    } catch (error) {
      if (!isLockTimeout(error)) throw error;
      await close();
      await shutOut(admin, area);
      await make();
    }
  }

  /** Until `#make` is through, here or at the next start. */
  async #close(admin: pg.ClientBase, area: Area): Promise<void> {
    await forgetFingerprint(admin, area);
    await closeRoles(admin, [area.roles.ro, area.roles.rw]);
  }

  async #make(admin: pg.ClientBase, request: Provision, area: Area): Promise<void> {
    const grants = privilegesOf(request);
    await inTransaction(admin, () => createArea(admin, area, this.#options.rolePassword));
    await migrate(admin, request, (work) => this.#asOwner(area, work));
    await handOver(admin, area, grants);
    await inTransaction(admin, async () => {
      await applyGrants(admin, area, grants);
      await applyGrantsOfOthers(admin, area);
      await closeDefinerFunctions(admin, area);
      await openRoles(admin, area);
      await recordFingerprint(admin, area, fingerprintOf(request));
    });
  }

  async #asOwner(area: Area, work: (session: Session) => Promise<void>): Promise<void> {
    const session = await this.login(area.roles.owner, () => {});
    const late = new NoaError('DEADLINE_EXCEEDED', 'db: it ran longer than five minutes');
    const timer = setTimeout(() => this.stop(session, late), MIGRATION_MS);
    try {
      await work(session);
    } finally {
      clearTimeout(timer);
      await session.close();
    }
  }

  #learnLogins(area: Area, { checksClients }: Database): void {
    const { schema, roles } = area;
    const { url, rolePassword } = this.#options;
    for (const role of allRoles(area)) {
      if (this.#logins.has(role)) continue;
      const readOnly = role === roles.ro;
      this.#logins.set(
        role,
        roleConfig(url, role, rolePassword(role), { schema, readOnly, checksClients }),
      );
    }
  }

  /** The host's own tables and the database's defaults, once per host. */
  #prepare(admin: pg.ClientBase): Promise<Database> {
    this.#prepared ??= this.#readDatabase(admin);
    this.#prepared.catch(() => (this.#prepared = undefined));
    return this.#prepared;
  }

  async #readDatabase(admin: pg.ClientBase): Promise<Database> {
    const { rows } = await admin.query<{ name: string; number: number; version: string }>(
      `SELECT current_database() AS name, current_setting('server_version_num')::int AS number,
              current_setting('server_version') AS version`,
    );
    const { name = '', number = 0, version = '' } = rows[0] ?? {};
    if (number < LEAST_VERSION) {
      throw new NoaError('CONFLICT', `db: PostgreSQL 14 or later is needed; this is ${version}`);
    }
    await withLock(admin, async () => {
      await admin.query(LEDGER);
      const kept = await inTransaction(admin, () => harden(admin));
      for (const sentence of kept) this.#options.warn(`db: ${sentence}`);
    });
    const checksClients = await admin
      .query("SELECT set_config('client_connection_check_interval', '2s', true)")
      .then(
        () => true,
        () => false,
      );
    return { name, checksClients };
  }

  async #inTurn<T>(work: (admin: pg.PoolClient) => Promise<T>): Promise<T> {
    const turn = this.#last.then(() => this.#asAdmin(work));
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  async #asAdmin<T>(work: (admin: pg.PoolClient) => Promise<T>): Promise<T> {
    try {
      return await this.#withAdmin(work);
    } catch (cause) {
      if (!(cause instanceof pg.DatabaseError && cause.code === '42501')) throw fromDatabase(cause);
      throw new NoaError(
        'CONFLICT',
        `db: the user of database.url may not prepare a plugin’s schema (${cause.message}); it needs ` +
          'CREATEROLE and CREATE on the database',
        { cause },
      );
    }
  }
}
