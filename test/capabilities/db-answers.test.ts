/** Whatever a server session sends fails the call that it belongs to; it never throws outside of it. */
import { type AddressInfo, type Socket, createServer } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import type { Statement } from '../../capabilities/db/exchange.ts';
import { Session } from '../../capabilities/db/session.ts';
import { parserOf } from '../../capabilities/db/values.ts';
import { TestDriver, failure, testDatabase } from './database.ts';

t.setTimeout(120_000);

/** A character whose second byte is a backslash or a quote in these encodings. */
const TRAPS = [
  ['SJIS', 34920],
  ['BIG5', 21151],
  ['GBK', 35987],
  ['GB18030', 35987],
  ['LATIN1', 233],
] as const;

t.test('a statement that changes client_encoding fails, and harms no other', async (t) => {
  const database = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
  const driver = new TestDriver(database.url);
  t.teardown(async () => {
    await driver.driver.close();
    await database.stop();
  });
  await driver.provisionOwn('odd', { '001.sql': 'CREATE TABLE kept (n int)' });
  const refused = { code: 'INVALID_ARGUMENT', message: /client_encoding|cannot be read/ };
  for (const [encoding, code] of TRAPS) {
    const values = [`to_json(chr(${code}))`, `array['a ' || chr(${code})]`, `chr(${code})`, '1'];
    for (const value of values) {
      const config = `SELECT set_config('client_encoding', '${encoding}', false) AS x, ${value} AS a`;
      const set = `SET client_encoding TO '${encoding}'`;
      t.match(await failure(driver.query('odd', config)), refused, config);
      t.match(await failure(driver.execute('odd', config)), refused);
      t.match(
        await failure(
          driver.transaction('odd', 'INSERT INTO kept VALUES (1)', set, `SELECT ${value} AS a`),
        ),
        refused,
      );
    }
    // Changed and changed back within one answer: nothing is reported, and what is unreadable still fails.
    const flip = `SELECT set_config('client_encoding', e, false), to_json(chr(${code})) AS a
      FROM (VALUES (1, '${encoding}'), (2, 'UTF8')) AS v (i, e) ORDER BY i`;
    await driver.query('odd', flip).catch((error: unknown) => t.match(error, refused));
    const unicode = `SELECT chr(${code}) AS a, to_json(chr(${code})) AS b`;
    const text = String.fromCodePoint(code);
    for (let round = 0; round < 3; round += 1) {
      t.same(await driver.query('odd', unicode), [{ a: text, b: text }], 'the next call is whole');
    }
  }
  t.same(await driver.query('odd', 'SELECT count(*) AS n FROM kept'), [{ n: 0 }]);
  t.match(await driver.execute('odd', "SET client_encoding TO 'unicode'"), { rows: [] });

  t.match(
    await driver.transaction(
      'odd',
      "SET DateStyle TO 'German'",
      "SET IntervalStyle TO 'postgres_verbose'",
      "SET TimeZone TO 'Asia/Kathmandu'",
      'SET standard_conforming_strings TO off',
      "SET bytea_output TO 'escape'",
      `SELECT now() AS a, interval '1 day' AS b, array[now()] AS c, decode('00ff', 'hex') AS d`,
    ),
    { length: 6 },
    'other settings change the plugin’s own values only',
  );

  t.test('JSON over the bounds of JSON fails as well', async (t) => {
    const deep = "SELECT (repeat('[', 2000) || repeat(']', 2000))::json AS a";
    t.match(await failure(driver.query('odd', deep)), {
      code: 'INVALID_ARGUMENT',
      message: /levels deep/,
    });
    t.same(await driver.query('odd', 'SELECT 1 AS one'), [{ one: 1 }]);
  });
});

