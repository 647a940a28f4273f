/**
 * The port `inference` over any way of calling a capability. Invariant: vectors and tensors
 * cross as bytes (32-bit floats are little-endian there as in every JavaScript engine that NOA runs on).
 */
import type { GeneratedItem, Inference } from './model-ports.ts';

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
