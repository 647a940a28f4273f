/**
 * The SDKs in Rust, C and AssemblyScript: each conforms, makes new plugins that work as they are, and builds
 * the same bytes in any folder. A language whose compiler is missing is skipped, with the reason.
 */
import { execFile } from 'node:child_process';
import { cpSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { packPlugin } from '@noa/sdk/author';
import { parseManifest, readBundle } from '@noa/sdk/host';
import { createTestHost, provideLoader } from '@noa/sdk/testing';
import { builtinBytes } from '../../host/builtin.ts';
import { assemblyScriptCompiler } from '../../host/cli/author/assemblyscript.ts';
import { cToolchain } from '../../host/cli/author/c.ts';
import { languageOf, type Language } from '../../host/cli/author/language.ts';
import { linkPackages, newPlugin } from '../../host/cli/author/new.ts';
import { build, replaceFile } from '../../host/cli/author/project.ts';
import { runTests } from '../../host/cli/author/run-tests.ts';
import { rustToolchain } from '../../host/cli/author/rust.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { missing } from './compilers.ts';
import { runConformance } from './conformance.ts';

t.setTimeout(280_000); // Five builds of a language take their time where the machine is busy.
provideLoader(() => createWasmLoader({ threads: 1, bytes: builtinBytes }));

const ROOT = path.resolve(import.meta.dirname, '../..');

interface Subject {
  readonly language: Exclude<Language, 'ts'>;
  readonly name: string;
  readonly tool: () => unknown;
  readonly conformance: string;
  readonly example: string;
  /** Bytes that the module of a new plugin may have. */
  readonly size: number;
  /** A file of a new plugin, a text in it, and what breaks it. */
  readonly fault: readonly [file: string, text: string, instead: string];
}

const SUBJECTS: readonly Subject[] = [
  {
    language: 'rust',
    name: 'Rust',
    tool: () => rustToolchain(ROOT),
    conformance: 'rust',
    example: 'slugs',
    size: 150_000,
    fault: ['src/lib.rs', 'cache::get', 'cache::missing'],
  },
  {
    language: 'c',
    name: 'C',
    tool: () => cToolchain(ROOT),
    conformance: 'c',
    example: 'checksum',
    size: 25_000,
    fault: ['src/hits.c', 'noa_log(', 'missing('],
  },
  {
    language: 'as',
    name: 'AssemblyScript',
    tool: () => assemblyScriptCompiler(ROOT),
    conformance: 'assemblyscript',
    example: 'geo',
    size: 40_000,
    fault: ['src/index.ts', 'cache.get', 'cache.missing'],
  },
];

async function scratch(t: Test): Promise<string> {
  const parent = await mkdtemp(path.join(tmpdir(), 'noa-language-'));
  t.teardown(() => rm(parent, { recursive: true, force: true }));
  return parent;
}

/** A copy of a folder of the repository, so that what a build writes is nobody else's. */
async function copyOf(t: Test, folder: string): Promise<string> {
  const dir = path.join(await scratch(t), path.basename(folder));
  const own = (from: string): boolean => !['dist', 'target'].includes(path.basename(from));
  cpSync(path.join(ROOT, folder), dir, { recursive: true, filter: own });
  const cargo = path.join(dir, 'Cargo.toml');
  if (languageOf(dir) === 'rust') {
    const sdk = `path = ${JSON.stringify(path.join(ROOT, 'sdk/rust'))}`;
    await writeFile(cargo, readFileSync(cargo, 'utf8').replace(/path = "[^"]*"/, sdk));
  }
  await linkPackages(dir);
  return dir;
}

for (const subject of SUBJECTS) {
  const { language, name, conformance, example, size, fault } = subject;
  const skip = await missing(subject.tool);

  await t.test(`${name}: the conformance plugin`, { skip }, async (t) => {
    const dir = await copyOf(t, `sdk/conformance/${conformance}`);
    t.same((await build({ dir, check: 'nothing' })).warnings, []);
    await runConformance(t, { name, folder: dir });
    const host = await createTestHost({ folder: dir });
    t.teardown(() => host.close());
    await t.rejects(
      host.callUnchecked('crash', { message: 'it bröke' }),
      { code: 'PLUGIN_TRAP', message: 'The plugin reported: it bröke' },
      'what a bug says of itself reaches the caller',
    );
  });

  await t.test(`${name}: a new plugin works, is small, and packs`, { skip }, async (t) => {
    const parent = await scratch(t);
    const { dir } = await newPlugin('hits', path.join(parent, 'one'), language);
    t.equal(languageOf(dir), language);
    const built = await build({ dir, check: 'sources' });
    t.same(built.warnings, []);
    t.ok(built.bytes < size, `${built.bytes} bytes`);
    const { passed, failed, failures } = await runTests(dir, { show: false });
    t.same({ passed, failed, failures }, { passed: 3, failed: 0, failures: [] });
    const { manifest, files } = await readBundle((await packPlugin(dir)).bytes);
    t.equal(manifest.runtime.sha256, built.sha256);
    t.same([...files.keys()].toSorted(), ['README.md', 'dist/hits.wasm', 'plugin.json']);

    const other = await newPlugin('hits', path.join(parent, 'deeper/two'), language);
    const again = await build({ dir: other.dir, check: 'sources' });
    t.equal(again.sha256, built.sha256, 'the same bytes from another folder');
    const text = Buffer.from(await readFile(built.file)).toString('latin1');
    t.notMatch(text, new RegExp(RegExp.escape(parent)), 'no path of this machine');
    t.notMatch(text, new RegExp(RegExp.escape(ROOT)), 'no path of this machine');

    const [file, from, to] = fault;
    const source = await readFile(path.join(dir, file), 'utf8');
    await replaceFile(path.join(dir, file), source.replaceAll(from, to));
    await t.rejects(build({ dir, check: 'sources' }), {
      code: 'INVALID_ARGUMENT',
      message: /found:[^]*missing/,
    });
    t.equal((await readFile(built.file)).length, built.bytes, 'the last good module stays');
  });

  await t.test(`${name}: the example ${example} passes its tests`, { skip }, async (t) => {
    const dir = await copyOf(t, `plugins/examples/${example}`);
    t.same((await build({ dir, check: 'sources' })).warnings, []);
    const { passed, failed, failures } = await runTests(dir, { show: false });
    t.same({ failed, failures }, { failed: 0, failures: [] });
    t.ok(passed >= 3, `${passed} passed`);
  });

  await t.test(`${name}: the plugin in the README is a plugin`, { skip }, async (t) => {
    const readme = await readFile(path.join(ROOT, `sdk/${conformance}/README.md`), 'utf8');
    const [, source = ''] = /```(?:rust|c|ts)\n([^]*?)```/.exec(readme) ?? [];
    t.match(source, /greet/);
    const { dir } = await newPlugin('greeter', path.join(await scratch(t), 'greeter'), language);
    const manifest = parseManifest(await readFile(path.join(dir, 'plugin.json'), 'utf8'));
    const greets = { ...manifest, exports: { greet: {} }, contributes: {} };
    await replaceFile(path.join(dir, 'plugin.json'), JSON.stringify(greets));
    const main = { rust: 'src/lib.rs', c: 'src/greeter.c', as: 'src/index.ts' }[language];
    await replaceFile(path.join(dir, main), source);
    t.same((await build({ dir, check: 'sources' })).warnings, []);
    const host = await createTestHost({ folder: dir });
    t.teardown(() => host.close());
    t.same(await host.callUnchecked('greet', { name: 'Zoë' }), { text: 'Hello, Zoë!' });
    await t.rejects(host.callUnchecked('greet', { name: '' }), { code: 'INVALID_ARGUMENT' });
  });
}

await t.test('a missing compiler is named, with how to install it', async (t) => {
  const { dir } = await newPlugin('hits', path.join(await scratch(t), 'hits'), 'c');
  const run = promisify(execFile)(process.execPath, ['host/noa.js', 'plugin', 'build', dir], {
    cwd: ROOT,
    env: { PATH: dir },
  });
  await t.rejects(run, {
    code: 1,
    stderr: /NOT_FOUND There is no clang [^]*apt-get install clang lld/,
  });
});

const NUMBERS = `#include <noa.h>
NOA_EXPORT(again, input) {
  noa_value *output = noa_array();
  for (noa_item *i = noa_first(input); i; i = i->next) {
    noa_push(output, noa_from_number(noa_number(i->value)));
  }
  return output;
}
`;

const [, c] = SUBJECTS;
const withoutC = c === undefined ? 'no C' : await missing(c.tool);
await t.test('C: every float survives both conversions', { skip: withoutC }, async (t) => {
  const { dir } = await newPlugin('numbers', path.join(await scratch(t), 'numbers'), 'c');
  const manifest = parseManifest(await readFile(path.join(dir, 'plugin.json'), 'utf8'));
  const changed = { ...manifest, exports: { again: {} }, contributes: {} };
  await replaceFile(path.join(dir, 'plugin.json'), JSON.stringify(changed));
  await replaceFile(path.join(dir, 'src/numbers.c'), NUMBERS);
  await build({ dir, check: 'sources' });
  const host = await createTestHost({ folder: dir });
  t.teardown(() => host.close());
  const bits = new BigUint64Array(4000);
  crypto.getRandomValues(bits);
  const random = [...new Float64Array(bits.buffer)].filter((number) => Number.isFinite(number));
  const decimals = Array.from({ length: 1000 }, (_, i) => (i * 7919) / 10 ** (i % 30));
  const edges = [5e-324, 2.225073858507201e-308, 1.7976931348623157e308, 2 ** 53 + 2, 0.1, 1e23];
  for (const numbers of [random, decimals, edges.flatMap((edge) => [edge, -edge])]) {
    t.same(await host.callUnchecked('again', numbers), numbers);
  }
});
