/**
 * What a handler sees of the host: one interface per capability. A generated `Plugin` type picks from
 * these the operations that its manifest declares, so that using any other is a compile error.
 *
 * A port only writes the request; whether it is allowed is decided by the host, call by call, against
 * what an administrator granted. Every method rejects with `NoaError`: CAPABILITY_DENIED without the
 * grant, INVALID_ARGUMENT for what the engine refuses, UNAVAILABLE when it is away. An instance does
 * one capability call at a time, in the order in which the methods were called.
 *
 * A value called "JSON-able" is one that `JSON.stringify` accepts; what comes back is its JSON form.
 */
import type { CloudEvent } from './cloud-event.ts';
import type { Json } from './json.ts';
import type { Inference, VectorPort } from './model-ports.ts';

/** A value bound to `$1`, `$2` … of a statement. */
export type SqlParameter = Json | undefined;

export interface SqlStatement {
  readonly sql: string;
  readonly params?: readonly SqlParameter[];
}

export interface SqlResult<Row> {
  rows: Row[];
  /** Rows that the statement returned or changed. */
  rowCount: number;
}

/** The plugin's relational data, in PostgreSQL's dialect. */
export interface Db {
  /** Reads. The transaction is read only: a statement that writes is refused. */
  query<Row = Record<string, Json>>(sql: string, params?: readonly SqlParameter[]): Promise<Row[]>;
  /** Runs one statement that may write; `returning` fills `rows`. */
  execute<Row = Record<string, Json>>(
    sql: string,
    params?: readonly SqlParameter[],
  ): Promise<SqlResult<Row>>;
  /** Runs the statements in order: all of them take effect, or none. */
  transaction(statements: readonly SqlStatement[]): Promise<SqlResult<Record<string, Json>>[]>;
}

/** A held lock. It ends by itself after its `ttlMs`. */
export interface CacheLock {
  /** True when the lock was still ours. */
  release(): Promise<boolean>;
}

/** Short-lived shared state. Anything in it may be gone at the next call. */
export interface Cache {
  /** The value, or null when there is none. */
  get<Value = Json>(key: string): Promise<Value | null>;
  /** Stores a JSON-able value; without `ttlMs` for as long as the cache likes. */
  set(key: string, value: unknown, options?: { readonly ttlMs?: number }): Promise<void>;
  /** True when there was a value. */
  delete(key: string): Promise<boolean>;
  /** Adds `by` (1) to a number atomically, from 0, and answers the sum; `ttlMs` counts from the first. */
  increment(key: string, by?: number, options?: { readonly ttlMs?: number }): Promise<number>;
  /** Takes the lock, or answers null when another holds it. */
  lock(key: string, options: { readonly ttlMs: number }): Promise<CacheLock | null>;
}

export interface BlobEntry {
  path: string;
  /** Bytes. */
  size: number;
  /** Changes with the content. */
  etag: string;
  /** ISO 8601. */
  modifiedAt: string;
}

/** Bytes under paths such as `reports/2026.pdf`, on the disk of the host; at most 768,000 bytes each. */
export interface BlobPort {
  /** The content from `offset` (0) on, at most `length` bytes. Rejects with NOT_FOUND. */
  read(
    path: string,
    options?: { readonly offset?: number; readonly length?: number },
  ): Promise<Uint8Array<ArrayBuffer>>;
  /** The content as UTF-8 text; what is not UTF-8 comes as replacement characters. */
  readText(path: string): Promise<string>;
  /**
   * Makes or replaces a blob as a whole. Rejects with CONFLICT when the blob is not the one with the etag
   * `ifMatch`, or when `ifNoneMatch` is `*` and there is one; with RESOURCE_EXHAUSTED over the quota.
   */
  write(
    path: string,
    content: string | Uint8Array,
    options?: { readonly ifMatch?: string; readonly ifNoneMatch?: '*' },
  ): Promise<{ etag: string; size: number }>;
  /** Blobs in order of path; `next` is the `cursor` of the next page, null after the last. */
  list(options?: {
    readonly prefix?: string;
    readonly cursor?: string;
    readonly limit?: number;
  }): Promise<{ entries: BlobEntry[]; next: string | null }>;
  /** True when there was one. */
  delete(path: string): Promise<boolean>;
}

