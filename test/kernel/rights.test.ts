import { type CapabilityRequest, covers, type Manifest } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import { Gate } from '../../host/kernel/gate.ts';
import {
  effectiveRights,
  type Grant,
  intersectRights,
  isCovered,
  type Right,
  undecided,
} from '../../host/kernel/grants.ts';
import { Life, type State, TRANSITIONS } from '../../host/kernel/lifecycle.ts';
import { RateLimiter } from '../../host/kernel/rate.ts';
import { resolve } from '../../host/kernel/resolver.ts';

const request = (over: Partial<CapabilityRequest> = {}): CapabilityRequest => ({
  capability: 'cache',
  operations: ['get', 'set'],
  resources: ['notes:*'],
  reason: 'counts reads',
  ...over,
});

const grant = (over: Partial<Grant> = {}): Grant => ({
  id: 'g1',
  plugin: 'notes',
  capability: 'cache',
  operations: ['get', 'set'],
  resources: ['notes:*'],
  requested: { operations: ['get', 'set'], resources: ['notes:*'] },
  optional: false,
  reason: 'counts reads',
  status: 'approved',
  createdAt: '2026-01-01T00:00:00.000Z',
  decidedAt: null,
  decidedBy: null,
  ...over,
});

t.test('a plugin has what it asked for and was granted, and nothing else', (t) => {
  const rights = (requests: CapabilityRequest[], grants: Grant[]) =>
    effectiveRights(requests, grants).map(({ operations, resources }) => ({
      operations,
      resources,
    }));
  t.strictSame(rights([request()], []), [], 'a request alone gives nothing');
  t.strictSame(rights([], [grant()]), [], 'a grant alone gives nothing');
  t.strictSame(rights([request()], [grant({ status: 'pending' })]), []);
  t.strictSame(rights([request()], [grant({ status: 'revoked' })]), []);
  t.strictSame(rights([request()], [grant({ capability: 'db' })]), []);
  t.strictSame(rights([request()], [grant({ resources: ['other:*'] })]), []);
  t.strictSame(rights([request()], [grant({ operations: ['get', 'lock'], resources: ['*'] })]), [
    { operations: ['get'], resources: ['notes:*'] },
  ]);
  t.strictSame(rights([request({ resources: ['*'] })], [grant({ resources: ['notes:a', 'x*'] })]), [
    { operations: ['get', 'set'], resources: ['notes:a', 'x*'] },
  ]);
  t.end();
});

t.test('only a required request that nobody decided keeps a plugin waiting', (t) => {
  const waits = (requests: CapabilityRequest[], grants: Grant[]) =>
    undecided(requests, grants).length;
  t.equal(waits([request()], []), 1);
  t.equal(waits([request()], [grant({ status: 'pending' })]), 1);
  t.equal(waits([request()], [grant()]), 0);
  t.equal(
    waits([request()], [grant({ status: 'revoked' })]),
    0,
    'revoked is decided: its use is denied',
  );
  t.equal(waits([request()], [grant({ operations: ['get'] })]), 0, 'narrowed is decided');
  t.equal(waits([request({ optional: true })], []), 0);
  const added = grant({ requested: null, resources: ['*'] });
  t.equal(waits([request()], [added]), 0, 'an added grant that covers it decides it');
  t.equal(isCovered(request({ operations: ['get', 'lock'] }), [added]), false);
  t.end();
});

const pattern = fc
  .tuple(fc.string({ unit: fc.constantFrom('a', 'b', ':'), maxLength: 3 }), fc.boolean())
  .map(([text, star]) => (star ? `${text}*` : `${text}.`));
const name = fc.string({ unit: fc.constantFrom('a', 'b', ':', '.'), maxLength: 5 });
const rightsOf = fc.array(
  fc.record({
    capability: fc.constantFrom('db', 'cache'),
    operations: fc.uniqueArray(fc.constantFrom('get', 'set'), { minLength: 1 }),
    resources: fc.uniqueArray(pattern, { minLength: 1, maxLength: 3 }),
    grants: fc.constant(['g']),
  }),
  { maxLength: 3 },
);

t.test('along a chain a call may do exactly what every plugin of the chain may do', (t) => {
  fc.assert(
    fc.property(
      rightsOf,
      rightsOf,
      fc.constantFrom('get', 'set'),
      name,
      (a, b, operation, resource) => {
        const may = (rights: readonly Right[]) =>
          rights.some(
            (right) =>
              right.capability === 'db' &&
              right.operations.includes(operation) &&
              right.resources.some((each) => covers(each, resource)),
          );
        t.equal(may(intersectRights(a, b)), may(a) && may(b));
      },
    ),
    { numRuns: 1000 },
  );
  t.end();
});

const manifest = (over: Partial<Manifest> & { name: string }): Manifest => ({
  version: '1.0.0',
  runtime: { kind: 'wasm', file: 'x.wasm' },
  exports: {},
  ...over,
});

