/**
 * What the kernel makes of what happens in the sandbox: plugins that bring workers down pause and are
 * given up, those that only fail are not; calls between plugins end. Through the loader of WebAssembly
 * plugins; only the state is in memory.
 */
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type Json, type Manifest, NoaError, parseManifest } from '@noa/sdk/host';
import t, { type Test } from 'tap';
import { plugin } from '../../capabilities/plugin/capability.ts';
import { createLocalDriver } from '../../capabilities/plugin/local.ts';
import { isChain } from '../../host/kernel/chain.ts';
import { Conduct } from '../../host/kernel/conduct.ts';
import type { CostObservation } from '../../host/kernel/dispatcher.ts';
import { Kernel } from '../../host/kernel/kernel.ts';
import { KIT, KIT_EXPORTS, loader, manifestOf } from '../loaders/sandbox.ts';
import { MemoryCallerTokens, MemoryStore } from '../transports/memory-store.ts';

/** A kernel with the sandbox, whose clock the test may put forward. */
async function start(test: Test) {
  const store = new MemoryStore();
  const clock = { ahead: 0 };
  const events: string[] = [];
  const costs: CostObservation[] = [];
  const kernel: Kernel = new Kernel({
    store,
    callerTokens: new MemoryCallerTokens(),
    loader: loader(test),
    capabilities: (call) => [
      {
        capability: plugin,
        driver: createLocalDriver((target, { chain, signal, deadline }) => {
          if (!isChain(chain)) throw new Error('no chain');
          const { budget, input = null } = target;
          return call({ ...target, input, budget, chain, signal, deadline });
        }),
      },
    ],
    readBundle: (bytes) =>
      Promise.resolve({
        manifest: parseManifest(Buffer.from(bytes).toString()),
        wasm: KIT,
        migrations: [],
      }),
    rootKey: createHash('sha256').update('root').digest(),
    hostId: 'test',
    tokenLifeSeconds: 120,
    drainMs: 1000,
    now: () => Date.now() + clock.ahead,
    newId: randomUUID,
    onTransition: ({ plugin: name, from, to }) => events.push(`${name}: ${from} → ${to}`),
    onRemoved: () => undefined,
    onError: () => undefined,
    observeCall: () => undefined,
    observeCapability: () => undefined,
    observeCost: (cost) => costs.push(cost),
    pluginLog: () => undefined,
  });
  await kernel.start();
  test.teardown(() => kernel.close());
  const { administration } = kernel;
  return {
    kernel,
    store,
    clock,
    events,
    costs,
    administration,
    install: async (content: Manifest): Promise<void> => {
      const { name } = content;
      await administration.install(new TextEncoder().encode(JSON.stringify(content)), 'root');
      for (const { id } of administration.grants(name))
        await administration.approve(id, {}, 'root');
    },
    /** The deadline is by the clock of the machine, as the sandbox sees it. */
    call: async (name: string, target: string, input: Json = null, ms = 5000): Promise<Json> => {
      const principal = { subject: 'tester', scopes: ['admin'] };
      const { signal } = new AbortController();
      const id = { id: 'r1', traceId: 't1' };
      const deadline = Date.now() + ms;
      const call = { ...id, plugin: name, export: target, input, principal, signal, deadline };
      return (await kernel.dispatcher.dispatch(call)).value;
    },
  };
}

/** The kit, whose loops may take 20 ms. */
function kit(name: string): Manifest {
  const manifest = manifestOf(KIT_EXPORTS, name);
  return { ...manifest, exports: { ...manifest.exports, loop: { timeoutMs: 20 } } };
}

async function code(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'ok',
    (error: unknown) => (error instanceof NoaError ? error.code : String(error)),
  );
}

