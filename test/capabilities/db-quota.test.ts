/** What a plugin keeps in the database is bounded, and the way back below the bound stays open. */
import pg from 'pg';
import t from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { Quotas } from '../../capabilities/db/quota.ts';
import { TestDriver, eventually, failure, testDatabase } from './database.ts';

t.setTimeout(120_000);

const MiB = 1 << 20;
const database = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
const quota = { bytes: 32 * MiB, objects: 100, columns: 500 };
const driver = new TestDriver(database.url, undefined, quota);
const admin = new pg.Client(connectionConfig(database.url));
await admin.connect();
t.teardown(async () => {
  await driver.driver.close();
  await admin.end();
  await database.stop();
});

const FILL =
  'INSERT INTO t SELECT repeat(md5(n::text), 30) FROM (SELECT generate_series(1, $1::int) AS n) AS s';
const OVER = { code: 'RESOURCE_EXHAUSTED', message: /plugins\.db_max_bytes.*VACUUM FULL/ };
const until = (plugin: string, sql: string, wanted: object | undefined) =>
  eventually(async () => {
    const found = await driver.execute(plugin, sql).then(
      () => undefined,
      (error: unknown) => error,
    );
    if ((found === undefined) !== (wanted === undefined)) throw new Error(`not yet: ${sql}`);
    if (wanted) t.match(found, wanted);
  });

/** Writes a little at a time until it is refused. */
async function fill(plugin: string): Promise<void> {
  for (;;) {
    const error = await driver.execute(plugin, FILL, [2_000]).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    if (error === undefined) continue;
    t.match(error, OVER);
    return;
  }
}

t.test('over the bound only reading and freeing go on, until there is less', async (t) => {
  await driver.provisionOwn('hoard');
  await driver.provisionOwn('frugal');
  await driver.execute('hoard', 'CREATE TABLE t (v text)');
  await driver.execute('hoard', 'CREATE TABLE other (v text)');
  await fill('hoard');
  for (const sql of [
    "UPDATE t SET v = 'x'",
    'CREATE TABLE more (n int)',
    'WITH gone AS (DELETE FROM other RETURNING v) INSERT INTO t SELECT v FROM gone',
  ]) {
    t.match(await failure(driver.execute('hoard', sql)), OVER, sql);
    t.match(await failure(driver.transaction('hoard', 'DELETE FROM other', sql)), OVER, sql);
  }
  t.same(await driver.query('hoard', 'SELECT count(*) > 10000 AS many FROM t'), [{ many: true }]);
  t.match(
    await driver.execute('frugal', 'CREATE TABLE t (n int)'),
    { rowCount: 0 },
    'others write',
  );
  await driver.execute('hoard', 'DELETE FROM t');
  await driver.execute('hoard', 'VACUUM FULL t');
  await until('hoard', "INSERT INTO other VALUES ('x')", undefined);
  await fill('hoard');
  await driver.transaction('hoard', 'TRUNCATE t', 'DROP TABLE other');
  await until('hoard', "INSERT INTO t VALUES ('x')", undefined);
});

t.test('a write that goes on and on is ended at the bound', async (t) => {
  await driver.provisionOwn('gush');
  await driver.execute('gush', 'CREATE TABLE t (v text)');
  const options = { timeoutMs: 60_000 };
  const sql = FILL.replace('$1::int', '100000000');
  t.match(await failure(driver.invoke('gush', 'execute', { sql }, options)), OVER);
  t.match(await failure(driver.execute('gush', "INSERT INTO t VALUES ('x')")), OVER);
  const unseen = sql.replace('INSERT INTO t SELECT', 'CREATE TABLE u AS SELECT');
  await driver.provisionOwn('unseen');
  t.match(
    await failure(driver.invoke('unseen', 'execute', { sql: unseen }, options)),
    { code: 'RESOURCE_EXHAUSTED', message: /database grew/ },
    'also where no catalog shows it yet',
  );
  await driver.driver.drop?.('gush');
});

t.test('a function in a statement that frees space opens no way around', async (t) => {
  await driver.provisionOwn('sly');
  await driver.execute('sly', 'CREATE TABLE t (v text)');
  await driver.execute('sly', 'CREATE TABLE bait AS SELECT generate_series(1, 500) AS n');
  const body = FILL.replace('$1::int', '10000');
  await driver.execute(
    'sly',
    `CREATE FUNCTION f() RETURNS int LANGUAGE sql AS '${body}; SELECT 1'`,
  );
  await fill('sly');
  const closed = { code: 'RESOURCE_EXHAUSTED', message: /administrator/ };
  const sly = 'DELETE FROM bait WHERE n = (SELECT min(n) FROM bait) RETURNING f()';
  for (let message = ''; !closed.message.test(message);) {
    message = await driver.execute('sly', sly).then(
      () => '',
      (error: Error) => error.message,
    );
  }
  t.match(await failure(driver.execute('sly', 'DELETE FROM bait')), closed);
  t.match(await failure(driver.transaction('sly', 'DROP TABLE t')), closed);
  await admin.query('TRUNCATE sly.t');
  await until('sly', 'INSERT INTO bait VALUES (0)', undefined);
  await driver.driver.drop?.('sly');
});

