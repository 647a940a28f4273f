/**
 * Files: a plugin with an area for blobs of its own, that wants the files of the host or of another
 * plugin, by path, by link, by name, and at last by filling the disk.
 */
import { mkdir, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { assemble, built, packed, Target } from './target.ts';

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

/** What WASI would open: it answers the error numbers that it got, joined bit by bit. */
const tourist = await packed(
  { name: 'tourist', exports: { open: {}, look: {}, speak: {}, leave: {} } },
  assemble(`(module
    (import "wasi_snapshot_preview1" "path_open"
      (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_symlink"
      (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
    (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
    (import "extism:host/env" "output_set" (func $output (param i64 i64)))
    (memory 1)
    (data (i32.const 0) "/etc/passwd")
    (data (i32.const 128) "\\00\\00\\00\\00\\0b\\00\\00\\00")
    ;; "1" when every attempt was refused, "0" when one was not.
    (func $tell (param $refused i32) (result i32) (local $b i64)
      (local.set $b (call $alloc (i64.const 1)))
      (call $store (local.get $b) (i32.add (i32.const 48) (local.get $refused)))
      (call $output (local.get $b) (i64.const 1)) (i32.const 0))
    (func $try (param $fd i32) (result i32)
      (i32.and
        (i32.ne (i32.const 0) (call $open (local.get $fd) (i32.const 1) (i32.const 0) (i32.const 11)
          (i32.const 0) (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 64)))
        (i32.ne (i32.const 0) (call $symlink (i32.const 0) (i32.const 11) (local.get $fd)
          (i32.const 0) (i32.const 11)))))
    (func (export "open") (result i32)
      (call $tell (i32.and (call $try (i32.const 0)) (i32.and (call $try (i32.const 3)) (call $try (i32.const -100))))))
    (func (export "look") (result i32)
      (drop (call $environ (i32.const 200) (i32.const 204)))
      (call $tell (i32.and
        (i32.and (i32.ne (i32.const 0) (call $prestat (i32.const 3) (i32.const 64)))
          (i32.ne (i32.const 0) (call $read (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 64))))
        (i32.eqz (i32.load (i32.const 200))))))
    (func (export "leave") (result i32) (call $exit (i32.const 0)) (i32.const 0))
    (func (export "speak") (result i32)
      (drop (call $write (i32.const 1) (i32.const 128) (i32.const 1) (i32.const 64)))
      (call $tell (i32.ne (i32.const 0) (call $write (i32.const 4) (i32.const 128) (i32.const 1) (i32.const 64))))))`),
);
const target = await Target.start(t, [burglar, owner, tourist], {
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
  const same = { path: 'loot/key', text: 'of the owner' };
  t.match(await target.call('owner', 'write', same), { status: 200 });
  t.match(await target.call('burglar', 'read', { path: 'loot/key' }), { status: 404 });
  t.match(await target.call('burglar', 'list', { prefix: '' }), { status: 403 });
  t.notMatch(
    JSON.stringify((await target.call('burglar', 'list', { prefix: 'loot/' })).body),
    /key/,
  );
});

target.attack(
  'links and folders where a blob should be, put there from outside',
  { audit: { plugin: 'burglar', operation: 'read', outcome: 'failed' } },
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
  'a module for WASI that opens files, writes to descriptors of the host and ends the process',
  { audit: { kind: 'plugin.failure', plugin: 'tourist', operation: 'leave' } },
  async (t) => {
    for (const name of ['open', 'look', 'speak']) {
      const { body } = await target.call('tourist', name);
      t.match(body, { text: '1' }, name);
    }
    const { body } = await host.get('/v1/plugins/tourist/logs?limit=10');
    t.match(JSON.stringify(body), '/etc/passwd', 'standard output is the log of the plugin');
    t.notMatch(host.output, /^\/etc\/passwd/m);
    t.match(await target.call('tourist', 'leave'), { status: 500, body: { code: 'PLUGIN_TRAP' } });
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