const OIDS = [
  16, 17, 20, 21, 23, 25, 26, 114, 199, 700, 701, 1000, 1001, 1003, 1005, 1007, 1009, 1014, 1015,
  1016, 1021, 1022, 1028, 1114, 1115, 1182, 1183, 1184, 1185, 1187, 1231, 1270, 1700, 2951, 3802,
  3807,
];

t.test('any text of any type is read or refused, in bounded time', async (t) => {
  const arrayish = fc.string({
    unit: fc.constantFrom('{', '}', '"', '\\', ',', ' ', 'a', '1', 'NULL', '[', ']', ':', '='),
    maxLength: 60,
  });
  fc.assert(
    fc.property(fc.constantFrom(...OIDS), fc.oneof(arrayish, fc.string()), (oid, text) => {
      try {
        JSON.stringify(parserOf(oid)(text));
      } catch (error) {
        t.ok(error instanceof NoaError && error.code === 'INVALID_ARGUMENT', String(error));
      }
    }),
    { numRuns: 5_000 },
  );
  for (const text of ['{'.repeat(1 << 20), `{"${'x'.repeat(1 << 20)}`, `{${'\\'.repeat(1 << 20)}`])
    t.throws(() => parserOf(1009)(text), { code: 'INVALID_ARGUMENT' });
});

function message(code: string, body: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.write(code);
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

function int16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
}

function sized(bytes: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function column(oid: number): Buffer {
  const rest = Buffer.alloc(18);
  rest.writeUInt32BE(oid, 6);
  return Buffer.concat([Buffer.from('a\0'), rest]);
}

const READY = message('Z', Buffer.from('I'));
const LOGGED_IN = Buffer.concat([
  message('R', Buffer.alloc(4)),
  message('K', Buffer.alloc(8)),
  READY,
]);

/** A server that takes every login and answers what follows with `answer`, once, and then goes. */
async function server(answer: () => Uint8Array) {
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('data', () => {
      socket.write(LOGGED_IN);
      socket.once('data', () => socket.end(answer()));
    });
  }).listen(0, '127.0.0.1');
  await new Promise((done) => listener.once('listening', done));
  return {
    port: (listener.address() as AddressInfo).port,
    stop: () => {
      for (const socket of sockets) socket.destroy();
      listener.close();
    },
  };
}

t.test('a hostile answer is refused before it is large, and others get their turn', async (t) => {
  const database = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
  const driver = new TestDriver(database.url);
  t.teardown(async () => {
    await driver.driver.close();
    await database.stop();
  });
  await driver.provisionOwn('notes');
  const columns = (name: (index: number) => string) =>
    Array.from({ length: 1600 }, (_, index) => `null::int AS "${name(index)}"`).join(',');
  const long = columns((index) => String(index).padStart(4, '0') + '\u0001'.repeat(56));
  const short = columns((index) => index.toString(36));
  const lists = '(SELECT array_agg(n) FROM generate_series(1, 30000) AS n)';
  for (const [sql, code] of [
    [`SELECT ${long} FROM generate_series(1, 2400)`, 'PAYLOAD_TOO_LARGE'],
    [`SELECT ${short} FROM generate_series(1, 2400)`, 'PAYLOAD_TOO_LARGE'],
    ["SELECT repeat('x', 1 << 20) FROM generate_series(1, 1000)", 'PAYLOAD_TOO_LARGE'],
    [`SELECT ${lists} FROM generate_series(1, 100)`, 'PAYLOAD_TOO_LARGE'],
    ['SELECT array_agg(1) FROM generate_series(1, 1900000)', 'INVALID_ARGUMENT'],
    [`SELECT ('[' || repeat('[],', 1000000) || '1]')::json`, 'INVALID_ARGUMENT'],
  ] as const) {
    const lag = monitorEventLoopDelay({ resolution: 1 });
    lag.enable();
    const error = await failure(driver.query('notes', sql));
    lag.disable();
    t.equal(error.code, code, `${sql.slice(0, 60)}: ${error.message}`);
    t.match(error.message, /LIMIT|select it as text/);
    t.ok(lag.max < 500e6, `${sql.slice(0, 60)}: the loop stood for ${lag.max / 1e6} ms`);
  }
  const statements = Array.from({ length: 20 }, () => ({ sql: "SELECT repeat('x', 300000)" }));
  t.match(await failure(driver.invoke('notes', 'transaction', { statements })), {
    code: 'PAYLOAD_TOO_LARGE',
  });
});

