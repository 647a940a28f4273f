/**
 * Files: a plugin with an area for blobs of its own, that wants the files of the host or of another
 * plugin, by path, by link, by name, and at last by filling the disk.
 */
import { mkdir, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { built, Target } from './target.ts';

const QUOTA_BYTES = 1 << 20;
const QUOTA_COUNT = 40;

const manifest = (name: string, resources: string[]) => ({
  name,
  exports: { write: {}, read: {}, list: {}, remove: {} },
  capabilities: [
    {
      capability: 'blob',
      operations: ['read', 'write', 'list', 'delete'],
      resources,
      reason: 'Keeps.',
    },
  ],
  limits: { timeoutMs: 5000, memoryMiB: 64 },
});
const source = `import { definePlugin } from '@noa/sdk';
  export default definePlugin({
    write: ({ path, text, size }, { blob }) => blob.write(path, size ? 'x'.repeat(size) : text ?? ''),
    read: ({ path }, { blob }) => blob.readText(path),
    list: ({ prefix }, { blob }) => blob.list({ prefix }),
    remove: ({ path }, { blob }) => blob.delete(path),
  });`;
const [burglar, owner] = await Promise.all([
  built(manifest('burglar', ['loot/*']), source),
  built(manifest('owner', ['*']), source),
]);
const target = await Target.start(t, [burglar, owner], {
  NOA_PLUGINS__BLOB_MAX_BYTES: String(QUOTA_BYTES),
  NOA_PLUGINS__BLOB_MAX_COUNT: String(QUOTA_COUNT),
});
const { host } = target;
const denial = { kind: 'capability.denial', plugin: 'burglar', capability: 'blob' };

target.attack('paths that climb out of the area', { audit: denial }, async (t) => {
  const outside = [
    '../owner/secret',
    'loot/../../owner/secret',
    'loot/../secret',
    '/etc/passwd',
    'loot//../../x',
    'loot/./../x',
    'loot/%2e%2e/x',
    'loot\\..\\x',
    'loot/..\u0000/x',
    'loot/\u0000',
    'lootx',
    'LOOT/x',
    'loot/a\nb',
    '',
    '.',
    'loot/' + 'a/'.repeat(2000),
    'loot/' + 'a'.repeat(5000),
  ];
  for (const path of outside) {
    for (const name of ['write', 'read', 'remove']) {
      const answer = await target.call('burglar', name, { path, text: 'x' });
      const strange = path === 'loot/%2e%2e/x' || path.startsWith('loot\\');
      if (strange) t.ok(answer.status < 500, 'at most a name like any other');
      else t.ok([400, 403].includes(answer.status), `${name} ${JSON.stringify(path).slice(0, 60)}`);
    }
  }
  const files = await readdir(host.dataPath, { recursive: true });
  t.notOk(
    files.some((file) => /(^|\/)(loot|secret|x)$/.test(file)),
    'no file has a name of the guest',
  );
});

target.attack('the blobs of another plugin', { audit: denial }, async (t) => {
  t.match(await target.call('owner', 'write', { path: 'private/key', text: 'of the owner' }), {
    status: 200,
  });
  for (const path of [
    'private/key',
    '../owner/private/key',
    'loot/../private/key',
    'owner/private/key',
  ]) {
    const answer = await target.call('burglar', 'read', { path });
    t.ok([400, 403, 404].includes(answer.status), path);
    t.notMatch(JSON.stringify(answer.body), /of the owner/);
  }
  // The same name in an area of its own is another blob.
  t.match(await target.call('burglar', 'read', { path: 'loot/key' }), { status: 404 });
  t.match(await target.call('burglar', 'list', { prefix: '' }), { status: 403 });
  t.notMatch(
    JSON.stringify((await target.call('burglar', 'list', { prefix: 'loot/' })).body),
    /key/,
  );
});

target.attack(
  'links and folders where a blob should be, put there from outside',
  { audit: { plugin: 'burglar', capability: 'blob', operation: 'read' } },
  async (t) => {
    await target.call('burglar', 'write', { path: 'loot/a', text: 'its own' });
    await target.call('burglar', 'write', { path: 'loot/b', text: 'its own' });
    const blobs = join(host.dataPath, 'blobs');
    const files: string[] = [];
    for (const name of await readdir(blobs, { recursive: true })) {
      const path = join(blobs, name);
      if ((await stat(path)).isFile()) files.push(path);
    }
    const prize = join(host.dataPath, 'prize');
    await writeFile(prize, 'the prize');
    t.ok(files.length >= 2);
    for (const [i, file] of files.entries()) {
      await rm(file);
      if (i % 2 === 0) await symlink(prize, file);
      else await mkdir(file);
    }
    for (const path of ['loot/a', 'loot/b']) {
      const answer = await target.call('burglar', 'read', { path });
      t.not(answer.status, 200, path);
      t.notMatch(JSON.stringify(answer.body), /the prize/);
    }
    await rm(prize);
  },
);

target.attack(
  'a disk to be filled: by size, by count, by many at once',
  { audit: { plugin: 'burglar', capability: 'blob', code: 'RESOURCE_EXHAUSTED' } },
  async (t) => {
    const size = 200_000;
    const writes = Array.from({ length: 20 }, (_, i) =>
      target.call('burglar', 'write', { path: `loot/big${i}`, size }),
    );
    const statuses = (await Promise.all(writes)).map(({ status }) => status);
    const kept = statuses.filter((status) => status === 200).length;
    t.ok(kept * size <= QUOTA_BYTES, `${kept} of 20 were kept`);
    t.ok(statuses.every((status) => status === 200 || status === 429));
    for (let i = 0; i < 20; i++) await target.call('burglar', 'remove', { path: `loot/big${i}` });
    let count = 0;
    for (let i = 0; i < QUOTA_COUNT + 10; i++) {
      const { status } = await target.call('burglar', 'write', { path: `loot/s${i}`, text: '' });
      if (status === 200) count += 1;
    }
    t.ok(count <= QUOTA_COUNT, `${count} blobs`);
    t.match(await target.call('owner', 'write', { path: 'still', text: 'x' }), { status: 200 });
  },
);

target.aftermath();
