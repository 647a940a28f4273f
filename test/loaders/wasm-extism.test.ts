/** The same modules under stock Extism and under our loader: valid use must give equal results. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import createPlugin from '@extism/extism';
import type { CallContext, ExtismPluginOptions, Plugin } from '@extism/extism';
import { DEFAULT_LIMITS, NoaError } from '@noa/sdk/host';
import asc from 'assemblyscript/asc';
import fc from 'fast-check';
import t from 'tap';
import type { Test } from 'tap';
import { builtinBytes } from '../../host/builtin.ts';
import type { Runtime, RuntimeCall } from '../../host/kernel/loader.ts';
import { readOutline } from '../../host/loaders/wasm/binary.ts';
import { KIT, assemble, call, loader, manifestOf, refusal, request } from './sandbox.ts';

const FIXTURES = join(import.meta.dirname, '../fixtures/extism');
const CONFIG = { greeting: 'hello', empty: 'x' };
const LIMITS = { ...DEFAULT_LIMITS, maxInputBytes: 4 << 20, maxOutputBytes: 4 << 20 };

/** One module on both sides, with what each of them logged. */
interface Pair {
  readonly runtime: Runtime;
  readonly extism: Plugin;
  readonly logs: { readonly ours: string[]; readonly theirs: string[] };
  /** Calls on both sides; errors as text. Asserts that both end the same way, and answers how. */
  readonly both: (name: string, input?: string, invoke?: RuntimeCall['invoke']) => Promise<string>;
}

async function pair(
  test: Test,
  wasm: Uint8Array,
  options: ExtismPluginOptions = {},
  into = loader(test, { bytes: builtinBytes }),
): Promise<Pair> {
  const logs = { ours: [] as string[], theirs: [] as string[] };
  const write = (...words: unknown[]): number => logs.theirs.push(words.join(' '));
  const logger = { ...console, info: write, error: write, warn: write, debug: write };
  const extism = await createPlugin(
    { wasm: [{ data: wasm }] },
    {
      config: CONFIG,
      logger,
      logLevel: 'debug',
      functions: { 'extism:host/user': USER },
      ...options,
    },
  );
  test.teardown(() => extism.close());
  // Others are of the language's runtime.
  const exports = [...readOutline(wasm).functions]
    .filter(([, type]) => type === '() -> i32')
    .map(([name]) => name);
  const runtime = await into.load({
    plugin: 'kit',
    generation: 1,
    manifest: manifestOf(exports),
    limits: LIMITS,
    wasm,
    config: CONFIG,
    log: (_level, message) => logs.ours.push(message),
  });
  const both: Pair['both'] = async (name, input = '', invoke = echo) => {
    const [mine, stocks] = await Promise.all([
      call(runtime, name, input, { invoke }).catch((error: Error) => `error: ${error.message}`),
      extism.call(name, input).then(
        (output) => output?.string() ?? '',
        (error: Error) => `error: ${error.message}`,
      ),
    ]);
    const ending = mine.replace('The plugin reported: ', '');
    test.ok(
      ending === stocks.replace('Plugin-originated error: ', ''),
      `${name}(${input.slice(0, 30)}): ${ending.slice(0, 60)}, ${stocks.slice(0, 60)}`,
    );
    return ending;
  };
  return { runtime, extism, logs, both };
}

const USER = {
  noa_call: async (context: CallContext, block: bigint) => {
    const asked: unknown = JSON.parse(context.read(block)?.string() ?? '');
    const value = await Promise.resolve(asked);
    return context.store(JSON.stringify({ ok: true, value }));
  },
  noa_clock: () => BigInt(Date.now()) * 1_000_000n,
  noa_random: () => BigInt(Math.floor(Math.random() * 2 ** 52)),
};

const echo = (capability: string, operation: string, input: unknown): Promise<unknown> =>
  Promise.resolve({ capability, operation, arguments: input });

await t.test('valid use of the ABI gives equal results', async (test) => {
  const { both, logs, runtime, extism } = await pair(test, KIT);
  const inputs = [
    '{}',
    '1234567',
    '12345678',
    '123456789',
    'ünï→😀',
    '\u0000',
    'x'.repeat(100_000),
  ];
  for (const input of [...inputs, 'y'.repeat(1 << 20), '→'.repeat(349_525)]) {
    await both('echo', input);
    await both('copy', input);
  }
  await both('echo');
  for (const key of ['greeting', 'empty', 'absent', 'ünï']) await both('config', key);
  await both('recall');
  await both('remember', 'value one');
  await both('recall');
  await both('remember', 'a longer value than before');
  await both('recall');
  for (let n = 0; n < 3; n += 1) await both('count');
  for (const name of ['clock', 'random', 'peek']) await both(name);
  await both('ask', request({ text: 'ünï', list: [1, null, true] }));
  await both('ask_thrice', request('again'));
  await both('fail', 'plain text');
  await both('fail', 'ünï→😀');
  await both('count');
  await both('log', 'a line');
  test.same(logs.ours, logs.theirs, 'equal log lines');

  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'grapheme' }), fc.nat(40), async (text, repeat) => {
      const input = text.repeat(repeat);
      const output = (await extism.call('copy', input))?.string() ?? '';
      return (
        (await call(runtime, 'copy', input)).replace('none', '') === output.replace('none', '')
      );
    }),
    { numRuns: 100 },
  );
  test.equal((await refusal(call(runtime, 'trap'))).code, 'PLUGIN_TRAP');
  await test.rejects(extism.call('trap'), 'a trap is an error in both');
});

