/** The contract of `cache`, run on the embedded engine and on a real Redis where one is installed. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { appendFile, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Driver, Json } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import { cache } from '../../capabilities/cache/capability.ts';
import { openEmbeddedCache } from '../../capabilities/cache/embedded.ts';
import { Keyspace } from '../../capabilities/cache/keyspace.ts';
import { connectRedis, createRedisDriver } from '../../capabilities/cache/redis.ts';
import { CommandReader, encodeCommand } from '../../capabilities/cache/resp.ts';
import { eventually, failure, scratchFolder } from './database.ts';

const hasRedis = spawnSync('redis-server', ['--version']).status === 0;
const never = { warn: (message: string) => t.fail(message) };

async function call(
  driver: Driver,
  operation: string,
  input: Json,
  signal = AbortSignal.timeout(5_000),
  plugin = 'notes',
): Promise<{ [name: string]: Json }> {
  const deadline = Date.now() + 5_000;
  const frame = { plugin, resources: ['*'], signal, deadline, chain: undefined };
  return (await driver.invoke(operation, input, frame)) as { [name: string]: Json };
}

interface Engine {
  readonly driver: Driver;
  stop(): Promise<void>;
}

async function embedded(): Promise<Engine> {
  const dataDir = await scratchFolder();
  const server = await openEmbeddedCache({ dataDir, ...never });
  const driver = createRedisDriver({ Connector: server.Connector });
  return {
    driver,
    async stop() {
      await driver.close();
      await server.close();
      await rm(dataDir, { recursive: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}

function redisServer(port: number): ChildProcess {
  const flags = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
  return spawn('redis-server', flags, { stdio: 'ignore', cwd: '/' });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise((done) => child.once('exit', done));
}

async function redis(): Promise<Engine> {
  const port = await freePort();
  const server = redisServer(port);
  const driver = createRedisDriver({ url: `redis://127.0.0.1:${port}/3` });
  await eventually(() => driver.check());
  return {
    driver,
    async stop() {
      await driver.close();
      server.kill('SIGKILL');
      await ended(server);
    },
  };
}

const ENGINES = [
  { name: 'embedded', start: embedded, skip: false },
  { name: 'Redis', start: redis, skip: hasRedis ? false : 'redis-server is not installed' },
];

for (const { name, start, skip } of ENGINES) {
  t.test(`cache on ${name}`, { skip }, async (t) => {
    const engine = await start();
    t.teardown(() => engine.stop());
    const { driver } = engine;

    t.test('values of every JSON type come back as they were', async (t) => {
      await fc.assert(
        fc.asyncProperty(
          fc.jsonValue(),
          fc.string({ minLength: 1, maxLength: 40 }),
          async (value, name) => {
            const key = `any:${name}`; // no other test's
            // Through JSON text, as the broker does: JSON has no -0.
            const json = JSON.parse(JSON.stringify(value)) as Json;
            await call(driver, 'set', { key, value: json });
            t.same((await call(driver, 'get', { key }))['value'], json);
          },
        ),
        { numRuns: 50 },
      );
    });

    t.test('delete says whether there was a key', async (t) => {
      await call(driver, 'set', { key: 'd', value: 1 });
      t.same(await call(driver, 'delete', { key: 'd' }), { deleted: true });
      t.same(await call(driver, 'delete', { key: 'd' }), { deleted: false });
      t.same(await call(driver, 'get', { key: 'd' }), { value: null });
    });

    t.test('a key goes away when its time is over', async (t) => {
      await call(driver, 'set', { key: 'short', value: 'x', ttlMs: 500 });
      t.same(await call(driver, 'get', { key: 'short' }), { value: 'x' });
      await sleep(600);
      t.same(await call(driver, 'get', { key: 'short' }), { value: null });
    });

    t.test('a hundred parallel increments lose none', async (t) => {
      const all = await Promise.all(
        Array.from({ length: 100 }, () => call(driver, 'increment', { key: 'n', ttlMs: 60_000 })),
      );
      t.same(
        all.map(({ value }) => Number(value)).toSorted((a, b) => a - b),
        Array.from({ length: 100 }, (_, index) => index + 1),
      );
      t.same(await call(driver, 'increment', { key: 'n', by: -40 }), { value: 60 });
      t.same(await call(driver, 'get', { key: 'n' }), { value: 60 }, 'a counter reads as a number');
    });

    t.test('the time of a counter runs from its creation, not from its last use', async (t) => {
      await call(driver, 'increment', { key: 'window', ttlMs: 800 });
      await sleep(450);
      t.same(await call(driver, 'increment', { key: 'window', ttlMs: 800 }), { value: 2 });
      await sleep(450);
      t.same(await call(driver, 'increment', { key: 'window', ttlMs: 800 }), { value: 1 });
    });

    t.test('what is no whole number is not counted up', async (t) => {
      for (const value of [{ a: 1 }, '5', 1.5, true, null]) {
        await call(driver, 'set', { key: 'odd', value });
        t.match(await failure(call(driver, 'increment', { key: 'odd' })), { code: 'CONFLICT' });
        t.same(await call(driver, 'get', { key: 'odd' }), { value });
      }
      const by = Number.MAX_SAFE_INTEGER;
      t.same(await call(driver, 'increment', { key: 'big', by }), { value: by });
      t.match(await failure(call(driver, 'increment', { key: 'big' })), { code: 'CONFLICT' });
      t.same(
        await call(driver, 'get', { key: 'big' }),
        { value: by },
        'the refused step is undone',
      );
    });

    t.test('a lock has one holder, and only its token releases it', async (t) => {
      const tries = await Promise.all(
        Array.from({ length: 20 }, () => call(driver, 'lock', { key: 'l', ttlMs: 10_000 })),
      );
      const held = tries.filter(({ acquired }) => acquired);
      t.equal(held.length, 1, 'one of twenty gets it');
      const token = held[0]?.['token'] ?? '';
      t.same(await call(driver, 'lock', { key: 'l', release: 'another' }), { released: false });
      t.same(await call(driver, 'get', { key: 'l' }), { value: null }, 'the token cannot be read');
      await call(driver, 'set', { key: 'l', value: 'mine' });
      t.same(await call(driver, 'lock', { key: 'l', release: token }), { released: true });
      t.same(await call(driver, 'lock', { key: 'l', release: token }), { released: false });
      t.match(await call(driver, 'lock', { key: 'l', ttlMs: 50 }), { acquired: true });
      await sleep(80);
      t.match(
        await call(driver, 'lock', { key: 'l', ttlMs: 10_000 }),
        { acquired: true },
        'a lock whose holder died is free after its time',
      );
    });

    t.test('numbers stay exact up to the bound, in both directions', async (t) => {
      for (const start of [Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER]) {
        const key = `edge${start}`;
        for (let by = 1; by < 60; by += 1) {
          await call(driver, 'set', { key, value: start - Math.sign(start) * by });
          t.same(await call(driver, 'increment', { key, by: Math.sign(start) * by }), {
            value: start,
          });
        }
      }
    });

    t.test('bounds: long keys, large values, empty keys', async (t) => {
      const large = 'x'.repeat((1 << 20) + 1);
      t.match(await failure(call(driver, 'set', { key: 'k', value: large })), {
        code: 'PAYLOAD_TOO_LARGE',
      });
      for (const key of ['', 'x'.repeat(513)]) {
        t.match(await failure(call(driver, 'get', { key })), { code: 'INVALID_ARGUMENT' });
      }
    });

    t.test('a call that is aborted ends at once', async (t) => {
      const reason = AbortSignal.abort();
      t.match(await failure(call(driver, 'get', { key: 'k' }, reason)), { code: 'CANCELLED' });
    });
  });
}

t.test('resources are prefixes', async (t) => {
  t.equal(cache.normalizeResource('notes:'), 'notes:*');
  t.equal(cache.normalizeResource('notes:*'), 'notes:*');
  for (const bad of ['', '*', 'a*b*', 'a\nb', 'x'.repeat(600)]) {
    t.throws(() => cache.normalizeResource(bad), { code: 'INVALID_ARGUMENT' }, JSON.stringify(bad));
  }
});

t.test('a wrong URL is refused without being repeated', async (t) => {
  for (const url of ['http://u:secret@host', 'redis:', 'nonsense secret', 'localhost:6379']) {
    try {
      createRedisDriver({ url });
      t.fail(`accepted ${url}`);
    } catch (error) {
      t.match(error, { code: 'INVALID_ARGUMENT', message: /cache\.url must be written/ });
      t.notMatch(error, { message: /secret/ });
    }
  }
});

t.test('Redis away at start and in mid-run, then back', { skip: !hasRedis }, async (t) => {
  const port = await freePort();
  const driver = createRedisDriver({ url: `redis://:secret@127.0.0.1:${port}` });
  t.teardown(() => driver.close());
  const startedAt = Date.now();
  const error = await failure(call(driver, 'get', { key: 'k' }));
  t.match(error, { code: 'UNAVAILABLE' });
  t.notMatch(error.message, /127\.0\.0\.1|secret/, 'no address, no password');
  t.match(await failure(driver.check()), { code: 'UNAVAILABLE' });
  t.ok(Date.now() - startedAt < 2_500, 'and it says so in time');

  // Without the password there is no AUTH to refuse: this server takes anyone.
  const open = createRedisDriver({ url: `redis://127.0.0.1:${port}` });
  t.teardown(() => open.close());
  let server = redisServer(port);
  t.teardown(() => server.kill('SIGKILL'));
  await eventually(() => open.check());
  await call(open, 'set', { key: 'k', value: 1 });

  server.kill('SIGSTOP');
  const stalledAt = Date.now();
  t.match(await failure(call(open, 'get', { key: 'k' })), { code: 'UNAVAILABLE' });
  t.ok(Date.now() - stalledAt < 1_500, 'a server that hangs is given up after a second');
  server.kill('SIGKILL');
  await ended(server);
  await sleep(50);
  const goneAt = Date.now();
  const many = Array.from({ length: 200 }, () => failure(call(open, 'increment', { key: 'n' })));
  for (const each of await Promise.all(many)) t.match(each, { code: 'UNAVAILABLE' });
  t.ok(Date.now() - goneAt < 1_500, 'calls are refused, not queued');

  server = redisServer(port);
  await eventually(() => open.check());
  t.same(await call(open, 'increment', { key: 'n' }), { value: 1 }, 'and none was sent later');
});

t.test('a connection after the embedded cache was closed is refused', async (t) => {
  const dataDir = await scratchFolder();
  t.teardown(() => rm(dataDir, { recursive: true }));
  const server = await openEmbeddedCache({ dataDir, ...never });
  await server.close();
  const driver = createRedisDriver({ Connector: server.Connector });
  t.teardown(() => driver.close());
  t.match(await failure(driver.check()), { code: 'UNAVAILABLE' });
});

t.test('the embedded cache bounds its memory: old values go, locks stay', async (t) => {
  const dataDir = await scratchFolder();
  t.teardown(() => rm(dataDir, { recursive: true }));
  const server = await openEmbeddedCache({ dataDir, maxEntries: 100, maxBytes: 100_000, ...never });
  const driver = createRedisDriver({ Connector: server.Connector });
  t.teardown(async () => {
    await driver.close();
    await server.close();
  });
  const lock = await call(driver, 'lock', { key: 'held', ttlMs: 60_000 });
  for (let index = 0; index < 300; index += 1) {
    await call(driver, 'set', { key: `k${index}`, value: index });
    await call(driver, 'get', { key: 'k0' });
  }
  t.same(await call(driver, 'get', { key: 'k0' }), { value: 0 }, 'what is used stays');
  t.same(await call(driver, 'get', { key: 'k5' }), { value: null }, 'what is not used goes');
  t.same(await call(driver, 'get', { key: 'k299' }), { value: 299 });
  await call(driver, 'set', { key: 'wide', value: 'x'.repeat(40_000) });
  t.match(await failure(call(driver, 'set', { key: 'wider', value: 'x'.repeat(60_000) })), {
    code: 'RESOURCE_EXHAUSTED',
  });
  t.match(await call(driver, 'get', { key: 'wide' }), { value: /^x+$/ }, 'a refusal costs nobody');
  t.same(
    await call(driver, 'lock', { key: 'held', release: lock['token'] ?? '' }),
    { released: true },
    'the lock was held all the time',
  );
});

t.test('a plugin that fills the embedded cache costs the others nothing', async (t) => {
  const dataDir = await scratchFolder();
  t.teardown(() => rm(dataDir, { recursive: true }));
  const bounds = { maxEntries: 1_600, maxBytes: 1_600_000 };
  let server = await openEmbeddedCache({ dataDir, ...bounds, ...never });
  let driver = createRedisDriver({ Connector: server.Connector });
  const as = (plugin: string, operation: string, input: Json) =>
    call(driver, operation, input, undefined, plugin);
  const locksOf = async (plugin: string, bytes: number) => {
    for (let index = 0; ; index += 1) {
      const key = `${plugin}:${index}:${'x'.repeat(bytes)}`;
      const lock = await as(plugin, 'lock', { key, ttlMs: 3_600_000 }).catch((error: unknown) => {
        t.match(error, { code: 'RESOURCE_EXHAUSTED', message: /locks/ });
      });
      if (!lock) return index;
    }
  };
  const ownKeys = Array.from({ length: 20 }, (_, index) => `victim:${index}`);
  for (const key of ownKeys) await as('victim', 'set', { key, value: key });

  const flood = async () => {
    for (let index = 0; index < 3_000; index += 1) {
      await as('flood', 'set', { key: `flood:${index}`, value: index });
    }
    for (let index = 0; index < 30; index += 1) {
      await as('flood', 'set', { key: `wide:${index}`, value: 'x'.repeat(90_000) });
    }
  };
  await flood();
  for (const key of ownKeys) t.same(await as('victim', 'get', { key }), { value: key });

  t.equal(await locksOf('few', 0), 100, 'a plugin has a share of the locks by number');
  t.ok((await locksOf('long', 400)) < 100, 'and by bytes');
  const long = { key: `long:${'y'.repeat(450)}`, ttlMs: 60_000 };
  for (let round = 0; round < 3; round += 1) {
    t.match(
      await failure(as('long', 'lock', long)),
      { code: 'RESOURCE_EXHAUSTED' },
      'a lock that is not held is never said to be',
    );
  }
  t.match(await as('victim', 'lock', { key: 'victim:lock', ttlMs: 60_000 }), { acquired: true });
  t.match(await as('victim', 'lock', { key: 'victim:lock', ttlMs: 60_000 }), { acquired: false });
  for (let index = 0; index < 20; index += 1) await locksOf(`many-${index}`, 300);
  t.match(await failure(as('last', 'lock', { key: 'last', ttlMs: 60_000 })), { message: /half/ });
  await as('victim', 'set', { key: 'victim:new', value: 1 });
  await as('last', 'set', { key: 'last', value: 'x'.repeat(1_000) });
  t.same(await as('victim', 'get', { key: 'victim:new' }), { value: 1 });
  for (const key of ownKeys) t.same(await as('victim', 'get', { key }), { value: key });

  await driver.close();
  await server.close();
  server = await openEmbeddedCache({ dataDir, ...bounds, ...never });
  driver = createRedisDriver({ Connector: server.Connector });
  t.teardown(async () => {
    await driver.close();
    await server.close();
  });
  t.match(
    await failure(as('few', 'lock', { key: 'few:more', ttlMs: 60_000 })),
    { code: 'RESOURCE_EXHAUSTED' },
    'accounts outlive a restart',
  );
  await flood();
  for (const key of ownKeys) t.same(await as('victim', 'get', { key }), { value: key });
});

t.test('what goes to make room costs the same however much there is', async (t) => {
  const each = (maxEntries: number) => {
    const keyspace = new Keyspace({ maxEntries, maxBytes: 1 << 30 }, () => 0);
    for (let index = 0; index < maxEntries / 32; index += 1) {
      keyspace.run(['FOR', 'locks', 'SADD', `lock${index}`, 'x']);
    }
    let next = 0;
    const fill = (count: number) => {
      const startedAt = performance.now();
      for (const end = next + count; next < end; next += 1) {
        keyspace.run(['FOR', `p${next % 3}`, 'SET', `k${next}`, 'v']);
        keyspace.takeEffects();
      }
      return (performance.now() - startedAt) / count;
    };
    fill(2 * maxEntries);
    const cost = Math.min(...Array.from({ length: 5 }, () => fill(20_000)));
    t.ok(keyspace.size <= maxEntries);
    return cost;
  };
  each(2_000);
  const [few, many] = [each(2_000), each(100_000)];
  t.ok(
    many < 20 * few,
    `${(1000 * few).toFixed(2)} µs with 2,000 keys, ${(1000 * many).toFixed(2)} with 100,000`,
  );
});

t.test('a Redis that is full refuses, and no lock is had', { skip: !hasRedis }, async (t) => {
  const port = await freePort();
  const server = redisServer(port);
  const driver = createRedisDriver({ url: `redis://127.0.0.1:${port}` });
  const admin = connectRedis({ url: `redis://127.0.0.1:${port}` });
  t.teardown(async () => {
    admin.disconnect();
    await driver.close();
    server.kill('SIGKILL');
    await ended(server);
  });
  admin.on('error', () => {});
  await eventually(async () => admin.ping());
  await eventually(() => driver.check());
  await admin.config('SET', 'maxmemory', '1');
  const full = { code: 'RESOURCE_EXHAUSTED' };
  t.match(await failure(call(driver, 'lock', { key: 'l', ttlMs: 60_000 })), full);
  t.match(await failure(call(driver, 'set', { key: 'k', value: 1 })), full);
  t.match(await failure(call(driver, 'increment', { key: 'n', ttlMs: 60_000 })), full);
  await admin.config('SET', 'maxmemory', '0');
  t.match(await call(driver, 'lock', { key: 'l', ttlMs: 60_000 }), { acquired: true });
});

t.test('the embedded cache comes back after kill -9', async (t) => {
  const dataDir = await scratchFolder();
  t.teardown(() => rm(dataDir, { recursive: true }));
  const module = new URL('../../capabilities/cache/embedded.ts', import.meta.url).href;
  const driverModule = new URL('../../capabilities/cache/redis.ts', import.meta.url).href;
  const program = `
    const { openEmbeddedCache } = await import(${JSON.stringify(module)});
    const { connectRedis } = await import(${JSON.stringify(driverModule)});
    const server = await openEmbeddedCache({ dataDir: ${JSON.stringify(dataDir)}, warn: console.error });
    const redis = connectRedis({ Connector: server.Connector });
    await new Promise((done) => redis.once('ready', done));
    for (let n = 1; ; n += 1) {
      await redis.set('noa:kv:n', String(n), 'PX', 600000);
      await new Promise((done) => setTimeout(done, 1));
      console.log(n);
    }`;
  let last = 0;
  for (let round = 0; round < 3; round += 1) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
    await eventually(async () => {
      if (said.split('\n').length < 40) throw new Error('not yet');
    });
    child.kill('SIGKILL');
    await ended(child);
    await sleep(20);
    last = Number(said.trimEnd().split('\n').at(-1));
    const server = await openEmbeddedCache({ dataDir, ...never });
    const driver = createRedisDriver({ Connector: server.Connector });
    const { value } = await call(driver, 'get', { key: 'n' });
    t.ok(Number(value) >= last - 5, `of ${last} acknowledged it has ${Number(value)}`);
    await driver.close();
    await server.close();
  }
});

t.test(
  'a journal that was cut or damaged anywhere gives an earlier state, never nonsense',
  async (t) => {
    const dataDir = await scratchFolder();
    t.teardown(() => rm(dataDir, { recursive: true }));
    const path = join(dataDir, 'journal.resp');
    const first = await openEmbeddedCache({ dataDir, ...never });
    const redis = connectRedis({ Connector: first.Connector });
    await new Promise((done) => redis.once('ready', done));
    for (let n = 1; n <= 20; n += 1) await redis.multi().set('a', n).set('b', n).exec();
    redis.disconnect();
    await first.close();
    const whole = await readFile(path);
    const stateOf = async (bytes: Buffer) => {
      await writeFile(path, bytes);
      const server = await openEmbeddedCache({ dataDir, warn: () => {} });
      const client = connectRedis({ Connector: server.Connector });
      await new Promise((done) => client.once('ready', done));
      const state = [Number(await client.get('a')), Number(await client.get('b'))];
      client.disconnect();
      await server.close();
      return { a: state[0], b: state[1] };
    };
    t.same(await stateOf(whole), { a: 20, b: 20 });
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), async (length) => {
        const { a, b } = await stateOf(whole.subarray(0, length));
        t.equal(a, b, `cut at ${length}: a transaction is whole or absent`);
      }),
      { numRuns: 30 },
    );
    await stateOf(whole.subarray(0, whole.length - 3));
    t.ok((await stat(path)).size < whole.length - 3, 'the torn tail is cut off');
    await truncate(path, 0);
    await appendFile(path, 'garbage\0\r\n*9\r\n');
    t.same(await stateOf(await readFile(path)), { a: 0, b: 0 });
  },
);

t.test('the journal is rewritten and does not grow without end', async (t) => {
  const dataDir = await scratchFolder();
  t.teardown(() => rm(dataDir, { recursive: true }));
  const server = await openEmbeddedCache({ dataDir, ...never });
  const redis = connectRedis({ Connector: server.Connector });
  await new Promise((done) => redis.once('ready', done));
  const value = 'x'.repeat(100_000);
  for (let n = 0; n < 400; n += 1) await redis.set(`k${n % 10}`, `${n}${value}`);
  await redis.set('last', 'one');
  await eventually(async () => {
    if ((await stat(join(dataDir, 'journal.resp'))).size > 16 << 20) throw new Error('too large');
  });
  redis.disconnect();
  await server.close();
  const again = await openEmbeddedCache({ dataDir, ...never });
  const client = connectRedis({ Connector: again.Connector });
  await new Promise((done) => client.once('ready', done));
  t.equal(await client.get('last'), 'one');
  for (let n = 390; n < 400; n += 1) t.equal(await client.get(`k${n % 10}`), `${n}${value}`);
  client.disconnect();
  await again.close();
});

t.test(
  'the reader of commands takes any split of its bytes, and refuses what is no command',
  async (t) => {
    const command = fc.array(fc.string({ unit: 'grapheme' }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(fc.array(command, { maxLength: 5 }), fc.nat(), (commands, seed) => {
        const bytes = Buffer.from(commands.map(encodeCommand).join(''));
        const at = bytes.length === 0 ? 0 : seed % bytes.length;
        const reader = new CommandReader();
        const read = [...reader.read(bytes.subarray(0, at)), ...reader.read(bytes.subarray(at))];
        t.same(read, commands);
      }),
      { numRuns: 100 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          for (const args of new CommandReader().read(bytes)) t.type(args, Array);
        } catch (error) {
          t.match(error, { message: /must be|malformed|no end/ });
        }
      }),
      { numRuns: 200 },
    );
  },
);
