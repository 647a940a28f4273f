/**
 * The kernel as a whole: calls between plugins, lives, and what happens when parts around it fail. Only
 * its ports are doubles: the state is in memory and a plugin's exports are functions of the test.
 */
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Capability,
  type DriverCall,
  type Json,
  type Manifest,
  NoaError,
  parseManifest,
  type Provision,
} from '@noa/sdk/host';
import t from 'tap';
import { isChain } from '../../host/kernel/chain.ts';
import { Kernel } from '../../host/kernel/kernel.ts';
import type { Loader, RuntimeCall } from '../../host/kernel/loader.ts';
import { MemoryCallerTokens, MemoryStore } from '../transports/memory-store.ts';

type Export = (input: Json, call: RuntimeCall) => unknown;

const store: Capability = {
  name: 'store',
  summary: 'for tests',
  resource: 'a name',
  operations: {
    read: {
      summary: 'reads',
      input: { type: 'object' },
      output: {},
      idempotent: true,
      resources: (input: { key?: string }) => [input.key ?? ''],
      usage: () => ({ rows: 2 }),
    },
  },
  normalizeResource: (pattern) => pattern,
};

const call: Capability = {
  name: 'plugin',
  summary: 'for tests',
  resource: 'plugin/export',
  operations: {
    call: {
      summary: 'calls',
      input: { type: 'object' },
      output: {},
      idempotent: false,
      resources: (input: { plugin?: string; export?: string }) => [
        `${input.plugin}/${input.export}`,
      ],
    },
  },
  normalizeResource: (pattern) => pattern,
};

async function start() {
  const exports = new Map<string, { readonly [name: string]: Export }>();
  const provisions: Provision[] = [];
  const world = {
    loads: 0,
    loadError: undefined as Error | undefined,
    away: false,
    stopped: 0,
    slow: new Map<string, Promise<void>>(),
  };
  const loader: Loader = {
    inspect: () => Promise.resolve(),
    close: () => Promise.resolve(),
    load: ({ plugin }) => {
      world.loads += 1;
      if (world.loadError) return Promise.reject(world.loadError);
      return Promise.resolve({
        call: async (request) => {
          const run = exports.get(plugin)?.[request.export];
          return JSON.stringify((await run?.(JSON.parse(request.input) as Json, request)) ?? null);
        },
        stats: () => ({ instances: 1, memoryBytes: 0 }),
        stop: () => {
          world.stopped += 1;
          return Promise.resolve();
        },
      });
    },
  };
  const idle = { check: () => Promise.resolve(), close: () => Promise.resolve() };
  const kernel = new Kernel({
    store: new MemoryStore(),
    callerTokens: new MemoryCallerTokens(),
    loader,
    capabilities: (callPlugin) => [
      {
        capability: store,
        driver: {
          ...idle,
          invoke: () => Promise.resolve({}),
          provision: async (request) => {
            if (world.away) throw new NoaError('UNAVAILABLE', 'the engine is away');
            provisions.push(request);
            await world.slow.get(request.plugin);
          },
          drop: (plugin) => {
            if (world.away) return Promise.reject(new NoaError('UNAVAILABLE', `${plugin} stays`));
            return Promise.resolve();
          },
        },
      },
      {
        capability: call,
        driver: {
          ...idle,
          invoke: async (_operation, input, { chain, signal, deadline }: DriverCall) => {
            if (!isChain(chain)) throw new Error('no chain');
            const {
              plugin,
              export: name,
              budget,
            } = input as {
              plugin: string;
              export: string;
              budget?: { calls?: number; rows?: number };
            };
            const target = { plugin, export: name, input: null, budget, chain, signal, deadline };
            return { output: await callPlugin(target) };
          },
        },
      },
    ],
    readBundle: (bytes) => {
      const manifest = parseManifest(Buffer.from(bytes).toString());
      const migrations = [{ name: 'migrations/0001_x.sql', sql: 'select 1' }];
      return Promise.resolve({ manifest, wasm: bytes, migrations });
    },
    rootKey: createHash('sha256').update('root').digest(),
    hostId: 'test',
    tokenLifeSeconds: 120,
    drainMs: 1000,
    now: Date.now,
    newId: randomUUID,
    onTransition: () => undefined,
    onRemoved: () => undefined,
    onError: () => undefined,
    observeCall: () => undefined,
    observeCapability: () => undefined,
    observeCost: () => undefined,
    pluginLog: () => undefined,
  });
  await kernel.start();
  const { administration } = kernel;
  const dispatch = async (plugin: string, name: string, signal = new AbortController().signal) => {
    const principal = { subject: 'tester', scopes: ['admin'] };
    const invocation = {
      id: 'r1',
      traceId: 't1',
      plugin,
      export: name,
      input: null,
      principal,
      signal,
    };
    return (await kernel.dispatcher.dispatch(invocation)).value;
  };
  const approve = async (plugin: string): Promise<void> => {
    for (const { id } of administration.grants(plugin))
      await administration.approve(id, {}, 'root');
  };
  return {
    kernel,
    administration,
    world,
    provisions,
    dispatch,
    approve,
    /** Installs and approves a plugin of these functions. */
    install: async (content: Manifest, functions: { readonly [name: string]: Export }) => {
      exports.set(content.name, functions);
      await administration.install(bundle(content), 'root');
      await approve(content.name);
    },
  };
}

