/**
 * What does a small call cost in each language, beside a module that copies its input to its output without
 * reading it? The same pool, the same input, in one run: what is over 1 is the SDK's own JSON. Prints ratios
 * and what was aimed at. A quarter of a minute. `npm run bench languages`
 */
import { cpSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { effectiveLimits, NoaError, parseManifest } from '@noa/sdk/host';
import { linkPackages } from '../../host/cli/author/new.ts';
import { build } from '../../host/cli/author/project.ts';
import type { Runtime } from '../../host/kernel/loader.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { call, load } from '../loaders/sandbox.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const INPUT = JSON.stringify({ id: 1, text: 'x'.repeat(200), tags: ['a', 'b'] });
const CALLS = 4000;
const IN_FLIGHT = 32;
const ROUNDS = 7;
const LANGUAGES: readonly (readonly [folder: string, aim: number | undefined])[] = [
  ['c', 1.5],
  ['rust', 1.5],
  ['assemblyscript', undefined],
  ['typescript', undefined],
];

const loader = createWasmLoader({ threads: 1 });
const parent = await mkdtemp(path.join(tmpdir(), 'noa-bench-'));

/** The conformance plugin of a language; undefined where its compiler is missing. */
async function built(folder: string): Promise<Runtime | undefined> {
  const dir = path.join(parent, folder);
  const own = (from: string): boolean => !['dist', 'target'].includes(path.basename(from));
  cpSync(path.join(ROOT, 'sdk/conformance', folder), dir, { recursive: true, filter: own });
  if (folder === 'rust') {
    const cargo = path.join(dir, 'Cargo.toml');
    const text = readFileSync(cargo, 'utf8').replace('../../rust', path.join(ROOT, 'sdk/rust'));
    await writeFile(cargo, text);
  }
  await linkPackages(dir);
  try {
    const { file } = await build({ dir, check: 'nothing' });
    const manifest = parseManifest(await readFile(path.join(dir, 'plugin.json'), 'utf8'));
    return await loader.load({
      plugin: folder,
      generation: 1,
      manifest,
      limits: effectiveLimits(manifest),
      wasm: await readFile(file),
      config: {},
      log: () => undefined,
      harmed: () => undefined,
    });
  } catch (error) {
    if (!(error instanceof NoaError) || error.code !== 'NOT_FOUND') throw error;
    process.stdout.write(`${folder}: left out. ${error.message}\n`);
    return undefined;
  }
}

/** Microseconds a call. */
async function perCall(runtime: Runtime): Promise<number> {
  let left = CALLS;
  const start = performance.now();
  const turns = Array.from({ length: IN_FLIGHT }, async () => {
    while (left > 0) {
      left -= 1;
      await call(runtime, 'echo', INPUT);
    }
  });
  await Promise.all(turns);
  return ((performance.now() - start) * 1000) / CALLS;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
}

try {
  const raw = await load(loader);
  for (const [folder, aim] of LANGUAGES) {
    const runtime = await built(folder);
    if (runtime === undefined) continue;
    await perCall(raw);
    await perCall(runtime);
    const ratios: number[] = [];
    const times: number[] = [];
    // In turn, so that a disturbance of the machine meets both.
    for (let round = 0; round < ROUNDS; round += 1) {
      const bare = await perCall(raw);
      const own = await perCall(runtime);
      times.push(own);
      ratios.push(own / bare);
    }
    const ratio = median(ratios);
    const verdict = aim === undefined ? '' : ` (aim ${aim}: ${ratio <= aim ? 'met' : 'MISSED'})`;
    process.stdout.write(
      `${folder}: ${median(times).toFixed(1)} µs, ${ratio.toFixed(2)} times a raw call${verdict}\n`,
    );
  }
} finally {
  await loader.close();
  await rm(parent, { recursive: true, force: true });
}
