/** Who calls: what is remembered of a credential and for how long, keys, sessions, API keys; on PostgreSQL. */
import fc from 'fast-check';
import { decodeProtectedHeader } from 'jose';
import t from 'tap';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import {
  bearerOf,
  isSecretOf,
  newApiKey,
  newClientSecret,
  newSessionId,
  readApiKey,
  RefreshTokens,
} from '../../host/gateway/identity/credentials.ts';
import { common, covers } from '../../host/gateway/identity/rights.ts';
import { PostgresIdentities } from '../../host/store/identities.ts';
import { arrival, BOOTSTRAP, identityHosts, ROOT } from './identity-kit.ts';

const hosts = await identityHosts(t);

t.test(
  'a credential is looked up once, then answered at once, until something changes',
  async (t) => {
    const [one, two] = [await hosts.host(), await hosts.host()];
    const secret = await one.client('quick', ['plugins:read']);
    await two.follow();
    t.strictSame(one.authenticate(BOOTSTRAP), ROOT, 'the configured one never waits');
    const { access_token: token } = await one.token('quick', secret);
    for (const host of [one, two]) {
      const first = host.authenticate(token);
      t.type(first, Promise);
      const both = await Promise.all([first, host.authenticate(token)]);
      t.match(both[0], { subject: 'client:quick', scopes: ['plugins:read'], roles: [] });
      t.equal(both[0], both[1], 'one look-up serves all who wait for it');
      t.equal(host.authenticate(token), both[0], 'no promise any more');
    }
    await one.directory.update('client', 'quick', { disabled: true }, ROOT);
    t.equal(await one.who(token), 'UNAUTHENTICATED', 'at once where it was done');
    t.match(
      two.authenticate(token),
      { subject: 'client:quick' },
      'elsewhere until the host hears of it',
    );
    await two.follow();
    t.equal(await two.who(token), 'UNAUTHENTICATED');
  },
);

t.test('rights are those of now: a token keeps none that its client has lost', async (t) => {
  const host = await hosts.host();
  await host.roles.create('ops', { scopes: ['plugins:read', 'plugins:write'] }, ROOT);
  const secret = await host.client('shrinking', ['audit:read']);
  await host.directory.update('client', 'shrinking', { roles: ['ops'], level: 'L2' }, ROOT);
  const { access_token: token, scope } = await host.token('shrinking', secret);
  t.strictSame(scope.split(' ').toSorted(), ['audit:read', 'plugins:read', 'plugins:write']);
  t.match(await host.who(token), { roles: ['ops'], level: 'L2' });
  await host.roles.update('ops', { scopes: ['plugins:read', 'secrets:read'] }, ROOT);
  const now = await host.who(token);
  t.match(now, { scopes: ['audit:read', 'plugins:read'] }, 'it lost one and gained none');
  await host.directory.update('client', 'shrinking', { scopes: ['admin'], roles: [] }, ROOT);
  const scopes = typeof now === 'string' ? [] : now.scopes;
  t.notOk(covers(scopes, 'admin'));
  t.strictSame(
    [...(await host.authenticate(token)).scopes].toSorted(),
    ['audit:read', 'plugins:read', 'plugins:write'],
    'admin covers what the token says, and the token says no more',
  );
  await t.rejects(host.roles.remove('none', ROOT), { code: 'NOT_FOUND' });
});

t.test('a token is over to the second, and no later than its session', async (t) => {
  const clock = { now: Date.now() };
  const lives = { access_token_life_seconds: 600, refresh_token_life_seconds: 900 };
  const host = await hosts.host({ clock, auth: lives });
  const secret = await host.client('timed', ['plugins:read']);
  const first = await host.token('timed', secret);
  t.equal(first.expires_in, 600);
  t.match(await host.who(first.access_token), { subject: 'client:timed' });
  clock.now += 599_000;
  t.match(host.authenticate(first.access_token), { subject: 'client:timed' }, 'remembered');
  clock.now += 1000;
  t.equal(await host.who(first.access_token), 'UNAUTHENTICATED', 'also for who is remembered');
  const refresh = (token: string) =>
    host.token('timed', secret, { grant_type: 'refresh_token', refresh_token: token });
  const second = await refresh(first.refresh_token);
  t.ok(second.expires_in <= 300 && second.expires_in > 290, 'what is left of the session');
  clock.now += 301_000;
  t.equal(await host.who(second.access_token), 'UNAUTHENTICATED');
  await t.rejects(refresh(second.refresh_token), {
    name: 'OAuthError',
    message: /its time is over/,
  });
  const sessions = () =>
    hosts.pool.query(`select id from noa.auth_sessions where subject = 'client:timed'`);
  t.equal((await sessions()).rowCount, 1);
  await new PostgresIdentities(hosts.pool).sweepSessions(new Date(clock.now).toISOString());
  t.equal((await sessions()).rowCount, 0, 'nothing stays of it');
});

