/**
 * The way of a TypeScript plugin to WebAssembly, through the real esbuild, engine and V8: what the
 * module is, and how a build says no.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BuildOptions, BuildResult } from '@noa/sdk/build';
import { ABI_VERSION, mapStack, NoaError } from '@noa/sdk/host';
import t from 'tap';
import { checkTypes } from '../../host/cli/author/typescript.ts';
import { build, built, EXPORTS, FIXTURE, guest } from './every.ts';
import { GuestInstance } from './guest-instance.ts';

const sourceMap = ((): string => {
  const [section] = WebAssembly.Module.customSections(
    new WebAssembly.Module(built.wasm),
    'noa.sourcemap',
  );
  return new TextDecoder().decode(section);
})();

/** The message of a build that must be refused, of a plugin of one file. */
async function refusal(source: string, options: Partial<BuildOptions> = {}): Promise<string> {
  const dir = t.testdir({ src: { 'index.ts': source } });
  try {
    await build({ dir, exports: ['run'], ...options });
  } catch (error) {
    if (error instanceof NoaError && error.code === 'INVALID_ARGUMENT') return error.message;
    throw error;
  }
  throw new Error('the build was not refused');
}

const RUN =
  "import { definePlugin } from '@noa/sdk';\nexport default definePlugin<any>({ run() {} });\n";

void t.test(
  'a module exports memory and the manifest, and imports only what a host offers',
  async (t) => {
    const module = new WebAssembly.Module(built.wasm);
    const imports = WebAssembly.Module.imports(module);
    const user = imports.filter((entry) => entry.module !== 'extism:host/env');
    t.strictSame(
      WebAssembly.Module.exports(module).map(({ name }) => name),
      ['memory', ...EXPORTS.toSorted((a, b) => (a < b ? -1 : 1))],
    );
    t.strictSame(
      [...new Set(user.map(({ module: space, name }) => `${space} ${name}`))].toSorted(),
      [
        'extism:host/user noa_call',
        'extism:host/user noa_call_bytes',
        'extism:host/user noa_clock',
        'extism:host/user noa_random',
        'extism:host/user noa_read',
        'extism:host/user noa_reply_bytes',
        'extism:host/user noa_write',
      ],
    );
    t.strictSame(built.warnings, []);
    t.equal(built.bytes, built.wasm.length);
  },
);

void t.test('a reader of the old module keeps it whole while a build replaces it', async (t) => {
  const outFile = join(t.testdir(), 'out.wasm');
  await build({ outFile });
  await using before = await open(outFile);
  const other = await build({ outFile, memoryMiB: 33 });
  t.equal((await before.readFile()).compare(built.wasm), 0);
  t.equal(readFileSync(outFile).compare(other.wasm), 0);
  t.notSame(other.sha256, built.sha256);
});

void t.test(
  'the same sources give the same bytes in any folder, with no path in them',
  async (t) => {
    const elsewhere = mkdtempSync(join(tmpdir(), 'noa-build-test-'));
    t.teardown(() => rmSync(elsewhere, { recursive: true }));
    cpSync(FIXTURE, join(elsewhere, 'deeper/plugin'), { recursive: true });
    const other = await build({ dir: join(elsewhere, 'deeper/plugin'), outFile: 'dist/out.wasm' });
    t.equal(other.sha256, built.sha256);
    t.strictSame(
      readFileSync(join(elsewhere, 'deeper/plugin/dist/out.wasm')).compare(built.wasm),
      0,
    );
    const text = Buffer.from(built.wasm).toString('latin1');
    t.notMatch(text, process.cwd());
    t.notMatch(text, tmpdir() + '/');
    const files = ['src/failures.ts', 'src/index.ts', 'src/web.ts'];
    const { sources } = JSON.parse(sourceMap) as { sources: string[] };
    t.strictSame(
      sources.toSorted((a, b) => a.localeCompare(b)),
      files,
    );
  },
);

void t.test('where npm puts a package does not change the bytes', async (t) => {
  const source = `import { name } from 'dep';\n${RUN.replace('run() {}', 'run: () => name(new URL("http://a"))')}`;
  const plugin = () => ({ src: { 'index.ts': source } });
  const packages = () => ({
    dep: {
      'package.json': '{"name": "dep", "main": "index.js"}',
      'index.js': "exports.name = (url) => url.host + new TextEncoder().encode('dep').length;",
    },
  });
  const dir = t.testdir({
    own: { ...plugin(), node_modules: packages() },
    hoisted: { node_modules: packages(), plugins: { deep: plugin() } },
    link: t.fixture('symlink', 'own'),
  });
  const results: BuildResult[] = [];
  for (const folder of ['own', 'hoisted/plugins/deep', 'link']) {
    results.push(await build({ dir: join(dir, folder), exports: ['run'] }));
  }
  t.equal(new Set(results.map(({ sha256 }) => sha256)).size, 1);
  t.notMatch(Buffer.from(results[1]?.wasm ?? []).toString('latin1'), /\.\.\/|sdk\/js/);
  const [first] = results;
  t.strictSame(first && (await new GuestInstance(first.wasm).call('run')), { output: 'a3' });
});

