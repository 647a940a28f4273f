/** Policies: what each member of a rule means, how rules add up, and what the configuration refuses. */
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { ConfigError, loadConfig } from '../../host/config.ts';
import type { Arrival } from '../../host/gateway/arrival.ts';
import type { DenialRecord } from '../../host/gateway/denials.ts';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import { Policy, PolicyError } from '../../host/gateway/policy.ts';
import type { PolicyRule } from '../../host/gateway/settings.ts';
import type { Principal } from '../../host/kernel/chain.ts';
import { manifest, startFront } from '../transports/front.ts';

const MONDAY_NOON = Date.UTC(2026, 5, 1, 12, 0);

const arrival = (part: Partial<Arrival> = {}): Arrival => ({
  transport: 'http',
  requestId: 'r',
  traceId: 't',
  method: 'GET',
  path: '/',
  authorization: undefined,
  remoteAddress: '192.0.2.7',
  ...part,
});
const user: Principal = { subject: 'user:ann', scopes: ['plugins:read'], roles: ['staff'] };
const deny = (part: Partial<PolicyRule>): PolicyRule => ({ name: 'no', effect: 'deny', ...part });
const allow = (part: Partial<PolicyRule>): PolicyRule => ({
  name: 'yes',
  effect: 'allow',
  ...part,
});

interface Case {
  readonly rules: readonly PolicyRule[];
  readonly fallback?: 'allow' | 'deny';
  readonly from?: Partial<Arrival>;
  readonly who?: Principal;
  readonly operation?: string;
  readonly now?: number;
}

/** The name of the rule that refuses; undefined when the call may go on. */
function refusal({ rules, fallback = 'allow', from = {}, who = user, ...rest }: Case) {
  const { operation = 'GET /v1/plugins', now = MONDAY_NOON } = rest;
  const policy = new Policy({ policies: rules, default_policy: fallback }, () => now);
  try {
    policy.check(arrival(from), who, operation);
    return undefined;
  } catch (error) {
    if (error instanceof PolicyError) return error.rule;
    throw error;
  }
}

t.test('operations: exact or by their beginning', async (t) => {
  const cases: [readonly string[] | undefined, boolean][] = [
    [undefined, true],
    [['GET /v1/plugins'], true],
    [['GET /v1/plugins*'], true],
    [['GET *'], true],
    [['*'], true],
    [['POST /v1/plugins', 'GET /v1/plugins'], true],
    [['GET /v1/plugin'], false],
    [['POST *'], false],
    [['get /v1/plugins'], false],
  ];
  for (const [operations, applies] of cases) {
    const rule = deny(operations === undefined ? {} : { operations });
    t.equal(refusal({ rules: [rule] }), applies ? 'no' : undefined, String(operations));
  }
});

t.test(
  'callers: any of the subjects, roles and scopes, and none of those that are left out',
  async (t) => {
    const cases: [Partial<PolicyRule>, boolean][] = [
      [{ subjects: ['user:ann'] }, true],
      [{ subjects: ['user:*'] }, true],
      [{ subjects: ['user:an'] }, false],
      [{ subjects: ['client:*'] }, false],
      [{ subjects: ['client:*'], roles: ['staff'] }, true],
      [{ roles: ['boss'] }, false],
      [{ roles: ['boss'], scopes: ['plugins:read'] }, true],
      [{ scopes: ['plugins:write'] }, false],
      [{ not: { subjects: ['user:ann'] } }, false],
      [{ not: { roles: ['staff'] } }, false],
      [{ not: { scopes: ['admin'] } }, true],
      [{ subjects: ['user:*'], not: { roles: ['boss'] } }, true],
    ];
    for (const [part, applies] of cases) {
      t.equal(refusal({ rules: [deny(part)] }), applies ? 'no' : undefined, JSON.stringify(part));
    }
    const bare = { subject: 'user:bob', scopes: [] };
    t.equal(
      refusal({ rules: [deny({ roles: ['staff'] })], who: bare }),
      undefined,
      'without roles',
    );
  },
);

t.test('the first deny rule that applies is named, whatever is allowed', async (t) => {
  const rules = [
    allow({}),
    deny({ name: 'other', operations: ['POST *'] }),
    deny({ name: 'first' }),
    deny({ name: 'second' }),
  ];
  t.equal(refusal({ rules }), 'first');
  t.equal(refusal({ rules, fallback: 'deny' }), 'first');
});

