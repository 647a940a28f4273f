/** The bounds of the WebAssembly sandbox: memory, calls, text that waits, log lines, address space. */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { DEFAULT_LIMITS, NoaError } from '@noa/sdk/host';
import t from 'tap';
import {
  assemble,
  call,
  hanging,
  isApart,
  load,
  loader,
  manifestOf,
  refusal,
  request,
} from './sandbox.ts';

await t.test('memory has a bound over all instances, and idle ones give way', async (test) => {
  const sandbox = loader(test, { memoryMiB: 64 });
  const runtime = await load(sandbox, { limits: { memoryMiB: 32 } });
  const works = Array.from({ length: 6 }, hanging);
  const results = works.map((work) =>
    call(runtime, 'hoard', request(1), { invoke: work.invoke }).then(
      () => 'ok',
      (error: unknown) => (error instanceof NoaError ? error.code : 'bug'),
    ),
  );
  await Promise.all(works.map((work, n) => Promise.race([work.called, results[n]])));
  for (const work of works) work.answer(null);
  const codes = await Promise.all(results);
  test.equal(codes.filter((code) => code === 'ok').length, 3, codes.join(' '));
  test.equal(codes.filter((code) => code === 'RESOURCE_EXHAUSTED').length, 3);
  const { instances, memoryBytes } = runtime.stats();
  test.ok(
    instances >= 1 && memoryBytes <= 64 << 20,
    `${instances} instances, ${memoryBytes} bytes`,
  );
  test.equal(await call(runtime, 'echo', '1'), '1');
});

await t.test('idle instances are reaped', async (test) => {
  const runtime = await load(loader(test, { idleMs: 100 }));
  await call(runtime, 'echo', '1');
  test.equal(runtime.stats().instances, 1);
  for (let n = 0; n < 40 && runtime.stats().instances > 0; n += 1) await delay(100);
  test.same(runtime.stats(), { instances: 0, memoryBytes: 0 });
  test.equal(await call(runtime, 'echo', '1'), '1', 'and made again');
});

await t.test('a worker takes so many calls and no more', async (test) => {
  const runtime = await load(loader(test, { callsPerThread: 8, suspendedPerThread: 2 }));
  const works = Array.from({ length: 10 }, hanging);
  const results = works.map((work) =>
    call(runtime, 'ask', request(1), { invoke: work.invoke }).then(
      (text) => text,
      (error: unknown) => (error instanceof NoaError ? error.code : 'bug'),
    ),
  );
  works.forEach((work, n) => work.answer(n));
  const answers = await Promise.all(results);
  test.same(
    answers,
    works.map((_, n) => (n < 8 ? JSON.stringify({ ok: true, value: n }) : 'RESOURCE_EXHAUSTED')),
  );
});

await t.test('a queue of large inputs has a bound below the heap of its worker', async (test) => {
  const runtime = await load(loader(test));
  const loop = refusal(call(runtime, 'loop', '', { ms: 400 }));
  await delay(20);
  // Two bytes a character in the heap of the worker, though one in UTF-8.
  const large = `→${'x'.repeat((1 << 20) - 100)}`;
  const codes = await Promise.all(
    Array.from({ length: 100 }, () =>
      call(runtime, 'echo', large).then(
        (output) => (output === large ? 'ok' : 'wrong'),
        (error: unknown) => (error instanceof NoaError ? error.code : 'bug'),
      ),
    ),
  );
  test.equal((await loop).code, 'DEADLINE_EXCEEDED');
  test.equal(codes.filter((code) => code === 'ok').length, 64, [...new Set(codes)].join(' '));
  test.equal(codes.filter((code) => code === 'RESOURCE_EXHAUSTED').length, 36);
});

