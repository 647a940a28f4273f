/** Plugins that take part in the requests of others, on the front over the real kernel. */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { type HookSpec, type Json, NoaError } from '@noa/sdk/host';
import { RawText, type Exports, manifest, READER, startFront } from '../transports/front.ts';
import { headers, startGrpc } from '../transports/grpc-front.ts';
import { Backend, routesOf, until } from './upstream-kit.ts';
import type { RuntimeCall } from '../../host/kernel/loader.ts';
import { Hooks } from '../../host/gateway/hooks.ts';
import { UpstreamRoutes } from '../../host/gateway/upstream/routes.ts';

t.setTimeout(60_000);

type Front = Awaited<ReturnType<typeof startFront>>;

const notes = manifest({
  name: 'notes',
  exports: { read: {}, write: {} },
  contributes: {
    routes: [
      { method: 'GET', path: '/notes/:id', export: 'read' },
      { method: 'POST', path: '/notes', export: 'write' },
    ],
  },
});

async function start(t: Test): Promise<Front> {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(notes, { read: () => ({ text: 'hello' }), write: () => ({ ok: true }) });
  return front;
}

/** Installs a plugin with hooks and approves what it asks for. */
async function hook(
  front: Front,
  name: string,
  hooks: HookSpec[],
  exports: Exports,
  approve = true,
): Promise<string[]> {
  const specs = Object.fromEntries(Object.keys(exports).map((key) => [key, {}]));
  await front.install(manifest({ name, exports: specs, contributes: { hooks } }), exports);
  const { body } = await front.get<{ grants: { id: string; reason: string }[] }>(
    `/v1/grants?plugin=${name}`,
  );
  if (approve) for (const { id } of body.grants) await front.post(`/v1/grants/${id}/approve`);
  return body.grants.map(({ reason }) => reason);
}

/** What a loader does with a call that does not end. */
async function stall({ deadline }: RuntimeCall): Promise<never> {
  t.ok(deadline <= Date.now() + 500, 'a hook has a time of its own');
  await sleep(deadline - Date.now());
  throw new NoaError('DEADLINE_EXCEEDED', 'late');
}

const before = (operations: string[], more: Partial<HookSpec> = {}): HookSpec => ({
  on: 'beforeRequest',
  export: 'judge',
  operations,
  ...more,
});

void t.test('before a request', async (t) => {
  const front = await start(t);
  const seen: Json[] = [];
  let verdict: unknown = {};
  const judge = (input: Json): unknown => {
    seen.push(input);
    return verdict;
  };
  const reasons = await hook(front, 'guard', [before(['GET /plugins/notes/*'])], { judge });
  t.match(reasons, [/judges these requests; while it fails, they are refused/]);

  const ask = (headers: Record<string, string> = {}) =>
    front.request('GET', '/plugins/notes/notes/7?a=1&a=2&b=x', { token: READER, headers });
  const answer = await ask({
    cookie: 'a=1',
    'x-api-key': 'k',
    'x-tenant': 'acme',
    'x-noa-subject': 'bootstrap',
    'x-auth-token': 's',
    'user-agent': 'test',
    'x-request-id': 'id-1',
  });
  t.match(answer, { status: 200, body: { text: 'hello' } });
  t.match(seen, [
    {
      operation: 'GET /plugins/notes/notes/:id',
      method: 'GET',
      path: '/plugins/notes/notes/7',
      query: { a: '1,2', b: 'x' },
      subject: 'reader',
      roles: [],
      requestId: 'id-1',
      headers: { 'x-tenant': 'acme', 'user-agent': 'test' },
    },
  ]);
  t.notMatch(
    JSON.stringify(seen),
    /authorization|Bearer|cookie|api-key|bootstrap|auth-token/i,
    'no credential',
  );

  verdict = { setHeaders: { response: { 'X-Judged': 'yes' } } };
  t.equal((await ask()).headers.get('x-judged'), 'yes');

  verdict = { deny: { code: 'PERMISSION_DENIED', message: 'notes are closed' } };
  t.match(await ask(), {
    status: 403,
    body: { code: 'PERMISSION_DENIED', detail: 'notes are closed' },
  });
  t.match(front.denied.at(-1), {
    kind: 'policy',
    subject: 'reader',
    policy: 'hook of plugin guard',
  });
  t.match(
    await front.post('/plugins/notes/notes', { text: 'x' }),
    { status: 200 },
    'others are not asked about',
  );
  t.equal(front.hooked.filter((text) => text === 'guard beforeRequest denied').length, 1);

  await t.test('whatever is no answer of a hook refuses the request', async (t) => {
    for (const wrong of [
      null,
      'yes',
      [],
      { allow: true },
      { deny: { code: 'NO_SUCH_CODE', message: 'x' } },
      { deny: { code: 'NOT_FOUND' } },
      { setHeaders: { response: { host: 'x' } } },
      { setHeaders: { request: { 'x-noa-subject': 'bootstrap' } } },
      { setHeaders: { response: { 'x-a': 'a\r\nb: c' } } },
      { setHeaders: { response: { 'x a': 'b' } } },
      { setHeaders: { cookies: {} } },
      new RawText('no json'),
    ]) {
      verdict = wrong;
      t.match(await ask(), { status: 503, body: { code: 'UNAVAILABLE' } }, JSON.stringify(wrong));
    }
    verdict = {};
    t.match(await ask(), { status: 200 });
    t.match(front.failing, [/^guard PLUGIN_OUTPUT_INVALID/, 'guard works'], 'told once each');
  });
});

