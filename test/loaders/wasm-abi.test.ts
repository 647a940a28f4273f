/** The host functions of the ABI under a guest that uses them rightly, wrongly and with hostile values. */
import { DEFAULT_LIMITS } from '@noa/sdk/host';
import t from 'tap';
import type { Test } from 'tap';
import type { Runtime } from '../../host/kernel/loader.ts';
import { assemble, call, loader, manifestOf, refusal } from './sandbox.ts';

const BULK = `(module
  (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
  (import "extism:host/env" "input_offset" (func $input (result i64)))
  (import "extism:host/env" "input_length" (func $input_length (result i64)))
  (import "extism:host/env" "input_load_u64" (func $input_u64 (param i64) (result i64)))
  (import "extism:host/env" "output_set" (func $output (param i64 i64)))
  (import "extism:host/user" "noa_read" (func $read (param i64 i32 i32)))
  (import "extism:host/user" "noa_write" (func $write (param i64 i32 i32)))
  (memory (export "memory") 1)
  (func $copy (param $p i32) (result i32)
    (local $n i32) (local $block i64)
    (local.set $n (i32.wrap_i64 (call $input_length)))
    (call $read (call $input) (local.get $p) (local.get $n))
    (local.set $block (call $alloc (call $input_length)))
    (call $write (local.get $block) (local.get $p) (local.get $n))
    (call $output (local.get $block) (call $input_length))
    (i32.const 0))
  (func (export "copy") (result i32) (call $copy (i32.const 16)))
  ;; Into memory that was not there when the instance was made.
  (func (export "grow") (result i32)
    (call $copy (i32.shl (memory.grow (i32.const 32)) (i32.const 16))))
  ;; The tail of the input, from an address within its block.
  (func (export "tail") (result i32)
    (local $block i64)
    (call $read (i64.add (call $input) (i64.const 3)) (i32.const 0) (i32.const 5))
    (local.set $block (call $alloc (i64.const 5)))
    (call $write (local.get $block) (i32.const 0) (i32.const 5))
    (call $output (local.get $block) (i64.const 5))
    (i32.const 0))
  ;; The input is (address: i64, pointer: i32, length: i32); address -1 is the input's own.
  (func $hostile (param $write i32)
    (local $at i64) (local $p i32) (local $n i32)
    (local.set $at (call $input_u64 (i64.const 0)))
    (if (i64.eq (local.get $at) (i64.const -1)) (then (local.set $at (call $input))))
    (local.set $p (i32.wrap_i64 (call $input_u64 (i64.const 8))))
    (local.set $n (i32.wrap_i64 (i64.shr_u (call $input_u64 (i64.const 8)) (i64.const 32))))
    (if (local.get $write)
      (then (call $write (local.get $at) (local.get $p) (local.get $n)))
      (else (call $read (local.get $at) (local.get $p) (local.get $n))))
    (call $output (call $input) (call $input_length)))
  (func (export "read") (result i32) (call $hostile (i32.const 0)) (i32.const 0))
  (func (export "write") (result i32) (call $hostile (i32.const 1)) (i32.const 0)))`;

function load(test: Test, wat: string, exports: readonly string[]): Promise<Runtime> {
  return loader(test).load({
    plugin: 'kit',
    generation: 1,
    manifest: manifestOf(exports),
    limits: { ...DEFAULT_LIMITS, maxInputBytes: 2 << 20, maxOutputBytes: 2 << 20 },
    wasm: assemble(wat),
    config: {},
    log: () => undefined,
  });
}

await t.test('bulk copies move whole blocks, in memory that has grown as well', async (test) => {
  const runtime = await load(test, BULK, ['copy', 'grow', 'tail']);
  for (const input of ['', 'x', 'ünï→😀', 'y'.repeat(60_000)]) {
    test.equal(await call(runtime, 'copy', input), input, `${input.length} characters`);
  }
  for (const input of ['{}', 'z'.repeat(1 << 20)]) {
    test.equal(await call(runtime, 'grow', input), input, `${input.length} characters, grown`);
  }
  test.equal(await call(runtime, 'tail', '01234567'), '34567');
});

await t.test('a bulk copy outside of a block or of the memory is a trap in words', async (test) => {
  const runtime = await load(test, BULK, ['read', 'write']);
  /** ASCII only: each number is made of bytes below 128. */
  const ask = (name: string, address: number[], pointer: number[], length: number[]) =>
    call(runtime, name, String.fromCharCode(...address, ...pointer, ...length));
  const none = [0, 0, 0, 0];
  const far = [0, 0, 0, 0, 1, 0, 0, 0];
  const wild = [127, 127, 127, 127, 127, 127, 127, 127];
  for (const name of ['read', 'write']) {
    const words = async (address: number[], pointer: number[], length: number[]) => {
      const error = await refusal(ask(name, address, pointer, length));
      test.equal(error.code, 'PLUGIN_TRAP');
      return error.message;
    };
    test.equal((await ask(name, wild, none, none)).length, 16, 'no bytes lie anywhere');
    const first = [16, 1, 0, 0, 0, 0, 0, 0]; // where the input is
    test.equal((await ask(name, first, none, [16, 0, 0, 0])).length, 16, 'the whole block');
    test.match(
      await words(first, none, [17, 0, 0, 0]),
      /noa_\w+ was given 17 bytes at address 272/,
    );
    test.match(await words(first, [0, 0, 1, 0], [1, 0, 0, 0]), /outside of the module's memory/);
    test.match(await words(first, [127, 127, 127, 127], wild.slice(4)), /module's memory/);
    for (const address of [none.concat(none), [1, 0, 0, 0, 0, 0, 0, 0], far, wild]) {
      test.match(await words(address, none, [1, 0, 0, 0]), /not in a block/);
    }
  }
});
