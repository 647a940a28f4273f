/**
 * Points in a collection of zvec (Apache-2.0, https://zvec.org): HNSW for dense vectors, an exact index for
 * sparse ones. Its ids may have few characters, so a point is named there by a hash of its id, which stands
 * in a field. Its writes survive the end of the process at once.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type * as Zvec from '@zvec/zvec';
import type { Form, NewPoint, Payload, Rows, Sparse } from '../store.ts';
import {
  type Near,
  type OpenIndex,
  type PointIndex,
  scoreOf,
  sparseDot,
  type Wanted,
} from './point-index.ts';

/** Candidates of a search in the graph: recall over speed. */
const MIN_EF = 128;
const LINKS = 16;
const EF_CONSTRUCTION = 128;

/** Rejects when the machine cannot load it. */
export async function openZvec(): Promise<OpenIndex> {
  const zvec = await import('@zvec/zvec');
  const { ZVecInitialize, ZVecLogLevel } = zvec;
  ZVecInitialize({ logLevel: ZVecLogLevel.ERROR, queryThreads: 1, optimizeThreads: 1 });
  return (folder, form) => new ZvecIndex(zvec, folder, form);
}

/** A field of zvec is named by letters, digits and _; the names of vectors may have a hyphen. */
const columnOf = (name: string): string => `v_${Buffer.from(name).toString('hex')}`;
const keyOf = (id: string): string => createHash('sha256').update(id).digest('hex').slice(0, 40);

class ZvecIndex implements PointIndex {
  readonly #zvec: typeof Zvec;
  readonly #form: Form;
  readonly #collection: Zvec.ZVecCollection;

  constructor(zvec: typeof Zvec, folder: string, form: Form) {
    this.#zvec = zvec;
    this.#form = form;
    const path = join(folder, 'points');
    this.#collection = existsSync(path)
      ? zvec.ZVecOpen(path)
      : zvec.ZVecCreateAndOpen(path, schemaOf(zvec, form));
  }

  *entries(): Generator<{ id: string; payload: Payload }> {
    for (const { fields } of this.#collection.iterDocsSync({ outputFields: ['id', 'payload'] })) {
      yield { id: String(fields['id']), payload: JSON.parse(String(fields['payload'])) as Payload };
    }
  }