void t.test('a hook needs its grant, and only what is granted is judged', async (t) => {
  const front = await start(t);
  const deny = () => ({ deny: { code: 'NOT_FOUND', message: 'hidden' } });
  await hook(
    front,
    'guard',
    [before(['GET /plugins/notes/*', 'POST /plugins/notes/*'])],
    { judge: deny },
    false,
  );
  const get = async () => (await front.get('/plugins/notes/notes/1')).status;
  const post = async () => (await front.post('/plugins/notes/notes', {})).status;
  t.same([await get(), await post()], [200, 200], 'nothing without a grant');
  t.match((await front.get('/v1/plugins/guard')).body, {
    state: 'pending',
    hooks: [
      { on: 'beforeRequest', export: 'judge', inactive: /not granted for GET.*noa grant approve/ },
    ],
  });
  const { body } = await front.get<{
    grants: { id: string; capability: string; operations: string[] }[];
  }>('/v1/grants?plugin=guard');
  t.match(body.grants, [{ capability: 'gateway', operations: ['beforeRequest'] }]);
  const id = body.grants[0]?.id ?? '';
  const part = { resources: ['GET /plugins/notes/*'] };
  t.match(await front.post(`/v1/grants/${id}/approve`, part), { status: 200 });
  await front.post('/v1/grants', {
    plugin: 'guard',
    capability: 'gateway',
    operations: ['beforeRequest'],
    resources: ['*'],
  });
  t.match(await front.request('DELETE', `/v1/grants/${id}`), { status: 200 });
  const others = await front.get<{ grants: { id: string; status: string }[] }>(
    '/v1/grants?plugin=guard',
  );
  for (const grant of others.body.grants) {
    if (grant.status === 'approved') await front.request('DELETE', `/v1/grants/${grant.id}`);
  }
  t.same([await get(), await post()], [200, 200], 'a revocation holds at the next request');
  await front.post(`/v1/grants/${id}/approve`, part);
  t.same([await get(), await post()], [404, 200], 'narrower than asked');
  await front.post('/v1/plugins/guard/disable');
  t.same([await get(), await post()], [200, 200], 'disabled by an operator, it is gone');
});

