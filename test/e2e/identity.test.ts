/** Clients, their tokens and API keys, from the command line to scoped calls, on one host and on two. */
import { execFile } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { resolve } from 'node:path';
import { SignJWT } from 'jose';
import { Client } from 'pg';
import t from 'tap';
import { type Answer, eventually, type RunningHost } from './running-host.ts';
import { twoHosts } from './two-hosts.ts';

const NOA = resolve(import.meta.dirname, '../../host/noa.js');
/** One missed look at the revision by a machine that is busy with other tests. */
const PATIENCE_MS = 15_000;

interface Tokens {
  readonly access_token: string;
  readonly refresh_token: string;
  readonly scope: string;
  readonly expires_in: number;
}

/** Another issuer, on loopback, with one key. */
const corp = generateKeyPairSync('rsa', { modulusLength: 2048 });
const issuer = createServer((_, response) => {
  const key = { ...corp.publicKey.export({ format: 'jwk' }), kid: 'c', alg: 'RS256' };
  response.end(JSON.stringify({ keys: [key] }));
}).listen(0, '127.0.0.1');
t.teardown(() => issuer.close());
await once(issuer, 'listening');
const corpUrl = `http://127.0.0.1:${(issuer.address() as AddressInfo).port}`;
const issuers = [
  {
    name: 'corp',
    issuer: corpUrl,
    audience: 'noa',
    jwks_url: `${corpUrl}/keys`,
    claim: 'groups',
    map: [{ value: 'staff', scopes: ['plugins:read'], roles: ['staff'] }],
  },
];

const { one, two, url } = await twoHosts(t, { NOA_AUTH__ISSUERS: JSON.stringify(issuers) });
/** Every secret that was given out, to be looked for where it must not be. */
const secrets: string[] = [];

async function cli(...args: string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await one.cli(...args, '--json');
  if (code !== 0) throw new Error(`noa ${args.join(' ')}: ${stdout}${stderr}`);
  return JSON.parse(stdout) as Record<string, unknown>;
}

async function newClient(id: string, ...options: string[]): Promise<string> {
  const secret = String((await cli('auth', 'client', 'create', id, ...options))['secret']);
  secrets.push(secret);
  return secret;
}

function basic(id: string, secret: string): { authorization: string } {
  return { authorization: `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}` };
}

async function ask<T = Record<string, unknown>>(
  host: RunningHost,
  form: Record<string, string>,
  headers: Record<string, string> = {},
  path = '/v1/auth/token',
): Promise<{ status: number; body: T; headers: Headers }> {
  const init = { method: 'POST', body: new URLSearchParams(form), headers };
  const response = await fetch(host.url + path, init);
  const text = await response.text();
  const body = (text === '' ? {} : JSON.parse(text)) as T;
  return { status: response.status, body, headers: response.headers };
}

async function tokens(host: RunningHost, id: string, secret: string): Promise<Tokens> {
  const form = { grant_type: 'client_credentials' };
  const { status, body } = await ask<Tokens>(host, form, basic(id, secret));
  if (status !== 200) throw new Error(JSON.stringify(body));
  secrets.push(body.access_token, body.refresh_token);
  return body;
}

function get(host: RunningHost, credential: string, path: string): Promise<Answer> {
  return host.request('GET', path, undefined, { authorization: `Bearer ${credential}` });
}

t.test('a client made on the command line gets what its role gives, on every host', async (t) => {
  await cli('auth', 'role', 'create', 'operator', '--scope', 'plugins:read', 'grants:read');
  const secret = await newClient('billing', '--role', 'operator', '--scope', 'audit:read');
  await eventually('the other host knows the client', async () => {
    const answer = await ask(two, { grant_type: 'client_credentials' }, basic('billing', secret));
    return answer.status === 200;
  });
  const given = await tokens(two, 'billing', secret);
  t.equal(given.scope, 'audit:read plugins:read grants:read');
  t.equal(given.expires_in, 600);
  for (const host of [one, two]) {
    t.equal((await get(host, given.access_token, '/v1/plugins')).status, 200);
    const refused = await get(host, given.access_token, '/v1/secrets');
    t.match(refused, { status: 403, body: { code: 'PERMISSION_DENIED' } });
    const challenge = refused.headers.get('www-authenticate');
    t.equal(challenge, 'Bearer realm="noa", error="insufficient_scope", scope="secrets:read"');
    const self = await get(host, given.access_token, '/v1/auth/me');
    t.match(self.body, { subject: 'client:billing', roles: ['operator'], level: 'L5' });
  }
});

