/** A plugin from its installation to its removal, over HTTP: what it may do follows its grants, at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { bundleOf, repacked, RunningHost } from './running-host.ts';

const host = await RunningHost.start();
t.teardown(() => host.dispose());
const [notes, digest, rogue] = await Promise.all(
  ['plugins/examples/notes', 'plugins/examples/digest', 'test/fixtures/plugins/rogue'].map(
    bundleOf,
  ),
);
if (!notes || !digest || !rogue) throw new Error('the bundles are missing');

t.test('an installed plugin asks for grants, gets none, and does not serve', async (t) => {
  const installed = await host.install(notes);
  t.match(installed, {
    name: 'notes',
    version: '1.0.0',
    state: 'pending',
    digest: /^[0-9a-f]{64}$/,
  });
  const requested = installed['requested'] as {
    capability: string;
    status: string;
    reason: string;
  }[];
  t.strictSame(requested.map(({ capability }) => capability).sort(), ['cache', 'db']);
  for (const { status, reason } of requested) {
    t.equal(status, 'pending');
    t.ok(reason);
  }
  t.match(await host.post('/plugins/notes/notes', { text: 'x' }), {
    status: 409,
    body: { code: 'GRANT_PENDING', status: 409 },
  });
  t.match(await host.post('/v1/plugins', notes), { status: 409, body: { code: 'CONFLICT' } });
});

t.test(
  'once all that it requires is granted it serves, with state in database and cache',
  async (t) => {
    await host.approve('notes');
    const created = await host.post('/plugins/notes/notes', { text: 'buy milk — “日本” 🥛' });
    t.match(created, { status: 201, body: { id: String, text: 'buy milk — “日本” 🥛' } });
    const id = String(created.body['id']);
    t.match(await host.get(`/plugins/notes/notes/${id}`), { status: 200, body: { id, reads: 1 } });
    t.match(await host.get(`/plugins/notes/notes/${id}`), { status: 200, body: { id, reads: 2 } });
    t.match(await host.get('/plugins/notes/notes?limit=5'), {
      status: 200,
      body: { notes: [{ id }] },
    });
    t.match(await host.call('notes', 'list', {}), { status: 200, body: { notes: [{ id }] } });
  },
);

t.test('input that breaks the schema, unknown things and wrong methods are named', async (t) => {
  t.match(await host.post('/plugins/notes/notes', { text: '' }), {
    status: 400,
    body: { code: 'INVALID_ARGUMENT', detail: /text/ },
  });
  t.match(await host.post('/plugins/notes/notes', { text: 'x', extra: 1 }), { status: 400 });
  t.match(await host.get('/plugins/notes/notes?limit=many'), {
    status: 400,
    body: { detail: /limit/ },
  });
  t.match(await host.get('/plugins/notes/notes/none'), {
    status: 404,
    body: { code: 'NOT_FOUND' },
  });
  t.match(await host.get('/plugins/absent/x'), { status: 404, body: { code: 'NOT_FOUND' } });
  t.match(await host.get('/plugins/notes/absent'), { status: 404, body: { code: 'NOT_FOUND' } });
  t.match(await host.request('DELETE', '/plugins/notes/notes'), { status: 405 });
  t.match(await host.call('notes', 'absent'), { status: 404, body: { detail: /create/ } });
});

t.test('a call between plugins has the rights of both, and no more', async (t) => {
  await host.install(digest);
  await host.approve('digest');
  t.match(await host.get('/plugins/digest/digest'), { status: 200, body: { notes: 1 } });
  const { body } = await host.get('/v1/grants?plugin=digest');
  const grants = body['grants'] as { id: string; capability: string }[];
  const db = grants.find(({ capability }) => capability === 'db');
  await host.request('DELETE', `/v1/grants/${db?.id}`);
  t.match(await host.get('/plugins/digest/digest'), {
    status: 403,
    body: { code: 'CAPABILITY_DENIED', detail: /db/ },
  });
  t.match(await host.get('/plugins/notes/notes'), { status: 200 }, 'notes itself keeps its right');
});

t.test('a revoked grant is denied at the next capability call of a call that runs', async (t) => {
  await host.install(rogue);
  const ids = await host.approve('rogue');
  t.match(await host.call('rogue', 'get', { key: 'rogue:x' }), { status: 200 });
  await host.request('DELETE', `/v1/grants/${ids.get('cache')}`);
  t.match(await host.call('rogue', 'get', { key: 'rogue:x' }), {
    status: 403,
    body: { code: 'CAPABILITY_DENIED', detail: /cache\.get/ },
  });
  t.match(await host.call('rogue', 'query', { sql: 'select 1 as one' }), {
    status: 200,
    body: { rows: [{ one: 1 }] },
  });
  await host.post(`/v1/grants/${ids.get('cache')}/approve`);
  t.match(await host.call('rogue', 'get', { key: 'rogue:x' }), { status: 200 });
});

t.test('a narrower approval than asked for is what holds', async (t) => {
  const { body } = await host.get('/v1/grants?plugin=rogue');
  const grants = body['grants'] as { id: string; capability: string }[];
  const id = grants.find(({ capability }) => capability === 'cache')?.id;
  t.match(await host.post(`/v1/grants/${id}/approve`, { resources: ['rogue:safe:*'] }), {
    status: 200,
  });
  t.match(await host.call('rogue', 'get', { key: 'rogue:safe:x' }), { status: 200 });
  t.match(await host.call('rogue', 'get', { key: 'rogue:x' }), { status: 403 });
  t.match(await host.post(`/v1/grants/${id}/approve`, { resources: ['*'] }), { status: 400 });
  await host.post(`/v1/grants/${id}/approve`);
  t.match(await host.call('rogue', 'get', { key: 'rogue:x' }), { status: 200 });
  t.match(await host.call('rogue', 'get', { key: 'notes:reads:x' }), {
    status: 403,
    body: { code: 'CAPABILITY_DENIED' },
  });
});

t.test(
  'a grant beyond the request gives nothing, and a wrong grant is refused with its rule',
  async (t) => {
    const wide = {
      plugin: 'rogue',
      capability: 'cache',
      operations: ['get'],
      resources: ['notes:*'],
    };
    t.match(await host.post('/v1/grants', wide), { status: 201, body: { status: 'approved' } });
    t.match(await host.call('rogue', 'get', { key: 'notes:x' }), { status: 403 });
    for (const [change, word] of [
      [{ capability: 'disk' }, /disk/],
      [{ operations: ['fly'] }, /fly/],
      [{ resources: [] }, /resources/],
      [{ extra: true }, /extra/],
    ] as const) {
      t.match(await host.post('/v1/grants', { ...wide, ...change }), {
        status: 400,
        body: { code: 'INVALID_ARGUMENT', detail: word },
      });
    }
    t.match(await host.post('/v1/grants', { ...wide, plugin: 'absent' }), { status: 404 });
  },
);

t.test('another plugin’s rows are out of reach, whatever SQL says', async (t) => {
  for (const sql of [
    'select * from notes.notes',
    'set role noa; select 1',
    'select * from noa.grants',
    'select * from pg_authid',
    "copy (select 1) to program 'id'",
  ]) {
    const answer = await host.call('rogue', 'execute', { sql });
    t.ok(answer.status === 403 || answer.status === 400, `${sql} → ${answer.status}`);
    t.notMatch(JSON.stringify(answer.body), /buy milk/);
  }
});

t.test(
  'disable, enable and remove hold at once; removal drops data unless it is kept',
  async (t) => {
    t.match(await host.post('/v1/plugins/notes/disable'), {
      status: 200,
      body: { enabled: false },
    });
    t.match(await host.get('/plugins/notes/notes'), {
      status: 409,
      body: { code: 'PLUGIN_DISABLED' },
    });
    t.match(
      await host.get('/v1/plugins/digest'),
      { body: { reason: /notes/ } },
      'its dependant says why',
    );
    t.match(await host.post('/v1/plugins/notes/enable'), {
      status: 200,
      body: { state: 'serving' },
    });
    t.match(await host.get('/plugins/notes/notes'), { status: 200, body: { notes: [Object] } });

    t.match(await host.request('DELETE', '/v1/plugins/notes?data=keep'), { status: 204 });
    t.match(await host.get('/plugins/notes/notes'), { status: 404 });
    await host.install(notes);
    await host.approve('notes');
    t.match(
      await host.get('/plugins/notes/notes'),
      { body: { notes: [Object] } },
      'kept data is back',
    );

    t.match(await host.request('DELETE', '/v1/plugins/notes'), { status: 204 });
    await host.install(notes);
    await host.approve('notes');
    t.match(await host.get('/plugins/notes/notes'), { body: { notes: [] } });
  },
);

t.test('an upgrade takes over without a failed request, and a rollback returns', async (t) => {
  const failures: unknown[] = [];
  let running = true;
  const traffic = (async () => {
    while (running) {
      const answer = await host.call('rogue', 'echo', { n: 1 });
      if (answer.status !== 200) failures.push(answer.body);
    }
  })();
  const manifest = { version: '1.1.0' };
  const next = await host.request('PUT', '/v1/plugins/rogue', await repacked(rogue, manifest));
  t.match(next, { status: 200, body: { version: '1.1.0', state: 'serving' } });
  await sleep(50);
  t.match(await host.post('/v1/plugins/rogue/rollback'), {
    status: 200,
    body: { version: '1.0.0' },
  });
  running = false;
  await traffic;
  t.strictSame(failures, []);
});

t.test('an upgrade that asks for more waits while the old version serves', async (t) => {
  const manifest = {
    version: '2.0.0',
    capabilities: [
      {
        capability: 'cache',
        operations: ['get', 'lock'],
        resources: ['rogue:*'],
        reason: 'Locks too.',
      },
      {
        capability: 'db',
        operations: ['query', 'execute'],
        resources: ['rogue.*'],
        reason: 'SQL.',
      },
    ],
  };
  t.match(await host.request('PUT', '/v1/plugins/rogue', await repacked(rogue, manifest)), {
    status: 200,
    body: { version: '1.0.0', state: 'serving', candidate: { version: '2.0.0' } },
  });
  t.match(await host.call('rogue', 'echo', 1), { status: 200 });
  await host.approve('rogue');
  t.match(await host.get('/v1/plugins/rogue'), { body: { version: '2.0.0', candidate: null } });
});

t.test('the audit tells the story in order and verifies', async (t) => {
  const verified = await host.post('/v1/audit/verify');
  t.match(verified, { status: 200, body: { ok: true, chains: [{ seq: Number }] } });
  const seen: string[] = [];
  let cursor = '';
  do {
    const { body } = await host.get(`/v1/audit?limit=50${cursor && `&cursor=${cursor}`}`);
    const records = body['records'] as { kind: string; plugin: string | null; outcome: string }[];
    seen.push(...records.map(({ kind, outcome }) => `${kind} ${outcome}`));
    cursor = typeof body['next'] === 'string' ? body['next'] : '';
  } while (cursor);
  t.equal(seen.length, verified.body['records']);
  for (const kind of [
    'plugin.install ok',
    'grant.approve ok',
    'grant.revoke ok',
    'grant.add ok',
    'capability.use ok',
    'capability.denial denied',
    'plugin.upgrade ok',
    'plugin.rollback ok',
    'plugin.disable ok',
    'plugin.remove ok',
  ]) {
    t.ok(seen.includes(kind), kind);
  }
});
