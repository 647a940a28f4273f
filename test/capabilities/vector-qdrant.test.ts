/**
 * The store in Qdrant keeps the contract: against a server that judges each request by Qdrant's own types, and
 * against a real one where QDRANT_URL names it.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { createVectorDriver } from '../../capabilities/vector/driver.ts';
import { tokenOf, uuidOf } from '../../capabilities/vector/qdrant/points.ts';
import { openQdrantStore } from '../../capabilities/vector/qdrant/store.ts';
import { qdrantServer } from './qdrant-server.ts';
import { base64, invoking, vectorContract } from './vector-contract.ts';

t.setTimeout(180_000);

const form = { vectors: { default: { dimensions: 2, distance: 'cosine' } } };
const one = { points: [{ id: 'a' }], vectors: [{ base64: base64([1, 0]) }] };
const look = { collection: 'docs', limit: 1, vector: { base64: base64([1, 0]) } };

let last = 0;
const fresh = () => `tester-${process.pid}-${(last += 1)}`;

async function place(t: Test, { apiKey, timeoutMs }: { apiKey?: string; timeoutMs?: number } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'noa-qdrant-'));
  const server = await qdrantServer(folder, apiKey);
  const driver = createVectorDriver(openQdrantStore({ url: server.url, apiKey, timeoutMs }));
  t.teardown(async () => {
    await driver.close();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  return { server, driver, invoke: invoking(driver) };
}

t.test('the contract', async (t) => {
  const { invoke } = await place(t);
  vectorContract(t, invoke, fresh);
});

const url = process.env['QDRANT_URL'];
t.test(
  'the contract, on a real Qdrant',
  { skip: url === undefined && 'QDRANT_URL names none' },
  async (t) => {
    const apiKey = process.env['QDRANT_API_KEY'];
    const driver = createVectorDriver(openQdrantStore({ url: url ?? '', apiKey }));
    const used = new Set<string>();
    const named = () => {
      const plugin = fresh();
      used.add(plugin);
      return plugin;
    };
    t.teardown(async () => {
      for (const plugin of used) await driver.drop?.(plugin);
      await driver.close();
    });
    vectorContract(t, invoking(driver), named);
  },
);

t.test('what passes is asked for again, and callers notice a delay alone', async (t) => {
  const { server, invoke } = await place(t);
  await invoke('manage', { action: 'create', collection: 'docs', ...form });
  for (const fault of [503, 'reset', 429, 500] as const) {
    server.faults.push(fault);
    t.same(await invoke('upsert', { collection: 'docs', ...one }), { upserted: 1 }, `${fault}`);
  }
  server.faults.push(502, 'reset');
  t.match(await invoke('search', look), { hits: [{ id: 'a' }] });
  t.match(await invoke('manage', { action: 'list' }), { collections: [{ points: 1 }] });
});

t.test('a server that stays away is told of, in its time and without its address', async (t) => {
  const { server, invoke, driver } = await place(t, { timeoutMs: 1500 });
  await invoke('manage', { action: 'create', collection: 'docs', ...form });
  await invoke('search', look);
  server.faults.push(...Array.from({ length: 20 }, () => 503));
  const failed = { code: 'UNAVAILABLE', message: /Service error; try again/ };
  await t.rejects(invoke('search', look), failed);
  t.ok(server.faults.length >= 12, 'not for ever');
  server.faults.splice(0, 99, 'silence', 'silence', 'silence');
  const started = performance.now();
  await t.rejects(invoke('search', look), { code: 'UNAVAILABLE', message: /does not answer/ });
  t.ok(performance.now() - started < 4000);
  server.faults.splice(0, 99);
  await driver.check();
  await server.stop();
  const error: unknown = await invoke('search', look).catch((reason: unknown) => reason);
  t.notMatch(String(error), /127\.0\.0\.1/);
  await t.rejects(driver.check(), { code: 'UNAVAILABLE' });
});

t.test('the key is shown, and a wrong one is no fault of the caller', async (t) => {
  const { server, invoke, driver } = await place(t, { apiKey: 'the key of the test' });
  await driver.check();
  t.same(await invoke('manage', { action: 'create', collection: 'docs', ...form }), {
    created: true,
  });
  const wrong = createVectorDriver(openQdrantStore({ url: server.url, apiKey: 'another' }));
  t.teardown(() => wrong.close());
  const refused = { code: 'UNAVAILABLE', message: /refuses the key/ };
  await t.rejects(wrong.check(), refused);
  await t.rejects(invoking(wrong)('search', look), refused);
});

t.test('two hosts share collections: an alias that one moves the other soon follows', async (t) => {
  const { server, invoke } = await place(t);
  const other = createVectorDriver(openQdrantStore({ url: `${server.url}/` }));
  t.teardown(() => other.close());
  const wide = { vectors: { default: { dimensions: 3, distance: 'euclidean' } } };
  await invoke('manage', { action: 'create', collection: 'docs-1', ...form });
  await invoke('manage', { action: 'create', collection: 'docs-2', ...wide });
  await invoke('upsert', { collection: 'docs-1', ...one });
  await invoke('manage', { action: 'alias', alias: 'docs', collection: 'docs-1' });
  t.match(await invoking(other)('search', look), { hits: [{ id: 'a' }] });
  await invoke('manage', { action: 'alias', alias: 'docs', collection: 'docs-2' });
  const vectors = [{ base64: base64([0, 0, 0]) }];
  const written = invoking(other)('upsert', { collection: 'docs', points: [{ id: 'b' }], vectors });
  t.same(
    await written,
    { upserted: 1 },
    'at once: what a form of before refuses is judged by that of now',
  );
  const making = ['docs-3', 'docs-3'].map((collection) =>
    invoking(other)('manage', { action: 'create', collection, ...form }),
  );
  const made = await Promise.all([
    ...making,
    invoke('manage', { action: 'create', collection: 'docs-3', ...form }),
  ]);
  t.equal(made.filter((each) => (each as { created: boolean }).created).length, 1, 'one made it');
});

t.test('many and large points go over in several requests', async (t) => {
  const { server, invoke } = await place(t);
  const collection = 'wide';
  const vectors = { default: { dimensions: 512, distance: 'dot' } };
  await invoke('manage', { action: 'create', collection, vectors });
  const points = Array.from({ length: 300 }, (_, n) => ({
    id: `p${n}`,
    payload: { n, big: 2 ** 60 },
  }));
  const rows = points.map((_, n) => Array.from({ length: 512 }, (_, i) => (i === n ? 1 : 0.001)));
  await invoke('upsert', { collection, points, vectors: [{ base64: base64(...rows) }] });
  t.equal(server.asked.filter((name) => name === 'upsert_points').length, 3);
  const vector = { base64: base64(rows[299] ?? []) };
  const found = await invoke('search', { collection, limit: 2, vector, withVectors: true });
  const { hits } = found as { hits: { id: string; payload: unknown }[] };
  t.same(hits[0]?.payload, { n: 299, big: 2 ** 60 }, 'numbers are what they were');
});

t.test('a removed plugin leaves nothing, and others keep theirs', async (t) => {
  const { invoke, driver } = await place(t);
  for (const plugin of ['one', 'one-more']) {
    await invoke('manage', { action: 'create', collection: 'docs', ...form }, plugin);
    await invoke('manage', { action: 'alias', alias: 'now', collection: 'docs' }, plugin);
  }
  await driver.drop?.('one');
  await driver.drop?.('one');
  t.same(await invoke('manage', { action: 'list' }, 'one'), { collections: [] });
  t.match(await invoke('manage', { action: 'list' }, 'one-more'), {
    collections: [{ collection: 'docs', aliases: ['now'] }],
  });
});

t.test('the server of these tests refuses what Qdrant would', async (t) => {
  const { server, invoke } = await place(t);
  await invoke('manage', { action: 'create', collection: 'docs', ...form }, 'strict');
  const send = async (path: string, body: object, method = 'POST') => {
    const headers = { 'content-type': 'application/json' };
    const target = `${server.url}/collections/noa.strict.docs${path}`;
    const answer = await fetch(target, { method, headers, body: JSON.stringify(body) });
    return [answer.status, await answer.text()];
  };
  const query = { query: [1, 0], using: 'default' };
  t.match(await send('/points/query', query), [200]);
  t.match(await send('/points/query', { ...query, limitt: 1 }), [400, /Format error/]);
  t.match(await send('/points/query?waiting=true', query), [400, /waiting is not known/]);
  t.match(await send('/points/query', { ...query, query: [1] }), [400, /expected dim: 2/]);
  const filter = { must: [{ key: 'other', match: { value: 'x' } }] };
  t.match(await send('/points/query', { ...query, filter }), [400, /Index required/]);
  const point = { id: 'a', vector: { default: [1, 0] }, payload: {} };
  t.match(await send('/points', { points: [point] }, 'PUT'), [400, /parse UUID/]);
});

t.test('ids are UUIDs of version 5, and tokens are of one field and value alone', async (t) => {
  t.match(uuidOf('a'), /^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  t.equal(uuidOf('a'), uuidOf('a'), 'for ever');
  const tokens = [
    tokenOf('a'),
    tokenOf('a', 'b'),
    tokenOf('a","b'),
    tokenOf('a', 1),
    tokenOf('a', '1'),
    tokenOf('a', true),
    tokenOf('a', 'true'),
    tokenOf('a'.repeat(200)),
    tokenOf('a'.repeat(200), 'b'),
    tokenOf('a'.repeat(201)),
  ];
  t.equal(new Set(tokens).size, tokens.length);
});
