/**
 * What does a host cost before it does anything, and how does that grow with plugins? Start to ready,
 * cold and warm, beside the floor of starting the same Node.js; the resident memory and the latency of
 * one plugin's calls with 1 and with 50 plugins installed.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { readBundle } from '@noa/sdk/host';
import { writeBundle } from '@noa/sdk/author';
import { bundleOf, RunningHost } from '../e2e/running-host.ts';

const PLUGINS = 50;
const CALLS = 1000;

const print = (text: string): void => void process.stdout.write(`${text}\n`);

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return (performance.now() - started) / 1000;
}

/** Resident memory of the host process, in MiB. */
function resident(host: RunningHost): number {
  const status = readFileSync(`/proc/${host.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN) / 1024;
}

const floor = await seconds(() =>
  Promise.resolve(execFileSync(process.execPath, ['--eval', '0'], { stdio: 'ignore' })),
);
let host: RunningHost | undefined;
const cold = await seconds(async () => (host = await RunningHost.start()));
if (host === undefined) throw new Error('no host');
const running: RunningHost = host;
await running.stop();
const warm = await seconds(() => running.start());
print(`start to ready, cold (creates the database): ${cold.toFixed(2)} s (bound 8 s)`);
print(`start to ready, warm: ${warm.toFixed(2)} s (bound 2 s), node itself ${floor.toFixed(2)} s`);

const base = resident(running);
const { manifest, files } = await readBundle(await bundleOf('test/fixtures/plugins/rogue'));

async function install(index: number): Promise<void> {
  const name = `rogue-${index}`;
  const text = JSON.stringify({ ...manifest, name, capabilities: [] });
  const named = new Map([...files, ['plugin.json', new TextEncoder().encode(text)]]);
  await running.install(writeBundle(named));
}

/** Percentiles of one plugin's calls, one after another, in ms. */
async function latency(): Promise<{ p50: number; p99: number }> {
  const times: number[] = [];
  for (let call = 0; call < CALLS; call += 1) {
    times.push((await seconds(() => running.call('rogue-0', 'echo', { call }))) * 1000);
  }
  times.sort((a, b) => a - b);
  return { p50: times[CALLS / 2] ?? Number.NaN, p99: times[CALLS * 0.99] ?? Number.NaN };
}

await install(0);
await latency();
const alone = await latency();
await sleep(20_000);
const one = resident(running);
for (let index = 1; index < PLUGINS; index += 1) await install(index);
const crowded = await latency();
await sleep(20_000);
const many = resident(running);
print(
  `resident: ${base.toFixed(0)} MiB with no plugin, ${one.toFixed(0)} MiB with 1, ${many.toFixed(0)} MiB with ${PLUGINS}`,
);
print(
  `an installed TypeScript plugin at rest: ${(((many - one) / (PLUGINS - 1)) * 1024).toFixed(0)} KiB`,
);
print(
  `a call over HTTP: p50 ${alone.p50.toFixed(2)} ms alone, ${crowded.p50.toFixed(2)} ms among ${PLUGINS} (${(crowded.p50 / alone.p50).toFixed(2)}×); ` +
    `p99 ${alone.p99.toFixed(2)} and ${crowded.p99.toFixed(2)} ms (${(crowded.p99 / alone.p99).toFixed(2)}×)`,
);
await running.stop();
const restart = await seconds(() => running.start());
print(`start to ready with ${PLUGINS} plugins: ${restart.toFixed(2)} s`);
await running.dispose();
