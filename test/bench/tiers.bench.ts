/**
 * What does a process of its own cost a plugin, beside a thread of the host? The same module and calls
 * through both loaders in turn, one serving thread each, in one run; prints ratios. `npm run bench tiers`
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { Runtime } from '../../host/kernel/loader.ts';
import { createProcessLoader } from '../../host/loaders/process/loader.ts';
import { IsolatedRuntime } from '../../host/loaders/process/runtime.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { call, load, request } from '../loaders/sandbox.ts';

const INPUT = JSON.stringify({ id: 1, text: 'x'.repeat(200) });
const ASK = request({ id: 1, text: 'x'.repeat(200) });
const LARGE = JSON.stringify('x'.repeat((1 << 20) - 100));
const REPLY = { rows: [{ id: 1, text: 'y'.repeat(200) }] };

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
}

/** Microseconds a call: `count` calls, `inFlight` at a time. */
async function perCall(run: () => Promise<unknown>, count: number, inFlight: number) {
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

/** Both in turn, so that a disturbance of the machine meets both; medians of five rounds. */
async function compare(
  name: string,
  run: (runtime: Runtime) => Promise<unknown>,
  count: number,
  inFlight: number,
): Promise<void> {
  const times = tiers.map((): number[] => []);
  for (let round = 0; round < 6; round += 1) {
    for (const [n, tier] of tiers.entries()) {
      const time = await perCall(() => run(tier), count, inFlight);
      if (round > 0) times[n]?.push(time);
    }
  }
  const [thread = NaN, apart = NaN] = times.map(median);
  print(
    `${name}: thread ${thread.toFixed(1)} µs, process ${apart.toFixed(1)} µs: ${(apart / thread).toFixed(1)} times`,
  );
}

/** Of memory that is this process's alone, in MiB. */
function privateMiB(pid: number | undefined): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const sizes = [...text.matchAll(/^Private_\w+:\s+(\d+) kB/gm)].map(([, kib]) => Number(kib));
  return sizes.reduce((sum, kib) => sum + kib, 0) / 1024;
}

const shared = createWasmLoader({ threads: 1 });
const isolated = createProcessLoader();
const starts: number[] = [];
for (let n = 0; n < 5; n += 1) {
  const start = performance.now();
  const runtime = await load(isolated);
  starts.push(performance.now() - start);
  await runtime.stop();
}
print(`load in a new process: ${median(starts).toFixed(0)} ms`);
const apart = await load(isolated);
const tiers = [await load(shared), apart];

if (process.platform === 'linux' && apart instanceof IsolatedRuntime) {
  await delay(2000);
  print(`private memory of a process without calls: ${privateMiB(apart.pid).toFixed(0)} MiB`);
}
await compare('small call, 32 at a time', (to) => call(to, 'copy', INPUT), 8000, 32);
await compare('small call, one at a time', (to) => call(to, 'copy', INPUT), 1000, 1);
const answer = (): Promise<unknown> => Promise.resolve(REPLY);
const ask = (to: Runtime): Promise<string> => call(to, 'ask', ASK, { invoke: answer });
await compare('capability round trip, 32 at a time', ask, 4000, 32);
await compare('capability round trip, one at a time', ask, 500, 1);
await compare('1 MiB in and out, one at a time', (to) => call(to, 'copy', LARGE), 40, 1);
await Promise.all([shared.close(), isolated.close()]);
