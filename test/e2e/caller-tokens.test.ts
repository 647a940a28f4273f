/** Capability tokens of machine callers: what they let their bearers do, on two hosts, from the command line and over REST. */
import { createHmac, hkdfSync } from 'node:crypto';
import { tmpdir } from 'node:os';
import { SignJWT, UnsecuredJWT } from 'jose';
import { Pool } from 'pg';
import t from 'tap';
import { WebSocket } from 'ws';
import { noa } from '../cli/noa.ts';
import { bundleOf, eventually, type RunningHost } from './running-host.ts';
import { twoHosts } from './two-hosts.ts';

const ROOT_KEY = 'q'.repeat(43) + '=';

interface Made {
  readonly id: string;
  readonly token: string;
  readonly expiresAt: string;
}

const { one, two, url } = await twoHosts(t);
const database = new Pool({ connectionString: url });
// A server that ends says so to connections that are closing.
database.on('error', () => undefined);
t.teardown(() => database.end());
await one.install(await bundleOf('plugins/examples/notes'));
await one.install(await bundleOf('plugins/examples/orders'));
await one.approve('notes');
await one.approve('orders');
await eventually(
  'both hosts serve',
  async () => (await two.get('/v1/plugins/orders')).body['state'] === 'serving',
);
/** Every token that was given out, to be looked for where it must not be. */
const given: string[] = [];

async function mint(input: object, by = one.token, path = '/v1/tokens'): Promise<Made> {
  const authorization = `Bearer ${by}`;
  const { status, body } = await one.request('POST', path, input, { authorization });
  if (status !== 201) throw new Error(JSON.stringify(body));
  const { id, token, expiresAt } = body;
  const made: Made = { id: String(id), token: String(token), expiresAt: String(expiresAt) };
  given.push(made.token);
  return made;
}

function call(host: RunningHost, token: string, target: string, input: unknown = null) {
  const [plugin, name] = target.split('/');
  const authorization = `Bearer ${token}`;
  return host.request('POST', `/v1/plugins/${plugin}/exports/${name}`, input, { authorization });
}

const denied = { status: 403, body: { code: 'CAPABILITY_DENIED' } };
const unknown = { status: 401, body: { code: 'UNAUTHENTICATED' } };
const note = { text: 'from a machine' };

t.test('a bearer calls what the token covers, by every way, and nothing else', async (t) => {
  const { token } = await mint({ caller: 'billing', calls: ['notes/*'] });
  const authorization = `Bearer ${token}`;
  t.match(await call(one, token, 'notes/create', note), { status: 200, body: note });
  t.match(await call(two, token, 'notes/create', note), { status: 200 }, 'any host takes it');
  t.match(await one.request('POST', '/plugins/notes/notes', note, { authorization }), {
    status: 201,
  });
  t.match(await call(one, token, 'orders/place', {}), denied);
  const plan = (name: string, target: string) => {
    const body = { protocol: 'plugin', payload: { plugin: name, export: target } };
    return one.request('POST', '/v1/route', body, { authorization });
  };
  t.match(await plan('notes', 'create'), { status: 200 });
  t.match(await plan('orders', 'place'), denied, 'the plan is refused as the call is');
  t.match(await one.request('GET', '/v1/auth/me', undefined, { authorization }), {
    body: { subject: 'caller:billing', level: 'L5' },
  });
  for (const [method, path] of [
    ['GET', '/v1/plugins'],
    ['GET', '/v1/tokens'],
    ['POST', '/v1/tokens'],
    ['POST', '/v1/tokens/rotate'],
    ['GET', '/v1/audit'],
    ['GET', '/v1/events'],
    ['POST', '/v1/grants'],
    ['GET', '/metrics'],
  ] as const) {
    const body = method === 'POST' ? {} : undefined;
    t.match(await one.request(method, path, body, { authorization }), { status: 403 }, path);
  }

  const socket = new WebSocket(`${one.url.replace('http', 'ws')}/ws/stream`, 'noa.stream.v1', {
    headers: { authorization },
  });
  const messages: Record<string, unknown>[] = [];
  socket.on('message', (data: Buffer) =>
    messages.push(JSON.parse(data.toString()) as Record<string, unknown>),
  );
  await new Promise((resolve) => socket.once('open', resolve));
  const request = { type: 'request', input: note };
  socket.send(JSON.stringify({ ...request, id: 'a', plugin: 'notes', export: 'create' }));
  socket.send(JSON.stringify({ ...request, id: 'b', plugin: 'orders', export: 'place' }));
  await eventually('both are answered', () =>
    Promise.resolve(['a', 'b'].every((id) => messages.some((message) => message['id'] === id))),
  );
  socket.close();
  const of = (id: string) => messages.find((message) => message['id'] === id);
  t.match(of('a'), { type: 'result' });
  t.match(of('b'), { type: 'error' });
  t.match(JSON.stringify(of('b')), /CAPABILITY_DENIED/);
});

