/**
 * How fast is the embedded store, and what does it miss? 100,000 points of 384 dimensions in clusters of uneven
 * size: the ten nearest by the store, in its own process, against an exact scan of one array in this one; the
 * same with filters that a half, a tenth and a thousandth of the points pass. Three minutes; Linux, two cores.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Filter } from '../../capabilities/vector/filter.ts';
import { openEmbeddedStore } from '../../capabilities/vector/embedded/store.ts';

const POINTS = 100_000;
const D = 384;
const QUERIES = 200;
const CLUSTERS = 256;
/** Directions in which the points of one cluster spread. */
const SPREAD = 24;
const TOP = 10;
const BATCH = 1000;
const MS = 3000;

const print = (text: string): void => void process.stdout.write(`${text}\n`);

let seed = 12_345;
/** The same numbers in each run: a linear congruence of 32 bits, its upper half. */
function random(): number {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  const high = seed >>> 16;
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
  return (high * 65_536 + (seed >>> 16)) / 2 ** 32;
}

function normal(): number {
  return Math.sqrt(-2 * Math.log(random() + 1e-12)) * Math.cos(2 * Math.PI * random());
}

const normals = (count: number): Float32Array => Float32Array.from({ length: count }, normal);
const clusters = Array.from({ length: CLUSTERS }, () => ({
  middle: normals(D),
  ways: normals(SPREAD * D),
}));

/** Unit vectors, more of them near the first clusters. */
function draw(count: number): Float32Array {
  const rows = new Float32Array(count * D);
  for (let i = 0; i < count; i += 1) {
    const cluster = clusters[Math.floor(CLUSTERS * random() ** 2)];
    if (cluster === undefined) throw new RangeError('no such cluster');
    const row = rows.subarray(i * D, (i + 1) * D);
    for (let d = 0; d < D; d += 1) row[d] = (cluster.middle[d] ?? 0) + 0.15 * normal();
    for (let s = 0; s < SPREAD; s += 1) {
      const far = 0.22 * normal();
      for (let d = 0; d < D; d += 1) row[d] = (row[d] ?? 0) + far * (cluster.ways[s * D + d] ?? 0);
    }
    const length = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0));
    for (let d = 0; d < D; d += 1) row[d] = (row[d] ?? 0) / length;
  }
  return rows;
}

/** The ten nearest by looking at each: four sums side by side, which V8 makes fast. */
function scan(rows: Float32Array, query: Float32Array, passes: (i: number) => boolean): number[] {
  const best = Array.from({ length: TOP }, () => ({ i: -1, score: -Infinity }));
  for (let i = 0; i < POINTS; i += 1) {
    if (!passes(i)) continue;
    let a = 0;
    let b = 0;
    let c = 0;
    let e = 0;
    for (let d = 0, at = i * D; d < D; d += 4, at += 4) {
      a += (rows[at] ?? 0) * (query[d] ?? 0);
      b += (rows[at + 1] ?? 0) * (query[d + 1] ?? 0);
      c += (rows[at + 2] ?? 0) * (query[d + 2] ?? 0);
      e += (rows[at + 3] ?? 0) * (query[d + 3] ?? 0);
    }
    const score = a + b + c + e;
    if (score <= (best.at(-1)?.score ?? 0)) continue;
    best.pop();
    const place = best.findIndex((each) => each.score < score);
    best.splice(place < 0 ? best.length : place, 0, { i, score });
  }
  return best.map(({ i }) => i);
}

/** Searches a second, and the middle and the slow ones in ms. */
async function pace(search: (query: Float32Array) => unknown, clients = 1) {
  const times: number[] = [];
  const run = async (from: number): Promise<void> => {
    for (let q = from, end = performance.now() + MS; performance.now() < end; q += 1) {
      const started = performance.now();
      await search(queryOf(q % QUERIES));
      times.push(performance.now() - started);
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: clients }, (_, i) => run(i * 7)));
  const rate = (times.length * 1000) / (performance.now() - started);
  times.sort((x, y) => x - y);
  const p = (part: number): string => (times[Math.floor(times.length * part)] ?? 0).toFixed(2);
  return { rate, text: `${rate.toFixed(0)} a second, p50 ${p(0.5)} ms, p99 ${p(0.99)} ms` };
}