void t.test('a hook that fails', async (t) => {
  const front = await start(t);
  let how: (call: RuntimeCall) => unknown = () => ({});
  const reasons = await hook(front, 'shut', [before(['GET /plugins/notes/*'])], {
    judge: (_input, call) => how(call),
  });
  t.match(reasons, [/are refused/]);
  const open = await hook(front, 'open', [before(['POST /plugins/notes/*'], { failOpen: true })], {
    judge: (_input, call) => how(call),
  });
  t.match(open, [/go on unjudged/], 'the administrator reads it before deciding');
  const get = () => front.get('/plugins/notes/notes/1');
  const post = () => front.post('/plugins/notes/notes', {});

  for (const [what, failure] of [
    [
      'throws',
      () => {
        throw new NoaError('PLUGIN_TRAP', 'secret of the plugin');
      },
    ],
    ['never answers', stall],
    [
      'throws a code of its own',
      () => {
        throw new NoaError('NOT_FOUND', 'x');
      },
    ],
  ] as [string, (call: RuntimeCall) => unknown][]) {
    how = failure;
    const refused = await get();
    t.match(refused, { status: 503, body: { code: 'UNAVAILABLE' } }, what);
    t.notMatch(refused.text, /secret of the plugin|shut/);
    t.match(await post(), { status: 200 }, `${what}, and requests go on where that was granted`);
  }

  await t.test('never keeps an operator from removing it', async (t) => {
    how = () => ({ deny: { code: 'PERMISSION_DENIED', message: 'mine' } });
    await hook(front, 'greedy', [before(['*'])], { judge: (_input, call) => how(call) });
    t.match(await front.get('/plugins/notes/notes/1'), { status: 403 });
    t.match(await front.get('/no/such/path'), { status: 403 }, 'nor is anything else left out');
    t.match(await front.post('/v1/plugins/notes/exports/read', {}), { status: 403 });
    for (const path of [
      '/v1/plugins',
      '/v1/plugins/greedy',
      '/v1/grants',
      '/v1/audit',
      '/metrics',
      '/v1/tokens/keys',
    ]) {
      t.match(await front.get(path), { status: 200 }, path);
    }
    t.match(await front.request('DELETE', '/v1/plugins/greedy'), { status: 204 });
    how = () => ({});
    t.match(await front.get('/plugins/notes/notes/1'), { status: 200 });
  });
});

void t.test('hooks run in their order, and the first refusal is the answer', async (t) => {
  const front = await start(t);
  const ran: string[] = [];
  for (const [name, order] of [
    ['late', 5],
    ['early', -5],
    ['beta', 0],
    ['alpha', 0],
  ] as const) {
    const judge = () => {
      ran.push(name);
      if (name === 'late') return { deny: { code: 'CONFLICT', message: name } };
      return { setHeaders: { response: { 'x-by': name } } };
    };
    await hook(front, name, [before(['GET /plugins/notes/*'], { order })], { judge });
  }
  t.match(await front.get('/plugins/notes/notes/1'), { status: 409, body: { detail: 'late' } });
  t.same(ran, ['early', 'alpha', 'beta', 'late']);
});

void t.test('after an answer', async (t) => {
  const front = await start(t);
  const told: Json[] = [];
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const hooks: HookSpec[] = [
    { on: 'afterResponse', export: 'note', operations: ['GET /plugins/notes/*', 'GET unmatched'] },
  ];
  const note = async (input: Json): Promise<Json> => {
    told.push(input);
    if (told.length === 1) await held;
    return { ignored: true };
  };
  t.match(await hook(front, 'diary', hooks, { note }), [/is told of answers/]);
  t.match(await front.get('/plugins/notes/notes/1'), { status: 200 }, 'nobody waits for it');
  t.match(await front.get('/plugins/notes/none'), { status: 404 });
  t.match(await front.get('/no/such/path'), { status: 404 });
  await until(() => told.length >= 2);
  release();
  t.match(told[0], {
    operation: 'GET /plugins/notes/notes/:id',
    status: 200,
    subject: 'root',
    durationMs: Number,
  });
  t.match(told.at(-1), { operation: 'GET unmatched', status: 404 });
});

