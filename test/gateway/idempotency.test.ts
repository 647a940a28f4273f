/** Idempotency-Key through the front, with the answers in a real PostgreSQL that two hosts share. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Json, NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import { randomBytes, randomUUID } from 'node:crypto';
import pg from 'pg';
import t, { type Test } from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { Idempotency, readIdempotencyKey } from '../../host/gateway/idempotency.ts';
import { Seal } from '../../host/kernel/seal.ts';
import { PostgresIdempotency } from '../../host/store/idempotency.ts';
import { runMigrations } from '../../host/store/migrate.ts';
import { testDatabase } from '../capabilities/database.ts';
import { Backend, startGateway } from './upstream-kit.ts';
import { type Exports, manifest, READER, startFront } from '../transports/front.ts';

const server = await testDatabase(process.env['NOA_TEST_DATABASE_URL']);
t.teardown(() => server.stop());
await runMigrations(connectionConfig(server.url), 'up');
const pool = new pg.Pool({ ...connectionConfig(server.url), max: 8 });
// A server that ends says so to connections that are closing.
pool.on('error', () => undefined);
t.teardown(() => pool.end());
const rootKey = randomBytes(32);

interface Settings {
  readonly keepMs?: number;
  readonly maxAnswerBytes?: number;
  readonly maxKeys?: number;
  readonly maxBytes?: number;
  readonly waitMs?: number;
  readonly leaseMs?: number;
}

/** A host with the plugin `shop`, whose export `order` is the function. */
async function host(t: Test, order: Exports[string], settings: Settings = {}) {
  const {
    maxKeys = 1000,
    maxBytes = 1 << 20,
    keepMs = 60_000,
    maxAnswerBytes = 64 << 10,
  } = settings;
  const store = new PostgresIdempotency(pool, { maxKeys, maxBytes });
  const errors: string[] = [];
  const idempotency = new Idempotency({
    store,
    seal: new Seal(rootKey),
    keepMs,
    maxAnswerBytes,
    newId: randomUUID,
    onError: (message) => errors.push(message),
    ...settings,
  });
  t.teardown(() => idempotency.close());
  const front = await startFront({ idempotency });
  t.teardown(() => front.close());
  await front.install(
    manifest({
      name: 'shop',
      exports: { order: { input: {}, output: {} } },
      contributes: {
        routes: [
          { method: 'POST', path: '/orders', export: 'order', status: 201 },
          { method: 'POST', path: '/refunds', export: 'order' },
          { method: 'PUT', path: '/orders', export: 'order' },
          { method: 'DELETE', path: '/orders', export: 'order', status: 204 },
          { method: 'GET', path: '/orders', export: 'order' },
        ],
      },
    }),
    { order },
  );
  const send = (
    key: string | null,
    body: Json = { item: 'tea' },
    { method = 'POST', path = '/orders', token, signal }: SendOptions = {},
  ) =>
    front.request(method, `/plugins/shop${path}`, {
      ...(method === 'GET' ? {} : { body: JSON.stringify(body) }),
      headers: {
        ...(method === 'GET' ? {} : { 'content-type': 'application/json' }),
        ...(key === null ? {} : { 'idempotency-key': key }),
      },
      ...(token && { token }),
      ...(signal && { signal }),
    });
  return { front, send, store, errors };
}

interface SendOptions {
  readonly method?: string;
  readonly path?: string;
  readonly token?: string;
  readonly signal?: AbortSignal;
}

/** An export that counts its calls. */
function counter(): { order: Exports[string]; calls: () => number } {
  let calls = 0;
  return { order: () => ({ number: ++calls }), calls: () => calls };
}

const replayed = ({ headers }: { headers: Headers }) => headers.get('idempotency-replayed');

