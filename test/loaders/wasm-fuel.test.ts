/**
 * Fuel: that a runaway of any form ends at its deadline within its worker, that a call costs the same
 * wherever it runs, and that a metered module does what it did before.
 */
import { DEFAULT_LIMITS } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import type { CallCost, Loader, Runtime } from '../../host/kernel/loader.ts';
import { ModuleError } from '../../host/loaders/wasm/binary.ts';
import { FUEL_EXPORT, Fuel, asking, meter } from '../../host/loaders/wasm/fuel.ts';
import { ModuleCache } from '../../host/loaders/wasm/module-cache.ts';
import {
  KIT,
  assemble,
  call,
  hanging,
  load,
  loader,
  manifestOf,
  refusal,
  request,
} from './sandbox.ts';

const FEATURES = { tail_call: true, simd: true, multi_value: true, gc: true };
const never = new AbortController().signal;

function loadModule(
  into: Loader,
  name: string,
  wat: string | Uint8Array,
  exports: string[],
): Promise<Runtime> {
  return into.load({
    plugin: name,
    generation: 1,
    manifest: manifestOf(exports, name),
    limits: DEFAULT_LIMITS,
    wasm: typeof wat === 'string' ? assemble(wat, FEATURES) : wat,
    config: {},
    log: () => undefined,
  });
}

/** What the last word of a runtime about a call's cost is. */
async function cost(runtime: Runtime, name: string, input = ''): Promise<CallCost> {
  let last: CallCost = { fuel: NaN, executionMs: NaN };
  const deadline = Date.now() + 8000;
  const invoke = (): Promise<unknown> => Promise.resolve(null);
  const spent = (sums: CallCost): void => void (last = sums);
  await runtime.call({ export: name, input, deadline, signal: never, invoke, spent });
  return last;
}

const ENV = '(import "extism:host/env"';
const RUNAWAYS: { readonly [name: string]: string } = {
  loop: '(loop $l (br $l))',
  conditional: '(loop $l (br_if $l (i32.const 1)))',
  switch: '(loop $l (block $a (br_table $l $a (i32.const 0))))',
  nested: '(loop $l (block (loop $m (br_if $m (i32.const 0)))) (br $l))',
  tail: '(drop (call $tail))',
  indirect: '(drop (call $indirect))',
  tree: '(drop (call $tree (i32.const 60)))',
  fill: '(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 4000000)) (br $l))',
  copy: '(loop $l (memory.copy (i32.const 0) (i32.const 1) (i32.const 4000000)) (br $l))',
  grow: '(loop $l (drop (memory.grow (i32.const 0))) (br $l))',
  table: '(loop $l (table.fill $t (i32.const 0) (ref.null func) (i32.const 60000)) (br $l))',
  caught: '(loop $l (try (do (throw $e)) (catch_all)) (br $l))',
  blocks: '(loop $l (call $free (call $alloc (i64.const 64))) (br $l))',
  variables:
    '(loop $l (call $var_set (call $alloc (i64.const 8)) (call $alloc (i64.const 500000))) (br $l))',
  logs: '(loop $l (call $log (call $alloc (i64.const 8000))) (br $l))',
};

await t.test('a runaway of any form ends at its deadline and harms nobody', async (test) => {
  const into = loader(test);
  const names = Object.keys(RUNAWAYS);
  const bodies = names.map(
    (name) => `(func (export "${name}") (result i32) ${RUNAWAYS[name]} (i32.const 0))`,
  );
  const villain = await loadModule(
    into,
    'villain',
    `(module
      ${ENV} "alloc" (func $alloc (param i64) (result i64)))
      ${ENV} "free" (func $free (param i64)))
      ${ENV} "log_info" (func $log (param i64)))
      ${ENV} "var_set" (func $var_set (param i64 i64)))
      (type $run (func (result i32))) (tag $e)
      (memory 64) (table $t 60000 funcref) (table $f funcref (elem $indirect))
      (func $tail (result i32) (return_call $tail))
      (func $indirect (result i32) (return_call_indirect $f (type $run) (i32.const 0)))
      (func $tree (param $n i32) (result i32)
        (if (result i32) (local.get $n)
          (then (i32.add (call $tree (i32.sub (local.get $n) (i32.const 1)))
                         (call $tree (i32.sub (local.get $n) (i32.const 1)))))
          (else (i32.const 1))))
      ${bodies.join('\n')})`,
    names,
  );
  const bystander = await load(into, { name: 'bystander' });
  const work = hanging();
  const waits = call(bystander, 'ask', request(1), { ms: 30_000, invoke: work.invoke });
  await work.called;
  for (const name of names) {
    const start = performance.now();
    const error = await refusal(call(villain, name, '', { ms: 60 }));
    test.equal(error.code, 'DEADLINE_EXCEEDED', name);
    test.equal(await call(bystander, 'echo', '1'), '1', `the next call works after ${name}`);
    const ms = performance.now() - start;
    test.ok(ms < 2000, `${name} held its worker for ${ms.toFixed(0)} ms`);
  }
  work.answer('undisturbed');
  test.same(JSON.parse(await waits), { ok: true, value: 'undisturbed' }, 'one worker all the time');
});

