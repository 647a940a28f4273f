/**
 * `events` on a real PostgreSQL: a log that several hosts write and read, in one order and without holes,
 * and the leases by which they share its delivery.
 */
import { compileSchema, type Driver, type Json, NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import { Pool } from 'pg';
import t from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { events as capability, MAX_DATA_BYTES } from '../../capabilities/events/capability.ts';
import { createEventsDriver } from '../../capabilities/events/log.ts';
import type { Subscription } from '../../host/kernel/events.ts';
import { RateLimiter } from '../../host/kernel/rate.ts';
import { PostgresDeliveries } from '../../host/store/deliveries.ts';
import { EVENTS_CHANNEL, PostgresEvents } from '../../host/store/events.ts';
import { runMigrations } from '../../host/store/migrate.ts';
import { listenTo } from '../../host/store/notices.ts';
import { PostgresStore } from '../../host/store/postgres.ts';
import { failure, testDatabase } from './database.ts';

t.setTimeout(120_000);
const database = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
const config = connectionConfig(database.url);
await runMigrations(config, 'up');

/** One host's part: a pool and a log of its own. */
function openHost() {
  const pool = new Pool({ ...config, max: 4 });
  // A server that ends says so to connections that are closing.
  pool.on('error', () => undefined);
  // The server's end may reach a connection that is on its way out.
  pool.on('error', () => undefined);
  return { pool, log: new PostgresEvents(pool), deliveries: new PostgresDeliveries(pool) };
}

const hosts = [openHost(), openHost(), openHost()];
const [host] = hosts;
if (host === undefined) throw new Error('there is no host');
const { log, pool, deliveries } = host;
t.teardown(async () => {
  for (const each of hosts) {
    each.log.close();
    await each.pool.end();
  }
  await database.stop();
});

const told = (subject: string, data: Json = null) => ({
  source: '/plugins/notes',
  type: 'told',
  subject,
  data: JSON.stringify(data),
});

function call(driver: Driver, operation: string, input: Json, plugin = 'notes') {
  const { signal } = new AbortController();
  const frame = { plugin, resources: ['*'], signal, deadline: Infinity, chain: undefined };
  return driver.invoke(operation, input, frame) as Promise<{ [name: string]: Json }>;
}

t.test('readers see ids in order and without holes while several hosts write', async (t) => {
  const start = await log.head();
  const total = 600;
  let writing = true;
  const seen: number[] = [];
  const reading = (async () => {
    let after = start;
    while (seen.length < total) {
      const page = await log.read({ after, subjects: ['race.*'], limit: 50 });
      seen.push(...page.events.map(({ id }) => Number(id)));
      after = page.next;
      if (!writing && page.events.length === 0 && seen.length < total) break;
    }
  })();
  const written = await Promise.all(
    hosts.flatMap((each, n) =>
      Array.from({ length: total / hosts.length }, async (_, i) => {
        // Not all in one batch.
        await new Promise((resolve) => setTimeout(resolve, (i % 40) * 5));
        return each.log.publish(told(`race.${n}`, i));
      }),
    ),
  );
  writing = false;
  await reading;
  t.strictSame(
    seen,
    Array.from({ length: total }, (_, i) => start + i + 1),
  );
  t.equal(new Set(written.map(({ id }) => id)).size, total);
});

t.test('a writer that is slow to commit holds back the ids after its own', async (t) => {
  const slow = await pool.connect();
  const before = await log.head();
  await slow.query('begin');
  await slow.query('update noa.event_head set last = last + 1');
  await slow.query(
    `insert into noa.events (id, source, type, subject, time, data, bytes)
     select last, '/plugins/slow', 'told', 'slow.one', now(), 'null', 4 from noa.event_head`,
  );
  let done = false;
  const second = hosts[1]?.log.publish(told('slow.two')).then(() => (done = true));
  await new Promise((resolve) => setTimeout(resolve, 200));
  t.notOk(done);
  const page = await log.read({ after: before, subjects: ['slow.*'], limit: 10 });
  t.strictSame({ ...page }, { events: [], next: before }, 'nothing is seen, and nothing skipped');
  await slow.query('commit');
  slow.release();
  await second;
  const { events } = await log.read({ after: before, subjects: ['slow.*'], limit: 10 });
  t.strictSame(
    events.map(({ subject }) => subject),
    ['slow.one', 'slow.two'],
  );
});

t.test('a page holds what matches, within its bounds, and says where to go on', async (t) => {
  const after = await log.head();
  for (const subject of ['a.one', 'a.two', 'ab', 'b.one', 'a.three'])
    await log.publish(told(subject));
  const subjects = async (patterns: string[], limit = 100) => {
    const page = await log.read({ after, subjects: patterns, limit });
    return [page.events.map(({ subject }) => subject), page.next - after];
  };
  t.strictSame(await subjects(['a.*']), [['a.one', 'a.two', 'a.three'], 5]);
  t.strictSame(await subjects(['a.*'], 2), [['a.one', 'a.two'], 2]);
  t.strictSame(await subjects(['b.one', 'ab']), [['ab', 'b.one'], 5]);
  t.strictSame(await subjects(['*'], 1), [['a.one'], 1]);
  t.strictSame(await subjects(['a.%', 'a_one', 'A.*']), [[], 5], 'patterns are no SQL patterns');
  t.strictSame(await subjects([]), [[], 5]);
  t.match(await log.subjects(after, 2), [{ subject: 'a.one' }, { subject: 'a.two' }]);

  const large = 'x'.repeat(200_000);
  const from = await log.head();
  await Promise.all(Array.from({ length: 40 }, () => log.publish(told('large', large))));
  const page = await log.read({ after: from, subjects: ['large'], limit: 100 });
  t.ok(page.events.length >= 20 && page.events.length < 25, `${page.events.length} of 8 MB`);
  t.equal(page.next, Number(page.events.at(-1)?.id));
});

t.test('hosts hear of each other’s events, and of a connection that came back', async (t) => {
  let notices = 0;
  const listener = listenTo(config, EVENTS_CHANNEL, () => (notices += 1));
  const until = async (count: number) => {
    for (let i = 0; i < 200 && notices < count; i += 1)
      await new Promise((resolve) => setTimeout(resolve, 20));
    t.ok(notices >= count, `${notices} notices`);
  };
  await until(1);
  await hosts[2]?.log.publish(told('heard'));
  await until(2);
  await pool.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen%' and pid <> pg_backend_pid()`,
  );
  await until(3);
  const before = notices;
  await log.publish(told('heard'));
  await until(before + 1);
  await listener[Symbol.asyncDispose]();
});

