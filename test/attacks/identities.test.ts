/** Identities: stolen, guessed, shut out; and those that want more than they have. */
import { connect } from 'node:net';
import t from 'tap';
import { attackIdentities, denied, type Tokens } from './identity-kit.ts';

const { target, host, newClient, ask, tokensOf, call, isOut, refused } = await attackIdentities(t);
const victimSecret = await newClient('victim', ['plugins:read']);
const otherSecret = await newClient('other', ['plugins:read']);
const genuine = (await tokensOf('victim', victimSecret)).access_token;

target.attack(
  'a stolen refresh token, used by both',
  { audit: { kind: 'auth.session.reuse', actor: 'client:victim', outcome: 'denied' } },
  async (t) => {
    const login = { client_id: 'victim', client_secret: victimSecret };
    const stolen = await tokensOf('victim', victimSecret);
    const refresh = (token: string, as: Record<string, string> = login) =>
      ask<Tokens>({ grant_type: 'refresh_token', refresh_token: token, ...as });
    const thief = { client_id: 'other', client_secret: otherSecret };
    const invalid = { status: 400, body: { error: 'invalid_grant' } };
    t.match(
      await refresh(stolen.refresh_token, thief),
      invalid,
      'another client has no use for it',
    );
    const forged = `${stolen.refresh_token.slice(0, -6)}AAAAAA`;
    t.match(await refresh(forged), invalid, 'nor is it to be made up');
    const first = await refresh(stolen.refresh_token);
    t.equal(first.status, 200, 'neither of which has ended it');
    const kept = first.body;
    t.match(await refresh(stolen.refresh_token), invalid);
    t.match(await refresh(kept.refresh_token), invalid, 'the newest is dead too');
    for (const { access_token: token } of [stolen, kept]) {
      t.ok(await isOut(token), 'and so is every access token of the family');
    }
    const fresh = await tokensOf('victim', victimSecret);
    const both = await Promise.all([1, 2, 3].map(() => refresh(fresh.refresh_token)));
    const good = both.filter(({ status }) => status === 200);
    t.equal(good.length, 1, 'of three at once one is the first');
    const [winner] = good;
    t.ok(await isOut(winner?.body.access_token ?? ''), 'and it has lost as well');
  },
);

target.attack(
  'more rights than one has',
  { audit: { kind: 'auth.denial', outcome: 'denied', code: 'PERMISSION_DENIED' } },
  async (t) => {
    await host.post('/v1/auth/roles', { name: 'root', scopes: ['admin'] });
    await host.post('/v1/auth/clients', { id: 'boss', roles: ['root'] });
    await host.post('/v1/auth/users', { id: 'chief', scopes: ['admin'] });
    const secret = await newClient('climber', ['auth:read', 'auth:write', 'plugins:read']);
    const { access_token: token } = await tokensOf('climber', secret);
    const attempt = async (name: string, method: string, path: string, body?: unknown) => {
      const answer = await host.request(method, `/v1/auth/${path}`, body, {
        authorization: `Bearer ${token}`,
      });
      t.match(answer, { status: 403, body: { code: 'PERMISSION_DENIED' } }, name);
    };
    await attempt('a scope for itself', 'PATCH', 'clients/climber', { scopes: ['admin'] });
    await attempt('a role for itself', 'PATCH', 'clients/climber', { roles: ['root'] });
    await attempt('a client with more', 'POST', 'clients', {
      id: 'tool',
      scopes: ['secrets:read'],
    });
    await attempt('a user with more', 'POST', 'users', { id: 'tool', roles: ['root'] });
    await attempt('a role with more', 'POST', 'roles', { name: 'tool', scopes: ['tokens:write'] });
    await attempt('more in a role', 'PATCH', 'roles/root', { scopes: ['admin', 'tokens:write'] });
    await attempt('the secret of an administrator', 'POST', 'clients/boss/secret');
    await attempt('a key of an administrator', 'POST', 'keys', { owner: 'client:boss' });
    await attempt('the place of an administrator', 'PATCH', 'users/chief', {
      issuer: 'corp',
      externalSubject: 'me',
    });
    await host.request('PATCH', '/v1/auth/clients/boss', { disabled: true });
    await attempt('an administrator let in again', 'PATCH', 'clients/boss', { disabled: false });
    const own = await host.request(
      'POST',
      '/v1/auth/clients',
      { id: 'helper', scopes: ['plugins:read'] },
      { authorization: `Bearer ${token}` },
    );
    t.equal(own.status, 201, 'what it has, it may give');
    const grant = { plugin: 'notes', capability: 'db', operations: ['query'], resources: ['*'] };
    const granted = await host.request('POST', '/v1/grants', grant, {
      authorization: `Bearer ${token}`,
    });
    t.match(granted, { status: 403, body: { detail: /grants:write/ } });
  },
);