t.test('rights in a token hold along the whole chain of calls', async (t) => {
  const without = await mint({
    caller: 'reader',
    calls: ['notes/*'],
    rights: [{ capability: 'cache', operations: ['get'], resources: ['notes:*'] }],
  });
  t.match(await call(one, without.token, 'notes/create', note), denied, 'the plugin itself has db');
  const db = { capability: 'db', operations: ['query', 'execute', 'transaction'] };
  const enough = {
    caller: 'reader',
    calls: ['notes/*'],
    rights: [{ ...db, resources: ['notes.*'] }],
  };
  t.match(await call(one, (await mint(enough)).token, 'notes/create', note), { status: 200 });
  t.match(
    await one.post('/v1/tokens', {
      ...enough,
      rights: [{ ...db, operations: ['drop'], resources: ['notes.*'] }],
    }),
    { status: 400, body: { code: 'INVALID_ARGUMENT' } },
  );
});

t.test('a holder makes narrower tokens, and no wider ones', async (t) => {
  const attenuate = (token: string, input: object) =>
    one.request('POST', '/v1/tokens/attenuate', input, { authorization: `Bearer ${token}` });
  const parent = await mint({
    caller: 'billing',
    calls: ['notes/*'],
    rights: [{ capability: 'db', operations: ['query'], resources: ['notes.*'] }],
    budget: { calls: 100 },
    lifeSeconds: 120,
  });
  const db = { capability: 'db', operations: ['query'], resources: ['notes.*'] };
  for (const [what, input] of Object.entries({
    'another plugin': { calls: ['orders/*'], rights: [db] },
    'a longer prefix of another': { calls: ['notes2/*'], rights: [db] },
    'all that plugins have': { calls: ['notes/read'] },
    'another operation': { calls: ['notes/read'], rights: [{ ...db, operations: ['execute'] }] },
    'another schema': { calls: ['notes/read'], rights: [{ ...db, resources: ['orders.*'] }] },
    'more to spend': { calls: ['notes/read'], rights: [db], budget: { calls: 101 } },
  })) {
    t.match(
      await attenuate(parent.token, input),
      { status: 403, body: { code: 'PERMISSION_DENIED' } },
      what,
    );
  }
  const child = await mint(
    { calls: ['notes/list'], rights: [db] },
    parent.token,
    '/v1/tokens/attenuate',
  );
  t.ok(child.expiresAt <= parent.expiresAt, 'it lives no longer');
  t.match(await call(one, child.token, 'notes/list', {}), { status: 200 });
  t.match(await call(one, child.token, 'notes/read', { id: 'a' }), denied);
  t.match(await attenuate(one.token, { calls: ['notes/list'] }), { status: 403 });
  t.match(await attenuate(child.token, { calls: ['notes/*'], rights: [db] }), { status: 403 });
});

t.test('what is revoked holds no more, nor what descends from it, on any host', async (t) => {
  const parent = await mint({ caller: 'billing', calls: ['notes/*'] });
  const child = await mint({ calls: ['notes/create'] }, parent.token, '/v1/tokens/attenuate');
  const grandchild = await mint({ calls: ['notes/create'] }, child.token, '/v1/tokens/attenuate');
  for (const host of [one, two]) {
    t.match(await call(host, grandchild.token, 'notes/create', note), { status: 200 });
  }
  t.equal((await one.request('DELETE', `/v1/tokens/${parent.id}`)).status, 204);
  for (const { token } of [parent, child, grandchild]) {
    t.match(await call(one, token, 'notes/create', note), unknown);
  }
  await eventually(
    'the other host refuses it',
    async () => (await call(two, grandchild.token, 'notes/create', note)).status === 401,
  );
  t.match(await one.request('DELETE', `/v1/tokens/${parent.id}`), { status: 404 });
  t.match(await one.request('DELETE', '/v1/tokens/no-such'), { status: 404 });
});

