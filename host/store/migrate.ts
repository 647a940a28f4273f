/**
 * The schema of the host's own state: the SQL files of migrations/, each with an up and a down part, run
 * in order of their numbers and recorded in `noa.migrations`. Invariant: hosts that start at once take
 * turns, a run is one transaction, and a database that a newer version has migrated is left alone.
 */
import { readdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { runner } from 'node-pg-migrate';
import pg from 'pg';

const FOLDER = resolve(import.meta.dirname, '../../migrations');
/** Longest wait for another host that migrates, and for any lock that a migration needs. */
const LOCK_MS = 60_000;
const CONNECT_MS = 10_000;

export interface MigrateOptions {
  /** How many; all of them up, one down when absent. */
  readonly count?: number;
  readonly folder?: string;
}

export interface MigrationState {
  /** The file's name without `.sql`. */
  readonly name: string;
  /** Undefined while it is pending. */
  readonly ranAt: Date | undefined;
}

/** A URL, or what `pg` connects with. */
export type Database = string | pg.ClientConfig;

/**
 * Answers the names of the migrations that were run now. Rejects with NoaError: UNAVAILABLE (no
 * connection, or another host migrates for too long), CONFLICT (the files do not continue what the
 * database has), INTERNAL (a migration failed, and nothing of this run remains).
 */
export async function runMigrations(
  database: Database,
  direction: 'up' | 'down',
  { count, folder = FOLDER }: MigrateOptions = {},
): Promise<string[]> {
  return connected(database, async (client) => {
    await refuseUnknown(client, folder);
    const done = await runner({
      dbClient: client,
      dir: folder,
      direction,
      ...(count === undefined ? {} : { count }),
      migrationsSchema: 'noa',
      migrationsTable: 'migrations',
      createMigrationsSchema: true,
      singleTransaction: true,
      advisoryLockMode: 'wait',
      log: () => undefined,
    }).catch((cause: unknown) => {
      throw failure(cause, direction);
    });
    return done.map(({ name }) => name);
  });
}

/** All migrations, in order, with the time at which each was run in this database. */
export async function migrationStatus(
  database: Database,
  folder: string = FOLDER,
): Promise<MigrationState[]> {
  return connected(database, async (client) => {
    const ran = await ranMigrations(client);
    const names = new Set([...ran.keys(), ...(await migrationNames(folder))]);
    return [...names].sort().map((name) => ({ name, ranAt: ran.get(name) }));
  });
}

/** Writes an empty migration with the next number and answers its path. */
export async function createMigration(name: string, folder: string = FOLDER): Promise<string> {
  if (!/^[a-z][a-z0-9_]{0,63}$/.test(name)) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `a migration's name is lower-case letters, digits and _, not ${JSON.stringify(name)}`,
    );
  }
  const last = (await migrationNames(folder)).at(-1) ?? '0';
  const number = String(Number.parseInt(last, 10) + 1).padStart(4, '0');
  const path = join(folder, `${number}_${name}.sql`);
  await writeFile(path, '-- Up Migration\n\n-- Down Migration\n', { flag: 'wx' });
  return path;
}

async function migrationNames(folder: string): Promise<string[]> {
  const files = await readdir(folder);
  return files
    .filter((file) => /^\d{4}_\w+\.sql$/.test(file))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}

async function ranMigrations(client: pg.Client): Promise<Map<string, Date>> {
  const { rows: tables } = await client.query<{ name: string | null }>(
    `select to_regclass('noa.migrations')::text as name`,
  );
  if (tables[0]?.name == null) return new Map();
  const { rows } = await client.query<{ name: string; run_on: Date }>(
    'select name, run_on from noa.migrations order by id',
  );
  return new Map(rows.map((row) => [row.name, row.run_on]));
}

async function refuseUnknown(client: pg.Client, folder: string): Promise<void> {
  const known = await migrationNames(folder);
  const unknown = [...(await ranMigrations(client)).keys()].filter((name) => !known.includes(name));
  if (unknown.length === 0) return;
  throw new NoaError(
    'CONFLICT',
    `the database has been migrated by a newer version (${unknown.join(', ')}); run that version, or restore a backup`,
  );
}

async function connected<T>(
  database: Database,
  use: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const settings = typeof database === 'string' ? { connectionString: database } : database;
  const client = new pg.Client({
    connectionTimeoutMillis: CONNECT_MS,
    lock_timeout: LOCK_MS,
    ...settings,
  });
  // A connection that breaks fails the query that runs; without a listener it would end the process.
  client.on('error', () => undefined);
  try {
    await client.connect();
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new NoaError('UNAVAILABLE', `the database cannot be reached: ${why}`, { cause });
  }
  try {
    return await use(client);
  } finally {
    await client.end();
  }
}

function failure(cause: unknown, direction: 'up' | 'down'): NoaError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  // https://www.postgresql.org/docs/current/errcodes-appendix.html: lock_not_available
  if (code === '55P03') {
    const text = `another host holds the migration lock for more than ${LOCK_MS / 1000} s`;
    return new NoaError('UNAVAILABLE', text, { cause });
  }
  if (why.startsWith('Not run migration')) {
    return new NoaError('CONFLICT', `${why}; a new migration takes the next number`, { cause });
  }
  return new NoaError('INTERNAL', `a migration (${direction}) failed and was undone: ${why}`, {
    cause,
  });
}
