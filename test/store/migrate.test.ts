/** Migrations of the host's own state, on a real PostgreSQL. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import t, { type Test } from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { createMigration, migrationStatus, runMigrations } from '../../host/store/migrate.ts';
import { testDatabase } from '../capabilities/database.ts';

const server = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
t.teardown(() => server.stop());
const database = connectionConfig(server.url);

const ONE =
  '-- Up Migration\ncreate table noa.one (id int);\n-- Down Migration\ndrop table noa.one;\n';
const TWO =
  '-- Up Migration\ncreate table noa.two (id int);\n-- Down Migration\ndrop table noa.two;\n';
const BROKEN =
  '-- Up Migration\ncreate table noa.three (id int);\nselect 1/0;\n-- Down Migration\n';

/** A folder with these migrations, and a database without any. */
async function fresh(t: Test, files: Readonly<Record<string, string>>): Promise<string> {
  await query('drop schema if exists noa cascade');
  return t.testdir({ ...files });
}

async function query(sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client(database);
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}

const tables = async (): Promise<unknown[]> => {
  const rows = await query(
    `select tablename from pg_tables where schemaname = 'noa' and tablename <> 'migrations' order by 1`,
  );
  return rows.map((row) => row['tablename']);
};

t.test('the project’s own migrations go up, down and up again', async (t) => {
  await fresh(t, {});
  const pending = await migrationStatus(database);
  t.match(pending[0], { name: '0001_state', ranAt: undefined });
  const ran = await runMigrations(database, 'up');
  t.equal(ran[0], '0001_state');
  t.strictSame(await runMigrations(database, 'up'), [], 'a second run has nothing to do');
  t.ok((await migrationStatus(database)).every(({ ranAt }) => ranAt instanceof Date));
  const made = await tables();
  t.strictSame(await runMigrations(database, 'down', { count: ran.length }), ran.toReversed());
  t.strictSame(await tables(), [], 'nothing of it stays');
  await runMigrations(database, 'up');
  t.strictSame(await tables(), made);
});

t.test('hosts that start at once take turns: each migration runs once', async (t) => {
  const folder = await fresh(t, { '0001_one.sql': ONE, '0002_two.sql': TWO });
  const runs = await Promise.all([1, 2, 3, 4].map(() => runMigrations(database, 'up', { folder })));
  t.strictSame(
    runs.map((run) => run.length).sort((a, b) => a - b),
    [0, 0, 0, 2],
  );
  t.strictSame(await tables(), ['one', 'two']);
});

t.test('a run is all or nothing', async (t) => {
  const folder = await fresh(t, { '0001_one.sql': ONE, '0002_broken.sql': BROKEN });
  await t.rejects(runMigrations(database, 'up', { folder }), {
    code: 'INTERNAL',
    message: /failed and was undone: division by zero/,
  });
  t.strictSame(await tables(), []);
  writeFileSync(join(folder, '0002_broken.sql'), TWO);
  t.strictSame(await runMigrations(database, 'up', { folder }), ['0001_one', '0002_broken']);
});

t.test('files that do not continue what the database has are refused', async (t) => {
  const folder = await fresh(t, { '0002_two.sql': TWO });
  await runMigrations(database, 'up', { folder });
  writeFileSync(join(folder, '0001_one.sql'), ONE);
  const late = runMigrations(database, 'up', { folder });
  await t.rejects(late, {
    code: 'CONFLICT',
    message: /0001_one is preceding already run migration 0002_two/,
  });
  const older = t.testdir({ sub: { '0001_one.sql': ONE } });
  const old = runMigrations(database, 'up', { folder: join(older, 'sub') });
  await t.rejects(old, { code: 'CONFLICT', message: /migrated by a newer version \(0002_two\)/ });
});

t.test('a new file takes the next number', async (t) => {
  const folder = t.testdir({ '0009_x.sql': ONE });
  const file = await createMigration('add_y', folder);
  t.equal(file, join(folder, '0010_add_y.sql'));
  await t.rejects(createMigration('../x', folder), { code: 'INVALID_ARGUMENT' });
  await query('drop schema if exists noa cascade');
  t.strictSame(await runMigrations(database, 'up', { folder }), ['0009_x', '0010_add_y']);
});

t.test('a database that is away is a clear error without its password', async (t) => {
  const away = runMigrations('postgres://u:hunter2@127.0.0.1:1/d', 'up');
  await t.rejects(away, {
    code: 'UNAVAILABLE',
    message: /cannot be reached: connect ECONNREFUSED/,
  });
  const wrong = new URL(server.url);
  wrong.searchParams.set('user', 'nobody_here');
  wrong.searchParams.set('password', 'hunter2');
  const error = await runMigrations(wrong.href, 'up').catch((reason: unknown) => String(reason));
  t.type(error, 'string');
  t.notMatch(error, 'hunter2');
});