const bundle = (content: Manifest): Buffer => Buffer.from(JSON.stringify(content));

function manifest(name: string, part: Partial<Manifest> = {}): Manifest {
  return {
    name,
    version: '1.0.0',
    runtime: { kind: 'wasm', file: 'p.wasm' },
    exports: { run: {} },
    capabilities: [
      { capability: 'store', operations: ['read'], resources: ['*'], reason: 'reads' },
      { capability: 'plugin', operations: ['call'], resources: ['*'], reason: 'calls' },
    ],
    ...part,
  };
}

const read: Export = (_input, request) =>
  request.invoke('store', 'read', { key: 'k' }, request.signal);
const callInto =
  (plugin: string, budget?: { calls?: number; rows?: number }): Export =>
  (_input, request) => {
    const input = { plugin, export: 'run', ...(budget ? { budget } : {}) };
    return request.invoke('plugin', 'call', input, request.signal);
  };

t.test(
  'a budget given to a call holds for all that happens in it, and for nothing else',
  async (t) => {
    const { kernel, install, dispatch } = await start();
    t.teardown(() => kernel.close());
    let reads = 0;
    await install(manifest('callee'), {
      run: async (input, request) => {
        for (; reads < 10; reads += 1) await read(input, request);
      },
    });
    await install(manifest('caller'), { run: callInto('callee', { calls: 3 }) });
    await t.rejects(dispatch('caller', 'run'), { code: 'RESOURCE_EXHAUSTED', message: /calls/ });
    t.equal(reads, 3);
    await t.resolves(dispatch('callee', 'run'), 'its own calls are not bounded by it');
    await install(manifest('rows'), { run: callInto('callee', { rows: 3 }) });
    reads = 0;
    await t.rejects(dispatch('rows', 'run'), { code: 'RESOURCE_EXHAUSTED', message: /rows/ });
    t.equal(reads, 2, 'two rows a read: the second went over, the third was refused');
  },
);

t.test('a flood of denials leaves few records, and the next one counts them', async (t) => {
  const { kernel, administration, install, dispatch } = await start();
  t.teardown(() => kernel.close());
  let denied = 0;
  const knock: Export = async (_input, request) => {
    for (let n = 0; n < 5_000; n += 1) {
      await request
        .invoke('store', 'read', { key: 'k' }, request.signal)
        .catch(() => (denied += 1));
    }
  };
  const once: Export = (_input, request) =>
    request.invoke('store', 'read', { key: 'k' }, request.signal);
  const nothing = manifest('thief', { capabilities: [], exports: { run: {}, once: {} } });
  await install(nothing, { run: knock, once });
  await install({ ...nothing, name: 'other' }, { once });
  await dispatch('thief', 'run');
  t.equal(denied, 5_000);
  await sleep(1_100);
  await t.rejects(dispatch('other', 'once'), { code: 'CAPABILITY_DENIED' });
  await t.rejects(dispatch('thief', 'once'), { code: 'CAPABILITY_DENIED' });
  await kernel.audit.flush();
  const { records } = await administration.auditPage({ limit: 1000 });
  const told = records.filter(({ kind }) => kind === 'capability.denial');
  const [last, ...before] = told.filter(({ plugin }) => plugin === 'thief');
  t.equal(before.length, 100);
  t.match(last?.details, { suppressed: 4_900 });
  t.equal(told.length - before.length - 1, 1, 'that of another plugin is there');
  t.notOk(JSON.stringify(before).includes('suppressed'));
});

