/** The host functions of ABI 1.1 under a guest that uses them rightly and wrongly. */
import { isDeepStrictEqual } from 'node:util';
import { DEFAULT_LIMITS } from '@noa/sdk/host';
import type { Json } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import type { Test } from 'tap';
import { builtinBytes } from '../../host/builtin.ts';
import type { Loader, Runtime, RuntimeCall } from '../../host/kernel/loader.ts';
import { Attachments, bytesTable } from '../../host/loaders/wasm/attachment.ts';
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

function load(
  test: Test,
  wat: string,
  exports: readonly string[],
  into: Loader = loader(test),
): Promise<Runtime> {
  return into.load({
    plugin: 'guest',
    generation: 1,
    manifest: manifestOf(exports, 'guest'),
    limits: { ...DEFAULT_LIMITS, maxInputBytes: 2 << 20, maxOutputBytes: 2 << 20 },
    wasm: assemble(wat),
    config: { noa: 1 },
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

/** Sends its input as a request with sixteen bytes beside it: the letters from a to p. */
const SENDER = `(module
  (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
  (import "extism:host/env" "length" (func $length (param i64) (result i64)))
  (import "extism:host/env" "input_offset" (func $input (result i64)))
  (import "extism:host/env" "output_set" (func $output (param i64 i64)))
  (import "extism:host/user" "noa_write" (func $write (param i64 i32 i32)))
  (import "extism:host/user" "noa_call" (func $call (param i64) (result i64)))
  (import "extism:host/user" "noa_call_bytes" (func $call_bytes (param i64 i64) (result i64)))
  (import "extism:host/user" "noa_reply_bytes" (func $reply_bytes (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "abcdefghijklmnop")
  (data (i32.const 32) "none")
  (func $block (param $p i32) (param $n i32) (result i64)
    (local $block i64)
    (local.set $block (call $alloc (i64.extend_i32_u (local.get $n))))
    (call $write (local.get $block) (local.get $p) (local.get $n))
    (local.get $block))
  (func $answer (param $block i64) (result i32)
    (if (i64.eqz (local.get $block))
      (then (local.set $block (call $block (i32.const 32) (i32.const 4)))))
    (call $output (local.get $block) (call $length (local.get $block)))
    (i32.const 0))
  (func $send (result i64)
    (call $call_bytes (call $input) (call $block (i32.const 0) (i32.const 16))))
  (func (export "send") (result i32) (call $answer (call $send)))
  (func (export "alone") (result i32) (call $answer (call $call_bytes (call $input) (i64.const 0))))
  (func (export "plain") (result i32) (call $answer (call $call (call $input))))
  (func (export "taken") (result i32) (drop (call $send)) (call $answer (call $reply_bytes)))
  (func (export "taken_again") (result i32)
    (drop (call $send)) (drop (call $reply_bytes)) (call $answer (call $reply_bytes)))
  (func (export "left") (result i32)
    (drop (call $send)) (drop (call $call (call $input))) (call $answer (call $reply_bytes)))
  (func (export "early") (result i32) (call $answer (call $reply_bytes))))`;

await t.test(
  'bytes travel beside a call where the schema has them, and nowhere else',
  async (test) => {
    const bytes = {
      'test.run': { input: [['data'], ['list', '*']], output: [['data'], ['all', '*']] },
    };
    const names = ['send', 'alone', 'plain', 'taken', 'taken_again', 'left', 'early'];
    const runtime = await load(test, SENDER, names, loader(test, { bytes, maxReplyBytes: 4096 }));
    let seen: Json = null;
    let value: unknown = {};
    const invoke: RuntimeCall['invoke'] = async (_capability, _operation, input) => {
      seen = input;
      return value;
    };
    const send = async (name: string, args: Json, operation = 'run'): Promise<Json> => {
      const input = JSON.stringify({ capability: 'test', operation, arguments: args });
      return JSON.parse(await call(runtime, name, input, { invoke })) as Json;
    };
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    const at = (...place: Json[]): Json => ({ $bytes: place });

    await send('send', { data: at(0, 16), note: at(0, 16) });
    test.same(seen, { data: base64('abcdefghijklmnop'), note: at(0, 16) });
    await send('send', { data: at(3, 2), list: [at(0, 1), at(15, 1), 'x'] });
    test.same(seen, { data: base64('de'), list: [base64('a'), base64('p'), 'x'] });
    await send('alone', { data: at(0, 0) });
    test.same(seen, { data: '' });
    for (const args of [{ data: at(0, 16) }, { list: [at(0, 1)] }]) {
      await send('plain', args);
      test.same(seen, args, 'in noa_call it is a value as any other');
      await send('send', args, 'other');
      test.same(seen, args, 'and in operations without bytes');
    }
    for (const odd of [
      at(-1, 2),
      at(0.5, 1),
      at('0', 1),
      at(0),
      at(0, 1, 2),
      { $bytes: 1 },
      { $bytes: [0, 1], a: 1 },
    ]) {
      await send('send', { data: odd });
      test.same(seen, { data: odd }, `left to the schema: ${JSON.stringify(odd)}`);
    }
    seen = null;
    const far: Json[] = [at(10, 7), at(17, 0), at(0, 17), at(2 ** 53 - 1, 1), at(1, 2 ** 53 - 1)];
    for (const data of far) {
      const reply = await send('send', { data });
      test.match(reply, {
        ok: false,
        error: { code: 'INVALID_ARGUMENT', message: /an attachment of 16/ },
      });
    }
    const unfolded = await send('send', { list: Array.from({ length: 3 }, () => at(0, 8)) });
    test.match(
      unfolded,
      { ok: false, error: { code: 'INVALID_ARGUMENT' } },
      'no more than there is',
    );
    test.equal(seen, null, 'nothing of it reached the capability');

    value = {
      data: base64('hello '),
      all: [base64('wor'), null, base64('ld')],
      other: base64('x'),
    };
    test.same(await send('plain', {}), { ok: true, value });
    const beside = { data: at(0, 6), all: [at(6, 3), null, at(9, 2)], other: base64('x') };
    test.same(await send('send', {}), { ok: true, value: beside });
    const input = JSON.stringify({ capability: 'test', operation: 'run', arguments: {} });
    const ask = (name: string): Promise<string> => call(runtime, name, input, { invoke });
    test.equal(await ask('taken'), 'hello world');
    for (const name of ['taken_again', 'left', 'early']) test.equal(await ask(name), 'none', name);
    value = { data: '' };
    test.equal(await ask('taken'), 'none', 'no bytes make no block');
    value = { data: base64('y'.repeat(5000)) };
    test.match(await send('send', {}), { ok: false, error: { code: 'RESOURCE_EXHAUSTED' } });
    test.equal(await ask('taken'), 'none', 'a refusal has nothing beside it');
  },
);

await t.test('where bytes may stand is read from the schemas', (test) => {
  test.same(builtinBytes['blob.read'], { input: [], output: [['base64']] });
  test.same(builtinBytes['blob.write'], { input: [['base64']], output: [] });
  test.same(builtinBytes['http.request'], { input: [['bodyBase64']], output: [['bodyBase64']] });
  test.equal(builtinBytes['cache.set'], undefined);

  const base64 = { type: 'string', contentEncoding: 'base64' };
  const rows = { type: 'array', items: { properties: { cell: base64 } } };
  const input = { properties: { rows, either: { anyOf: [{ type: 'null' }, base64] } } };
  const output = { additionalProperties: base64 };
  const rest = { summary: '', idempotent: true };
  const table = bytesTable([
    {
      name: 'test',
      summary: '',
      resource: '',
      operations: { run: { ...rest, input, output }, other: { ...rest, input: {}, output: {} } },
      normalizeResource: (pattern) => pattern,
    },
  ]);
  const paths = [['rows', '*', 'cell'], ['either']];
  test.same(table, { 'test.run': { input: paths, output: [['*']] } });

  const both = { 'test.run': { input: paths, output: paths } };
  const text = fc
    .uint8Array({ maxLength: 40 })
    .map((bytes) => Buffer.from(bytes).toString('base64'));
  const row = fc.record({ cell: fc.oneof(text, fc.constant(null)), note: fc.jsonValue() });
  const value = fc.record({ rows: fc.array(row), either: text, rest: fc.jsonValue() });
  fc.assert(
    fc.property(value, (whole) => {
      const there = new Attachments(both, null);
      const bare = JSON.parse(JSON.stringify(there.extract('test.run', whole))) as Json;
      const back = new Attachments(both, there.reply ?? null).resolve('test.run', bare);
      return isDeepStrictEqual(back, JSON.parse(JSON.stringify(whole)));
    }),
    { numRuns: 200 },
  );
  test.end();
});
