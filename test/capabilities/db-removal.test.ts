/** Any number of objects: grants change and an area goes, within the locks of a small server. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { startPostgres } from '../../capabilities/db/embedded.ts';
import { TestDriver, failure, scratchFolder } from './database.ts';

// Thousands of objects on a machine that others load too.
t.setTimeout(240_000);

const folder = await scratchFolder();
const dataDir = join(folder, 'postgres');
const first = await startPostgres({ dataDir, log: () => {} });
const setup = new pg.Client(connectionConfig(first.url));
await setup.connect();
// The least there is: about a thousand locks for all sessions together.
await setup.query('ALTER SYSTEM SET max_locks_per_transaction = 10');
await setup.end();
await first.stop();
const server = await startPostgres({ dataDir, log: () => {} });
const driver = new TestDriver(server.url);
const admin = new pg.Client(connectionConfig(server.url));
await admin.connect();
t.teardown(async () => {
  await driver.driver.close();
  await admin.end();
  await server.stop();
  await rm(folder, { recursive: true });
});

async function count(sql: string): Promise<number> {
  const { rows } = await admin.query<{ n: number }>(`SELECT count(*)::int AS n ${sql}`);
  return rows[0]?.n ?? NaN;
}

/** Runs a statement for every number from 1, some at a time: a plugin's own locks are bounded too. */
async function many(plugin: string, number: number, statement: string, at = 50): Promise<void> {
  for (let from = 1; from <= number; from += at) {
    const to = Math.min(number, from + at - 1);
    const sql = `DO $do$ BEGIN FOR i IN ${from}..${to} LOOP
      EXECUTE replace($sql$${statement}$sql$, '#', i::text); END LOOP; END $do$`;
    await driver.invoke(plugin, 'execute', { sql }, { timeoutMs: 60_000 });
  }
}

async function gone(plugin: string): Promise<void> {
  t.equal(await count(`FROM pg_namespace WHERE nspname = '${plugin}'`), 0);
  t.equal(await count(`FROM pg_roles WHERE rolname LIKE 'noa%\\_${plugin}\\_%'`), 0);
  t.equal(await count(`FROM noa.plugin_areas WHERE plugin = '${plugin}'`), 0);
}