t.test('by default all is left to scopes; with the default deny a rule must allow', async (t) => {
  t.equal(refusal({ rules: [] }), undefined);
  t.equal(refusal({ rules: [], fallback: 'deny' }), 'default');
  t.equal(refusal({ rules: [allow({})], fallback: 'deny' }), undefined);
  const narrow = allow({ operations: ['GET /v1/audit'] });
  t.equal(refusal({ rules: [narrow], fallback: 'deny' }), 'default');
  t.equal(refusal({ rules: [narrow] }), undefined, 'an allow rule refuses nothing');
  const boot = { subject: 'bootstrap', scopes: ['admin'] };
  t.equal(refusal({ rules: [], fallback: 'deny', who: boot }), undefined, 'the way back in');
  t.equal(refusal({ rules: [deny({})], who: boot }), 'no', 'which a deny rule can narrow');
});

t.test('conditions: addresses, transports, client certificates', async (t) => {
  const inside = { addresses: ['10.0.0.0/8', '2001:db8::/32', '192.0.2.7'] };
  const outside = { not_addresses: inside.addresses };
  const known: [string, boolean][] = [
    ['10.255.0.1', true],
    ['11.0.0.1', false],
    ['192.0.2.7', true],
    ['192.0.2.8', false],
    ['::ffff:10.1.2.3', true],
    ['::ffff:11.1.2.3', false],
    ['2001:db8:1::1', true],
    ['2001:db9::1', false],
    ['2001:db8::1%eth0', true],
  ];
  for (const [remoteAddress, isIn] of known) {
    const from = { remoteAddress };
    t.equal(refusal({ rules: [deny({ when: inside })], from }), isIn ? 'no' : undefined);
    t.equal(refusal({ rules: [deny({ when: outside })], from }), isIn ? undefined : 'no');
  }
  for (const when of [inside, outside]) {
    const from = { remoteAddress: undefined };
    t.equal(refusal({ rules: [deny({ when })], from }), 'no', 'not known: denied');
    t.equal(refusal({ rules: [allow({ when })], fallback: 'deny', from }), 'default');
  }
  const grpc = deny({ when: { transports: ['grpc', 'websocket'] } });
  t.equal(refusal({ rules: [grpc] }), undefined);
  t.equal(refusal({ rules: [grpc], from: { transport: 'grpc' } }), 'no');
  const without = deny({ when: { client_certificate: false } });
  t.equal(refusal({ rules: [without] }), 'no');
  t.equal(refusal({ rules: [without], from: { clientCertificate: true } }), undefined);
  const both = deny({ when: { transports: ['http'], addresses: ['10.0.0.0/8'] } });
  t.equal(refusal({ rules: [both] }), undefined, 'all conditions must hold');
});

t.test('conditions: the time of the day and of the week in a zone', async (t) => {
  const at = (when: PolicyRule['when'] & object, now: number) =>
    refusal({ rules: [deny({ when })], now }) === 'no';
  const office = { weekdays: ['mon', 'tue'], from: '08:00', until: '18:00', zone: 'Europe/Zurich' };
  t.ok(at(office, Date.UTC(2026, 5, 1, 6, 0)), 'Monday, 08:00 in summer');
  t.notOk(at(office, Date.UTC(2026, 5, 1, 5, 59)));
  t.ok(at(office, Date.UTC(2026, 0, 5, 16, 59)), 'Monday, 17:59 in winter');
  t.notOk(at(office, Date.UTC(2026, 0, 5, 17, 0)), '18:00 is over');
  t.notOk(at(office, Date.UTC(2026, 5, 3, 10, 0)), 'Wednesday');
  const night = { weekdays: ['fri'], from: '22:00', until: '06:00' };
  t.ok(at(night, Date.UTC(2026, 5, 5, 22, 0)), 'Friday evening');
  t.ok(at(night, Date.UTC(2026, 5, 6, 5, 59)), 'into Saturday');
  t.notOk(at(night, Date.UTC(2026, 5, 6, 22, 30)), 'Saturday evening');
  t.notOk(at(night, Date.UTC(2026, 5, 5, 5, 0)), 'Friday morning is Thursday’s');
  t.ok(at({ weekdays: ['mon'] }, MONDAY_NOON));
  t.notOk(at({ weekdays: ['sun'] }, MONDAY_NOON));
  t.ok(at({ weekdays: ['tue'], zone: 'Pacific/Kiritimati' }, MONDAY_NOON), 'already Tuesday there');

  const policy = (now: () => number) =>
    new Policy(
      { policies: [deny({ when: { from: '12:00', until: '13:00' } })], default_policy: 'allow' },
      now,
    );
  let now = MONDAY_NOON - 1;
  const one = policy(() => now);
  t.doesNotThrow(() => one.check(arrival(), user, 'GET /'));
  now += 1;
  t.throws(() => one.check(arrival(), user, 'GET /'), /the policy no denies/);
  now += 3_600_000;
  t.doesNotThrow(() => one.check(arrival(), user, 'GET /'));
});

