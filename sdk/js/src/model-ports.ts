/** What a handler sees of `inference` and `vector`: models, and collections of points with vectors. */
import type { Json } from './json.ts';

export interface TokenUsage {
  promptTokens: number;
  completionTokens: number;
  /** The upstream did not tell. */
  estimated?: true;
}

export interface Generated {
  /** Of a prompt. */
  text?: string;
  /** Of messages. */
  message?: { [name: string]: Json };
  finishReason?: 'stop' | 'length' | 'tool_calls' | 'content_filter';
  usage?: TokenUsage;
}

export interface GeneratedItem {
  /** What is new: `content`, `role`, `tool_calls`. */
  delta?: { [name: string]: Json };
  finishReason?: Generated['finishReason'];
  usage?: TokenUsage;
}

export interface TensorData {
  name: string;
  shape: number[];
  /** Of the Open Inference Protocol: `FP32`, `INT64` … */
  datatype: string;
  /** Elements in row-major order, little-endian. */
  data: Uint8Array;
}

export interface ModelInfo {
  id: string;
  version: string;
  task: 'embedding' | 'generation' | 'classification' | 'rerank' | 'tensor';
  state: 'available' | 'loading' | 'ready' | 'failed';
  /** `local`, or the group of an upstream. */
  backend: string;
  dimensions?: number;
  maxTokens?: number;
  /** Of a model that takes tensors; -1 for a size that may be any. */
  inputs?: { name: string; shape: number[]; datatype: string }[];
  outputs?: { name: string; shape: number[]; datatype: string }[];
}

/** Models of the host and of its upstreams; an upstream's are named `group/model`. */
export interface Inference {
  /**
   * A vector of unit length for each text, views on one buffer. `truncate: false` refuses long texts; `batch` is
   * for work that nobody waits for: it comes behind all that is interactive.
   */
  embed(
    model: string,
    texts: readonly string[],
    options?: {
      readonly dimensions?: number;
      readonly truncate?: boolean;
      readonly priority?: 'interactive' | 'batch';
    },
  ): Promise<{ vectors: Float32Array[]; dimensions: number; tokens: number }>;
  /** How well each text answers the query, in their order; higher is better. */
  rerank(
    model: string,
    query: string,
    texts: readonly string[],
  ): Promise<{ scores: number[]; tokens: number; method: 'cross-encoder' | 'cosine' }>;
  /** The labels of each text, best first; `labels` of your own are judged by likeness. */
  classify(
    model: string,
    texts: readonly string[],
    options?: { readonly labels?: readonly string[] },
  ): Promise<{ results: { label: string; score: number }[][]; tokens: number }>;
  /** Goes on from a prompt, or answers messages; parameters by OpenAI's names. */
  generate(
    model: string,
    request: ({ readonly prompt: string } | { readonly messages: readonly object[] }) & {
      readonly parameters?: { readonly [name: string]: Json };
    },
  ): Promise<Generated>;
  /** The same bit by bit, at the pace of the loop; leaving the loop ends the generation. */
  stream(
    model: string,
    request: ({ readonly prompt: string } | { readonly messages: readonly object[] }) & {
      readonly parameters?: { readonly [name: string]: Json };
    },
  ): AsyncIterable<GeneratedItem>;
  /** The outputs of a model for input tensors. */
  run(
    model: string,
    inputs: readonly TensorData[],
    options?: { readonly version?: string; readonly outputs?: readonly string[] },
  ): Promise<{ version: string; outputs: TensorData[] }>;
  /** The tokens of each text; places in UTF-16 units. */
  tokenize(
    model: string,
    texts: readonly string[],
  ): Promise<{ id: number; text: string; start: number; stop: number }[][]>;
  /** The models that the grant covers. */
  models(): Promise<ModelInfo[]>;
  /** Loads a model before its first use, or gives its memory back. */
  manage(
    model: string,
    action: 'load' | 'unload',
    options?: { readonly version?: string },
  ): Promise<ModelInfo>;
}

export interface VectorForm {
  readonly dimensions: number;
  readonly distance: 'cosine' | 'dot' | 'euclidean';
}

export interface SparseVector {
  readonly indices: readonly number[];
  readonly values: readonly number[];
}

export interface Point {
  /** At most 128 characters. */
  readonly id: string;
  readonly payload?: { readonly [name: string]: Json };
  readonly vector?: Float32Array | readonly number[];
  readonly sparse?: { readonly [name: string]: SparseVector };
}

export interface CollectionInfo {
  collection: string;
  vectors: Record<string, VectorForm>;
  sparse: string[];
  points: number;
  aliases: string[];
}

/** The filter language of the capability: `{field: 'lang', eq: 'en'}`, `{and: […]}` … */
export type Filter = { readonly [name: string]: Json };

/** Collections in a namespace of the plugin's own. */
export interface VectorPort {
  /** False when there was one of this form. Rejects with CONFLICT when there is one of another. */
  create(
    collection: string,
    form: {
      readonly vectors: { readonly [name: string]: VectorForm };
      readonly sparse?: readonly string[];
    },
  ): Promise<boolean>;
  /** True when there was one. */
  delete(collection: string): Promise<boolean>;
  list(): Promise<CollectionInfo[]>;
  describe(collection: string): Promise<CollectionInfo>;
  /** Gives a collection another name, taken from whichever had it, at once. */
  alias(alias: string, collection: string): Promise<void>;
  unalias(alias: string): Promise<boolean>;
  /** Writes points, each in place of the one with its id; durable when it resolves. Answers their number. */
  upsert(collection: string, points: readonly Point[], name?: string): Promise<number>;
  /** The points likest to a vector (dense or sparse), best first; vectors by name, a row for each hit. */
  search(
    collection: string,
    query: {
      readonly vector?: Float32Array | readonly number[];
      /** Of the vector; `default` when absent. */
      readonly name?: string;
      readonly sparse?: SparseVector & { readonly name?: string };
      readonly filter?: Filter;
      readonly limit: number;
      readonly offset?: number;
      readonly withPayload?: boolean;
      readonly withVectors?: boolean;
      readonly minScore?: number;
    },
  ): Promise<{
    hits: { id: string; score: number; payload?: { [name: string]: Json } }[];
    vectors: Record<string, Float32Array[]>;
  }>;
  /** All points, page by page; `next` is the `after` of the next page, null after the last. */
  scroll(
    collection: string,
    options: {
      readonly limit: number;
      readonly filter?: Filter;
      readonly after?: string;
      readonly withVectors?: boolean;
    },
  ): Promise<{
    points: { id: string; payload: { [name: string]: Json } }[];
    next: string | null;
    vectors: Record<string, Float32Array[]>;
  }>;
  /** How many there were. */
  deletePoints(
    collection: string,
    which: { readonly ids: readonly string[] } | { readonly filter: Filter },
  ): Promise<number>;
}
