/**
 * What stands behind `vector` in a test: collections in memory, each point of which is looked at. Filters and
 * scores are those of the host.
 */
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import { matches, readFilter } from '../vector-filter.ts';
import { isObject, noOperation, text } from './fakes.ts';

type Arguments = { readonly [name: string]: Json };

interface Held {
  readonly payload: { readonly [name: string]: Json };
  readonly vectors: ReadonlyMap<string, Float32Array>;
  readonly sparse: ReadonlyMap<string, ReadonlyMap<number, number>>;
}

interface Collection {
  readonly vectors: { readonly [name: string]: { dimensions: number; distance: string } };
  readonly sparse: readonly string[];
  readonly points: Map<string, Held>;
}

const DEFAULT_NAME = 'default';

export class FakeVectors {
  readonly #collections = new Map<string, Collection>();
  readonly #aliases = new Map<string, string>();

  /** The payloads in a collection by the ids of its points; undefined when there is none. */
  peek(collection: string): ReadonlyMap<string, Json> | undefined {
    const found = this.#collections.get(this.#aliases.get(collection) ?? collection);
    return found && new Map([...found.points].map(([id, { payload }]) => [id, payload]));
  }

  invoke(operation: string, args: Arguments): Json {
    if (operation === 'manage') return this.#manage(text(args, 'action'), args);
    const name = text(args, 'collection');
    const collection = this.#collections.get(this.#aliases.get(name) ?? name);
    if (collection === undefined) {
      throw new NoaError('NOT_FOUND', `collection: there is no ${JSON.stringify(name)}`);
    }
    switch (operation) {
      case 'upsert':
        return upsert(collection, args);
      case 'search':
        return search(collection, args);
      case 'scroll':
        return scroll(collection, args);
      case 'delete': {
        const gone = chosen(collection, args);
        for (const id of gone) collection.points.delete(id);
        return { deleted: gone.length };
      }
      default:
        throw noOperation('vector', operation);
    }
  }

