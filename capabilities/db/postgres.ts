/**
 * The driver of `db` on any PostgreSQL from version 14, embedded or not. Invariant: a plugin's SQL runs
 * only on connections that logged in as that plugin's own role; the host's own user never sees it.
 */
import {
  type Driver,
  type DriverCall,
  type Json,
  NoaError,
  type Provision,
  covers,
} from '@noa/sdk/host';
import pg from 'pg';
import {
  type Area,
  LEDGER,
  type Roles,
  areaOf,
  createArea,
  dropArea,
  endSessions,
  inTransaction,
  isUpToDate,
  recordFingerprint,
  resetRole,
  withLock,
} from './area.ts';
import { CONNECT_TIMEOUT_MS, connectionConfig, roleConfig } from './connection.ts';
import { type Statement } from './exchange.ts';
import { away, fromDatabase } from './failures.ts';
import { harden } from './hardening.ts';
import { migrate } from './migrations.ts';
import {
  applyGrants,
  applyGrantsOfOthers,
  closeDefinerFunctions,
  fingerprintOf,
  privilegesOf,
} from './privileges.ts';
import { type PoolBounds, SessionPool } from './session-pool.ts';
import { Session } from './session.ts';

const MIGRATION_MS = 300_000;
const BOUNDS: PoolBounds = {
  perRole: 4,
  total: 32,
  idleMs: 30_000,
  waitingPerRole: 128,
  waiting: 1024,
};

export interface PostgresOptions {
  /** libpq URI of a user that may create roles and schemas (a superuser takes most from plugins). */
  readonly url: string;
  /** The password of a plugin's role: derived from the host's key, the same on every host. */
  rolePassword(role: string): string;
  /** What the operator should know, such as privileges that could not be taken from PUBLIC. */
  warn(message: string): void;
  /** Most connections for the SQL of plugins, all together; a few more serve the host itself. */
  readonly maxConnections?: number;
}

export function createPostgresDriver(options: PostgresOptions): Driver {
  return new PostgresDriver(options);
}

/** What a plugin was provisioned with on this host. */
interface Holder {
  readonly roles: Roles;
  /** Resources by operation. */
  readonly granted: ReadonlyMap<string, readonly string[]>;
}

class PostgresDriver implements Driver {
  readonly #options: PostgresOptions;
  readonly #admin: pg.Pool;
  readonly #sessions: SessionPool;
  readonly #holders = new Map<string, Holder>();
  readonly #searchPaths = new Map<string, string>();
  #prepared: Promise<string> | undefined;