await t.test('a storm of time-outs makes a plugin pause; it comes back by itself', async (test) => {
  const { call, install, administration, events, store, kernel } = await start(test);
  await install(kit('storm'));
  await install(manifestOf(KIT_EXPORTS, 'bystander'));
  const codes: string[] = [];
  for (let n = 0; n < 400 && codes.at(-1) !== 'UNAVAILABLE'; n += 1) {
    codes.push(await code(call('storm', 'loop')));
    test.equal(await code(call('bystander', 'echo', n)), 'ok');
  }
  test.ok(codes.length > 5, codes.join(' '));
  test.match(administration.plugin('storm'), { state: 'failed', reason: /starts again after 1 s/ });
  const error: unknown = await call('storm', 'echo').catch((reason: unknown) => reason);
  test.match(error, { code: 'UNAVAILABLE', retryAfterMs: Number });
  for (let n = 0; n < 60 && administration.plugin('storm').state !== 'serving'; n += 1) {
    await delay(50);
  }
  test.same(await call('storm', 'echo', { well: 1 }), { well: 1 }, 'it serves again');
  test.equal(administration.plugin('storm').restarts, 1);
  const next = { ...manifestOf(KIT_EXPORTS, 'bystander'), version: '1.0.1' };
  await administration.upgrade('bystander', new TextEncoder().encode(JSON.stringify(next)), 'root');
  test.match(administration.plugin('bystander'), { version: '1.0.1', restarts: 0 });
  test.ok(events.includes('storm: serving → failed'));
  await kernel.audit.flush();
  const kinds = (await store.auditPage({ limit: 1000 })).records.map(
    ({ kind, plugin: name }) => `${kind} ${name}`,
  );
  test.ok(kinds.includes('plugin.pause storm'));
});

await t.test('one that goes on is given up, in words, and enable is the way out', async (test) => {
  const { call, install, administration, clock, store, kernel } = await start(test);
  await install(kit('storm'));
  const { supervisor } = kernel;
  const pauses: string[] = [];
  for (let n = 0; n < 1000 && administration.plugin('storm').state !== 'quarantined'; n += 1) {
    await code(call('storm', 'loop', null, 20));
    await delay(1);
    const { state, reason } = administration.plugin('storm');
    if (state !== 'failed') continue;
    pauses.push(String(reason));
    const unit = supervisor.units.get('storm');
    if (unit) unit.applied = '';
    clock.ahead += Number(/after (\d+) s/.exec(String(reason))?.[1]) * 1000;
    await supervisor.sync();
  }
  test.match(pauses, [/after 1 s/, /after 2 s/, /after 4 s/, /after 8 s/, /after 16 s/]);
  const told = { state: 'quarantined', reason: /overran.*noa plugin enable storm/ };
  test.match(administration.plugin('storm'), told);
  test.equal(await code(call('storm', 'echo')), 'PLUGIN_QUARANTINED');
  await kernel.audit.flush();
  const record = (await store.auditPage({ limit: 1000 })).records.find(
    ({ kind }) => kind === 'plugin.quarantine',
  );
  test.match(record, { plugin: 'storm', actor: 'host', code: 'PLUGIN_QUARANTINED' });
  await administration.setEnabled('storm', true, 'root');
  test.same(await call('storm', 'echo', 1), 1);
  test.equal(await code(call('storm', 'loop', null, 20)), 'DEADLINE_EXCEEDED');
  test.equal(administration.plugin('storm').state, 'serving', 'and its record is clean');
});

await t.test('no rate of failed calls takes a plugin out of service', async (test) => {
  const { call, install, administration } = await start(test);
  await install({ ...manifestOf(KIT_EXPORTS, 'frail'), limits: { memoryMiB: 4 } });
  for (let n = 0; n < 40; n += 1) {
    for (const name of ['trap', 'recurse', 'silent', 'grow', 'flood_output', 'wild_output']) {
      test.not(await code(call('frail', name)), 'ok');
    }
  }
  test.same(await call('frail', 'echo', 'well'), 'well');
  test.equal(administration.plugin('frail').state, 'serving');
});

await t.test('a caller that gives little time does not have a plugin taken out', async (test) => {
  const { call, install, administration } = await start(test);
  await install(manifestOf(KIT_EXPORTS, 'slow'));
  for (let n = 0; n < 12; n += 1) {
    test.equal(await code(call('slow', 'loop', null, 10)), 'DEADLINE_EXCEEDED');
    await delay(80);
  }
  test.equal(administration.plugin('slow').state, 'serving');
});