await t.test(
  'log lines are limited, cut and made printable, and what is lost is counted',
  async (test) => {
    const lines: (readonly [string, string])[] = [];
    const sandbox = loader(test);
    const runtime = await load(sandbox, { log: (...line) => lines.push(line) });
    await call(runtime, 'log', 'one\r\ntwo\u001b[2J\u2028\u202e three');
    test.same(lines, [['error', 'one\\r\\ntwo\\u001b[2J\\u2028\\u202e three']]);
    await call(runtime, 'log', 'x'.repeat(5000));
    test.match(lines[1]?.[1], /^x{4096}… \(904 more characters\)$/);

    lines.length = 0;
    await call(runtime, 'flood_log', 'line');
    for (let n = 0; n < 30 && !lines.some(([level]) => level === 'warn'); n += 1) await delay(100);
    const written = lines.filter(([, text]) => text === 'line').length;
    const lost = Number(
      lines.find(([level]) => level === 'warn')?.[1].match(/^(\d+) log lines/)?.[1],
    );
    test.ok(written >= 100 && written < 1000, `${written} lines written`);
    test.equal(written + lost, 5000, 'every line is accounted for');

    lines.length = 0;
    await refusal(call(runtime, 'flood_log_forever', 'line', { ms: 200 }));
    for (let n = 0; n < 30 && lines.at(-1)?.[0] !== 'warn'; n += 1) await delay(50);
    test.match(
      lines.at(-1),
      ['warn', /^\d+ log lines were dropped/],
      'also of a guest that was ended',
    );
  },
);

await t.test('bursts of waiting calls leave no address space behind', async (test) => {
  if (process.platform !== 'linux') return test.pass('read from /proc');
  const runtime = await load(loader(test));
  const reserved = (): number =>
    Number(/VmSize:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024;
  const burst = (invoke: () => Promise<unknown>): Promise<unknown> =>
    Promise.all(Array.from({ length: 50 }, () => call(runtime, 'ask', request(1), { invoke })));
  // All at once, as far as they may: no burst has more instances after that, however busy the machine is.
  for (let n = 0; n < 5; n += 1) {
    let waiting = 0;
    const { promise: all, resolve } = Promise.withResolvers<void>();
    await burst(() => {
      waiting += 1;
      if (waiting === 50) resolve();
      return Promise.race([all, delay(1000)]);
    });
  }
  const before = reserved();
  for (let n = 0; n < 40; n += 1) await burst(() => delay(1));
  const grown = reserved() - before;
  test.ok(grown < 300, `${grown.toFixed(0)} MiB more after 2,000 calls`);
});

await t.test('tables and variables are counted: many instances exhaust no worker', async (test) => {
  const sandbox = loader(test);
  const table = '(table 65536 funcref)';
  const wasm = assemble(`(module
    (import "extism:host/env" "input_offset" (func $input (result i64)))
    (import "extism:host/user" "noa_call" (func $noa_call (param i64) (result i64)))
    (memory 1) ${table} ${table} ${table} ${table}
    (func (export "ask") (result i32) (drop (call $noa_call (call $input))) (i32.const 0)))`);
  const large = await sandbox.load({
    plugin: 'large',
    generation: 1,
    manifest: manifestOf(['ask'], 'large'),
    limits: DEFAULT_LIMITS,
    wasm,
    config: {},
    log: () => undefined,
  });
  const other = await load(sandbox);
  const works = Array.from({ length: 40 }, hanging);
  const results = works.map(({ invoke }) =>
    call(large, 'ask', request(1), { invoke }).then(
      () => 'ok',
      (error: unknown) => (error instanceof NoaError ? error.code : 'bug'),
    ),
  );
  await Promise.all(works.map((work, n) => Promise.race([work.called, results[n]])));
  test.equal(await call(other, 'echo', '1'), '1', 'the worker lives');
  for (const work of works) work.answer(null);
  const codes = await Promise.all(results);
  const room = isApart() ? 16 : 8;
  test.equal(codes.filter((each) => each === 'ok').length, room, 'half of the room, or all of it');
  test.equal(codes.filter((each) => each === 'RESOURCE_EXHAUSTED').length, 40 - room);

  const before = other.stats().memoryBytes;
  await call(other, 'remember', 'x'.repeat(500_000));
  test.ok(other.stats().memoryBytes - before > 500_000, 'a variable counts as memory');
});
