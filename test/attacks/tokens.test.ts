/**
 * Tokens: forged in every way that the formats allow, with another's key and with the host's own; stolen, used
 * twice, used after their time; and identities that want more than they have. What signs for the forger here
 * is the host's true key, opened with its root key: so each claim is refused for its own sake.
 */
import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
} from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import t, { type Test } from 'tap';
import { startPostgres } from '../../capabilities/db/embedded.ts';
import { Seal } from '../../host/kernel/seal.ts';
import { TokenService } from '../../host/kernel/tokens.ts';
import { type Answer, eventually } from '../e2e/running-host.ts';
import { Target } from './target.ts';

const ROOT_KEY = `${'k'.repeat(43)}=`;
const folder = await mkdtemp(join(tmpdir(), 'noa-tokens-'));
t.teardown(() => rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
const postgres = await startPostgres({ dataDir: folder, log: () => undefined });
t.teardown(() => postgres.stop());
const env = { NOA_DATABASE__URL: postgres.url, NOA_AUTH__ROOT_KEY: ROOT_KEY };
const target = await Target.start(t, [], env);
const { host } = target;
const database = new Client({ connectionString: postgres.url });
await database.connect();
t.teardown(() => database.end());

interface Tokens {
  readonly access_token: string;
  readonly refresh_token: string;
}

type Claims = Record<string, unknown>;

const denied = { kind: 'authentication.denial', outcome: 'denied', code: 'UNAUTHENTICATED' };

async function newClient(id: string, scopes: string[]): Promise<string> {
  const { status, body } = await host.post('/v1/auth/clients', { id, scopes, level: 'L1' });
  if (status !== 201) throw new Error(JSON.stringify(body));
  return String(body['secret']);
}

async function ask(
  form: Record<string, string>,
): Promise<{ status: number; body: Claims; headers: Headers }> {
  const init = { method: 'POST', body: new URLSearchParams(form) };
  const response = await fetch(`${host.url}/v1/auth/token`, init);
  return {
    status: response.status,
    body: (await response.json()) as Claims,
    headers: response.headers,
  };
}

async function tokensOf(id: string, secret: string): Promise<Tokens> {
  const login = { client_id: id, client_secret: secret };
  const { status, body } = await ask({ grant_type: 'client_credentials', ...login });
  if (status !== 200) throw new Error(JSON.stringify(body));
  return body as unknown as Tokens;
}

function call(credential: string, path = '/v1/plugins'): Promise<Answer> {
  return host.request('GET', path, undefined, { authorization: `Bearer ${credential}` });
}

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
const parsed = (text = ''): Claims =>
  JSON.parse(Buffer.from(text, 'base64url').toString()) as Claims;

const victimSecret = await newClient('victim', ['plugins:read']);
const otherSecret = await newClient('other', ['plugins:read']);
const genuine = (await tokensOf('victim', victimSecret)).access_token;
const [genuineHead = '', genuineBody = '', genuineSignature = ''] = genuine.split('.');
const head = parsed(genuineHead);
const claims = parsed(genuineBody);

/** The host's own key, as only someone with the database and the root key can have it. */
const { rows } = await database.query<{
  kid: string;
  key_id: string;
  nonce: Buffer;
  sealed: Buffer;
}>('select kid, key_id, nonce, sealed from noa.auth_signing_keys');
const [row] = rows;
if (row === undefined) throw new Error('there is no signing key');
const { kid, key_id: keyId, nonce, sealed } = row;
const seal = new Seal(Buffer.from(ROOT_KEY, 'base64'));
const trueKey = createPrivateKey(seal.open(['noa/signing-key', kid], { keyId, nonce, sealed }));
const publicKey = createPublicKey(trueKey);
const stranger = generateKeyPairSync('rsa', { modulusLength: 2048 });

function rs256(header: unknown, body: unknown, key = trueKey, digest = 'sha256'): string {
  const input = `${part(header)}.${part(body)}`;
  return `${input}.${sign(digest, Buffer.from(input), key).toString('base64url')}`;
}

function hs256(header: unknown, body: unknown, secret: string | Buffer): string {
  const input = `${part(header)}.${part(body)}`;
  return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`;
}

/** Refused, or told to wait after many refusals. */
async function isOut(token: string): Promise<boolean> {
  const { status } = await call(token);
  return status === 401 || status === 429;
}

/** None is let in, and the answer is the same for all: 429 once there were many. */
async function refused(t: Test, forgeries: Readonly<Record<string, string>>): Promise<void> {
  const since = new Date().toISOString();
  for (const [name, token] of Object.entries(forgeries)) {
    const { status, body, headers } = await call(token);
    const isRefusal = status === 401 || status === 429;
    t.ok(isRefusal, `${name}: ${status}`);
    if (status === 401) {
      t.match(headers.get('www-authenticate'), /^Bearer realm="noa", error="invalid_token"$/);
      t.match(body, { code: 'UNAUTHENTICATED', detail: /the credential is not valid/ });
    }
    if (JSON.stringify(body).includes(token.slice(-32))) t.fail(`${name}: the answer shows it`);
  }
  t.equal((await call(genuine)).status, 200, 'a true one passes all the while');
  // Of a flood the audit log has some, and then the number of the others: one more tells that it was noticed.
  const [again = ''] = Object.values(forgeries);
  await eventually('a refusal is in the audit log', async () => {
    await call(again);
    const { body } = await host.get('/v1/audit?limit=50');
    const records = body['records'] as { timestamp: string; kind: string }[];
    return records.some(({ kind, timestamp }) => kind === denied.kind && timestamp >= since);
  });
}

target.attack('no signature, and signatures of another kind', { audit: denied }, async (t) => {
  t.equal(rs256(head, claims), genuine, 'the forger writes tokens as the host does');
  const pem = publicKey.export({ type: 'spki', format: 'pem' });
  const der = publicKey.export({ type: 'spki', format: 'der' });
  const { n = '' } = publicKey.export({ format: 'jwk' });
  const unsigned = (alg: unknown) => `${part({ ...head, alg })}.${genuineBody}.`;
  const hmac = { ...head, alg: 'HS256' };
  await refused(t, {
    'alg none': unsigned('none'),
    'alg None': unsigned('None'),
    'alg nOnE with the true signature': unsigned('nOnE') + genuineSignature,
    'alg is a list': unsigned(['RS256', 'none']),
    'no alg': unsigned(undefined),
    'no signature': `${genuineHead}.${genuineBody}.`,
    'no third part': `${genuineHead}.${genuineBody}`,
    'HS256 by the public key as PEM': hs256(hmac, claims, pem.toString()),
    'HS256 by the public key as DER': hs256(hmac, claims, der),
    'HS256 by the modulus': hs256(hmac, claims, Buffer.from(n, 'base64url')),
    'HS256 by nothing': hs256(hmac, claims, ''),
    'HS256 that calls itself RS256': hs256(head, claims, pem.toString()),
    'RS512 by the true key': rs256({ ...head, alg: 'RS512' }, claims, trueKey, 'sha512'),
    'RS256 by the key of a stranger': rs256(head, claims, stranger.privateKey),
  });
});

target.attack('a header that names a key of its own', { audit: denied }, async (t) => {
  const asked: string[] = [];
  const jwk = { ...stranger.publicKey.export({ format: 'jwk' }), kid: 'mine', alg: 'RS256' };
  const server = createServer((request, response) => {
    asked.push(String(request.url));
    response.end(JSON.stringify({ keys: [jwk] }));
  }).listen(0, '127.0.0.1');
  t.teardown(() => server.close());
  await new Promise((listening) => server.once('listening', listening));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`;
  const mine = (header: Claims) => rs256({ ...head, ...header }, claims, stranger.privateKey);
  await refused(t, {
    jwk: mine({ jwk }),
    'jwk without kid': mine({ jwk, kid: undefined }),
    jku: mine({ jku: url, kid: 'mine' }),
    x5u: mine({ x5u: url, kid: 'mine' }),
    x5c: mine({ x5c: ['MIIB'], kid: 'mine' }),
    'jku beside a true kid': mine({ jku: url }),
    'an issuer that is not configured': rs256(head, { ...claims, iss: url }, stranger.privateKey),
  });
  t.strictSame(asked, [], 'nothing that a token names is fetched');
});

