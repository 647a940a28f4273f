/** Tokens of other issuers: what makes one good, and what an issuer that fails or lies may cost. */
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import type { CryptoKey, JWK, JWTPayload } from 'jose';
import t, { type Test } from 'tap';
import { type Clock, identityHosts, ROOT } from './identity-kit.ts';

const hosts = await identityHosts(t);

/** An issuer on loopback with one key, whose answers a test may replace. */
async function issuer(t: Test, alg = 'RS256') {
  const asked: string[] = [];
  const keys: JWK[] = [];
  const state: { answer?: RequestListener } = {};
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    if (state.answer !== undefined) return state.answer(request, response);
    const isDiscovery = request.url === '/.well-known/openid-configuration';
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(isDiscovery ? { issuer: url, jwks_uri: `${url}/keys` } : { keys }));
  }).listen(0, '127.0.0.1');
  t.teardown(() => server.close());
  t.teardown(() => server.closeAllConnections());
  await new Promise((listening) => server.once('listening', listening));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const newKey = async (kid: string): Promise<CryptoKey> => {
    const pair = await generateKeyPair(alg, { extractable: true });
    keys.push({ ...(await exportJWK(pair.publicKey)), kid, alg, use: 'sig' });
    return pair.privateKey;
  };
  let key = await newKey('a');
  const sign = (
    claims: Record<string, unknown> = {},
    header: Record<string, unknown> = {},
    by = key,
  ) =>
    new SignJWT({ sub: 'u-1', iss: url, aud: 'noa', groups: ['staff'], exp: over(), ...claims })
      .setProtectedHeader({ alg, kid: 'a', ...header })
      .sign(by);
  return {
    url,
    asked,
    state,
    sign,
    rotate: async () => {
      keys.length = 0;
      key = await newKey('b');
      return (claims: JWTPayload = {}) => sign(claims, { kid: 'b' }, key);
    },
    config: (more: object = {}) => ({
      name: 'corp',
      issuer: url,
      audience: 'noa',
      algorithms: [alg],
      claim: 'groups',
      level: 'L3',
      map: [
        { value: 'staff', scopes: ['plugins:read'], roles: ['staff'] },
        { value: 'chiefs', scopes: ['admin'], roles: [] },
      ],
      ...more,
    }),
  };
}

const over = (seconds = 600) => Math.floor(Date.now() / 1000) + seconds;

t.test('a token is good by its issuer’s keys, and gives what the configuration says', async (t) => {
  for (const alg of ['RS256', 'ES256', 'EdDSA']) {
    const corp = await issuer(t, alg);
    const host = await hosts.host({ auth: { issuers: [corp.config()] } });
    t.match(await host.who(await corp.sign()), {
      subject: 'corp:u-1',
      scopes: ['plugins:read'],
      roles: ['staff'],
      level: 'L3',
    });
    t.strictSame(corp.asked, ['/.well-known/openid-configuration', '/keys'], `${alg} by discovery`);
    const of = async (claims: JWTPayload) => host.who(await corp.sign(claims));
    t.match(await of({ groups: 'guests chiefs' }), { scopes: ['admin'], roles: [] }, 'as one text');
    t.match(await of({ groups: ['guests'] }), { subject: 'corp:u-1', scopes: [] });
    t.match(await of({ groups: undefined, scope: 'admin', scopes: ['admin'] }), { scopes: [] });
    t.match(await of({ groups: { staff: true } }), { scopes: [] });
    t.equal(corp.asked.length, 2, 'its keys are remembered');
  }
});

t.test('each rule that a token breaks is enough', async (t) => {
  const corp = await issuer(t);
  const host = await hosts.host({ auth: { issuers: [corp.config()] } });
  const forged = await generateKeyPair('RS256', { extractable: true });
  const secret = Buffer.from('the public key of the issuer, as bytes');
  const hmac = new SignJWT({
    sub: 'u-1',
    iss: corp.url,
    aud: 'noa',
    groups: ['chiefs'],
    exp: over(),
  });
  const wrong: Record<string, string> = {
    audience: await corp.sign({ aud: 'other' }),
    issuer: await corp.sign({ iss: `${corp.url}/` }),
    over: await corp.sign({ exp: over(-1) }),
    'never over': await corp.sign({ exp: undefined }),
    'not yet': await corp.sign({ nbf: over(3600) }),
    subject: await corp.sign({ sub: undefined }),
    'a subject with line ends': await corp.sign({ sub: 'u\nbootstrap' }),
    'an endless subject': await corp.sign({ sub: 'u'.repeat(256) }),
    'an unknown key': await corp.sign({}, { kid: 'zz' }),
    'the key of a stranger': await corp.sign({}, {}, forged.privateKey),
    HS256: await hmac.setProtectedHeader({ alg: 'HS256', kid: 'a' }).sign(secret),
  };
  for (const [name, token] of Object.entries(wrong)) {
    t.match(await host.who(token), /UNAUTHENTICATED|RATE_LIMITED/, name);
  }
  t.match(await host.who(await corp.sign()), { subject: 'corp:u-1' });
});