  #manage(action: string, args: Arguments): Json {
    if (action === 'list')
      return { collections: [...this.#collections.keys()].map((name) => this.#view(name)) };
    const name = typeof args['collection'] === 'string' ? args['collection'] : '';
    if (action === 'create') {
      if (this.#collections.has(name)) return { created: false };
      this.#collections.set(name, { ...formOf(args), points: new Map() });
      return { created: true };
    }
    if (action === 'unalias') return { deleted: this.#aliases.delete(text(args, 'alias')) };
    if (action === 'delete') return { deleted: this.#collections.delete(name) };
    if (!this.#collections.has(name)) {
      throw new NoaError('NOT_FOUND', `collection: there is no ${JSON.stringify(name)}`);
    }
    if (action === 'describe') return { collections: [this.#view(name)] };
    this.#aliases.set(text(args, 'alias'), name);
    return {};
  }

  #view(collection: string): Json {
    const { vectors, sparse, points } = this.#collections.get(collection) as Collection;
    const aliases = [...this.#aliases]
      .filter(([, name]) => name === collection)
      .map(([alias]) => alias);
    return { collection, vectors, sparse: [...sparse], points: points.size, aliases };
  }
}

function formOf({ vectors, sparse }: Arguments): Pick<Collection, 'vectors' | 'sparse'> {
  const dense = Object.entries(isObject(vectors) ? vectors : {}).flatMap(([name, each]) =>
    isObject(each)
      ? [
          [
            name,
            { dimensions: Number(each['dimensions']), distance: text(each, 'distance') },
          ] as const,
        ]
      : [],
  );
  return {
    vectors: Object.fromEntries(dense),
    sparse: Array.isArray(sparse) ? sparse.filter((each) => typeof each === 'string') : [],
  };
}

function upsert(collection: Collection, args: Arguments): Json {
  const points = listOf(args['points']);
  const rows = new Map(
    listOf(args['vectors']).map((each) => [
      typeof each['name'] === 'string' ? each['name'] : DEFAULT_NAME,
      floatsOf(text(each, 'base64')),
    ]),
  );
  for (const [name, { dimensions }] of Object.entries(collection.vectors)) {
    const length = rows.get(name)?.length ?? 0;
    if (length === dimensions * points.length) continue;
    const words = `vectors: ${name} has ${length} numbers for ${points.length} points, and each has ${dimensions} dimensions`;
    throw new NoaError('INVALID_ARGUMENT', words);
  }
  for (const [i, point] of points.entries()) {
    const vectors = Object.entries(collection.vectors).map(([name, { dimensions }]) => {
      const all = rows.get(name) ?? new Float32Array();
      return [name, all.slice(i * dimensions, (i + 1) * dimensions)] as const;
    });
    const { payload, sparse = {} } = point;
    const words = Object.entries(isObject(sparse) ? sparse : {}).map(
      ([name, each]) => [name, sparseOf(each)] as const,
    );
    collection.points.set(text(point, 'id'), {
      payload: isObject(payload) ? payload : {},
      vectors: new Map(vectors),
      sparse: new Map(words),
    });
  }
  return { upserted: points.length };
}

function search(collection: Collection, args: Arguments): Json {
  const { vector, sparse, limit = 10, offset = 0, withPayload = true, minScore } = args;
  const wanted = isObject(vector) ? vector : isObject(sparse) ? sparse : {};
  const name = typeof wanted['name'] === 'string' ? wanted['name'] : DEFAULT_NAME;
  const scoreOf = isObject(vector)
    ? denseScore(collection, name, floatsOf(text(vector, 'base64')))
    : sparseScore(name, sparseOf(wanted));
  const hits = chosen(collection, args)
    .map((id) => ({ id, score: scoreOf(collection.points.get(id) as Held) }))
    .filter(
      ({ score }) => (isObject(vector) || score !== 0) && score >= Number(minScore ?? -Infinity),
    )
    .toSorted((a, b) => b.score - a.score)
    .slice(Number(offset), Number(offset) + Number(limit));
  return {
    hits: hits.map(({ id, score }) => ({
      id,
      score,
      ...(withPayload !== false && { payload: collection.points.get(id)?.payload ?? {} }),
    })),
    ...vectorsOf(
      collection,
      hits.map(({ id }) => id),
      args,
    ),
  };
}

function scroll(collection: Collection, args: Arguments): Json {
  const { limit = 10, after } = args;
  const all = chosen(collection, args).toSorted();
  const rest = typeof after === 'string' ? all.filter((id) => id > after) : all;
  const page = rest.slice(0, Number(limit));
  return {
    points: page.map((id) => ({ id, payload: collection.points.get(id)?.payload ?? {} })),
    next: rest.length > page.length ? (page.at(-1) ?? null) : null,
    ...vectorsOf(collection, page, args),
  };
}

/** The ids that are named, or that a filter lets through; all without either. */
function chosen({ points }: Collection, { ids, filter }: Arguments): string[] {
  if (Array.isArray(ids)) return ids.map(String).filter((id) => points.has(id));
  if (filter === undefined) return [...points.keys()];
  const read = readFilter(filter);
  return [...points].filter(([, { payload }]) => matches(read, payload)).map(([id]) => id);
}

function vectorsOf(
  { vectors, points }: Collection,
  ids: readonly string[],
  args: Arguments,
): { vectors?: Json } {
  if (args['withVectors'] !== true) return {};
  return {
    vectors: Object.keys(vectors).map((name) => {
      const rows = ids.map((id) => points.get(id)?.vectors.get(name) ?? new Float32Array());
      const bytes = Buffer.concat(
        rows.map((row) => Buffer.from(row.buffer, row.byteOffset, row.byteLength)),
      );
      return { name, base64: bytes.toString('base64') };
    }),
  };
}

function denseScore(
  { vectors }: Collection,
  name: string,
  wanted: Float32Array,
): (held: Held) => number {
  const form = vectors[name];
  if (form?.dimensions !== wanted.length) {
    const words = `vector: has ${wanted.length} dimensions, and ${name} has ${form?.dimensions ?? 'none'}`;
    throw new NoaError('INVALID_ARGUMENT', words);
  }
  const product = (a: Float32Array, b: Float32Array) =>
    a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
  return (held) => {
    const row = held.vectors.get(name) ?? new Float32Array(wanted.length);
    if (form.distance === 'dot') return product(wanted, row);
    if (form.distance === 'euclidean')
      return -Math.hypot(...wanted.map((value, i) => value - (row[i] ?? 0)));
    return product(wanted, row) / Math.sqrt(product(wanted, wanted) * product(row, row));
  };
}

function sparseScore(name: string, wanted: ReadonlyMap<number, number>): (held: Held) => number {
  return ({ sparse }) =>
    [...wanted].reduce(
      (sum, [index, value]) => sum + value * (sparse.get(name)?.get(index) ?? 0),
      0,
    );
}

function sparseOf(value: Json): Map<number, number> {
  const { indices, values } = isObject(value) ? value : {};
  const numbers = Array.isArray(values) ? values.map(Number) : [];
  return new Map(
    (Array.isArray(indices) ? indices : []).map((index, i) => [Number(index), numbers[i] ?? 0]),
  );
}

function listOf(value: Json | undefined): { readonly [name: string]: Json }[] {
  return Array.isArray(value) ? value.filter((each) => isObject(each)) : [];
}

function floatsOf(base64: string): Float32Array {
  const bytes = Buffer.from(base64, 'base64');
  const floats = new Float32Array(bytes.length >> 2);
  Buffer.from(floats.buffer).set(bytes.subarray(0, floats.byteLength));
  return floats;
}
