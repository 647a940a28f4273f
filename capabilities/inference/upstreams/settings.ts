/** What the configuration says of one group of upstreams: servers that answer for the same models. */
import type { Task } from '../backend.ts';

export interface MemberSettings {
  /** Base of the API, such as `https://api.example.com/v1`. */
  readonly url: string;
  /** Sent as a bearer token. Never in an error, a log or a trace. */
  readonly key?: string;
  /** The models that this member has, and how it names them; all of the group's when absent. */
  readonly models?: { readonly [id: string]: string };
  /** Members of a lower order are asked first. */
  readonly order: number;
  /** Share of the calls among members of one order. */
  readonly weight: number;
}

export interface ModelSettings {
  readonly id: string;
  /** Told from the id when absent. */
  readonly task?: Extract<Task, 'embedding' | 'generation' | 'rerank'>;
  readonly description?: string;
  readonly dimensions?: number;
  readonly max_tokens?: number;
  readonly licence?: string;
}

/** One table of `inference.upstreams`, with its defaults. Times in milliseconds. */
export interface GroupSettings {
  readonly name: string;
  readonly members: readonly MemberSettings[];
  /** Members without a list of their own are asked for theirs when absent. */
  readonly models?: readonly ModelSettings[];
  /** Members answer `POST /rerank` as vLLM and Jina do. */
  readonly rerank: boolean;
  /** Members can answer as a stream of server-sent events. */
  readonly stream: boolean;
  /** Streams are asked to tell their usage (`stream_options`). */
  readonly stream_usage: boolean;
  /** Texts of one request for embeddings. */
  readonly embed_batch: number;
  readonly embed_encoding: 'base64' | 'float';
  /** Tries of one request, the first one included. */
  readonly attempts: number;
  /** No try begins later than this after the first. */
  readonly retry_for_ms: number;
  readonly connect_timeout_ms: number;
  /** Until the first byte of an answer's body. */
  readonly first_byte_ms: number;
  /** Between two parts of an answer that has begun. */
  readonly idle_ms: number;
  /** Requests under way at all members together. */
  readonly max_requests: number;
}