  upsert(points: readonly NewPoint[], rows: Rows): void {
    const statuses = this.#collection.upsertSync(
      points.map(({ id, payload, sparse }, i) => {
        const vectors: Record<string, Float32Array | Record<number, number>> = {};
        for (const [name, { dimensions }] of Object.entries(this.#form.vectors)) {
          const floats = rows[name] ?? new Float32Array();
          vectors[columnOf(name)] = floats.slice(i * dimensions, (i + 1) * dimensions);
        }
        // Each point has all of them; one that says nothing is empty.
        for (const name of this.#form.sparse) vectors[columnOf(name)] = recordOf(sparse[name]);
        return { id: keyOf(id), vectors, fields: { id, payload: JSON.stringify(payload) } };
      }),
    );
    const failed = statuses.find(({ ok }) => !ok);
    if (failed !== undefined) throw new Error(`zvec: ${failed.code} ${failed.message}`);
  }

  delete(ids: readonly string[]): void {
    const statuses = this.#collection.deleteSync(ids.map(keyOf));
    const failed = statuses.find(({ ok, code }) => !ok && code !== 'ZVEC_NOT_FOUND');
    if (failed !== undefined) throw new Error(`zvec: ${failed.code} ${failed.message}`);
  }

  nearest(wanted: Wanted, count: number): Near[] {
    const { ZVecIndexType } = this.#zvec;
    const isDense = 'values' in wanted && wanted.values instanceof Float32Array;
    const docs = this.#collection.querySync({
      fieldName: columnOf(wanted.name),
      vector: isDense ? wanted.values : recordOf(wanted as Sparse),
      topk: count,
      outputFields: ['id'],
      ...(isDense && {
        params: { indexType: ZVecIndexType.HNSW, ef: Math.max(MIN_EF, Math.ceil(count * 1.5)) },
      }),
    });
    const distance = this.#form.vectors[wanted.name]?.distance ?? 'dot';
    return docs.map(({ fields, score }) => ({
      id: String(fields['id']),
      score: scoring(distance, score),
    }));
  }

  scores(wanted: Wanted, ids: readonly string[]): Near[] {
    const column = columnOf(wanted.name);
    const distance = this.#form.vectors[wanted.name]?.distance;
    const docs = this.#fetch(ids);
    return ids.map((id) => {
      const held = docs[keyOf(id)]?.vectors[column];
      const score =
        distance === undefined
          ? sparseDot(wanted as Sparse, sparseOf(held as Record<string, number>))
          : scoreOf(distance, wanted.values as Float32Array, Float32Array.from(held as number[]));
      return { id, score };
    });
  }

  vectors(ids: readonly string[]): Rows {
    const docs = this.#fetch(ids);
    const rows: { [name: string]: Float32Array } = {};
    for (const [name, { dimensions }] of Object.entries(this.#form.vectors)) {
      const floats = new Float32Array(dimensions * ids.length);
      for (const [i, id] of ids.entries()) {
        floats.set((docs[keyOf(id)]?.vectors[columnOf(name)] ?? []) as number[], i * dimensions);
      }
      rows[name] = floats;
    }
    return rows;
  }

  #fetch(ids: readonly string[]): Record<string, Zvec.ZVecDoc> {
    if (ids.length === 0) return {};
    return this.#collection.fetchSync({
      ids: ids.map(keyOf),
      outputFields: [],
      includeVector: true,
    });
  }

  async tend(): Promise<void> {
    await this.#collection.optimize({ concurrency: 1 });
  }

  close(): void {
    this.#collection.closeSync();
  }
}

function schemaOf(zvec: typeof Zvec, form: Form): Zvec.ZVecCollectionSchema {
  const { ZVecCollectionSchema, ZVecDataType, ZVecIndexType, ZVecMetricType } = zvec;
  const metrics = {
    cosine: ZVecMetricType.COSINE,
    dot: ZVecMetricType.IP,
    euclidean: ZVecMetricType.L2,
  };
  const dense = Object.entries(form.vectors).map(([name, { dimensions, distance }]) => ({
    name: columnOf(name),
    dataType: ZVecDataType.VECTOR_FP32,
    dimension: dimensions,
    indexParams: {
      indexType: ZVecIndexType.HNSW,
      metricType: metrics[distance],
      m: LINKS,
      efConstruction: EF_CONSTRUCTION,
    },
  }));
  const sparse = form.sparse.map((name) => ({
    name: columnOf(name),
    dataType: ZVecDataType.SPARSE_VECTOR_FP32,
    indexParams: { indexType: ZVecIndexType.FLAT, metricType: ZVecMetricType.IP },
  }));
  return new ZVecCollectionSchema({
    name: 'points',
    vectors: [...dense, ...sparse],
    fields: [
      { name: 'id', dataType: ZVecDataType.STRING },
      { name: 'payload', dataType: ZVecDataType.STRING },
    ],
  });
}

/** zvec tells distances of cosine (1 − cos) and of L2 (squared). */
function scoring(distance: string, told: number): number {
  if (distance === 'dot') return told;
  return distance === 'cosine' ? 1 - told : -Math.sqrt(Math.max(0, told));
}

function recordOf(sparse: Sparse | undefined): Record<number, number> {
  const record: Record<number, number> = {};
  for (const [i, index] of (sparse?.indices ?? []).entries())
    record[index] = sparse?.values[i] ?? 0;
  return record;
}

/** Keys of objects that are whole numbers rise, up to 2^32 - 2; the last one may stand anywhere. */
function sparseOf(record: Record<string, number> = {}): Sparse {
  const entries = Object.entries(record).map(([index, value]) => [Number(index), value] as const);
  entries.sort(([a], [b]) => a - b);
  return { indices: entries.map(([index]) => index), values: entries.map(([, value]) => value) };
}