t.test('plugins start after what they need, in an order that does not change', (t) => {
  const plugins = [
    manifest({ name: 'a', needs: [{ plugin: 'c', version: '^1.0.0' }] }),
    manifest({ name: 'b', needs: [{ plugin: 'store' }] }),
    manifest({ name: 'c', needs: [{ plugin: 'b' }] }),
    manifest({ name: 'd', provides: { store: '2.0.0' } }),
  ];
  t.strictSame(resolve(plugins).order, ['d', 'b', 'c', 'a']);
  t.strictSame(resolve(plugins.toReversed()).order, ['d', 'b', 'c', 'a']);
  t.end();
});

t.test(
  'what is missing, of the wrong version or in a cycle is named, and blocks only its dependants',
  (t) => {
    const { order, problems } = resolve([
      manifest({ name: 'free' }),
      manifest({ name: 'lonely', needs: [{ plugin: 'absent', version: '^1.0.0' }] }),
      manifest({ name: 'picky', needs: [{ plugin: 'free', version: '^2.0.0' }] }),
      manifest({ name: 'x', needs: [{ plugin: 'y' }] }),
      manifest({ name: 'y', needs: [{ plugin: 'z' }] }),
      manifest({ name: 'z', needs: [{ plugin: 'x' }] }),
      manifest({ name: 'behind', needs: [{ plugin: 'lonely' }] }),
      manifest({ name: 'future', noa: '^9.0.0' }),
      manifest({ name: 'relaxed', needs: [{ plugin: 'absent', optional: true }] }),
      manifest({ name: 'egg', needs: [{ plugin: 'hen', optional: true }] }),
      manifest({ name: 'hen', needs: [{ plugin: 'egg' }] }),
    ]);
    t.strictSame([...order].sort(), ['egg', 'free', 'hen', 'relaxed']);
    t.match(problems.get('lonely'), /absent \^1\.0\.0/);
    t.match(problems.get('picky'), /installed version is 1\.0\.0/);
    t.match(problems.get('x'), /x → y → z → x/);
    t.match(problems.get('behind'), /lonely.*absent/);
    t.match(problems.get('future'), /ABI \^9\.0\.0/);
    t.end();
  },
);

t.test('a life follows its table and nothing else', (t) => {
  const states = Object.keys(TRANSITIONS) as State[];
  /** The shortest way from the beginning to a state. */
  const wayTo = (goal: State): State[] => {
    const queue: State[][] = [['discovered']];
    for (const way of queue) {
      const at = way.at(-1) ?? 'discovered';
      if (at === goal) return way.slice(1);
      for (const next of TRANSITIONS[at]) if (!way.includes(next)) queue.push([...way, next]);
    }
    throw new Error(`no way leads to ${goal}`);
  };
  for (const from of states) {
    for (const to of states) {
      const life = new Life('notes', () => undefined);
      for (const step of wayTo(from)) life.to(step);
      if (from === to || TRANSITIONS[from].includes(to)) {
        life.to(to, 'why');
        t.equal(life.reason, 'why');
      } else t.throws(() => life.to(to), { code: 'INTERNAL' }, `${from} → ${to}`);
    }
  }
  t.end();
});

t.test('a gate lets in its limit, queues to its bound and serves in order', async (t) => {
  const gate = new Gate(2, 2, Date.now);
  const never = new AbortController().signal;
  const soon = Date.now() + 60_000;
  t.ok(gate.tryEnter() && gate.tryEnter());
  t.notOk(gate.tryEnter());
  const order: number[] = [];
  const first = gate.wait(soon, never).then(() => order.push(1));
  const leaver = new AbortController();
  const second = t.rejects(gate.wait(soon, leaver.signal), { code: 'CANCELLED' });
  t.throws(() => gate.wait(soon, never), { code: 'RESOURCE_EXHAUSTED' });
  leaver.abort();
  await second;
  await t.rejects(gate.wait(Date.now() + 10, never), { code: 'DEADLINE_EXCEEDED' });
  const third = gate.wait(soon, never).then(() => order.push(3));
  gate.leave();
  gate.leave();
  await Promise.all([first, third]);
  t.strictSame(order, [1, 3]);
  t.equal(await gate.idle(5), false);
  gate.leave();
  gate.leave();
  t.equal(await gate.idle(1000), true);
  t.equal(gate.running, 0);
});

t.test('a rate limit allows a burst of one second and then its rate, for each key', (t) => {
  const clock = { now: 0 };
  const limiter = new RateLimiter(10, () => clock.now);
  const allowed = (key: string) => {
    let count = 0;
    for (let i = 0; i < 30; i++) {
      try {
        limiter.take(key, 'log.write');
        count += 1;
      } catch (error) {
        t.match(error, { code: 'RATE_LIMITED', retryAfterMs: Number });
      }
    }
    return count;
  };
  t.equal(allowed('a'), 10);
  t.equal(allowed('b'), 10);
  clock.now += 500;
  t.equal(allowed('a'), 5);
  t.end();
});