void t.test(
  'a plugin that uses little carries little, and is built in less than a second',
  async (t) => {
    const dir = t.testdir({ src: { 'index.ts': RUN } });
    const small = await build({ dir, exports: ['run'] });
    t.ok(small.bytes < 785_000, `${small.bytes} bytes`);
    t.ok(small.durationMs < 1000, `${small.durationMs} ms`);
  },
);

void t.test("a stack is mapped to the lines of the author's files, and to no others", async (t) => {
  const ended = await guest().call('fail', { how: 'later' });
  t.ok('stack' in ended && ended.stack !== undefined);
  const stack = mapStack('stack' in ended ? (ended.stack ?? '') : '', sourceMap);
  const source = readFileSync(join(FIXTURE, 'src/failures.ts'), 'utf8').split('\n');
  const lineOf = (text: string): number => source.findIndex((line) => line.includes(text)) + 1;
  const lines = stack.split('\n');
  t.equal(lines[0], 'Custom: deep é 日本 🙂');
  t.ok(
    lines.some((line) =>
      line.startsWith(`    at deep (src/failures.ts:${lineOf('throw new Custom')}:`),
    ),
    stack,
  );
  const later = source.findIndex((line) => line.includes("case 'later'")) + 3;
  t.ok(
    lines.some((line) => line.startsWith(`    at fail (src/failures.ts:${later}:`)),
    stack,
  );
  t.match(stack, /^caused by TypeError: the root$/m);
  t.notMatch(stack, /plugin\.js|noa\/sdk|runtime/);
  t.equal(mapStack('no frames', 'no map'), 'no frames');
  t.equal(mapStack('    at f (plugin.js:1:1)', '{"version":3}'), '    at f (plugin.js:1:1)');
});

void t.test('globals.d.ts has what a plugin may name, and nothing that is not there', async (t) => {
  await checkTypes(FIXTURE, { tests: false });
  const dir = t.testdir({
    'tsconfig.json': readFileSync(join(FIXTURE, 'tsconfig.json'), 'utf8'),
    src: { 'index.ts': 'console.log(process.env, document, Buffer, crypto.subtle);' },
  });
  const found = await checkTypes(dir, { tests: false }).catch((error: unknown) => String(error));
  for (const name of ['process', 'document', 'Buffer', 'subtle']) {
    t.match(found, new RegExp(`index\\.ts.*'${name}'`));
  }
});

void t.test('handlers and manifest must agree', async (t) => {
  t.equal(
    await refusal(RUN, { exports: ['run', 'stop'] }),
    "plugin.json exports 'stop', and definePlugin has no such handler",
  );
  t.equal(
    await refusal(RUN, { exports: [] }),
    "definePlugin has a handler 'run' that plugin.json does not export",
  );
  t.match(await refusal(RUN, { exports: ['run', 'memory'] }), /cannot be named 'memory'/);
  t.match(await refusal('export default 1;'), /default export is not a plugin.*definePlugin/);
  t.match(await refusal('export const x = 1;'), /src\/index\.ts.*default/);
  t.match(await refusal(RUN.replace('run() {}', 'run: 1')), /the handler 'run' is not a function/);
  t.match(await refusal(RUN, { memoryMiB: 1 }), /memoryMiB is 1: this plugin takes from 2 to 4096/);
  t.match(await refusal(RUN, { entry: 'src/main.ts' }), /src\/main\.ts: no such file/);
  await t.rejects(build({ dir: join(FIXTURE, 'none') }), {
    code: 'INVALID_ARGUMENT',
    message: /none: no such folder/,
  });
});