void t.test('what nobody has time to be told of is counted', async (t) => {
  const outcomes: string[] = [];
  const release: (() => void)[] = [];
  const hooks = new Hooks({
    snapshot: () => {
      throw new TypeError('not asked');
    },
    dispatch: () =>
      new Promise((resolve) => release.push(() => resolve({ value: null, text: 'null' }))),
    timeoutMs: 1000,
    now: Date.now,
    observe: (_plugin, _on, outcome) => outcomes.push(outcome),
    onFailing: () => undefined,
  });
  const diary = {
    plugin: 'diary',
    on: 'afterResponse',
    export: 'note',
    operations: ['*'],
    order: 0,
    failOpen: false,
  } as const;
  const principal = { subject: 'user:anna', scopes: [] };
  const request = { operation: 'GET /x', method: 'GET', principal, requestId: 'r', traceId: 't' };
  for (let i = 0; i < 1100; i += 1) hooks.after([diary], request, { status: 200, durationMs: 1 });
  t.equal(release.length, 16, 'so many run at a time');
  t.same(outcomes, Array(84).fill('dropped'), 'a thousand wait');
  while (outcomes.length < 1100) {
    for (const each of release.splice(0)) each();
    await sleep(0);
  }
  t.equal(outcomes.filter((outcome) => outcome === 'passed').length, 1016);
});

void t.test('headers for a server behind a route', async (t) => {
  const backend = await new Backend((request, response) => {
    response.setHeader('x-theirs', 'server');
    response.setHeader('x-mine', 'server');
    response.end(JSON.stringify(request.headers));
  }).listen();
  const upstreams = new UpstreamRoutes(
    { now: () => performance.now(), isOwnPath: () => false, onBreaker: () => undefined },
    routesOf([{ name: 'r', path: '/r', upstreams: [{ url: backend.url }] }]),
  );
  const front = await startFront({ upstreams });
  t.teardown(async () => {
    await front.close();
    await upstreams.close();
    await backend.close();
  });
  const judge = () => ({
    setHeaders: {
      request: { authorization: 'Bearer theirs', 'x-tenant': 'acme' },
      response: { 'x-mine': 'hook' },
    },
  });
  await hook(front, 'exchange', [before(['GET /r/*'])], { judge });
  const answer = await front.request('GET', '/r/x', { headers: { 'x-tenant': 'from-caller' } });
  t.match(JSON.parse(answer.text), { authorization: 'Bearer theirs', 'x-tenant': 'acme' });
  t.equal(answer.headers.get('x-mine'), 'hook');
  t.equal(answer.headers.get('x-theirs'), 'server');
});

void t.test('over gRPC', async (t) => {
  const grpc = await startGrpc();
  t.teardown(() => grpc.close());
  const INVOKE = 'noa.api.v1.InferenceService/Invoke';
  const model = manifest({
    name: 'model',
    exports: { invoke: {} },
    contributes: { grpc: [{ method: INVOKE, export: 'invoke' }] },
  });
  await grpc.install(model, { invoke: () => ({ note: 'ran' }) });
  const seen: Json[] = [];
  const told: Json[] = [];
  let verdict: unknown = {};
  const hooks: HookSpec[] = [
    before(['noa.api.v1.*']),
    { on: 'afterResponse', export: 'note', operations: ['*'] },
  ];
  const judge = (input: Json): unknown => {
    seen.push(input);
    return verdict;
  };
  await hook(grpc.front, 'guard', hooks, { judge, note: (input) => told.push(input) });
  const call = () =>
    grpc.call(INVOKE, {}, headers(READER, { 'x-tenant': 'acme', 'x-api-secret': 's' }));

  t.match((await call()).message, { note: 'ran' });
  t.match(seen, [{ operation: INVOKE, subject: 'reader', headers: { 'x-tenant': 'acme' } }]);
  t.notMatch(JSON.stringify(seen), /Bearer|api-secret/);
  verdict = { deny: { code: 'PERMISSION_DENIED', message: 'not this model' } };
  await t.rejects(call(), { code: 7, details: /not this model/ });
  t.match(grpc.denied.at(-1), { kind: 'policy', policy: 'hook of plugin guard' });
  verdict = 'nonsense';
  await t.rejects(call(), { code: 14 });
  await until(() => told.length === 3);
  t.match(
    told.map((each) => (each as { status: number }).status),
    [200, 403, 503],
  );
});