target.attack('secrets by trial, and identity by other headers', { audit: denied }, async (t) => {
  const tries = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      ask({ grant_type: 'client_credentials', client_id: 'victim', client_secret: `guess-${i}` }),
    ),
  );
  const limited = tries.filter(({ status }) => status === 429);
  t.ok(limited.length > 0, 'after some the answer is to wait');
  t.match(limited[0]?.body, { error: 'temporarily_unavailable' });
  t.ok(Number(limited[0]?.headers.get('retry-after')) >= 1);
  t.ok(
    tries.every(
      ({ status, body }) =>
        status === 429 || (status === 401 && body['error'] === 'invalid_client'),
    ),
  );
  t.ok((await tokensOf('victim', victimSecret)).access_token, 'the right one is not locked out');
  const unknown = await ask({
    grant_type: 'client_credentials',
    client_id: 'nobody',
    client_secret: 'x',
  });
  t.ok([401, 429].includes(unknown.status));
  const disguised = await host.request('GET', '/v1/auth/me', undefined, {
    authorization: `Bearer ${genuine}`,
    'x-api-key': host.token,
    'x-user-id': 'bootstrap',
    'x-forwarded-user': 'bootstrap',
    'x-remote-user': 'admin',
    'x-noa-subject': 'bootstrap',
    cookie: `token=${host.token}`,
  });
  t.match(disguised, { status: 200, body: { subject: 'client:victim', scopes: ['plugins:read'] } });
  const inUrl = await fetch(`${host.url}/v1/plugins?access_token=${genuine}`);
  t.equal(inUrl.status, 401, 'a token in a URL is none');
  const { port } = new URL(host.url);
  for (const line of [
    `Bearer ${genuine}\t`,
    `Bearer ${genuine}, Bearer ${genuine}`,
    `Bearer\u00a0${genuine}`,
  ]) {
    const text = await raw(
      Number(port),
      `GET /v1/plugins HTTP/1.1\r\nhost: x\r\nauthorization: ${line}\r\nconnection: close\r\n\r\n`,
    );
    t.notMatch(text, /^HTTP\/1\.1 500/, 'a header of odd bytes is no fault of the host');
  }
});

target.attack('the token of a client that is shut out', { audit: denied }, async (t) => {
  const secret = await newClient('fired', ['plugins:read']);
  const { access_token: token } = await tokensOf('fired', secret);
  const made = await host.post('/v1/auth/keys', { owner: 'client:fired' });
  const key = String(made.body['key']);
  t.equal((await call(token)).status, 200);
  t.equal((await call(key)).status, 200);
  t.equal(
    (await call(`${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}`)).status === 200,
    false,
  );
  await host.request('PATCH', '/v1/auth/clients/fired', { disabled: true });
  await refused(t, genuine, { 'its token': token, 'its key': key });
});

target.attack('keys and tokens in what is shown', { audit: denied }, async (t) => {
  await refused(t, genuine, { 'an API key': 'noa_0123456789abcdef_'.padEnd(64, 'x') });
  const { stdout } = await host.cli('audit', 'export', '--json');
  const shown = host.output + stdout + JSON.stringify((await host.get('/v1/audit?limit=200')).body);
  for (const secret of [victimSecret, otherSecret, genuine]) {
    t.notOk(shown.includes(secret.slice(-40)), 'no credential is in logs or audit');
  }
});

target.aftermath();

/** Writes bytes as they are and answers all that comes back. */
function raw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(text, 'latin1'));
    let answer = '';
    socket.setEncoding('latin1').on('data', (chunk: string) => (answer += chunk));
    socket.on('close', () => resolve(answer)).on('error', reject);
  });
}
