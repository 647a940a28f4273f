/**
 * The driver of `vector`: what comes through the door becomes values that a store may rely on. Invariants: no
 * number is NaN or infinite, a filter is one, and each plugin has its own space.
 */
import { type Driver, type DriverCall, inSpan, type Json, NoaError, stopped } from '@noa/sdk/host';
import { MAX_PAYLOAD_BYTES } from './capability.ts';
import { readFilter } from './filter.ts';
import type { Chosen, Form, NewPoint, Payload, Query, Rows, Sparse, VectorStore } from './store.ts';

const DEFAULT_NAME = 'default';

interface WireVector {
  readonly name?: string;
  readonly base64: string;
}

/** Of all operations together; each has what its schema asks for. */
type Input = {
  action: string;
  collection: string;
  alias: string;
  /** Of `create`. */
  vectors?: Form['vectors'] & WireVector[];
  points: { id: string; payload?: Payload; sparse?: { [name: string]: Sparse } }[];
  vector?: WireVector;
  sparse: (string[] & Sparse & { name?: string }) | undefined;
  filter?: Json;
  limit: number;
  offset?: number;
  withPayload?: boolean;
  withVectors?: boolean;
  minScore?: number;
  after?: string;
  ids?: string[];
};

type Operation = (store: VectorStore, space: string, input: Input) => Promise<unknown>;

export function createVectorDriver(store: VectorStore): Driver {
  return {
    async invoke(operation: string, input: Json, call: DriverCall) {
      const { plugin, signal, span } = call;
      const run = OPERATIONS[operation];
      if (run === undefined) throw new TypeError(`vector has no operation ${operation}`);
      if (signal.aborted) throw stopped('vector', call);
      const gone = Promise.withResolvers<never>();
      const leave = (): void => gone.reject(stopped('vector', call));
      signal.addEventListener('abort', leave, { once: true });
      try {
        const about = { 'db.system.name': store.system, 'db.operation.name': operation };
        return await inSpan(span, `${store.system} ${operation}`, about, () => {
          const work = run(store, plugin, input as never); // as the door has judged it
          return Promise.race([work, gone.promise]);
        });
      } finally {
        signal.removeEventListener('abort', leave);
      }
    },
    check: () => store.check(),
    drop: (plugin) => store.dropSpace(plugin),
    close: () => store.close(),
  };
}

const ACTIONS: { readonly [action: string]: Operation } = {
  create: async (store, space, { collection, vectors = {}, sparse = [] }) => {
    const names = Array.isArray(sparse) ? sparse : [];
    if (Object.keys(vectors).length + names.length === 0) {
      throw wrong('vectors: a collection has at least one vector, dense or sparse');
    }
    const twice = names.find((name) => Object.hasOwn(vectors, name));
    if (twice !== undefined) throw wrong(`sparse: ${twice} is the name of a dense vector already`);
    return { created: await store.create(space, collection, { vectors, sparse: names }) };
  },
  delete: async (store, space, { collection }) => ({
    deleted: await store.drop(space, collection),
  }),
  describe: async (store, space, { collection }) => ({
    collections: [await store.describe(space, collection)],
  }),
  list: async (store, space) => ({ collections: await store.list(space) }),
  alias: async (store, space, { alias, collection }) => {
    await store.alias(space, alias, collection);
    return {};
  },
  unalias: async (store, space, { alias }) => ({ deleted: await store.unalias(space, alias) }),
};

const OPERATIONS: { readonly [operation: string]: Operation } = {
  manage: async (store, space, input) => ACTIONS[input.action]?.(store, space, input),
  upsert: async (store, space, { collection, points, vectors }) => {
    const rows: { [name: string]: Float32Array } = {};
    for (const { name = DEFAULT_NAME, base64 } of vectors ?? []) {
      if (Object.hasOwn(rows, name)) throw wrong(`vectors: ${name} stands twice`);
      rows[name] = floatsOf(base64, `vectors: ${name}`);
    }
    const ids = new Set(points.map(({ id }) => id));
    if (ids.size < points.length) throw wrong('points: an id stands twice');
    await store.upsert(space, collection, points.map(pointOf), rows);
    return { upserted: points.length };
  },
  search: async (store, space, input) => {
    const { collection, vector, sparse, withPayload = true } = input;
    const { limit, offset = 0, withVectors = false, minScore } = input;
    const query: Query = {
      ...(vector && {
        vector: {
          name: vector.name ?? DEFAULT_NAME,
          values: floatsOf(vector.base64, 'vector'),
        },
      }),
      ...(sparse && { sparse: { ...sorted(sparse, 'sparse'), name: sparse.name ?? DEFAULT_NAME } }),
      filter: filterOf(input),
      limit,
      offset,
      withVectors,
      minScore,
    };
    const { points, vectors } = await store.search(space, collection, query);
    const hits = points.map(({ id, score, payload }) => ({
      id,
      score,
      ...(withPayload && { payload }),
    }));
    return { hits, ...(vectors && { vectors: wireOf(vectors) }) };
  },
  scroll: async (store, space, input) => {
    const { collection, limit, after, withVectors = false } = input;
    const page = { filter: filterOf(input), limit, after, withVectors };
    const { points, next, vectors } = await store.scroll(space, collection, page);
    return { points, next, ...(vectors && { vectors: wireOf(vectors) }) };
  },
  delete: async (store, space, input) => {
    const { collection, ids = [] } = input;
    const filter = filterOf(input);
    const which: Chosen = filter === undefined ? { ids } : { filter };
    return { deleted: await store.delete(space, collection, which) };
  },
};

function filterOf({ filter }: Input) {
  return filter === undefined ? undefined : readFilter(filter);
}

function pointOf({ id, payload = {}, sparse = {} }: Input['points'][number]): NewPoint {
  const bytes = Buffer.byteLength(JSON.stringify(payload));
  if (bytes > MAX_PAYLOAD_BYTES) {
    throw wrong(`points: the payload of ${id} has ${bytes} bytes, over ${MAX_PAYLOAD_BYTES}`);
  }
  const read = Object.entries(sparse).map(([name, vector]) => [
    name,
    sorted(vector, `points: ${name} of ${id}`),
  ]);
  return { id, payload, sparse: Object.fromEntries(read) as NewPoint['sparse'] };
}

function sorted({ indices, values }: Sparse, where: string): Sparse {
  if (indices.length !== values.length) {
    throw wrong(`${where}: has ${indices.length} indices and ${values.length} values`);
  }
  const order = indices.map((_, i) => i).toSorted((a, b) => (indices[a] ?? 0) - (indices[b] ?? 0));
  return {
    indices: order.map((i) => indices[i] ?? 0),
    values: order.map((i) => values[i] ?? 0),
  };
}

/** Throws INVALID_ARGUMENT for bytes that are no floats, and for NaN and infinity. */
function floatsOf(base64: string, where: string): Float32Array {
  const bytes = Buffer.from(base64, 'base64');
  if (bytes.length % 4 !== 0) throw wrong(`${where}: ${bytes.length} bytes are no 32-bit floats`);
  const floats = new Float32Array(bytes.length / 4);
  Buffer.from(floats.buffer).set(bytes);
  const bad = floats.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw wrong(`${where}: the number at ${bad} is not finite`);
  return floats;
}

function wireOf(rows: Rows): { name: string; base64: string }[] {
  return Object.entries(rows).map(([name, floats]) => {
    const bytes = Buffer.from(floats.buffer, floats.byteOffset, floats.byteLength);
    return { name, base64: bytes.toString('base64') };
  });
}

function wrong(text: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', text);
}