t.test('a session whose server sends anything at all is dropped', async (t) => {
  let answer: Uint8Array = Buffer.alloc(0);
  const { port, stop } = await server(() => answer);
  t.teardown(stop);
  const config = { host: '127.0.0.1', port, user: 'u', password: 'p', database: 'd' };
  const row = fc
    .array(fc.uint8Array({ maxLength: 12 }), { maxLength: 3 })
    .map((fields) => message('D', Buffer.concat([int16(fields.length), ...fields.map(sized)])));
  const columns = fc
    .array(fc.constantFrom(...OIDS), { maxLength: 3 })
    .map((oids) => message('T', Buffer.concat([int16(oids.length), ...oids.map(column)])));
  const empty = fc
    .constantFrom('1', '2', 'n', 's', 'I', 'c')
    .map((code) => message(code, Buffer.alloc(1)));
  const messages = fc.array(
    fc.oneof(
      row,
      columns,
      empty,
      fc.constantFrom(
        message('C', Buffer.from('SELECT 1\0')),
        message('C', Buffer.from('\0')),
        message('t', Buffer.from('000100000072', 'hex')),
        message('D', int16(-1)),
        message('D', Buffer.from('00017fffffff00', 'hex')),
        message('R', Buffer.from('000000ff', 'hex')),
        message('G', Buffer.alloc(3)),
        message('H', Buffer.alloc(3)),
        message('d', Buffer.from('copied')),
        message('?', Buffer.alloc(0)),
        message('S', Buffer.from('client_encoding\0SJIS\0')),
        message('E', Buffer.from('SERROR\0C22000\0Mno\0\0')),
        message('Z', Buffer.from('T')),
        READY,
      ),
    ),
    { maxLength: 12 },
  );
  const statement = fc.constantFrom<Statement>(
    { sql: 'SELECT 1', params: [] },
    { sql: 'SELECT $1', params: [[1]] },
  );
  const operation = fc.constantFrom('query' as const, 'execute' as const, 'transaction' as const);
  await fc.assert(
    fc.asyncProperty(messages, statement, operation, async (sent, asked, name) => {
      answer = Buffer.concat(sent);
      let broken = 0;
      const session = await Session.open('u', config, () => (broken += 1));
      const { promise: gone, resolve } = Promise.withResolvers<void>();
      const timer = setInterval(() => session.broken && resolve(), 1);
      // It may also answer something: the messages may happen to make sense.
      await (name === 'transaction' ? session.transaction([asked]) : session[name](asked)).catch(
        (error: unknown) => t.ok(error instanceof Error),
      );
      await gone;
      clearInterval(timer);
      t.equal(broken, 1);
    }),
    { numRuns: 400 },
  );
});

t.test('a server that ends the session in the same breath as the login', async (t) => {
  const listener = createServer((socket) => {
    socket.on('error', () => {});
    const bye = message('E', Buffer.from('SFATAL\0C57P01\0Mterminating\0\0'));
    socket.once('data', () => socket.end(Buffer.concat([LOGGED_IN, bye])));
  }).listen(0, '127.0.0.1');
  await new Promise((done) => listener.once('listening', done));
  t.teardown(() => listener.close());
  const { port } = listener.address() as AddressInfo;
  const config = { host: '127.0.0.1', port, user: 'u', password: 'p', database: 'd' };
  const session = await Session.open('u', config, () => {});
  await t.rejects(session.query({ sql: 'SELECT 1', params: [] }));
});
