/** What the Qdrant for tests answers, from a store of ours; requests have been judged by Qdrant's types. */
import { NoaError } from '@noa/sdk/host';
import type { Schemas } from '@qdrant/js-client-rest';
import type {
  Form,
  NewPoint,
  Payload,
  Query,
  Sparse,
  VectorStore,
} from '../../capabilities/vector/store.ts';
import { assertIndexed, passes } from './qdrant-filter.ts';

const SPACE = 'qdrant';
/** Of one collection. */
const MAX_POINTS = 20_000;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const DISTANCES = { Cosine: 'cosine', Dot: 'dot', Euclid: 'euclidean' } as const;

/** By the name of a collection and the body of a request. */
type Answering = (name: string, body: never) => Promise<unknown>;

export function answering(store: VectorStore): { readonly [operation: string]: Answering } {
  const indexes = new Map<string, Set<string>>();

  const all = async (name: string, filter: Schemas['Filter'] | undefined) => {
    await judge(name, filter);
    const found: { id: string; payload: Payload }[] = [];
    let after: string | undefined;
    do {
      const page = await store.scroll(SPACE, name, { limit: 1000, after, withVectors: false });
      found.push(...page.points);
      after = page.next ?? undefined;
    } while (after !== undefined);
    return found.filter(({ payload }) => filter === undefined || passes(filter, payload));
  };
  const judge = async (name: string, filter: Schemas['Filter'] | undefined) => {
    const { collection } = await store.describe(SPACE, name);
    if (filter !== undefined) assertIndexed(filter, indexes.get(collection) ?? new Set());
  };
  /** The vectors that are asked for, of points by their ids. */
  const withVectors = async (name: string, wanted: unknown, points: readonly { id: string }[]) => {
    if (!Array.isArray(wanted)) return points.map(() => undefined);
    const { vectors: form } = await store.describe(SPACE, name);
    const rows = new Map<string, { [name: string]: number[] }>();
    let after: string | undefined;
    do {
      const page = await store.scroll(SPACE, name, { limit: 1000, after, withVectors: true });
      for (const [i, { id }] of page.points.entries()) {
        const named = Object.entries(form).map(([vector, { dimensions }]) => [
          vector,
          Array.from(page.vectors?.[vector]?.subarray(i * dimensions, (i + 1) * dimensions) ?? []),
        ]);
        rows.set(id, Object.fromEntries(named.filter(([each]) => wanted.includes(each))) as never);
      }
      after = page.next ?? undefined;
    } while (after !== undefined);
    return points.map(({ id }) => rows.get(id));
  };
  const done = { operation_id: 1, status: 'completed' };

  return {
    async get_collections() {
      const views = await store.list(SPACE);
      return { collections: views.map(({ collection: name }) => ({ name })) };
    },
    async get_collections_aliases() {
      const views = await store.list(SPACE);
      const aliases = views.flatMap(({ collection: collection_name, aliases: own }) =>
        own.map((alias_name) => ({ alias_name, collection_name })),
      );
      return { aliases };
    },
    async collection_exists(name) {
      const views = await store.list(SPACE);
      return { exists: views.some((view) => view.collection === name) };
    },
    async get_collection(name) {
      const { vectors, sparse, points, collection } = await store.describe(SPACE, name);
      const theirs = Object.entries(vectors).map(([vector, { dimensions: size, distance }]) => {
        const [kind] = Object.entries(DISTANCES).find(([, ours]) => ours === distance) ?? [];
        return [vector, { size, distance: kind }];
      });
      const hnsw_config = { m: 16, ef_construct: 100, full_scan_threshold: 10_000 };
      const optimizer_config = {
        deleted_threshold: 0.2,
        vacuum_min_vector_number: 1000,
        default_segment_number: 0,
        flush_interval_sec: 5,
      };
      const payload_schema = [...(indexes.get(collection) ?? [])].map((field) => [
        field,
        { data_type: 'keyword', points },
      ]);
      return {
        status: 'green',
        optimizer_status: 'ok',
        points_count: points,
        segments_count: 1,
        config: {
          params: {
            vectors: Object.fromEntries(theirs) as object,
            sparse_vectors: Object.fromEntries(sparse.map((each) => [each, {}])),
          },
          hnsw_config,
          optimizer_config,
        },
        payload_schema: Object.fromEntries(payload_schema) as object,
      };
    },
    async create_collection(name, { vectors = {}, sparse_vectors }: Schemas['CreateCollection']) {
      const there = await store.list(SPACE);
      if (there.some(({ collection, aliases }) => collection === name || aliases.includes(name))) {
        throw conflict(name);
      }
      const dense = Object.entries(vectors as { [name: string]: Schemas['VectorParams'] });
      const form: Form = {
        vectors: Object.fromEntries(
          dense.map(([vector, { size, distance }]) => [
            vector,
            { dimensions: size, distance: DISTANCES[distance as keyof typeof DISTANCES] },
          ]),
        ),
        sparse: Object.keys(sparse_vectors ?? {}),
      };
      const isNew = await store.create(SPACE, name, form);
      if (!isNew) throw conflict(name);
      indexes.set(name, new Set());
      return true;
    },
    async delete_collection(name) {
      return store.drop(SPACE, name);
    },
    async create_field_index(name, { field_name }: Schemas['CreateFieldIndex']) {
      const { collection } = await store.describe(SPACE, name);
      indexes.get(collection)?.add(field_name);
      return done;
    },
    async update_aliases(_name, { actions }: Schemas['ChangeAliasesOperation']) {
      const made = actions.flatMap((each) => ('create_alias' in each ? [each.create_alias] : []));
      for (const action of actions) {
        if ('rename_alias' in action) throw new TypeError('the test server renames no alias');
        if (!('delete_alias' in action)) continue;
        const { alias_name } = action.delete_alias;
        if (!made.some((each) => each.alias_name === alias_name)) {
          await store.unalias(SPACE, alias_name);
        }
      }
      for (const each of made) await store.alias(SPACE, each.alias_name, each.collection_name);
      return true;
    },
    async upsert_points(name, { points }: Schemas['PointsList']) {
      const { vectors: form, sparse } = await store.describe(SPACE, name);
      const rows: { [name: string]: Float32Array } = {};
      for (const [vector, { dimensions, distance }] of Object.entries(form)) {
        const named = points.map((point) => (point.vector as Named)[vector]);
        for (const each of named) assertDense(each, dimensions);
        // Qdrant keeps the vectors of a cosine with the length of one.
        const kept = named.map((each) => (distance === 'cosine' ? unit(each) : (each as number[])));
        rows[vector] = Float32Array.from(kept.flat());
      }
      const read = points.map((point): NewPoint => {
        assertId(point.id);
        const entries = Object.entries(point.vector as Named).filter(([each]) => !(each in form));
        for (const [each, vector] of entries) {
          if (!sparse.includes(each)) {
            throw invalid(`Wrong input: Not existing vector name error: ${each}`);
          }
          assertSparse(vector as Sparse);
        }
        const { payload } = point;
        return {
          id: point.id,
          payload: payload as Payload,
          sparse: Object.fromEntries(entries) as never,
        };
      });
      await store.upsert(SPACE, name, read, rows);
      return done;
    },
    async get_points(name, { ids, with_vector }: Schemas['PointRequest']) {
      ids.forEach(assertId);
      const found = (await all(name, undefined)).filter(({ id }) => ids.includes(id));
      const vectors = await withVectors(name, with_vector, found);
      return found.map(({ id }, i) => ({ id, ...(vectors[i] && { vector: vectors[i] }) }));
    },
    async delete_points(name, which: { points?: string[]; filter?: Schemas['Filter'] }) {
      which.points?.forEach(assertId);
      const ids = which.points ?? (await all(name, which.filter)).map(({ id }) => id);
      await store.delete(SPACE, name, { ids });
      return done;
    },
    async count_points(name, { filter }: { filter?: Schemas['Filter'] }) {
      return { count: (await all(name, filter)).length };
    },
    async scroll_points(name, body: Schemas['ScrollRequest']) {
      const { offset, limit, with_payload, with_vector } = body;
      if (offset != null) assertId(offset);
      const passing = await all(name, body.filter as Schemas['Filter'] | undefined);
      const rest = passing.filter(({ id }) => offset == null || id >= offset);
      const page = rest.slice(0, limit ?? 10);
      const vectors = await withVectors(name, with_vector, page);
      return {
        points: page.map(({ id, payload }, i) => ({
          id,
          payload: picked(payload, with_payload),
          ...(vectors[i] && { vector: vectors[i] }),
        })),
        next_page_offset: rest[page.length]?.id ?? null,
      };
    },
    async query_points(name, body: Schemas['QueryRequest']) {
      const { query, using, limit, offset, with_payload, with_vector } = body;
      const filter = body.filter as Schemas['Filter'] | undefined;
      const { vectors: form, sparse } = await store.describe(SPACE, name);
      await judge(name, filter);
      const vector = using ?? '';
      if (!(vector in form) && !sparse.includes(vector)) {
        throw invalid(`Wrong input: Not existing vector name error: ${vector}`);
      }
      const base = { limit: MAX_POINTS, offset: 0, withVectors: false };
      let wanted: Query;
      if (Array.isArray(query)) {
        assertDense(query, form[vector]?.dimensions ?? 0);
        wanted = {
          ...base,
          vector: { name: vector, values: Float32Array.from(query as number[]) },
        };
      } else {
        assertSparse(query as Sparse);
        wanted = { ...base, sparse: { ...(query as Sparse), name: vector } };
      }
      const { points } = await store.search(SPACE, name, wanted);
      const passing = points.filter(
        ({ payload }) => filter === undefined || passes(filter, payload),
      );
      const from = offset ?? 0;
      const page = passing.slice(from, from + (limit ?? 10));
      const sign = form[vector]?.distance === 'euclidean' ? -1 : 1;
      const rows = await withVectors(name, with_vector, page);
      return {
        points: page.map(({ id, score, payload }, i) => ({
          id,
          version: 1,
          score: score * sign,
          payload: picked(payload, with_payload),
          ...(rows[i] && { vector: rows[i] }),
        })),
      };
    },
  };
}

