/** How a plugin fares: counted over a minute, of one size whatever happens, and shown where one looks. */
import { NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import { Health } from '../../host/kernel/health.ts';
import { manifest, startFront } from '../transports/front.ts';

const DETAIL = {
  name: 'p',
  version: '1.0.0',
  digest: '0',
  state: 'serving',
  enabled: true,
  reason: null,
  candidate: null,
  requested: [],
  manifest: manifest({ name: 'p', exports: { a: {} } }),
  routes: [],
  grpc: [],
  subscriptions: [],
  hooks: [],
  versions: [],
  instances: 1,
  memoryBytes: 65_536,
  isolation: 'thread',
  restarts: 0,
  pinned: false,
} as const;

function world() {
  const clock = { now: 1_000_000_000_000 };
  const health = new Health(() => clock.now);
  const call = (ms: number) =>
    health.call({ plugin: 'p', export: 'a', code: 'OK', seconds: ms / 1000 });
  return { clock, health, call, view: () => health.view(DETAIL, 3) };
}

t.test('a plugin that was not called has no durations', (t) => {
  const { view } = world();
  t.match(view(), {
    name: 'p',
    state: 'serving',
    lastMinute: { calls: 0, failures: 0, p50Ms: null, p95Ms: null },
    lastError: null,
    droppedLogLines: 3,
  });
  t.end();
});

t.test('p50 and p95 are within a fifth of the truth', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0.2, max: 100_000, noNaN: true }), { minLength: 1 }),
      (durations) => {
        const { call, view } = world();
        for (const ms of durations) call(ms);
        const sorted = durations.toSorted((a, b) => a - b);
        const { calls, p50Ms, p95Ms } = view().lastMinute;
        const near = (share: number, found: number | null) => {
          const truth = sorted[Math.ceil(sorted.length * share) - 1] ?? 0;
          return found !== null && found >= truth * 0.8 - 0.1 && found <= truth * 1.21 + 0.1;
        };
        return calls === durations.length && near(0.5, p50Ms) && near(0.95, p95Ms);
      },
    ),
  );
  t.end();
});

t.test('calls are forgotten after a minute, the last error is not', (t) => {
  const { clock, health, call, view } = world();
  call(1);
  health.fault('p', 'a', new NoaError('PLUGIN_TRAP', 'x'.repeat(1000)));
  clock.now += 50_000;
  call(1);
  t.match(view().lastMinute, { calls: 2, failures: 1 });
  clock.now += 15_000;
  t.match(view().lastMinute, { calls: 1, failures: 0 });
  clock.now += 3_600_000;
  t.match(view().lastMinute, { calls: 0, p50Ms: null });
  t.match(view().lastError, { export: 'a', code: 'PLUGIN_TRAP', message: 'x'.repeat(500) });
  health.forget('p');
  t.equal(view().lastError, null);
  t.end();
});

t.test(
  'it is at /v1/plugins/:name/health, faults of the plugin apart from those of its callers',
  async (t) => {
    const server = await startFront();
    t.teardown(() => server.close());
    const object = { type: 'object', required: ['n'] };
    const exports = { good: { input: object }, bad: {}, refuses: {} };
    await server.install(manifest({ name: 'p', exports }), {
      good: () => 1,
      bad: () => {
        throw new NoaError('PLUGIN_TRAP', 'it trapped');
      },
      refuses: () => {
        throw new NoaError('NOT_FOUND', 'no such thing');
      },
    });
    for (const [name, input] of [
      ['good', { n: 1 }],
      ['good', 7],
      ['bad', 1],
      ['refuses', 1],
    ] as const) {
      await server.post(`/v1/plugins/p/exports/${name}`, input);
    }
    t.match(await server.get('/v1/plugins/p/health'), {
      status: 200,
      body: {
        name: 'p',
        state: 'serving',
        lastMinute: { calls: 4, failures: 1, p50Ms: Number, p95Ms: Number },
        lastError: { export: 'bad', code: 'PLUGIN_TRAP', message: 'it trapped' },
      },
    });
    t.match(await server.get('/v1/plugins/nobody/health'), { status: 404 });
  },
);
