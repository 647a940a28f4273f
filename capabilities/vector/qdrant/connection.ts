/**
 * Requests to a Qdrant server: its client loaded when first used, a bounded number at once, each within its
 * time and asked again after what may pass. Every request may be repeated to the same effect.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, NoaError } from '@noa/sdk/host';
import type { QdrantClient } from '@qdrant/js-client-rest';

export type Api = ReturnType<QdrantClient['api']>;

export interface QdrantEndpoint {
  /** A path is kept; without a port it is 6333, as in Qdrant's own clients. */
  readonly url: string;
  readonly apiKey?: string | undefined;
  /** Of one request, all attempts together. */
  readonly timeoutMs?: number | undefined;
}

interface Answer<Result> {
  readonly data: { readonly result?: Result };
}

const TIMEOUT_MS = 30_000;
const CHECK_MS = 2000;
const ATTEMPTS = 4;
const PAUSE_MS = 100;
const MAX_PAUSE_MS = 5000;
/** Requests under way, those that wait for another attempt among them. */
const MAX_OPEN = 256;
const SOCKETS = 32;

export class QdrantConnection {
  readonly #endpoint: QdrantEndpoint;
  readonly #closed = new AbortController();
  #api: Promise<Api> | undefined;
  #open = 0;

  constructor(endpoint: QdrantEndpoint) {
    this.#endpoint = endpoint;
  }

  /** Rejects with NoaError: NOT_FOUND, INVALID_ARGUMENT and CONFLICT are what the server said. */
  async ask<Result>(
    request: (api: Api, init: { readonly signal: AbortSignal }) => Promise<Answer<Result>>,
  ): Promise<Result> {
    if (this.#open >= MAX_OPEN) {
      const text = `vector: ${MAX_OPEN} requests wait already; try again`;
      throw new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 1000 });
    }
    this.#open += 1;
    const late = AbortSignal.timeout(this.#endpoint.timeoutMs ?? TIMEOUT_MS);
    const signal = AbortSignal.any([late, this.#closed.signal]);
    try {
      const api = await this.#load();
      for (let attempt = 1; ; attempt += 1) {
        try {
          return resultOf(await request(api, { signal }));
        } catch (error) {
          const { status, retryAfterMs } = statusOf(error);
          const failure = failureOf(error);
          if (signal.aborted || !PASSING.has(status) || attempt === ATTEMPTS) throw failure;
          const wait = Math.min(MAX_PAUSE_MS, retryAfterMs ?? PAUSE_MS * 3 ** (attempt - 1));
          await sleep(wait * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => {
            throw failure; // its time is over, and this is why
          });
        }
      }
    } finally {
      this.#open -= 1;
    }
  }

  /** One attempt within two seconds, with the key. */
  async check(): Promise<void> {
    const api = await this.#load();
    const signal = AbortSignal.any([AbortSignal.timeout(CHECK_MS), this.#closed.signal]);
    try {
      await api.collectionExists({ collection_name: 'noa' }, { signal });
    } catch (error) {
      throw failureOf(error);
    }
  }

  #load(): Promise<Api> {
    this.#api ??= connect(this.#endpoint);
    return this.#api;
  }

  close(): void {
    this.#closed.abort();
  }
}

async function connect({ url, apiKey }: QdrantEndpoint): Promise<Api> {
  const { QdrantClient } = await import('@qdrant/js-client-rest');
  const { protocol, hostname, pathname } = new URL(url);
  // A URL object forgets a port that is its scheme's own.
  const port = /^[a-z]+:\/\/[^/?#]*:(\d+)(?:[/?#]|$)/i.exec(url)?.[1] ?? '6333';
  const client = new QdrantClient({
    host: hostname,
    port: Number(port),
    https: protocol === 'https:',
    prefix: pathname.replace(/\/+$/, ''),
    // As the client's own option it is told of on the console where the URL is of http.
    ...(apiKey !== undefined && { headers: { 'api-key': apiKey } }),
    timeout: Infinity, // each request has a signal
    maxConnections: SOCKETS,
    checkCompatibility: false, // it tells the console too
  });
  return client.api();
}

function resultOf<Result>({ data }: Answer<Result>): Result {
  if (data.result === undefined) throw away('Qdrant answers without a result');
  return data.result;
}

const CODES: { readonly [status: number]: ErrorCode } = {
  400: 'INVALID_ARGUMENT',
  404: 'NOT_FOUND',
  409: 'CONFLICT',
  413: 'PAYLOAD_TOO_LARGE',
  422: 'INVALID_ARGUMENT',
  429: 'RESOURCE_EXHAUSTED',
};
/** 0: there was no answer. */
const PASSING: ReadonlySet<number> = new Set([0, 429, 500, 502, 503, 504]);

function failureOf(error: unknown): NoaError {
  if (error instanceof NoaError) return error;
  const { status, retryAfterMs } = statusOf(error);
  const code = CODES[status];
  const reason = reasonOf(error);
  if (code !== undefined) {
    const text = `vector: Qdrant refuses this: ${reason}`;
    const options = { cause: error, ...(retryAfterMs !== undefined && { retryAfterMs }) };
    return new NoaError(code, text, options);
  }
  if (status === 401 || status === 403) return away('Qdrant refuses the key of this host', error);
  return away(status === 0 ? 'Qdrant does not answer' : `Qdrant fails: ${reason}`, error);
}

/** The client has an error of its own for 429 with Retry-After, and one with a status for all else. */
function statusOf(error: unknown): { status: number; retryAfterMs?: number } {
  if (!(error instanceof Error)) return { status: 0 };
  if ('retry_after' in error && typeof error.retry_after === 'number') {
    return { status: 429, retryAfterMs: error.retry_after * 1000 };
  }
  return { status: 'status' in error && typeof error.status === 'number' ? error.status : 0 };
}

/** `{"status": {"error": "…"}}` in most answers. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return 'it does not say why';
  const data: unknown = 'data' in error ? error.data : undefined;
  const status: unknown = isRecord(data) ? data['status'] : undefined;
  const text: unknown = isRecord(status) ? status['error'] : undefined;
  return (typeof text === 'string' ? text : error.message).slice(0, 300);
}

function isRecord(value: unknown): value is { readonly [name: string]: unknown } {
  return typeof value === 'object' && value !== null;
}

function away(reason: string, cause?: unknown): NoaError {
  return new NoaError('UNAVAILABLE', `vector: ${reason}; try again`, { retryAfterMs: 1000, cause });
}
