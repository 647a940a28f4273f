/** What a plugin tries against other plugins, the host and the server through its SQL, and that PostgreSQL refuses it. */
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t, { type Test } from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { TestDriver, failure, testDatabase } from './database.ts';

// Starts of PostgreSQL on a machine that others load too.
t.setTimeout(120_000);

const serverUrl = process.env['NOA_TEST_DATABASE_URL'];
const database = await testDatabase(serverUrl);
const driver = new TestDriver(database.url);
const admin = new pg.Client(connectionConfig(database.url));
await admin.connect();
t.teardown(async () => {
  await driver.driver.close();
  await admin.end();
  await database.stop();
});
/** The first row of what the administrator sees. */
async function see(sql: string): Promise<{ [column: string]: unknown }> {
  return (await admin.query<{ [column: string]: unknown }>(sql)).rows[0] ?? {};
}
const { rolsuper: superuser } = await see(
  'SELECT rolsuper FROM pg_roles WHERE rolname = current_user',
);

const secret = { '001.sql': "CREATE TABLE secret (v text); INSERT INTO secret VALUES ('hidden')" };
await driver.provisionOwn('victim', secret);
await driver.provisionOwn('mallory', {
  '001.sql': 'CREATE TABLE own (n int); INSERT INTO own VALUES (1); CREATE TABLE spare (n int)',
});
const victim = await driver.query('victim', 'SELECT current_user AS ro');
const mallory = await driver.query('mallory', 'SELECT current_user AS ro');
const role = (row: { ro?: unknown } | undefined, kind: string) =>
  String(row?.ro).replace(/ro$/, kind);
const others = ['owner', 'rw', 'ro'].map((kind) => role(victim[0], kind));
const own = { owner: role(mallory[0], 'owner'), rw: role(mallory[0], 'rw') };
const host = await see('SELECT current_user AS name, pg_backend_pid() AS pid');

const REFUSED = /^(CAPABILITY_DENIED|INVALID_ARGUMENT|CONFLICT)$/;
/** Errors that would mean the attempt had got through and failed later for a reason of its own. */
const GOT_THROUGH = /^(RESOURCE_EXHAUSTED|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED)$/;

/** Every operation refuses it; nothing of the victim appears in the refusal. */
async function refused(
  t: Test,
  sql: string,
  ...operations: ('query' | 'execute' | 'transaction')[]
) {
  const all = operations.length > 0 ? operations : (['query', 'execute', 'transaction'] as const);
  for (const operation of all) {
    const input = operation === 'transaction' ? { statements: [{ sql }] } : { sql };
    const error = await failure(driver.invoke('mallory', operation, input));
    t.match(error.code, REFUSED, `${operation}: ${sql.slice(0, 100)} → ${error.message}`);
    t.notMatch(error.code, GOT_THROUGH);
    t.notMatch(error.message + JSON.stringify(error.details ?? {}), /hidden|\/home|\/var|cluster/);
  }
}

t.test('another plugin’s schema, the host’s schema and the catalogs of secrets', async (t) => {
  const reads = [
    'SELECT * FROM victim.secret',
    'TABLE victim.secret',
    'WITH x AS (SELECT * FROM victim.secret) SELECT * FROM x',
    'SELECT (SELECT v FROM victim.secret)',
    'EXPLAIN ANALYZE SELECT * FROM victim.secret',
    "SELECT query_to_xml('SELECT * FROM victim.secret', true, true, '')",
    'DO $$ BEGIN PERFORM * FROM victim.secret; END $$',
    'SELECT * FROM noa.plugin_areas',
    'SELECT * FROM noa.plugin_grants',
    'SELECT * FROM pg_authid',
    'SELECT * FROM pg_shadow',
    'SELECT * FROM pg_catalog.pg_user_mapping',
    'SELECT * FROM pg_largeobject',
    'SELECT * FROM pg_hba_file_rules',
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT * FROM pg_stat_file('PG_VERSION')",
    "SELECT current_setting('data_directory')",
    'SHOW hba_file',
    "SELECT lo_import('/etc/passwd')",
    'SELECT pg_reload_conf()',
    'LOCK TABLE victim.secret',
  ];
  for (const sql of reads) await refused(t, sql);
  const writes = [
    "INSERT INTO victim.secret VALUES ('x')",
    'DELETE FROM victim.secret',
    'DROP TABLE victim.secret',
    'DROP SCHEMA victim CASCADE',
    'ALTER TABLE victim.secret OWNER TO CURRENT_USER',
    'CREATE TABLE victim.mine ()',
    'CREATE VIEW peek AS SELECT * FROM victim.secret',
    'CREATE TABLE copy AS SELECT * FROM victim.secret',
    'CREATE TABLE child () INHERITS (victim.secret)',
    'CREATE INDEX ON victim.secret (v)',
    'ALTER TABLE own SET SCHEMA victim',
    'ALTER SCHEMA mallory RENAME TO victim2',
    "INSERT INTO noa.plugin_grants VALUES ('mallory', 'read', 'victim', '*')",
    "UPDATE noa.plugin_areas SET schema = 'victim'",
    'CREATE TABLE public.x ()',
    'CREATE TABLE pg_catalog.x ()',
    'CREATE SCHEMA mine',
    "UPDATE pg_class SET relowner = 10 WHERE relname = 'own'",
  ];
  for (const sql of writes) await refused(t, sql, 'execute', 'transaction');
});

