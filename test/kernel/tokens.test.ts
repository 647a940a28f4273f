import { createHmac, generateKeyPairSync, hkdfSync, randomBytes, randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { SignJWT, UnsecuredJWT } from 'jose';
import t from 'tap';
import { Budgets } from '../../host/kernel/budgets.ts';
import { intersectRights, type Right, within } from '../../host/kernel/grants.ts';
import { type Audience, TokenService } from '../../host/kernel/tokens.ts';

const rootKey = randomBytes(32);
const audience: Audience = { plugin: 'notes', instance: 'run-1/notes', generation: 1 };
const rights: Right[] = [
  { capability: 'cache', operations: ['get', 'set'], resources: ['notes:*'], grants: ['g1'] },
];
const key = (kid: string, at = '2026-01-01T00:00:00.000Z', retiredAt: string | null = null) => ({
  kid,
  createdAt: at,
  retiredAt,
});

function service(start = Date.parse('2026-06-01T00:00:00Z')) {
  const clock = { now: start };
  const tokens = new TokenService({
    issuer: 'noa',
    rootKey,
    lifeSeconds: 300,
    now: () => clock.now,
    newId: randomUUID,
  });
  tokens.useKeys([key('k1')]);
  return { clock, tokens };
}

const secretOf = (kid: string) =>
  new Uint8Array(hkdfSync('sha256', rootKey, kid, 'noa capability token v1', 32));

/** A token as an attacker would make it who knows its form. */
function forge(
  claims: Record<string, unknown>,
  header: Record<string, unknown>,
  secret: Uint8Array,
) {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const body = `${part(header)}.${part(claims)}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}

const readBody = (token: string) =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as Record<
    string,
    unknown
  >;

const refused = { code: 'UNAUTHENTICATED' };

t.test('a minted token is accepted by its own instance, with its rights', async (t) => {
  const { tokens } = service();
  const { text, claims } = await tokens.mint(audience, rights);
  const read = await tokens.verify(text, audience);
  t.strictSame(read.rights, rights);
  t.equal(read.expiresAt - read.issuedAt, 300);
  t.equal(read.id, claims.id);
});

t.test('what two plugins have in common is worked out once, along a chain too', async (t) => {
  const { tokens } = service();
  const many = (grant: string): Right[] =>
    Array.from({ length: 24 }, (_, i) => ({
      capability: 'cache',
      operations: ['get', 'set', 'delete', 'increment', 'lock'],
      resources: Array.from({ length: 64 }, (_each, j) => `k${i}.${j}:*`),
      grants: [`${grant}${i}`],
    }));
  const parent = await tokens.mint(audience, many('a'));
  const [callee, deeper] = [many('b'), many('c')];
  const chain = async (): Promise<number> => {
    const started = process.threadCpuUsage();
    const token = await tokens.attenuate(parent.claims, audience, callee, { calls: 5 });
    const next = await tokens.attenuate(token.claims, audience, deeper, { calls: 5 });
    t.equal(next.claims.rights.length, 24);
    t.same(next.claims.rights[3]?.grants, ['a3', 'b3', 'c3']);
    const { user, system } = process.threadCpuUsage(started);
    return (user + system) / 1000;
  };
  const first = await chain();
  let others = 0;
  for (let n = 0; n < 10; n += 1) others += await chain();
  t.ok(others < 3 * first, `ten more took ${others} ms, the first ${first} ms`);
});

t.test('a token is refused by any other plugin, instance or generation', async (t) => {
  const { tokens } = service();
  const { text } = await tokens.mint(audience, rights);
  for (const other of [{ plugin: 'other' }, { instance: 'run-2/notes' }, { generation: 2 }]) {
    await t.rejects(tokens.verify(text, { ...audience, ...other }), refused);
  }
});

t.test('a token is refused from its expiry on, remembered or not', async (t) => {
  const { clock, tokens } = service();
  const seen = await tokens.mint(audience, rights);
  const unseen = await tokens.mint(audience, rights);
  await tokens.verify(seen.text, audience);
  clock.now += 299_000;
  await tokens.verify(seen.text, audience);
  clock.now += 1000;
  await t.rejects(tokens.verify(seen.text, audience), refused);
  await t.rejects(tokens.verify(unseen.text, audience), refused);
});

t.test('forged tokens are refused: algorithm, key, key id, type, claims', async (t) => {
  const { tokens } = service();
  const { text } = await tokens.mint(audience, rights);
  const [head = '', body = '', signature = ''] = text.split('.');
  const claims = readBody(text);
  const header = { alg: 'HS256', typ: 'noa-capability+jwt', kid: 'k1' };
  const good = secretOf('k1');
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const without = (name: string) =>
    Object.fromEntries(Object.entries(claims).filter(([claim]) => claim !== name));
  const attacks: Record<string, string> = {
    'alg none': new UnsecuredJWT(claims).encode(),
    'alg none with the signature': `${Buffer.from('{"alg":"none"}').toString('base64url')}.${body}.${signature}`,
    'another key': forge(claims, header, randomBytes(32)),
    'an empty key': forge(claims, header, new Uint8Array(0)),
    'the public key of an RSA pair as secret': forge(
      claims,
      { ...header, alg: 'RS256' },
      rsa.publicKey.export({ type: 'spki', format: 'der' }),
    ),
    'an unknown key id': forge(claims, { ...header, kid: 'k2' }, secretOf('k2')),
    'a key id that is a path': forge(
      claims,
      { ...header, kid: '../../dev/null' },
      new Uint8Array(0),
    ),
    'a key id that is SQL': forge(claims, { ...header, kid: "' or 1=1 --" }, good),
    'no key id': forge(claims, { alg: 'HS256', typ: header.typ }, good),
    'another type': forge(claims, { ...header, typ: 'JWT' }, good),
    'HS512 with the same key': await new SignJWT(claims)
      .setProtectedHeader({ ...header, alg: 'HS512' })
      .sign(Buffer.concat([good, good])),
    'a changed body': `${head}.${Buffer.from(JSON.stringify({ ...claims, gen: 9 })).toString('base64url')}.${signature}`,
    'an audience that is a list': forge({ ...claims, aud: [audience.instance] }, header, good),
    'another issuer': forge({ ...claims, iss: 'else' }, header, good),
    'a longer life': forge({ ...claims, exp: Number(claims['exp']) + 86_400 }, header, good),
    'a wider right': forge({ ...claims, jti: randomUUID() }, header, good),
    'rights of the wrong form': forge({ ...claims, cap: [{ c: 'db' }] }, header, good),
    'a negative budget': forge({ ...claims, budget: { calls: -1 } }, header, good),
    'not a token': 'a.b.c',
    nothing: '',
  };
  for (const claim of ['sub', 'aud', 'jti', 'iat', 'nbf', 'exp', 'gen', 'cap', 'iss']) {
    attacks[`no ${claim}`] = forge(without(claim), header, good);
  }
  for (const [name, token] of Object.entries(attacks)) {
    await t.rejects(tokens.verify(token, audience), refused, name);
  }
  await tokens.verify(text, audience);
});

t.test('whatever bytes come as a token are refused without another error', async (t) => {
  const { tokens } = service();
  const { text } = await tokens.mint(audience, rights);
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.string({ unit: 'binary' }),
        fc
          .tuple(fc.nat(text.length - 1), fc.string({ minLength: 1, maxLength: 1 }))
          .map(([at, char]) => text.slice(0, at) + char + text.slice(at + 1)),
      ),
      async (token) => {
        if (token === text) return;
        await tokens.verify(token, audience).then(
          // The last character of base64url carries unused bits: another spelling of the same token.
          (claims) => t.equal(Buffer.from(token, 'latin1').length, text.length, claims.id),
          (error: unknown) => t.match(error, refused),
        );
      },
    ),
    { numRuns: 300 },
  );
});

t.test(
  'revoking a token voids it and all its descendants, also when they were verified before',
  async (t) => {
    const { tokens } = service();
    const parent = await tokens.mint(audience, rights);
    const other = { ...audience, plugin: 'digest', instance: 'run-1/digest' };
    const child = await tokens.attenuate(parent.claims, other, rights);
    await tokens.verify(child.text, other);
    tokens.revoke(parent.claims.id);
    await t.rejects(tokens.verify(parent.text, audience), refused);
    await t.rejects(tokens.verify(child.text, other), refused);
  },
);

t.test(
  'a rotated key verifies through the overlap and not after; new tokens use the new key',
  async (t) => {
    const { clock, tokens } = service();
    const old = await tokens.mint(audience, rights);
    const retiredAt = new Date(clock.now).toISOString();
    tokens.useKeys([key('k1', '2026-01-01T00:00:00.000Z', retiredAt), key('k2', retiredAt)]);
    const fresh = await tokens.mint(audience, rights);
    t.equal(fresh.claims.kid, 'k2');
    await tokens.verify(old.text, audience);
    clock.now += 301_000;
    await t.rejects(tokens.verify(old.text, audience), refused);
    const late = forge(
      {
        ...readBody(old.text),
        exp: clock.now / 1000 + 60,
      },
      { alg: 'HS256', typ: 'noa-capability+jwt', kid: 'k1' },
      secretOf('k1'),
    );
    await t.rejects(tokens.verify(late, audience), refused, 'the retired key signs nothing new');
  },
);

const pattern = fc
  .tuple(fc.constantFrom('', 'a', 'ab', 'abc', 'b', 'b.c'), fc.boolean())
  .map(([text, star]) => (star ? `${text}*` : text || 'x'));
const right = fc.record({
  capability: fc.constantFrom('db', 'cache'),
  operations: fc.uniqueArray(fc.constantFrom('get', 'set', 'query'), { minLength: 1 }),
  resources: fc.uniqueArray(pattern, { minLength: 1, maxLength: 3 }),
  grants: fc.uniqueArray(fc.constantFrom('g1', 'g2', 'g3'), { minLength: 1 }),
});

t.test('an attenuated token is never wider than its parent nor than the callee', async (t) => {
  const { tokens } = service();
  await fc.assert(
    fc.asyncProperty(
      fc.array(right, { maxLength: 3 }),
      fc.array(right, { maxLength: 3 }),
      async (a, b) => {
        const parent = await tokens.mint(audience, a);
        const child = await tokens.attenuate(parent.claims, { ...audience, plugin: 'callee' }, b);
        t.ok(within(child.claims.rights, a) && within(child.claims.rights, b));
        t.strictSame(child.claims.rights, intersectRights(a, b));
        t.ok(child.claims.expiresAt <= parent.claims.expiresAt);
      },
    ),
    { numRuns: 200 },
  );
});

t.test('a budget holds against parallel calls and is shared by all children', async (t) => {
  const { tokens } = service();
  const budgets = new Budgets();
  const parent = await tokens.mint(audience, rights, { calls: 10 });
  budgets.begin(parent.claims);
  const children = await Promise.all(
    [1, 2, 3].map(() =>
      tokens.attenuate(parent.claims, { ...audience, plugin: 'b' }, rights, { calls: 8 }),
    ),
  );
  let passed = 0;
  for (let i = 0; i < 100; i++) {
    const child = children[i % 3];
    if (child === undefined) continue;
    try {
      budgets.begin(child.claims);
      passed += 1;
    } catch (error) {
      t.match(error, { code: 'RESOURCE_EXHAUSTED' });
    }
  }
  t.equal(passed, 9, 'nine of the ten were left to the children together');
});

t.test('rows, bytes and time that a call used count against the next one', async (t) => {
  const { tokens } = service();
  const budgets = new Budgets();
  for (const [budget, usage, ms] of [
    [{ rows: 5 }, { rows: 5 }, 0],
    [{ bytes: 5 }, { bytes: 9 }, 0],
    [{ ms: 5 }, {}, 6],
  ] as const) {
    const { claims } = await tokens.mint(audience, rights, budget);
    budgets.begin(claims);
    budgets.end(claims, usage, ms);
    t.throws(() => budgets.begin(claims), { code: 'RESOURCE_EXHAUSTED' });
  }
});

t.test('a root key that is too short and a life out of bounds are refused', (t) => {
  const options = { issuer: 'noa', rootKey, lifeSeconds: 300, now: Date.now, newId: randomUUID };
  t.throws(() => new TokenService({ ...options, rootKey: randomBytes(6) }), {
    code: 'INVALID_ARGUMENT',
  });
  t.throws(() => new TokenService({ ...options, lifeSeconds: 301 }), { code: 'INVALID_ARGUMENT' });
  t.throws(() => new TokenService({ ...options, lifeSeconds: 59 }), { code: 'INVALID_ARGUMENT' });
  t.end();
});
