/** What the WebAssembly sandbox survives: overruns, floods, bombs, crashes, and all of them at once. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import type { Runtime } from '../../host/kernel/loader.ts';
import { Pool } from '../../host/loaders/wasm/pool.ts';
import { call, hanging, load, loader, neighbour, refusal, request, stall } from './sandbox.ts';

async function timed<T>(promise: Promise<T>): Promise<readonly [T, number]> {
  const start = performance.now();
  return [await promise, performance.now() - start];
}

await t.test('a loop is ended at its deadline, and the next call works', async (test) => {
  const runtime = await load(loader(test));
  const [error, ms] = await timed(refusal(call(runtime, 'loop', '', { ms: 150 })));
  test.equal(error.code, 'DEADLINE_EXCEEDED');
  test.ok(ms > 140 && ms < 1000, `after ${ms} ms`);
  test.equal(await call(runtime, 'echo', '"alive"'), '"alive"');
  for (const dead of [0, -1000]) {
    test.equal((await refusal(call(runtime, 'echo', '1', { ms: dead }))).code, 'DEADLINE_EXCEEDED');
  }
});

await t.test('a waiting call ends at its deadline without harm to its worker', async (test) => {
  const runtime = await load(loader(test));
  const bystander = hanging();
  const survives = call(runtime, 'ask', request(1), { invoke: bystander.invoke });
  await bystander.called;
  const work = hanging();
  const [error, ms] = await timed(
    refusal(call(runtime, 'ask', request(2), { ms: 100, invoke: work.invoke })),
  );
  test.equal(error.code, 'DEADLINE_EXCEEDED');
  test.ok(ms > 90 && ms < 1000, `after ${ms} ms`);
  test.match(await work.aborted, { code: 'DEADLINE_EXCEEDED' }, 'the work behind it is aborted');

  const next = hanging();
  const asking = call(runtime, 'ask', request(3), { invoke: next.invoke });
  await next.called;
  work.answer('late');
  await delay(20);
  next.answer('in time');
  bystander.answer('undisturbed');
  test.same(
    JSON.parse(await asking),
    { ok: true, value: 'in time' },
    'a late reply reaches nobody',
  );
  test.same(JSON.parse(await survives), { ok: true, value: 'undisturbed' });
});

await t.test('a caller that goes away ends its call, waiting or executing', async (test) => {
  const runtime = await load(loader(test));
  const waiting = new AbortController();
  const work = hanging();
  const first = refusal(
    call(runtime, 'ask', request(1), { signal: waiting.signal, invoke: work.invoke }),
  );
  await work.called;
  waiting.abort();
  test.equal((await first).code, 'CANCELLED');
  test.match(await work.aborted, { code: 'CANCELLED' });

  const executing = new AbortController();
  const second = refusal(call(runtime, 'loop', '', { signal: executing.signal }));
  setTimeout(() => executing.abort(), 50);
  test.equal((await second).code, 'CANCELLED');
  test.equal(await call(runtime, 'echo', '1'), '1', 'the loop no longer holds the worker');
  test.equal(
    (await refusal(call(runtime, 'echo', '1', { signal: executing.signal }))).code,
    'CANCELLED',
  );
});

await t.test('a guest that swallows its cancellation is ended all the same', async (test) => {
  const runtime = await load(loader(test));
  for (const name of ['stubborn', 'insistent']) {
    const work = hanging();
    const error = await refusal(call(runtime, name, request(1), { ms: 100, invoke: work.invoke }));
    test.equal(error.code, 'DEADLINE_EXCEEDED', name);
    test.equal(await call(runtime, 'echo', '1'), '1', `the next call works after ${name}`);
  }
});

await t.test(
  'calls beside an overrun are told to try again, or move when they had not begun',
  async (test) => {
    const sandbox = loader(test);
    const victim = await load(sandbox, { name: 'victim', wasm: 'stalling' });
    const villain = await neighbour(victim, sandbox, 'villain', { wasm: 'stalling' });
    const work = hanging();
    const begun = refusal(call(victim, 'ask', request(1), { invoke: work.invoke }));
    await work.called;
    const overrun = refusal(stall(villain, { ms: 80 }));
    await delay(40);
    const queued = Array.from({ length: 20 }, (_, n) => call(victim, 'echo', String(n)));
    test.equal((await overrun).code, 'DEADLINE_EXCEEDED');
    test.match(await begun, { code: 'UNAVAILABLE', retryAfterMs: Number });
    test.match(await work.aborted, { code: 'UNAVAILABLE' });
    test.same(
      await Promise.all(queued),
      Array.from({ length: 20 }, (_, n) => String(n)),
    );
  },
);

await t.test('a looping plugin leaves the other worker to the others', async (test) => {
  const sandbox = loader(test, { threads: 2 });
  const runtime = await load(sandbox);
  const loop = refusal(call(runtime, 'loop', '', { ms: 2000 }));
  await delay(30);
  for (let n = 0; n < 5; n += 1) {
    const [, ms] = await timed(call(runtime, 'echo', '1'));
    test.ok(ms < 1000, `answered in ${ms} ms beside the loop`);
  }
  test.equal((await loop).code, 'DEADLINE_EXCEEDED');
});

await t.test(
  'an instance serves on after a clean error and never after any other end',
  async (test) => {
    const runtime = await load(loader(test));
    const count = (): Promise<string> => call(runtime, 'count');
    test.same([await count(), await count()], ['1', '2'], 'one instance, one call at a time');
    await refusal(call(runtime, 'fail', 'clean'));
    test.equal(await count(), '3');
    for (const end of ['trap', 'silent']) {
      await refusal(call(runtime, end));
      test.equal(await count(), '1', `a new instance after ${end}`);
    }
    await refusal(call(runtime, 'ask', request(1), { ms: 50, invoke: hanging().invoke }));
    test.equal(await count(), '1', 'a new instance after a cancelled call');
  },
);

await t.test('each of many parallel calls gets its own answers', async (test) => {
  const sandbox = loader(test, { threads: 2, callsPerThread: 400 });
  const runtimes = await Promise.all(['a', 'b', 'c'].map((name) => load(sandbox, { name })));
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          plugin: fc.nat(2),
          tag: fc.string({ unit: 'grapheme', maxLength: 40 }),
          delays: fc.tuple(fc.nat(4), fc.nat(4), fc.nat(4)),
          fails: fc.boolean(),
        }),
        { minLength: 200, maxLength: 300 },
      ),
      async (calls) => {
        await Promise.all(
          calls.map(async ({ plugin, tag, delays, fails }, index) => {
            let asked = 0;
            const answer = await call(
              runtimes[plugin] as Runtime,
              'ask_thrice',
              request([index, tag]),
              {
                invoke: async (_capability, _operation, input) => {
                  const pause = delays[asked] ?? 0;
                  asked += 1;
                  if (pause > 0) await delay(pause);
                  if (fails) throw new NoaError('NOT_FOUND', JSON.stringify([input, asked]));
                  return [input, asked];
                },
              },
            );
            const parsed = JSON.parse(answer) as { value?: unknown; error?: { message: string } };
            const value: unknown = fails
              ? JSON.parse(parsed.error?.message ?? 'null')
              : parsed.value;
            if (JSON.stringify(value) !== JSON.stringify([[index, tag], 3])) {
              throw new Error(`call ${index} got ${answer}`);
            }
          }),
        );
      },
    ),
    { numRuns: 8 },
  );
  test.pass('2,000 calls with three capability calls each');
});

await t.test('a worker that crashes takes along only what ran there', async (test) => {
  const asset = (name: string): WebAssembly.Module =>
    new WebAssembly.Module(
      readFileSync(new URL(`../../host/loaders/wasm/${name}`, import.meta.url)),
    );
  const pool = new Pool({
    threads: 2,
    jobsPerThread: 8,
    replyBytes: 1000,
    bounds: { fibers: 4, memoryBytes: 1 << 26, idleInstances: 4, idleMs: 1000, requestBytes: 1000 },
    arena: asset('arena.wasm'),
    fiber: asset('fiber.wasm'),
  });
  test.teardown(() => pool.close());
  const empty = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);
  const run = (broken: boolean): Promise<unknown> =>
    new Promise((resolve, reject) => {
      pool.submit({
        // A message that no thread can read: its own code throws, as a bug in it would.
        message: (id) => (broken ? ['load', id, JSON.parse('null')] : ['compile', id, empty]),
        expires: performance.now() + 3000,
        allowanceMs: 3000,
        expired: 'too late',
        compiled: resolve,
        failed: reject,
      });
    });
  const broken = refusal(run(true));
  const beside = run(false);
  test.match(await beside, WebAssembly.Module, 'the other worker answers');
  test.match(await broken, { code: 'UNAVAILABLE' });
  test.match(
    await Promise.all([run(false), run(false), run(false)]),
    [{}, {}, {}],
    'and both serve on',
  );
});

await t.test('stop ends running calls and frees the plugin; the others stay', async (test) => {
  const sandbox = loader(test);
  const [stays, goes] = await Promise.all([load(sandbox), load(sandbox, { name: 'goes' })]);
  const work = hanging();
  const waiting = refusal(call(goes, 'ask', request(1), { invoke: work.invoke }));
  await work.called;
  const other = hanging();
  const kept = call(stays, 'ask', request(1), { invoke: other.invoke });
  await other.called;
  await Promise.all([goes.stop(), goes.stop()]);
  test.equal((await waiting).code, 'UNAVAILABLE');
  test.match(await work.aborted, { code: 'UNAVAILABLE' });
  test.same(goes.stats(), { instances: 0, memoryBytes: 0 });
  test.equal((await refusal(call(goes, 'echo', '1'))).code, 'UNAVAILABLE');
  other.answer('ok');
  test.same(JSON.parse(await kept), { ok: true, value: 'ok' });

  const loops = await load(sandbox, { name: 'loops' });
  const loop = refusal(call(loops, 'loop'));
  await delay(30);
  const [, ms] = await timed(loops.stop());
  test.equal((await loop).code, 'UNAVAILABLE');
  test.ok(ms < 2000, `a loop is stopped in ${ms} ms`);
  test.equal(await call(stays, 'echo', '1'), '1');
});

await t.test('nothing is left after close: the process ends by itself', async (test) => {
  const script = `
    import { call, load, loader, refusal, request } from './sandbox.ts';
    const sandbox = loader({ teardown: () => undefined }, { threads: 2 });
    const runtime = await load(sandbox);
    await call(runtime, 'echo', '1');
    await refusal(call(runtime, 'loop', '', { ms: 50 }));
    const running = refusal(call(runtime, 'ask', request(1), { invoke: () => new Promise(() => {}) }));
    await Promise.all([sandbox.close(), sandbox.close()]);
    console.log((await running).code, (await refusal(call(runtime, 'echo', '1'))).code);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    cwd: import.meta.dirname,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => (output += String(chunk)));
  const timer = setTimeout(() => child.kill('SIGKILL'), 15_000);
  const code = await new Promise((resolve) => child.once('close', resolve));
  clearTimeout(timer);
  test.equal(code, 0, 'it ended by itself');
  test.equal(output, 'UNAVAILABLE UNAVAILABLE\n');
});