t.test('the same request with the same key is executed once and answered again', async (t) => {
  const { order, calls } = counter();
  const { front, send } = await host(t, order);
  const key = randomUUID();
  const first = await send(`"${key}"`);
  t.match(first, { status: 201, body: { number: 1 } });
  t.equal(replayed(first), null);
  t.equal(first.headers.get('idempotency-kept'), null);
  const second = await send(`"${key}"`);
  t.match(second, { status: 201, body: { number: 1 } });
  t.equal(second.text, first.text, 'to the byte');
  t.equal(second.headers.get('content-type'), first.headers.get('content-type'));
  t.equal(replayed(second), 'true');
  t.not(second.headers.get('x-request-id'), first.headers.get('x-request-id'));
  t.equal(replayed(await send(key)), 'true', 'bare, it is the same key');
  t.equal(calls(), 1);

  t.equal(
    (await send(key, undefined, { token: READER })).body['number'],
    2,
    'another caller’s key',
  );
  t.equal((await send(randomUUID())).body['number'], 3, 'another key');
  t.equal((await send(null)).body['number'], 4, 'no key');
  t.equal(
    (await send(key, undefined, { method: 'GET' })).body['number'],
    5,
    'GET has no use for one',
  );

  const stream = {
    body: '{}',
    headers: {
      accept: 'text/event-stream',
      'content-type': 'application/json',
      'idempotency-key': key,
    },
  };
  t.equal(replayed(await front.request('POST', '/plugins/shop/orders', stream)), null, 'a stream');

  const empty = randomUUID();
  const gone = { method: 'DELETE' };
  t.match(await send(empty, {}, gone), { status: 204, text: '' });
  const again = await send(empty, {}, gone);
  t.match(again, { status: 204, text: '' });
  t.equal(again.headers.get('content-type'), null);
  t.equal(replayed(again), 'true');
  t.equal(calls(), 7);
});

t.test('another request with the same key is refused', async (t) => {
  const { order, calls } = counter();
  const { send } = await host(t, order);
  const key = randomUUID();
  await send(key);
  const others = [
    await send(key, { item: 'milk' }),
    await send(key, undefined, { path: '/refunds' }),
    await send(key, undefined, { path: '/orders?a=1' }),
    await send(key, undefined, { method: 'PUT' }),
  ];
  for (const answer of others) {
    t.match(answer, { status: 422, body: { code: 'IDEMPOTENCY_MISMATCH', detail: /new key/ } });
  }
  t.equal(calls(), 1);
});

t.test('requests at one time, at two hosts: one is executed, all get its answer', async (t) => {
  let calls = 0;
  const gate = Promise.withResolvers<void>();
  const order = async (): Promise<Json> => {
    const number = ++calls;
    await gate.promise;
    return { number };
  };
  const one = await host(t, order);
  const two = await host(t, order);
  const key = randomUUID();
  const answers = Promise.all(
    Array.from({ length: 10 }, (_none, index) => (index % 2 === 0 ? one : two).send(key)),
  );
  while (calls === 0) await sleep(10);
  await sleep(100);
  gate.resolve();
  const all = await answers;
  for (const answer of all) t.match(answer, { status: 201, body: { number: 1 } });
  t.equal(calls, 1);
  t.equal(all.filter((answer) => replayed(answer) === 'true').length, 9);
});

t.test('waiting for the answer has a bound', async (t) => {
  const gate = Promise.withResolvers<void>();
  let calls = 0;
  const order = async (): Promise<Json> => {
    calls++;
    await gate.promise;
    return 'done';
  };
  const { send } = await host(t, order, { waitMs: 100 });
  const key = randomUUID();
  const first = send(key);
  while (calls === 0) await sleep(10);
  const second = await send(key);
  t.match(second, { status: 409, body: { code: 'CONFLICT', detail: /is being executed/ } });
  t.equal(second.headers.get('retry-after'), '1');
  gate.resolve();
  t.match(await first, { status: 201 });
  t.match(await send(key), { status: 201, text: '"done"' });
});

