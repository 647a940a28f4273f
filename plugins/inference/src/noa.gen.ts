// Written by `noa plugin types` from plugin.json; changes are lost.
import type { Cache, Emit, Inference, Json } from '@noa/sdk';

export interface InferInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model: string;
  /** What the task of the model takes: texts, `{query, texts}`, or tensors as in `/v2`. */
  inputs?: string | string[] | {
    name: string;
    shape: number[];
    datatype: string;
    parameters?: Record<string, Json>;
    /** Nested or flat, in row-major order. */
    data: Json[];
  }[] | {
    query: string;
    texts: string[];
  };
  /** What a generation goes on from. */
  prompt?: string;
  /** As in OpenAI's chat completions. */
  messages?: {
    role: string;
  }[];
  /** Of a generation, by OpenAI's names; of a classification, `labels`. */
  parameters?: Record<string, Json>;
  /** A generation piece by piece. */
  stream?: boolean;
  /** Answers the same request from the cache, when it was asked before. */
  cache?: {
    /** For how long the same request is answered from the cache. */
    ttl_seconds: number;
  };
}

export interface InferOutput {
  model: string;
  task: string;
  /** By the task: a text, vectors, labels with scores, scores or tensors. */
  outputs?: unknown;
  /** Tokens that were counted. */
  usage?: {
    prompt_tokens: number;
    completion_tokens?: number;
    total_tokens: number;
  };
  finish_reason?: string;
}

export interface EmbedInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model?: string;
  /** A text, or up to 256 of them. */
  input: string | string[];
  /** Of the answer, at most those of the model. */
  dimensions?: number;
  /** false: a text over the limit of the model is refused and not cut. */
  truncate?: boolean;
  /** Answers the same request from the cache, when it was asked before. */
  cache?: {
    /** For how long the same request is answered from the cache. */
    ttl_seconds: number;
  };
}

export interface EmbedOutput {
  model: string;
  /** A vector of unit length for each text. */
  embeddings: unknown[][];
  /** Tokens that were counted. */
  usage: {
    prompt_tokens: number;
    completion_tokens?: number;
    total_tokens: number;
  };
}

export interface RerankInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model?: string;
  query: string;
  texts: string[];
  /** true: scores as the model gives them; false: between 0 and 1. */
  raw_scores?: boolean;
  return_text?: boolean;
  truncate?: boolean;
}

/** Best first. */
export type RerankOutput = {
  index: number;
  score: number;
  text?: string;
}[];

export interface TokenizeInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model?: string;
  /** A text, or up to 64 of them. */
  inputs: string | string[];
  add_special_tokens?: boolean;
}

/** The tokens of each text. */
export type TokenizeOutput = {
  id: number;
  text: string;
  special: boolean;
  /** In UTF-16 units. */
  start: number;
  stop: number;
}[][];

export interface EmbeddingsInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model: string;
  /** A text, or up to 2,048 of them; token ids are refused, for they are those of another tokenizer. */
  input: string | string[] | number[] | number[][];
  /** base64: 32-bit floats, little-endian. */
  encoding_format?: 'float' | 'base64';
  dimensions?: number;
  user?: string;
}

export interface EmbeddingsOutput {
  object: 'list';
  data: {
    object: 'embedding';
    index: number;
    /** Numbers, or base64. */
    embedding: unknown;
  }[];
  model: string;
  /** Tokens that were counted. */
  usage: {
    prompt_tokens: number;
    completion_tokens?: number;
    total_tokens: number;
  };
}

/** Other members are parameters of the generation. */
export interface ChatInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model: string;
  /** As in OpenAI's chat completions. */
  messages: {
    role: string;
  }[];
  stream?: boolean | null;
  stream_options?: {
    include_usage?: boolean;
  } | null;
  [key: string]: unknown;
}

/** A chat.completion, as the API has it. */
export type ChatOutput = Record<string, unknown>;

