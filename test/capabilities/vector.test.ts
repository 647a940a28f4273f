/** The embedded stores keep the contract, survive what ends them, and hold their bounds. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { createVectorDriver } from '../../capabilities/vector/driver.ts';
import { openEmbeddedStore } from '../../capabilities/vector/embedded/store.ts';
import { base64, invoking, vectorContract } from './vector-contract.ts';

t.setTimeout(180_000);

let last = 0;
const fresh = () => `tester-${(last += 1)}`;

function place(
  t: Test,
  engine: 'auto' | 'exact',
  maxPoints = 100_000,
  folder = mkdtempSync(join(tmpdir(), 'noa-vectors-')),
) {
  const warnings: string[] = [];
  const store = openEmbeddedStore({
    folder,
    maxPoints,
    engine,
    warn: (text) => warnings.push(text),
  });
  const driver = createVectorDriver(store);
  t.teardown(async () => {
    await driver.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { store, driver, invoke: invoking(driver), warnings, folder };
}

const form = { vectors: { default: { dimensions: 8, distance: 'cosine' } } };
const rowOf = (n: number) => Array.from({ length: 8 }, (_, i) => Math.sin(n * (i + 1)) + 0.01);

for (const engine of ['auto', 'exact'] as const) {
  t.test(engine === 'auto' ? 'zvec' : 'the exact scan', async (t) => {
    const { invoke, warnings } = place(t, engine);
    vectorContract(t, invoke, fresh);
    t.same(warnings, []);
  });

  t.test(
    `no acknowledged write is lost by kill -9, and callers notice a delay alone (${engine})`,
    async (t) => {
      const { invoke, store, driver, folder, warnings } = place(t, engine);
      await invoke('manage', { action: 'create', collection: 'docs', ...form });
      const acknowledged = new Set<string>();
      let failures = 0;
      const writer = async (from: number) => {
        for (let i = from; i < from + 40; i += 1) {
          const points = Array.from({ length: 10 }, (_, k) => ({ id: `p${i * 10 + k}` }));
          const rows = points.map((_, k) => rowOf(i * 10 + k));
          await invoke('upsert', {
            collection: 'docs',
            points,
            vectors: [{ base64: base64(...rows) }],
          }).then(
            () => points.forEach(({ id }) => acknowledged.add(id)),
            () => (failures += 1),
          );
        }
      };
      const killer = (async () => {
        for (let kills = 0; kills < 2; kills += 1) {
          await new Promise((resolve) => setTimeout(resolve, 150));
          if (store.pid !== undefined) process.kill(store.pid, 'SIGKILL');
        }
      })();
      await Promise.all([writer(0), writer(100), writer(200), killer]);
      t.equal(failures, 0, 'nobody was refused');
      t.ok(warnings.length > 0, 'the log tells of it');
      const count = async (from = invoke) => {
        const { collections } = (await from('manage', { action: 'list' })) as {
          collections: { points: number }[];
        };
        return collections[0]?.points;
      };
      t.equal(await count(), acknowledged.size);
      await driver.close();
      const again = place(t, engine, 100_000, folder);
      t.equal(await count(again.invoke), acknowledged.size, 'also after another start');
      const vector = { base64: base64(rowOf(7)) };
      const found = (await again.invoke('search', { collection: 'docs', limit: 1, vector })) as {
        hits: { id: string }[];
      };
      t.equal(found.hits[0]?.id, 'p7');
    },
  );
}

t.test('a removed plugin leaves nothing, and others keep theirs', async (t) => {
  const { invoke, driver } = place(t, 'auto');
  for (const plugin of ['one', 'two']) {
    await invoke('manage', { action: 'create', collection: 'docs', ...form }, plugin);
  }
  await driver.drop?.('one');
  await driver.drop?.('one');
  t.same(await invoke('manage', { action: 'list' }, 'one'), { collections: [] });
  t.match(await invoke('manage', { action: 'list' }, 'two'), {
    collections: [{ collection: 'docs' }],
  });
});

t.test('a plugin has so many points and no more', async (t) => {
  const { invoke } = place(t, 'auto', 5);
  await invoke('manage', { action: 'create', collection: 'docs', ...form });
  const write = (...ids: number[]) =>
    invoke('upsert', {
      collection: 'docs',
      points: ids.map((id) => ({ id: String(id) })),
      vectors: [{ base64: base64(...ids.map(rowOf)) }],
    });
  await write(1, 2, 3, 4);
  await t.rejects(write(5, 6), { code: 'RESOURCE_EXHAUSTED', message: /vector_max_points is 5/ });
  await write(1, 2, 3, 4);
  await write(5);
});

t.test('filtered searches find what they should among many, tended or not', async (t) => {
  const { invoke } = place(t, 'auto');
  await invoke('manage', { action: 'create', collection: 'docs', ...form });
  const total = 6000;
  for (let at = 0; at < total; at += 1000) {
    const points = Array.from({ length: 1000 }, (_, k) => ({
      id: `p${at + k}`,
      payload: { n: (at + k) % 10 },
    }));
    const rows = points.map((_, k) => rowOf(at + k));
    await invoke('upsert', { collection: 'docs', points, vectors: [{ base64: base64(...rows) }] });
  }
  const cosine = (a: number[], b: number[]) => {
    const dot = (x: number[], y: number[]) => x.reduce((sum, v, i) => sum + v * (y[i] ?? 0), 0);
    return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  };
  const recall = async () => {
    let hit = 0;
    for (let q = 0; q < 20; q += 1) {
      const query = rowOf(q * 31 + 0.5);
      const truth = Array.from({ length: total }, (_, n) => n)
        .filter((n) => n % 10 === 3)
        .toSorted((a, b) => cosine(query, rowOf(b)) - cosine(query, rowOf(a)))
        .slice(0, 10);
      const filter = { field: 'n', eq: 3 };
      const vector = { base64: base64(query) };
      const found = (await invoke('search', { collection: 'docs', limit: 10, vector, filter })) as {
        hits: { id: string }[];
      };
      hit += found.hits.filter(({ id }) => truth.includes(Number(id.slice(1)))).length;
    }
    return hit / 200;
  };
  t.ok((await recall()) >= 0.99, 'as it was written');
  await new Promise((resolve) => setTimeout(resolve, 3000)); // the index is tended after a second of quiet
  const tended = await recall();
  t.ok(tended >= 0.99, `${tended}`);
});

t.test('a filter that takes long is ended, and others are answered', async (t) => {
  const { invoke } = place(t, 'exact');
  await invoke('manage', { action: 'create', collection: 'docs', ...form });
  const text = Array.from({ length: 8500 }, (_, i) => `w${i}`).join(' ');
  for (let at = 0; at < 300; at += 100) {
    const ids = Array.from({ length: 100 }, (_, i) => at + i);
    await invoke('upsert', {
      collection: 'docs',
      points: ids.map((id) => ({ id: String(id), payload: { text } })),
      vectors: [{ base64: base64(...ids.map(rowOf)) }],
    });
  }
  const or = Array.from({ length: 63 }, (_, i) => ({ field: 'text', text: `none${i}` }));
  const startedAt = performance.now();
  const asked = invoke('scroll', { collection: 'docs', limit: 1, filter: { or } });
  const other = invoke('manage', { action: 'list' }, 'another');
  await t.rejects(asked, { code: 'RESOURCE_EXHAUSTED', message: /^filter: takes over 3 s/ });
  t.same(await other, { collections: [] });
  t.ok(performance.now() - startedAt < 15_000);
});

t.test('a test that there is not is refused, whatever objects inherit', async (t) => {
  const { invoke } = place(t, 'exact');
  await invoke('manage', { action: 'create', collection: 'docs', ...form });
  for (const name of ['constructor', 'toString', 'hasOwnProperty']) {
    const filter = { and: [{ field: 'n', [name]: 1 }] };
    const asked = invoke('scroll', { collection: 'docs', limit: 1, filter });
    await t.rejects(asked, { code: 'INVALID_ARGUMENT', message: /has one test of eq/ }, name);
  }
});