void t.test('the top level may compute, and may not use the host', async (t) => {
  const top = (line: string): Promise<string> =>
    refusal(`${RUN}Object.assign(globalThis, {\n\n  x: ${line} });\n`);
  t.match(
    await top('Math.random()'),
    /^src\/index\.ts:5:\d+: the top level uses 'random'.*handler/,
  );
  t.match(await top('crypto.randomUUID()'), /^src\/index\.ts:5:\d+: the top level uses 'random'/);
  t.match(await top('new Date()'), /^src\/index\.ts:5:\d+: the top level uses 'clock'/);
  t.match(await top('(() => { try { return Math.random(); } catch {} })()'), /'random'/);
  t.match(
    await top('setTimeout(() => {}, 1)'),
    /^src\/index\.ts:5:\d+: the top level threw Error: timers work inside a handler/,
  );
  t.match(
    await top('fetch("http://a/")'),
    /^src\/index\.ts:5:\d+: the top level uses 'http', and it runs once, at build time: move this into a handler$/,
  );
  t.match(
    await top("JSON.parse('null').x"),
    /^src\/index\.ts:5:\d+: the top level threw TypeError/,
  );
  for (const line of ['await fetch("http://a/");', 'for await (const x of []) void x;']) {
    t.match(
      await refusal(`${line}\n${RUN}`),
      /^src\/index\.ts:1:\d+: the top level cannot await, for it runs once, at build time: move this into a handler\n {4}.*await.*$/,
    );
  }
  const dir = t.testdir({
    src: { 'index.ts': `${RUN}console.log('now', [1]);\nconst table = new Map([[1, 2]]);` },
  });
  const { warnings } = await build({ dir, exports: ['run'] });
  t.strictSame(warnings.length, 1);
  t.match(warnings[0], /^src\/index\.ts:3:\d+: logged at build time: now \[1\]$/);
});

void t.test("esbuild's errors come as file:line:column with the line", async (t) => {
  t.match(
    await refusal('export default {\n  a: 1\n  b: 2\n};'),
    /^src\/index\.ts:3:3: Expected "}" but found "b"\n {4}b: 2$/,
  );
  t.match(
    await refusal(`import { x } from './nowhere.ts';\n${RUN}console.log(x);`),
    /^src\/index\.ts:1:19: Could not resolve "\.\/nowhere\.ts"/,
  );
  t.match(
    await refusal(`import { db } from '@noa/sdk';\n${RUN}console.log(db);`),
    /^src\/index\.ts:1:10: No matching export in "@noa\/sdk" \(ports are in the second .* "db"/,
  );
});

void t.test("Node's own modules are refused with what to use instead", async (t) => {
  const use = (name: string): Promise<string> =>
    refusal(`import * as it from '${name}';\n${RUN}console.log(it);`);
  t.match(
    await use('node:fs'),
    /^src\/index\.ts:1:21: 'node:fs' is a part of Node, where plugins do not run: .*'db' or 'cache'/,
  );
  t.match(await use('fs/promises'), /'fs\/promises' is a part of Node/);
  t.match(await use('crypto'), /crypto\.getRandomValues/);
  t.match(await use('node:child_process'), /written for browsers/);
  t.match(await use('@noa/sdk/host'), /'@noa\/sdk\/host' is for hosts and tools/);
  const dir = t.testdir({
    src: { 'index.ts': `import { name } from 'events';\n${RUN}console.log(name);` },
    node_modules: {
      events: {
        'package.json': '{"name": "events", "main": "index.js"}',
        'index.js': "exports.name = 'installed';",
      },
    },
  });
  const { warnings } = await build({ dir, exports: ['run'] });
  t.match(warnings[0], /logged at build time: installed/, 'a package of that name is taken');
});

void t.test("the ABI page's example is a plugin", async (t) => {
  const page = readFileSync(join(import.meta.dirname, '../../sdk/abi.md'), 'utf8');
  const [, source = ''] = /```wat\n(.*?)```/s.exec(page) ?? [];
  const { default: binaryen } = await import('binaryen');
  const module = binaryen.parseText(source);
  const instance = new GuestInstance(module.emitBinary(), { answer: () => ({ value: 3 }) });
  module.dispose();
  t.strictSame(await instance.call('hits'), { output: { ok: true, value: { value: 3 } } });
  t.strictSame(instance.calls, [
    { capability: 'cache', operation: 'increment', arguments: { key: 'hits' } },
  ]);
  t.strictSame(await instance.call('refuse'), { code: 'NOT_FOUND', message: 'nothing here' });
});

void t.test('the ABI page lists every import of the engine, and its version', async (t) => {
  const page = readFileSync(join(import.meta.dirname, '../../sdk/abi.md'), 'utf8');
  for (const { name } of WebAssembly.Module.imports(new WebAssembly.Module(built.wasm))) {
    t.ok(page.includes(`\`${name}\``), name);
  }
  t.match(page, new RegExp(`^# NOA ABI ${ABI_VERSION}$`, 'm'));
});