t.test('whoever floods the channel is not read for long, and news come all the same', async (t) => {
  let notices = 0;
  const listener = listenTo(config, EVENTS_CHANNEL, () => (notices += 1));
  t.teardown(() => listener[Symbol.asyncDispose]());
  const until = async (count: number) => {
    for (let i = 0; i < 500 && notices < count; i += 1)
      await new Promise((resolve) => setTimeout(resolve, 20));
    t.ok(notices >= count, `${notices} notices`);
  };
  await until(1);
  const flood = "select pg_notify($1, i || 'x') from generate_series(1, 50000) as i";
  await pool.query(flood, [EVENTS_CHANNEL]);
  await until(2000);
  // It has left by now, and calls back when it has come again.
  const left = notices;
  await until(left + 1);
  t.ok(notices < 4000, `${notices} of 50,000 were told of`);
  const before = notices;
  await log.publish(told('after the flood'));
  await until(before + 1);
});

t.test(
  'old events go, by age, and by number and size of each source; the head stays',
  async (t) => {
    const KEEP = { maxAgeMs: 3_600_000, maxCount: 10, maxBytes: 1 << 30 };
    await log.publish({ ...told('kept'), source: '/plugins/quiet' });
    await Promise.all(Array.from({ length: 30 }, () => log.publish(told('kept'))));
    const head = await log.head();
    await log.sweep(KEEP);
    const kept = async (): Promise<number[]> => {
      const { rows } = await pool.query<{ id: string }>('select id from noa.events order by id');
      return rows.map(({ id }) => Number(id) - head);
    };
    const last = (count: number) => Array.from({ length: count }, (_, i) => i + 1 - count);
    // That of the slow writer above is the one of its source.
    t.strictSame((await kept()).slice(-11), [-30, ...last(10)], 'none pushes out another’s');
    await pool.query(`update noa.events set time = now() - interval '2 hours' where id <= $1`, [
      head - 5,
    ]);
    await Promise.all(hosts.map((each) => each.log.sweep(KEEP)));
    t.strictSame(await kept(), last(5));
    await log.sweep({ ...KEEP, maxBytes: 3 * 4 });
    t.strictSame(await kept(), last(3), 'null has four bytes');
    t.equal(await log.missing(head - 10, head), 7);
    t.equal(await log.missing(head - 3, head), 0);
    t.equal(await log.missing(head, head), 0);
    t.equal(await log.head(), head);
  },
);