t.test(
  'harm is tolerated at a low rate for ever, and forgotten after good conduct',
  async (test) => {
    const rare = new Conduct();
    const verdicts = Array.from({ length: 1000 }, (_, n) => rare.harmed((n + 1) * 10_001).action);
    test.same(new Set(verdicts), new Set(['tolerate']));
    const often = new Conduct();
    const actions: string[] = [];
    let now = 1_000_000;
    const storm = (): string => {
      for (;;) {
        now += 100;
        const verdict = often.harmed(now);
        if (verdict.action === 'tolerate') continue;
        if (verdict.action === 'pause') now += verdict.ms;
        return verdict.action;
      }
    };
    for (let n = 0; n < 4; n += 1) actions.push(storm());
    now += 11 * 60_000;
    for (let n = 0; n < 6; n += 1) actions.push(storm());
    test.same(actions, [...Array.from({ length: 9 }, () => 'pause'), 'quarantine']);
  },
);

/** A plugin that may call all of these; `ask` hands its input to the door. */
function caller(name: string, callees: readonly string[]): Manifest {
  const resources = callees.map((callee) => `${callee}/*`);
  const request = { capability: 'plugin', operations: ['call'], resources, reason: 'test' };
  return { ...manifestOf(KIT_EXPORTS, name), capabilities: [request] };
}

/** Input of `ask` that has the next plugin called with such an input in turn, and the last with echo. */
function nested([next, ...rest]: readonly string[]): Json {
  const input = rest.length === 0 ? 'end' : nested(rest);
  const target = { plugin: next ?? '', export: rest.length === 0 ? 'echo' : 'ask', input };
  return { capability: 'plugin', operation: 'call', arguments: target };
}

/** The innermost envelope of nested answers. */
function innermost(value: Json): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const { value: inner } = value;
  if (typeof inner !== 'object' || inner === null || Array.isArray(inner)) return value;
  return inner['output'] === undefined ? value : innermost(inner['output']);
}

await t.test(
  'a cycle of calls is refused where it closes, a deep chain at its bound',
  async (test) => {
    const { call, install } = await start(test);
    const names = Array.from({ length: 10 }, (_, n) => `p${n}`);
    for (const name of names) await install(caller(name, names));
    test.same(innermost(await call('p0', 'ask', nested(['p1', 'p2']))), 'end');
    test.match(innermost(await call('p0', 'ask', nested(['p1', 'p0']))), {
      ok: false,
      error: { code: 'CONFLICT', message: /p0 → p1 → p0/ },
    });
    test.same(innermost(await call('p0', 'ask', nested(names.slice(1, 8)))), 'end', 'eight deep');
    test.match(innermost(await call('p0', 'ask', nested(names.slice(1, 9)))), {
      ok: false,
      error: { code: 'RESOURCE_EXHAUSTED', message: /8 deep at most/ },
    });
  },
);

await t.test('what calls cost is observed, and stands in the records of use', async (test) => {
  const { call, install, costs, store, kernel } = await start(test);
  const names = ['p0', 'p1'];
  for (const name of names) await install(caller(name, names));
  const fuelOf = (name: string): number =>
    costs.filter(({ plugin: owner }) => owner === name).reduce((sum, { fuel }) => sum + fuel, 0);
  await call('p0', 'ask', nested(['p1']));
  const [asked, answered] = [fuelOf('p0'), fuelOf('p1')];
  test.ok(asked > 100 && answered > 10, `${asked} and ${answered}`);
  await call('p0', 'ask', nested(['p1']));
  test.equal(fuelOf('p0'), 2 * asked, 'the same call costs the same again');

  await kernel.audit.flush();
  const { records } = await store.auditPage({ limit: 1000 });
  const uses = records.filter(
    ({ kind, plugin: owner }) => kind === 'capability.use' && owner === 'p0',
  );
  const fuel = uses.map(({ details }) => (details as { fuel: number }).fuel);
  test.equal(fuel.length, 2);
  test.equal(fuel[0], fuel[1]);
  test.ok(Number(fuel[0]) > 0 && Number(fuel[0]) < asked, `${fuel[0]} of ${asked} until its use`);
  test.match(uses[0]?.details, { executionMs: Number });

  // Of a call that was given up, what it burned is known a moment later.
  test.equal(await code(call('p0', 'loop', null, 50)), 'DEADLINE_EXCEEDED');
  for (let n = 0; n < 100 && fuelOf('p0') < 1e6; n += 1) await delay(10);
  test.ok(fuelOf('p0') > 1e6, `${fuelOf('p0')}`);
});
