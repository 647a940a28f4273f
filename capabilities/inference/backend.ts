/**
 * What runs models, behind the driver of `inference`: the engine of this host, or a group of upstreams. A
 * backend is asked only for models that it has, and says by what it leaves out what it cannot do.
 */
import type { Json, Span } from '@noa/sdk/host';

export type Task = 'embedding' | 'generation' | 'classification' | 'rerank' | 'tensor';
export type ModelState = 'available' | 'loading' | 'ready' | 'failed';

/** A tensor's name and form, without its content. */
export interface TensorForm {
  readonly name: string;
  /** -1 for a dimension that may be any. */
  readonly shape: readonly number[];
  /** Of the Open Inference Protocol. */
  readonly datatype: string;
}

export interface ModelView {
  readonly id: string;
  readonly version: string;
  readonly task: Task;
  readonly state: ModelState;
  /** `local`, or the group. */
  readonly backend: string;
  readonly description?: string;
  readonly dimensions?: number;
  readonly maxTokens?: number;
  readonly licence?: string;
  readonly device?: string;
  /** Memory that it takes when it is loaded. */
  readonly bytes?: number;
  readonly inputs?: readonly TensorForm[];
  readonly outputs?: readonly TensorForm[];
  /** Why it is `failed`. */
  readonly reason?: string;
}

export interface BackendCall {
  /** In whose name; requests of many take turns. */
  readonly plugin: string;
  readonly signal: AbortSignal;
  /** Milliseconds since the epoch. */
  readonly deadline: number;
  readonly span?: Span | undefined;
}

/** What nobody waits for comes behind what somebody does. */
export const PRIORITIES = ['interactive', 'batch'] as const;
export type Priority = (typeof PRIORITIES)[number];

export interface EmbedRequest {
  readonly model: string;
  readonly texts: readonly string[];
  readonly dimensions?: number | undefined;
  readonly truncate: boolean;
  /** `interactive` when absent. */
  readonly priority?: Priority | undefined;
}

export interface Embedded {
  readonly dimensions: number;
  /** Row-major, one row of unit length for each text. */
  readonly vectors: Float32Array;
  readonly tokens: number;
}

/** OpenAI's names; whoever runs the model judges them. */
export type Parameters = { readonly [name: string]: Json };

export interface GenerateRequest {
  readonly model: string;
  /** Exactly one of the two. */
  readonly prompt?: string;
  readonly messages?: readonly { readonly [name: string]: Json }[];
  readonly parameters: Parameters;
}

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter';

export interface TokenUsage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** The upstream did not tell: counted from the length of the texts. */
  readonly estimated?: true;
}

/** The last item has a `finishReason`; `usage` comes with it or after it. */
export interface GenerateItem {
  readonly delta?: { readonly [name: string]: Json };
  readonly finishReason?: FinishReason;
  readonly usage?: TokenUsage;
}

export interface RerankRequest {
  readonly model: string;
  readonly query: string;
  readonly texts: readonly string[];
}

export interface ClassifyRequest {
  readonly model: string;
  readonly texts: readonly string[];
}

export interface Tensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly datatype: string;
  /** Elements in row-major order, little-endian; BYTES as in the protocol's binary form. */
  readonly data: Uint8Array;
}

export interface RunRequest {
  readonly model: string;
  readonly version?: string | undefined;
  readonly inputs: readonly Tensor[];
  readonly outputs?: readonly string[] | undefined;
}

/** Places are in UTF-16 units of the text. */
export interface TokenPlace {
  readonly id: number;
  readonly text: string;
  readonly start: number;
  readonly stop: number;
}

/**
 * All reject with NoaError: RESOURCE_EXHAUSTED with `retryAfterMs` when there is no room to wait, UNAVAILABLE
 * for what may be tried again, INVALID_ARGUMENT for what the model cannot take, DEADLINE_EXCEEDED, CANCELLED.
 */
export interface Backend {
  models(): Promise<readonly ModelView[]>;
  /** Undefined: none of its models. */
  find(model: string, version?: string): Promise<ModelView | undefined>;
  embed?(request: EmbedRequest, call: BackendCall): Promise<Embedded>;
  generate?(request: GenerateRequest, call: BackendCall): AsyncIterable<GenerateItem>;
  /** Only of models whose task is `rerank`. */
  rerank?(request: RerankRequest, call: BackendCall): Promise<{ scores: number[]; tokens: number }>;
  /** Only of models whose task is `classification`. */
  classify?(
    request: ClassifyRequest,
    call: BackendCall,
  ): Promise<{ results: { label: string; score: number }[][]; tokens: number }>;
  run?(request: RunRequest, call: BackendCall): Promise<{ version: string; outputs: Tensor[] }>;
  tokenize?(model: string, texts: readonly string[], call: BackendCall): Promise<TokenPlace[][]>;
  load?(model: string, version: string | undefined, call: BackendCall): Promise<ModelView>;
  unload?(model: string, version: string | undefined): Promise<ModelView>;
  /** Resolves when it can take work now. */
  check(): Promise<void>;
  close(): Promise<void>;
}
