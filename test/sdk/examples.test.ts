/** The examples are what the documentation says: built from their sources, tested, packed, and typed. */
import { cpSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { generateTypes, packPlugin } from '@noa/sdk/author';
import { parseManifest, readBundle } from '@noa/sdk/host';
import { linkPackages, newPlugin } from '../../host/cli/author/new.ts';
import { build, replaceFile } from '../../host/cli/author/project.ts';
import { runTests } from '../../host/cli/author/run-tests.ts';

const EXAMPLES = path.resolve(import.meta.dirname, '../../plugins/examples');

/** A copy beside the originals' packages, so that what a build writes is nobody else's. */
async function copyOf(name: string): Promise<string> {
  const parent = await mkdtemp(path.join(tmpdir(), 'noa-example-'));
  t.teardown(() => rm(parent, { recursive: true, force: true }));
  const dir = path.join(parent, name);
  const own = (from: string): boolean => !['dist', 'node_modules'].includes(path.basename(from));
  cpSync(path.join(EXAMPLES, name), dir, { recursive: true, filter: own });
  await linkPackages(dir);
  return dir;
}

for (const name of ['notes', 'digest', 'orders', 'triage', 'handbook']) {
  void t.test(`${name} builds, passes its tests at both levels, and packs`, async (t) => {
    const dir = await copyOf(name);
    const manifest = parseManifest(readFileSync(path.join(dir, 'plugin.json'), 'utf8'));
    const types = readFileSync(path.join(dir, 'src/noa.gen.ts'), 'utf8');
    t.equal(
      types,
      generateTypes(manifest),
      'the types in the repository are those of the manifest',
    );
    const built = await build({ dir, check: 'sources and tests' });
    t.same(built.warnings, []);
    t.ok(built.milliseconds < 5000, `${built.milliseconds} ms`);
    const { tests, failed, failures } = await runTests(dir, { show: false });
    t.same({ failed, failures }, { failed: 0, failures: [] });
    t.ok(tests >= 6, `${tests} tests`);
    const { files, manifest: packed } = await readBundle((await packPlugin(dir)).bytes);
    t.equal(packed.runtime.sha256, built.sha256);
    t.ok(files.has('README.md'));
  });
}

void t.test('notes keeps the form that clients depend on', async (t) => {
  const file = path.join(EXAMPLES, 'notes/plugin.json');
  const { contributes, capabilities } = parseManifest(readFileSync(file, 'utf8'));
  t.same(contributes?.routes, [
    { method: 'POST', path: '/notes', export: 'create', status: 201 },
    { method: 'GET', path: '/notes/:id', export: 'read' },
    { method: 'GET', path: '/notes', export: 'list' },
  ]);
  t.same(
    capabilities?.map(({ capability, resources }) => [capability, resources]),
    [
      ['db', ['notes.*']],
      ['cache', ['notes:reads:*']],
    ],
  );
});

void t.test('the plugin in the README of the SDK is a plugin', async (t) => {
  const readme = readFileSync(path.resolve(EXAMPLES, '../../sdk/js/README.md'), 'utf8');
  const blocks = [...readme.matchAll(/```(json|ts)\n([^]*?)```/g)].map(([, , code]) => code ?? '');
  t.equal(blocks.length, 3);
  const parent = await mkdtemp(path.join(tmpdir(), 'noa-readme-'));
  t.teardown(() => rm(parent, { recursive: true, force: true }));
  const { dir } = await newPlugin('greeter', path.join(parent, 'greeter'));
  const files = ['plugin.json', 'src/index.ts', 'test/greeter.test.ts'];
  for (const [i, file] of files.entries()) await replaceFile(path.join(dir, file), blocks[i] ?? '');
  await build({ dir, check: 'sources and tests' });
  const { passed, failed, failures } = await runTests(dir, { show: false });
  t.same({ passed, failed, failures }, { passed: 2, failed: 0, failures: [] });
});
