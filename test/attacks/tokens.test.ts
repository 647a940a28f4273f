/**
 * Tokens forged in every way that the formats allow, with another's key and with the host's own: what signs for
 * the forger here is the host's true key, opened with its root key, so each claim is refused for its own sake.
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
import t, { type Test } from 'tap';
import { Seal } from '../../host/kernel/seal.ts';
import { TokenService } from '../../host/kernel/tokens.ts';
import { attackIdentities, type Claims, denied, ROOT_KEY } from './identity-kit.ts';

const kit = await attackIdentities(t);
const { target, database, newClient, tokensOf, call } = kit;

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

const refused = (t: Test, forgeries: Readonly<Record<string, string>>) =>
  kit.refused(t, genuine, forgeries);

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

target.aftermath();