t.test('a chain of calls cannot come back to a plugin, nor go deeper than its bound', async (t) => {
  const { kernel, install, dispatch } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('a'), { run: callInto('b') });
  await install(manifest('b'), { run: callInto('a') });
  await t.rejects(dispatch('a', 'run'), { code: 'CONFLICT', message: /a → b → a/ });
  for (let n = 0; n < 12; n += 1) await install(manifest(`p${n}`), { run: callInto(`p${n + 1}`) });
  await t.rejects(dispatch('p0', 'run'), { code: 'RESOURCE_EXHAUSTED', message: /deep/ });
});

t.test('a narrowed right holds although the engine that should follow is away', async (t) => {
  const { kernel, administration, install, dispatch, world } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('reader'), { run: read });
  await t.resolves(dispatch('reader', 'run'));
  world.away = true;
  const grant = administration.grants('reader').find(({ capability }) => capability === 'store');
  await administration.approve(grant?.id ?? '', { resources: ['other'] }, 'root');
  await t.rejects(dispatch('reader', 'run'), { code: 'CAPABILITY_DENIED', message: /"k"/ });
  world.away = false;
});

t.test('a right taken away in the middle of a call is denied at its next use', async (t) => {
  const { kernel, administration, install, dispatch } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('reader'), {
    run: async (input, request) => {
      await read(input, request);
      const grant = administration
        .grants('reader')
        .find(({ capability }) => capability === 'store');
      await administration.revoke(grant?.id ?? '', 'root');
      await read(input, request);
    },
  });
  await t.rejects(dispatch('reader', 'run'), { code: 'CAPABILITY_DENIED' });
});

t.test(
  'a plugin that cannot start is tried again, then quarantined, and enable is the way out',
  async (t) => {
    const { kernel, administration, install, dispatch, world } = await start();
    t.teardown(() => kernel.close());
    world.loadError = new NoaError('INVALID_ARGUMENT', 'its module does not start');
    await install(manifest('broken'), { run: () => 'well' });
    t.match(administration.plugin('broken'), { state: 'failed', reason: /does not start/ });
    await t.rejects(dispatch('broken', 'run'), { code: 'UNAVAILABLE' });
    for (let attempt = 0; attempt < 5; attempt += 1) {
      await administration.setEnabled('broken', false, 'root');
      await administration.setEnabled('broken', true, 'root');
      t.match(
        administration.plugin('broken'),
        { state: 'failed' },
        'enable starts the count afresh',
      );
    }
    const unit = kernel.supervisor.units.get('broken');
    t.ok(unit);
    if (unit) unit.failures = 4;
    if (unit) unit.applied = '';
    await kernel.supervisor.sync();
    t.match(administration.plugin('broken'), { state: 'quarantined', reason: /enable broken/ });
    await t.rejects(dispatch('broken', 'run'), { code: 'PLUGIN_QUARANTINED' });
    const { loads } = world;
    await kernel.supervisor.sync();
    t.equal(world.loads, loads, 'in quarantine it is left alone');
    world.loadError = undefined;
    await administration.setEnabled('broken', true, 'root');
    t.equal(await dispatch('broken', 'run'), 'well');
  },
);

t.test('an upgrade that cannot start leaves the version that serves', async (t) => {
  const { kernel, administration, install, dispatch, world } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('steady'), { run: () => 'one' });
  world.loadError = new NoaError('INVALID_ARGUMENT', 'its module does not start');
  const view = await administration.upgrade(
    'steady',
    bundle(manifest('steady', { version: '2.0.0' })),
    'root',
  );
  t.match(view, { version: '1.0.0', state: 'serving', reason: /cannot start/ });
  t.equal(await dispatch('steady', 'run'), 'one');
  const third = bundle(manifest('steady', { version: '3.0.0' }));
  t.match(await administration.upgrade('steady', third, 'root'), { version: '1.0.0' });
  t.match(administration.plugin('steady'), { version: '1.0.0', state: 'serving' });
  world.loadError = undefined;
  const back = await administration.rollback('steady', 'root');
  t.match(back, { version: '1.0.0', state: 'serving' }, 'back to what served');
});