t.test('signing keys: one at first, an overlap at rotation, then nothing', async (t) => {
  await hosts.pool.query('delete from noa.auth_signing_keys');
  const clock = { now: Date.now() };
  const [one, two] = [await hosts.host({ clock }), await hosts.host({ clock })];
  t.strictSame(await one.signingKeys.jwks(), { keys: [] }, 'a stranger who looks makes none');
  const secret = await one.client('signer', ['plugins:read']);
  const [a, b] = await Promise.all([one.token('signer', secret), two.token('signer', secret)]);
  const { rows } = await hosts.pool.query<{ sealed: Buffer; kid: string }>(
    'select kid, sealed from noa.auth_signing_keys',
  );
  t.equal(rows.length, 1, 'two hosts that begin at once share one');
  t.match(await one.who(b.access_token), { subject: 'client:signer' });
  t.match(await two.who(a.access_token), { subject: 'client:signer' });
  clock.now += 1000;
  const fresh = await two.signingKeys.rotate('bootstrap');
  const c = await two.token('signer', secret);
  t.match(
    await one.who(c.access_token),
    { subject: 'client:signer' },
    'before it hears of the change',
  );
  t.match((await one.signingKeys.jwks()).keys, [
    { kid: fresh.kid, kty: 'RSA' },
    { kid: rows[0]?.kid },
  ]);
  t.ok(
    (await one.signingKeys.jwks()).keys.every(
      ({ n }) => Buffer.from(n ?? '', 'base64url').length >= 256,
    ),
  );
  clock.now += 598_000;
  t.match(await two.who(a.access_token), { subject: 'client:signer' }, 'a retired key verifies');
  clock.now += 3_600_000 + 60_000;
  t.match(await one.signingKeys.jwks(), { keys: [{ kid: fresh.kid }] }, 'then it is gone');
  t.equal((await one.signingKeys.list()).length, 1);
  const last = await one.signingKeys.rotate('bootstrap');
  const left = await hosts.pool.query('select kid from noa.auth_signing_keys');
  t.equal(left.rowCount, 2, 'a rotation deletes what verifies no more');
  const stranger = await hosts.host({ clock, rootKey: Buffer.alloc(32, 8) });
  const d = await stranger.token('signer', secret);
  t.match(await one.who(d.access_token), { subject: 'client:signer' });
  await one.follow();
  const { keys } = await one.signingKeys.jwks();
  const kidOf = (token: string) => (decodeProtectedHeader(token) as { kid: string }).kid;
  t.not(kidOf(d.access_token), last.kid, 'a host with another root key signs with one of its own');
  t.equal(
    kidOf((await one.token('signer', secret)).access_token),
    last.kid,
    'and this one goes on',
  );
  t.strictSame(
    keys.map((key) => String(key.kid)).toSorted(),
    [fresh.kid, last.kid, kidOf(d.access_token)].toSorted(),
  );
  const theirs = await stranger
    .token('signer', secret, {
      grant_type: 'refresh_token',
      refresh_token: (await one.token('signer', secret)).refresh_token,
    })
    .catch(String);
  t.match(theirs, /refresh_token: is not valid/);
});

