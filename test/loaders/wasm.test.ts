/** The WebAssembly sandbox through its port: what it refuses, what it answers, and what it survives. */
import { readFile } from 'node:fs/promises';
import { DEFAULT_LIMITS, NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import { describe, inspect } from '../../host/cli/author/inspect.ts';
import type { RuntimeCall } from '../../host/kernel/loader.ts';
import { ModuleError, clamp, readOutline } from '../../host/loaders/wasm/binary.ts';
import {
  KIT,
  KIT_EXPORTS,
  assemble,
  call,
  load,
  loader,
  manifestOf,
  refusal,
  request,
} from './sandbox.ts';

await t.test('the assembled parts are what their sources say', async (test) => {
  for (const name of ['arena', 'fiber']) {
    const base = new URL(`../../host/loaders/wasm/${name}`, import.meta.url);
    const source = await readFile(new URL(`${base.href}.wat`), 'utf8');
    const binary = await readFile(new URL(`${base.href}.wasm`));
    test.same(Buffer.from(assemble(source)), binary, `${name}.wasm is ${name}.wat assembled`);
  }
});

await t.test('a module is judged before it is installed', async (test) => {
  const sandbox = loader(test);
  const RUN = '(func (export "run") (result i32) (i32.const 0))';

  const bare = assemble(`(module ${RUN})`);
  await test.resolves(sandbox.inspect(manifestOf(['run']), DEFAULT_LIMITS, bare), 'a bare module');
  await test.resolves(sandbox.inspect(manifestOf(KIT_EXPORTS), DEFAULT_LIMITS, KIT), 'the kit');

  const cases: readonly (readonly [name: string, wat: string, words: RegExp, limits?: object])[] = [
    [
      'an unknown import',
      `(module (import "env" "steal" (func)) ${RUN})`,
      /imports "env" "steal", which this host does not provide/,
    ],
    [
      'an unknown function of a known module',
      `(module (import "extism:host/user" "kv_read" (func)) ${RUN})`,
      /"extism:host\/user" "kv_read", which this host does not provide/,
    ],
    [
      'a name of the prototype',
      `(module (import "extism:host/env" "__proto__" (func)) ${RUN})`,
      /"__proto__", which this host does not provide/,
    ],
    [
      'another WASI',
      `(module (import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32))) ${RUN})`,
      /of WASI there is only preview 1 here .* Build for wasm32-wasip1/,
    ],
    [
      'a function that WASI has not',
      `(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32) (result i32))) ${RUN})`,
      /"sock_open", which this host does not provide/,
    ],
    [
      'an import of another type',
      `(module (import "extism:host/user" "noa_call" (func (param i32) (result i32))) ${RUN})`,
      /"noa_call" as \(i32\) -> i32; its type is \(i64\) -> i64/,
    ],
    [
      'an imported memory',
      `(module (import "env" "memory" (memory 1)) ${RUN})`,
      /imports the memory/,
    ],
    [
      'an imported table',
      `(module (import "e" "t" (table 1 funcref)) ${RUN})`,
      /imports the table/,
    ],
    ['an imported global', `(module (import "e" "g" (global i32)) ${RUN})`, /imports the global/],
    ['a shared memory', `(module (memory 1 2 shared) ${RUN})`, /shared, 64-bit/],
    ['a 64-bit memory', `(module (memory i64 1) ${RUN})`, /shared, 64-bit/],
    ['two memories', `(module (memory 1) (memory 1) ${RUN})`, /has 2 memories/],
    [
      'a large memory',
      `(module (memory 33) ${RUN})`,
      /over limits\.memoryMiB = 2/,
      { memoryMiB: 2 },
    ],
    ['a table bomb', `(module (table 10000000 funcref) ${RUN})`, /table of 10000000 slots/],
    ['many tables', `(module ${'(table 1 funcref)'.repeat(5)} ${RUN})`, /has 5 tables; at most 4/],
    ['no such export', '(module (func (export "other") (result i32) (i32.const 0)))', /"run" but/],
    ['an export that is no function', '(module (memory (export "run") 1))', /"run" but the module/],
    [
      'an export of another type',
      '(module (func (export "run") (param i32)))',
      /"run" has the type \(i32\) -> nothing; it must be \(\) -> i32/,
    ],
    [
      'the name kept for the host',
      `(module (memory (export "noa:memory") 1) ${RUN})`,
      /"noa:memory", a name kept for the host/,
    ],
    [
      'a start function that loops',
      `(module (func $s (loop $l (br $l))) (start $s) ${RUN})`,
      /did not end within 1000 ms/,
    ],
    [
      'a start function that traps',
      `(module (func $s unreachable) (start $s) ${RUN})`,
      /"unreachable"/,
    ],
    [
      'a capability at the top level',
      `(module (import "extism:host/user" "noa_call" (func $c (param i64) (result i64)))
        (func $s (drop (call $c (i64.const 0)))) (start $s) ${RUN})`,
      /called a capability before any call to it/,
    ],
  ];
  const features = { threads: true, memory64: true, multi_memory: true };
  for (const [name, wat, words, limits] of cases) {
    const bytes = assemble(wat, features);
    const error = await refusal(
      sandbox.inspect(manifestOf(['run']), { ...DEFAULT_LIMITS, ...limits }, bytes),
    );
    test.equal(error.code, 'INVALID_ARGUMENT', name);
    test.match(error.message, words, name);
  }
  for (const [name, bytes] of [
    ['text', Buffer.from('(module)')],
    ['nothing', new Uint8Array()],
    ['a cut module', KIT.subarray(0, KIT.length - 9)],
    ['a wrong body', Uint8Array.from(KIT, (byte, at) => (at === KIT.length - 40 ? 0xff : byte))],
  ] as const) {
    const error = await refusal(sandbox.inspect(manifestOf(KIT_EXPORTS), DEFAULT_LIMITS, bytes));
    test.equal(error.code, 'INVALID_ARGUMENT', name);
  }
  const small = loader(test, { maxModuleBytes: 100 });
  const error = await refusal(small.inspect(manifestOf(KIT_EXPORTS), DEFAULT_LIMITS, KIT));
  test.match(error.message, /at most 100 are allowed/);
});

await t.test('inspect tells what a module offers and its manifest does not name', async (test) => {
  const wasm = assemble(`(module (memory (export "memory") 1)
    (func (export "run") (result i32) (i32.const 0)) (func (export "tidy") (result i32) (i32.const 0))
    (func (export "_start") (result i32) (i32.const 0)) (func (export "helper") (param i32)))`);
  const dir = test.testdir({
    'plugin.json': JSON.stringify(manifestOf(['run'])),
    'kit.wasm': Buffer.from(wasm),
  });
  const report = await inspect(dir);
  test.same(report.module.unnamed, ['tidy']);
  test.match(describe(report), /^unnamed {4}tidy: add to exports what is to be called$/m);
  test.equal((await inspect(`${dir}/kit.wasm`)).module.unnamed, undefined, 'without a manifest');
});

await t.test(
  'any bytes are answered by the section reader, and clamped modules stay valid',
  (test) => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }),
          fc
            .tuple(fc.nat(KIT.length - 1), fc.nat(255), fc.nat(KIT.length))
            .map(([at, byte, end]) => {
              const bytes = Uint8Array.from(KIT);
              bytes[at] = byte;
              return bytes.subarray(0, Math.max(end, at));
            }),
        ),
        (bytes) => {
          try {
            const outline = readOutline(bytes);
            const caps = { memoryPages: 100, tableSlots: 100, memoryExport: 'noa:memory' };
            const before = WebAssembly.validate(bytes);
            const after = WebAssembly.validate(clamp(bytes, outline, caps));
            return !before || after || outline.memories.some((memory) => memory.min > 100);
          } catch (error) {
            return error instanceof ModuleError;
          }
        },
      ),
      { numRuns: 2000 },
    );
    test.end();
  },
);