target.attack('a kid that is no kid', { audit: denied }, async (t) => {
  const kids: Record<string, unknown> = {
    unknown: 's-00000000',
    path: '../../../../dev/null',
    absolute: '/dev/null',
    sql: "' or '1'='1",
    union: "x' union select 'AAAA' --",
    prototype: '__proto__',
    constructor: 'constructor',
    nul: `${kid}\0`,
    spaced: ` ${kid}`,
    list: [kid],
    object: { kid },
    number: 0,
    long: 'k'.repeat(4000),
    empty: '',
    nothing: null,
  };
  const forged: Record<string, string> = {};
  for (const [name, value] of Object.entries(kids))
    forged[name] = rs256({ ...head, kid: value }, claims);
  await refused(t, forged);
});

target.attack('the true key under a wrong claim', { audit: denied }, async (t) => {
  const now = Math.floor(Date.now() / 1000);
  const other = parsed((await tokensOf('other', otherSecret)).access_token.split('.')[1]);
  const without = (name: string) => rs256(head, { ...claims, [name]: undefined });
  const changed = (change: Claims) => rs256(head, { ...claims, ...change });
  await refused(t, {
    'over since a second': changed({ exp: now - 1 }),
    'over, as text': changed({ exp: String(now + 600) }),
    'never over': without('exp'),
    'valid in an hour': changed({ nbf: now + 3600, exp: now + 7200 }),
    'no nbf': without('nbf'),
    'no iat': without('iat'),
    'no jti': without('jti'),
    'another audience': changed({ aud: 'other' }),
    'a list of audiences': changed({ aud: ['noa', 'other'] }),
    'no audience': without('aud'),
    'another issuer': changed({ iss: 'urn:noa:' }),
    'a list of issuers': changed({ iss: ['urn:noa'] }),
    'no issuer': without('iss'),
    'no session': without('sid'),
    'a session that is not': changed({ sid: 'AAAAAAAAAAAAAAAAAAAAAA' }),
    'the session of another': changed({ sid: other['sid'] }),
    'the subject of another': changed({ sub: 'client:other' }),
    'a subject that is nobody': changed({ sub: 'bootstrap' }),
    'no scope': without('scope'),
    'a list of scopes': changed({ scope: ['admin'] }),
    'another type': rs256({ ...head, typ: 'JWT' }, claims),
    'no type': rs256({ ...head, typ: undefined }, claims),
    'an extension that must be understood': rs256({ ...head, crit: ['exp'], exp: now }, claims),
    'no encoding of the payload': rs256({ ...head, crit: ['b64'], b64: false }, claims),
  });
  const wider = await call(
    changed({ scope: 'plugins:read admin', roles: ['admin'] }),
    '/v1/secrets',
  );
  t.equal(wider.status, 403, 'what the client does not have, no token gives');
});