t.test('the driver names the source itself, and bounds size and rate', async (t) => {
  let now = 0;
  const rate = new RateLimiter(5, () => now);
  const admit = (plugin: string, count: number) => rate.take(plugin, 'publishing', count);
  const driver = createEventsDriver({ log, admit });
  const { id, time } = await call(driver, 'publish', { subject: 'd.one', data: { a: 'ü' } });
  t.match(time, /^\d{4}-/);
  const page = await call(driver, 'subscribe', { subject: 'd.*' });
  t.match(page, { next: id });
  const [event] = page['events'] as Json[];
  t.match(event, {
    specversion: '1.0',
    id,
    source: '/plugins/notes',
    type: 'd.one',
    subject: 'd.one',
    time,
    datacontenttype: 'application/json',
    data: { a: 'ü' },
  });
  t.strictSame(compileSchema(capability.operations.subscribe.output)(page), []);
  t.match(await call(driver, 'subscribe', { subject: 'd.*', after: id ?? null }), { events: [] });
  t.match(
    await failure(call(driver, 'publish', { subject: 'd', data: 'x'.repeat(MAX_DATA_BYTES) })),
    {
      code: 'PAYLOAD_TOO_LARGE',
    },
  );
  for (let i = 0; i < 4; i += 1) await call(driver, 'publish', { subject: 'd.one' });
  const limited = await failure(call(driver, 'publish', { subject: 'd.one' }));
  t.match(limited, { code: 'RATE_LIMITED', retryAfterMs: 200 });
  await call(driver, 'publish', { subject: 'd.one' }, 'other'); // a plugin's rate is its own
  now += 200;
  await call(driver, 'publish', { subject: 'd.one' });
  now += 1000;
  const large = { subject: 'd.large', data: 'x'.repeat(40_000) };
  await call(driver, 'publish', large);
  const second = await failure(call(driver, 'publish', large));
  t.match(second, { code: 'RATE_LIMITED', retryAfterMs: 200 }, 'a large event counts as three');
});

t.test('subjects and resources have one form', async (t) => {
  const check = compileSchema(capability.operations.publish.input);
  for (const subject of ['orders.created', 'a', 'A-b_c/d.9']) {
    t.strictSame(check({ subject }), []);
    t.equal(capability.normalizeResource(subject), subject);
  }
  t.equal(capability.normalizeResource('orders.*'), 'orders.*');
  t.equal(capability.normalizeResource('*'), '*');
  const bad = ['', '.a', 'a b', 'a*b', 'a\n', 'ü', '**', 'a'.repeat(202), 'a\u0000'];
  for (const subject of bad) {
    t.not(check({ subject }).length, 0, JSON.stringify(subject));
    t.throws(() => capability.normalizeResource(subject), { code: 'INVALID_ARGUMENT' });
  }
  for (const extra of [{ source: '/plugins/x' }, { id: '1' }, { time: 'now' }]) {
    t.not(check({ subject: 'a', ...extra }).length, 0, 'the host says where an event is from');
  }
  const input = compileSchema(capability.operations.subscribe.input);
  t.not(input({ subject: 'a', after: '9999999999999999999' }).length, 0);
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (pattern) => {
      try {
        return pattern === capability.normalizeResource(pattern);
      } catch (error) {
        return error instanceof NoaError && error.code === 'INVALID_ARGUMENT';
      }
    }),
  );
});

