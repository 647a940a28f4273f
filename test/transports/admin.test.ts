/** The administration's REST form, member by member, and what operations may ask without a credential. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Json, Manifest } from '@noa/sdk/host';
import t from 'tap';
import { createMetricsListener } from '../../host/transports/metrics.ts';
import { ADMIN, bundle, manifest, type Problem, startFront } from './front.ts';

const reads = {
  capability: 'store',
  operations: ['get'],
  resources: ['a', 'b'],
  reason: 'to read',
};
const notes = manifest({
  name: 'notes',
  exports: { add: { input: { type: ['object', 'null'] } } },
  capabilities: [reads],
});

async function start() {
  const front = await startFront();
  const upload = (
    method: 'POST' | 'PUT',
    path: string,
    content: Manifest,
    type = 'application/gzip',
  ) =>
    front.request<Problem & { [key: string]: unknown }>(method, path, {
      body: bundle(content),
      headers: { 'content-type': type },
    });
  const grants = async (plugin: string) => {
    const { body } = await front.get<{ grants: { id: string }[] }>(`/v1/grants?plugin=${plugin}`);
    return body.grants;
  };
  return { ...front, upload, grants };
}

await t.test('a plugin is installed from its bundle, shown, and asks for grants', async (t) => {
  const front = await start();
  t.teardown(() => front.close());
  await front.install(notes, { add: (input) => ({ got: input }) });

  await t.test('installing answers what it is and what it asks for', async (t) => {
    const other = { ...notes, name: 'other' };
    const made = await front.upload('POST', '/v1/plugins', other);
    t.equal(made.status, 201);
    t.equal(made.headers.get('location'), '/v1/plugins/other');
    t.match(made.body, {
      name: 'other',
      version: '1.0.0',
      digest: /^[0-9a-f]{64}$/,
      state: 'pending',
      requested: [{ ...reads, status: 'pending' }],
    });
    const again = await front.upload('POST', '/v1/plugins', other);
    t.match(again, { status: 409, body: { code: 'CONFLICT' } });
    for (const type of ['application/octet-stream', 'application/x-gzip']) {
      const name = type.replaceAll(/[^a-z]+/g, '-');
      t.equal((await front.upload('POST', '/v1/plugins', { ...notes, name }, type)).status, 201);
    }
  });

  await t.test('what is no bundle is refused', async (t) => {
    const json = await front.post<Problem>('/v1/plugins', { name: 'x' });
    t.match(json, { status: 415, body: { detail: /application\/gzip/ } });
    t.match(await front.post('/v1/plugins'), { status: 400, body: { detail: /empty/ } });
    t.match(await front.upload('POST', '/v1/plugins', { ...notes, name: 'No' }), { status: 400 });
    const large = { ...notes, name: 'large', description: 'x'.repeat(300_000) };
    t.match(await front.upload('POST', '/v1/plugins', large), {
      status: 413,
      body: { code: 'PAYLOAD_TOO_LARGE', detail: /262144 bytes \(plugins\.max_bundle_bytes\)/ },
    });
    t.match(await front.upload('POST', '/v1/grants', notes), {
      status: 415,
      body: { detail: /json/ },
    });
  });

  await t.test('plugins are listed and shown', async (t) => {
    const { body } = await front.get<{ plugins: object[] }>('/v1/plugins');
    t.equal(body.plugins.length, 4);
    t.match(await front.get('/v1/plugins/notes'), {
      status: 200,
      body: { name: 'notes', manifest: { exports: { add: {} } }, versions: [{ version: '1.0.0' }] },
    });
    t.match(await front.get('/v1/plugins/absent'), { status: 404, body: { code: 'NOT_FOUND' } });
    t.equal((await front.request('HEAD', '/v1/plugins/notes')).status, 200);
  });

  await t.test('a grant is approved, as asked or narrower, and revoked', async (t) => {
    const [grant] = await front.grants('notes');
    const path = `/v1/grants/${grant?.id}`;
    t.match(await front.get(path), { status: 200, body: { status: 'pending', plugin: 'notes' } });
    t.match(await front.post(`${path}/approve`, { resources: ['a'] }), {
      status: 200,
      body: { status: 'approved', resources: ['a'], decidedBy: 'root' },
    });
    t.match(await front.post(`${path}/approve`, { resources: ['c'] }), { status: 400 });
    t.match(await front.post(`${path}/approve`), { status: 200, body: { resources: ['a', 'b'] } });
    t.match(await front.get('/v1/plugins/notes'), { body: { state: 'serving' } });
    t.match(await front.request('DELETE', path), { status: 200, body: { status: 'revoked' } });
    t.match(await front.get('/v1/grants/none'), { status: 404 });
  });

  await t.test('a grant is added, and each rule of its form is named', async (t) => {
    const grant = { plugin: 'notes', capability: 'store', operations: ['get'], resources: ['z'] };
    const added = await front.post('/v1/grants', grant);
    t.match(added, { status: 201, body: { ...grant, status: 'approved' } });
    t.equal(added.headers.get('location'), `/v1/grants/${String(added.body['id'])}`);
    for (const [wrong, path] of [
      [{ ...grant, plugin: undefined }, '/plugin'],
      [{ ...grant, operations: [] }, '/operations'],
      [{ ...grant, operations: 'get' }, '/operations'],
      [{ ...grant, resources: [''] }, '/resources/0'],
      [{ ...grant, reason: 'x'.repeat(501) }, '/reason'],
      [{ ...grant, status: 'approved' }, '/status'],
      [[], ''],
      [null, ''],
    ] as const) {
      const answer = await front.post<Problem>(
        '/v1/grants',
        JSON.parse(JSON.stringify(wrong)) as Json,
      );
      t.match(answer, { status: 400, body: { code: 'INVALID_ARGUMENT', errors: [{ path }] } });
      t.match(answer.body.detail, /^the body: /);
    }
    t.match(await front.post('/v1/grants'), { status: 400 });
  });

  await t.test('any export is called by name; no body is null', async (t) => {
    const call = '/v1/plugins/notes/exports/add';
    t.strictSame((await front.post(call, { n: 1 })).body, { got: { n: 1 } });
    t.strictSame((await front.post(call)).body, { got: null });
    t.match(await front.post(call, [1]), { status: 400, body: { code: 'INVALID_ARGUMENT' } });
    t.match(await front.post('/v1/plugins/notes/exports/none', {}), { status: 404 });
    t.match(await front.post('/v1/plugins/other/exports/add', {}), { status: 409 });
    t.match(await front.post('/v1/plugins/absent/exports/add', {}), { status: 404 });
    t.match(await front.post('/v1/plugins/notes/exports/__proto__', {}), { status: 404 });
  });

  await t.test('logs come in pages from a line on', async (t) => {
    const page = await front.get('/v1/plugins/notes/logs?since=41&limit=5');
    t.match(page, { status: 200, body: { lines: [{ seq: 42, message: 'notes' }], next: 46 } });
    t.equal((await front.get('/v1/plugins/notes/logs')).body['next'], 200);
    for (const query of ['since=-1', 'limit=0', 'limit=1001', 'limit=1&limit=2', 'after=1']) {
      const answer = await front.get(`/v1/plugins/notes/logs?${query}`);
      t.match(answer, { status: 400, body: { detail: /^the query: / } }, query);
    }
    t.equal((await front.get('/v1/plugins/absent/logs')).status, 404);
  });

  await t.test('a plugin is upgraded, rolled back, disabled, enabled and removed', async (t) => {
    const next = { ...notes, version: '1.1.0' };
    t.match(await front.upload('PUT', '/v1/plugins/notes', next), {
      status: 200,
      body: { version: '1.1.0', state: 'serving' },
    });
    t.match(await front.upload('PUT', '/v1/plugins/other', next), { status: 400 });
    t.match(await front.post('/v1/plugins/notes/rollback'), { body: { version: '1.0.0' } });
    t.match(await front.post('/v1/plugins/other/rollback'), { status: 409 });
    t.match(await front.post('/v1/plugins/notes/disable'), { body: { enabled: false } });
    t.match(await front.post('/v1/plugins/notes/enable', {}), { body: { enabled: true } });
    t.match(await front.post('/v1/plugins/notes/enable', { now: true }), { status: 400 });
    t.match(await front.request('DELETE', '/v1/plugins/notes?data=burn'), { status: 400 });
    const headers = { 'content-type': 'application/json' };
    const removed = await front.request('DELETE', '/v1/plugins/notes?data=keep', { headers });
    t.strictSame([removed.status, removed.text], [204, '']);
    t.equal((await front.request('DELETE', '/v1/plugins/notes')).status, 404);
  });

  await t.test('the audit log comes in pages, newest first, and verifies', async (t) => {
    t.match(await front.post('/v1/audit/verify'), { status: 200, body: { ok: true } });
    type Page = { records: { kind: string; actor: string; seq: number }[]; next: string | null };
    const all = (await front.get<Page>('/v1/audit?limit=1000')).body;
    t.equal(all.next, null);
    const kinds = new Set(all.records.map(({ kind }) => kind));
    for (const kind of ['plugin.install', 'grant.approve', 'grant.revoke', 'plugin.remove']) {
      t.ok(kinds.has(kind), kind);
    }
    const paged: number[] = [];
    let cursor: string | null = '0';
    while (cursor !== null) {
      const page: Page = (await front.get<Page>(`/v1/audit?limit=7&cursor=${cursor}`)).body;
      t.ok(page.records.length <= 7);
      paged.push(...page.records.map(({ seq }) => seq));
      cursor = page.next;
    }
    t.strictSame(
      paged,
      all.records.map(({ seq }) => seq),
    );
    const { records } = (await front.get<Page>('/v1/audit?plugin=other')).body;
    t.ok(records.length > 0 && records.length < all.records.length);
  });

  await t.test('a path takes only its methods and its query', async (t) => {
    for (const [method, path, allow] of [
      ['PATCH', '/v1/plugins', 'GET, HEAD, POST, OPTIONS'],
      ['GET', '/v1/plugins/other/enable', 'POST, OPTIONS'],
      ['POST', '/v1/plugins/other', 'GET, HEAD, PUT, DELETE, OPTIONS'],
      ['DELETE', '/v1/audit', 'GET, HEAD, OPTIONS'],
    ] as const) {
      const answer = await front.request<Problem>(method, path);
      t.match(answer, { status: 405, body: { code: 'METHOD_NOT_ALLOWED' } });
      t.equal(answer.headers.get('allow'), allow);
    }
    t.equal((await front.request('OPTIONS', '/v1/grants')).status, 204);
    t.match(await front.get('/v1/plugins?all=1'), { status: 400, body: { detail: /all/ } });
    t.match(await front.get('/v1/nothing'), { status: 404, body: { code: 'NOT_FOUND' } });
  });
});

await t.test('health lives, readiness asks the dependencies', async (t) => {
  let runs = 0;
  let database: () => Promise<void> = () => Promise.resolve();
  const front = await startFront({
    checks: {
      database: () => {
        runs += 1;
        return database();
      },
      cache: () => Promise.resolve(),
    },
  });
  t.teardown(() => front.close());
  const ask = (path: string) => front.request('GET', path, { token: null });

  const health = await ask('/health');
  t.match(health.body, { status: 'ok', version: '9.9.9' });
  t.ok(Math.abs(Date.parse(String(health.body['timestamp'])) - Date.now()) < 5000);
  t.match(await ask('/ready'), {
    status: 200,
    body: {
      status: 'ready',
      checks: {
        database: { status: 'ok', latencyMs: Number },
        cache: {},
        plugins: { status: 'ok' },
      },
    },
  });
  await Promise.all(Array.from({ length: 20 }, () => ask('/readyz')));
  t.equal(runs, 1, 'a flood of questions is one check');

  await sleep(510);
  database = () => Promise.reject(new Error('connect ENOENT /var/run/secret.sock'));
  const away = await ask('/ready');
  t.match(away, {
    status: 503,
    body: { status: 'unready', checks: { database: { status: 'failed' } } },
  });
  t.notMatch(away.text, /secret|ENOENT/);
  t.match(front.errors, [{ message: /database/, error: { message: /secret\.sock/ } }]);

  await sleep(510);
  database = () => new Promise(() => undefined);
  const started = performance.now();
  const hangs = await Promise.all([ask('/ready'), ask('/ready')]);
  t.ok(performance.now() - started < 2500);
  t.match(hangs[1], { status: 503, body: { checks: { database: { error: /2000 ms/ } } } });
  t.equal(front.errors.length, 1, 'it is told once');

  await sleep(510);
  database = () => Promise.resolve();
  await front.kernel.administration.install(bundle({ ...notes, name: 'waits' }), 'test');
  await front.kernel.administration.install(
    bundle(manifest({ name: 'broken', exports: { run: {} } })),
    'test',
  );
  const degraded = await ask('/ready');
  t.match(degraded, {
    status: 200,
    body: { status: 'ready', checks: { plugins: { status: 'degraded', error: /1 of 2/ } } },
  });
  t.notMatch(degraded.text, /broken|waits/);
});

await t.test('metrics: with a credential on the main port, without one on their own', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  const answer = await front.get('/metrics');
  t.strictSame([answer.status, answer.text], [200, 'up 1\n']);
  t.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4');

  let metrics = () => Promise.resolve({ contentType: 'text/plain', text: 'up 1\n' });
  const failures: unknown[] = [];
  const listener = createMetricsListener({
    metrics: () => metrics(),
    onError: (_message, error) => failures.push(error),
  });
  const { url, port } = await listener.listen({ host: '127.0.0.1', port: 0 });
  t.teardown(() => listener.close());
  const scrape = await fetch(`${url}/metrics?x=1`);
  t.strictSame([scrape.status, await scrape.text()], [200, 'up 1\n']);
  t.equal(
    (await fetch(`${url}/v1/plugins`, { headers: { authorization: `Bearer ${ADMIN}` } })).status,
    404,
  );
  const wrong = await fetch(`${url}/metrics`, { method: 'POST' });
  t.strictSame([wrong.status, wrong.headers.get('allow')], [405, 'GET, HEAD']);
  metrics = () => Promise.reject(new Error('secret'));
  const failed = await fetch(`${url}/metrics`);
  t.equal(failed.status, 500);
  t.notMatch(await failed.text(), /secret/);
  t.equal(failures.length, 1);

  const taken = createMetricsListener({ metrics, onError: () => undefined });
  await t.rejects(taken.listen({ host: '127.0.0.1', port }), {
    code: 'CONFLICT',
    message: /--metrics-port/,
  });
});