t.test('objects and columns are bounded as well', async (t) => {
  await driver.provisionOwn('many');
  const make = (what: string, count: number) =>
    driver.execute(
      'many',
      `DO $do$ BEGIN FOR i IN 1..${count} LOOP EXECUTE replace($$${what}$$, '#', i::text); END LOOP; END $do$`,
    );
  await make('CREATE TABLE t# (n int)', 120);
  await until('many', 'CREATE TABLE IF NOT EXISTS more (n int)', {
    message: /tables, indexes.* over 100;/,
  });
  for (let i = 1; i <= 60; i += 1) await driver.execute('many', `DROP TABLE t${i}`);
  await until('many', 'CREATE TABLE IF NOT EXISTS more (n int)', undefined);
  await make('ALTER TABLE more ADD COLUMN c# int', 600);
  await until('many', 'CREATE TABLE IF NOT EXISTS less (n int)', { message: /columns, over 500;/ });
  t.same(await driver.query('many', 'SELECT n FROM more'), []);
});

t.test('temporary files have a bound, also after a role’s settings were put right', async (t) => {
  await driver.provisionOwn('temp');
  const { rows } = await admin.query('SELECT rolsuper FROM pg_roles WHERE rolname = current_user');
  if (!(rows[0] as { rolsuper: boolean }).rolsuper) return t.pass('only a superuser may set it');
  const read = () => driver.query('temp', "SELECT current_setting('temp_file_limit') AS v");
  t.same(await read(), [{ v: '1GB' }]);
  // With another password no login works until the host has put the role right.
  const sql = `DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD ''x''', current_user); END $$`;
  await driver.execute('temp', sql);
  const sessions = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'noa%temp%'`;
  await admin.query(sessions);
  await eventually(async () => t.same(await read(), [{ v: '1GB' }]));
});

t.test('what definitions take in the catalogs counts', async (t) => {
  const text = `SELECT string_agg(md5(random()::text), '') INTO x FROM generate_series(1, 450000)`;
  for (const [plugin, sql] of [
    ['bodies', `'CREATE FUNCTION f#() RETURNS text LANGUAGE sql AS %L', 'SELECT ''' || x || ''''`],
    ['views', `'CREATE VIEW v# AS SELECT %L::text AS x', x`],
    ['defaults', `'ALTER TABLE t ADD COLUMN c# text; ALTER TABLE t ALTER c# SET DEFAULT %L', x`],
    ['checks', `'ALTER TABLE t ADD CONSTRAINT c# CHECK (v <> %L)', x`],
    ['comments', `'CREATE TABLE t#(); COMMENT ON TABLE t# IS %L', x`],
  ] as const) {
    await driver.provisionOwn(plugin);
    await driver.execute(plugin, 'CREATE TABLE t (v text)');
    for (let i = 1; i <= 3; i += 1) {
      const made = `EXECUTE format(${sql.replaceAll('#', `${i}`)})`;
      const block = `DO $do$ DECLARE x text; BEGIN ${text}; ${made}; END $do$`;
      const options = { timeoutMs: 30_000 };
      await driver.invoke(plugin, 'execute', { sql: block }, options).catch((error: unknown) => {
        t.match(error, { code: 'RESOURCE_EXHAUSTED' }, plugin);
      });
    }
    await until(plugin, 'CREATE TABLE IF NOT EXISTS t (v text)', OVER);
    await driver.driver.drop?.(plugin);
  }
});

t.test('a lock on an index hides nothing', async (t) => {
  await driver.provisionOwn('wedge');
  await driver.execute('wedge', 'CREATE TABLE bait (n int PRIMARY KEY)');
  await driver.execute('wedge', 'CREATE TABLE t (v text)');
  await admin.query('BEGIN; REINDEX INDEX wedge.bait_pkey');
  await fill('wedge');
  await admin.query('ROLLBACK');
  await driver.driver.drop?.('wedge');
  t.pass('it was refused');
});

t.test('writes of a plugin that cannot be measured are ended at the second look', async (t) => {
  const bounds = { bytes: MiB, objects: 10, columns: 10 };
  let looks = 0;
  const measure = async () => void (looks += 1);
  const quotas = new Quotas({
    bounds,
    measure,
    total: async () => 0,
    warn: (text) => t.fail(text),
  });
  t.teardown(() => quotas.close());
  const { promise, reject } = Promise.withResolvers<never>();
  const busy = setInterval(() => undefined, 1_000);
  t.match(await failure(quotas.during('dark', reject, () => promise)), {
    code: 'RESOURCE_EXHAUSTED',
    message: /locks of this plugin/,
  });
  clearInterval(busy);
  t.equal(looks, 2);
});