const WIDE = {
  tables: (plugin: string) =>
    many(plugin, 400, 'CREATE TABLE t# (id serial PRIMARY KEY, "an odd"" name" text)'),
  'one table with many parts': async (plugin: string) => {
    await driver.execute(plugin, 'CREATE TABLE wide (a int)');
    await driver.execute(
      plugin,
      `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
    );
    await many(plugin, 600, 'CREATE INDEX "odd on #" ON wide (a)', 25);
    await many(plugin, 600, 'ALTER TABLE wide ADD CONSTRAINT "c on #" CHECK (a > -#)', 25);
    await many(
      plugin,
      600,
      'CREATE TRIGGER "t on #" AFTER INSERT ON wide EXECUTE FUNCTION f()',
      25,
    );
    await many(plugin, 600, 'ALTER TABLE wide ADD COLUMN d# int DEFAULT #', 25);
  },
  partitions: async (plugin: string) => {
    await driver.execute(plugin, 'CREATE TABLE p (a int PRIMARY KEY) PARTITION BY LIST (a)');
    await many(plugin, 300, 'CREATE TABLE p# PARTITION OF p FOR VALUES IN (#)', 10);
  },
  'views on the youngest, and of each other': async (plugin: string) => {
    await many(plugin, 500, 'CREATE VIEW v# AS SELECT 1 AS a');
    await driver.execute(plugin, 'CREATE VIEW youngest AS SELECT 1 AS a');
    await many(plugin, 500, 'CREATE OR REPLACE VIEW v# AS SELECT a FROM youngest', 20);
    await driver.execute(plugin, 'CREATE MATERIALIZED VIEW m0 AS SELECT 1 AS a');
    await many(plugin, 100, 'CREATE MATERIALIZED VIEW m# AS SELECT a FROM m0', 20);
  },
  'keys in a ring, functions, types': async (plugin: string) => {
    await driver.execute(plugin, 'CREATE TABLE hub (id int PRIMARY KEY)');
    await many(plugin, 300, 'CREATE TABLE spoke# (id int PRIMARY KEY REFERENCES hub)', 20);
    await many(plugin, 300, 'ALTER TABLE hub ADD FOREIGN KEY (id) REFERENCES spoke#', 10);
    await many(plugin, 800, "CREATE FUNCTION f#() RETURNS int LANGUAGE sql AS 'SELECT #'");
    await many(plugin, 300, "CREATE TYPE e# AS ENUM ('a')");
    await many(plugin, 100, 'CREATE DOMAIN d# AS int CONSTRAINT positive CHECK (VALUE > 0)');
    await many(plugin, 100, 'CREATE TYPE c# AS (a d#, b e#)');
    await many(plugin, 100, 'CREATE TABLE u# (a c#, b d#[])', 20);
    await many(plugin, 50, 'CREATE STATISTICS s# ON id, (id + 1) FROM hub', 20);
  },
};

t.test('a plugin with more objects than there are locks can be dropped', async (t) => {
  for (const [name, make] of Object.entries(WIDE)) {
    await t.test(name, async () => {
      await driver.provisionOwn('heavy');
      await make('heavy');
      await driver.driver.drop?.('heavy');
      await gone('heavy');
    });
  }
});

t.test('what others made of it goes with it', async (t) => {
  await driver.provisionOwn('base', { '001.sql': 'CREATE TABLE b (a int)' });
  await driver.provision('user', {
    query: ['base.*', 'user.*'],
    execute: ['user.*', 'base.*'],
  });
  await many('user', 500, 'CREATE VIEW v# AS SELECT a FROM base.b', 20);
  await driver.execute('user', 'CREATE TABLE mine (a int)');
  await driver.driver.drop?.('base');
  await gone('base');
  t.same(await driver.query('user', 'SELECT * FROM mine'), []);
  t.match(await failure(driver.query('user', 'SELECT * FROM v1')), { code: 'INVALID_ARGUMENT' });
});

t.test('grants of a schema with many tables change within the locks', async (t) => {
  const all = ['crowd.*'];
  const full = { query: all, execute: all, transaction: all };
  await driver.provision('crowd', full);
  await many('crowd', 400, 'CREATE TABLE t# (id serial PRIMARY KEY, a text)');
  await many('crowd', 100, 'CREATE VIEW v# AS SELECT id FROM t#');
  await many('crowd', 50, 'CREATE SEQUENCE s#');
  await driver.provision('crowd', { query: ['crowd.t1'], execute: ['crowd.t1'] });
  t.match(await driver.execute('crowd', "INSERT INTO t1 (a) VALUES ('x')"), { rowCount: 1 });
  const denied = { code: 'CAPABILITY_DENIED' };
  for (const sql of [
    'SELECT * FROM t2',
    'SELECT * FROM v3',
    "SELECT nextval('s4')",
    'DROP TABLE t400',
  ])
    t.match(await failure(driver.execute('crowd', sql)), denied, sql);
  await driver.provision('crowd', { query: all });
  t.same(await driver.query('crowd', 'SELECT count(*) AS n FROM t400'), [{ n: 0 }]);
  await driver.provision('crowd', full);
  t.match(await driver.execute('crowd', "INSERT INTO t400 (a) VALUES ('x')"), { rowCount: 1 });
  await driver.driver.drop?.('crowd');
  await gone('crowd');
});

t.test('a removal that was cut off goes on, whoever comes next', async (t) => {
  const relations = (plugin: string) =>
    count(`FROM pg_class WHERE relnamespace = to_regnamespace('${plugin}')`);
  /**
   * Begins a removal again and again, and ends its connection once so few relations are left. One that was
   * through before it could be cut off, on a busy machine, is begun once more from the start.
   */
  const cut = async (plugin: string, ...marks: number[]) => {
    let attempts = 0;
    for (const mark of marks) {
      do {
        attempts += 1;
        t.ok(attempts <= 10, 'a removal can be cut off at all');
        if ((await relations(plugin)) === 0) {
          await driver.provisionOwn(plugin, { '001.sql': 'CREATE TABLE first (a int)' });
          await many(plugin, 300, 'CREATE TABLE t# (id serial PRIMARY KEY)');
        }
        const host = new TestDriver(server.url);
        const dropped = Promise.allSettled([host.driver.drop?.(plugin)]);
        while ((await relations(plugin)) > mark) await sleep(1);
        await admin.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE usename = current_user AND pid <> pg_backend_pid() AND backend_type = 'client backend'`,
        );
        const [outcome] = await dropped;
        if (outcome.status === 'rejected') t.match(outcome.reason, { code: 'UNAVAILABLE' });
        await host.driver.close();
      } while (attempts <= 10 && (await relations(plugin)) === 0);
    }
  };
  await cut('halved', 800, 500, 200);
  t.match(await failure(driver.query('halved', 'SELECT 1')), { code: 'UNAVAILABLE' });
  await driver.driver.drop?.('halved');
  await gone('halved');

  await cut('again', 500);
  await driver.provisionOwn('again', { '001.sql': 'CREATE TABLE first (a int)' });
  t.same(await driver.query('again', 'SELECT * FROM first'), [], 'its migrations ran again');
  t.equal(await relations('again'), 1);
});

t.test('removals of two hosts at once, with others’ work in between', async () => {
  await driver.provisionOwn('twice');
  await many('twice', 300, 'CREATE TABLE t# (id serial PRIMARY KEY)');
  const other = new TestDriver(server.url);
  await Promise.all([
    driver.driver.drop?.('twice'),
    other.driver.drop?.('twice'),
    other.provisionOwn('meanwhile', { '001.sql': 'CREATE TABLE a (a int)' }),
  ]);
  await gone('twice');
  await other.driver.close();
});
