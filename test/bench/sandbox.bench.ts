/**
 * What does a call into the sandbox cost, beside the worker that Extism itself offers (`runInWorker`)?
 * One serving thread on either side and the same module, in one run; ours takes 32 calls at a time, theirs
 * one, as it must. Prints ratios and what was aimed at. Half a minute. `npm run bench sandbox`
 */
import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';
import { DEFAULT_LIMITS, NoaError } from '@noa/sdk/host';
import { buildPlugin } from '@noa/sdk/build';
import createPlugin from '@extism/extism';
import type { CallContext } from '@extism/extism';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { KIT, call, load, manifestOf, request } from '../loaders/sandbox.ts';

const IN_FLIGHT = 32;
const INPUT = JSON.stringify({ id: 1, text: 'x'.repeat(200) });
const ASK = request({ id: 1, text: 'x'.repeat(200) });
const EMPTY = { rows: [] };
const REPLY = { rows: [{ id: 1, text: 'y'.repeat(200) }] };

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
}

/** Microseconds a call: `count` calls, `inFlight` at a time. */
async function perCall(
  run: () => Promise<unknown>,
  count: number,
  inFlight: number,
): Promise<number> {
  let left = count;
  const start = performance.now();
  await Promise.all(
    Array.from({ length: inFlight }, async () => {
      while (left > 0) {
        left -= 1;
        await run();
      }
    }),
  );
  return ((performance.now() - start) * 1000) / count;
}

interface Contest {
  readonly name: string;
  readonly target: number;
  readonly ours: () => Promise<unknown>;
  readonly theirs: () => Promise<unknown>;
  readonly counts: readonly [ours: number, theirs: number];
}

/** Runs both in turn, so that a disturbance of the machine meets both, and compares the medians. */
async function compare({ name, target, ours, theirs, counts }: Contest): Promise<void> {
  await perCall(ours, counts[0], IN_FLIGHT);
  await perCall(theirs, counts[1] >> 2, 1);
  const [mine, their]: [number[], number[]] = [[], []];
  for (let round = 0; round < 5; round += 1) {
    mine.push(await perCall(ours, counts[0], IN_FLIGHT));
    their.push(await perCall(theirs, counts[1], 1));
  }
  const [a, b] = [median(mine), median(their)];
  const verdict = b / a >= target ? 'met' : 'MISSED';
  print(
    `${name}: ${a.toFixed(1)} µs, runInWorker ${b.toFixed(1)} µs: ${(b / a).toFixed(1)} times as fast (aim ${target}: ${verdict})`,
  );
}

/** Resident KiB of each of `count` instances that have served one call and wait. */
async function residentPerInstance(wasm: Uint8Array, name: string, ask: string): Promise<number> {
  const count = 48;
  const loader = createWasmLoader({ threads: 1, idleInstances: count });
  try {
    const runtime = await loader.load({
      plugin: 'resident',
      generation: 1,
      manifest: manifestOf([name], 'resident'),
      limits: DEFAULT_LIMITS,
      wasm,
      config: {},
      log: () => undefined,
    });
    const gate = Promise.withResolvers<typeof EMPTY>();
    const burst = (size: number, wait: Promise<unknown>): Promise<unknown> =>
      Promise.all(
        Array.from({ length: size }, () => call(runtime, name, ask, { invoke: () => wait })),
      );
    for (let n = 0; n < 50; n += 1) await burst(4, Promise.resolve(EMPTY)); // Code, heap, four stacks.
    const before = process.memoryUsage.rss();
    const all = burst(count, gate.promise);
    await delay(300);
    gate.resolve(EMPTY);
    await all;
    await delay(300);
    const made = runtime.stats().instances - 4;
    return (process.memoryUsage.rss() - before) / 1024 / made;
  } finally {
    await loader.close();
  }
}

/** Milliseconds from the end of an overrunning worker to the answer of the next call. */
async function respawn(): Promise<number> {
  const loader = createWasmLoader({ threads: 1 });
  try {
    const runtime = await load(loader);
    const times: number[] = [];
    for (let n = 0; n < 5; n += 1) {
      await delay(300); // The next spare starts.
      await call(runtime, 'loop', '', { ms: 50 }).catch((error: unknown) => {
        if (!(error instanceof NoaError) || error.code !== 'DEADLINE_EXCEEDED') throw error;
      });
      const start = performance.now();
      await call(runtime, 'echo', '1');
      times.push(performance.now() - start);
    }
    return median(times);
  } finally {
    await loader.close();
  }
}

let replyMs = 0;
const answer = async (): Promise<unknown> => {
  if (replyMs > 0) await delay(replyMs);
  return REPLY;
};

const loader = createWasmLoader({ threads: 1 });
const runtime = await load(loader);
const extism = await createPlugin(
  { wasm: [{ data: KIT }] },
  {
    runInWorker: true,
    functions: {
      'extism:host/user': {
        noa_call: async (context: CallContext) =>
          context.store(JSON.stringify({ ok: true, value: await answer() })),
        noa_clock: () => 0n,
        noa_random: () => 0n,
      },
    },
  },
);

let served = 0;
/** Its blocks are never freed by a call, and calls grow slower: reset often enough, seldom enough. */
async function theirs(name: string, input: string): Promise<void> {
  await extism.call(name, input);
  served += 1;
  if (served % 50 === 0) await extism.reset();
}

await compare({
  name: 'small call',
  target: 4,
  ours: () => call(runtime, 'copy', INPUT),
  theirs: () => theirs('copy', INPUT),
  counts: [10_000, 4000],
});
await compare({
  name: 'capability round trip',
  target: 4,
  ours: () => call(runtime, 'ask', ASK, { invoke: answer }),
  theirs: () => theirs('ask', ASK),
  counts: [8000, 2000],
});
replyMs = 5;
await compare({
  name: 'capability that takes 5 ms',
  target: 15,
  ours: () => call(runtime, 'ask', ASK, { invoke: answer }),
  theirs: () => theirs('ask', ASK),
  counts: [1000, 60],
});
await extism.close();
await loader.close();

const dir = fileURLToPath(new URL('../../plugins/examples/notes', import.meta.url));
const { wasm } = await buildPlugin({ dir, exports: ['create', 'list', 'read'], memoryMiB: 64 });
const small = await residentPerInstance(KIT, 'ask', ASK);
const typescript = await residentPerInstance(wasm, 'list', '{}');
print(
  `resident, one waiting instance: ${small.toFixed(0)} KiB bare, ${typescript.toFixed(0)} KiB TypeScript`,
);
print('resident, a plugin without calls for 15 s: no instance');
print(`next call after a worker was ended: ${(await respawn()).toFixed(1)} ms`);
