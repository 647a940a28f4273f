/** The contract of `db`, run on the embedded PostgreSQL and on the server of NOA_TEST_DATABASE_URL. */
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Json } from '@noa/sdk/host';
import fc from 'fast-check';
import pg from 'pg';
import t from 'tap';
import { db } from '../../capabilities/db/capability.ts';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { createPostgresDriver } from '../../capabilities/db/postgres.ts';
import { TestDriver, eventually, failure, rolePassword, testDatabase } from './database.ts';

// Starts of PostgreSQL on a machine that others load too.
t.setTimeout(120_000);

const serverUrl = process.env['NOA_TEST_DATABASE_URL'];
const SERVERS = [
  { name: 'embedded PostgreSQL', url: undefined, skip: false },
  {
    name: 'PostgreSQL by URL',
    url: serverUrl,
    skip: serverUrl ? false : 'no NOA_TEST_DATABASE_URL',
  },
];

for (const { name, url, skip } of SERVERS) {
  t.test(`db on ${name}`, { skip }, async (t) => {
    const database = await testDatabase(url);
    const driver = new TestDriver(database.url);
    const admin = new pg.Pool({ ...connectionConfig(database.url), max: 2 });
    // A server that ends says so to connections that are closing.
    admin.on('error', () => undefined);
    admin.on('error', () => {});
    t.teardown(async () => {
      await admin.end();
      await driver.driver.close();
      await database.stop();
    });
    await driver.driver.check();

    t.test('a plugin without migrations makes its own tables and keeps them', async (t) => {
      await driver.provisionOwn('notes');
      const sql = 'CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text NOT NULL)';
      await driver.execute('notes', sql);
      await driver.execute('notes', sql);
      t.same(
        await driver.execute('notes', 'INSERT INTO notes (text) VALUES ($1) RETURNING id', ['a']),
        { rows: [{ id: 1 }], rowCount: 1 },
      );
      t.same(await driver.query('notes', 'SELECT * FROM notes'), [{ id: 1, text: 'a' }]);
      await driver.execute('notes', 'ALTER TABLE notes ADD COLUMN at timestamptz');
      t.same(await driver.execute('notes', 'UPDATE notes SET at = now()'), {
        rows: [],
        rowCount: 1,
      });
    });

    t.test('parameters of every JSON type, and what PostgreSQL makes of them', async (t) => {
      const sql = `SELECT $1::text AS text, $2::int AS int, $3::float8 AS float, $4::boolean AS yes,
                          $5::jsonb AS object, $6::jsonb AS list, $7::text[] AS array, $8::int AS none,
                          $9::int[] AS ints, $10::jsonb[] AS objects`;
      const values: Json[] = [
        'é\n"',
        42,
        1.5,
        true,
        { a: [1] },
        [1, { b: null }],
        ['x', null, '"\\,{}'],
        null,
        [
          [1, 2],
          [3, 4],
        ],
        [{ a: '"' }],
      ];
      t.same(await driver.query('notes', sql, values), [
        {
          text: 'é\n"',
          int: 42,
          float: 1.5,
          yes: true,
          object: { a: [1] },
          list: [1, { b: null }],
          array: ['x', null, '"\\,{}'],
          none: null,
          ints: [
            [1, 2],
            [3, 4],
          ],
          objects: [{ a: '"' }],
        },
      ]);
      t.same(await driver.query('notes', 'SELECT 1 AS one WHERE 2 = ANY ($1::int[])', [[1, 2]]), [
        { one: 1 },
      ]);
    });

    t.test('any text and any array of texts comes back as it was', async (t) => {
      const text = fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0'));
      await fc.assert(
        fc.asyncProperty(text, fc.array(fc.option(text)), async (one, many) => {
          const sql = 'SELECT $1::text AS one, $2::text[] AS many';
          t.same(await driver.query('notes', sql, [one, many]), [{ one, many }]);
        }),
        { numRuns: 60 },
      );
    });

    t.test('values that JSON cannot hold, or not exactly', async (t) => {
      const sql = `SELECT 9007199254740991::int8 AS safe, 9007199254740993::int8 AS big,
        0.1::numeric AS fraction, 123456789.12345678901::numeric AS exact, 'NaN'::float8 AS nan,
        '-Infinity'::float8 AS least, '\\x00ff'::bytea AS bytes, date '2024-02-29' AS date,
        timestamp '2024-02-29 12:00:00.5' AS local, timestamptz '2024-02-29 12:00+02' AS instant,
        interval '1 day 2 hours' AS duration, 'infinity'::timestamptz AS never,
        ARRAY['\\x01'::bytea] AS list, '[5:6]={1,2}'::int[] AS bounds, '{}'::int[] AS empty,
        '{"__proto__": {"x": 1}}'::jsonb AS odd, 1 AS "__proto__"`;
      const [row] = await driver.query('notes', sql);
      t.ok(Object.hasOwn(row ?? {}, '__proto__'), 'a column may have any name');
      t.equal(Object.getPrototypeOf(row), Object.prototype, 'and reaches no prototype');
      t.equal(
        JSON.stringify(row),
        '{"safe":9007199254740991,"big":"9007199254740993","fraction":0.1,' +
          '"exact":"123456789.12345678901","nan":"NaN","least":"-Infinity","bytes":"AP8=",' +
          '"date":"2024-02-29","local":"2024-02-29T12:00:00.5","instant":"2024-02-29T10:00:00Z",' +
          '"duration":"P1DT2H","never":"infinity","list":["AQ=="],"bounds":[1,2],"empty":[],' +
          '"odd":{"__proto__":{"x":1}},"__proto__":1}',
      );
    });

    t.test('what is wrong with a statement is told with its place', async (t) => {
      const cases = [
        ['SELEC 1', '42601'],
        ['SELECT * FROM nothing', '42P01'],
        ['SELECT nothing FROM notes', '42703'],
        ["SELECT 'x'::int", '22P02'],
        ['SELECT 1/0', '22012'],
        ['SELECT $1::int', '08P01'],
      ] as const;
      for (const [sql, sqlstate] of cases) {
        const error = await failure(driver.query('notes', sql));
        if (sqlstate === '08P01') t.match(error, { details: { sqlstate } }, sql);
        else t.match(error, { code: 'INVALID_ARGUMENT', details: { sqlstate } }, sql);
      }
      t.match(await failure(driver.query('notes', 'SELECT * FROM nothing')), {
        message: 'db: relation "nothing" does not exist',
        details: { position: 15 },
      });
      for (const sql of ['', ' ', ';', '-- nothing']) {
        t.match(
          await failure(driver.query('notes', sql)),
          { code: 'INVALID_ARGUMENT' },
          `"${sql}"`,
        );
        t.match(await failure(driver.execute('notes', sql)), { code: 'INVALID_ARGUMENT' });
      }
      for (const params of [['a\0b'], [['a\0b']]]) {
        const error = await failure(driver.query('notes', 'SELECT $1::text[]', params));
        t.match(error, { code: 'INVALID_ARGUMENT', message: /NUL/ });
      }
      t.match(await failure(driver.query('notes', 'SELECT 1\0')), { message: /NUL/ });
      const tooFew = driver.query('notes', 'SELECT $1::int[], $2::int', [[1]]);
      t.ok(await failure(tooFew));
      t.same(
        await driver.query('notes', 'SELECT 1 AS one'),
        [{ one: 1 }],
        'the connection is well',
      );
    });

    t.test('constraints: which one was broken', async (t) => {
      await driver.execute(
        'notes',
        'CREATE TABLE item (id int PRIMARY KEY, up int REFERENCES item, n int NOT NULL CHECK (n > 0))',
      );
      const insert = (id: number, up: number | null, n: number | null) =>
        driver.execute('notes', 'INSERT INTO item VALUES ($1, $2, $3)', [id, up, n]);
      await insert(1, null, 1);
      t.match(await failure(insert(1, null, 1)), {
        code: 'CONFLICT',
        details: { sqlstate: '23505', constraint: 'item_pkey', table: 'item' },
      });
      t.match(await failure(insert(2, 9, 1)), { code: 'CONFLICT' });
      t.match(await failure(insert(2, null, 0)), { code: 'INVALID_ARGUMENT' });
      t.match(await failure(insert(2, null, null)), { details: { column: 'n' } });
    });

    t.test('a constraint that is checked at the commit is an error of the statement', async (t) => {
      await driver.execute(
        'notes',
        'CREATE TABLE late (id int PRIMARY KEY, up int REFERENCES late DEFERRABLE INITIALLY DEFERRED)',
      );
      t.match(await failure(driver.execute('notes', 'INSERT INTO late VALUES (1, 2)')), {
        code: 'CONFLICT',
      });
      const both = ['INSERT INTO late VALUES (1, 2)', 'INSERT INTO late VALUES (2, 1)'];
      t.equal((await driver.transaction('notes', ...both)).length, 2);
      const wrong = ['INSERT INTO late VALUES (3, 9)', 'SELECT 1'];
      t.match(await failure(driver.transaction('notes', ...wrong)), { code: 'CONFLICT' });
      t.same(await driver.query('notes', 'SELECT count(*) AS n FROM late'), [{ n: 2 }]);
    });

    t.test('a transaction is all or nothing', async (t) => {
      await driver.execute('notes', 'CREATE TABLE entry (id int PRIMARY KEY)');
      const results = await driver.transaction(
        'notes',
        'INSERT INTO entry VALUES (1), (2)',
        'SELECT count(*) AS n FROM entry',
      );
      t.same(results, [
        { rows: [], rowCount: 2 },
        { rows: [{ n: 2 }], rowCount: 1 },
      ]);
      const broken = driver.transaction(
        'notes',
        'INSERT INTO entry VALUES (3)',
        'INSERT INTO entry VALUES (1)',
        'INSERT INTO entry VALUES (4)',
      );
      t.match(await failure(broken), { code: 'CONFLICT' });
      for (const control of ['COMMIT', 'ROLLBACK', 'COMMIT AND CHAIN', 'BEGIN', 'END', 'ABORT']) {
        const error = await failure(
          driver.transaction('notes', 'SELECT 1', control, 'INSERT INTO entry VALUES (5)'),
        );
        t.match(error, { code: 'INVALID_ARGUMENT', message: /statements\[1\] begins or ends/ });
      }
      t.same(await driver.query('notes', 'SELECT id FROM entry ORDER BY 1'), [
        { id: 1 },
        { id: 2 },
      ]);
      t.match(await failure(driver.execute('notes', 'BEGIN')), { message: /use db.transaction/ });
    });

    t.test('answers are bounded, and a statement over the bound has no effect', async (t) => {
      const many = 'SELECT n FROM generate_series(1, $1::int) AS n';
      t.equal((await driver.query('notes', many, [10_000])).length, 10_000);
      const over = { code: 'PAYLOAD_TOO_LARGE', message: /LIMIT/ };
      t.match(await failure(driver.query('notes', many, [10_001])), over);
      t.match(await failure(driver.query('notes', 'SELECT generate_series(1, 1000000000)')), over);
      t.match(await failure(driver.query('notes', "SELECT repeat('x', 5 << 20)")), over);
      t.match(await failure(driver.query('notes', "SELECT repeat('x', 64 << 20)")), over);
      await driver.execute('notes', 'CREATE TABLE many (n int, wide text)');
      const insert = 'INSERT INTO many SELECT n FROM generate_series(1, 10001) AS n RETURNING n';
      t.match(await failure(driver.execute('notes', insert)), over);
      t.match(await failure(driver.transaction('notes', insert)), over);
      const wide =
        "INSERT INTO many SELECT n, repeat('x', 10000) FROM generate_series(1, 5000) AS n RETURNING *";
      t.match(await failure(driver.execute('notes', wide)), over);
      t.same(await driver.query('notes', 'SELECT count(*) AS n FROM many'), [{ n: 0 }]);
      const without = insert.replace(' RETURNING n', '');
      t.match(await driver.execute('notes', without), { rowCount: 10_001 });
    });

    t.test('COPY has no stream and hangs nothing', async (t) => {
      for (const sql of [
        'COPY notes FROM STDIN',
        'COPY notes TO STDOUT',
        'COPY (SELECT 1) TO STDOUT',
      ]) {
        const refused = { code: 'INVALID_ARGUMENT', message: /COPY/ };
        t.match(await failure(driver.execute('notes', sql)), refused);
        t.match(await failure(driver.transaction('notes', 'SELECT 1', sql)), refused);
        if (!sql.includes('FROM')) t.match(await failure(driver.query('notes', sql)), refused);
      }
      t.ok(await failure(driver.query('notes', 'COPY notes FROM STDIN')));
      t.same(await driver.query('notes', 'SELECT 1 AS one'), [{ one: 1 }]);
    });

    const sleepers = async () => {
      const { rows } = await admin.query(
        "SELECT pid FROM pg_stat_activity WHERE usename LIKE 'noa%notes%' AND state = 'active'",
      );
      return rows.length;
    };
    const idle = async () => {
      const left = await sleepers();
      if (left > 0) throw new Error(`${left} statements run on`);
    };

    t.test('a statement ends at the deadline, on the server too', async (t) => {
      const endless = [
        'SELECT pg_sleep(600)',
        'SELECT count(*) FROM generate_series(1, 1e12::int8)',
        `DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600);
           EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$`,
      ];
      for (const sql of endless) {
        const startedAt = Date.now();
        const error = await failure(driver.invoke('notes', 'query', { sql }, { timeoutMs: 150 }));
        t.match(error, { code: 'DEADLINE_EXCEEDED' });
        t.ok(Date.now() - startedAt < 1_000, 'in time');
        await eventually(idle);
      }
      const gone = new AbortController();
      setTimeout(() => gone.abort(), 50);
      const options = { signal: gone.signal };
      const input = { statements: [{ sql: 'SELECT 1' }, { sql: 'SELECT pg_sleep(600)' }] };
      t.match(await failure(driver.invoke('notes', 'transaction', input, options)), {
        code: 'CANCELLED',
      });
      await eventually(idle);
    });

    t.test('connections per role are few; waiting is bounded and ends with the call', async (t) => {
      const sql = 'SELECT pg_sleep(600)';
      const stop = new AbortController();
      const options = { signal: stop.signal, timeoutMs: 60_000 };
      const codes: string[] = [];
      const calls = Array.from({ length: 200 }, async () => {
        codes.push((await failure(driver.invoke('notes', 'query', { sql }, options))).code);
      });
      await eventually(async () => {
        const running = await sleepers();
        if (running !== 4) throw new Error(`${running} statements run`);
      });
      t.strictSame(codes, Array<string>(200 - 4 - 128).fill('RESOURCE_EXHAUSTED'), 'at once');
      stop.abort();
      await Promise.all(calls);
      t.strictSame(codes.slice(200 - 4 - 128), Array<string>(4 + 128).fill('CANCELLED'));
      await eventually(idle);
      t.same(await driver.query('notes', 'SELECT 1 AS one'), [{ one: 1 }]);
    });

    t.test('plugins that hold on to every connection keep none from the others', async (t) => {
      const few = new TestDriver(database.url, 8);
      t.teardown(() => few.driver.close());
      const hostile = ['greedy-1', 'greedy-2', 'greedy-3', 'greedy-4', 'greedy-5'];
      const plugins = [...hostile, 'modest-1', 'modest-2'];
      for (const plugin of plugins) await few.provisionOwn(plugin);
      const stop = new AbortController();
      const options = { signal: stop.signal, timeoutMs: 60_000 };
      const calls = hostile.flatMap((plugin) =>
        ['query', 'execute'].flatMap((operation) =>
          Array.from({ length: 300 }, () =>
            failure(few.invoke(plugin, operation, { sql: 'SELECT pg_sleep(600)' }, options)),
          ),
        ),
      );
      await eventually(async () => {
        const { rows } = await admin.query(
          "SELECT pid FROM pg_stat_activity WHERE usename LIKE 'noa%greedy%' AND state = 'active'",
        );
        if (rows.length !== 6) throw new Error(`${rows.length} statements run`);
      });
      for (let round = 0; round < 3; round += 1) {
        const work = ['modest-1', 'modest-2'].flatMap((plugin) => [
          few.query(plugin, 'SELECT current_schema() AS schema'),
          few.execute(plugin, 'CREATE TABLE IF NOT EXISTS t (n int)'),
        ]);
        await Promise.all(work);
      }
      stop.abort();
      const codes = new Set((await Promise.all(calls)).map(({ code }) => code));
      t.strictSame(codes, new Set(['RESOURCE_EXHAUSTED', 'CANCELLED']));
      t.same(await few.query('greedy-1', 'SELECT 1 AS one'), [{ one: 1 }]);
      for (const plugin of plugins) await few.driver.drop?.(plugin);
    });

    t.test('many plugins share few connections', async (t) => {
      const few = new TestDriver(database.url, 4);
      t.teardown(() => few.driver.close());
      const plugins = Array.from({ length: 12 }, (_, index) => `many-${index}`);
      for (const plugin of plugins) await few.provisionOwn(plugin);
      for (let round = 0; round < 3; round += 1) {
        const rows = await Promise.all(
          plugins.map((plugin) => few.query(plugin, 'SELECT current_schema() AS schema')),
        );
        t.same(
          rows.flat().map(({ schema }) => schema),
          plugins.map((name) => name.replace('-', '_')),
        );
      }
      // A connection that made room for another may take a moment to go.
      await eventually(async () => {
        const { rows } = await admin.query<{ n: number }>(
          "SELECT count(*)::int AS n FROM pg_stat_activity WHERE usename LIKE 'noa%many%'",
        );
        const { n = 0 } = rows[0] ?? {};
        if (n > 4) throw new Error(`${n} connections`);
      });
      for (const plugin of plugins) await few.driver.drop?.(plugin);
    });

    t.test('migrations run once, in order, each whole or not at all', async (t) => {
      const first = { '001_make.sql': 'CREATE TABLE a (n int); INSERT INTO a VALUES (1);' };
      await driver.provisionOwn('mig', first);
      await driver.provisionOwn('mig', first);
      t.same(await driver.query('mig', 'SELECT n FROM a'), [{ n: 1 }]);
      const second = { ...first, '002_more.sql': 'INSERT INTO a VALUES (2); SELECT nothing;' };
      t.match(await failure(driver.provisionOwn('mig', second)), {
        code: 'INVALID_ARGUMENT',
        message: /migration 002_more\.sql of mig: column "nothing" does not exist/,
        details: { position: 34 },
      });
      t.same(await driver.query('mig', 'SELECT n FROM a'), [{ n: 1 }], 'nothing of it was kept');
      await driver.provisionOwn('mig', { ...first, '002_more.sql': 'INSERT INTO a VALUES (2)' });
      t.same(await driver.query('mig', 'SELECT n FROM a ORDER BY n'), [{ n: 1 }, { n: 2 }]);
      t.match(await failure(driver.provisionOwn('mig', { '001_make.sql': 'CREATE TABLE b ()' })), {
        code: 'CONFLICT',
        message: /001_make\.sql of mig was changed/,
      });
      for (const sql of [
        'CREATE TABLE c (); COMMIT; CREATE TABLE d ()',
        'ROLLBACK',
        'COMMIT; BEGIN',
      ]) {
        const error = await failure(driver.provisionOwn('mig', { ...first, '003_end.sql': sql }));
        t.match(error, { code: 'INVALID_ARGUMENT', message: /begins or ends a transaction/ }, sql);
      }
      t.match(await failure(driver.provisionOwn('mig', { '004.sql': 'COPY a FROM STDIN' })), {
        message: /COPY/,
      });
    });

    t.test('a migration whose host died is judged by what the server did', async (t) => {
      const name = 'died';
      await driver.provisionOwn(name);
      const run = async (end: 'COMMIT' | 'ROLLBACK') => {
        const client = await admin.connect();
        await client.query('BEGIN');
        const { rows } = await client.query<{ xid: string }>(
          'SELECT pg_current_xact_id()::text AS xid',
        );
        await client.query('CREATE TABLE died.made ()');
        await admin.query(
          `INSERT INTO noa.plugin_migrations (plugin, name, sha256, xid)
             VALUES ('died', '001.sql', encode(sha256('CREATE TABLE made ()'), 'hex'), $1)`,
          [rows[0]?.xid],
        );
        await client.query(end);
        client.release();
      };
      await run('ROLLBACK');
      await driver.provisionOwn(name, { '001.sql': 'CREATE TABLE made ()' });
      t.same(
        await driver.query(name, 'SELECT * FROM made'),
        [],
        'it is run again after a roll-back',
      );
      await admin.query(
        "DROP TABLE died.made; DELETE FROM noa.plugin_migrations WHERE plugin = 'died'",
      );
      await admin.query("UPDATE noa.plugin_areas SET fingerprint = NULL WHERE plugin = 'died'");
      await run('COMMIT');
      await driver.provisionOwn(name, { '001.sql': 'CREATE TABLE made ()' });
      t.pass('and is not run again after a commit');
    });

    t.test('hosts that provision at the same time agree', async (t) => {
      const hosts = Array.from({ length: 4 }, () => new TestDriver(database.url));
      t.teardown(() => Promise.all(hosts.map((host) => host.driver.close())));
      const migrations = { '001.sql': 'CREATE TABLE once (n int); INSERT INTO once VALUES (1)' };
      await Promise.all(
        hosts.flatMap((host) => [
          host.provisionOwn('both', migrations),
          host.provisionOwn('other'),
        ]),
      );
      for (const host of hosts) t.same(await host.query('both', 'SELECT n FROM once'), [{ n: 1 }]);
    });

    t.test('names: long ones, and schemas that are taken', async (t) => {
      const long = `p${'-very'.repeat(20)}-long`;
      await driver.provision(long, { query: ['notes.*'] });
      t.same(await driver.query(long, 'SELECT 1 AS one'), [{ one: 1 }]);
      await driver.driver.drop?.(long);
      await admin.query('CREATE SCHEMA taken');
      for (const plugin of [
        'taken',
        'noa',
        'public',
        'pg-toast',
        'pg-other',
        'information-schema',
      ]) {
        const error = await failure(driver.provision(plugin, { query: [`${plugin}.*`] }));
        t.match(error, { code: 'CONFLICT', message: /rename the plugin/ }, plugin);
      }
      await driver.provisionOwn('two-words');
      t.match(await failure(driver.provisionOwn('two_words')), { code: 'CONFLICT' });
    });

    t.test('drop leaves nothing, and may be repeated', async (t) => {
      await driver.provisionOwn('gone', { '001.sql': 'CREATE TABLE a ()' });
      await driver.execute('gone', 'CREATE TABLE b ()');
      await driver.provision('reader', { query: ['gone.*', 'reader.*'] });
      const [ro] = await driver.query('gone', 'SELECT current_user AS name');
      const key = JSON.stringify(ro?.['name']).replaceAll('"', '').replace(/ro$/, '%');
      const running = failure(driver.query('gone', 'SELECT pg_sleep(600)'));
      await sleep(50);
      await driver.driver.drop?.('gone');
      t.match(await running, { code: 'UNAVAILABLE' }, 'running calls end');
      await driver.driver.drop?.('gone');
      const left = `SELECT rolname FROM pg_roles WHERE rolname LIKE $1
        UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'gone'
        UNION ALL SELECT plugin FROM noa.plugin_migrations WHERE plugin = 'gone'`;
      const { rows } = await admin.query(left, [key]);
      t.same(rows, []);
      t.match(await failure(driver.query('gone', 'SELECT 1')), { code: 'CAPABILITY_DENIED' });
      await driver.provisionOwn('gone', { '001.sql': 'CREATE TABLE a (n int)' });
      t.same(
        await driver.query('reader', 'SELECT * FROM gone.a'),
        [],
        'a grant outlives its target',
      );
    });

    t.test('a server that goes away and comes back', async (t) => {
      const upstream = new URL(database.url);
      const { searchParams } = upstream;
      const socket = searchParams.get('host')?.startsWith('/')
        ? { path: `${searchParams.get('host')}/.s.PGSQL.${searchParams.get('port') ?? 5432}` }
        : { host: upstream.hostname, port: Number(upstream.port || 5432) };
      let open = true;
      const links = new Set<ReturnType<typeof connect>>();
      const proxy = createServer((client) => {
        if (!open) return void client.destroy();
        const server = connect(socket);
        links.add(client).add(server);
        client.pipe(server).pipe(client);
        client.on('error', () => server.destroy()).on('close', () => server.destroy());
        server.on('error', () => client.destroy()).on('close', () => client.destroy());
      }).listen(0, '127.0.0.1');
      await new Promise((done) => proxy.once('listening', done));
      t.teardown(() => proxy.close());
      const address = proxy.address();
      if (typeof address !== 'object' || !address) throw new Error('no port');
      const through = new URL(database.url);
      through.hostname = '127.0.0.1';
      through.port = String(address.port);
      through.searchParams.delete('host');
      through.searchParams.delete('port');
      through.searchParams.set('sslmode', 'disable');
      const far = new TestDriver(through.href);
      t.teardown(() => far.driver.close());
      await far.provisionOwn('notes');
      await far.query('notes', 'SELECT 1');
      open = false;
      const running = failure(far.query('notes', 'SELECT pg_sleep(600)'));
      await sleep(50);
      for (const link of links) link.destroy();
      const startedAt = Date.now();
      const errors = [
        running,
        ...Array.from({ length: 20 }, () => failure(far.query('notes', 'SELECT 1'))),
      ];
      for (const error of await Promise.all(errors)) {
        t.match(error, { code: 'UNAVAILABLE', message: /does not answer/ });
        t.notMatch(error.message, /127|noa_|password/);
      }
      t.match(await failure(far.driver.check()), { code: 'UNAVAILABLE' });
      t.ok(Date.now() - startedAt < 2_500, 'it is said in time');
      open = true;
      t.same(
        await far.query('notes', 'SELECT 1 AS one'),
        [{ one: 1 }],
        'the next call connects anew',
      );
      await far.driver.check();
    });
  });
}