t.test('an API key has what it was made with, as long as its owner has it', async (t) => {
  const clock = { now: Date.now() };
  const host = await hosts.host({ clock });
  await host.directory.create(
    'user',
    'ann',
    { scopes: ['plugins:read', 'audit:read'], level: 'L3' },
    ROOT,
  );
  const whole = await host.apiKeys.create({ owner: 'user:ann' }, ROOT);
  const part = await host.apiKeys.create({ owner: 'user:ann', scopes: ['audit:read'] }, ROOT);
  const brief = await host.apiKeys.create(
    { owner: 'user:ann', expiresAt: new Date(clock.now + 1000).toISOString() },
    ROOT,
  );
  t.match(await host.who(whole.key), { subject: 'user:ann', level: 'L3' });
  t.match(await host.who(part.key), { scopes: ['audit:read'] });
  const inHeader = await host.authenticator.authenticate({
    ...arrival(undefined),
    apiKey: part.key,
  });
  t.match(inHeader, { subject: 'user:ann', scopes: ['audit:read'] });
  for (const authorization of ['Basic dTpw', 'Bearer', `Bearer x${part.key}`]) {
    const both = { ...arrival(authorization), apiKey: part.key };
    await t.rejects(
      Promise.resolve().then(() => host.authenticator.authenticate(both)),
      { code: 'UNAUTHENTICATED' },
      `${authorization.slice(0, 8)} goes before it, also when the key is known`,
    );
  }
  for (const way of [`bearer ${part.key}`, `Bearer   ${part.key} `]) {
    t.match(await host.authenticator.authenticate(arrival(way)), { subject: 'user:ann' });
  }
  await t.rejects(
    host.apiKeys.create({ owner: 'user:ann', scopes: ['secrets:read'] }, ROOT),
    { code: 'INVALID_ARGUMENT', message: /user:ann lacks secrets:read/ },
    'no key has more than its owner, whoever makes it',
  );
  await t.rejects(host.apiKeys.create({ owner: 'user:bob' }, ROOT), { code: 'NOT_FOUND' });
  await host.directory.update('user', 'ann', { scopes: ['admin'] }, ROOT);
  t.match(
    await host.who(whole.key),
    { scopes: ['plugins:read', 'audit:read'] },
    'it gains nothing',
  );
  await host.directory.update('user', 'ann', { scopes: ['plugins:read'] }, ROOT);
  t.match(await host.who(part.key), { scopes: [] });
  clock.now += 1000;
  t.equal(await host.who(brief.key), 'UNAUTHENTICATED');
  t.strictSame(await host.who(`${whole.key.slice(0, -4)}AAAA`), 'UNAUTHENTICATED');
  await host.apiKeys.revoke(whole.id, ROOT);
  t.equal(await host.who(whole.key), 'UNAUTHENTICATED');
  const left = await host.apiKeys.list({ after: undefined, limit: 10 }, 'user:ann');
  t.strictSame(
    left.map(({ id }) => id),
    [part.id, brief.id].toSorted(),
  );
  t.notOk('digest' in (left[0] ?? {}));
  await host.directory.remove('user', 'ann', ROOT);
  t.equal(await host.who(part.key), 'UNAUTHENTICATED');
  await host.directory.create('user', 'ann', { scopes: ['admin'] }, ROOT);
  t.equal(await host.who(part.key), 'UNAUTHENTICATED', 'who comes after has not what was before');
});

t.test('every change is in the audit log with who made it, in one transaction', async (t) => {
  const host = await hosts.host();
  const actor = { subject: 'user:editor', scopes: ['auth:write', 'plugins:read'] };
  await host.directory.create('client', 'noted', { scopes: ['plugins:read'] }, actor);
  await t.rejects(host.directory.create('client', 'noted', {}, actor), { code: 'CONFLICT' });
  await t.rejects(host.directory.create('client', 'bold', { scopes: ['admin'] }, actor), {
    code: 'PERMISSION_DENIED',
    message: /user:editor lacks admin/,
  });
  await t.rejects(host.directory.update('client', 'noted', { roles: ['no-role'] }, actor), {
    code: 'INVALID_ARGUMENT',
    message: /no role no-role/,
  });
  await host.directory.remove('client', 'noted', actor);
  const mine = (await host.records()).filter((record) => record.actor === 'user:editor');
  t.strictSame(mine.map(({ kind, outcome }) => `${kind} ${outcome}`).toSorted(), [
    'auth.client.create ok',
    'auth.client.delete ok',
    'auth.denial denied',
  ]);
  const before = await hosts.store.revision();
  const secret = await host.client('silent', []);
  const one = await host.token('silent', secret);
  const grant = { grant_type: 'refresh_token', refresh_token: one.refresh_token };
  await host.token('silent', secret, grant);
  t.equal(
    await hosts.store.revision(),
    before + 1,
    'tokens that come and go trouble no other host',
  );
});

