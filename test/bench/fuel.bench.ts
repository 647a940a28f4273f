/**
 * What does metering cost? The same code with fuel and clamps and without, in one thread and one run: a
 * small call, kernels that keep the processor busy, and a TypeScript plugin with a loop in QuickJS.
 * Prints ratios and what was aimed at, and how fast each kernel burns. Half a minute. `npm run bench fuel`
 */
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildPlugin } from '@noa/sdk/build';
import { Arena } from '../../host/loaders/wasm/arena.ts';
import { clamp, readOutline } from '../../host/loaders/wasm/binary.ts';
import { Fuel, asking, meter } from '../../host/loaders/wasm/fuel.ts';
import { KIT, assemble } from '../loaders/sandbox.ts';
import { GuestInstance } from '../sdk/guest-instance.ts';

const ROUNDS = 15;
const INPUT = JSON.stringify({ id: 1, text: 'x'.repeat(200) });
const CAPS = { memoryPages: 1024, tableSlots: 1 << 16, memoryExport: 'noa:memory' };
const ask = asking(() => true);

function metered(wasm: Uint8Array): Uint8Array {
  return meter(clamp(wasm, readOutline(wasm), CAPS));
}

async function timed(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

interface Contest {
  readonly name: string;
  readonly aim: number;
  readonly without: () => unknown;
  readonly with: () => unknown;
  readonly fuel: Fuel;
}

/** Runs both in turn and compares the best of each: what disturbs the machine only adds. */
async function compare({ name, aim, without, with: metering, fuel }: Contest): Promise<void> {
  for (let n = 0; n < 5; n += 1) await without();
  for (let n = 0; n < 5; n += 1) await metering();
  const [bare, full]: [number[], number[]] = [[], []];
  const before = fuel.burned;
  for (let n = 0; n < ROUNDS; n += 1) {
    bare.push(await timed(without));
    full.push(await timed(metering));
  }
  const [a, b] = [Math.min(...bare), Math.min(...full)];
  const burned = (fuel.burned - before) / ROUNDS / (b * 1000);
  const verdict = b / a <= aim ? 'met' : 'MISSED';
  process.stdout.write(
    `${name}: ${a.toFixed(1)} ms without, ${b.toFixed(1)} ms with: ${(b / a).toFixed(2)} times (aim ${aim}: ${verdict}), ${burned.toFixed(0)} fuel/µs\n`,
  );
}

type Run = (...args: readonly (number | bigint)[]) => number;

function instance(
  wasm: Uint8Array,
  imports: WebAssembly.Imports = {},
): Readonly<Record<string, Run>> {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(wasm), imports);
  return exports as Readonly<Record<string, Run>>;
}

/** A thousand calls that copy their input to their output through blocks. */
function small(wasm: Uint8Array): { run: () => void; exports: Readonly<Record<string, Run>> } {
  const module = readFileSync(new URL('../../host/loaders/wasm/arena.wasm', import.meta.url));
  const arena = new Arena(new WebAssembly.Module(module), 16 << 20);
  const absent = (): bigint => 0n;
  const names = ['config_get', 'var_get', 'var_set', 'log_info', 'log_error'];
  const env = { ...arena.exports, ...Object.fromEntries(names.map((name) => [name, absent])) };
  const user = { noa_call: absent, noa_clock: absent, noa_random: absent };
  const imports = { 'extism:host/env': env, 'extism:host/user': user } as WebAssembly.Imports;
  const exports = instance(wasm, imports);
  const run = (): void => {
    for (let n = 0; n < 1000; n += 1) {
      arena.begin(INPUT, INPUT.length);
      exports['copy']?.();
      if (arena.output() !== INPUT) throw new Error('the copy is wrong');
    }
  };
  return { run, exports };
}

const bareCalls = small(KIT);
const fullCalls = small(metered(KIT));
const callFuel = new Fuel(fullCalls.exports, ask);
await compare({
  name: 'small call, a thousand',
  aim: 1.3,
  without: bareCalls.run,
  with: () => {
    fullCalls.run();
    return callFuel.burned;
  },
  fuel: callFuel,
});

const KERNELS = assemble(readFileSync(new URL('./kernels.wat', import.meta.url), 'utf8'));
const bare = instance(KERNELS);
const full = instance(metered(KERNELS));
const fuel = new Fuel(full, ask);
for (const [name, size] of [
  ['fib', 30],
  ['sieve', 2_000_000],
  ['sum', 200],
  ['sha256', 20_000],
] as const) {
  if (bare[name]?.(size) !== full[name]?.(size)) throw new Error(`${name} differs`);
  await compare({
    name,
    aim: 1.6,
    without: () => bare[name]?.(size),
    with: () => full[name]?.(size),
    fuel,
  });
}

const SOURCE = `
import { definePlugin } from '@noa/sdk';
export default definePlugin<any>({
  run({ n }) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum = (sum + i * 7) % 1000003;
    return { sum };
  },
  words({ n }) {
    const seen = new Map();
    for (let i = 0; i < n; i++) {
      const word = 'w' + ((i * 31) % 997);
      seen.set(word, (seen.get(word) ?? 0) + word.length);
    }
    return { words: [...seen.values()].sort((a, b) => a - b).slice(0, 3), json: JSON.stringify([...seen]).length };
  },
});
`;
const dir = mkdtempSync(join(tmpdir(), 'noa-fuel-bench-'));
try {
  mkdirSync(join(dir, 'src'));
  writeFileSync(join(dir, 'src/index.ts'), SOURCE);
  const { wasm } = await buildPlugin({ dir, exports: ['run', 'words'], memoryMiB: 64 });
  const plain = new GuestInstance(wasm);
  const counting = new GuestInstance(metered(wasm));
  const guestFuel = new Fuel(counting.exports, ask);
  const ms = (await timed(() => metered(wasm))).toFixed(0);
  const bytes = metered(wasm).length;
  process.stdout.write(`TypeScript: ${wasm.length} bytes, metered ${bytes}, in ${ms} ms\n`);
  for (const [name, n] of [
    ['run', 400_000],
    ['words', 60_000],
  ] as const) {
    const [a, b] = [await plain.call(name, { n }), await counting.call(name, { n })];
    if (JSON.stringify(a) !== JSON.stringify(b)) throw new Error(`${name} differs`);
    await compare({
      name: `TypeScript ${name}`,
      aim: 1.6,
      without: () => plain.call(name, { n }),
      with: () => counting.call(name, { n }),
      fuel: guestFuel,
    });
  }
} finally {
  rmSync(dir, { recursive: true });
}