t.test('what may end otherwise next time is not kept', async (t) => {
  const codes = ['UNAVAILABLE', 'RESOURCE_EXHAUSTED', 'RATE_LIMITED'] as const;
  let calls = 0;
  const order = (): Json => {
    const code = codes[calls++];
    if (code !== undefined) throw new NoaError(code, 'not now');
    return 'now';
  };
  const { send } = await host(t, order);
  const key = randomUUID();
  for (const status of [503, 429, 429]) {
    const answer = await send(key);
    t.equal(answer.status, status);
    t.equal(answer.headers.get('idempotency-kept'), 'false');
  }
  t.match(await send(key), { status: 201, text: '"now"' });

  const refusing = await host(t, () => {
    calls++;
    throw new NoaError('NOT_FOUND', 'there is no such item');
  });
  const wrong = randomUUID();
  calls = 0;
  const first = await refusing.send(wrong);
  const second = await refusing.send(wrong);
  t.match(first, { status: 404, body: { code: 'NOT_FOUND' } });
  t.equal(second.text, first.text, 'a refusal is an answer too');
  t.equal(second.headers.get('content-type'), 'application/problem+json');
  t.equal(calls, 1);
});

t.test(
  'an answer that is too large is not kept and says so; the work is not done again',
  async (t) => {
    let calls = 0;
    const order = (): Json => {
      calls++;
      return 'x'.repeat(5000);
    };
    const { send } = await host(t, order, { maxAnswerBytes: 4096 });
    const key = randomUUID();
    const first = await send(key);
    t.equal(first.status, 201);
    t.equal(first.headers.get('idempotency-kept'), 'false');
    t.match(await send(key), {
      status: 409,
      body: { code: 'CONFLICT', detail: /answered with 201/ },
    });
    t.equal(calls, 1);

    const tight = await host(t, order, { maxBytes: 20_000 });
    const kept: (string | null)[] = [];
    const token = READER;
    for (let n = 0; n < 4; n++) {
      const answer = await tight.send(randomUUID(), undefined, { token });
      kept.push(answer.headers.get('idempotency-kept'));
    }
    t.strictSame(kept.slice(-1), ['false'], 'all answers of a caller have a bound together');
    t.equal(kept[0], null);
  },
);

t.test('the keys of one caller have a bound, until they expire', async (t) => {
  await pool.query('delete from noa.idempotency_keys');
  const { order, calls } = counter();
  const { send, store } = await host(t, order, { maxKeys: 3, keepMs: 60_000 });
  for (const key of ['one', 'two', 'three']) t.equal((await send(key)).status, 201);
  const more = await send('four');
  t.match(more, { status: 429, body: { code: 'RESOURCE_EXHAUSTED' } });
  t.ok(more.headers.has('retry-after'));
  t.equal(replayed(await send('two')), 'true', 'those that are kept are answered');
  t.equal((await send('five', undefined, { token: READER })).status, 201, 'others have their own');
  await pool.query(`update noa.idempotency_keys set expires_at = now() - interval '1 second'`);
  t.equal((await send('four')).status, 201, 'until they expire');
  const before = calls();
  t.equal(replayed(await send('one')), null, 'an old key is a new one');
  t.equal(calls(), before + 1);
  await pool.query(`update noa.idempotency_keys set expires_at = now() - interval '1 second'`);
  await store.sweep();
  t.match(await pool.query('select count(*)::int as left from noa.idempotency_keys'), {
    rows: [{ left: 0 }],
  });
});

t.test('a host that dies in the middle: the key is free when its lease ends', async (t) => {
  const { order, calls } = counter();
  const { send, store } = await host(t, order, { waitMs: 20_000 });
  const key = randomUUID();
  const dead = { subject: 'root', key, run: randomUUID() };
  const fingerprint = Buffer.alloc(32);
  const times = { leaseMs: 5000, keepMs: 60_000 };
  t.match(await store.begin(dead, fingerprint, times), { state: 'begun' });
  t.match(await send(key), { status: 422 }, 'while it might run, its key is its own');
  const until = Date.now() + 20_000;
  while ((await send(key)).status === 422) {
    if (Date.now() > until) throw new Error('the lease never ended');
    await sleep(50);
  }
  t.equal(calls(), 1);
  t.equal(replayed(await send(key)), 'true');
  t.notOk(
    await store.finish(dead, 200, undefined, 60_000),
    'the dead one changes nothing any more',
  );
  await store.release(dead);
  t.equal(replayed(await send(key)), 'true');
});