target.attack('a true token with something changed', { audit: denied }, async (t) => {
  const flip = (text: string, at: number) =>
    text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1);
  const wider = part({ ...claims, scope: 'admin' });
  await refused(t, {
    'another payload': `${genuineHead}.${wider}.${genuineSignature}`,
    'a payload with one more byte': `${genuineHead}.${genuineBody}A.${genuineSignature}`,
    'a flipped bit of the signature': `${genuineHead}.${genuineBody}.${flip(genuineSignature, 5)}`,
    'a shorter signature': genuine.slice(0, -4),
    'parts in another order': `${genuineBody}.${genuineHead}.${genuineSignature}`,
    'four parts': `${genuine}.${genuineSignature}`,
    'a JWE of five': `${genuine}.${genuineSignature}.${genuineSignature}`,
    'itself twice': genuine + genuine,
    quoted: `"${genuine}"`,
    'nine thousand bytes': 'x'.repeat(9000),
  });
});

target.attack('a capability token as a credential of a person', { audit: denied }, async (t) => {
  const { rows: keys } = await database.query<{ kid: string }>('select kid from noa.token_keys');
  const tokens = new TokenService({
    issuer: 'noa',
    rootKey: Buffer.from(ROOT_KEY, 'base64'),
    lifeSeconds: 120,
    now: Date.now,
    newId: () => 'forged',
  });
  tokens.useKeys(keys.map((key) => ({ ...key, createdAt: '2026-01-01', retiredAt: null })));
  const right = { capability: 'db', operations: ['query'], resources: ['*'], grants: ['g'] };
  const audience = { plugin: 'notes', instance: 'noa', generation: 1 };
  const { text } = await tokens.mint(audience, [right]);
  const [capabilityHead = '', capabilityBody = ''] = text.split('.');
  await refused(t, {
    'as it is': text,
    'its payload by the key of people': rs256(head, parsed(capabilityBody)),
    'its header over the claims of people': rs256(parsed(capabilityHead), claims),
  });
});

target.attack(
  'a stolen refresh token, used by both',
  { audit: { kind: 'auth.session.reuse', actor: 'client:victim', outcome: 'denied' } },
  async (t) => {
    const login = { client_id: 'victim', client_secret: victimSecret };
    const stolen = await tokensOf('victim', victimSecret);
    const refresh = (token: string, as: Record<string, string> = login) =>
      ask({ grant_type: 'refresh_token', refresh_token: token, ...as });
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
    const kept = first.body as unknown as Tokens;
    t.match(await refresh(stolen.refresh_token), invalid);
    t.match(await refresh(kept.refresh_token), invalid, 'the newest is dead too');
    for (const { access_token: token } of [stolen, kept]) {
      t.ok(await isOut(token), 'and so is every access token of the family');
    }
    const fresh = await tokensOf('victim', victimSecret);
    const both = await Promise.all([1, 2, 3].map(() => refresh(fresh.refresh_token)));
    const good = both.filter(({ status }) => status === 200);
    t.equal(good.length, 1, 'of three at once one is the first');
    const [winner] = good as unknown as { body: Tokens }[];
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
  await refused(t, { 'its token': token, 'its key': key });
});

target.attack('keys and tokens in what is shown', { audit: denied }, async (t) => {
  await call('noa_0123456789abcdef_'.padEnd(64, 'x'));
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