await t.test('calls answer, and each failure has its code and its words', async (test) => {
  const config = { greeting: 'hello', nested: { a: [1] } };
  const runtime = await load(loader(test), { config, limits: { maxOutputBytes: 100_000 } });

  test.equal(await call(runtime, 'echo', '{"text":"ünï→😀"}'), '{"text":"ünï→😀"}');
  test.equal(await call(runtime, 'echo', ''), '', 'an empty input');
  const long = JSON.stringify('x'.repeat(90_000));
  test.equal(await call(runtime, 'echo', long), long, 'a long input');

  const config_ = (key: string): Promise<string> => call(runtime, 'config', key);
  test.same(JSON.parse(await config_('noa')), config, 'the configuration as one text');
  test.equal(await config_('greeting'), 'hello', 'a string by its own key');
  test.equal(await config_('nested'), '{"a":[1]}', 'any other value as JSON');
  for (const key of ['__proto__', 'constructor', 'toString', 'absent', '']) {
    test.equal(await config_(key), 'none', `no configuration under ${key}`);
  }

  test.equal(await call(runtime, 'clock'), '1', 'the clock is near ours');
  test.equal(await call(runtime, 'random'), '1', 'two random numbers differ');
  await call(runtime, 'remember', 'a value');
  test.equal(await call(runtime, 'recall'), 'a value', 'a variable outlives its call');

  const failures: readonly (readonly [string, string, string, RegExp])[] = [
    ['trap', '', 'PLUGIN_TRAP', /The plugin trapped: it executed "unreachable"/],
    ['out_of_bounds', '', 'PLUGIN_TRAP', /memory access out of bounds/],
    ['divide', '', 'PLUGIN_TRAP', /division by zero/],
    ['recurse', '', 'PLUGIN_TRAP', /stack overflow/],
    ['silent', '', 'PLUGIN_TRAP', /returned 7 and set no error/],
    ['grow', '', 'PLUGIN_TRAP', /had used 6\d of its 64 MiB of memory/],
    ['flood_output', '', 'PLUGIN_OUTPUT_INVALID', /limits\.maxOutputBytes is 100000/],
    ['wild_output', '', 'PLUGIN_OUTPUT_INVALID', /outside its blocks/],
    ['binary_output', '', 'PLUGIN_OUTPUT_INVALID', /not UTF-8/],
    [
      'fail',
      'plain words\u001b[31m\r\nx',
      'PLUGIN_TRAP',
      /reported: plain words\\u001b\[31m\\r\\nx$/,
    ],
    ['fail', '{"code":"NOT_FOUND","message":"no note 7"}', 'NOT_FOUND', /^no note 7$/],
    ['fail', '{"code":"CAPABILITY_DENIED","message":"m"}', 'CAPABILITY_DENIED', /^m$/],
    ['fail', '{"code":"UNAUTHENTICATED","message":"m"}', 'PLUGIN_TRAP', /reported: m$/],
    ['fail', '{"code":"PLUGIN_QUARANTINED","message":"m"}', 'PLUGIN_TRAP', /reported: m$/],
    ['fail', '{"code":"__proto__","message":"m"}', 'PLUGIN_TRAP', /reported: m$/],
    ['fail', '{not json', 'PLUGIN_TRAP', /reported: \{not json$/],
    ['fail', 'y'.repeat(50_000), 'PLUGIN_TRAP', /y… \(47952 more characters\)$/],
    ['absent', '', 'INVALID_ARGUMENT', /has no export absent/],
    ['constructor', '', 'INVALID_ARGUMENT', /has no export constructor/],
    ['echo', 'z'.repeat((1 << 20) + 1), 'PAYLOAD_TOO_LARGE', /limits\.maxInputBytes/],
  ];
  for (const [name, input, code, words] of failures) {
    const error = await refusal(call(runtime, name, input));
    test.equal(error.code, code, `${name} ${input.slice(0, 40)}`);
    test.match(error.message, words);
    test.equal(await call(runtime, 'echo', '"next"'), '"next"', 'the next call works');
  }

  const detailed = { code: 'CONFLICT', message: 'taken', details: { by: 'x' } };
  test.match(await refusal(call(runtime, 'fail', JSON.stringify(detailed))), detailed);
  const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
  const excess: [details: string, note: unknown][] = [
    [nested(32), JSON.parse(nested(32))],
    [nested(33), 'left out: more than 32 levels deep'],
    [nested(4400), 'left out: more than 32 levels deep'],
    [nested(30_000), 'left out: more than 32 levels deep'],
    [`[${'0,'.repeat(998)}0]`, Array.from({ length: 999 }, () => 0)],
    [`[${'0,'.repeat(999)}0]`, 'left out: more than 1000 values'],
    [JSON.stringify('x'.repeat(16384)), 'left out: more than 16384 characters'],
  ];
  for (const [details, note] of excess) {
    const error = await refusal(
      call(runtime, 'fail', `{"code":"CONFLICT","message":"taken","details":${details}}`),
    );
    test.same(error.toBody(), { code: 'CONFLICT', message: 'taken', details: note });
  }
  const thrown = { message: 'boom', stack: 'Error: boom\n    at create (src/index.ts:3:9)\u001b' };
  test.match(await refusal(call(runtime, 'fail', JSON.stringify(thrown))), {
    code: 'PLUGIN_TRAP',
    message: 'The plugin reported: boom',
    details: { guestStack: 'Error: boom\n    at create (src/index.ts:3:9)\\u001b' },
  });
});

await t.test(
  'blocks have a hard cap, are reused, and are empty for the next call',
  async (test) => {
    const runtime = await load(loader(test));
    const count = Number(await call(runtime, 'alloc_bomb'));
    test.ok(count >= 8 && count < 16, `${count} MiB of blocks, then none`);
    test.equal(await call(runtime, 'alloc_free'), '1', 'a million blocks, each freed, fit');
    test.equal(await call(runtime, 'echo', '1'), '1');
    await call(runtime, 'leave', 'a secret of the last call');
    test.equal(await call(runtime, 'peek'), '0', 'nothing of it is left');
  },
);

await t.test('a capability call goes through the door of its own call', async (test) => {
  const runtime = await load(loader(test, { maxRequestBytes: 1000, maxReplyBytes: 1000 }));
  const ask = async (input: string, invoke: RuntimeCall['invoke']): Promise<unknown> =>
    JSON.parse(await call(runtime, 'ask', input, { invoke }));
  const error = (code: string, message: RegExp): object => ({
    ok: false,
    error: { code, message },
  });

  const seen: unknown[] = [];
  const answer = await ask(request({ n: 1 }), (...args) => {
    seen.push(...args.slice(0, 3));
    return Promise.resolve({ rows: ['é'] });
  });
  test.same(answer, { ok: true, value: { rows: ['é'] } });
  test.same(seen, ['test', 'run', { n: 1 }]);
  test.same(await ask(request(null), () => Promise.resolve(undefined)), { ok: true, value: null });
  test.match(
    await ask(request(null), () =>
      Promise.reject(new NoaError('CAPABILITY_DENIED', 'not granted')),
    ),
    error('CAPABILITY_DENIED', /^not granted$/),
  );
  test.match(
    await ask(request(null), () => Promise.reject(new Error('/host/path secret'))),
    error('INTERNAL', /^The host failed to carry out the operation\.$/),
  );
  const details: unknown = JSON.parse('['.repeat(50_000) + ']'.repeat(50_000));
  test.same(
    await ask(request(null), () => Promise.reject(new NoaError('CONFLICT', 'deep', { details }))),
    { ok: false, error: { code: 'CONFLICT', message: 'deep' } },
    'particulars that cannot be written are left out',
  );
  const reached = (): Promise<unknown> => Promise.reject(new Error('must not be reached'));
  for (const wrong of [
    '',
    'no json',
    '[]',
    '{"capability":"x"}',
    '{"capability":1,"operation":"y"}',
  ]) {
    test.match(await ask(wrong, reached), error('INVALID_ARGUMENT', /noa_call takes a block/));
  }
  const nested = '['.repeat(128) + ']'.repeat(128);
  test.match(
    await ask(`{"capability":"x","operation":"y","arguments":${nested}}`, reached),
    error('INVALID_ARGUMENT', /more than 128 levels deep/),
  );
  test.match(await ask('x'.repeat(1001), reached), error('PAYLOAD_TOO_LARGE', /at most 1000/));
  test.match(
    await ask(request(null), () => Promise.resolve('y'.repeat(1000))),
    error('RESOURCE_EXHAUSTED', /over 1000 bytes/),
  );
  await ask(
    '{"capability":"a","operation":"b","arguments":{"__proto__":{"polluted":1}}}',
    (_c, _o, input) => {
      test.ok(Object.hasOwn(input as object, '__proto__'), 'a key like any other');
      return Promise.resolve(null);
    },
  );
  test.notOk('polluted' in {}, 'no prototype was touched');
});
