/** That the plugins of one sandbox each get their part of it, whatever one of them takes or breaks. */
import { setTimeout as delay } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import t from 'tap';
import type { Loader, Runtime, RuntimeCall } from '../../host/kernel/loader.ts';
import { call, hanging, load, loader, refusal, request } from './sandbox.ts';

/** Loads the kit with so much memory that one instruction takes long; the way to bring down its worker. */
async function villain(
  sandbox: Loader,
  name = 'villain',
): Promise<{ runtime: Runtime; strike(): Promise<void> }> {
  let harms = 0;
  const limits = { memoryMiB: 1024, timeoutMs: 40 };
  const runtime = await load(sandbox, { name, limits, harmed: () => (harms += 1) });
  const strike = async (): Promise<void> => {
    // On a busy machine the call may be over before it has begun.
    const before = harms;
    while (harms === before) await code(call(runtime, 'smear', '', { ms: 40 }));
  };
  return { runtime, strike };
}

/** Starts `count` calls that wait for a capability; the codes they end with, and the way to end them. */
function occupy(
  runtime: Runtime,
  count: number,
  text = request(1),
): { readonly codes: Promise<string[]>; readonly begun: () => number; readonly end: () => void } {
  const released = Promise.withResolvers<null>();
  let begun = 0;
  const invoke = (): Promise<null> => {
    begun += 1;
    return released.promise;
  };
  const calls = Array.from({ length: count }, () => code(call(runtime, 'ask', text, { invoke })));
  return { codes: Promise.all(calls), begun: () => begun, end: () => released.resolve(null) };
}

/** Waits until so many calls have begun, and a little longer for one too many. */
async function settle(calls: { readonly begun: () => number }, count: number): Promise<void> {
  while (calls.begun() < count) await delay(5);
  await delay(30);
}

async function code(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'ok',
    (error: unknown) => (error instanceof NoaError ? error.code : String(error)),
  );
}

const immediately = { invoke: () => Promise.resolve(null), ms: 2000 };

await t.test('one plugin that waits on all stacks leaves stacks to the others', async (test) => {
  const sandbox = loader(test, { suspendedPerThread: 8 });
  const [flood, other, third] = [
    await load(sandbox, { name: 'flood' }),
    await load(sandbox, { name: 'other' }),
    await load(sandbox, { name: 'third' }),
  ];
  const first = occupy(flood, 40);
  await settle(first, 4);
  test.equal(first.begun(), 4, 'half the stacks');
  test.equal(await code(call(other, 'ask', request(1), immediately)), 'ok');
  const second = occupy(other, 40);
  await settle(second, 2);
  test.equal(second.begun(), 2, 'half of what is left');
  test.equal(await code(call(third, 'ask', request(1), immediately)), 'ok');
  first.end();
  second.end();
  test.same(new Set([...(await first.codes), ...(await second.codes)]), new Set(['ok']));
});

await t.test('a plugin that is alone has all the stacks', async (test) => {
  const alone = await load(loader(test, { suspendedPerThread: 8 }));
  const calls = occupy(alone, 20);
  await settle(calls, 8);
  test.equal(calls.begun(), 8);
  calls.end();
  test.same(new Set(await calls.codes), new Set(['ok']));
});

await t.test('a flood of calls is refused while the calls of others get in', async (test) => {
  const sandbox = loader(test, { callsPerThread: 16, suspendedPerThread: 4 });
  const [flood, other] = [
    await load(sandbox, { name: 'flood' }),
    await load(sandbox, { name: 'other' }),
  ];
  const calls = occupy(flood, 40);
  await delay(20);
  test.equal(await code(call(other, 'echo', '1')), 'ok');
  test.equal(await code(call(other, 'ask', request(1), immediately)), 'ok');
  calls.end();
  const codes = await calls.codes;
  test.equal(codes.filter((each) => each === 'ok').length, 8);
  test.equal(codes.filter((each) => each === 'RESOURCE_EXHAUSTED').length, 32);
});

await t.test('a flood of large inputs leaves room for the inputs of others', async (test) => {
  const sandbox = loader(test);
  const [flood, other] = [
    await load(sandbox, { name: 'flood' }),
    await load(sandbox, { name: 'other' }),
  ];
  const loop = code(call(flood, 'loop', '', { ms: 400 }));
  await delay(20);
  const large = 'x'.repeat((1 << 20) - 100);
  const calls = Array.from({ length: 100 }, () => code(call(flood, 'echo', large)));
  const others = Array.from({ length: 8 }, () => code(call(other, 'echo', large)));
  test.same(new Set(await Promise.all(others)), new Set(['ok']));
  const codes = await Promise.all(calls);
  test.equal(codes.filter((each) => each === 'ok').length, 32);
  test.equal(await loop, 'DEADLINE_EXCEEDED');
});

await t.test('turns go round: a long queue of one delays another by one turn', async (test) => {
  const sandbox = loader(test);
  const [busy, other] = [
    await load(sandbox, { name: 'busy' }),
    await load(sandbox, { name: 'other' }),
  ];
  const ended: string[] = [];
  const run = (runtime: Runtime, who: string, input: string): Promise<unknown> =>
    call(runtime, 'spin', input).then(() => ended.push(who));
  const calls = Array.from({ length: 50 }, () => run(busy, 'busy', '20000000'));
  calls.push(run(other, 'other', '1'));
  await Promise.all(calls);
  test.ok(ended.indexOf('other') <= 2, `${ended.indexOf('other')} calls came first`);
});