t.test('what is remembered of one caller and operation holds for no other', async (t) => {
  const subjects = ['user:a', 'user:b', 'client:a'];
  const operations = ['GET /a', 'GET /b', 'POST /a'];
  const some = <T>(values: readonly T[]) =>
    fc.option(fc.subarray([...values], { minLength: 1 }), { nil: undefined });
  const rule = fc.record({
    effect: fc.constantFrom('allow' as const, 'deny' as const),
    operations: some(['GET *', ...operations]),
    subjects: some(['user:*', ...subjects]),
  });
  const call = fc.record({
    subject: fc.constantFrom(...subjects),
    operation: fc.constantFrom(...operations),
  });
  fc.assert(
    fc.property(
      fc.array(rule, { maxLength: 5 }),
      fc.constantFrom('allow' as const, 'deny' as const),
      fc.array(call, { minLength: 1, maxLength: 30 }),
      (drawn, fallback, calls) => {
        const rules = drawn.map(({ effect, operations: at, subjects: whom }, index) => ({
          name: `r${index}`,
          effect,
          ...(at && { operations: at }),
          ...(whom && { subjects: whom }),
        }));
        const policy = new Policy({ policies: rules, default_policy: fallback }, Date.now);
        const principals = new Map(subjects.map((subject) => [subject, { subject, scopes: [] }]));
        return calls.every(({ subject, operation }) => {
          const who = principals.get(subject) ?? { subject, scopes: [] };
          let rest: string | undefined;
          try {
            policy.check(arrival(), who, operation);
          } catch (error) {
            rest = (error as PolicyError).rule;
          }
          return rest === refusal({ rules, fallback, who, operation });
        });
      },
    ),
  );
  t.pass('for any rules');
});

t.test('through the front: refused before anything is told, named, and noted', async (t) => {
  const denied: DenialRecord[] = [];
  const token = (name: string) => name.padEnd(32, '-');
  const gateway = new Gateway({
    authenticator: new Authenticator({
      credentials: [
        { token: token('ann'), principal: { subject: 'user:ann', scopes: ['admin'] } },
        { token: token('bob'), principal: { subject: 'user:bob', scopes: ['admin'] } },
      ],
      now: Date.now,
    }),
    policy: {
      default_policy: 'allow',
      policies: [
        deny({
          name: 'ann-reads-no-audit',
          operations: ['GET /v1/audit', 'GET /plugins/notes/secret/:id', 'GET unmatched'],
          subjects: ['user:ann'],
        }),
      ],
    },
    denied: (denial) => denied.push(denial),
  });
  const front = await startFront({ gateway });
  t.teardown(() => front.close());
  const echo = { input: {}, output: {} };
  await front.install(
    manifest({
      name: 'notes',
      exports: { read: echo },
      contributes: {
        routes: [
          { method: 'GET', path: '/secret/:id', export: 'read' },
          { method: 'GET', path: '/open/:id', export: 'read' },
        ],
      },
    }),
    { read: () => 'read' },
  );
  const get = (path: string, name = 'ann', method = 'GET') =>
    front.request(method, path, { token: token(name) });

  const refused = await get('/v1/audit');
  t.match(refused, {
    status: 403,
    body: {
      code: 'PERMISSION_DENIED',
      detail: /the policy ann-reads-no-audit denies GET \/v1\/audit to user:ann/,
      details: { policy: 'ann-reads-no-audit' },
    },
  });
  t.equal((await get('/v1/audit', 'ann', 'HEAD')).status, 403, 'HEAD is GET');
  t.equal((await get('/v1/audit', 'bob')).status, 200);
  t.equal((await get('/plugins/notes/secret/7')).status, 403, 'the route of a plugin');
  t.equal((await get('/plugins/notes/%73ecret/7')).status, 403, 'however it is written');
  t.equal((await get('/plugins/notes/open/7')).status, 200);
  t.equal((await get('/nothing/here')).status, 403, 'also where there is nothing');
  t.equal((await get('/nothing/here', 'bob')).status, 404);
  t.match(denied[0], {
    kind: 'policy',
    subject: 'user:ann',
    policy: 'ann-reads-no-audit',
    method: 'GET',
    path: '/v1/audit',
    remoteAddress: '127.0.0.1',
  });

  gateway.reload({
    default_policy: 'deny',
    policies: [allow({ operations: ['GET /v1/audit'] })],
    levels: { l1: 1, l2: 1, l3: 1, l4: 1, l5: 1 },
  });
  t.equal((await get('/v1/audit')).status, 200);
  const now = await get('/v1/plugins');
  t.match(now, { status: 403, body: { detail: /no policy allows GET \/v1\/plugins to user:ann/ } });
});