t.test('a rollback to a version that asks otherwise opens its requests again', async (t) => {
  const { kernel, administration, install, approve, dispatch } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('back'), { run: () => 'here' });
  const next = manifest('back', { version: '2.0.0', capabilities: [] });
  await administration.upgrade('back', bundle(next), 'root');
  for (const { id } of administration.grants('back')) await administration.revoke(id, 'root');
  await administration.rollback('back', 'root');
  for (const { grant } of administration.plugin('back').requested) t.ok(grant);
  await approve('back');
  t.equal(await dispatch('back', 'run'), 'here');
});

t.test('a replaced version finishes its running calls before it is stopped', async (t) => {
  const { kernel, administration, install, dispatch, world } = await start();
  t.teardown(() => kernel.close());
  const gate = Promise.withResolvers<string>();
  await install(manifest('slow'), { run: () => gate.promise });
  const running = dispatch('slow', 'run');
  const upgraded = administration.upgrade(
    'slow',
    bundle(manifest('slow', { version: '2.0.0' })),
    'root',
  );
  t.equal(world.stopped, 0);
  gate.resolve('done');
  t.equal(await running, 'done');
  await upgraded;
  t.equal(world.stopped, 1);
});

t.test('calls over a plugin’s concurrency wait, and over its queue they are refused', async (t) => {
  const { kernel, install, dispatch } = await start();
  t.teardown(() => kernel.close());
  const gate = Promise.withResolvers<string>();
  const limits = { concurrency: 1 };
  await install(manifest('narrow', { limits }), { run: () => gate.promise });
  const calls = Array.from({ length: 40 }, () => dispatch('narrow', 'run'));
  const settled = Promise.allSettled(calls);
  gate.resolve('ok');
  const outcomes = await settled;
  const refused = outcomes.filter(({ status }) => status === 'rejected');
  t.equal(outcomes.length - refused.length, 33, 'one ran and 32 waited');
  for (const each of refused) {
    t.match(each, { reason: { code: 'RESOURCE_EXHAUSTED', retryAfterMs: Number } });
  }
});

t.test('faults and refused bundles are in the audit', async (t) => {
  const { kernel, administration, install, dispatch } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('faulty', { exports: { run: { output: { type: 'string' } } } }), {
    run: () => 1,
  });
  await t.rejects(dispatch('faulty', 'run'), { code: 'PLUGIN_OUTPUT_INVALID' });
  await t.rejects(administration.install(Buffer.from('{}'), 'mallory'), {
    code: 'INVALID_ARGUMENT',
  });
  await t.rejects(administration.upgrade('faulty', bundle(manifest('other')), 'mallory'), {
    code: 'INVALID_ARGUMENT',
    message: /under its own name/,
  });
  t.match(await administration.verifyAudit(), { ok: true });
  const { records } = await administration.auditPage({ limit: 100 });
  const told = records.map(
    ({ kind, actor, outcome, code }) => `${kind} ${actor} ${outcome} ${code}`,
  );
  t.ok(told.includes('plugin.failure plugin:faulty failed PLUGIN_OUTPUT_INVALID'));
  t.ok(told.includes('plugin.install mallory failed INVALID_ARGUMENT'));
  t.ok(told.includes('plugin.upgrade mallory failed INVALID_ARGUMENT'));
});

t.test('engines learn exactly the rights that hold', async (t) => {
  const { kernel, administration, install, provisions } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('learner'), { run: read });
  t.match(provisions.at(-1), {
    plugin: 'learner',
    grants: [{ operations: ['read'], resources: ['*'] }],
  });
  const grant = administration.grants('learner').find(({ capability }) => capability === 'store');
  await administration.revoke(grant?.id ?? '', 'root');
  t.strictSame(provisions.at(-1)?.grants, []);
});

