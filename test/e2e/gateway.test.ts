/**
 * The gateway on real hosts: two of them share limits and answers through one cache and one database, and
 * one takes new rules while it runs.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { Agent, type IncomingMessage, request as send } from 'node:http';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import t, { type Test } from 'tap';
import { openEmbeddedCache } from '../../capabilities/cache/embedded.ts';
import { type Answer, eventually, RunningHost } from './running-host.ts';
import { twoHosts } from './two-hosts.ts';

const LIMIT = 20;

interface SharedCache {
  readonly url: string;
  /** As when its machine is lost. */
  stop(): Promise<void>;
}

async function sharedCache(t: Test): Promise<SharedCache> {
  const hasRedis = spawnSync('redis-server', ['--version']).status === 0;
  const cache = await (hasRedis ? redis() : embedded(t));
  t.teardown(() => cache.stop());
  return cache;
}

async function redis(): Promise<SharedCache> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  const flags = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
  const server = spawn('redis-server', flags, { stdio: 'ignore', cwd: '/' });
  const ended = once(server, 'exit');
  const answers = async (): Promise<boolean> => {
    const socket = connect(port, '127.0.0.1');
    const isOpen = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false);
    socket.destroy();
    return isOpen;
  };
  await eventually('Redis answers', answers);
  return {
    url: `redis://127.0.0.1:${port}/0`,
    async stop() {
      server.kill('SIGKILL');
      await ended;
    },
  };
}

/** The embedded engine, which speaks the same protocol, at a port. */
async function embedded(t: Test): Promise<SharedCache> {
  const dataDir = await mkdtemp(join(tmpdir(), 'noa-cache-'));
  const engine = await openEmbeddedCache({ dataDir, warn: (line) => t.comment(line) });
  const path = join(dataDir, 'socket');
  await engine.listen(path);
  const relay = createServer((socket) => {
    const behind = connect(path);
    pipeline(socket, behind, socket).catch(() => socket.destroy());
  }).listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const { port } = relay.address() as AddressInfo;
  let isStopped = false;
  return {
    url: `redis://127.0.0.1:${port}/0`,
    async stop() {
      if (isStopped) return;
      isStopped = true;
      relay.close();
      await engine.close();
    },
  };
}

/** Makes a client with a key of its own and answers requests in its name. */
async function client(host: RunningHost, id: string, part: object = {}) {
  const made = await host.post('/v1/auth/clients', { id, ...part });
  if (made.status !== 201) throw new Error(JSON.stringify(made.body));
  const { body, status } = await host.post('/v1/auth/keys', { owner: `client:${id}` });
  if (status !== 201) throw new Error(JSON.stringify(body));
  const authorization = `Bearer ${String(body['key'])}`;
  return (at: RunningHost, method: string, path: string): Promise<Answer> =>
    at.request(method, path, undefined, { authorization });
}

