/** Random programs of ABI operations on hostile addresses and lengths harm nothing but their own call. */
import { DEFAULT_LIMITS, NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import type { RuntimeCall } from '../../host/kernel/loader.ts';
import { assemble, call, load, loader, manifestOf } from './sandbox.ts';

/** Every import, to be called with anything. */
const IMPORTS: readonly (readonly [module: string, name: string, type: string, answers: string])[] =
  [
    ...[
      ['alloc', 'I', 'I'],
      ['free', 'I', ''],
      ['length', 'I', 'I'],
      ['load_u8', 'I', 'i'],
      ['load_u64', 'I', 'I'],
      ['store_u8', 'Ii', ''],
      ['store_u64', 'II', ''],
      ['input_offset', '', 'I'],
      ['input_load_u8', 'I', 'i'],
      ['input_load_u64', 'I', 'I'],
      ['output_set', 'II', ''],
      ['error_set', 'I', ''],
      ['config_get', 'I', 'I'],
      ['var_get', 'I', 'I'],
      ['var_set', 'II', ''],
      ['log_info', 'I', ''],
      ['http_request', 'II', 'I'],
      ['http_headers', '', 'I'],
    ].map(
      ([name = '', type = '', answers = '']) => ['extism:host/env', name, type, answers] as const,
    ),
    ['extism:host/user', 'noa_read', 'Iii', ''],
    ['extism:host/user', 'noa_write', 'Iii', ''],
    ['extism:host/user', 'noa_call', 'I', 'I'],
    ['extism:host/user', 'noa_call_bytes', 'II', 'I'],
    ['extism:host/user', 'noa_reply_bytes', '', 'I'],
    ['wasi_snapshot_preview1', 'fd_write', 'iiii', 'i'],
    ['wasi_snapshot_preview1', 'random_get', 'ii', 'i'],
    ['wasi_snapshot_preview1', 'clock_time_get', 'iIi', 'i'],
    ['wasi_snapshot_preview1', 'fd_fdstat_get', 'ii', 'i'],
    ['wasi_snapshot_preview1', 'args_sizes_get', 'ii', 'i'],
  ];
/** Among them the place and the length of a request that is right. */
const VALUES = [
  2048n,
  57n,
  0n,
  1n,
  2n,
  7n,
  8n,
  16n,
  256n,
  271n,
  272n,
  273n,
  280n,
  300n,
  65_535n,
  65_536n,
  131_072n,
  1n << 20n,
  (1n << 31n) - 1n,
  1n << 31n,
  (1n << 32n) - 8n,
  1n << 32n,
  (1n << 32n) + 272n,
  1n << 53n,
  (1n << 63n) - 1n,
  -1n,
  -8n,
  -(1n << 31n),
  -(1n << 63n),
];

/** Makes a block with the request, which is the last result when the steps begin. */
const OPENING = [
  [operation('alloc'), 1, 0, 0],
  [operation('noa_write'), VALUES.length, 0, 1],
];

function operation(wanted: string): number {
  return IMPORTS.findIndex(([, name]) => name === wanted);
}

/** Runs its input as a program: four characters a step, an import and three values or results. */
const MACHINE = `(module
  ${IMPORTS.map(([module, name, type, answers]) => `(import "${module}" "${name}" (func $${name} ${wat('param', type)} ${wat('result', answers)}))`).join('\n  ')}
  (import "extism:host/env" "input_length" (func $input_length (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "${[...new Uint8Array(BigInt64Array.from(VALUES).buffer)].map((byte) => `\\${byte.toString(16).padStart(2, '0')}`).join('')}")
  (data (i32.const 2048) "{\\22capability\\22:\\22test\\22,\\22operation\\22:\\22run\\22,\\22url\\22:\\22http://a/\\22}")
  (global $last (mut i64) (i64.const 0))
  (func $value (param $at i64) (result i64)
    (local $which i32)
    (local.set $which (call $input_load_u8 (local.get $at)))
    (if (i32.lt_u (local.get $which) (i32.const ${VALUES.length}))
      (then (return (i64.load (i32.add (i32.const 1024) (i32.shl (local.get $which) (i32.const 3)))))))
    (i64.add (global.get $last)
      (i64.extend_i32_u (i32.sub (local.get $which) (i32.const ${VALUES.length})))))
  (func (export "run") (result i32)
    (local $at i64) (local $op i32)
    (block $end (loop $steps
      (br_if $end (i64.ge_u (local.get $at) (call $input_length)))
      (local.set $op (call $input_load_u8 (local.get $at)))
      ${IMPORTS.map(([, name, type, answers], index) => `(if (i32.eq (local.get $op) (i32.const ${index})) (then ${step(name, type, answers)}))`).join('\n      ')}
      (local.set $at (i64.add (local.get $at) (i64.const 4)))
      (br $steps)))
    (i32.const 0)))`;

function wat(kind: string, letters: string): string {
  return Array.from(letters, (letter) => `(${kind} ${letter === 'i' ? 'i32' : 'i64'})`).join(' ');
}

function step(name: string, type: string, answers: string): string {
  const values = Array.from(type, (letter, index) => {
    const value = `(call $value (i64.add (local.get $at) (i64.const ${1 + (index % 3)})))`;
    return letter === 'i' ? `(i32.wrap_i64 ${value})` : value;
  });
  const made = `(call $${name} ${values.join(' ')})`;
  if (answers === '') return made;
  return `(global.set $last ${answers === 'i' ? `(i64.extend_i32_u ${made})` : made})`;
}

await t.test('whatever a guest hands to the host, only its own call is harmed', async (test) => {
  const sandbox = loader(test);
  const runtime = await sandbox.load({
    plugin: 'machine',
    generation: 1,
    manifest: manifestOf(['run'], 'machine'),
    limits: DEFAULT_LIMITS,
    wasm: assemble(MACHINE),
    config: {},
    log: () => undefined,
  });
  const neighbour = await load(sandbox, { name: 'neighbour' });
  await call(neighbour, 'remember', 'untouched');
  let calls = 0;
  const invoke: RuntimeCall['invoke'] = async () => {
    calls += 1;
    return { data: 'aGVsbG8=', status: 200, headers: {}, body: 'x' };
  };
  const codes = new Set<string>();
  const pick = fc.nat(VALUES.length + 3);
  const asks = fc.constantFrom(...['noa_call', 'noa_call_bytes', 'http_request'].map(operation));
  const steps = fc.oneof(
    { weight: 5, arbitrary: fc.tuple(fc.nat(IMPORTS.length - 1), pick, pick, pick) },
    { weight: 1, arbitrary: fc.tuple(asks, fc.constant(VALUES.length), pick, pick) },
  );
  const program = fc.array(steps, { maxLength: 24 });
  await fc.assert(
    fc.asyncProperty(program, async (chosen) => {
      const input = String.fromCharCode(...[...OPENING, ...chosen].flat());
      try {
        await call(runtime, 'run', input, { invoke });
        codes.add('output');
      } catch (error) {
        if (!(error instanceof NoaError)) throw error;
        codes.add(error.code);
      }
      return (await call(neighbour, 'recall')) === 'untouched';
    }),
    { numRuns: 1500 },
  );
  const expected = [
    'INVALID_ARGUMENT',
    'PLUGIN_OUTPUT_INVALID',
    'PLUGIN_TRAP',
    'RESOURCE_EXHAUSTED',
    'output',
  ];
  test.same(
    [...codes].filter((code) => !expected.includes(code)),
    [],
    'the thread lives on',
  );
  test.ok(calls > 10, `${calls} calls of capabilities`);
  test.ok(codes.has('output') && codes.has('PLUGIN_TRAP'), `ended as ${[...codes].join(', ')}`);
});