  constructor(options: PostgresOptions) {
    this.#options = options;
    this.#admin = new pg.Pool({
      ...connectionConfig(options.url),
      max: 3,
      idleTimeoutMillis: 10_000,
    });
    // A lost idle connection is replaced when the next one is needed.
    this.#admin.on('error', () => {});
    // The pool stops listening to a connection that it closes, which may be cut off just then.
    this.#admin.on('connect', (client) => client.on('error', () => {}));
    const bounds = { ...BOUNDS, total: options.maxConnections ?? BOUNDS.total };
    this.#sessions = new SessionPool(bounds, (role, onBroken) => this.#login(role, onBroken));
  }

  async invoke(operation: string, input: Json, call: DriverCall): Promise<unknown> {
    const holder = this.#requireHolder(operation, call);
    const role = operation === 'query' ? holder.roles.ro : holder.roles.rw;
    try {
      return await this.#sessions.use(role, call.signal, async (session) => {
        const stop = () => this.#stop(session, stopped(call));
        call.signal.addEventListener('abort', stop, { once: true });
        try {
          return await run(session, operation, input);
        } finally {
          call.signal.removeEventListener('abort', stop);
        }
      });
    } catch (error) {
      throw call.signal.aborted ? stopped(call) : fromDatabase(error);
    }
  }

  /**
   * SQL text does not tell which tables it touches, and the roles hold all that the plugin was granted.
   * A token that allows less than that (narrowed, or on behalf of a caller with less) allows no SQL.
   */
  #requireHolder(operation: string, call: DriverCall): Holder {
    const holder = this.#holders.get(call.plugin);
    const granted = holder?.granted.get(operation);
    if (!holder || !granted) {
      throw new NoaError('CAPABILITY_DENIED', `db: ${call.plugin} holds no grant for ${operation}`);
    }
    const missing = granted.find((own) => !call.resources.some((allowed) => covers(allowed, own)));
    if (missing === undefined) return holder;
    throw new NoaError(
      'CAPABILITY_DENIED',
      `db: this call may not use ${missing}, which ${call.plugin} holds; ${operation} needs all of the ` +
        'plugin’s grants, because SQL cannot be limited to a part of them',
    );
  }

  async check(): Promise<void> {
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(away()), CONNECT_TIMEOUT_MS);
    try {
      await Promise.race([this.#admin.query('SELECT'), promise]);
    } catch (error) {
      throw away(error);
    } finally {
      clearTimeout(timer);
    }
  }

  async provision(request: Provision): Promise<void> {
    const { plugin } = request;
    await this.#asAdmin(async (admin) => {
      const database = await this.#prepare(admin);
      const area = areaOf(plugin, database);
      for (const role of Object.values(area.roles)) this.#searchPaths.set(role, area.schema);
      const fingerprint = fingerprintOf(request);
      if (!(await isUpToDate(admin, area, fingerprint))) {
        await withLock(admin, () => this.#build(admin, request, area, database));
      }
      this.#holders.set(plugin, {
        roles: area.roles,
        granted: byOperation(request),
      });
    });
  }

  async #build(
    admin: pg.ClientBase,
    request: Provision,
    area: Area,
    database: string,
  ): Promise<void> {
    const { owner, ro, rw } = area.roles;
    await inTransaction(admin, () => createArea(admin, area, this.#options.rolePassword));
    await migrate(admin, request, () => this.#migrator(owner));
    const lessened = await inTransaction(admin, async () => {
      const less = await applyGrants(admin, area, privilegesOf(request));
      await applyGrantsOfOthers(admin, area, (other) => areaOf(other, database).roles);
      await closeDefinerFunctions(admin, area);
      await recordFingerprint(admin, area, fingerprintOf(request));
      return less;
    });
    if (lessened) await endSessions(admin, [ro, rw], { busy: true });
  }

  async drop(plugin: string): Promise<void> {
    this.#holders.delete(plugin);
    await this.#asAdmin(async (admin) => {
      const area = areaOf(plugin, await this.#prepare(admin));
      const roles = Object.values(area.roles);
      await withLock(admin, async () => {
        for (const role of roles) this.#sessions.closeRole(role);
        await endSessions(admin, roles, { busy: false });
        await inTransaction(admin, () => dropArea(admin, area));
      });
    });
  }

  async close(): Promise<void> {
    this.#sessions.close();
    await this.#admin.end();
  }

  /** The host's own tables and the database's defaults, once per driver; answers the database's name. */
  #prepare(admin: pg.ClientBase): Promise<string> {
    this.#prepared ??= (async () => {
      await withLock(admin, async () => {
        await admin.query(LEDGER);
        for (const kept of await inTransaction(admin, () => harden(admin)))
          this.#options.warn(kept);
      });
      const { rows } = await admin.query<{ name: string }>('SELECT current_database() AS name');
      return rows[0]?.name ?? '';
    })();
    this.#prepared.catch(() => (this.#prepared = undefined));
    return this.#prepared;
  }

  async #asAdmin<T>(work: (admin: pg.PoolClient) => Promise<T>): Promise<T> {
    let admin: pg.PoolClient | undefined;
    let failed = true;
    try {
      admin = await this.#admin.connect();
      const value = await work(admin);
      failed = false;
      return value;
    } catch (cause) {
      if (!(cause instanceof pg.DatabaseError && cause.code === '42501')) throw fromDatabase(cause);
      throw new NoaError(
        'CONFLICT',
        `db: the user of database.url may not prepare a plugin’s schema (${cause.message}); it needs ` +
          'CREATEROLE and CREATE on the database',
        { cause },
      );
    } finally {
      admin?.release(failed);
    }
  }

  /** Logs in as a plugin's role; puts right what the plugin may have done to the role's own login. */
  async #login(role: string, onBroken: (session: Session) => void): Promise<Session> {
    const { url, rolePassword } = this.#options;
    const config = roleConfig(url, role, rolePassword(role), this.#searchPaths.get(role) ?? '');
    try {
      return await Session.open(role, config, onBroken);
    } catch (error) {
      const refused = error instanceof pg.DatabaseError && !/^(53|57)/.test(error.code ?? '');
      if (!refused) throw error;
      await this.#asAdmin((admin) => resetRole(admin, role, rolePassword(role))).catch((cause) => {
        throw away(cause);
      });
      return await Session.open(role, config, onBroken);
    }
  }

  async #migrator(owner: string): Promise<Session> {
    const session = await this.#login(owner, () => clearTimeout(timer));
    const late = new NoaError('DEADLINE_EXCEEDED', 'db: it ran longer than five minutes');
    const timer = setTimeout(() => this.#stop(session, late), MIGRATION_MS).unref();
    return session;
  }

  /**
   * Ends a call's work on the server too. Not by a cancel, which SQL can catch (`EXCEPTION WHEN
   * query_canceled`): the session is ended.
   */
  #stop(session: Session, error: Error): void {
    session.abort(error);
    this.#admin
      .query('SELECT pg_terminate_backend($1)', [session.pid])
      .catch((cause: Error) =>
        this.#options.warn(`a statement could not be stopped: ${cause.message}`),
      );
  }
}

async function run(session: Session, operation: string, input: Json): Promise<unknown> {
  switch (operation) {
    case 'query': {
      const { rows } = await session.query(toStatement(input));
      return { rows };
    }
    case 'execute':
      return await session.execute(toStatement(input));
    case 'transaction': {
      const statements = field(input, 'statements');
      if (!Array.isArray(statements)) throw wrong('statements', 'an array');
      return { results: await session.transaction(statements.map(toStatement)) };
    }
    default:
      throw new NoaError('INVALID_ARGUMENT', `db: there is no operation ${operation}`);
  }
}

function toStatement(input: Json): Statement {
  const sql = field(input, 'sql');
  const params = field(input, 'params') ?? [];
  if (typeof sql !== 'string') throw wrong('sql', 'a string');
  if (!Array.isArray(params)) throw wrong('params', 'an array');
  return { sql, params };
}

function field(input: Json, name: string): Json | undefined {
  return typeof input === 'object' &&
    input !== null &&
    !Array.isArray(input) &&
    Object.hasOwn(input, name)
    ? input[name]
    : undefined;
}

function wrong(name: string, type: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `db: ${name} must be ${type}`);
}

function stopped(call: DriverCall): NoaError {
  return Date.now() >= call.deadline
    ? new NoaError('DEADLINE_EXCEEDED', 'db: the call’s time is over; its statement was stopped')
    : new NoaError('CANCELLED', 'db: the caller went away; its statement was stopped');
}

function byOperation(request: Provision): Map<string, readonly string[]> {
  const granted = new Map<string, string[]>();
  for (const { operations, resources } of request.grants) {
    for (const operation of operations) {
      granted.set(operation, [...(granted.get(operation) ?? []), ...resources]);
    }
  }
  return granted;
}