await t.test('a plugin of a PDK runs unchanged', async (test) => {
  const { both, logs, runtime, extism } = await pair(test, await assemblyScript('pdk.ts'));
  test.equal(await both('vowels', 'Hello, World'), '{"count": 3, "config": "hello"}');
  for (const input of ['', 'a', 'sequoia '.repeat(20_000)]) await both('vowels', input);
  for (const input of ['x', '1234567', '12345678', 'ab'.repeat(1 << 19)])
    await both('bytes', input);
  for (const input of ['abc', '', 'defg']) await both('total', input);
  await both('forget');
  test.equal(await both('total', 'ab'), '2');
  await both('chatter');
  test.same(logs.ours, logs.theirs, 'equal log lines');
  test.equal((await refusal(call(runtime, 'broken'))).code, 'PLUGIN_TRAP');
  await test.rejects(extism.call('broken'), 'an abort is an error in both');
});

await t.test('WASI: what a C library asks for is there, and nothing else', async (test) => {
  const wasm = assemble(readFileSync(join(FIXTURES, 'system.wat'), 'utf8'));
  const { both, logs, runtime, extism } = await pair(test, wasm, { useWasi: true });
  test.equal(await both('ready'), '070000', 'its _initialize has run');
  test.equal(await both('clock'), '000101');
  test.equal(await both('resolution'), '000100');
  test.equal(await both('random'), '000101');
  test.equal(await both('no_folders'), '080808', 'EBADF');
  test.equal(await both('print_nowhere'), '080000', 'EBADF');
  test.equal(await both('print'), '003600');
  test.equal(await both('yield'), '000000');
  test.same(logs.ours, ['one line', 'and a second, in two parts']);
  logs.ours.length = 0;
  test.equal(await call(runtime, 'complain'), '001000');
  test.same(logs.ours, ['unfinished'], 'the end of a call ends the line');
  test.equal(await call(runtime, 'arguments'), '000000', 'none');
  test.equal(await call(runtime, 'environment'), '000000', 'none');
  test.equal(await call(runtime, 'terminal'), '000208', 'a character device, EBADF');
  test.equal(await call(runtime, 'refused'), '087652', 'EBADF, ENOTCAPABLE, ENOSYS');
  test.equal(await call(runtime, 'wild'), '212121', 'EFAULT');
  test.equal(await call(runtime, 'unseekable'), '700000', 'ESPIPE');
  const exit = await refusal(call(runtime, 'exit'));
  test.match(exit, { code: 'PLUGIN_TRAP', message: /ended itself with the exit code 3/ });
  await test.rejects(extism.call('exit'), 'an exit is an error in both');
});

await t.test('guests are started as Extism starts them', async (test) => {
  const started = (name: string, imports: string): Uint8Array =>
    assemble(`(module ${imports}
      (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
      (import "extism:host/env" "store_u8" (func $store_u8 (param i64 i32)))
      (import "extism:host/env" "output_set" (func $output (param i64 i64)))
      (memory (export "memory") 1)
      (global $starts (mut i32) (i32.const 48))
      (func (export "${name}") (global.set $starts (i32.add (global.get $starts) (i32.const 1))))
      (func (export "run") (result i32)
        (local $block i64)
        (local.set $block (call $alloc (i64.const 1)))
        (call $store_u8 (local.get $block) (global.get $starts))
        (call $output (local.get $block) (i64.const 1))
        (i32.const 0)))`);
  const yields = '(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))';
  const sandbox = loader(test);
  for (const [name, imports, starts] of [
    ['_initialize', '', '1'],
    ['_initialize', yields, '1'],
    ['_start', '', '1'],
    ['_start', yields, '0'],
    ['hs_init', '', '1'],
    ['__wasm_call_ctors', '', '0'],
  ] as const) {
    const wasi = { useWasi: imports !== '' };
    const { both } = await pair(test, started(name, imports), wasi, sandbox);
    test.equal(await both('run'), starts, `${name}${imports === '' ? '' : ' of a WASI program'}`);
  }
});

await t.test('a C library built for WASI runs unchanged', async (test) => {
  const { both, runtime } = await pair(test, quickJs(), { useWasi: true });
  test.equal(await both('run', '6 * 7'), '42');
  test.equal(await both('run', "'ünï→😀'.repeat(3)"), 'ünï→😀'.repeat(3));
  test.equal(await both('run', "'x'.repeat(1 << 20)"), 'x'.repeat(1 << 20));
  test.equal(await both('run', 'globalThis.n = (globalThis.n ?? 0) + 1'), '1');
  test.equal(
    await both('run', 'globalThis.n = (globalThis.n ?? 0) + 1'),
    '2',
    'the instance stays',
  );
  test.equal(await both('run', 'Math.random() !== Math.random()'), 'true');
  const now = Number(await call(runtime, 'run', 'Date.now()'));
  test.ok(Math.abs(Date.now() - now) < 5000, 'the real time');
});