t.test('two hosts behind a load balancer', async (t) => {
  const cache = await sharedCache(t);
  const { one, two } = await twoHosts(t, {
    NOA_CACHE__URL: cache.url,
    NOA_GATEWAY__LEVELS__L5: String(LIMIT),
    NOA_GATEWAY__POLICIES: JSON.stringify([
      {
        name: 'no-audit-for-carol',
        effect: 'deny',
        operations: ['GET /v1/audit'],
        subjects: ['client:carol'],
      },
    ]),
  });

  t.test('one limit for both', async (t) => {
    const ask = await client(one, 'alice');
    await eventually('the other host knows the key', async () => {
      const { status } = await ask(two, 'GET', '/v1/auth/me');
      return status === 200;
    });
    let admitted = 1;
    let refused: Answer | undefined;
    const started = Date.now();
    for (let n = 0; refused === undefined && n < 10 * LIMIT; n++) {
      const answer = await ask(n % 2 === 0 ? one : two, 'GET', '/v1/auth/me');
      if (answer.status === 429) refused = answer;
      else admitted++;
    }
    const flowsBack = (LIMIT * (Date.now() - started + 2000)) / 60_000;
    t.ok(admitted <= LIMIT + 4 + flowsBack, 'a tenth for each host at most', { admitted });
    t.match(refused, { status: 429, body: { code: 'RATE_LIMITED' } });
    const told = Object.fromEntries(refused?.headers ?? []);
    t.match(told, {
      'ratelimit-limit': String(LIMIT),
      'ratelimit-remaining': '0',
      'ratelimit-policy': `"L5";q=${LIMIT};w=60`,
      'retry-after': /^\d+$/,
    });
    await eventually('both refuse', async () => {
      const [first, second] = [
        await ask(one, 'GET', '/v1/auth/me'),
        await ask(two, 'GET', '/v1/auth/me'),
      ];
      return first.status === 429 && second.status === 429;
    });
    t.equal((await one.get('/v1/auth/me')).status, 200, 'the bootstrap credential has no limit');
    const metrics = String((await one.get('/metrics')).body['text']);
    t.match(metrics, /^noa_rate_limited_total\{level="L5"\} [1-9]/m);
  });

  t.test('a policy refuses at both, and the audit says which', async (t) => {
    const ask = await client(one, 'carol', { scopes: ['audit:read', 'plugins:read'] });
    await eventually('the other host knows the key', async () => {
      const { status } = await ask(two, 'GET', '/v1/plugins');
      return status === 200;
    });
    for (const host of [one, two]) {
      t.match(await ask(host, 'GET', '/v1/audit?limit=1'), {
        status: 403,
        body: { code: 'PERMISSION_DENIED', details: { policy: 'no-audit-for-carol' } },
      });
    }
    await eventually('the record is kept', async () => {
      const { body } = await one.get('/v1/audit?limit=50');
      const records = body['records'] as { kind: string; actor: string; details: object }[];
      const found = records.find(({ kind }) => kind === 'policy.denial');
      if (found === undefined) return false;
      t.match(found, {
        actor: 'client:carol',
        operation: 'GET /v1/audit',
        outcome: 'denied',
        code: 'PERMISSION_DENIED',
        details: { policy: 'no-audit-for-carol' },
      });
      return true;
    });
  });

  t.test('a request with a key is executed once, at whichever host it comes again', async (t) => {
    const make = (host: RunningHost, id: string) =>
      host.request('POST', '/v1/auth/clients', { id }, { 'idempotency-key': '"make-dave"' });
    const first = await make(one, 'dave');
    t.equal(first.status, 201);
    const second = await make(two, 'dave');
    t.strictSame(second.body, first.body, 'with the secret that is shown once');
    t.equal(second.status, 201);
    t.equal(second.headers.get('idempotency-replayed'), 'true');
    t.equal(second.headers.get('location'), first.headers.get('location'));
    t.equal(second.headers.get('cache-control'), 'no-store');
    t.match(await make(two, 'erin'), { status: 422, body: { code: 'IDEMPOTENCY_MISMATCH' } });
    await two.kill();
    await two.start();
    t.equal((await make(two, 'dave')).headers.get('idempotency-replayed'), 'true');
  });

  t.test('without the cache each host limits for itself, and says so once', async (t) => {
    const ask = await client(one, 'frank');
    await cache.stop();
    let admitted = 0;
    const started = Date.now();
    const statuses = new Set<number>();
    while (!statuses.has(429) && admitted < 10 * LIMIT) {
      const { status } = await ask(one, 'GET', '/v1/auth/me');
      statuses.add(status);
      if (status === 200) admitted++;
    }
    t.ok(statuses.has(429) && statuses.size === 2, 'nothing fails', { statuses: [...statuses] });
    t.ok(admitted >= LIMIT && admitted <= LIMIT * (1.1 + (Date.now() - started) / 60_000));
    await eventually('it is said', () => Promise.resolve(one.output.includes('each host alone')));
    t.equal(one.output.split('each host alone').length, 2, 'once');
  });
});

t.test('rules are taken anew while the host runs, and no connection is dropped', async (t) => {
  const dataPath = await mkdtemp(join(tmpdir(), 'noa-e2e-'));
  await mkdir(join(dataPath, 'config'));
  const configure = (text: string) => writeFile(join(dataPath, 'config/default.toml'), text);
  await configure('[gateway.levels]\nl5 = 1000\n');
  const host = await RunningHost.start({ dataPath });
  t.teardown(() => host.dispose());
  const made = await host.post('/v1/auth/clients', { id: 'gina', scopes: ['plugins:read'] });
  t.equal(made.status, 201);
  const { body } = await host.post('/v1/auth/keys', { owner: 'client:gina' });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.teardown(() => agent.destroy());
  let connections = 0;
  const ask = async (path: string) => {
    const headers = { authorization: `Bearer ${String(body['key'])}` };
    const sent = send(new URL(path, host.url), { agent, headers });
    sent.once('socket', (socket) => socket.once('connect', () => connections++));
    const answered = once(sent.end(), 'response') as Promise<[IncomingMessage]>;
    const [answer] = await answered;
    answer.resume();
    await once(answer, 'end');
    return { status: answer.statusCode, limit: answer.headers['ratelimit-limit'] };
  };
  t.strictSame(await ask('/v1/plugins'), { status: 200, limit: '1000' });
  await configure(`
[gateway.levels]
l5 = 900

[[gateway.policies]]
name = "not-now"
effect = "deny"
operations = ["GET /v1/plugins"]
subjects = ["client:*"]
`);
  host.signal('SIGHUP');
  await eventually('the rule holds', async () => (await ask('/v1/plugins')).status === 403);
  t.strictSame(await ask('/v1/auth/me'), { status: 200, limit: '900' });
  t.match(host.output, /reloaded: .*gateway\.policies.* changed/);

  await configure('[[gateway.policies]]\nname = "not-now"\neffect = "never"\n');
  host.signal('SIGHUP');
  await eventually('the fault is told', () =>
    Promise.resolve(/not reloaded: .*\/0\/effect/.test(host.output)),
  );
  t.equal((await ask('/v1/plugins')).status, 403, 'the rules before stay');
  await configure('');
  host.signal('SIGHUP');
  await eventually('the rule is gone', async () => (await ask('/v1/plugins')).status === 200);
  t.equal(connections, 1);
});