/** Values that an administrator set for this plugin to read. */
export interface Secrets {
  /** Rejects with NOT_FOUND when it is not set. What is read must not be logged or answered. */
  read(name: string): Promise<string>;
}

/** What a call may spend on capabilities; an absent field is unlimited. */
export interface CallBudget {
  /** Capability calls. */
  readonly calls?: number;
  readonly rows?: number;
  readonly tokens?: number;
  readonly bytes?: number;
  /** Time spent in capability calls, in milliseconds. */
  readonly ms?: number;
}

/** Exports of other plugins. */
export interface PluginPort {
  /**
   * Calls `exportName` of `plugin` with a JSON-able input; rejects with the error that it answered.
   * `budget` bounds what the called plugin, and all that it calls, may spend of this plugin's rights.
   */
  call<Output = Json>(
    plugin: string,
    exportName: string,
    input?: unknown,
    options?: { readonly budget?: CallBudget },
  ): Promise<Output>;
}

/** What `http.request` sends. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'OPTIONS';
  /** Absolute, http or https, without credentials. */
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Text is sent as UTF-8. */
  readonly body?: string | Uint8Array;
  /** Milliseconds for all of it, within the call's own deadline; 30,000 when absent. */
  readonly timeoutMs?: number;
  /** `follow` when absent: at most five steps, each within the plugin's grants. */
  readonly redirect?: 'follow' | 'manual' | 'error';
}

export interface HttpAnswer {
  status: number;
  /** Names in lower case; values of one name are joined by commas. */
  headers: Record<string, string>;
  setCookie?: string[];
  /** The body when it is UTF-8; otherwise `bytes` is there. */
  body?: string;
  bytes?: Uint8Array<ArrayBuffer>;
  /** Where the answer came from, after redirects. */
  url: string;
}

/** Requests to the servers that the manifest names. The global `fetch` is the same with more comfort. */
export interface Http {
  /** Answers whatever the status; rejects when there was no whole answer. */
  request(request: HttpRequest): Promise<HttpAnswer>;
}

/** The log of events that all plugins share: kept for a time, in one order for everybody. */
export interface EventsPort {
  /**
   * Appends an event with JSON-able data of at most 256 KiB; it is durable when this resolves. A subject
   * is like `orders.created`; the type says what happened. Rejects with RATE_LIMITED.
   */
  publish(subject: string, type: string, data?: unknown): Promise<{ id: string; time: string }>;
  /**
   * Reads events after an id, oldest first, 100 at most: of one subject, or of a prefix that ends in `*`.
   * `next` is the `after` of the next read. To have them delivered to an export instead, name it under
   * `contributes.subscriptions` of the manifest.
   */
  subscribe<Data = Json>(
    subject: string,
    options?: { readonly after?: string; readonly limit?: number },
  ): Promise<{ events: CloudEvent<Data>[]; next: string }>;
}

/** All ports that a manifest can ask for; a generated `Plugin` picks from it. */
export interface Capabilities {
  db: Db;
  cache: Cache;
  blob: BlobPort;
  secrets: Secrets;
  http: Http;
  events: EventsPort;
  plugin: PluginPort;
  inference: Inference;
  vector: VectorPort;
}

/**
 * Hands a JSON-able value to the caller of an export with `stream: true`, before the export answers.
 * Resolves when the caller has room for the next one; the call's deadline goes on meanwhile. Rejects with
 * CANCELLED when the caller left, with RESOURCE_EXHAUSTED when it takes no stream and its answer is full.
 */
export type Emit = (value: unknown) => Promise<void>;

/** The plugin's log; open to every plugin within a rate. */
export interface Log {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

/** The host's clock; open to every plugin. */
export interface Clock {
  /** Milliseconds since the epoch, as `Date.now()`. */
  now(): number;
}

/** The host's cryptographic random source; open to every plugin. */
export interface Random {
  /** @throws RangeError above 65,536 bytes. */
  bytes(length: number): Uint8Array<ArrayBuffer>;
  /** A random UUID (RFC 9562, version 4). */
  uuid(): string;
}