t.test(
  'one host holds a subscription; another takes over when its lease has run out',
  async (t) => {
    await new PostgresStore(pool).transaction(async (tx) => {
      await tx.putPlugin({
        name: 'taker',
        enabled: true,
        active: 'x',
        candidate: null,
        previous: null,
        pinned: false,
      });
      await tx.keepSubscriptions('taker', [
        { subject: 'take.*', export: 'on' },
        { subject: 'old', export: 'on' },
      ]);
    });
    const head = await log.head();
    const taker: Subscription = { plugin: 'taker', subject: 'take.*', export: 'on' };
    t.strictSame(await deliveries.lease(taker, 'a', 300), { cursor: head, attempts: 0 });
    t.match(await deliveries.lease(taker, 'b', 300), { waitMs: Number });
    t.strictSame(
      await deliveries.lease(taker, 'a', 300),
      { cursor: head, attempts: 0 },
      'extended',
    );
    t.ok(await deliveries.advance(taker, 'a', head + 1, 300));
    t.notOk(await deliveries.advance(taker, 'b', head + 9, 300), 'only the holder');
    await new Promise((resolve) => setTimeout(resolve, 350));
    t.match(await deliveries.lease(taker, 'b', 5000), { cursor: head + 1 });
    t.notOk(await deliveries.advance(taker, 'a', head + 2, 300), 'the holder of before is late');
    const { id } = await log.publish(told('take.this', { n: 1 }));
    const [event] = (await log.read({ after: id - 1, subjects: ['take.*'], limit: 1 })).events;
    if (event === undefined) throw new Error('the event is not there');
    const why = { attempts: 3, code: 'PLUGIN_TRAP', reason: 'it trapped' };
    t.notOk(await deliveries.bury(taker, 'a', event, why));
    t.strictSame(await deliveries.letters({ plugin: 'taker', after: 0, limit: 10 }), []);
    t.ok(await deliveries.bury(taker, 'b', event, why));
    const [letter] = await deliveries.letters({ plugin: 'taker', after: 0, limit: 10 });
    t.match(letter, { ...taker, ...why, event });
    t.ok(await deliveries.release(taker, 'b', { cursor: id, attempts: 2, delayMs: 400 }));
    t.match(await deliveries.lease(taker, 'a', 300), { waitMs: Number });
    await new Promise((resolve) => setTimeout(resolve, 450));
    t.strictSame(await deliveries.lease(taker, 'a', 300), { cursor: id, attempts: 2 });

    await new PostgresStore(pool).transaction((tx) =>
      tx.keepSubscriptions('taker', [{ subject: 'take.*', export: 'on' }]),
    );
    const { rows } = await pool.query('select subject, cursor from noa.subscriptions');
    t.strictSame(rows, [{ subject: 'take.*', cursor: String(id) }], 'what stays keeps its place');
  },
);

t.test('the dead letters of a plugin are bounded: the oldest go', async (t) => {
  const taker: Subscription = { plugin: 'taker', subject: 'take.*', export: 'on' };
  await pool.query(
    `insert into noa.dead_letters (plugin, subject, export, event, attempts, code, reason)
     select 'taker', 'take.*', 'on', '{}', 1, 'X', n::text from generate_series(1, 1100) n`,
  );
  const event = (await log.read({ after: 0, subjects: ['*'], limit: 1 })).events[0];
  if (event === undefined) throw new Error('no event is kept');
  await deliveries.lease(taker, 'a', 5000);
  t.ok(await deliveries.bury(taker, 'a', event, { attempts: 1, code: 'X', reason: 'newest' }));
  const { rows } = await pool.query<{ reason: string }>(
    `select reason from noa.dead_letters where plugin = 'taker' order by id`,
  );
  const kept = Array.from({ length: 999 }, (_, index) => String(index + 102));
  t.strictSame(
    rows.map(({ reason }) => reason),
    [...kept, 'newest'],
  );
  t.equal(await deliveries.dropLetters('taker'), 1000);
  t.equal(await deliveries.dropLetters('taker'), 0);
});