type Named = { readonly [name: string]: unknown };

function picked(payload: Payload, wanted: unknown): Payload | null {
  if (!Array.isArray(wanted)) return null;
  return Object.fromEntries(Object.entries(payload).filter(([name]) => wanted.includes(name)));
}

function unit(vector: unknown): number[] {
  const floats = vector as number[];
  const length = Math.hypot(...floats);
  return floats.map((each) => each / length);
}

function assertDense(vector: unknown, dimensions: number): void {
  if (!Array.isArray(vector)) throw new TypeError('the test server wants all vectors of a point');
  if (vector.length === dimensions) return;
  const found = `expected dim: ${dimensions}, got ${vector.length}`;
  throw invalid(`Wrong input: Vector dimension error: ${found}`);
}

function assertSparse({ indices, values }: Sparse): void {
  const isWhole = indices.every((each) => Number.isInteger(each) && each >= 0 && each < 2 ** 32);
  if (isWhole && indices.length === values.length && new Set(indices).size === indices.length) {
    return;
  }
  throw invalid('Validation error in JSON body: sparse vector');
}

function assertId(id: unknown): asserts id is string {
  if (typeof id === 'string' && UUID.test(id)) return;
  throw invalid(`Unable to parse UUID: ${String(id)}`);
}

function conflict(name: string): NoaError {
  return new NoaError('CONFLICT', `Wrong input: Collection \`${name}\` already exists!`);
}

export function invalid(text: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', text);
}
