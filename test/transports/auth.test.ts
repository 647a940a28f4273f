/**
 * Identity over HTTP: the token endpoint to the letter of RFC 6749, revocation, the key set, and the
 * administration of identities; every answer as the OpenAPI document says.
 */
import t from 'tap';
import { Gateway } from '../../host/gateway/gateway.ts';
import type { DenialRecord } from '../../host/gateway/denials.ts';
import { BOOTSTRAP, identityHosts } from '../gateway/identity-kit.ts';
import type { OpenApiDocument } from './conformance.ts';
import { startFront } from './front.ts';
import { lint } from './lint.ts';

const hosts = await identityHosts(t);
const identity = await hosts.host();
const denials: DenialRecord[] = [];
const front = await startFront({
  identity,
  gateway: new Gateway({
    authenticator: identity.authenticator,
    denied: (denial) => denials.push(denial),
  }),
});
t.teardown(() => front.close());

type Body = Record<string, unknown>;

function send(method: string, path: string, body?: unknown, token = BOOTSTRAP) {
  const json = { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
  return front.request(method, path, { token, ...(body === undefined ? {} : json) });
}

const FORM = 'application/x-www-form-urlencoded';

function ask(
  form: Record<string, string> | string,
  { path = '/v1/auth/token', ...headers }: Record<string, string> = {},
) {
  const body = typeof form === 'string' ? form : new URLSearchParams(form).toString();
  const given = { 'content-type': FORM, ...headers };
  return front.request('POST', path, { token: null, body, headers: given });
}

const basic = (id: string, secret: string) => ({
  authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`,
});

async function newClient(id: string, scopes: string[]): Promise<string> {
  const { body } = await send('POST', '/v1/auth/clients', { id, scopes });
  return String(body['secret']);
}

t.test('a client shows itself in any way that RFC 6749 knows, and in one only', async (t) => {
  const secret = await newClient('shop', ['plugins:read', 'audit:read']);
  const grant = { grant_type: 'client_credentials' };
  const login = { client_id: 'shop', client_secret: secret };
  const ways = {
    'by Basic': await ask(grant, basic('shop', secret)),
    'by Basic, form-encoded': await ask(grant, basic('%73hop', encodeURIComponent(secret))),
    'by Basic, with its id in the body too': await ask(
      { ...grant, client_id: 'shop' },
      basic('shop', secret),
    ),
    'in the body': await ask({ ...grant, ...login }),
    'with a charset': await ask(
      { ...grant, ...login },
      { 'content-type': `${FORM}; charset=UTF-8` },
    ),
    'as JSON': await ask(JSON.stringify({ ...grant, ...login }), {
      'content-type': 'application/json',
    }),
    'with what is not known': await ask({ ...grant, ...login, resource: 'x', audience: 'y' }),
  };
  for (const [name, { status, body, headers }] of Object.entries(ways)) {
    t.equal(status, 200, name);
    t.match(body, { token_type: 'Bearer', expires_in: 600, scope: 'plugins:read audit:read' });
    t.equal(headers.get('cache-control'), 'no-store');
  }
  const { body: narrow } = await ask({ ...grant, scope: 'audit:read' }, basic('shop', secret));
  t.equal(narrow['scope'], 'audit:read');
  const token = String(narrow['access_token']);
  t.match((await send('GET', '/v1/auth/me', undefined, token)).body, {
    subject: 'client:shop',
    scopes: ['audit:read'],
    roles: [],
    level: 'L5',
  });
  t.equal((await send('GET', '/metrics', undefined, token)).status, 403);
});

t.test('errors of the token endpoint are those of RFC 6749 section 5.2', async (t) => {
  const secret = await newClient('faulty', ['plugins:read']);
  const login = basic('faulty', secret);
  const grant = { grant_type: 'client_credentials' };
  const refresh = { grant_type: 'refresh_token' };
  const cases: [
    string,
    Promise<{ status: number; body: Body; headers: Headers }>,
    number,
    string,
  ][] = [
    ['no body', ask('', login), 400, 'invalid_request'],
    ['no grant type', ask({ scope: 'plugins:read' }, login), 400, 'invalid_request'],
    ['an empty one', ask({ grant_type: '' }, login), 400, 'invalid_request'],
    ['another', ask({ grant_type: 'password' }, login), 400, 'unsupported_grant_type'],
    ['twice the same', ask('grant_type=a&grant_type=b', login), 400, 'invalid_request'],
    ['no JSON', ask('{', { ...login, 'content-type': 'application/json' }), 400, 'invalid_request'],
    [
      'numbers',
      ask('{"grant_type":1}', { ...login, 'content-type': 'application/json' }),
      400,
      'invalid_request',
    ],
    ['a list', ask('[]', { ...login, 'content-type': 'application/json' }), 400, 'invalid_request'],
    [
      'another media type',
      ask('x', { ...login, 'content-type': 'text/plain' }),
      400,
      'invalid_request',
    ],
    ['too much', ask({ ...grant, x: 'y'.repeat(40_000) }, login), 413, 'invalid_request'],
    ['a scope that it lacks', ask({ ...grant, scope: 'admin' }, login), 400, 'invalid_scope'],
    ['no scope at all', ask({ ...grant, scope: 'a  b' }, login), 400, 'invalid_scope'],
    ['a scope in quotes', ask({ ...grant, scope: '"\\"' }, login), 400, 'invalid_scope'],
    ['no refresh token', ask(refresh, login), 400, 'invalid_request'],
    ['no true one', ask({ ...refresh, refresh_token: 'x' }, login), 400, 'invalid_grant'],
    ['two secrets', ask({ ...grant, client_secret: secret }, login), 400, 'invalid_request'],
    ['two ids', ask({ ...grant, client_id: 'shop' }, login), 400, 'invalid_request'],
    ['no client', ask(grant), 401, 'invalid_client'],
    ['half a client', ask({ ...grant, client_id: 'faulty' }), 401, 'invalid_client'],
    ['no Basic', ask(grant, { authorization: 'Basic !' }), 401, 'invalid_client'],
    ['Basic without a colon', ask(grant, { authorization: 'Basic eHg=' }), 401, 'invalid_client'],
    ['a broken escape', ask(grant, basic('%zz', 'x')), 401, 'invalid_client'],
    [
      'an id of SQL',
      ask(grant, basic(encodeURIComponent("' or 1=1 --"), 'x')),
      401,
      'invalid_client',
    ],
  ];
  for (const [name, asked, status, error] of cases) {
    const answer = await asked;
    t.match({ ...answer }, { status, body: { error } }, `${name}: ${JSON.stringify(answer.body)}`);
    t.strictSame(Object.keys(answer.body).toSorted(), ['error', 'error_description'], name);
    t.match(
      answer.body['error_description'],
      /^[\x20-\x21\x23-\x5b\x5d-\x7e]+$/,
      `${name}: in ASCII`,
    );
    t.equal(answer.headers.get('cache-control'), 'no-store', name);
    const challenge = answer.headers.get('www-authenticate');
    t.equal(challenge, status === 401 ? 'Basic realm="noa"' : null, name);
  }
  t.match(await front.request('GET', '/v1/auth/token', { token: null }), {
    status: 405,
    body: { code: 'METHOD_NOT_ALLOWED' },
  });
  const noted = denials.filter(({ path }) => path === '/v1/auth/token');
  t.ok(noted.length > 0 && noted.every(({ kind }) => kind === 'authentication'));
});

t.test('revocation answers 200 also for what it does not know (RFC 7009)', async (t) => {
  const [secret, other] = [
    await newClient('leaver', ['plugins:read']),
    await newClient('snoop', []),
  ];
  const fresh = async () =>
    (await ask({ grant_type: 'client_credentials' }, basic('leaver', secret))).body as {
      access_token: string;
      refresh_token: string;
    };
  const revoke = (form: Record<string, string>, headers: Record<string, string>) =>
    ask(form, { path: '/v1/auth/revoke', ...headers });
  const works = async (token: string) =>
    (await send('GET', '/v1/plugins', undefined, token)).status === 200;
  for (const kind of ['access_token', 'refresh_token'] as const) {
    const tokens = await fresh();
    const form = { token: tokens[kind], token_type_hint: kind };
    t.equal((await revoke(form, basic('snoop', other))).status, 200);
    t.ok(await works(tokens.access_token), 'another client ends nothing');
    t.equal((await revoke(form, basic('leaver', 'wrong'))).status, 401);
    const done = await revoke(form, basic('leaver', secret));
    t.equal(done.status, 200);
    t.equal(done.text, '');
    t.notOk(await works(tokens.access_token), `by its ${kind}`);
    const refresh = { grant_type: 'refresh_token', refresh_token: tokens.refresh_token };
    t.match(await ask(refresh, basic('leaver', secret)), { body: { error: 'invalid_grant' } });
    t.equal((await revoke(form, basic('leaver', secret))).status, 200, 'once more is no error');
  }
  t.equal((await revoke({ token: 'x.y.z' }, basic('leaver', secret))).status, 200);
  t.match(await revoke({}, basic('leaver', secret)), {
    status: 400,
    body: { error: 'invalid_request' },
  });
});

t.test('users, clients and roles are made, listed in pages, changed and deleted', async (t) => {
  const made = await send('POST', '/v1/auth/roles', { name: 'reader', scopes: ['plugins:read'] });
  t.match(made, { status: 201, body: { name: 'reader', description: '' } });
  t.equal(made.headers.get('location'), '/v1/auth/roles/reader');
  for (const id of ['u1', 'u2', 'u3', 'u10']) {
    const user = await send('POST', '/v1/auth/users', {
      id,
      roles: ['reader'],
      scopes: ['audit:read'],
    });
    t.equal(user.status, 201);
  }
  const ids: string[] = [];
  let path = '/v1/auth/users?limit=2';
  for (let pages = 0; pages < 5; pages += 1) {
    const { body } = await send('GET', path);
    ids.push(...(body['users'] as { id: string }[]).map(({ id }) => id));
    if (body['next'] === null) break;
    path = `/v1/auth/users?limit=2&cursor=${body['next'] as string}`;
  }
  t.strictSame(ids, ['u1', 'u10', 'u2', 'u3']);
  t.match(await send('GET', '/v1/auth/users/u1'), {
    status: 200,
    body: { id: 'u1', subject: 'user:u1', effective: ['audit:read', 'plugins:read'], level: null },
  });
  t.match(
    await send('PATCH', '/v1/auth/users/u1', { scopes: [], level: 'L1', description: 'Ann' }),
    {
      status: 200,
      body: { scopes: [], level: 'L1', description: 'Ann', roles: ['reader'] },
    },
  );
  t.match(await send('PATCH', '/v1/auth/roles/reader', { scopes: ['events:read'] }), {
    status: 200,
  });
  t.match((await send('GET', '/v1/auth/users/u1')).body, { effective: ['events:read'] });
  t.match(await send('DELETE', '/v1/auth/roles/reader'), {
    status: 409,
    body: { code: 'CONFLICT', detail: /user:u1, user:u10, user:u2 have the role reader/ },
  });
  for (const id of ids) t.equal((await send('DELETE', `/v1/auth/users/${id}`)).status, 204);
  t.equal((await send('DELETE', '/v1/auth/roles/reader')).status, 204);
  t.equal((await send('GET', '/v1/auth/roles/reader')).status, 404);
  const wrong: [string, string, unknown, number][] = [
    ['POST', '/v1/auth/users', { id: 'Ann' }, 400],
    ['POST', '/v1/auth/users', { id: '__proto__' }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', secret: 'x' }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', scopes: ['Admin'] }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', scopes: ['a', 'a'] }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', level: 'L6' }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', roles: ['nobody'] }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', issuer: 'corp' }, 400],
    ['POST', '/v1/auth/clients', { id: 'ann', issuer: 'corp', externalSubject: 'x' }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', description: 'a\0b' }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', description: 'a\u001b[2J' }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', issuer: 'corp\0', externalSubject: 'x' }, 400],
    ['POST', '/v1/auth/users', { id: 'ann', issuer: 'corp', externalSubject: 'x\0' }, 400],
    ['POST', '/v1/auth/clients', { id: 'shop' }, 409],
    ['POST', '/v1/auth/keys', { owner: 'user:none' }, 404],
    ['POST', '/v1/auth/keys', { owner: 'client:shop', expiresAt: '2020-01-01T00:00:00Z' }, 400],
    ['POST', '/v1/auth/keys', { owner: 'client:shop', expiresAt: '2099-19-39T29:00:00Z' }, 400],
    ['GET', `/v1/auth/users?cursor=${Buffer.from('a\0').toString('base64url')}`, undefined, 400],
    ['GET', '/v1/auth/users/%00', undefined, 400],
    ['PATCH', '/v1/auth/users/none', { level: 'L1' }, 404],
    ['DELETE', '/v1/auth/clients/none', undefined, 404],
    ['DELETE', '/v1/auth/keys/none', undefined, 404],
    ['POST', '/v1/auth/clients/none/secret', undefined, 404],
  ];
  for (const [method, where, body, status] of wrong) {
    const answer = await send(method, where, body);
    t.equal(answer.status, status, `${method} ${where} ${JSON.stringify(body)}: ${answer.text}`);
  }
});

t.test('API keys and signing keys are shown without what makes them secret', async (t) => {
  const made = await send('POST', '/v1/auth/keys', {
    owner: 'client:shop',
    scopes: ['audit:read'],
  });
  t.equal(made.status, 201);
  const { key, id } = made.body as { key: string; id: string };
  const audit = await front.request('GET', '/v1/audit', {
    token: null,
    headers: { 'x-api-key': key },
  });
  t.equal(audit.status, 200, 'in a header of its own');
  const { text } = await send('GET', '/v1/auth/keys?owner=client:shop');
  t.match(JSON.parse(text), {
    keys: [{ id, subject: 'client:shop', expiresAt: null }],
    next: null,
  });
  t.notOk(text.includes(key.slice(-43)));
  t.equal((await send('DELETE', `/v1/auth/keys/${id}`)).status, 204);
  const again = await front.request('GET', '/v1/audit', {
    token: null,
    headers: { 'x-api-key': key },
  });
  t.equal(again.status, 401);
  const rotated = await send('POST', '/v1/auth/signing-keys/rotate');
  const listed = await send('GET', '/v1/auth/signing-keys');
  t.match(listed.body['keys'], [{ kid: rotated.body['kid'], retiredAt: null }]);
  const jwks = await front.request('GET', '/.well-known/jwks.json', { token: null });
  t.notMatch(jwks.text, /"(d|p|q|dp|dq|qi)"/, 'public halves alone');
});

t.test('each part of the administration asks for its own scope', async (t) => {
  const tokens = new Map<string, string>();
  for (const scope of ['auth:read', 'auth:write', 'plugins:read', 'metrics:read']) {
    const id = scope.replace(':', '-');
    const secret = await newClient(id, [scope]);
    const { body } = await ask({ grant_type: 'client_credentials' }, basic(id, secret));
    tokens.set(scope, String(body['access_token']));
  }
  const asked: [string, string, string, unknown?][] = [
    ['auth:read', 'GET', '/v1/auth/users'],
    ['auth:read', 'GET', '/v1/auth/clients/shop'],
    ['auth:read', 'GET', '/v1/auth/roles'],
    ['auth:read', 'GET', '/v1/auth/keys'],
    ['auth:read', 'GET', '/v1/auth/signing-keys'],
    ['auth:write', 'POST', '/v1/auth/users', { id: 'made' }],
    ['auth:write', 'DELETE', '/v1/auth/users/made'],
    ['auth:write', 'POST', '/v1/auth/signing-keys/rotate'],
    ['plugins:read', 'GET', '/v1/plugins'],
    ['metrics:read', 'GET', '/metrics'],
  ];
  for (const [scope, method, path, body] of asked) {
    for (const [held, token] of tokens) {
      if (held === scope) continue;
      const { status, headers } = await send(method, path, body, token);
      t.equal(status, 403, `${method} ${path} with ${held}`);
      t.match(headers.get('www-authenticate'), `error="insufficient_scope", scope="${scope}"`);
    }
    const { status } = await send(method, path, body, tokens.get(scope));
    t.ok(status < 300, `${method} ${path} with ${scope}: ${status}`);
  }
});

t.test('the document tells of every route of identity, and other tools can read it', async (t) => {
  const { routes } = front.server;
  const own = routes.filter(({ url }) => /^\/v1\/auth|jwks/.test(url));
  t.ok(own.length >= 24);
  for (const { method, url, contract } of own) {
    const name = `${method} ${url}`;
    t.match(contract?.summary, /^[A-Z][^.]{5,80}$/, name);
    t.equal(contract?.tag, 'Authentication', name);
    const path = url.replaceAll(/:\w+/g, 'x');
    const { status } = await front.request(method, path, { token: null });
    t.equal(status === 401, contract?.open !== true, `${name} without a credential: ${status}`);
    if (!contract?.open && url !== '/v1/auth/me')
      t.match(contract?.scope, /^auth:(read|write)$/, name);
  }
  const document = await front.request<OpenApiDocument>('GET', '/openapi.json', { token: null });
  t.strictSame(await lint(document.body), []);
});
