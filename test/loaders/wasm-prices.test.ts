/**
 * Prices: that whatever takes long is charged for, so that a runaway of it ends at its deadline within its
 * worker, and that what costs too much to compile or to charge is refused in words.
 */
import { DEFAULT_LIMITS } from '@noa/sdk/host';
import t from 'tap';
import type { Loader } from '../../host/kernel/loader.ts';
import { Fuel, asking, meter } from '../../host/loaders/wasm/fuel.ts';
import { growthOf } from '../../host/loaders/wasm/operands.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { assemble, call, hanging, load, manifestOf, refusal, request } from './sandbox.ts';

const FEATURES = { tail_call: true, simd: true, multi_value: true };

function sandbox(test: { teardown(fn: () => unknown): unknown }): Loader {
  const made = createWasmLoader({ threads: 1 });
  test.teardown(() => made.close());
  return made;
}

function many(count: number, text: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => text(index)).join(' ');
}

const ENV = '(import "extism:host/env"';
const USER = '(import "extism:host/user"';
const WASI = '(import "wasi_snapshot_preview1"';
const WRITE = `${WASI} "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))`;
const VALUES = many(900, () => 'v128');

/** `run` does this again and again; `before` stands before the loop, `parts` outside of the function. */
function again(body: string, parts = '', before = ''): string {
  return `(module ${parts} (memory 256 256) (func (export "run") (result i32) ${before}
    (loop $l ${body} (br $l)) (i32.const 0)))`;
}

/** A long body without a loop in it. */
const LONG_X = '(local $x i64) (local $d i64) (local $z i32)';
const RUNAWAYS: { readonly [name: string]: string } = {
  'writes of empty vectors': again(
    '(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1024) (i32.const 9000)))',
    WRITE,
  ),
  'writes of one byte each': again(
    '(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1024) (i32.const 9000)))',
    WRITE,
    `(local $k i32) (loop $i (i32.store (local.get $k) (i32.const 20000))
      (i32.store offset=4 (local.get $k) (i32.const 1))
      (br_if $i (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 8))) (i32.const 8192))))`,
  ),
  'random bytes': again(
    '(drop (call $random (i32.const 0) (i32.const 16777216)))',
    `${WASI} "random_get" (func $random (param i32 i32) (result i32)))`,
  ),
  'requests of junk': again(
    '(try (do (drop (call $http (local.get $block) (i64.const 0)))) (catch_all))',
    `${ENV} "alloc" (func $alloc (param i64) (result i64)))
     ${ENV} "http_request" (func $http (param i64 i64) (result i64)))`,
    '(local $block i64) (local.set $block (call $alloc (i64.const 1048576)))',
  ),
  'failures of the host': again(
    '(try (do (call $read (i64.const 0) (i32.const -1) (i32.const 1))) (catch_all))',
    `${USER} "noa_read" (func $read (param i64 i32 i32)))`,
  ),
  'divisions behind branches': again(
    many(
      800,
      () =>
        `(block (br_if 0 (local.get $z)) ${many(
          23,
          () => '(local.set $x (i64.rem_u (i64.xor (local.get $x) (i64.const -1)) (local.get $d)))',
        )})`,
    ),
    '',
    `${LONG_X} (local.set $x (i64.const 0x7fffffffffffffff))
     (local.set $d (i64.sub (i64.const 0x7fffffffffffff01) (i64.load (i32.const 8))))`,
  ),
  'locals that change places': again(
    `(i64.store (i32.const 0) (local.get 0)) (local.get 0)
     ${many(5999, (index) => `(local.set ${index} (local.get ${index + 1}))`)} (local.set 5999)`,
    '',
    `(local ${many(6000, () => 'i64')})
     ${many(6000, (index) => `(local.set ${index} (i64.load offset=${8 * (index % 4000)} (i32.const 0)))`)}`,
  ),
  'locals that are read in vain': again(
    many(60_000, (index) => `(drop (local.get ${index % 200}))`),
    '',
    `(local ${many(200, () => 'i64')})`,
  ),
  'constants in vain': again(many(40_000, (index) => `(drop (f64.const ${index}.5))`)),
  'references in vain': again(
    many(30_000, () => '(drop (ref.func $f))'),
    '(func $f) (elem declare func $f)',
  ),
  'jumps to the next place': again(many(60_000, () => '(block (br 0))')),
  'calls with many values': `(module (memory 1) (type $t (func (param ${VALUES}) (result ${VALUES})))
    (table 2 funcref) (elem (i32.const 0) $f $f)
    (func $f (type $t) ${many(900, (index) => `(local.get ${899 - index})`)})
    (func (export "run") (result i32) ${many(900, () => '(v128.const i32x4 1 2 3 4)')}
      (loop $l (param ${VALUES}) (result ${VALUES}) (call_indirect (type $t) (i32.const 0)) (br $l))
      unreachable))`,
  'tail calls with many values': `(module (memory 1) (type $t (func (param ${VALUES}) (result i32)))
    (func $f (type $t) ${many(900, (index) => `(local.get ${899 - index})`)} (return_call $f))
    (func (export "run") (result i32) ${many(900, () => '(v128.const i32x4 1 2 3 4)')} (call $f)))`,
  exceptions: again('(try (do (throw $e)) (catch_all))', '(tag $e)'),
  'exceptions of many values': again(
    `(try (do ${many(900, () => '(v128.const i32x4 1 2 3 4)')} (throw $e)) (catch_all))`,
    `(tag $e (param ${VALUES}))`,
  ),
  'exceptions from great depth': `(module (tag $e) (memory 1)
    (func $deep (param $n i32) (if (i32.eqz (local.get $n)) (then (throw $e)))
      (call $deep (i32.sub (local.get $n) (i32.const 1))))
    (func (export "run") (result i32)
      (loop $l (try (do (call $deep (i32.const 3000))) (catch_all)) (br $l)) (i32.const 0)))`,
};

