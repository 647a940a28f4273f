/**
 * The driver of `db` on any PostgreSQL from version 14, embedded or not. Invariant: a plugin's SQL runs
 * only on connections that logged in as that plugin's own role; the host's own user never sees it.
 */
import {
  type Driver,
  type DriverCall,
  inSpan,
  type Json,
  NoaError,
  type Provision,
  type SpanAttributes,
  covers,
  stopped,
} from '@noa/sdk/host';
import { Administrator, type AdministratorOptions } from './administrator.ts';
import type { Roles } from './area.ts';
import type { Statement } from './exchange.ts';
import { fromDatabase } from './failures.ts';
import { type QuotaBounds, Quotas } from './quota.ts';
import { type PoolBounds, SessionPool } from './session-pool.ts';
import type { Session } from './session.ts';

const BOUNDS: PoolBounds = {
  perRole: 4,
  total: 32,
  idleMs: 30_000,
  waitingPerPlugin: 128,
  waiting: 1024,
};

const QUOTA: QuotaBounds = { bytes: 2 ** 30, objects: 10_000, columns: 100_000 };

const COMMAND = /^\s*(select|insert|update|delete|merge|with|values|create|alter|drop|truncate)\b/i;

export interface PostgresOptions extends AdministratorOptions {
  /** Most connections for the SQL of plugins, all together; up to three more serve the driver itself. */
  readonly maxConnections?: number;
  /** What one plugin may have in its schema; 1 GiB, 10,000 objects and 100,000 columns when absent. */
  readonly quota?: Partial<QuotaBounds>;
}

export interface PostgresEngine extends Driver {
  /** Connections that the calls of plugins use now. */
  readonly busy: number;
}

export function createPostgresDriver(options: PostgresOptions): PostgresEngine {
  return new PostgresDriver(options);
}

/** What a plugin was provisioned with on this host. */
interface Holder {
  readonly roles: Roles;
  /** Resources by operation. */
  readonly granted: ReadonlyMap<string, readonly string[]>;
}

class PostgresDriver implements PostgresEngine {
  readonly #administrator: Administrator;
  readonly #sessions: SessionPool;
  readonly #holders = new Map<string, Holder>();

  readonly #quotas: Quotas;

  constructor({ maxConnections = BOUNDS.total, quota, ...options }: PostgresOptions) {
    this.#administrator = new Administrator(options);
    this.#sessions = new SessionPool({ ...BOUNDS, total: maxConnections }, (role, onBroken) =>
      this.#administrator.login(role, onBroken),
    );
    this.#quotas = new Quotas({
      bounds: { ...QUOTA, ...quota },
      measure: (plugin) => this.#administrator.measure(plugin),
      total: () => this.#administrator.size(),
      warn: options.warn,
    });
  }

  get busy(): number {
    return this.#sessions.busy;
  }

  async invoke(operation: string, input: Json, call: DriverCall): Promise<unknown> {
    const holder = this.#requireHolder(operation, call);
    const writes = operation !== 'query';
    if (writes) this.#quotas.admit(call.plugin, input);
    try {
      const role = writes ? holder.roles.rw : holder.roles.ro;
      return await this.#sessions.use(role, call.signal, async (session) => {
        const stop = () => this.#administrator.stop(session, stopped('db', call));
        call.signal.addEventListener('abort', stop, { once: true });
        const end = (error: Error) => this.#administrator.stop(session, error);
        const work = () =>
          inSpan(call.span, `postgresql ${operation}`, about(operation, input), () =>
            run(session, operation, input),
          );
        try {
          return await (writes ? this.#quotas.during(call.plugin, end, work) : work());
        } finally {
          call.signal.removeEventListener('abort', stop);
        }
      });
    } catch (error) {
      throw call.signal.aborted ? stopped('db', call) : fromDatabase(error);
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
    await this.#administrator.check();
  }

  async provision(request: Provision): Promise<void> {
    const { roles } = await this.#administrator.provision(request);
    this.#sessions.join(request.plugin, [roles.ro, roles.rw]);
    this.#quotas.touch(request.plugin);
    this.#holders.set(request.plugin, { roles, granted: byOperation(request) });
  }

  async drop(plugin: string): Promise<void> {
    this.#holders.delete(plugin);
    this.#sessions.leave(plugin);
    this.#quotas.forget(plugin);
    await this.#administrator.drop(plugin);
  }

  async close(): Promise<void> {
    this.#quotas.close();
    this.#sessions.close();
    await this.#administrator.close();
  }
}

async function run(session: Session, operation: string, input: Json): Promise<unknown> {
  switch (operation) {
    case 'query': {
      const { rows } = await session.query(toStatement(input));
      return { rows };
    }
    case 'execute':
      return session.execute(toStatement(input));
    case 'transaction': {
      const statements = field(input, 'statements');
      if (!Array.isArray(statements)) throw wrong('statements', 'an array');
      return { results: await session.transaction(statements.map(toStatement)) };
    }
    default:
      throw new NoaError('INVALID_ARGUMENT', `db: there is no operation ${operation}`);
  }
}

/** For a trace: of the SQL nothing but the word that it begins with, and that only when it is a known one. */
function about(operation: string, input: Json): SpanAttributes {
  const attributes = { 'db.system.name': 'postgresql', 'noa.operation': operation };
  const statements = field(input, 'statements');
  if (Array.isArray(statements)) {
    return { ...attributes, 'db.operation.batch.size': statements.length };
  }
  const sql = field(input, 'sql');
  const [, word = ''] = (typeof sql === 'string' ? COMMAND.exec(sql) : null) ?? [];
  return word === '' ? attributes : { ...attributes, 'db.operation.name': word.toUpperCase() };
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

function byOperation(request: Provision): Map<string, readonly string[]> {
  const granted = new Map<string, string[]>();
  for (const { operations, resources } of request.grants) {
    for (const operation of operations) {
      granted.set(operation, [...(granted.get(operation) ?? []), ...resources]);
    }
  }
  return granted;
}