t.test('the configuration takes rules, and says what is wrong with one', async (t) => {
  const load = (policies: unknown, level?: string) =>
    loadConfig({
      cwd: join(import.meta.dirname, '../..'),
      env: {
        NOA_GATEWAY__POLICIES: JSON.stringify(policies),
        ...(level === undefined ? {} : { NOA_GATEWAY__LEVELS__L5: level }),
      },
    });
  const full = {
    name: 'a-rule',
    effect: 'deny',
    operations: ['GET /v1/audit', 'noa.api.v1.*'],
    subjects: ['user:*'],
    roles: ['staff'],
    scopes: ['audit:read'],
    not: { subjects: ['user:ann'] },
    when: {
      addresses: ['10.0.0.0/8', '::1'],
      not_addresses: ['10.1.0.0/16'],
      transports: ['grpc'],
      client_certificate: true,
      weekdays: ['mon'],
      from: '08:00',
      until: '18:00',
      zone: 'Europe/Zurich',
    },
  };
  t.match(load([full], '7').gateway, {
    default_policy: 'allow',
    policies: [full],
    levels: { l1: 200, l2: 150, l3: 120, l4: 80, l5: 7 },
  });
  const wrong: [unknown, RegExp][] = [
    [[{ ...full, name: 'A rule' }], /\/0\/name/],
    [[full, full], /\/1\/name is that of another/],
    [[{ ...full, effect: 'maybe' }], /\/0\/effect/],
    [[{ ...full, operation: 'x' }], /operation/],
    [[{ ...full, operations: [] }], /\/0\/operations/],
    [[{ ...full, operations: ['GET */x'] }], /\/0\/operations\/0/],
    [[{ ...full, operations: ['GET /x', 'GRAB /x'] }], /operations\/1 GRAB \/x names no operation/],
    [[{ ...full, operations: ['HEAD /x'] }], /HEAD \/x names no operation.*GET/],
    [[{ ...full, operations: ['get /x*'] }], /get \/x\* names no operation/],
    [[{ ...full, operations: ['/v1/plugins'] }], /names no operation/],
    [[{ ...full, operations: ['noa.api.v1.InferenceService'] }], /names no operation/],
    [[{ ...full, not: {} }], /\/0\/not/],
    [[{ ...full, when: {} }], /\/0\/when/],
    [[{ ...full, when: { addresses: ['10.0.0.0/33'] } }], /addresses 10\.0\.0\.0\/33 is no/],
    [[{ ...full, when: { not_addresses: ['example.org'] } }], /not_addresses example\.org is no/],
    [[{ ...full, when: { zone: 'Mars/Base' } }], /zone Mars\/Base is no time zone/],
    [[{ ...full, when: { from: '08:00' } }], /\/0\/when/],
    [[{ ...full, when: { from: '8', until: '18:00' } }], /\/0\/when\/from must be .*HH:MM/],
    ['deny', /must be array/],
  ];
  for (const [policies, why] of wrong) {
    const caught = (() => {
      try {
        load(policies);
        return undefined;
      } catch (error) {
        return error;
      }
    })();
    t.ok(caught instanceof ConfigError && why.test(caught.message), String(why), { caught });
  }
  t.throws(() => load([], '0'), ConfigError, 'a level of nothing');
});