t.test('roles: none leads to another', async (t) => {
  const names = [
    ...others,
    own.owner,
    own.rw,
    String(host['name']),
    'pg_read_all_data',
    'pg_monitor',
  ];
  const login = (await driver.query('mallory', 'SELECT session_user AS name'))[0]?.['name'];
  for (const name of names) {
    await refused(t, `SET ROLE "${name}"`, 'query');
    await refused(t, `SET SESSION AUTHORIZATION "${name}"`, 'query');
    await refused(t, `SELECT set_config('role', '${name}', false)`, 'query');
    await refused(t, `GRANT "${name}" TO CURRENT_USER`);
    await refused(t, `ALTER ROLE "${name}" PASSWORD 'x'`, 'query');
  }
  for (const name of names.filter((each) => each !== own.rw)) {
    await refused(t, `SET ROLE "${name}"`, 'execute', 'transaction');
    await refused(t, `SET SESSION AUTHORIZATION "${name}"`, 'execute', 'transaction');
    await refused(t, `ALTER ROLE "${name}" PASSWORD 'x'`, 'execute', 'transaction');
    await refused(t, `ALTER TABLE own OWNER TO "${name}"`, 'execute');
  }
  const sql = 'SELECT current_user AS now, session_user AS login';
  for (const reset of ['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'RESET ALL']) {
    const results = await driver.transaction('mallory', reset, sql);
    t.same(results[1]?.rows, [{ now: own.rw, login: own.rw }], reset);
    const block = `DO $$ BEGIN ${reset}; END $$`;
    t.same((await driver.transaction('mallory', block, sql))[1]?.rows, [
      { now: own.rw, login: own.rw },
    ]);
  }
  t.equal(login, mallory[0]?.['ro'], 'the login itself is the plugin’s own role');
  for (const right of [
    'SUPERUSER',
    'CREATEROLE',
    'CREATEDB',
    'REPLICATION',
    'BYPASSRLS',
    'CONNECTION LIMIT -1',
    "VALID UNTIL '2000-01-01'",
    'RENAME TO another',
    'NOLOGIN',
  ]) {
    await refused(t, `ALTER ROLE CURRENT_USER ${right}`);
  }
  await refused(t, 'CREATE ROLE another LOGIN SUPERUSER');
  await refused(t, 'CREATE USER another');
});

t.test('programs, files, extensions and what only an administrator may', async (t) => {
  for (const sql of [
    "COPY own FROM PROGRAM 'id'",
    "COPY own TO PROGRAM 'id'",
    "COPY own FROM '/etc/passwd'",
    "COPY own TO '/tmp/noa-out'",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    'CREATE EXTENSION dblink',
    'CREATE EXTENSION hstore',
    'CREATE EXTENSION file_fdw',
    'CREATE FOREIGN DATA WRAPPER w',
    'CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw',
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/lib/x86_64-linux-gnu/libc.so.6', 'system'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'pg_read_file'",
    'CREATE LANGUAGE plpython3u',
    'CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION suppress_redundant_updates_trigger()',
    'ALTER SYSTEM SET log_statement = none',
    'CREATE DATABASE mine',
    'CREATE PUBLICATION p FOR ALL TABLES',
    "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
    "CREATE TABLESPACE t LOCATION '/tmp'",
    "LOAD '/tmp/x.so'",
    'CHECKPOINT',
    'SET session_replication_role = replica',
    "SET log_min_messages = 'panic'",
    "SELECT set_config('log_statement', 'all', false)",
    'SET temp_file_limit = -1',
    `SELECT pg_terminate_backend(${Number(host['pid'])})`,
    `SELECT pg_cancel_backend(${Number(host['pid'])})`,
    "SELECT pg_create_physical_replication_slot('s')",
    'SELECT pg_switch_wal()',
    'TRUNCATE pg_class',
  ]) {
    if (sql === 'SET temp_file_limit = -1' && !superuser) continue;
    await refused(t, sql);
  }
  t.same(await see('SELECT 1 AS one'), { one: 1 }, 'the host’s session lives');
});

t.test(
  'what reaches across schemas is taken away',
  { skip: !superuser && 'not a superuser' },
  async (t) => {
    for (const sql of [
      'SELECT pg_advisory_lock(1)',
      'SELECT pg_try_advisory_xact_lock(1, 2)',
      'SELECT lo_create(0)',
      "SELECT lo_from_bytea(0, '\\x00')",
      'SELECT lo_get(1)',
    ]) {
      await refused(t, sql);
    }
    t.same(driver.warnings, []);
  },
);

t.test('temporary tables are not to be had', async (t) => {
  await refused(t, 'CREATE TEMP TABLE x ()');
  await refused(t, 'CREATE TEMP VIEW x AS SELECT 1');
  await refused(t, 'SELECT 1 INTO TEMP x');
});

t.test('one statement a call', async (t) => {
  for (const sql of [
    'SELECT 1; SELECT 2',
    'SELECT 1; DROP TABLE own',
    'INSERT INTO own VALUES (9); COMMIT; BEGIN',
    'SELECT 1;; SELECT 2',
  ]) {
    await refused(t, sql);
  }
});

t.test('query changes nothing, however it is said', async (t) => {
  await driver.execute('mallory', 'CREATE SEQUENCE IF NOT EXISTS seq');
  await driver.execute(
    'mallory',
    `CREATE OR REPLACE FUNCTION wipe() RETURNS int LANGUAGE plpgsql SECURITY DEFINER
       AS $$ BEGIN DELETE FROM mallory.spare; DELETE FROM mallory.own; RETURN 1; END $$`,
  );
  for (const sql of [
    'INSERT INTO own VALUES (2)',
    'WITH gone AS (DELETE FROM own RETURNING *) SELECT * FROM gone',
    'EXPLAIN ANALYZE DELETE FROM own',
    'SELECT wipe()',
    "SELECT set_config('transaction_read_only', 'off', false), wipe()",
    'DO $$ BEGIN DELETE FROM own; END $$',
    'DO $$ BEGIN SET TRANSACTION READ WRITE; PERFORM wipe(); END $$',
    'DO $$ BEGIN SET default_transaction_read_only = off; COMMIT; PERFORM wipe(); END $$',
    'DO $$ BEGIN COMMIT; PERFORM wipe(); END $$',
    "SELECT nextval('seq')",
    'SELECT * FROM own FOR UPDATE',
    'CREATE TABLE x ()',
    'SELECT 1 INTO x',
    'TRUNCATE own',
    'COMMENT ON TABLE own IS NULL',
  ]) {
    await refused(t, sql, 'query');
  }
  t.same(await driver.query('mallory', 'SELECT n FROM own'), [{ n: 1 }]);
  for (const sql of [
    'COMMIT',
    'ROLLBACK',
    'SET TRANSACTION READ WRITE',
    'SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE',
  ]) {
    await driver.query('mallory', sql).catch(() => undefined);
    await refused(t, 'SELECT wipe()', 'query');
  }
});

t.test('nothing of one call is left for the next', async (t) => {
  const both = async (sql: string) => {
    for (let round = 0; round < 6; round += 1) {
      await driver.execute('mallory', sql).catch(() => undefined);
      await driver.query('mallory', sql).catch(() => undefined);
    }
  };
  await both("SET search_path = 'victim'");
  await both("SELECT set_config('mine.note', 'left', false)");
  await both('SET statement_timeout = 1');
  await both("SET TIME ZONE 'Asia/Tokyo'");
  await both('PREPARE left_over AS SELECT 1');
  await both('LISTEN news');
  await both('DECLARE c CURSOR WITH HOLD FOR SELECT 1');
  await both('SET default_transaction_read_only = on');
  await both('BEGIN');
  await both("SELECT set_config('role', 'none', false)");
  const sql = `SELECT current_schemas(false)::text AS path, current_setting('mine.note', true) AS note,
    current_setting('statement_timeout') AS timeout, current_setting('TimeZone') AS zone,
    (SELECT count(*) FROM pg_prepared_statements) AS prepared,
    (SELECT count(*) FROM pg_cursors WHERE name <> '') AS cursors,
    (SELECT count(*) FROM pg_listening_channels()) AS channels`;
  const clean = {
    path: '{mallory}',
    timeout: '10min',
    zone: 'UTC',
    prepared: 0,
    cursors: 0,
    channels: 0,
  };
  for (let round = 0; round < 6; round += 1) {
    const { rows } = await driver.execute('mallory', sql);
    t.match(rows[0], clean);
    t.notMatch(rows[0]?.['note'], /left/);
    t.match((await driver.query('mallory', sql))[0], clean);
    await driver.execute('mallory', 'UPDATE own SET n = n');
  }
});

t.test('a query’s NOTIFY is not sent, an execute’s reaches no plugin', async (t) => {
  const heard: string[] = [];
  admin.on('notification', ({ payload }) => heard.push(payload ?? ''));
  await admin.query('LISTEN news');
  await driver.query('mallory', "NOTIFY news, 'from query'").catch(() => undefined);
  await driver.query('mallory', "SELECT pg_notify('news', 'from query')").catch(() => undefined);
  await driver.execute('victim', 'LISTEN news');
  await driver.execute('mallory', "NOTIFY news, 'from execute'");
  await driver.execute('victim', 'SELECT 1');
  await sleep(50);
  await admin.query('UNLISTEN *');
  t.notOk(heard.includes('from query'));
});

t.test('a role that changes its own login locks nobody out', async (t) => {
  const spoil = [
    "ALTER ROLE CURRENT_USER PASSWORD 'mine'",
    'ALTER ROLE CURRENT_USER PASSWORD NULL',
    "ALTER ROLE CURRENT_USER SET search_path = 'victim'",
    "ALTER ROLE CURRENT_USER SET statement_timeout = '1ms'",
    'ALTER ROLE CURRENT_USER SET default_transaction_read_only = on',
    "ALTER ROLE CURRENT_USER SET client_encoding = 'LATIN1'",
    "ALTER ROLE CURRENT_USER SET local_preload_libraries = 'nothing'",
    "ALTER ROLE CURRENT_USER SET session_authorization = 'postgres'",
    `ALTER ROLE CURRENT_USER SET role = '${others[0]}'`,
    'DROP OWNED BY CURRENT_USER',
  ];
  for (const sql of spoil) {
    await driver.execute('mallory', sql).catch(() => undefined);
    const later = new TestDriver(database.url);
    await later.provisionOwn('mallory', {
      '001.sql': 'CREATE TABLE own (n int); INSERT INTO own VALUES (1); CREATE TABLE spare (n int)',
    });
    const { rows } = await later.execute(
      'mallory',
      "SELECT current_user AS now, current_setting('search_path') AS path, 'é' AS e",
    );
    t.same(rows, [{ now: own.rw, path: 'mallory', e: 'é' }], sql);
    await later.driver.close();
  }
});

t.test('rights that a plugin gives away open nothing', async (t) => {
  for (const sql of [
    'GRANT ALL ON own TO PUBLIC',
    `GRANT ALL ON own TO "${others[1]}"`,
    'ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC',
    'GRANT ALL ON SCHEMA mallory TO PUBLIC',
  ]) {
    await driver.execute('mallory', sql).catch(() => undefined);
  }
  await driver.execute('mallory', 'CREATE TABLE IF NOT EXISTS later (n int)');
  for (const table of ['own', 'later']) {
    t.match(await failure(driver.query('victim', `SELECT * FROM mallory.${table}`)), {
      code: 'CAPABILITY_DENIED',
    });
    t.match(await failure(driver.execute('victim', `DELETE FROM mallory.${table}`)), {
      code: 'CAPABILITY_DENIED',
    });
  }
});

t.test('a function that runs as its maker gives its callers’ rights to nobody', async (t) => {
  await driver.execute(
    'mallory',
    `CREATE OR REPLACE FUNCTION trap() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'`,
  );
  t.match(await failure(driver.query('victim', 'SELECT mallory.trap()')), {
    code: 'CAPABILITY_DENIED',
  });
  for (const sql of [
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql SECURITY DEFINER SET role = 'postgres' AS 'SELECT 1'",
    'CREATE FUNCTION victim.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$',
    'CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)',
  ]) {
    await driver.execute('mallory', sql).catch(() => undefined);
  }
  t.same(await driver.query('victim', 'SELECT v FROM secret'), [{ v: 'hidden' }]);
});

t.test('grants: what is given, on which tables, and taken back at once', async (t) => {
  const tables = {
    '001.sql': `CREATE TABLE open (n serial PRIMARY KEY, v text); CREATE TABLE closed (v text);
      INSERT INTO open (v) VALUES ('a'); INSERT INTO closed VALUES ('b');
      CREATE FUNCTION whole() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM shop.closed'`,
  };
  const all = ['shop.*'];
  await driver.provision('shop', { query: all, execute: all, transaction: all }, tables);
  await driver.provision('guest', { query: ['shop.open', 'guest.*'], execute: ['guest.*'] });
  const denied = { code: 'CAPABILITY_DENIED' };
  t.same(await driver.query('guest', 'SELECT v FROM shop.open'), [{ v: 'a' }]);
  for (const sql of ['SELECT * FROM shop.closed', 'SELECT shop.whole()']) {
    t.match(await failure(driver.query('guest', sql)), denied, sql);
  }
  t.match(await failure(driver.execute('guest', "INSERT INTO shop.open (v) VALUES ('x')")), denied);
  t.match(
    await failure(driver.transaction('guest', 'SELECT 1')),
    denied,
    'no such operation granted',
  );

  await driver.provision('guest', { query: ['shop.*'], execute: ['shop.open'] });
  t.same(await driver.query('guest', 'SELECT v FROM shop.closed'), [{ v: 'b' }]);
  t.match(await driver.execute('guest', "INSERT INTO shop.open (v) VALUES ('x')"), { rowCount: 1 });
  for (const sql of [
    'DELETE FROM shop.closed',
    'TRUNCATE shop.open',
    'DROP TABLE shop.open',
    'CREATE TABLE shop.x ()',
    'ALTER TABLE shop.open ADD x int',
    'CREATE TRIGGER t BEFORE INSERT ON shop.open EXECUTE FUNCTION suppress_redundant_updates_trigger()',
    'CREATE TABLE guest.mine ()',
  ]) {
    t.match(await failure(driver.execute('guest', sql)), denied, sql);
  }
  await driver.execute('shop', 'CREATE TABLE young (n int)');
  await driver.provision(
    'shop',
    { query: all, execute: all, transaction: all },
    {
      ...tables,
      '002.sql': 'CREATE TABLE younger (n int)',
    },
  );
  t.same(await driver.query('guest', 'SELECT * FROM shop.young'), [], 'tables to come are covered');
  t.same(await driver.query('guest', 'SELECT * FROM shop.younger'), []);

  const running = failure(
    driver.query(
      'guest',
      'DO $$ BEGIN LOOP PERFORM n FROM shop.open; PERFORM pg_sleep(0.01); END LOOP; END $$',
    ),
  );
  await sleep(100);
  await driver.provision('guest', { query: ['guest.*'] });
  t.match(await running, { code: 'UNAVAILABLE' }, 'a statement that was running is ended');
  t.match(await failure(driver.query('guest', 'SELECT * FROM shop.open')), denied);
  t.match(await failure(driver.execute('guest', 'SELECT 1')), denied);
  await driver.execute('shop', 'CREATE TABLE youngest (n int)');
  t.match(await failure(driver.query('guest', 'SELECT * FROM shop.youngest')), denied);
});

t.test('a grant to read all of another schema is read by PostgreSQL as just that', async (t) => {
  await driver.provisionOwn('lender', {
    '001.sql': `CREATE TABLE t (n serial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('a');
      CREATE FUNCTION add() RETURNS void LANGUAGE sql AS 'INSERT INTO lender.t (v) VALUES (1)'`,
  });
  const own = ['borrower.*'];
  await driver.provision('borrower', {
    query: ['lender.*', ...own],
    execute: own,
    transaction: own,
  });
  t.same(await driver.query('borrower', 'SELECT * FROM lender.t'), [{ n: 1, v: 'a' }]);
  await driver.execute('borrower', 'CREATE TABLE copy AS SELECT * FROM lender.t');
  for (const sql of [
    "INSERT INTO lender.t (v) VALUES ('b')",
    "INSERT INTO lender.t VALUES (2, 'b') ON CONFLICT DO NOTHING",
    "UPDATE lender.t SET v = 'b'",
    'DELETE FROM lender.t',
    'TRUNCATE lender.t',
    'WITH gone AS (DELETE FROM lender.t RETURNING n) SELECT * FROM gone',
    'SELECT lender.add()',
    'SELECT * FROM lender.t FOR UPDATE',
    "SELECT nextval('lender.t_n_seq')",
    'DROP TABLE lender.t',
    'CREATE INDEX ON lender.t (v)',
    'CREATE TABLE lender.mine (n int)',
    'CREATE TABLE refers (n int REFERENCES lender.t)',
    'COMMENT ON TABLE lender.t IS NULL',
  ]) {
    for (const operation of ['execute', 'transaction']) {
      const input = operation === 'execute' ? { sql } : { statements: [{ sql }] };
      t.match(
        await failure(driver.invoke('borrower', operation, input)),
        { code: 'CAPABILITY_DENIED', details: { sqlstate: '42501' } },
        `${operation} ${sql}`,
      );
    }
  }
  const lock = driver.transaction('borrower', 'LOCK TABLE lender.t IN EXCLUSIVE MODE');
  t.match(await failure(lock), { details: { sqlstate: '42501' } });
  t.same(await driver.query('lender', 'SELECT * FROM t'), [{ n: 1, v: 'a' }]);
  await driver.driver.drop?.('borrower');
  await driver.driver.drop?.('lender');
});

t.test('a plugin whose own grant was narrowed keeps no way back', async (t) => {
  const all = ['narrow.*'];
  const full = { query: all, execute: all, transaction: all };
  await driver.provision('narrow', full);
  await driver.execute('narrow', 'CREATE TABLE kept (id serial, v text)');
  await driver.execute('narrow', 'CREATE TABLE lost (v text)');
  await driver.execute('narrow', "INSERT INTO lost VALUES ('x')");
  await driver.execute(
    'narrow',
    `CREATE FUNCTION door() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM narrow.lost RETURNING v'`,
  );
  await driver.execute('narrow', 'GRANT ALL ON lost TO PUBLIC').catch(() => undefined);
  await driver.provision('narrow', { query: ['narrow.kept'], execute: ['narrow.kept'] });
  t.match(await driver.execute('narrow', "INSERT INTO kept (v) VALUES ('a')"), { rowCount: 1 });
  for (const sql of [
    'SELECT * FROM lost',
    'SELECT door()',
    'DROP TABLE lost',
    'GRANT ALL ON lost TO CURRENT_USER',
    'ALTER TABLE kept ADD x int',
    'CREATE TABLE more ()',
    'ALTER FUNCTION door() OWNER TO CURRENT_USER',
  ]) {
    t.match(await failure(driver.execute('narrow', sql)), { code: 'CAPABILITY_DENIED' }, sql);
  }
  await driver.provision('narrow', full);
  t.same(
    await driver.query('narrow', 'SELECT v FROM lost'),
    [{ v: 'x' }],
    'and gets it back when it is granted',
  );
  t.match(await driver.execute('narrow', "INSERT INTO lost VALUES ('y')"), { rowCount: 1 });
});

t.test('a token that allows less than the plugin was granted allows no SQL', async (t) => {
  const input = { sql: 'SELECT 1 AS one' };
  const narrowed = { resources: ['mallory.own'] };
  t.match(await failure(driver.invoke('mallory', 'query', input, narrowed)), {
    code: 'CAPABILITY_DENIED',
    message: /may not use mallory\.\*/,
  });
  t.same(await driver.invoke('mallory', 'query', input, { resources: ['mallory.*', 'x.*'] }), {
    rows: [{ one: 1 }],
  });
  t.match(await failure(driver.invoke('nobody', 'query', input)), { code: 'CAPABILITY_DENIED' });
});

t.test(
  'memory: one statement cannot take the server down',
  { skip: Boolean(serverUrl) },
  async (t) => {
    const before = await see('SELECT pg_postmaster_start_time() AS at');
    const bombs = [
      "SELECT length(array_agg(repeat('x', 200 << 20) || i)::text) FROM generate_series(1, 60) AS i",
    ];
    for (const sql of bombs) {
      const error = await failure(
        driver.invoke('mallory', 'query', { sql }, { timeoutMs: 20_000 }),
      );
      t.match(error.code, /RESOURCE_EXHAUSTED|INVALID_ARGUMENT/, error.message);
    }
    t.same(await see('SELECT pg_postmaster_start_time() AS at'), before);
    t.same(await driver.query('mallory', 'SELECT 1 AS one'), [{ one: 1 }]);
  },
);

t.test('a plugin holds up no change of its rights, nor of anybody’s', async (t) => {
  const rights = { execute: ['stubborn.*'], transaction: ['stubborn.*'] };
  const holds = [
    `DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET work_mem = ''5MB''', current_user); END $$`,
    `DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD ''x''', current_user); END $$`,
    'CREATE TABLE hold (n int)',
    'ALTER TABLE kept ADD COLUMN more int',
    'INSERT INTO kept VALUES (2)',
  ];
  const quick = async (what: string, work: () => Promise<unknown>): Promise<void> => {
    const startedAt = Date.now();
    await work();
    const took = Date.now() - startedAt;
    t.ok(took < 12_000, `${what} took ${took} ms`);
  };
  await driver.provisionOwn('bystander');
  for (const sql of holds) {
    await driver.provision('stubborn', { query: ['stubborn.*'], ...rights });
    await driver.execute('stubborn', 'CREATE TABLE IF NOT EXISTS kept (n int)');
    const hold = () => {
      const statements = [sql, 'SELECT pg_sleep(60)'].map((each) => ({ sql: each }));
      return failure(
        driver.invoke('stubborn', 'transaction', { statements }, { timeoutMs: 60_000 }),
      );
    };
    const held = hold();
    await sleep(200);
    await Promise.all([
      quick(`less rights against ${sql}`, () => driver.provision('stubborn', rights)),
      quick('a bystander', () =>
        driver.provision('bystander', { query: ['bystander.*', 'stubborn.*'] }),
      ),
    ]);
    t.match(await held, { code: 'UNAVAILABLE' }, 'its transaction ends');
    const heldAgain = hold();
    await sleep(200);
    const more = { query: ['stubborn.kept'], ...rights };
    await quick(`more rights against ${sql}`, () => driver.provision('stubborn', more));
    await quick(`removal against ${sql}`, async () => driver.driver.drop?.('stubborn'));
    t.match(await heldAgain, { code: 'UNAVAILABLE' });
    await driver.provisionOwn('bystander');
  }
});

t.test('a reader of a plugin’s tables holds up neither its change nor its removal', async (t) => {
  await driver.provisionOwn('read');
  await driver.execute('read', 'CREATE TABLE t (n int)');
  await driver.provision('reader', { query: ['reader.*', 'read.*'] });
  const look = () => {
    const input = { sql: 'SELECT count(*), pg_sleep(60) FROM read.t' };
    return failure(driver.invoke('reader', 'query', input, { timeoutMs: 60_000 }));
  };
  const changes: [string, () => Promise<void> | undefined][] = [
    ['a change', () => driver.provision('read', { query: ['read.*'] })],
    ['removal', () => driver.driver.drop?.('read')],
  ];
  for (const [what, change] of changes) {
    t.same(await driver.query('reader', 'SELECT * FROM read.t'), []);
    const looks = look();
    await sleep(200);
    const startedAt = Date.now();
    await change();
    const took = Date.now() - startedAt;
    t.ok(took < 12_000, `${what} took ${took} ms`);
    t.match(await looks, { code: 'UNAVAILABLE' });
  }
  t.match(await failure(driver.query('reader', 'SELECT * FROM read.t')), {
    code: 'INVALID_ARGUMENT',
  });
  await driver.provisionOwn('read');
  await driver.execute('read', 'CREATE TABLE t (n int)');
  t.same(await driver.query('reader', 'SELECT * FROM read.t'), [], 'its grant holds again');
  await driver.driver.drop?.('read');
  await driver.driver.drop?.('reader');
});

t.test('the victim is whole', async (t) => {
  t.same(await driver.query('victim', 'SELECT v FROM secret'), [{ v: 'hidden' }]);
});
