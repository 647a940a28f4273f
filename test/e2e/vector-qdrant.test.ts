/** Vectors of a whole host in Qdrant: a plugin in the sandbox notices nothing of where they are. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { qdrantServer } from '../capabilities/qdrant-server.ts';
import { bundleOf, eventually, RunningHost } from './running-host.ts';

t.setTimeout(120_000);
const folder = mkdtempSync(join(tmpdir(), 'noa-qdrant-'));
const qdrant = await qdrantServer(folder, 'a key');
const host = await RunningHost.start({
  env: { NOA_QDRANT__URL: qdrant.url, NOA_QDRANT__API_KEY: 'a key' },
});
t.teardown(async () => {
  await host.dispose();
  await qdrant.stop();
  rmSync(folder, { recursive: true, force: true });
});
await host.install(await bundleOf('test/fixtures/plugins/librarian'));
await host.approve('librarian');
const ask = (method: string, ...args: unknown[]) => host.call('librarian', 'ask', { method, args });
const find = () => ask('search', 'docs', { vector: [1, 0], limit: 1 });

t.test('points are kept and found', async (t) => {
  await eventually('it serves', async () => (await ask('list')).status === 200);
  const form = { vectors: { default: { dimensions: 2, distance: 'cosine' } } };
  t.match(await ask('create', 'docs', form), { status: 200 });
  const points = [
    { id: 'a', payload: { n: 1 }, vector: [1, 0.1] },
    { id: 'b', payload: { n: 2 }, vector: [0.1, 1] },
  ];
  t.match(await ask('upsert', 'docs', points), { status: 200 });
  t.match(await find(), { body: { hits: [{ id: 'a', payload: { n: 1 } }] } });
  t.match(await host.get('/ready'), { body: { checks: { vector: { status: 'ok' } } } });
});

t.test('a Qdrant that fails makes the host not ready, and is told of', async (t) => {
  qdrant.faults.push(...Array.from({ length: 50 }, () => 503));
  await eventually('it is not ready', async () => (await host.get('/ready')).status === 503);
  t.match(await find(), { status: 503, body: { code: 'UNAVAILABLE' } });
  qdrant.faults.splice(0, 99);
  await eventually('it is ready', async () => (await host.get('/ready')).status === 200);
  t.match(await find(), { body: { hits: [{ id: 'a' }] } });
});

t.test('a plugin that is removed with its data leaves no collections', async (t) => {
  t.equal((await host.request('DELETE', '/v1/plugins/librarian')).status, 204);
  await eventually('they are deleted', () =>
    Promise.resolve(qdrant.asked.includes('delete_collection')),
  );
  t.pass();
});