t.test('the command line fetches a token with a secret that no argument holds', async (t) => {
  const secret = await newClient('shell', '--scope', 'plugins:read', 'audit:read');
  const run = (env: Record<string, string>, input: string) =>
    new Promise<{ code: number | null; out: string }>((done) => {
      const args = [NOA, 'auth', 'token', '--client-id', 'shell', '--scope', 'plugins:read'];
      const base = { PATH: '/usr/bin:/bin', NOA_URL: one.url, NOA_DATA__PATH: one.dataPath };
      const options = { env: { ...base, ...env }, cwd: one.dataPath };
      const child = execFile(process.execPath, args, options, (_error, stdout, stderr) =>
        done({ code: child.exitCode, out: (stdout + stderr).trim() }),
      );
      child.stdin?.end(input);
    });
  for (const { code, out } of [
    await run({ NOA_CLIENT_SECRET: secret }, ''),
    await run({}, `${secret}\n`),
  ]) {
    t.equal(code, 0, out);
    secrets.push(out);
    t.match((await get(one, out, '/v1/auth/me')).body, {
      subject: 'client:shell',
      scopes: ['plugins:read'],
    });
  }
  const wrong = await run({}, 'not the secret');
  t.equal(wrong.code, 1);
  t.match(wrong.out, /UNAUTHENTICATED .*invalid_client/);
});

t.test('a refresh token is good once: the second use ends its family on all hosts', async (t) => {
  const secret = await newClient(
    'rotating',
    '--level',
    'L1',
    '--scope',
    'plugins:read',
    'audit:read',
  );
  const login = basic('rotating', secret);
  const first = await tokens(one, 'rotating', secret);
  const bystander = await tokens(one, 'rotating', secret);
  const form = { grant_type: 'refresh_token', refresh_token: first.refresh_token };
  const narrowed = await ask<Tokens>(two, { ...form, scope: 'plugins:read' }, login);
  t.match(narrowed, { status: 200, body: { scope: 'plugins:read', token_type: 'Bearer' } });
  t.equal(narrowed.headers.get('cache-control'), 'no-store');
  const second = narrowed.body;
  secrets.push(second.access_token, second.refresh_token);
  t.equal((await get(one, second.access_token, '/v1/audit')).status, 403, 'it is narrower');
  const next = { grant_type: 'refresh_token', refresh_token: second.refresh_token };
  t.match(await ask(one, { ...next, scope: 'admin' }, login), {
    status: 400,
    body: { error: 'invalid_scope' },
  });
  const third = (await ask<Tokens>(one, next, login)).body;
  secrets.push(third.access_token, third.refresh_token);
  t.equal(third.scope, 'plugins:read audit:read', 'what was narrowed once is not lost');
  for (const { access_token: token } of [first, second, third]) {
    t.equal((await get(one, token, '/v1/plugins')).status, 200);
    t.equal((await get(two, token, '/v1/plugins')).status, 200);
  }
  // A thief, or the client after a thief: nobody can tell.
  t.match(await ask(two, form, login), { status: 400, body: { error: 'invalid_grant' } });
  const dead = async (host: RunningHost, token: string) =>
    (await get(host, token, '/v1/plugins')).status === 401;
  t.ok(await dead(two, third.access_token), 'at once where it was noticed');
  await eventually('it ends on the other host', () => dead(one, third.access_token), PATIENCE_MS);
  for (const { access_token: token } of [first, second]) t.ok(await dead(one, token));
  const last = { grant_type: 'refresh_token', refresh_token: third.refresh_token };
  t.match(await ask(one, last, login), { status: 400, body: { error: 'invalid_grant' } });
  t.equal((await get(one, bystander.access_token, '/v1/plugins')).status, 200, 'others live on');
  const { body } = await one.get('/v1/audit?limit=100');
  const reuse = (body['records'] as { kind: string }[]).filter(
    ({ kind }) => kind === 'auth.session.reuse',
  );
  t.match(reuse, [{ actor: 'client:rotating', outcome: 'denied' }]);
});

t.test('what is revoked, disabled or deleted on one host is refused on the other', async (t) => {
  const secret = await newClient('leaving', '--scope', 'plugins:read', '--level', 'L1');
  const holds = async (host: RunningHost, credential: string) =>
    (await get(host, credential, '/v1/plugins')).status === 200;
  const gone = async (what: string, credential: string, end: () => Promise<unknown>) => {
    t.ok(
      (await holds(one, credential)) && (await holds(two, credential)),
      `${what}: good at first`,
    );
    await end();
    t.notOk(await holds(one, credential), `${what}: at once where it is done`);
    const ended = async () => !(await holds(two, credential));
    await eventually(`${what} holds on the other host`, ended, PATIENCE_MS);
  };
  const given = await tokens(one, 'leaving', secret);
  await gone('a revoked token', given.access_token, async () => {
    const form = { token: given.refresh_token };
    t.equal((await ask(one, form, basic('leaving', secret), '/v1/auth/revoke')).status, 200);
  });
  const made = await cli('auth', 'key', 'create', '--owner', 'client:leaving');
  const key = String(made['key']);
  secrets.push(key);
  await gone('a revoked API key', key, () => cli('auth', 'key', 'revoke', String(made['id'])));
  const again = await tokens(one, 'leaving', secret);
  await gone('a disabled client', again.access_token, () =>
    cli('auth', 'client', 'disable', 'leaving'),
  );
  t.match(await ask(one, { grant_type: 'client_credentials' }, basic('leaving', secret)), {
    status: 401,
    body: { error: 'invalid_client' },
  });
  await cli('auth', 'client', 'enable', 'leaving');
  const back = await tokens(one, 'leaving', secret);
  t.notOk(await holds(one, again.access_token), 'what was ended stays so');
  await gone('a scope that was taken', back.access_token, () =>
    cli('auth', 'client', 'update', 'leaving', '--no-scope'),
  );
  await cli('auth', 'client', 'update', 'leaving', '--scope', 'plugins:read');
  const next = String((await cli('auth', 'client', 'rotate-secret', 'leaving'))['secret']);
  t.equal(
    (await ask(one, { grant_type: 'client_credentials' }, basic('leaving', secret))).status,
    401,
  );
  const last = await tokens(one, 'leaving', next);
  await gone('a deleted client', last.access_token, () =>
    cli('auth', 'client', 'delete', 'leaving'),
  );
});