t.test('nobody takes hold of an identity that may do more than they', async (t) => {
  const host = await hosts.host();
  const clerk = { subject: 'user:clerk', scopes: ['auth:write'] };
  await host.directory.create('user', 'chief', { scopes: ['admin'] }, ROOT);
  const denied = { code: 'PERMISSION_DENIED', message: /user:clerk lacks admin/ };
  const key = { owner: 'user:chief', scopes: [] };
  await t.rejects(host.apiKeys.create(key, clerk), denied, 'its subject and roles are rights too');
  const link = { scopes: [], issuer: 'corp', externalSubject: 'mallory' };
  await t.rejects(host.directory.update('user', 'chief', link, clerk), denied);
  await t.rejects(host.directory.remove('user', 'chief', clerk), denied, 'to take its name');
  await host.directory.update('user', 'chief', { disabled: true }, clerk);
  t.match(await host.directory.show('user', 'chief'), { scopes: ['admin'], disabled: true });
});

t.test('what is known of a header holds until it expires, however often it came', async (t) => {
  let now = 1000;
  let looked = 0;
  const find = () => {
    looked += 1;
    const principal = { subject: 'client:seen', scopes: [] };
    return Promise.resolve(now < 2000 ? { principal, expiresAt: 2000 } : undefined);
  };
  const seen = new Authenticator({
    credentials: [],
    lookup: { epoch: 1, find },
    now: () => now,
  });
  const ask = async () => seen.authenticate(arrival('Bearer of-someone'));
  for (let times = 0; times < 4; times += 1) t.match(await ask(), { subject: 'client:seen' });
  t.equal(looked, 1);
  now = 1999;
  t.match(await ask(), { subject: 'client:seen' });
  now = 2000;
  await t.rejects(ask(), { code: 'UNAUTHENTICATED' });
  t.equal(looked, 2);
});

t.test('a scope in an area of the host is one of its own, or a slip of the pen', async (t) => {
  const host = await hosts.host();
  const refused = {
    code: 'INVALID_ARGUMENT',
    message: 'scopes: plugins:cal is none of this host: of plugins there are read, write, call',
  };
  const scopes = ['plugins:read', 'plugins:cal'];
  await t.rejects(host.roles.create('typo', { scopes }, ROOT), refused);
  await t.rejects(host.directory.create('client', 'typo', { scopes }, ROOT), refused);
  await host.roles.create('own', { scopes: ['shop:refund', 'events:read', 'auth:write'] }, ROOT);
  await t.rejects(host.roles.update('own', { scopes }, ROOT), refused);
  await host.directory.create('user', 'right', { scopes: ['plugins:call', 'beta'] }, ROOT);
  await t.rejects(host.directory.update('user', 'right', { scopes }, ROOT), refused);
});

t.test('roles and levels are rights too, whatever scopes they have', async (t) => {
  const host = await hosts.host();
  const clerk = { subject: 'user:clerk', scopes: ['auth:write'], roles: ['clerks'], level: 'L4' };
  await host.roles.create('clerks', { scopes: ['auth:write'] }, ROOT);
  await host.roles.create('trusted', { scopes: [] }, ROOT);
  await host.roles.create('chiefs', { scopes: ['admin'] }, ROOT);
  await t.rejects(host.directory.create('user', 'one', { roles: ['trusted'] }, clerk), {
    code: 'PERMISSION_DENIED',
    message: /user:clerk lacks the role trusted/,
  });
  await t.rejects(host.directory.create('user', 'one', { level: 'L1' }, clerk), {
    code: 'PERMISSION_DENIED',
    message: /user:clerk lacks the level L1/,
  });
  await host.directory.create('user', 'one', { roles: ['clerks'], level: 'L4' }, clerk);
  await host.directory.update('user', 'one', { level: 'L5' }, clerk);
  const denied = { code: 'PERMISSION_DENIED' };
  await t.rejects(host.directory.update('user', 'one', { level: 'L3' }, clerk), denied);
  await t.rejects(host.roles.update('chiefs', { scopes: [] }, clerk), denied, 'nor emptied');
  await host.directory.update('user', 'one', { roles: ['trusted'], level: 'L1' }, ROOT);
  await host.directory.update('user', 'one', { description: 'as it was' }, clerk);
});