await t.test('what fails without work cannot make the counter run over', async (test) => {
  const runtime = await loadModule(
    loader(test),
    'grower',
    `(module (memory 1) (func (export "run") (result i32) (local $i i32)
        (loop $l (drop (memory.grow (i32.const -1)))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 600000))))
        (i32.const 1)))`,
    ['run'],
  );
  let last: CallCost = { fuel: NaN, executionMs: NaN };
  const spent = (sums: CallCost): void => void (last = sums);
  const invoke = (): Promise<unknown> => Promise.resolve(null);
  const deadline = Date.now() + 20_000;
  await refusal(runtime.call({ export: 'run', input: '', deadline, signal: never, invoke, spent }));
  test.ok(last.fuel > 0 && Number.isSafeInteger(Math.round(last.fuel / 1024)), `${last.fuel} fuel`);
});

await t.test('an instruction written longer than need be is charged like any', async (test) => {
  const wasm = assemble(
    `(module (memory 64) (func (export "run") (result i32)
      (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 4000000)) (br $l)) (i32.const 0)))`,
    FEATURES,
  );
  // memory.fill is fc 0b; the same number in two bytes is fc 8b 00, one byte more in body and section.
  const at = wasm.findIndex((byte, index) => byte === 0xfc && wasm[index + 1] === 0x0b);
  let section = 8;
  while (wasm[section] !== 10) section += 2 + (wasm[section + 1] ?? 0);
  const longer = Uint8Array.from([
    ...wasm.subarray(0, at),
    0xfc,
    0x8b,
    0,
    ...wasm.subarray(at + 2),
  ]);
  for (const size of [section + 1, section + 3]) longer[size] = (longer[size] ?? 0) + 1;
  test.ok(WebAssembly.validate(longer));
  const into = loader(test);
  const runtime = await loadModule(into, 'longer', longer, ['run']);
  const bystander = await load(into, { name: 'bystander' });
  const work = hanging();
  const waits = call(bystander, 'ask', request(1), { ms: 30_000, invoke: work.invoke });
  await work.called;
  test.match(await refusal(call(runtime, 'run', '', { ms: 60 })), { code: 'DEADLINE_EXCEEDED' });
  test.equal(await call(bystander, 'echo', '1'), '1');
  work.answer('undisturbed');
  test.same(JSON.parse(await waits), { ok: true, value: 'undisturbed' }, 'its worker went on');
});

await t.test('a loop ends soon after its caller went away', async (test) => {
  const runtime = await load(loader(test));
  const work = hanging();
  const waits = call(runtime, 'ask', request(1), { invoke: work.invoke });
  await work.called;
  const gone = new AbortController();
  const loop = refusal(call(runtime, 'loop', '', { signal: gone.signal }));
  setTimeout(() => gone.abort(), 30);
  test.equal((await loop).code, 'CANCELLED');
  test.equal(await call(runtime, 'echo', '1'), '1');
  work.answer(1);
  test.same(JSON.parse(await waits), { ok: true, value: 1 }, 'without harm to its worker');
});