await t.test('a runaway of what is costly ends at its deadline and harms nobody', async (test) => {
  const into = sandbox(test);
  const bystander = await load(into, { name: 'bystander' });
  const work = hanging();
  const waits = call(bystander, 'ask', request(1), { ms: 120_000, invoke: work.invoke });
  await work.called;
  for (const [name, wat] of Object.entries(RUNAWAYS)) {
    const villain = await into.load({
      plugin: 'villain',
      generation: 1,
      manifest: manifestOf(['run'], 'villain'),
      limits: DEFAULT_LIMITS,
      wasm: assemble(wat, FEATURES),
      config: {},
      log: () => undefined,
    });
    const error = await refusal(call(villain, 'run', '', { ms: 60 }));
    test.equal(error.code, 'DEADLINE_EXCEEDED', name);
    test.equal(await call(bystander, 'echo', '1'), '1', `the next call works after ${name}`);
    await villain.stop();
  }
  work.answer('undisturbed');
  test.same(JSON.parse(await waits), { ok: true, value: 'undisturbed' }, 'one worker all the time');
});

await t.test('random_get takes what it can fill at once, and refuses more', async (test) => {
  const into = sandbox(test);
  const runtime = await into.load({
    plugin: 'random',
    generation: 1,
    manifest: manifestOf(['run'], 'random'),
    limits: DEFAULT_LIMITS,
    wasm: assemble(`(module ${WASI} "random_get" (func $random (param i32 i32) (result i32)))
      (memory 32) (func (export "run") (result i32)
        (i32.or (call $random (i32.const 0) (i32.const 1048576))
          (i32.ne (call $random (i32.const 0) (i32.const 1048577)) (i32.const 28)))))`),
    config: {},
    log: () => undefined,
  });
  test.equal(await call(runtime, 'run'), '', 'success at 1 MiB, EINVAL beyond');
});

/** What one call of `run` burns. */
function price(wat: string): number {
  const { exports } = new WebAssembly.Instance(
    new WebAssembly.Module(meter(assemble(wat, FEATURES))),
    {},
  );
  const fuel = new Fuel(
    exports,
    asking(() => true),
  );
  (exports['run'] as () => void)();
  return fuel.burned;
}