t.test('a plugin that takes long to prepare delays nobody else', async (t) => {
  const { kernel, administration, install, dispatch, world } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('victim'), { run: read });
  const gate = Promise.withResolvers<void>();
  world.slow.set('slow', gate.promise);
  const slow = install(manifest('slow'), { run: () => 'here' });
  const grant = administration.grants('victim').find(({ capability }) => capability === 'store');
  await administration.revoke(grant?.id ?? '', 'root');
  await t.rejects(dispatch('victim', 'run'), { code: 'CAPABILITY_DENIED' });
  await install(manifest('other'), { run: () => 'other' });
  t.equal(await dispatch('other', 'run'), 'other');
  await t.rejects(dispatch('slow', 'run'));
  gate.resolve();
  await slow;
  t.equal(await dispatch('slow', 'run'), 'here');
});

t.test(
  'without a grant nothing of a plugin runs in an engine, its migrations neither',
  async (t) => {
    const { kernel, administration, provisions } = await start();
    t.teardown(() => kernel.close());
    const optional = manifest('shy', {
      capabilities: [
        {
          capability: 'store',
          operations: ['read'],
          resources: ['*'],
          optional: true,
          reason: 'x',
        },
      ],
    });
    await administration.install(bundle(optional), 'root');
    t.match(administration.plugin('shy'), { state: 'serving' });
    t.strictSame(
      provisions.flatMap(({ migrations }) => migrations),
      [],
    );
    const [grant] = administration.grants('shy');
    await administration.approve(grant?.id ?? '', {}, 'root');
    t.equal(provisions.at(-1)?.migrations.length, 1);
    await administration.revoke(grant?.id ?? '', 'root');
    t.match(provisions.at(-1), { grants: [], migrations: [] });
  },
);

t.test('data that cannot be deleted yet keeps nobody from installing and starting', async (t) => {
  const { kernel, administration, install, dispatch, world } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('gone'), { run: () => 1 });
  world.away = true;
  await administration.remove('gone', false, 'root');
  const none = manifest('next', { capabilities: [] });
  await install(none, { run: () => 'next' });
  t.equal(await dispatch('next', 'run'), 'next');
  await t.rejects(
    administration.install(bundle(manifest('gone')), 'root'),
    { code: 'UNAVAILABLE' },
    'but its own name is not given to others while its data is there',
  );
  world.away = false;
  await administration.install(bundle(manifest('gone')), 'root');
});

t.test('calls with a budget leave no token behind', async (t) => {
  const { kernel, install, dispatch } = await start();
  t.teardown(() => kernel.close());
  await install(manifest('callee'), { run: callInto('leaf') });
  await install(manifest('leaf'), { run: read });
  const seen: string[] = [];
  await install(manifest('caller'), {
    run: async (input, request) => {
      for (let n = 0; n < 50; n += 1) await callInto('callee', { calls: 5 })(input, request);
      seen.push('done');
    },
  });
  await dispatch('caller', 'run');
  t.strictSame(seen, ['done']);
  t.ok(kernel.liveTokens < 10, `${kernel.liveTokens} tokens live after 50 calls`);
});

t.test('a narrowing reaches a running call that has a budget', async (t) => {
  const { kernel, administration, install, dispatch } = await start();
  t.teardown(() => kernel.close());
  const outcomes: string[] = [];
  await install(manifest('callee'), {
    run: async (input, request) => {
      await read(input, request);
      outcomes.push('read');
      const grant = administration
        .grants('callee')
        .find(({ capability }) => capability === 'store');
      await administration.approve(grant?.id ?? '', { resources: ['other'] }, 'root');
      await read(input, request);
      outcomes.push('read again');
    },
  });
  for (const budget of [undefined, { calls: 10 }]) {
    await install(manifest(budget ? 'frugal' : 'caller'), { run: callInto('callee', budget) });
    await t.rejects(dispatch(budget ? 'frugal' : 'caller', 'run'), { code: 'CAPABILITY_DENIED' });
    const grant = administration.grants('callee').find(({ capability }) => capability === 'store');
    await administration.approve(grant?.id ?? '', {}, 'root');
  }
  t.strictSame(outcomes, ['read', 'read']);
});
