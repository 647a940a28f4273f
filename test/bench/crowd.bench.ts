/**
 * What do the plugins of one host cost each other? The 99th percentile of one plugin's calls among 500
 * loaded ones beside the same plugin alone; with a plugin that runs away each second beside none; and how
 * long after a worker had to be ended the next call of another plugin is answered. Calls are sent at a fixed
 * rate, whether the last was answered or not, so that a stall meets all that would have come in it. One
 * serving thread, which is the worst case. About a minute and a half. `npm run bench crowd`
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DEFAULT_LIMITS, NoaError } from '@noa/sdk/host';
import type { Loader, Runtime } from '../../host/kernel/loader.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { KIT, KIT_EXPORTS, call, manifestOf, request } from '../loaders/sandbox.ts';

const CROWD = 500;
const ROUNDS = 9;
const ROUND_MS = 3000;
const EVERY_MS = 3;
const RUNAWAY_MS = 50;
const INPUT = request({ id: 1, text: 'x'.repeat(200) });
const REPLY = { rows: [{ id: 1, text: 'y'.repeat(200) }] };

let made = 0;

/** Loads the kit as a module of its own: a custom section makes its bytes differ. */
function load(into: Loader, plugin: string): Promise<Runtime> {
  made += 1;
  const name = Buffer.from(`n${made}`);
  const section = Buffer.from([0, name.length + 1, name.length, ...name]);
  return into.load({
    plugin,
    generation: 1,
    manifest: manifestOf(KIT_EXPORTS, plugin),
    limits: { ...DEFAULT_LIMITS, memoryMiB: 1024 },
    wasm: Buffer.concat([KIT, section]),
    config: {},
    log: () => undefined,
  });
}

/** One call with one capability call in it. */
function ask(runtime: Runtime): Promise<string> {
  return call(runtime, 'ask', INPUT, { invoke: () => Promise.resolve(REPLY) });
}

/** Runs away, and is ended: `loop` by its fuel, `smear` with its worker. */
async function runAway(runtime: Runtime, how: 'loop' | 'smear'): Promise<void> {
  const running = call(runtime, how, '', { ms: RUNAWAY_MS });
  const end: unknown = await running.catch((error: unknown) => error);
  if (end instanceof NoaError && end.code === 'DEADLINE_EXCEEDED') return;
  throw new Error('a runaway ended otherwise', { cause: end });
}

function quantile(values: readonly number[], part: number): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length * part)] ?? NaN;
}

/** The 99th percentile, in ms, of calls sent at a fixed rate for one round. */
async function p99(runtime: Runtime): Promise<number> {
  const times: number[] = [];
  const calls: Promise<unknown>[] = [];
  const started = performance.now();
  for (let due = started; due < started + ROUND_MS; due += EVERY_MS) {
    const wait = due - performance.now();
    if (wait > 0) await delay(wait);
    const sent = Math.max(due, performance.now() - EVERY_MS);
    calls.push(ask(runtime).then(() => times.push(performance.now() - sent)));
  }
  await Promise.all(calls);
  return quantile(times, 0.99);
}

interface Side {
  readonly runtime: Runtime;
  /** What happens each 100 ms while it is measured. */
  readonly meanwhile?: (tick: number) => Promise<unknown>;
}

async function round({ runtime, meanwhile }: Side): Promise<number> {
  let tick = 0;
  const others: Promise<unknown>[] = [];
  const timer = setInterval(() => {
    tick += 1;
    if (meanwhile !== undefined) others.push(meanwhile(tick));
  }, 100);
  const result = await p99(runtime);
  clearInterval(timer);
  await Promise.all(others);
  return result;
}

/** Measures both in turn, so that a disturbance of the machine meets both, and compares the medians. */
async function compare(name: string, aim: number, floor: Side, side: Side): Promise<void> {
  const [bare, loaded]: [number[], number[]] = [[], []];
  await round(floor);
  await round(side);
  for (let n = 0; n < ROUNDS; n += 1) {
    bare.push(await round(floor));
    loaded.push(await round(side));
  }
  const [a, b] = [quantile(bare, 0.5), quantile(loaded, 0.5)];
  const verdict = b / a < aim ? 'met' : 'MISSED';
  const times = `p99 ${b.toFixed(2)} ms against ${a.toFixed(2)} ms`;
  process.stdout.write(`${name}: ${times}: ${(b / a).toFixed(2)} times (aim ${aim}: ${verdict})\n`);
}

const alone = createWasmLoader({ threads: 1 });
const crowded = createWasmLoader({ threads: 1 });
const troubled = createWasmLoader({ threads: 1 });
const floor = { runtime: await load(alone, 'one') };

const crowd: Runtime[] = [];
for (let n = 0; n < CROWD; n += 1) crowd.push(await load(crowded, `other-${n}`));
await compare(`one plugin among ${CROWD}`, 1.2, floor, {
  runtime: await load(crowded, 'one'),
  meanwhile: (tick) => ask(crowd[tick % CROWD] as Runtime),
});

const runaway = await load(troubled, 'runaway');
await compare('beside a plugin that runs away each second', 1.25, floor, {
  runtime: await load(troubled, 'one'),
  meanwhile: (tick) => (tick % 10 === 0 ? runAway(runaway, 'loop') : Promise.resolve()),
});

const waits: number[] = [];
const bystander = await load(troubled, 'bystander');
for (let n = 0; n < 20; n += 1) {
  const fresh = await load(troubled, `fresh-${n}`);
  await runAway(fresh, 'smear');
  const ended = performance.now();
  await ask(bystander);
  waits.push(performance.now() - ended);
  await fresh.stop();
  await delay(300);
}
const [median, worst] = [quantile(waits, 0.5), Math.max(...waits)];
const verdict = worst < 20 ? 'met' : 'MISSED';
process.stdout.write(
  `ready again after a worker was ended: ${median.toFixed(1)} ms, at worst ${worst.toFixed(1)} ms (aim 20: ${verdict})\n`,
);
await Promise.all([alone.close(), crowded.close(), troubled.close()]);