await t.test("Extism's HTTP imports go through the capability http", async (test) => {
  const wasm = assemble(readFileSync(join(FIXTURES, 'network.wat'), 'utf8'));
  const answer = { status: 418, headers: { 'x-kind': 'tea' }, body: 'short and stout →' };
  const asked: { theirs: unknown[]; ours: unknown[] } = { theirs: [], ours: [] };
  const fetch: typeof globalThis.fetch = async (url, { method, headers, body } = {}) => {
    asked.theirs.push([
      url,
      method,
      headers,
      body ? Buffer.from(body as Uint8Array).toString() : '',
    ]);
    const given = new Response(answer.body, answer);
    given.headers.delete('content-type');
    return given;
  };
  const invoke: RuntimeCall['invoke'] = async (capability, operation, input) => {
    if (capability !== 'http' || operation !== 'request') throw new NoaError('NOT_FOUND', 'no');
    const { url, method, headers, bodyBase64 = '' } = input as Record<string, string>;
    asked.ours.push([url, method, headers, Buffer.from(bodyBase64, 'base64').toString()]);
    return { ...answer, url };
  };
  const options = { allowedHosts: ['tea.example'], fetch, allowHttpResponseHeaders: true };
  const { both, runtime, extism } = await pair(test, wasm, options);
  const to = (url: string, more = {}): string => JSON.stringify({ url, ...more });
  test.equal(await both('get', to('http://tea.example/pot'), invoke), answer.body);
  test.equal(
    await both(
      'post',
      to('http://tea.example/pot', { method: 'post', headers: { a: 'b' } }),
      invoke,
    ),
    answer.body,
  );
  test.equal(await both('status', to('http://tea.example/'), invoke), '418');
  test.equal(await both('headers', to('http://tea.example/'), invoke), '{"x-kind":"tea"}');
  test.same(asked.ours, asked.theirs, 'equal requests');

  const denied = await refusal(call(runtime, 'get', to('http://other.example/')));
  test.equal(denied.code, 'CAPABILITY_DENIED', 'without a grant the call ends');
  await test.rejects(extism.call('get', to('http://other.example/')), /not allowed/);
  test.equal((await refusal(call(runtime, 'get', 'no JSON', { invoke }))).code, 'INVALID_ARGUMENT');
  await test.rejects(extism.call('get', 'no JSON'));
  test.equal(await call(runtime, 'get', to('http://tea.example/'), { invoke }), answer.body);
});

await t.test('70,000 calls leave nothing behind', async (test) => {
  const { runtime } = await pair(test, KIT);
  const many = async (count: number): Promise<number> => {
    let left = count;
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        while (left > 0) {
          const turn = (left -= 1);
          if (turn % 10 === 0) await call(runtime, 'ask', request(turn), { invoke: echo });
          else if ((await call(runtime, 'copy', `call ${turn}`)) !== `call ${turn}`) {
            throw new Error(`call ${turn} answered another's`);
          }
        }
      }),
    );
    return runtime.stats().memoryBytes;
  };
  const before = await many(7000);
  const after = await many(63_000);
  test.ok(after <= before + (1 << 20), `linear memory: ${before} bytes, then ${after}`);
});

/** The bytes of a module that the AssemblyScript compiler makes of a file beside the repository's packages. */
async function assemblyScript(file: string): Promise<Uint8Array> {
  let wasm: Uint8Array | undefined;
  const { error } = await asc.main(
    [file, '--outFile', 'module.wasm', '--use', 'abort=pdk/abort', '--baseDir', FIXTURES],
    {
      readFile: (name, folder) => readText(join(folder, name)),
      writeFile: (name, content) => {
        if (name === 'module.wasm' && typeof content !== 'string') wasm = content;
      },
      listFiles: () => [],
    },
  );
  if (error !== null || wasm === undefined) throw new Error(`asc ${file} failed`, { cause: error });
  return wasm;
}

/** QuickJS with what stands around it in quickjs.wat. */
function quickJs(): Uint8Array {
  const folder = mkdtempSync(join(tmpdir(), 'noa-quickjs-'));
  try {
    const merged = join(folder, 'merged.wasm');
    const require = createRequire(import.meta.url);
    const merge = join(dirname(require.resolve('binaryen')), 'bin/wasm-merge');
    const library = require.resolve('quickjs-wasi/quickjs.wasm');
    const parts = [library, 'qjs', join(FIXTURES, 'quickjs.wat'), 'env'];
    // With every feature on, the merge writes modules that V8 refuses.
    const features = ['bulk-memory', 'bulk-memory-opt', 'sign-ext', 'mutable-globals'];
    const more = ['nontrapping-float-to-int', 'multivalue', 'reference-types'];
    const flags = [...features, ...more].map((feature) => `--enable-${feature}`);
    execFileSync(process.execPath, [merge, ...parts, ...flags, '-o', merged]);
    return readFileSync(merged);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null; // the compiler asks for files that may not be there
  }
}
