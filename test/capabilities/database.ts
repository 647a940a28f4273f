/** A PostgreSQL for one test file: the one that NOA_TEST_DATABASE_URL names, or an embedded one of its own. */
import { createHash } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Driver, type DriverGrant, type Json, NoaError } from '@noa/sdk/host';
import pg from 'pg';
import { startPostgres } from '../../capabilities/db/embedded.ts';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { type PostgresOptions, createPostgresDriver } from '../../capabilities/db/postgres.ts';

export interface TestDatabase {
  readonly url: string;
  stop(): Promise<void>;
}

/** A fresh database: on the given server, or on an embedded one that ends with the test. */
export async function testDatabase(serverUrl?: string): Promise<TestDatabase> {
  if (serverUrl) return databaseOn(serverUrl);
  const dataDir = await scratchFolder();
  const server = await startPostgres({ dataDir: join(dataDir, 'postgres'), log: () => {} });
  return {
    url: server.url,
    async stop() {
      await server.stop();
      await rm(dataDir, { recursive: true });
    },
  };
}

async function databaseOn(serverUrl: string): Promise<TestDatabase> {
  const name = `noa_test_${process.pid}_${Date.now()}`;
  const admin = new pg.Client(connectionConfig(serverUrl));
  await admin.connect();
  await admin.query(`CREATE DATABASE ${name}`);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return {
    url: url.href,
    async stop() {
      await dropAreas(url.href);
      await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}

/** Roles outlive a database: they go through the driver. */
async function dropAreas(url: string): Promise<void> {
  const client = new pg.Client(connectionConfig(url));
  await client.connect();
  const { rows } = await client.query<{ plugin: string }>('SELECT plugin FROM noa.plugin_areas');
  await client.end();
  const driver = createPostgresDriver({ url, rolePassword, warn: () => {} });
  for (const { plugin } of rows) await driver.drop?.(plugin);
  await driver.close();
}

/** A folder that every user may pass through, below the temporary one. */
export async function scratchFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'noa-test-'));
  await chmod(folder, 0o755);
  return folder;
}

export function rolePassword(role: string): string {
  return createHash('sha256').update(`test ${role}`).digest('hex');
}

/** A driver with what a test needs around it: provisioning in one line, calls as one plugin. */
export class TestDriver {
  readonly driver: Driver;
  readonly warnings: string[] = [];
  readonly #grants = new Map<string, readonly DriverGrant[]>();

  constructor(url: string, maxConnections?: number, quota?: PostgresOptions['quota']) {
    this.driver = createPostgresDriver({
      url,
      rolePassword,
      warn: (message) => this.warnings.push(message),
      ...(maxConnections === undefined ? {} : { maxConnections }),
      ...(quota === undefined ? {} : { quota }),
    });
  }

  async provision(
    plugin: string,
    grants: { [operation: string]: readonly string[] },
    migrations: { [name: string]: string } = {},
  ): Promise<void> {
    const list = Object.entries(grants).map(([operation, resources]) => ({
      operations: [operation],
      resources,
    }));
    this.#grants.set(plugin, list);
    await this.driver.provision?.({
      plugin,
      grants: list,
      migrations: Object.entries(migrations).map(([name, sql]) => ({ name, sql })),
    });
  }

  /** All rights on the plugin's own schema. */
  async provisionOwn(plugin: string, migrations: { [name: string]: string } = {}): Promise<void> {
    const own = [`${plugin.replaceAll('-', '_')}.*`];
    await this.provision(plugin, { query: own, execute: own, transaction: own }, migrations);
  }

  async invoke(
    plugin: string,
    operation: string,
    input: Json,
    options: { timeoutMs?: number; signal?: AbortSignal; resources?: readonly string[] } = {},
  ): Promise<unknown> {
    const { timeoutMs = 10_000 } = options;
    const own = this.#grants.get(plugin)?.find(({ operations }) => operations.includes(operation));
    const bounds = [AbortSignal.timeout(timeoutMs), ...(options.signal ? [options.signal] : [])];
    return this.driver.invoke(operation, input, {
      plugin,
      resources: options.resources ?? own?.resources ?? [],
      signal: AbortSignal.any(bounds),
      deadline: Date.now() + timeoutMs,
      chain: undefined,
    });
  }

  async query(plugin: string, sql: string, params: Json[] = []): Promise<Row[]> {
    const value = await this.invoke(plugin, 'query', { sql, params });
    return (value as { rows: Row[] }).rows;
  }

  async execute(plugin: string, sql: string, params: Json[] = []): Promise<Result> {
    return (await this.invoke(plugin, 'execute', { sql, params })) as Result;
  }

  async transaction(plugin: string, ...statements: string[]): Promise<Result[]> {
    const input = { statements: statements.map((sql) => ({ sql })) };
    return ((await this.invoke(plugin, 'transaction', input)) as { results: Result[] }).results;
  }
}

export interface Row {
  readonly [column: string]: Json;
}

export interface Result {
  readonly rows: readonly Row[];
  readonly rowCount: number;
}

/** The NoaError that a call ends with. */
export async function failure(work: Promise<unknown>): Promise<NoaError> {
  try {
    const value = await work;
    throw new Error(`it did not fail, it answered ${JSON.stringify(value)?.slice(0, 200)}`);
  } catch (error) {
    if (error instanceof NoaError) return error;
    throw error;
  }
}

/** Repeats `check` until it does not throw; throws its last error after `boundMs`. */
export async function eventually<T>(check: () => Promise<T>, boundMs = 5_000): Promise<T> {
  const until = Date.now() + boundMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > until) throw error;
      await sleep(50);
    }
  }
}