await t.test('one plugin does not get all of the memory', async (test) => {
  const sandbox = loader(test, { memoryMiB: 128 });
  const [flood, other] = [
    await load(sandbox, { name: 'flood' }),
    await load(sandbox, { name: 'other' }),
  ];
  const works = Array.from({ length: 8 }, hanging);
  const results = works.map(async ({ invoke, called }) => {
    const result = code(call(flood, 'hoard', request(1), { invoke }));
    await Promise.race([called, result]);
    return { result };
  });
  const pending = await Promise.all(results);
  const beside = hanging();
  const kept = code(call(other, 'hoard', request(1), { invoke: beside.invoke }));
  await beside.called;
  test.ok(flood.stats().memoryBytes <= 64 << 20, `${flood.stats().memoryBytes} bytes`);
  beside.answer(null);
  test.equal(await kept, 'ok');
  for (const work of works) work.answer(null);
  const codes = await Promise.all(pending.map(({ result }) => result));
  test.equal(codes.filter((each) => each === 'ok').length, 3, codes.join(' '));
  test.equal(codes.filter((each) => each === 'RESOURCE_EXHAUSTED').length, 5);
});

await t.test('an idempotent call whose worker falls under it begins anew, once', async (test) => {
  const sandbox = loader(test);
  const victim = await load(sandbox, { name: 'victim' });
  const works = Array.from({ length: 3 }, hanging);
  let asked = 0;
  const invoke: RuntimeCall['invoke'] = (...args) => {
    asked += 1;
    return works[asked - 1]?.invoke(...args) ?? Promise.resolve(null);
  };
  const kept = call(victim, 'ask', request(1), { invoke, idempotent: true });
  await works[0]?.called;
  const plain = hanging();
  const lost = refusal(call(victim, 'ask', request(2), { invoke: plain.invoke }));
  await plain.called;
  // A machine may be fast enough for the instruction to end before its worker does.
  for (let n = 0; asked < 2; n += 1) {
    await (await villain(sandbox, `villain-${n}`)).strike();
    await Promise.race([works[1]?.called, delay(1000)]);
  }
  await works[1]?.called;
  test.match(await works[0]?.aborted, { code: 'UNAVAILABLE' }, 'the first attempt is ended');
  test.match(await lost, { code: 'UNAVAILABLE', retryAfterMs: Number });
  works[0]?.answer('late');
  works[1]?.answer('again');
  test.same(JSON.parse(await kept), { ok: true, value: 'again' });
});

await t.test(
  'one that has brought a worker down hurts nobody when it does so again',
  async (test) => {
    const sandbox = loader(test);
    const [bad, victim] = [await villain(sandbox), await load(sandbox, { name: 'victim' })];
    await bad.strike();
    const work = hanging();
    const kept = code(call(victim, 'ask', request(1), { invoke: work.invoke }));
    await work.called;
    for (let n = 0; n < 3; n += 1) {
      await bad.strike();
      test.equal(await call(victim, 'echo', '1'), '1');
    }
    work.answer(null);
    test.equal(await kept, 'ok');
    test.equal(await call(bad.runtime, 'echo', '2'), '2', 'apart, it is still served');
  },
);

await t.test('instances belong to one plugin and one load of it', async (test) => {
  const sandbox = loader(test);
  const first = await load(sandbox, { name: 'first' });
  const second = await load(sandbox, { name: 'second' });
  await call(first, 'remember', 'a secret of the first');
  test.equal(
    await call(first, 'recall'),
    'a secret of the first',
    'it keeps what it wants to keep',
  );
  test.equal(await call(second, 'recall'), 'none', 'the same module under another name');
  const next = await load(sandbox, { name: 'first' });
  test.equal(await call(next, 'recall'), 'none', 'the next load under the same name');
  await first.stop();
  test.equal(await call(next, 'recall'), 'none');
});

await t.test('a flood of large requests delays the others by a few of them', async (test) => {
  const sandbox = loader(test);
  const flood = await load(sandbox, { name: 'flood' });
  const other = await load(sandbox, { name: 'other' });
  const text = request('x'.repeat(1_000_000));
  let served = 0;
  const invoke = (): Promise<null> => {
    served += 1;
    return Promise.resolve(null);
  };
  let stop = false;
  const calls = Array.from({ length: 16 }, async () => {
    while (!stop) await call(flood, 'ask_thrice', text, { invoke });
  });
  const between: number[] = [];
  while (between.length < 20) {
    await delay(5);
    const before = served;
    await call(other, 'ask', request(1), immediately);
    between.push(served - before);
  }
  stop = true;
  await Promise.all(calls);
  test.ok(served > 20, `${served} requests of the flood were served`);
  test.ok(Math.max(...between) <= 6, between.join(' '));
});

await t.test('what waits behind a turn that lasts goes elsewhere, and runs once', async (test) => {
  const sandbox = loader(test);
  const [bad, victim] = [
    await load(sandbox, { name: 'bad' }),
    await load(sandbox, { name: 'victim' }),
  ];
  const work = hanging();
  const kept = code(call(victim, 'ask', request(1), { invoke: work.invoke }));
  await work.called;
  for (let round = 0; round < 2; round += 1) {
    const loop = code(call(bad, 'loop', '', { ms: 1500 }));
    await delay(20);
    const started = performance.now();
    const asked = Array.from({ length: 20 }, () => 0);
    const calls = asked.map((_, n) => {
      const invoke = (): Promise<null> => {
        asked[n] = (asked[n] ?? 0) + 1;
        return Promise.resolve(null);
      };
      return code(call(victim, 'ask', request(n), { invoke }));
    });
    test.same(new Set(await Promise.all(calls)), new Set(['ok']));
    test.ok(performance.now() - started < 1000, 'answered beside the loop');
    test.equal(await loop, 'DEADLINE_EXCEEDED');
    test.same(new Set(asked), new Set([1]), 'each call ran once');
  }
  work.answer(null);
  test.equal(await kept, 'ok', 'and what had begun goes on');
});
