/** That the plugins of one sandbox each get their part of it, whatever one of them takes or breaks. */
import { setTimeout as delay } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import t from 'tap';
import type { Runtime } from '../../host/kernel/loader.ts';
import { call, hanging, load, loader, refusal, request } from './sandbox.ts';

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
  await delay(50);
  test.equal(first.begun(), 4, 'half the stacks');
  test.equal(await code(call(other, 'ask', request(1), immediately)), 'ok');
  const second = occupy(other, 40);
  await delay(50);
  test.equal(second.begun(), 2, 'half of what is left');
  test.equal(await code(call(third, 'ask', request(1), immediately)), 'ok');
  first.end();
  second.end();
  test.same(new Set([...(await first.codes), ...(await second.codes)]), new Set(['ok']));
});

await t.test('a plugin that is alone has all the stacks', async (test) => {
  const alone = await load(loader(test, { suspendedPerThread: 8 }));
  const calls = occupy(alone, 20);
  await delay(50);
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
