/** What a handler sees of `inference`: models of the host, and of upstreams. */
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
  /** A vector of unit length for each text, views on one buffer; `truncate: false` refuses long texts. */
  embed(
    model: string,
    texts: readonly string[],
    options?: { readonly dimensions?: number; readonly truncate?: boolean },
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
