/** The TypeScript SDK passes the conformance vectors. */
import { cpSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { linkPackages } from '../../host/cli/author/new.ts';
import { TYPES_FILE, build } from '../../host/cli/author/project.ts';
import { createProcessLoader } from '../../host/loaders/process/loader.ts';
import { runConformance } from './conformance.ts';

const SOURCE = join(import.meta.dirname, '../../sdk/conformance/typescript');

await t.test('the conformance plugin in TypeScript', async (test) => {
  const parent = await mkdtemp(join(tmpdir(), 'noa-conformance-'));
  test.teardown(() => rm(parent, { recursive: true, force: true }));
  const folder = join(parent, 'typescript');
  cpSync(SOURCE, folder, { recursive: true });
  await linkPackages(folder);
  await build({ dir: folder, check: 'sources' });
  test.equal(
    await readFile(join(folder, TYPES_FILE), 'utf8'),
    await readFile(join(SOURCE, TYPES_FILE), 'utf8'),
    'the types in the repository are those of the manifest',
  );
  await runConformance(test, { name: 'TypeScript', folder });
  await runConformance(test, {
    name: 'TypeScript in a process of its own',
    folder,
    createLoader: createProcessLoader,
  });
});