await t.test('many values, divisions and exceptions cost more than one', (test) => {
  const run = (body: string, parts = ''): number =>
    price(`(module ${parts} (func (export "run") (loop) ${body}))`);
  const nothing = run('');
  const div = (type: string): string =>
    `(drop (${type}.div_u (${type}.const 7) (${type}.const 3)))`;
  test.ok(run(many(100, () => div('i64'))) - nothing >= 2000);
  test.ok(run(many(100, () => div('i32'))) - nothing >= 1000);
  const floats = many(100, () => '(drop (f64.div (f64.sqrt (f64.const 7)) (f64.const 3)))');
  test.ok(run(floats) - nothing >= 2000);
  const types = `(type $many (func (param ${VALUES}) (result ${VALUES}))) (func $f (type $many) unreachable)`;
  const vectors = many(900, () => '(v128.const i32x4 1 2 3 4)');
  const pushed = run(`(block (br_if 0 (i32.const 1)) ${vectors} unreachable)`);
  test.ok(pushed < 200, 'what is skipped costs next to nothing');
  const branch = `(block (result ${VALUES}) ${vectors} (br 0)) ${many(900, () => 'drop')}`;
  test.ok(run(branch) - nothing > 900 * 2 + 200, 'a branch pays for what it moves');
  const thrown = '(try (do (throw $e)) (catch_all))';
  test.ok(run(thrown, `(tag $e) ${types}`) - nothing > 1000, 'an exception');
  test.end();
});

await t.test('no code is free because much of it stands behind one branch', (test) => {
  // Each part is too small to charge for itself, and they are too many for what leads to them.
  const part = `(block (br_if 0 (i32.const 0)) ${many(20, () => '(drop (i32.eqz (i32.const 1)))')})`;
  const cost = (parts: number): number =>
    price(`(module (func (export "run") (loop) ${many(parts, () => part)}))`);
  test.ok(cost(200) - cost(100) >= 100 * 20, `${cost(200)} for 200, ${cost(100)} for 100`);
  test.end();
});

/** LEB128 in five bytes. */
function leb5(value: number): number[] {
  return [0, 7, 14, 21, 28].map((by) => ((value >>> by) & 127) | (by < 28 ? 128 : 0));
}

/** A module of `bodies` functions whose bodies are these bytes, and of `run`. */
function moduleOf(body: Uint8Array, bodies: number): Uint8Array {
  const one = Buffer.concat([Buffer.from(leb5(body.length)), body]);
  const run = Buffer.from([4, 0, 0x41, 0, 0x0b]);
  const code = Buffer.concat([
    Buffer.from(leb5(bodies + 1)),
    ...Array.from({ length: bodies }, () => one),
    run,
  ]);
  const functions = [...leb5(bodies + 1), ...Array.from({ length: bodies }, () => 1), 0];
  return Buffer.concat([
    Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 8, 2, 0x60, 0, 1, 0x7f, 0x60, 0, 0]),
    Buffer.from([3, ...leb5(functions.length), ...functions]),
    Buffer.from([7, 11, 1, 3, 0x72, 0x75, 0x6e, 0, ...leb5(bodies)]),
    Buffer.from([10, ...leb5(code.length)]),
    code,
  ]);
}

/** A body with these locals, and as often as said the instructions. */
function bodyOf(locals: number, code: readonly number[], times: number): Uint8Array {
  const declared = locals === 0 ? [0] : [1, ...leb5(locals), 0x7e];
  const repeated = Buffer.alloc(code.length * times, Uint8Array.from(code));
  return Buffer.concat([Buffer.from(declared), repeated, Buffer.of(0x0b)]);
}

/** Whether a function that pushes these, executes this and ends with these values is valid. */
function isValid(pushed: readonly number[], code: readonly number[], left: readonly number[]) {
  const constants: { readonly [type: number]: readonly number[] } = {
    0x7f: [0x41, 0],
    0x7e: [0x42, 0],
    0x7d: [0x43, 0, 0, 0, 0],
    0x7c: [0x44, 0, 0, 0, 0, 0, 0, 0, 0],
    0x7b: [0xfd, 12, ...Array.from({ length: 16 }, () => 0)],
  };
  const body = [0, ...pushed.flatMap((type) => constants[type] ?? []), ...code, 0x0b];
  const type = [1, 0x60, 0, left.length, ...left];
  return WebAssembly.validate(
    Uint8Array.of(
      ...Buffer.from('\0asm\x01\0\0\0'),
      1,
      type.length,
      ...type,
      ...Buffer.of(3, 2, 1, 0, 5, 3, 1, 0, 1), // one function, and one page of memory
      10,
      body.length + 2,
      1,
      body.length,
      ...body,
    ),
  );
}

