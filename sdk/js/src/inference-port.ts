/**
 * The ports `inference` and `vector` over any way of calling a capability. Invariant: vectors and tensors
 * cross as bytes (32-bit floats are little-endian there as in every JavaScript engine that NOA runs on).
 */
import type { GeneratedItem, Inference, VectorPort } from './model-ports.ts';

export interface Parts {
  /** What stands for these bytes in the arguments. */
  readonly place: (bytes: Uint8Array) => unknown;
}

export interface Whole<Value> {
  readonly value: Value;
  /** The bytes that a member of the value stands for. */
  readonly bytesOf: (member: unknown) => Uint8Array<ArrayBuffer>;
}

/** A call whose arguments and value may have bytes in any number of members. */
export type InvokeParts = <Value>(
  capability: string,
  operation: string,
  args: (parts: Parts) => object,
) => Whole<Value> | Promise<Whole<Value>>;

type Held<Row> = Row & { readonly base64?: unknown };

export function inferencePort(invoke: InvokeParts): Inference {
  const plain = async <Value>(operation: string, args: object): Promise<Value> =>
    (await invoke<Value>('inference', operation, () => args)).value;
  return {
    async embed(model, texts, options = {}) {
      const { value, bytesOf } = await invoke<
        Held<{ dimensions: number; count: number; tokens: number }>
      >('inference', 'embed', () => ({ model, texts, ...options }));
      const { dimensions, count, tokens, base64 } = value;
      return { vectors: rows(bytesOf(base64), dimensions, count), dimensions, tokens };
    },
    rerank: (model, query, texts) => plain('rerank', { model, query, texts }),
    classify: (model, texts, options = {}) => plain('classify', { model, texts, ...options }),
    generate: (model, request) => plain('generate', { model, ...request }),
    stream: (model, request) => ({
      [Symbol.asyncIterator]: () =>
        read<GeneratedItem>(invoke, () =>
          plain<{ stream: string }>('generate', { model, ...request, stream: true }),
        ),
    }),
    async run(model, inputs, options = {}) {
      const { value, bytesOf } = await invoke<{
        version: string;
        outputs: Held<{ name: string; shape: number[]; datatype: string }>[];
      }>('inference', 'run', ({ place }) => ({
        model,
        inputs: inputs.map(({ data, ...form }) => ({ ...form, base64: place(data) })),
        ...options,
      }));
      const outputs = value.outputs.map(({ base64, ...form }) => {
        return { ...form, data: bytesOf(base64) };
      });
      return { version: value.version, outputs };
    },
    tokenize: async (model, texts) => {
      type Answer = { tokens: Awaited<ReturnType<Inference['tokenize']>> };
      return (await plain<Answer>('tokenize', { model, texts })).tokens;
    },
    models: async () => {
      type Answer = { models: Awaited<ReturnType<Inference['models']>> };
      return (await plain<Answer>('models', {})).models;
    },
    manage: (model, action, options = {}) => plain('manage', { model, action, ...options }),
  };
}

/** The items of what a capability answers as a stream, as it is asked for them. */
async function* read<Item>(
  invoke: InvokeParts,
  open: () => Promise<{ stream: string }>,
): AsyncGenerator<Item, undefined> {
  const { stream } = await open();
  let isOpen = true;
  try {
    while (isOpen) {
      const { value } = await invoke<{ items: Item[]; done: boolean }>('stream', 'next', () => ({
        stream,
      }));
      isOpen = !value.done;
      yield* value.items;
    }
  } catch (error) {
    isOpen = false;
    throw error;
  } finally {
    if (isOpen) await invoke('stream', 'close', () => ({ stream }));
  }
  return undefined;
}

