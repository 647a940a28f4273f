/** Plugins that misbehave and engines that are away: a clear error each, and nobody else is harmed. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { bundleOf, eventually, RunningHost } from './running-host.ts';

const [notes, rogue] = await Promise.all(
  ['plugins/examples/notes', 'test/fixtures/plugins/rogue'].map(bundleOf),
);
if (!notes || !rogue) throw new Error('the bundles are missing');

t.test('a misbehaving plugin', async (t) => {
  const host = await RunningHost.start();
  t.teardown(() => host.dispose());
  for (const [name, bundle] of [
    ['notes', notes],
    ['rogue', rogue],
  ] as const) {
    await host.install(bundle);
    await host.approve(name);
  }
  const bystander = () => host.post('/plugins/notes/notes', { text: 'still here' });

  const cases = [
    ['loop', 504, 'DEADLINE_EXCEEDED'],
    ['fail', 500, 'PLUGIN_TRAP'],
    ['garbage', 500, 'PLUGIN_OUTPUT_INVALID'],
    ['never', 500, 'PLUGIN_TRAP'],
    ['grow', 500, 'PLUGIN_TRAP'],
    ['recurse', 500, 'PLUGIN_TRAP'],
    ['sleep', 504, 'DEADLINE_EXCEEDED'],
  ] as const;
  for (const [name, status, code] of cases) {
    t.test(`${name} → ${code}, and the next calls work`, async (t) => {
      const [answer, others] = await Promise.all([
        host.call('rogue', name),
        Promise.all(Array.from({ length: 4 }, bystander)),
      ]);
      t.match(answer, { status, body: { code, status } });
      t.notMatch(
        JSON.stringify(answer.body),
        /\/work\/|node:internal|node_modules/,
        'no host paths',
      );
      for (const other of others) t.match(other, { status: 201 });
      t.match(await host.call('rogue', 'echo', { n: 1 }), { status: 200, body: { n: 1 } });
    });
  }

  t.test(
    'the guest’s message is the caller’s to see, its stack in .ts lines the author’s',
    async (t) => {
      const { body } = await host.call('rogue', 'fail');
      t.match(body['detail'], /boom from the guest/);
      t.notMatch(JSON.stringify(body), /index\.ts/);
      const logs = await host.get('/v1/plugins/rogue/logs?limit=1000');
      t.match(
        JSON.stringify(logs.body),
        /fail: PLUGIN_TRAP.*boom from the guest.*src\/index\.ts:\d+/,
      );
    },
  );

  t.test('input over the limit is refused before the plugin sees it', async (t) => {
    const answer = await host.call('rogue', 'echo', 'x'.repeat(70_000));
    t.match(answer, { status: 413, body: { code: 'PAYLOAD_TOO_LARGE' } });
  });

  t.test('a log flood is cut, counted and escaped', async (t) => {
    t.match(await host.call('rogue', 'flood'), { status: 200 });
    const { body } = await host.get('/v1/plugins/rogue/logs?limit=1000');
    const lines = body['lines'] as { message: string }[];
    t.ok(lines.length > 0 && lines.length <= 1000);
    for (const { message } of lines) t.notMatch(message, /\p{Cc}/u);
  });

  t.test('a plugin is no ladder, and no cycle', async (t) => {
    const list = { plugin: 'notes', export: 'list', input: {} };
    t.match(await host.call('rogue', 'call', list), {
      status: 403,
      body: { code: 'CAPABILITY_DENIED', detail: /notes.*db\.query/ },
    });
    const own = { plugin: 'rogue', export: 'echo', input: 1 };
    t.match(await host.call('rogue', 'call', own), { status: 409, body: { code: 'CONFLICT' } });
    const absent = { plugin: 'notes', export: 'absent' };
    t.match(await host.call('rogue', 'call', absent), { status: 404, body: { code: 'NOT_FOUND' } });
  });

  t.test('PostgreSQL dies: calls fail clearly, then everything comes back by itself', async (t) => {
    const pidFile = join(host.dataPath, 'postgres/cluster/postmaster.pid');
    const pid = Number((await readFile(pidFile, 'utf8')).split('\n')[0]);
    process.kill(pid, 'SIGKILL');
    const answer = await bystander();
    if (answer.status !== 201) t.match(answer, { status: 503, body: { code: 'UNAVAILABLE' } });
    await eventually('notes can be written again', async () => (await bystander()).status === 201);
    await eventually('the host is ready', async () => (await host.get('/ready')).status === 200);
    t.match((await host.post('/v1/audit/verify')).body, { ok: true });
  });

  t.test('SIGHUP reloads without a dropped request', async (t) => {
    const answers = Array.from({ length: 20 }, bystander);
    host.signal('SIGHUP');
    for (const { status } of await Promise.all(answers)) t.equal(status, 201);
    t.match(await bystander(), { status: 201 });
  });
});

t.test('what keeps a host from starting is one clear line', async (t) => {
  const host = await RunningHost.start();
  t.teardown(() => host.dispose());
  const failing = async (env: Record<string, string>) => {
    const dataPath = await mkdtemp(join(tmpdir(), 'noa-e2e-'));
    t.teardown(() => rm(dataPath, { recursive: true, force: true }));
    const other = await RunningHost.start({ dataPath, env }).then(
      async (started) => {
        await started.stop();
        return 'it started';
      },
      (error: Error) => error.message,
    );
    return other.replace('the host did not start:\n', '').trim();
  };
  const oneLine = (text: string, pattern: RegExp) => {
    const errors = text.split('\n').filter((line) => /error/i.test(line));
    t.equal(errors.length, 1, text);
    t.match(errors[0], pattern);
    t.notMatch(text, /\n\s+at /, 'no stack');
  };

  t.test('a second host on the same data folder', async () => {
    oneLine(await failing({ NOA_DATA__PATH: host.dataPath }), new RegExp(String(host.pid)));
  });
  t.test('a port in use', async (t) => {
    const text = await failing({ NOA_SERVER__PORT: new URL(host.url).port });
    oneLine(text, /port .* is in use.*--port/);
    t.notMatch(text, /PostgreSQL/, 'and told before anything that takes seconds');
  });
  t.test('a data path that is a file', async () => {
    oneLine(await failing({ NOA_DATA__PATH: '/etc/hostname' }), /not a folder/);
  });
  t.test('a database that is away', async (t) => {
    const url = 'postgresql://noa:s3cret-word@127.0.0.1:1/noa';
    const text = await failing({ NOA_DATABASE__URL: url });
    oneLine(text, /database/);
    t.notMatch(text, /s3cret-word/);
  });
  t.test('a wrong key and a wrong value, with the fix', async (t) => {
    const text = await failing({ NOA_SERVER__PORTT: '1', NOA_SERVER__HOST: 'not a host' });
    t.match(text, /NOA_SERVER__PORTT.*NOA_SERVER__PORT\b/);
    t.match(text, /server\.host/);
  });
});

const hasRedis = (() => {
  try {
    execFileSync('redis-server', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

t.test(
  'Redis away at start and in mid-run',
  { skip: !hasRedis && 'redis-server is missing' },
  async (t) => {
    const port = await freePort();
    const dir = await mkdtemp(join(tmpdir(), 'noa-redis-'));
    let redis: ChildProcess | undefined;
    const startRedis = () => {
      redis = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--dir', dir], {
        stdio: 'ignore',
      });
    };
    const stopRedis = async () => {
      if (redis === undefined || redis.exitCode !== null) return;
      const ended = once(redis, 'exit');
      redis.kill('SIGKILL');
      await ended;
    };
    t.teardown(async () => {
      await stopRedis();
      await rm(dir, { recursive: true, force: true });
    });
    startRedis();
    const host = await RunningHost.start({ env: { NOA_CACHE__URL: `redis://127.0.0.1:${port}` } });
    t.teardown(() => host.dispose());
    await host.install(rogue);
    await host.approve('rogue');
    const get = () => host.call('rogue', 'get', { key: 'rogue:x' });
    t.match(await get(), { status: 200 });

    await stopRedis();
    t.match(await get(), { status: 503, body: { code: 'UNAVAILABLE' } });
    await eventually('the host is not ready', async () => {
      const { status, body } = await host.get('/ready');
      return status === 503 && JSON.stringify(body).includes('"cache":{"status":"failed"');
    });
    t.match(await host.call('rogue', 'query', { sql: 'select 1 as one' }), { status: 200 });
    startRedis();
    await eventually('the cache answers again', async () => (await get()).status === 200);
  },
);

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
