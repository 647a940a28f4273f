/**
 * What does a payload cost on its way into a guest's memory and out again? Ours, on a thread of its own,
 * beside stock Extism in the caller's thread, which is spared that hop. The guest copies its input into
 * its memory and that to the output: under stock Extism eight bytes a call, as its PDKs do, under ours by
 * `noa_read` and `noa_write`; last comes the stock module under ours. Prints ratios of medians and what was
 * aimed at. A quarter of a minute. `npm run bench payload`
 */
import createPlugin from '@extism/extism';
import { DEFAULT_LIMITS } from '@noa/sdk/host';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { assemble, call, manifestOf } from '../loaders/sandbox.ts';

const AIM = 5;
const ROUNDS = 5;
const SIZES = [
  { label: '1 KiB', bytes: 1 << 10, calls: 4000 },
  { label: '64 KiB', bytes: 1 << 16, calls: 400 },
  { label: '1 MiB', bytes: 1 << 20, calls: 30 },
] as const;

const SHARED = `
  (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
  (import "extism:host/env" "input_length" (func $length (result i64)))
  (import "extism:host/env" "output_set" (func $output (param i64 i64)))`;

const BULK = assemble(`(module ${SHARED}
  (import "extism:host/env" "input_offset" (func $input (result i64)))
  (import "extism:host/user" "noa_read" (func $read (param i64 i32 i32)))
  (import "extism:host/user" "noa_write" (func $write (param i64 i32 i32)))
  (memory (export "memory") 32)
  (func (export "copy") (result i32)
    (local $n i32) (local $block i64)
    (local.set $n (i32.wrap_i64 (call $length)))
    (call $read (call $input) (i32.const 0) (local.get $n))
    (local.set $block (call $alloc (call $length)))
    (call $write (local.get $block) (i32.const 0) (local.get $n))
    (call $output (local.get $block) (call $length))
    (i32.const 0)))`);

/** Sizes are whole numbers of eight bytes. */
const STOCK = assemble(`(module ${SHARED}
  (import "extism:host/env" "input_load_u64" (func $load (param i64) (result i64)))
  (import "extism:host/env" "store_u64" (func $store (param i64 i64)))
  (memory (export "memory") 32)
  (func (export "copy") (result i32)
    (local $n i64) (local $at i64) (local $block i64)
    (local.set $n (call $length))
    (loop $in
      (i64.store (i32.wrap_i64 (local.get $at)) (call $load (local.get $at)))
      (br_if $in (i64.lt_u (local.tee $at (i64.add (local.get $at) (i64.const 8))) (local.get $n))))
    (local.set $at (i64.const 0))
    (local.set $block (call $alloc (local.get $n)))
    (loop $out
      (call $store (i64.add (local.get $block) (local.get $at))
        (i64.load (i32.wrap_i64 (local.get $at))))
      (br_if $out (i64.lt_u (local.tee $at (i64.add (local.get $at) (i64.const 8))) (local.get $n))))
    (call $output (local.get $block) (local.get $n))
    (i32.const 0)))`);

const loader = createWasmLoader({ threads: 1 });
const load = (name: string, wasm: Uint8Array) =>
  loader.load({
    plugin: name,
    generation: 1,
    manifest: manifestOf(['copy'], name),
    limits: { ...DEFAULT_LIMITS, maxInputBytes: 2 << 20, maxOutputBytes: 2 << 20 },
    wasm,
    config: {},
    log: () => undefined,
  });

/** Microseconds of each call. */
async function timed(run: () => Promise<string>, count: number, wanted: string): Promise<number[]> {
  const times: number[] = [];
  for (let turn = 0; turn < count; turn += 1) {
    const start = performance.now();
    const output = await run();
    times.push((performance.now() - start) * 1000);
    if (output.length !== wanted.length) throw new Error('the payload came back changed');
  }
  return times;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;
}

const [bulk, unchanged] = [await load('bulk', BULK), await load('unchanged', STOCK)];
const extism = await createPlugin({ wasm: [{ data: STOCK }] });
try {
  for (const { label, bytes, calls } of SIZES) {
    const input = 'x'.repeat(bytes);
    const runs = [
      () => call(bulk, 'copy', input),
      async () => (await extism.call('copy', input))?.string() ?? '',
      () => call(unchanged, 'copy', input),
    ];
    const times: number[][] = runs.map(() => []);
    for (const run of runs) await timed(run, Math.ceil(calls / 10), input);
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const [index, run] of runs.entries()) {
        times[index]?.push(...(await timed(run, calls, input)));
      }
    }
    const [ours = NaN, theirs = NaN, pdk = NaN] = times.map(median);
    const aim =
      bytes === 1 << 20 ? ` (aim ${AIM}: ${theirs / ours >= AIM ? 'met' : 'MISSED'})` : '';
    process.stdout.write(
      `${label} in and out: ${ours.toFixed(0)} µs, stock Extism in-thread ${theirs.toFixed(0)} µs: ` +
        `${(theirs / ours).toFixed(1)} times as fast${aim}; the stock module under ours ${pdk.toFixed(0)} µs, ${(theirs / pdk).toFixed(1)} times\n`,
    );
  }
} finally {
  await extism.close();
  await loader.close();
}