t.test('a budget ends, whoever of the family spends it', async (t) => {
  const parent = await mint({ caller: 'billing', calls: ['notes/*'], budget: { calls: 7 } });
  const child = await mint({ calls: ['notes/create'] }, parent.token, '/v1/tokens/attenuate');
  // Each call is one, and so is the statement that the plugin runs for it.
  t.match(await call(one, parent.token, 'notes/create', note), { status: 200 });
  let answer = await call(one, child.token, 'notes/create', note);
  for (let i = 0; i < 5 && answer.status === 200; i += 1) {
    answer = await call(one, child.token, 'notes/create', note);
  }
  t.match(answer, { status: 429, body: { code: 'RESOURCE_EXHAUSTED' } });
  t.match(await call(one, parent.token, 'notes/create', note), { status: 429 });
  await eventually('the other host has heard of it', async () => {
    const { rows } = await database.query(
      `select from noa.caller_tokens where id = $1 and (spent->>'calls')::float8 >= 7`,
      [parent.id],
    );
    return rows.length === 1;
  });
  t.match(await call(two, parent.token, 'notes/create', note), { status: 429 });
  t.match(await call(two, child.token, 'notes/create', note), { status: 429 });

  // Far more than this test could spend itself, as a third host would tell of it.
  const busy = await mint({ caller: 'billing', calls: ['notes/*'], budget: { calls: 100_000 } });
  t.match(await call(two, busy.token, 'notes/create', note), { status: 200 });
  const told = `update noa.caller_tokens set spent = '{"calls": 100000}' where id = $1`;
  await database.query(told, [busy.id]);
  await eventually(
    'a host that knows the token hears of it',
    async () => (await call(two, busy.token, 'notes/create', note)).status === 429,
  );
});

t.test(
  'a forged or mistaken token is refused, and an answer that was kept is its own token’s',
  async (t) => {
    const { token, id } = await mint({ caller: 'billing', calls: ['notes/*'] });
    const [head = '', claims = '', signature = ''] = token.split('.');
    const read = (part: string) =>
      JSON.parse(Buffer.from(part, 'base64url').toString()) as Record<string, unknown>;
    const write = (part: object) => Buffer.from(JSON.stringify(part)).toString('base64url');
    const { kid, ...header } = read(head);
    const payload = read(claims);
    const root = Buffer.from(ROOT_KEY, 'base64');
    const secretFor = (purpose: string, of = String(kid)) =>
      new Uint8Array(hkdfSync('sha256', root, of, purpose, 32));
    const own = secretFor('noa caller token v1');
    const sign = (given: object, top: object = { ...header, kid }, secret: Uint8Array = own) => {
      const text = `${write(top)}.${write(given)}`;
      return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
    };
    t.equal(sign(payload), token, 'the attacker knows the form');
    const now = Math.floor(Date.now() / 1000);
    for (const [what, forged] of Object.entries({
      'no signature': `${head}.${claims}.`,
      'another signature': `${head}.${claims}.${signature.replace(/^./, (c) => (c === 'A' ? 'B' : 'A'))}`,
      'alg none': new UnsecuredJWT(payload).encode(),
      HS512: await new SignJWT(payload)
        .setProtectedHeader({ ...header, alg: 'HS512', kid: String(kid) })
        .sign(new Uint8Array(64)),
      'the key of plugins’ tokens': sign(payload, undefined, secretFor('noa capability token v1')),
      'an unknown key': sign(
        payload,
        { ...header, kid: 'k-0' },
        secretFor('noa caller token v1', 'k-0'),
      ),
      'a key with a path': sign(payload, { ...header, kid: '../../etc' }),
      'the type of plugins’ tokens': sign(payload, { ...header, kid, typ: 'noa-capability+jwt' }),
      'the type of access tokens': sign(payload, { ...header, kid, typ: 'at+jwt' }),
      'another audience': sign({ ...payload, aud: 'other' }),
      'two audiences': sign({ ...payload, aud: ['noa', 'other'] }),
      'another issuer': sign({ ...payload, iss: 'other' }),
      expired: sign({ ...payload, exp: now - 1 }),
      'not yet': sign({ ...payload, nbf: now + 100 }),
      'no end': sign({ ...payload, exp: undefined }),
      'an id that was never minted': sign({
        ...payload,
        jti: '00000000-0000-4000-8000-000000000000',
      }),
      'an id that is no id': sign({ ...payload, jti: "' or true --" }),
    })) {
      // Guesses from one address are slowed down.
      await eventually('it is judged', async () => {
        const { status } = await call(one, forged, 'notes/create', note);
        if (status !== 429) t.equal(status, 401, what);
        return status !== 429;
      });
      t.match(
        await one.post('/v1/tokens/inspect', { token: forged }),
        { body: { active: false, token: null } },
        what,
      );
    }
    // What a genuine token says of itself is not what it holds: that is in the database.
    const widened = sign({ ...payload, cap: [{ c: 'plugin', o: ['call'], r: ['*'] }] });
    t.match(await call(one, widened, 'orders/place', {}), denied);
    t.match(await one.post('/v1/tokens/inspect', { token }), {
      body: {
        active: true,
        token: { id, subject: 'caller:billing', calls: ['notes/*'], rights: null },
      },
    });
    t.match(await one.post('/v1/tokens/inspect', { token: 'x'.repeat(1 << 20) }), { status: 400 });

    const keyed = (by: string) =>
      one.request('POST', '/v1/plugins/notes/exports/create', note, {
        authorization: `Bearer ${by}`,
        'idempotency-key': 'the-same',
      });
    t.match(await keyed(token), { status: 200 });
    const narrow = await mint({ calls: ['notes/list'] }, token, '/v1/tokens/attenuate');
    t.match(await keyed(narrow.token), denied);
  },
);