await t.test('a start function and _initialize are metered too', async (test) => {
  const into = loader(test);
  const run = '(func (export "run") (result i32) (i32.const 0))';
  const loop = '(loop $l (br $l))';
  for (const wat of [
    `(module (func $s ${loop}) (start $s) ${run})`,
    `(module (func (export "_initialize") ${loop}) ${run})`,
  ]) {
    const judged = into.inspect(manifestOf(['run']), DEFAULT_LIMITS, assemble(wat));
    test.match((await refusal(judged)).message, /did not end within 1000 ms/);
  }
  const counts = `(module (global $g (mut i32) (i32.const 0))
    (func $s (global.set $g (i32.const 7))) (start $s)
    (func (export "run") (result i32) (i32.ne (global.get $g) (i32.const 7))))`;
  const started = await loadModule(into, 'started', counts, ['run']);
  test.equal(await call(started, 'run'), '', 'it ran before the first call');
});

await t.test('a call costs the same at any time on any host', async (test) => {
  const [one, other] = await Promise.all([loader(test), loader(test)].map((into) => load(into)));
  if (one === undefined || other === undefined) throw new Error('no host');
  const input = JSON.stringify('x'.repeat(500));
  for (const name of ['copy', 'alloc_free', 'ask_thrice']) {
    const first = await cost(one, name, input);
    test.ok(first.fuel > 100, `${name} burns ${first.fuel}`);
    test.ok(first.executionMs > 0 && first.executionMs < 8000, `in ${first.executionMs} ms`);
    test.equal((await cost(one, name, input)).fuel, first.fuel, 'again');
    await refusal(call(one, 'trap'));
    await call(one, 'count');
    test.equal((await cost(one, name, input)).fuel, first.fuel, 'in another instance');
    test.equal((await cost(other, name, input)).fuel, first.fuel, 'in another host');
  }
  const small = (await cost(one, 'copy', 'x'.repeat(80))).fuel;
  const large = (await cost(one, 'copy', 'x'.repeat(8000))).fuel;
  test.ok(large > 50 * small && large < 200 * small, `${small} for 80 bytes, ${large} for 8000`);
});

await t.test('what is told of a runaway includes what it burned', async (test) => {
  const runtime = await load(loader(test));
  const told = Promise.withResolvers<CallCost>();
  const answer = runtime.call({
    export: 'loop',
    input: '',
    deadline: Date.now() + 100,
    signal: never,
    invoke: () => Promise.resolve(null),
    spent: told.resolve,
  });
  test.equal((await refusal(answer)).code, 'DEADLINE_EXCEEDED');
  const { fuel, executionMs } = await told.promise;
  test.ok(fuel > 1e6, `${fuel}`);
  test.ok(executionMs > 80 && executionMs < 1000, `${executionMs} ms`);
});

/** The exports of a module, metered or not, with what it imports from `host`. */
function instance(wasm: Uint8Array, ask = () => true): Readonly<Record<string, unknown>> {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(wasm), {});
  if (FUEL_EXPORT.ask in exports) new Fuel(exports, asking(ask));
  return exports;
}

await t.test('work by operand is charged by its operand', (test) => {
  const exports = instance(
    meter(
      assemble(`(module (memory 2 64) (table $t 1000 8000 funcref)
        (func (export "fill") (param i32) (memory.fill (i32.const 0) (i32.const 1) (local.get 0)))
        (func (export "copy") (param i32) (memory.copy (i32.const 0) (i32.const 1) (local.get 0)))
        (func (export "grow") (param i32) (drop (memory.grow (local.get 0))))
        (func (export "slots") (param i32) (table.fill $t (i32.const 0) (ref.null func) (local.get 0)))
        (func (export "more") (param i32) (drop (table.grow $t (ref.null func) (local.get 0)))))`),
    ),
  );
  const fuel = new Fuel(
    exports,
    asking(() => true),
  );
  const burn = (name: string, amount: number): number => {
    const before = fuel.burned;
    (exports[name] as (amount: number) => void)(amount);
    return fuel.burned - before;
  };
  test.equal(burn('fill', 100_000) - burn('fill', 0), 6250);
  test.equal(burn('copy', 100_000) - burn('copy', 0), 6250);
  test.equal(burn('grow', 10) - burn('grow', 0), 40_960);
  test.equal(burn('slots', 1000) - burn('slots', 0), 4000);
  test.equal(burn('more', 1000) - burn('more', 0), 4000);
  // A length is unsigned: what traps in the end is charged before.
  const before = fuel.burned;
  test.throws(() => (exports['fill'] as (amount: number) => void)(-1), /out of bounds/);
  test.ok(fuel.burned - before >= 2 ** 28 - 1);
  test.end();
});