await t.test('the height of the operand stack is what the engine takes it for', (test) => {
  const types = [0x7b, 0x7f, 0x7c, 0x7e, 0x7d];
  const one = types.map((type) => [type]);
  const two = one.flatMap((some) => types.map((type) => [...some, type]));
  const operands = [
    [],
    ...one,
    ...two,
    ...two.flatMap((some) => types.map((type) => [...some, type])),
  ];
  const growth = (code: readonly number[]): number | undefined => {
    for (const pushed of operands) {
      for (const left of [[], ...one]) {
        if (isValid(pushed, code, left)) return left.length - pushed.length;
      }
    }
    return undefined;
  };
  let known = 0;
  for (let op = 0x28; op <= 0xc4; op += 1) {
    if (op >= 0x3f && op <= 0x44) continue;
    const found = growth(op <= 0x3e ? [op, 0, 0] : [op]);
    if (found !== undefined) known += 1;
    if (found !== growthOf(op, 0)) test.equal(growthOf(op, 0), found, `0x${op.toString(16)}`);
  }
  for (let number = 0; number <= 0x113; number += 1) {
    const lane = (number >= 21 && number <= 34) || (number >= 84 && number <= 91);
    const access = number <= 11 || (number >= 84 && number <= 93);
    const bytes = number === 12 || number === 13 ? 16 : (access ? 2 : 0) + (lane ? 1 : 0);
    const zeros = Array.from({ length: bytes }, () => 0);
    const found = growth([0xfd, (number & 127) | 128, number >> 7, ...zeros]);
    if (found === undefined) continue; // Not given to any instruction, or not switched on.
    known += 1;
    if (found !== growthOf(0xfd, number))
      test.equal(growthOf(0xfd, number), found, `0xfd ${number}`);
  }
  test.ok(known > 380, `${known} instructions`);
  test.end();
});

await t.test('what takes too much to charge or to compile is refused in words', async (test) => {
  const into = sandbox(test);
  const LOOP = [0x03, 0x40, 0x0b];
  const CALL = [0x10, 0];
  const IF = [0x41, 0, 0x04, 0x40, 0x0b];
  const cases: readonly (readonly [wasm: Uint8Array, words: RegExp])[] = [
    [moduleOf(bodyOf(0, LOOP, 340_000), 4), /more than 131072 loops, calls and branches/],
    [moduleOf(bodyOf(0, LOOP, 30_000), 36), /more than 1048576 loops, calls and branches/],
    [moduleOf(bodyOf(9000, CALL, 20_000), 1), /locals and operands, added up .* more than 8388608/],
    [moduleOf(bodyOf(9000, IF, 4000), 1), /locals and operands, added up .* more than 8388608/],
    [
      moduleOf(
        Buffer.concat([
          Buffer.of(0),
          Buffer.alloc(2 * 9000, Uint8Array.of(0x41, 0)),
          bodyOf(0, IF, 4000).subarray(1, -1),
          Buffer.alloc(9000, 0x1a),
          Buffer.of(0x0b),
        ]),
        1,
      ),
      /locals and operands, added up .* more than 8388608/,
    ],
  ];
  for (const [wasm, words] of cases) {
    test.ok(WebAssembly.validate(wasm));
    const error = await refusal(into.inspect(manifestOf(['run']), DEFAULT_LIMITS, wasm));
    test.equal(error.code, 'INVALID_ARGUMENT');
    test.match(error.message, words);
  }
  const most = moduleOf(bodyOf(0, LOOP, 30_000), 10);
  await test.resolves(into.inspect(manifestOf(['run']), DEFAULT_LIMITS, most));
});