t.test('only the execution that holds a lease can renew, finish or give it up', async (t) => {
  const { store } = await host(t, () => null);
  const key = randomUUID();
  const run = () => ({ subject: 'root', key, run: randomUUID() });
  const [dead, live, next] = [run(), run(), run()];
  const fingerprint = Buffer.alloc(32);
  const begin = async (one: typeof dead, leaseMs: number) =>
    (await store.begin(one, fingerprint, { leaseMs, keepMs: 60_000 })).state;
  t.equal(await begin(dead, 1), 'begun');
  while ((await begin(live, 5000)) !== 'begun') await sleep(5);
  await store.renew(dead, 60_000);
  await store.release(dead);
  t.notOk(await store.finish(dead, 200, undefined, 60_000));
  t.equal(await begin(next, 1), 'running', 'its lease holds');
  const until = Date.now() + 20_000;
  while ((await begin(next, 60_000)) !== 'begun') {
    if (Date.now() > until) throw new Error('the lease was renewed by another');
    await sleep(20);
  }
  t.equal(await begin(run(), 1), 'running');
});

t.test('a lease is renewed while its request runs', async (t) => {
  const gate = Promise.withResolvers<void>();
  let calls = 0;
  const order = async (): Promise<Json> => {
    calls++;
    await gate.promise;
    return calls;
  };
  const { send } = await host(t, order, { leaseMs: 4000, waitMs: 100 });
  const key = randomUUID();
  const first = send(key);
  while (calls === 0) await sleep(10);
  await sleep(6000); // longer than a lease that nobody renews
  t.equal((await send(key)).status, 409);
  gate.resolve();
  t.match(await first, { status: 201 });
  t.equal(calls, 1);
});

t.test('a caller that leaves does not stop a request with a key', async (t) => {
  const gate = Promise.withResolvers<void>();
  let calls = 0;
  let signal: AbortSignal | undefined;
  const order: Exports[string] = async (_input, call) => {
    calls++;
    ({ signal } = call);
    await gate.promise;
    return { done: true };
  };
  const { front, send } = await host(t, order);
  const key = randomUUID();
  const leaving = new AbortController();
  const first = send(key, undefined, { signal: leaving.signal });
  while (calls === 0) await sleep(10);
  leaving.abort();
  await t.rejects(first);
  while (!front.logged.some(({ status }) => status === 499)) await sleep(10);
  t.equal(signal?.aborted, false, 'the work goes on');
  const second = send(key);
  gate.resolve();
  t.match(await second, { status: 201, body: { done: true } });
  t.equal(replayed(await second), 'true');
  t.equal(calls, 1);
});

t.test(
  'administration takes keys too, bundles among them; what never ran is not kept',
  async (t) => {
    const { front } = await host(t, () => null);
    const content = manifest({ name: 'late', exports: { x: { input: {}, output: {} } } });
    const install = (key: string, bytes: string) =>
      front.request('POST', '/v1/plugins', {
        body: bytes,
        headers: { 'content-type': 'application/gzip', 'idempotency-key': key },
      });
    const first = await install('"install-1"', JSON.stringify(content));
    t.equal(first.status, 201);
    const second = await install('"install-1"', JSON.stringify(content));
    t.match(second, { status: 201, text: first.text });
    for (const name of ['content-type', 'location', 'cache-control', 'etag']) {
      t.equal(second.headers.get(name), first.headers.get(name), name);
    }
    t.equal(replayed(second), 'true');
    const other = await install('"install-1"', JSON.stringify({ ...content, version: '2.0.0' }));
    t.equal(other.status, 422);
    const wrong = { body: '{}', headers: { 'content-type': 'text/x', 'idempotency-key': 'k' } };
    t.equal((await front.request('POST', '/v1/grants', wrong)).status, 415);
    const nowhere = { headers: { 'idempotency-key': 'k' } };
    t.equal(replayed(await front.request('POST', '/v1/nothing', nowhere)), null);
    const { rows } = await pool.query(`select from noa.idempotency_keys where key = 'k'`);
    t.equal(rows.length, 0);
  },
);

