/**
 * One loaded model, inside a worker: texts or tensors in, numbers or text out. Whoever calls it decides
 * what runs together and when; a runner does one thing at a time and knows nothing of queues.
 */
import type { FinishReason, Task, Tensor, TensorForm } from '../backend.ts';

/** Where the parts of a model lie and what they are; every path was judged to be inside its folder. */
export interface ModelFiles {
  readonly id: string;
  readonly version: string;
  readonly task: Task;
  readonly folder: string;
  /** Names in the folder, with what they must hash to. */
  readonly files: readonly {
    readonly name: string;
    readonly sha256: string;
    readonly bytes: number;
  }[];
  /** Name of the ONNX file, or of a GGUF file. */
  readonly graph: string;
  /** Name of the SafeTensors file that the graph takes its external data from. */
  readonly weights?: string;
  readonly tokenizer?: { readonly kind: 'unigram' | 'huggingface'; readonly file: string };
  readonly pooling?: 'none' | 'mean' | 'cls';
  readonly normalize: boolean;
  readonly dimensions?: number;
  readonly maxTokens: number;
  readonly labels?: readonly string[];
  readonly inputs?: readonly TensorForm[];
  readonly outputs?: readonly TensorForm[];
}

/** What a session takes beside its files, while it runs, about. */
export const OVERHEAD_BYTES = 16 << 20;

export type Device = 'cpu' | 'cuda';

/** Places are in UTF-16 units of the text; special tokens have none: `starts` equals `stops`. */
export interface Tokens {
  readonly ids: Int32Array;
  readonly starts: Int32Array;
  readonly stops: Int32Array;
}

export interface GenerateParameters {
  readonly maxTokens: number;
  /** 0 takes the likeliest. */
  readonly temperature: number;
  readonly topP: number;
  /** The same seed gives the same text. */
  readonly seed?: number | undefined;
  readonly stop: readonly string[];
}

/** One piece of a conversation. */
export interface Turn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly text: string;
}

/** The last has a reason; text ends at whole characters. */
export interface GeneratedPart {
  readonly text: string;
  /** Tokens that this part stands for. */
  readonly tokens: number;
  readonly finishReason?: FinishReason;
}

/** All throw or reject with NoaError INVALID_ARGUMENT for what the model cannot take. */
export interface Runner {
  /** What it takes beside the runtime itself, about. */
  readonly memoryBytes: number;
  readonly device: Device;
  tokenize?(text: string): Tokens;
  /** What a token reads as. */
  textOf?(id: number): string;
  /** One row of `dimensions` for each; shorter ones are padded, so alike lengths belong together. */
  embed?(batch: readonly Int32Array[]): Promise<Float32Array>;
  /** One row of as many scores as there are labels. */
  classify?(batch: readonly Int32Array[]): Promise<Float32Array>;
  /** A score for each pair of query and text. */
  rerank?(
    query: string,
    texts: readonly string[],
  ): Promise<{ scores: Float32Array; tokens: number }>;
  /** The prompt of a conversation; absent from a model that was taught no form of it. */
  chat?(turns: readonly Turn[]): Int32Array;
  generate?(
    prompt: Int32Array,
    parameters: GenerateParameters,
    signal: AbortSignal,
  ): AsyncIterable<GeneratedPart>;
  run?(inputs: readonly Tensor[], outputs?: readonly string[]): Promise<Tensor[]>;
  close(): Promise<void>;
}