/** CPU seconds of a process (proc(5), fields 14 and 15 of stat). */
async function cpuOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const [user = 0, system = 0] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11)
    .map(Number);
  return (user + system) / 100;
}

/** Until the process has had nothing to do for three seconds. */
async function idle(pid: number): Promise<number> {
  for (let before = -1; ;) {
    const now = await cpuOf(pid);
    if (now - before < 0.1) return now;
    before = now;
    await sleep(3000);
  }
}

const rows = draw(POINTS);
const queries = draw(QUERIES);
const queryOf = (q: number): Float32Array => queries.subarray(q * D, (q + 1) * D);

const folder = await mkdtemp(join(tmpdir(), 'noa-bench-vectors-'));
const store = openEmbeddedStore({ folder, maxPoints: POINTS, warn: print });
await store.create('bench', 'docs', {
  vectors: { default: { dimensions: D, distance: 'cosine' } },
  sparse: [],
});
const started = performance.now();
for (let at = 0; at < POINTS; at += BATCH) {
  const points = Array.from({ length: BATCH }, (_, k) => ({
    id: String(at + k),
    payload: { n: at + k, half: (at + k) % 2, tenth: (at + k) % 10, rare: (at + k) % 1000 },
    sparse: {},
  }));
  await store.upsert('bench', 'docs', points, { default: rows.subarray(at * D, (at + BATCH) * D) });
}
const seconds = (performance.now() - started) / 1000;
print(`written: ${(POINTS / seconds).toFixed(0)} points a second`);
const pid = store.pid ?? 0;
const ask = async (query: Float32Array, filter?: Filter): Promise<number[]> => {
  const { points } = await store.search('bench', 'docs', {
    vector: { name: 'default', values: query },
    filter,
    limit: TOP,
    offset: 0,
    withVectors: false,
  });
  return points.map(({ id }) => Number(id));
};
const fresh = await pace((query) => ask(query));
print(`  before the index is tended: ${fresh.text}`);
print(`tended: ${(await idle(pid)).toFixed(0)} CPU seconds in all, with the writes\n`);

const cases: [name: string, filter: Filter | undefined, passes: (i: number) => boolean][] = [
  ['all', undefined, () => true],
  ['a half', { field: 'half', eq: 1 }, (i) => i % 2 === 1],
  ['a tenth', { field: 'tenth', eq: 3 }, (i) => i % 10 === 3],
  ['a range, an eighth', { field: 'n', gte: 20_000, lt: 32_500 }, (i) => i >= 20_000 && i < 32_500],
  ['a thousandth', { field: 'rare', eq: 7 }, (i) => i % 1000 === 7],
];
const floor = await pace((query) => scan(rows, query, () => true));
print(`exact scan of all: ${floor.text}`);
for (const [name, filter, passes] of cases) {
  let found = 0;
  for (let q = 0; q < QUERIES; q += 1) {
    const truth = new Set(scan(rows, queryOf(q), passes));
    found += (await ask(queryOf(q), filter)).filter((i) => truth.has(i)).length;
  }
  const ours = await pace((query) => ask(query, filter));
  print(`${name}: ${ours.text}`);
  print(`  recall@10 ${(found / QUERIES / TOP).toFixed(4)}`);
  print(`  the store : exact scan of all = ${(ours.rate / floor.rate).toFixed(1)}`);
}
const many = await pace((query) => ask(query), 16);
print(`16 at a time: ${many.text}`);
print(`  the store : exact scan of all = ${(many.rate / floor.rate).toFixed(1)}`);
await store.close();
await rm(folder, { recursive: true, force: true });