await t.test('a module that nobody lets go on traps at once, and cannot catch it', (test) => {
  const wat = `(module (func (export "run") (result i32)
    (loop $l (try (do (loop $m (br $m))) (catch_all)) (br $l)) (i32.const 0)))`;
  const { run } = instance(meter(assemble(wat)), () => false) as { run: () => number };
  test.throws(run, /unreachable/);
  test.end();
});

await t.test('nothing of the module itself is moved, renamed or within its reach', async (test) => {
  const wasm =
    assemble(`(module (memory (export "memory") 1) (global (export "g") i32 (i32.const 3))
    (table (export "t") 2 funcref) (elem (i32.const 0) $a $b)
    (func $a (export "a") (result i32) (i32.const 1)) (func $b (result i32) (i32.const 2)))`);
  const custom = Buffer.concat([wasm, Buffer.from('\x00\x10\x0dnoa.sourcemap{}', 'latin1')]);
  const module = new WebAssembly.Module(meter(custom));
  test.same(
    Buffer.from(
      WebAssembly.Module.customSections(module, 'noa.sourcemap')[0] ?? new ArrayBuffer(0),
    ),
    Buffer.from('{}'),
  );
  const before = Object.keys(instance(custom));
  const after = Object.keys(instance(meter(custom)));
  test.same(after.slice(0, before.length), before);
  test.ok(
    after.slice(before.length).every((name) => name.startsWith('noa:')),
    after.join(' '),
  );

  // It has one function, no globals and no tables: index 0 or 1 is what metering adds.
  const into = loader(test);
  for (const code of [
    [0x42, 0, 0x24, 0], // i64.const 0, global.set 0
    [0x10, 1], // call 1
    [0x41, 0, 0x11, 0, 0, 0x1a], // call_indirect of table 0
    [0xd0, 0x70, 0x41, 0, 0x26, 0], // table.set 0, with operands in the wrong order as well
  ]) {
    const body = [0, ...code, 0x41, 0, 0x0b];
    const bytes = Buffer.concat([
      Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7f, 3, 2, 1, 0]),
      Buffer.from([7, 7, 1, 3, 0x72, 0x75, 0x6e, 0, 0]),
      Buffer.from([10, body.length + 2, 1, body.length, ...body]),
    ]);
    const error = await refusal(into.inspect(manifestOf(['run']), DEFAULT_LIMITS, bytes));
    test.equal(error.code, 'INVALID_ARGUMENT', code.join(' '));
    test.match(error.message, /^runtime\.file: /);
  }
});

await t.test('what is not metered right is refused in words', async (test) => {
  const into = loader(test);
  const run = '(func (export "run") (result i32) (i32.const 0))';
  const many = (count: number, text: string): string =>
    Array.from({ length: count }, () => text).join(' ');
  const cases: readonly (readonly [wat: string, words: RegExp])[] = [
    [
      `(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))) ${run})`,
      /atomic instructions/,
    ],
    [`(module (func (local ${many(10_001, 'i32')})) ${run})`, /10001 locals; at most 10000/],
    [
      `(module (func (block (br_table ${many(16_386, '0')} (i32.const 0)))) ${run})`,
      /br_table of 16385 targets; at most 16384/,
    ],
    [
      `(module (func ${many(530_000, '(drop (i32.const 0))')}) ${run})`,
      /a function of \d+ bytes; at most 1048576 are allowed/,
    ],
    [`(module ${many(100_001, '(func)')} ${run})`, /has 100002 functions; at most 100000/],
    [`(module (func (export "noa:fuel")) ${run})`, /"noa:fuel", a name kept for the host/],
    [`(module (func (export "noa:anything")) ${run})`, /"noa:anything", a name kept for the host/],
  ];
  for (const [wat, words] of cases) {
    const wasm = assemble(wat, { threads: true });
    const error = await refusal(into.inspect(manifestOf(['run']), DEFAULT_LIMITS, wasm));
    test.equal(error.code, 'INVALID_ARGUMENT');
    test.match(error.message, words);
  }
  // ref.func 0, call_ref 0; the assembler does not know them.
  const typed = Buffer.concat([
    Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7f, 3, 2, 1, 0]),
    Buffer.from([7, 7, 1, 3, 0x72, 0x75, 0x6e, 0, 0, 10, 8, 1, 6, 0, 0xd2, 0, 0x14, 0, 0x0b]),
  ]);
  const error = await refusal(into.inspect(manifestOf(['run']), DEFAULT_LIMITS, typed));
  test.match(error.message, /typed references or garbage-collected types/);
});