t.test('a database that is away is no refusal, and who was known goes on', async (t) => {
  const host = await hosts.host();
  const secret = await host.client('steady', ['plugins:read']);
  const known = (await host.token('steady', secret)).access_token;
  const unknown = (await host.token('steady', secret)).access_token;
  await host.authenticate(known);
  const away = new Authenticator({
    credentials: [],
    lookup: { epoch: 1, find: () => Promise.reject(new Error('away')) },
    now: Date.now,
  });
  await t.rejects(Promise.resolve(away.authenticate(arrival(`Bearer ${unknown}`))), /away/);
  await hosts.pool.query('alter table noa.auth_sessions rename to auth_sessions_away');
  try {
    t.match(host.authenticate(known), { subject: 'client:steady' });
    await t.rejects(Promise.resolve(host.authenticate(unknown)), /auth_sessions/);
  } finally {
    await hosts.pool.query('alter table noa.auth_sessions_away rename to auth_sessions');
  }
  t.match(await host.who(unknown), { subject: 'client:steady' }, 'a failure is not remembered');
});

t.test('what is read of credentials is what was written, and nothing else', async (t) => {
  const refresh = new RefreshTokens(Buffer.alloc(32, 1));
  const other = new RefreshTokens(Buffer.alloc(32, 2));
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      fc.integer({ min: 0, max: 76 }),
      (serial, at) => {
        const sessionId = newSessionId();
        const text = refresh.write(sessionId, serial);
        const changed = text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1);
        const { text: key, id, digest } = newApiKey();
        const read = readApiKey(key);
        return (
          JSON.stringify(refresh.read(text)) === JSON.stringify({ sessionId, serial }) &&
          other.read(text) === undefined &&
          refresh.read(changed) === undefined &&
          read?.id === id &&
          isSecretOf(read.secret, digest) &&
          !isSecretOf(`${read.secret} `, digest)
        );
      },
    ),
  );
  const { secret } = newClientSecret();
  t.ok(secret.length > 43);
  const authenticator = new Authenticator({
    credentials: [{ token: BOOTSTRAP, principal: ROOT }],
    lookup: { epoch: 0, find: () => Promise.resolve(undefined) },
    now: () => 0,
  });
  const words = fc.constantFrom(
    'Bearer',
    'bearer ',
    ' ',
    '\t',
    ',',
    BOOTSTRAP,
    'noa_',
    '.',
    '=',
    'é',
    '\0',
  );
  const header = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(words).map((parts) => parts.join('')),
  );
  await fc.assert(
    fc.asyncProperty(header, async (authorization) => {
      const given = bearerOf(authorization);
      const isTrue = given === BOOTSTRAP;
      if (given !== undefined && /\s/.test(given)) return false;
      const outcome = await Promise.resolve()
        .then(() => authenticator.authenticate(arrival(authorization)))
        .catch((error: unknown) => (error as { code?: unknown }).code);
      return isTrue
        ? outcome === ROOT
        : outcome === 'UNAUTHENTICATED' || outcome === 'RATE_LIMITED';
    }),
    { numRuns: 500 },
  );
  const scope = fc.constantFrom('admin', 'plugins:read', 'plugins:call', 'audit:read');
  fc.assert(
    fc.property(fc.uniqueArray(scope), fc.uniqueArray(scope), scope, (a, b, one) => {
      const both = common(a, b);
      return covers(both, one) === (covers(a, one) && covers(b, one));
    }),
  );
});