t.test('a server that is not there, or does not answer', async (t) => {
  const silent = createServer(() => {}).listen(0, '127.0.0.1');
  await new Promise((done) => silent.once('listening', done));
  t.teardown(() => silent.close());
  const address = silent.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  const urls = [
    `postgresql://u:secret@127.0.0.1:${port}/x?sslmode=disable`,
    'postgresql:///x?host=/nowhere',
  ];
  for (const url of urls) {
    const driver = createPostgresDriver({ url, rolePassword, warn: () => {} });
    const startedAt = Date.now();
    for (const error of await Promise.all([
      failure(driver.check()),
      failure(driver.provision?.({ plugin: 'p', grants: [], migrations: [] }) ?? Promise.resolve()),
    ])) {
      t.match(error, {
        code: 'UNAVAILABLE',
        message: 'db: the database does not answer now; try again',
      });
    }
    t.ok(Date.now() - startedAt < 3_000);
    await driver.close();
  }
});

t.test('a wrong URL is refused without being repeated', async (t) => {
  for (const url of ['mysql://u:secret@host/x', 'secret', 'postgresql://host', '']) {
    try {
      createPostgresDriver({ url, rolePassword, warn: () => {} });
      t.fail(`accepted ${url}`);
    } catch (error) {
      t.match(error, { code: 'INVALID_ARGUMENT', message: /database\.url must be written/ });
      t.notMatch(error, { message: /secret/ });
    }
  }
  t.ok(connectionConfig('postgresql://noa@/noa?host=/run/postgresql'));
});

t.test('resources are written schema.table or schema.*', async (t) => {
  for (const good of ['notes.*', 'my_notes.item', 'a._x1'])
    t.equal(db.normalizeResource(good), good);
  const bad = [
    '*',
    'notes',
    'notes.',
    '.x',
    'notes.i*',
    'Notes.x',
    'my-notes.x',
    'a.b.c',
    '"a".b',
    'a.b;',
    `${'x'.repeat(64)}.a`,
  ];
  for (const each of bad) {
    t.throws(() => db.normalizeResource(each), { code: 'INVALID_ARGUMENT' }, each);
  }
});
