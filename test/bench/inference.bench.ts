/**
 * What does batching gain? Sentences embedded a second by the engine, against the same model in one thread that
 * takes one text at a time, for 64 clients and for one; how long a request takes; and how long the host's own
 * thread is kept from other work. Sentences have 3 to 40 words, alike in both. A minute; wants two cores.
 * The embedder with weights of 16 bits, and that of 8. With the name of a folder in which
 * `@huggingface/transformers` is installed, that runs the same model with its defaults too.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Engine } from '../../capabilities/inference/engine/engine.ts';
import { ModelRegistry } from '../../capabilities/inference/models/registry.ts';
import { openTransformers } from './transformers.ts';

const CLIENTS = [64, 1] as const;
const MS = 4000;
const WORDS = 'the of river bank law court music play green house small engine water light'.split(
  ' ',
);

const print = (text: string): void => void process.stdout.write(`${text}\n`);

function sentence(seed: number): string {
  const length = 3 + ((seed * 7919) % 38);
  return Array.from({ length }, (_, at) => WORDS[(seed * 31 + at * 17) % WORDS.length]).join(' ');
}

type Embed = (text: string) => Promise<unknown>;

const embedderOf =
  (engine: Engine, model: string): Embed =>
  (text) => {
    const call = {
      plugin: 'bench',
      signal: AbortSignal.timeout(60_000),
      deadline: Date.now() + 60_000,
    };
    return engine.embed({ model, texts: [text], truncate: true }, call);
  };

async function measure(embed: Embed, clients: number) {
  let seed = 0;
  const times: number[] = [];
  const lag = monitorEventLoopDelay({ resolution: 1 });
  const run = async (until: number): Promise<void> => {
    for (let at = performance.now(); at < until;) {
      seed += 1;
      await embed(sentence(seed));
      const now = performance.now();
      times.push(now - at);
      at = now;
    }
  };
  const all = (ms: number) =>
    Promise.all(Array.from({ length: clients }, () => run(performance.now() + ms)));
  await all(MS / 4);
  times.length = 0;
  lag.enable();
  const started = performance.now();
  await all(MS);
  const seconds = (performance.now() - started) / 1000;
  lag.disable();
  times.sort((a, b) => a - b);
  const p = (part: number): number => times[Math.floor(times.length * part)] ?? Number.NaN;
  return { rate: times.length / seconds, p50: p(0.5), p99: p(0.99), lag: lag.percentile(99) / 1e6 };
}

// Workers alone keep no process alive.
const alive = setInterval(() => undefined, 1000);
const cache = await mkdtemp(join(tmpdir(), 'noa-bench-models-'));
const registry = new ModelRegistry({ cache, paths: [] });
const common = {
  registry,
  maxQueued: 4096,
  limitMs: 60_000,
  memoryBytes: 1 << 30,
  device: 'cpu',
  untrusted: [],
  observeBatch: () => undefined,
  onNotice: print,
  now: Date.now,
} as const;
const alone = new Engine({ ...common, workers: 1, maxBatch: 1 });
const engine = new Engine({ ...common, workers: availableParallelism(), maxBatch: 32 });
let peer: Embed | undefined;
const [peerFolder] = process.argv.slice(2);
for (const clients of CLIENTS) {
  print(`${clients} client${clients === 1 ? '' : 's'}:`);
  const rated = async (name: string, embed: Embed): Promise<number> => {
    const { rate, p50, p99, lag } = await measure(embed, clients);
    print(
      `  ${name.padEnd(32)} ${rate.toFixed(0).padStart(5)} a second, p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms, loop p99 ${lag.toFixed(1)} ms`,
    );
    return rate;
  };
  const rates = new Map<string, number>();
  for (const model of ['use-lite', 'use-lite-q8']) {
    const floor = await rated(`${model}, one text, one process`, embedderOf(alone, model));
    const ours = await rated(`${model}, the engine`, embedderOf(engine, model));
    rates.set(model, ours);
    print(`    the engine : one text, one process = ${(ours / floor).toFixed(2)}`);
    if (peerFolder !== undefined) peer ??= await openTransformers(peerFolder, cache);
  }
  if (peer === undefined) continue;
  const theirs = await rated('use-lite, transformers.js', peer);
  for (const [model, ours] of rates) {
    print(`    ${model}, the engine : transformers.js = ${(ours / theirs).toFixed(2)}`);
  }
}
await Promise.all([alone.close(), engine.close()]);
await rm(cache, { recursive: true, force: true });
clearInterval(alive);
