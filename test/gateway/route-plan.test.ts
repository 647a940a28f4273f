/** POST /v1/route: the plan for a call is what the call then does, and what refuses one refuses the other. */
import t from 'tap';
import { UpstreamRoutes } from '../../host/gateway/upstream/routes.ts';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import { isOwnPath } from '../../host/config/routes.ts';
import { ADMIN, manifest, startFront } from '../transports/front.ts';
import { CALLER, routesOf } from './upstream-kit.ts';

t.setTimeout(60_000);

type Plan = {
  code?: string;
  detail?: string;
  request_id: string;
  policy_enforced: boolean;
  timestamp: string;
  route_plan: {
    operation: string;
    target: object;
    steps: { step: string }[];
    capability: object | null;
  };
};

const notes = manifest({
  name: 'notes',
  exports: { read: { timeoutMs: 1234 }, invoke: {} },
  contributes: {
    routes: [{ method: 'GET', path: '/notes/:id', export: 'read' }],
    grpc: [{ method: 'noa.api.v1.InferenceService/Invoke', export: 'invoke' }],
  },
  capabilities: [
    {
      capability: 'store',
      operations: ['get'],
      resources: ['notes.*'],
      reason: 'Reads.',
      optional: true,
    },
  ],
});

void t.test('a plan', async (t) => {
  const upstreams = new UpstreamRoutes(
    { now: () => 0, isOwnPath, onBreaker: () => undefined },
    routesOf([
      {
        name: 'orders',
        path: '/orders',
        methods: ['GET'],
        scope: 'orders:read',
        timeout_ms: 777,
        upstreams: [{ url: 'http://127.0.0.1:1' }, { url: 'http://127.0.0.1:2' }],
      },
    ]),
  );
  const gateway = new Gateway({
    authenticator: new Authenticator({
      credentials: [
        { token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } },
        { token: CALLER, principal: { subject: 'user:anna', scopes: ['orders:read'] } },
      ],
      now: Date.now,
    }),
    policy: {
      default_policy: 'deny',
      policies: [
        {
          name: 'everyone',
          effect: 'allow',
          operations: ['POST /v1/*', 'GET *', 'noa.*', 'POST unmatched'],
        },
        {
          name: 'not-anna',
          effect: 'deny',
          operations: ['GET /v1/secrets'],
          subjects: ['user:anna'],
        },
      ],
    },
    denied: () => undefined,
  });
  const front = await startFront({ gateway, upstreams });
  t.teardown(() => front.close());
  await front.install(notes, { read: () => ({}), invoke: () => ({}) });
  const ask = async (body: object, token = ADMIN): Promise<Plan & { status: number }> => {
    const headers = { 'content-type': 'application/json' };
    const answer = await front.request<Plan>('POST', '/v1/route', {
      token,
      headers,
      body: JSON.stringify(body),
    });
    return { ...answer.body, status: answer.status };
  };
  const rest = (path: string, method = 'GET', more: object = {}) => ({
    protocol: 'rest',
    payload: { method, path },
    ...more,
  });
  const stepOf = (plan: Plan, name: string) =>
    plan.route_plan.steps.find(({ step }) => step === name);

  await t.test('says who answers, under which name and until when', async (t) => {
    const plugin = await ask({ request_id: 'mine', ...rest('/plugins/notes/notes/7?x=1') });
    t.match(plugin, {
      status: 200,
      request_id: 'mine',
      policy_enforced: true,
      timestamp: /^\d{4}-.*Z$/,
      route_plan: {
        operation: 'GET /plugins/notes/notes/:id',
        transport: 'http',
        target: { kind: 'plugin', plugin: 'notes', version: '1.0.0', export: 'read' },
        capability: null,
      },
    });
    t.match(stepOf(plugin, 'authenticate'), { subject: 'root' });
    t.match(stepOf(plugin, 'policy'), { allowed_by: ['everyone'] });
    t.match(stepOf(plugin, 'dispatch'), { deadline_ms: 1234 });

    const upstream = await ask(rest('/orders/1'), CALLER);
    t.match(upstream.route_plan, {
      operation: 'GET /orders/*',
      target: { kind: 'upstream', route: 'orders', servers: 2 },
    });
    t.match(stepOf(upstream, 'authorize'), { scopes: ['orders:read'] });
    t.match(stepOf(upstream, 'dispatch'), { deadline_ms: 777 });

    const host = await ask(rest('/v1/plugins/notes'));
    t.match(host.route_plan, { operation: 'GET /v1/plugins/:name', target: { kind: 'host' } });
    t.match(stepOf(host, 'authorize'), { scopes: ['plugins:read'] });

    const exported = await ask({
      protocol: 'plugin',
      payload: { plugin: 'notes', export: 'read' },
    });
    t.match(exported.route_plan, {
      operation: 'POST /v1/plugins/:name/exports/:export',
      target: { kind: 'plugin', export: 'read' },
    });
    for (const body of [
      { protocol: 'inference', payload: { model: 'any' } },
      { protocol: 'grpc', payload: { service: 'noa.api.v1.InferenceService', method: 'Invoke' } },
    ]) {
      t.match((await ask(body)).route_plan, {
        operation: 'noa.api.v1.InferenceService/Invoke',
        transport: 'grpc',
        target: { plugin: 'notes', export: 'invoke' },
      });
    }
  });

  await t.test('is refused as the call would be', async (t) => {
    for (const [body, status, code, token] of [
      [rest('/plugins/none/x'), 404, 'NOT_FOUND'],
      [rest('/plugins/notes/none'), 404, 'NOT_FOUND'],
      [rest('/no/such'), 404, 'NOT_FOUND'],
      [rest('/v1/none'), 404, 'NOT_FOUND'],
      [rest('/plugins/notes/notes/1', 'POST'), 403, 'PERMISSION_DENIED'],
      [rest('/orders/..%2fx'), 400, 'INVALID_ARGUMENT'],
      [rest('/v1/grants'), 403, 'PERMISSION_DENIED', CALLER],
      [rest('/v1/secrets'), 403, 'PERMISSION_DENIED', CALLER],
      [
        rest('/orders', 'GET', { required_permission: 'orders:write' }),
        403,
        'PERMISSION_DENIED',
        CALLER,
      ],
      [{ protocol: 'plugin', payload: { plugin: 'notes', export: 'none' } }, 404, 'NOT_FOUND'],
      [
        { protocol: 'plugin', payload: { plugin: 'notes', export: 'read' } },
        403,
        'PERMISSION_DENIED',
        CALLER,
      ],
      [{ protocol: 'retrieval', payload: {} }, 405, 'METHOD_NOT_ALLOWED'],
      [{ protocol: 'rest', payload: {} }, 400, 'INVALID_ARGUMENT'],
      [{ protocol: 'rest', payload: { path: 'x' } }, 400, 'INVALID_ARGUMENT'],
      [{ protocol: 'grpc', payload: { service: 'a b', method: 'c' } }, 400, 'INVALID_ARGUMENT'],
      [{ protocol: 'carrier-pigeon', payload: {} }, 400, 'INVALID_ARGUMENT'],
      [{ protocol: 'rest', payload: { path: '/x' }, more: 1 }, 400, 'INVALID_ARGUMENT'],
      [{ payload: {} }, 400, 'INVALID_ARGUMENT'],
    ] as [object, number, string, string?][]) {
      t.match(await ask(body, token), { status, code }, JSON.stringify(body));
    }
    t.match(await front.request('POST', '/v1/route', { token: null }), { status: 401 });
    const held = await ask(rest('/orders', 'GET', { required_permission: 'orders:read' }), CALLER);
    t.match(held, { status: 200 });
  });

  await t.test('tells whether the target holds the right', async (t) => {
    const scoped = (capability_scope: unknown) =>
      ask({ ...rest('/plugins/notes/notes/7'), capability_scope });
    const exact = { capability: 'store', operations: ['get'], resources: ['notes.list'] };
    t.match(await scoped('store:notes.list'), { status: 403, code: 'CAPABILITY_DENIED' });
    t.match(await scoped(exact), {
      status: 403,
      code: 'CAPABILITY_DENIED',
      detail: /pending.*noa grant list notes/,
    });
    const { body } = await front.request<{ grants: { id: string }[] }>(
      'GET',
      '/v1/grants?plugin=notes',
    );
    await front.kernel.administration.approve(body.grants[0]?.id ?? '', {}, 'test');
    t.match(await scoped('store:notes.list'), {
      status: 200,
      route_plan: {
        capability: { capability: 'store', operations: ['get'], resources: ['notes.list'] },
      },
    });
    t.match(await scoped('store:notes.*'), { status: 200 });
    t.match(await scoped(exact), { status: 200, route_plan: { capability: exact } });
    t.match(await scoped('store:others.x'), { status: 403, code: 'CAPABILITY_DENIED' });
    t.match(await scoped({ ...exact, operations: ['get', 'put'] }), {
      status: 400,
      code: 'INVALID_ARGUMENT',
    });
    t.match(await scoped({ ...exact, resources: ['notes.list', 'x'] }), { status: 403 });
    t.match(await ask({ ...rest('/orders/1'), capability_scope: 'store:x' }), { status: 400 });
  });

  await t.test('names the hooks that will run', async (t) => {
    const guard = manifest({
      name: 'guard',
      exports: { judge: {}, note: {} },
      contributes: {
        hooks: [
          { on: 'beforeRequest', export: 'judge', operations: ['GET /plugins/*'] },
          { on: 'afterResponse', export: 'note', operations: ['GET /plugins/*'] },
        ],
      },
    });
    await front.install(guard, { judge: () => ({}), note: () => ({}) });
    t.notOk(stepOf(await ask(rest('/plugins/notes/notes/7')), 'hook'), 'none without a grant');
    const { body } = await front.request<{ grants: { id: string }[] }>(
      'GET',
      '/v1/grants?plugin=guard',
    );
    for (const { id } of body.grants) await front.kernel.administration.approve(id, {}, 'test');
    const planned = await ask(rest('/plugins/notes/notes/7'));
    t.same(
      planned.route_plan.steps.map(({ step }) => step),
      ['authenticate', 'policy', 'hook', 'authorize', 'dispatch', 'notify'],
    );
    t.match(stepOf(planned, 'hook'), { plugin: 'guard', export: 'judge' });
  });
});

void t.test('without a policy it says so', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  const { status, body } = await front.post('/v1/route', {
    protocol: 'rest',
    payload: { path: '/v1/plugins' },
  });
  t.equal(status, 200);
  t.equal(body['policy_enforced'], false);
});