t.test('a linked user has the rights of the user, and may be shut out', async (t) => {
  const corp = await issuer(t);
  const host = await hosts.host({ auth: { issuers: [corp.config()] } });
  const link = { issuer: 'corp', externalSubject: 'u-7' };
  await host.directory.create(
    'user',
    'mia',
    { ...link, scopes: ['audit:read'], level: 'L1' },
    ROOT,
  );
  await t.rejects(host.directory.create('user', 'max', link, ROOT), { code: 'CONFLICT' });
  await t.rejects(host.directory.create('user', 'max', { issuer: 'corp' }, ROOT), {
    code: 'INVALID_ARGUMENT',
  });
  const token = await corp.sign({ sub: 'u-7', groups: ['chiefs'] });
  t.match(await host.who(token), { subject: 'user:mia', scopes: ['audit:read'], level: 'L1' });
  await host.directory.update('user', 'mia', { disabled: true }, ROOT);
  t.equal(await host.who(token), 'UNAUTHENTICATED', 'whatever the issuer says');
});

t.test('new keys of an issuer are found, and unknown ones are no way to flood it', async (t) => {
  const corp = await issuer(t);
  const clock: Clock = { now: Date.now() };
  const jwks_url = `${corp.url}/keys`;
  const host = await hosts.host({ clock, auth: { issuers: [corp.config({ jwks_url })] } });
  t.match(await host.who(await corp.sign()), { subject: 'corp:u-1' });
  for (let i = 0; i < 20; i += 1)
    await host.who(await corp.sign({ jti: `${i}` }, { kid: `k${i}` }));
  t.strictSame(corp.asked, ['/keys'], 'within the cool-down nothing is asked again');
  const signNew = await corp.rotate();
  t.match(await host.who(await signNew()), /UNAUTHENTICATED|RATE_LIMITED/);
  const later = await hosts.host({ auth: { issuers: [corp.config({ jwks_url })] } });
  t.match(await later.who(await signNew()), { subject: 'corp:u-1' });
});

t.test('an issuer that is away, slow or lies costs its own callers alone', async (t) => {
  const answers: Record<string, RequestListener> = {
    'nothing at all': (request) => void request.socket.destroy(),
    'an error': (_, response) => void response.writeHead(500).end(),
    'no JSON': (_, response) => void response.end('<html>'),
    'another issuer': (_, response) => {
      response.end(JSON.stringify({ issuer: 'https://other.example', jwks_uri: 'https://x' }));
    },
    'keys in cleartext elsewhere': (request, response) => {
      const issuer = `http://${request.headers.host}`;
      response.end(JSON.stringify({ issuer, jwks_uri: 'http://keys.example/keys' }));
    },
    'a redirect': (_, response) => void response.writeHead(302, { location: '/keys' }).end(),
    'an endless answer': (_, response) => {
      const more = () => {
        while (response.write('[1],'.repeat(4096)));
      };
      response.on('drain', more);
      more();
    },
  };
  for (const [name, answer] of Object.entries(answers)) {
    const corp = await issuer(t);
    corp.state.answer = answer;
    const clock: Clock = { now: Date.now() };
    const host = await hosts.host({ clock, auth: { issuers: [corp.config()] } });
    const token = await corp.sign();
    t.equal(await host.who(token), 'UNAVAILABLE', name);
    const { length } = corp.asked;
    t.equal(await host.who(token), 'UNAVAILABLE');
    t.equal(corp.asked.length, length, `${name}: it is left alone`);
    delete corp.state.answer;
    clock.now += 2000;
    t.match(await host.who(token), { subject: 'corp:u-1' }, `${name}: and asked again later`);
  }
});

t.test('a silent issuer keeps no other caller waiting', async (t) => {
  const corp = await issuer(t);
  corp.state.answer = () => undefined;
  const host = await hosts.host({ auth: { issuers: [corp.config()] } });
  const secret = await host.client('patient', ['plugins:read']);
  const waiting = await Promise.all(
    Array.from({ length: 100 }, async (_, i) => host.who(await corp.sign({ jti: `${i}` }))).map(
      async (work, i) => {
        if (i > 0) return work;
        // In the middle of all that waits for the issuer.
        const { access_token: token } = await host.token('patient', secret);
        t.match(await host.who(token), { subject: 'client:patient' });
        t.ok(corp.asked.length <= 1, 'the issuer is asked once for all');
        return work;
      },
    ),
  );
  t.strictSame(new Set(waiting), new Set(['UNAVAILABLE']));
});