export function vectorPort(invoke: InvokeParts): VectorPort {
  const plain = async <Value>(operation: string, args: object): Promise<Value> =>
    (await invoke<Value>('vector', operation, () => args)).value;
  const manage = <Value>(action: string, args: object = {}): Promise<Value> =>
    plain('manage', { action, ...args });
  type Described = Awaited<ReturnType<VectorPort['describe']>>;
  const collections = async (action: string, args?: object): Promise<Described[]> =>
    (await manage<{ collections: Described[] }>(action, args)).collections;
  return {
    create: async (collection, form) =>
      (await manage<{ created: boolean }>('create', { collection, ...form })).created,
    delete: async (collection) =>
      (await manage<{ deleted: boolean }>('delete', { collection })).deleted,
    list: () => collections('list'),
    async describe(collection) {
      const [first] = await collections('describe', { collection });
      if (first === undefined) throw new TypeError('vector: the host described no collection');
      return first;
    },
    alias: async (alias, collection) => {
      await manage('alias', { alias, collection });
    },
    unalias: async (alias) => (await manage<{ deleted: boolean }>('unalias', { alias })).deleted,
    async upsert(collection, points, name) {
      const vectors = points.map(({ vector }) => vector).filter((vector) => vector !== undefined);
      if (vectors.length > 0 && vectors.length < points.length) {
        throw new TypeError('vector.upsert: all points have a vector, or none has');
      }
      const { value } = await invoke<{ upserted: number }>('vector', 'upsert', ({ place }) => ({
        collection,
        points: points.map(({ id, payload, sparse }) => ({ id, payload, sparse })),
        ...(vectors.length > 0 && {
          vectors: [{ ...(name !== undefined && { name }), base64: place(joined(vectors)) }],
        }),
      }));
      return value.upserted;
    },
    async search(collection, { vector, name, ...query }) {
      const { value, bytesOf } = await invoke<{
        hits: Awaited<ReturnType<VectorPort['search']>>['hits'];
        vectors?: Held<{ name: string }>[];
      }>('vector', 'search', ({ place }) => ({
        collection,
        ...query,
        ...(vector !== undefined && {
          vector: { ...(name !== undefined && { name }), base64: place(joined([vector])) },
        }),
      }));
      return { hits: value.hits, vectors: named(value, value.hits.length, bytesOf) };
    },
    async scroll(collection, options) {
      const { value, bytesOf } = await invoke<{
        points: Awaited<ReturnType<VectorPort['scroll']>>['points'];
        next: string | null;
        vectors?: Held<{ name: string }>[];
      }>('vector', 'scroll', () => ({ collection, ...options }));
      const { points, next } = value;
      return { points, next, vectors: named(value, points.length, bytesOf) };
    },
    deletePoints: async (collection, which) =>
      (await plain<{ deleted: number }>('delete', { collection, ...which })).deleted,
  };
}

/** By name, a row for each point. */
function named(
  { vectors = [] }: { readonly vectors?: Held<{ name: string }>[] },
  count: number,
  bytesOf: (member: unknown) => Uint8Array<ArrayBuffer>,
): Record<string, Float32Array[]> {
  return Object.fromEntries(
    vectors.map(({ name, base64 }) => {
      const bytes = bytesOf(base64);
      return [name, rows(bytes, count === 0 ? 0 : bytes.length / 4 / count, count)];
    }),
  );
}

/** Views on one buffer; bytes that begin at an odd place are moved first. */
function rows(bytes: Uint8Array<ArrayBuffer>, width: number, count: number): Float32Array[] {
  if (bytes.length !== width * count * 4) {
    throw new TypeError('the host answered with vectors of another size than it says');
  }
  const placed = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return Array.from(
    { length: count },
    (_, row) => new Float32Array(placed.buffer, placed.byteOffset + row * width * 4, width),
  );
}

function joined(vectors: readonly (Float32Array | readonly number[])[]): Uint8Array {
  const width = vectors[0]?.length ?? 0;
  const floats = new Float32Array(width * vectors.length);
  for (const [row, vector] of vectors.entries()) {
    if (vector.length !== width) {
      throw new TypeError(`vector: all vectors of a call have ${width} dimensions, as its first`);
    }
    floats.set(vector, row * width);
  }
  return new Uint8Array(floats.buffer);
}