t.test(
  'a key goes with what goes through to another server, and nothing is kept here',
  async (t) => {
    const backend = await new Backend((request, response) => {
      request.resume().on('end', () => response.writeHead(201).end('made'));
    }).listen();
    t.teardown(() => backend.close());
    const store = new PostgresIdempotency(pool, { maxKeys: 10, maxBytes: 1 << 20 });
    const idempotency = new Idempotency({
      store,
      seal: new Seal(rootKey),
      keepMs: 60_000,
      maxAnswerBytes: 1024,
      newId: randomUUID,
      onError: (message) => t.fail(message),
    });
    t.teardown(() => idempotency.close());
    const table = {
      name: 'orders',
      path: '/orders',
      methods: ['POST'],
      upstreams: [{ url: backend.url }],
    };
    const front = await startGateway([table], { idempotency });
    t.teardown(() => front.close());
    const key = randomUUID();
    for (const body of ['tea', 'milk']) {
      const answer = await front.request('POST', '/orders/x', {
        body,
        headers: { 'idempotency-key': key },
      });
      t.match(answer, { status: 201, text: 'made' });
      t.equal(replayed(answer), null);
    }
    t.strictSame(
      backend.seen.map(({ headers }) => headers['idempotency-key']),
      [key, key],
    );
  },
);

t.test('what is kept is sealed, and bound to its key', async (t) => {
  const { send } = await host(t, () => ({ secret: 'shown-only-once' }));
  const [one, two] = [randomUUID(), randomUUID()];
  await send(one);
  await send(two);
  const { rows } = await pool.query<{ text: string }>(
    `select encode(sealed, 'escape') as text from noa.idempotency_keys where key = $1`,
    [one],
  );
  t.notMatch(rows[0]?.text, /shown-only-once|c2hvd24/);
  await pool.query(
    `update noa.idempotency_keys t set sealed = f.sealed, nonce = f.nonce
     from noa.idempotency_keys f where t.key = $1 and f.key = $2`,
    [one, two],
  );
  t.equal((await send(one)).status, 500, 'an answer that was moved does not open');
});

t.test('the key: a string of structured fields or bare, up to 255 characters', async (t) => {
  const good: [string, string][] = [
    ['abc', 'abc'],
    ['"abc"', 'abc'],
    ['"a b, c"', 'a b, c'],
    ['"a\\"b\\\\c"', 'a"b\\c'],
    ['8e03978e-40d5-43dd-bc93-6894a57f9324', '8e03978e-40d5-43dd-bc93-6894a57f9324'],
    ['x'.repeat(255), 'x'.repeat(255)],
  ];
  for (const [field, key] of good) t.equal(readIdempotencyKey(field), key);
  const bad = [
    '',
    '""',
    '"',
    '"a',
    'a"',
    'a b',
    'a, b',
    '"a\\b"',
    'é',
    '"é"',
    'x'.repeat(256),
    '"a";x=1',
  ];
  for (const field of bad)
    t.throws(() => readIdempotencyKey(field), { code: 'INVALID_ARGUMENT' }, field);
  fc.assert(
    fc.property(fc.string({ maxLength: 300 }), (text) => {
      const field = `"${text.replaceAll(/["\\]/g, '\\$&')}"`;
      const fits = /^[ -~]{1,255}$/.test(text);
      try {
        return readIdempotencyKey(field) === text && fits;
      } catch {
        return !fits;
      }
    }),
  );
  const { send } = await host(t, () => null);
  t.match(await send('no good'), { status: 400, body: { detail: /^idempotency-key: must be/ } });
});