/** Every kind of instruction that compilers emit. */
const VARIETY = assemble(
  `(module (type $run (func (result i32))) (tag $e (param i32)) (memory 1) (data $d "abc")
    (table $t 4 8 funcref) (elem $s func $leaf) (elem declare func $many) (global $g (mut i32) (i32.const 0))
    (func $leaf (result i32) (i32.const 1))
    (func $many (param i32) (result i32 i64) (local.get 0) (i64.extend_i32_s (local.get 0)))
    (func (export "run") (param $n i32) (result i32) (local $x i64) (local $v v128)
      (block (loop $l (br_if 1 (i32.eqz (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (block (block (block (br_table 0 1 2 (i32.and (local.get $n) (i32.const 3)))) (global.set $g (i32.const 5)))
          (global.set $g (i32.add (global.get $g) (call $leaf))))
        (if (i32.and (local.get $n) (i32.const 1)) (then (br $l)) (else (nop)))
        (try (do (throw $e (local.get $n))) (catch $e (drop)) (catch_all (rethrow 0)))
        (br $l)))
      (call $many (local.get $n)) (local.set $x) (drop)
      (memory.init $d (i32.const 8) (i32.const 0) (i32.const 3)) (data.drop $d)
      (table.init $t $s (i32.const 0) (i32.const 0) (i32.const 1)) (elem.drop $s)
      (table.copy $t $t (i32.const 1) (i32.const 0) (i32.const 1))
      (drop (table.grow $t (ref.func $many) (i32.const 1))) (drop (table.size $t))
      (local.set $v (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
        (v128.const i32x4 1 2 3 4) (i32x4.splat (local.get $n))))
      (v128.store (i32.const 64) (local.get $v))
      (local.set $v (v128.load8_lane 3 (i32.const 1) (local.get $v)))
      (drop (i32.trunc_sat_f64_s (f64.const 1.5))) (drop (f32.const 2))
      (drop (select (result funcref) (ref.null func) (ref.null func) (i32.const 1)))
      (drop (i64.extend8_s (local.get $x)))
      (i32.add (i32x4.extract_lane 0 (local.get $v))
        (i32.add (global.get $g) (call_indirect $t (type $run) (i32.const 1))))))`,
  FEATURES,
);

await t.test('metered modules are valid whenever the original is, whatever the bytes', (test) => {
  let valid = 0;
  for (const seed of [KIT, VARIETY]) {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(seed.length - 1), fc.nat(255)), { maxLength: 3 }),
        fc.nat(4 * seed.length),
        (changes, end) => {
          const bytes = Uint8Array.from(seed);
          for (const [at, byte] of changes) bytes[at] = byte;
          const cut = bytes.subarray(0, Math.max(end, ...changes.map(([at]) => at)));
          const before = WebAssembly.validate(cut);
          try {
            const after = WebAssembly.validate(meter(cut));
            if (before) valid += 1;
            return !before || after;
          } catch (error) {
            return error instanceof ModuleError;
          }
        },
      ),
      { numRuns: 3000 },
    );
  }
  test.ok(valid > 500, `${valid} mutants were valid modules`);
  test.end();
});

await t.test('a variety of instructions does the same when metered', (test) => {
  const [before, after] = [instance(VARIETY), instance(meter(VARIETY))];
  const run = (exports: Readonly<Record<string, unknown>>): number =>
    (exports['run'] as (n: number) => number)(13);
  test.equal(run(after), run(before));
  test.end();
});