/** Other members are parameters of the generation. */
export interface CompletionsInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model: string;
  /** A text, or up to 16 of them. */
  prompt: string | string[] | number[] | number[][];
  stream?: boolean | null;
  stream_options?: {
    include_usage?: boolean;
  } | null;
  [key: string]: unknown;
}

/** A text_completion, as the API has it. */
export type CompletionsOutput = Record<string, unknown>;

export type ModelsInput = Record<string, never>;

export interface ModelsOutput {
  object: 'list';
  data: {
    id: string;
    object: 'model';
    created: number;
    owned_by: string;
  }[];
}

export interface ModelInput {
  /** Id of a model, as `GET /v1/models` lists them. */
  model: string;
}

export interface ModelOutput {
  id: string;
  object: 'model';
  created: number;
  owned_by: string;
}

export type ServerInput = Record<string, never>;

export interface ServerOutput {
  name: string;
  version: string;
  extensions: string[];
}

export type ServerLiveInput = Record<string, never>;

export interface ServerLiveOutput {
  live: true;
}

export type ServerReadyInput = Record<string, never>;

export interface ServerReadyOutput {
  ready: true;
}

export interface ModelMetadataInput {
  model: string;
  version?: string;
}

export interface ModelMetadataOutput {
  name: string;
  versions: string[];
  platform: string;
  inputs: {
    name: string;
    datatype: string;
    shape: number[];
  }[];
  outputs: {
    name: string;
    datatype: string;
    shape: number[];
  }[];
}

export interface ModelReadyInput {
  model: string;
  version?: string;
}

export interface ModelReadyOutput {
  name: string;
  ready: true;
}

export interface ModelInferInput {
  model: string;
  version?: string;
  id?: string;
  parameters?: Record<string, Json>;
  inputs: {
    name: string;
    shape: number[];
    datatype: string;
    parameters?: Record<string, Json>;
    /** Nested or flat, in row-major order. */
    data: Json[];
  }[];
  outputs?: {
    name: string;
    parameters?: Record<string, Json>;
  }[];
}

export interface ModelInferOutput {
  model_name: string;
  model_version: string;
  id?: string;
  outputs: {
    name: string;
    shape: number[];
    datatype: string;
    data: unknown[];
  }[];
}

export type InvokeInput = Record<string, Json>;

export type InvokeOutput = Record<string, unknown>;

export type StreamedInput = Record<string, Json>;

export interface Config {
  /** The model of /v1/embed, /v1/rerank and /v1/tokenize when a request names none. */
  embedding_model: string;
  /** The model of gRPC requests that name none. */
  generation_model: string;
}

export interface Plugin {
  exports: {
    infer(input: InferInput, emit: Emit): InferOutput;
    embed(input: EmbedInput): EmbedOutput;
    rerank(input: RerankInput): RerankOutput;
    tokenize(input: TokenizeInput): TokenizeOutput;
    embeddings(input: EmbeddingsInput): EmbeddingsOutput;
    chat(input: ChatInput, emit: Emit): ChatOutput;
    completions(input: CompletionsInput, emit: Emit): CompletionsOutput;
    models(input: ModelsInput): ModelsOutput;
    model(input: ModelInput): ModelOutput;
    server(input: ServerInput): ServerOutput;
    serverLive(input: ServerLiveInput): ServerLiveOutput;
    serverReady(input: ServerReadyInput): ServerReadyOutput;
    modelMetadata(input: ModelMetadataInput): ModelMetadataOutput;
    modelReady(input: ModelReadyInput): ModelReadyOutput;
    modelInfer(input: ModelInferInput): ModelInferOutput;
    invoke(input: InvokeInput): InvokeOutput;
    streamed(input: StreamedInput, emit: Emit): unknown;
  };
  config: Config;
  capabilities: {
    cache: Pick<Cache, 'get' | 'set'>;
    inference: Pick<Inference, 'embed' | 'rerank' | 'classify' | 'generate' | 'stream' | 'run' | 'tokenize' | 'models' | 'manage'>;
  };
}