t.test('a key that is rotated on one host verifies on all until its tokens are over', async (t) => {
  const secret = await newClient('steady', '--scope', 'plugins:read');
  const old = await tokens(one, 'steady', secret);
  const { kid } = await cli('auth', 'keys', 'rotate');
  const kidOf = (token: string) =>
    (JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString()) as { kid: string })
      .kid;
  const fresh = await tokens(one, 'steady', secret);
  t.equal(kidOf(fresh.access_token), kid);
  t.not(kidOf(old.access_token), kid);
  for (const host of [one, two]) {
    t.equal((await get(host, old.access_token, '/v1/plugins')).status, 200);
    t.equal((await get(host, fresh.access_token, '/v1/plugins')).status, 200, 'at once elsewhere');
    const response = await fetch(`${host.url}/.well-known/jwks.json`);
    const { keys } = (await response.json()) as { keys: Record<string, string>[] };
    t.strictSame(
      keys.map((key) => key['kid']),
      [kid, kidOf(old.access_token)],
    );
    t.ok(keys.every((key) => !('d' in key) && key['alg'] === 'RS256' && key['use'] === 'sig'));
    const etag = response.headers.get('etag') ?? '';
    t.match(response.headers.get('cache-control'), /public, max-age=\d+/);
    const again = await fetch(response.url, { headers: { 'if-none-match': etag } });
    t.equal(again.status, 304);
  }
});

t.test(
  'tokens of a configured issuer are good on every host, and may stand for a user',
  async (t) => {
    const token = (sub: string) =>
      new SignJWT({ groups: ['staff', 'others'] })
        .setProtectedHeader({ alg: 'RS256', kid: 'c' })
        .setIssuer(corpUrl)
        .setAudience('noa')
        .setSubject(sub)
        .setExpirationTime('5 minutes')
        .sign(corp.privateKey);
    const stranger = await token('u-1');
    for (const host of [one, two]) {
      const { body } = await get(host, stranger, '/v1/auth/me');
      t.match(body, {
        subject: 'corp:u-1',
        scopes: ['plugins:read'],
        roles: ['staff'],
        level: 'L5',
      });
    }
    const link = ['--issuer', 'corp', '--external-subject', 'u-2', '--scope', 'audit:read'];
    await cli('auth', 'user', 'create', 'mia', ...link);
    const mia = await token('u-2');
    t.match((await get(one, mia, '/v1/auth/me')).body, {
      subject: 'user:mia',
      scopes: ['audit:read'],
    });
    await cli('auth', 'user', 'disable', 'mia');
    t.equal((await get(one, mia, '/v1/auth/me')).status, 401);
  },
);

t.test('no secret and no token is in the logs, the audit log or the database', async (t) => {
  t.ok(secrets.length > 15);
  const all = await one.cli('audit', 'export', '--json');
  const database = new Client({ connectionString: url });
  await database.connect();
  t.teardown(() => database.end());
  let stored = '';
  for (const table of ['identities', 'sessions', 'api_keys', 'signing_keys', 'roles']) {
    const { rows } = await database.query<object>(`select * from noa.auth_${table}`);
    stored += JSON.stringify(rows, (_, value: unknown) =>
      isBytes(value) ? Buffer.from(value.data).toString('latin1') : value,
    );
  }
  t.notMatch(stored, /PRIVATE KEY/, 'keys lie sealed');
  const places = { one: one.output, two: two.output, audit: all.stdout, stored };
  for (const [place, text] of Object.entries(places)) {
    for (const secret of secrets) {
      // What makes it one: the end of a secret, of a token's signature.
      if (text.includes(secret.slice(-40))) t.fail(`${place} has a credential`);
    }
    t.ok(text.length > 0, `${place} was read`);
  }
  t.match(await one.post('/v1/audit/verify'), { status: 200 });
});

function isBytes(value: unknown): value is { data: number[] } {
  return typeof value === 'object' && value !== null && 'type' in value && value.type === 'Buffer';
}