/** Statements over the locals 0 to 3 and one page of memory, which always come to an end. */
const { statements } = fc.letrec<{ statements: string; statement: string; value: string }>(
  (tie) => ({
    value: fc.oneof(
      { maxDepth: 2 },
      fc.nat(3).map((local) => `(local.get ${local})`),
      fc.integer().map((n) => `(i32.const ${n})`),
      fc
        .tuple(
          fc.constantFrom('add', 'sub', 'mul', 'xor', 'shr_u', 'lt_s', 'rotl'),
          tie('value'),
          tie('value'),
        )
        .map(([op, a, b]) => `(i32.${op} ${a} ${b})`),
      tie('value').map((at) => `(i32.load (i32.and ${at} (i32.const 0xfff0)))`),
      tie('value').map((n) => `(call $leaf ${n})`),
    ),
    statement: fc.oneof(
      { maxDepth: 4, withCrossShrink: true },
      fc.tuple(fc.nat(3), tie('value')).map(([local, v]) => `(local.set ${local} ${v})`),
      fc
        .tuple(tie('value'), tie('value'))
        .map(([a, v]) => `(i32.store (i32.and ${a} (i32.const 0xfff0)) ${v})`),
      fc
        .tuple(tie('value'), tie('statements'), tie('statements'))
        .map(([v, a, b]) => `(if ${v} (then ${a}) (else ${b}))`),
      fc
        .tuple(tie('value'), tie('statements'), tie('statements'))
        .map(([v, a, b]) => `(block ${a} (br_if 0 ${v}) ${b})`),
      fc
        .tuple(tie('value'), tie('statements'), tie('statements'), tie('statements'))
        .map(([v, a, b, c]) => `(block (block (block (br_table 0 1 2 ${v}) ${a}) ${b}) ${c})`),
      // Each turn of any loop takes from the one global, so all of them end.
      fc.tuple(tie('value'), tie('statements'), tie('statements')).map(
        ([v, a, b]) =>
          `(block (loop (br_if 1 (i32.le_s (global.get $turns) (i32.const 0)))
            (global.set $turns (i32.sub (global.get $turns) (i32.const 1))) ${a} ${b} (br_if 0 ${v})))`,
      ),
      fc.constant('(br_if 0 (i32.eqz (local.get 0)))'),
      tie('value').map((v) => `(if ${v} (then (return (local.get 1))))`),
    ),
    statements: fc.array(tie('statement'), { maxLength: 4 }).map((all) => all.join(' ')),
  }),
);

await t.test(
  'generated programs answer the same when metered, and cost the same each time',
  (test) => {
    fc.assert(
      fc.property(
        statements,
        statements,
        fc.integer(),
        fc.integer(),
        fc.nat(300),
        (first, second, a, b, left) => {
          const wasm = assemble(`(module (memory (export "memory") 1)
        (global $turns (export "turns") (mut i32) (i32.const 200))
        (func $leaf (param i32) (result i32) (i32.add (local.get 0) (i32.const 3)))
        (func $second (param i32 i32) (result i32) (local i32 i32) (block ${second}) (local.get 2))
        (func (export "run") (param i32 i32) (result i32) (local i32 i32)
          (block ${first} (local.set 2 (call $second (local.get 3) (local.get 1)))) (local.get 2)))`);
          const outcome = (bytes: Uint8Array, start: number): readonly unknown[] => {
            const exports = instance(bytes);
            let burned = (): number => 0;
            if (FUEL_EXPORT.ask in exports) {
              const fuel = new Fuel(
                exports,
                asking(() => true),
              );
              // The slice ends at another place.
              (exports[FUEL_EXPORT.left] as { value: bigint }).value = BigInt(start);
              const before = fuel.burned;
              burned = () => fuel.burned - before;
            }
            const result = (exports['run'] as (a: number, b: number) => number)(a, b);
            const { buffer } = exports['memory'] as WebAssembly.Memory;
            return [result, Buffer.from(buffer).toString('base64'), burned()];
          };
          const [one, two] = [outcome(meter(wasm), 0), outcome(meter(wasm), left)];
          const original = outcome(wasm, 0);
          return one[0] === original[0] && one[1] === original[1] && one[2] === two[2];
        },
      ),
      { numRuns: 150 },
    );
    test.end();
  },
);

await t.test(
  'a compiled module is shared by all that use it and forgotten with the last',
  async (test) => {
    let compiled = 0;
    const cache = new ModuleCache((bytes) => {
      compiled += 1;
      return Promise.resolve(new WebAssembly.Module(bytes));
    });
    const empty = assemble('(module)');
    const [one, two] = await Promise.all([cache.take('d', empty), cache.take('d', empty)]);
    test.equal(one, two);
    cache.release('d');
    await cache.take('d', empty);
    test.equal(compiled, 1);
    cache.release('d');
    cache.release('d');
    await cache.take('d', empty);
    test.equal(compiled, 2);
    await test.rejects(cache.take('bad', Uint8Array.of(1)));
    await test.resolves(cache.take('bad', empty), 'a failure is not kept');
  },
);