t.test('tokens by the command line', async (t) => {
  const minted = await one.cli(
    'token',
    'mint',
    '--caller',
    'cli',
    '--call',
    'notes/*',
    '--budget',
    'calls=50',
    '--allow',
    'db.query,execute:notes.*',
    '--level',
    'L2',
    '--ttl',
    '60',
    '--json',
  );
  t.equal(minted.code, 0, minted.stderr);
  const made = JSON.parse(minted.stdout) as Made & Record<string, unknown>;
  given.push(made.token);
  t.match(made, {
    subject: 'caller:cli',
    calls: ['notes/*'],
    budget: { calls: 50 },
    level: 'L2',
    rights: [{ operations: ['query', 'execute'], resources: ['notes.*'] }],
  });
  t.match(await one.cli('token', 'list'), {
    code: 0,
    stdout: new RegExp(`${made.id} +caller:cli`),
  });
  const inspect = (text: string) =>
    noa(['token', 'inspect', '--json'], {
      cwd: tmpdir(),
      input: `${text}\n`,
      env: { NOA_URL: one.url, NOA_TOKEN: one.token },
    });
  t.match(await inspect(made.token), { code: 0, stdout: new RegExp(made.id) });
  t.match(await inspect(`${made.token}x`), { code: 1, stdout: /"active": ?false/ });
  const child = await one.cli(
    '--token',
    made.token,
    'token',
    'attenuate',
    '--call',
    'notes/list',
    '--allow',
    'db.query:notes.*',
    '--json',
  );
  t.equal(child.code, 0, child.stdout + child.stderr);
  given.push((JSON.parse(child.stdout) as Made).token);
  t.match(await one.cli('token', 'mint', '--caller', 'cli', '--call', 'notes'), { code: 1 });
  t.match(
    await one.cli('token', 'mint', '--caller', 'cli', '--call', 'a/b', '--allow', 'nonsense'),
    { code: 2 },
  );
  t.match(await one.cli('token', 'revoke', made.id), { code: 0, stdout: /^revoked / });
  t.match(await one.cli('token', 'revoke', made.id), {
    code: 1,
    stderr: /there is no living token/,
  });
});

t.test('everything is in the audit, and no token is anywhere', async (t) => {
  const { body } = await one.get('/v1/audit?limit=1000');
  const records = body['records'] as { kind: string; actor: string }[];
  for (const kind of ['token.mint', 'token.attenuate', 'token.revoke']) {
    t.ok(
      records.some((record) => record.kind === kind),
      kind,
    );
  }
  t.ok(
    records.some(({ kind, actor }) => kind === 'capability.denial' && actor === 'caller:billing'),
  );
  t.match(await one.post('/v1/audit/verify'), { status: 200 });
  const seen = JSON.stringify(body) + one.output + two.output;
  t.ok(given.length > 10);
  t.notOk(given.some((token) => seen.includes(token.split('.')[2] ?? token)));
});
