/**
 * `fetch` (WHATWG Fetch) over the capability `http`: what is asked for is judged by the host, redirects
 * included. Left out: streams, `Request`, `FormData`, `Blob`, caches and modes. A failure rejects with
 * NoaError, whose code says whether a grant is missing or the other side is away.
 */
import type { HttpRequest } from '../ports.ts';
import { context } from './context.ts';
import { TextDecoder, TextEncoder } from './encoding.ts';
import type { AbortSignal } from './events.ts';
import { Headers, type Pairs } from './headers.ts';
import { URLSearchParams } from './url-search-params.ts';

type Body = string | ArrayBuffer | ArrayBufferView | URLSearchParams | null;
type Content = string | Uint8Array<ArrayBuffer>;

interface FetchInit {
  readonly method?: string;
  readonly headers?: Pairs;
  readonly body?: Body;
  readonly redirect?: 'follow' | 'manual' | 'error';
  readonly signal?: AbortSignal | null;
}

interface ResponseInit {
  readonly status?: number;
  readonly statusText?: string;
  readonly headers?: Pairs;
}

/** Methods that may be written in any case (Fetch, section 2.2.1). */
const NORMALIZED = ['DELETE', 'GET', 'HEAD', 'OPTIONS', 'POST', 'PUT'];

/** Statuses that have no body (Fetch, section 2.2.3). */
const BODILESS = [204, 205, 304];

export class Response {
  readonly status: number;
  readonly statusText: string;
  readonly headers: Headers;
  readonly url: string = '';
  /** Absent when there is no body: reading nothing uses nothing up. */
  readonly #content: Content | undefined;
  #used = false;

  constructor(body: Body = null, { status = 200, statusText = '', headers }: ResponseInit = {}) {
    if (!(status >= 200 && status <= 599)) {
      throw new RangeError('Response: status is from 200 to 599');
    }
    this.status = status;
    this.statusText = String(statusText);
    this.headers = new Headers(headers);
    this.#content = contentOf(body);
    addType(this.headers, body);
  }

  get ok(): boolean {
    return this.status >= 200 && this.status <= 299;
  }

  get bodyUsed(): boolean {
    return this.#used;
  }

  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const content = this.#take();
    return typeof content === 'string' ? new TextEncoder().encode(content) : content;
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer;
  }

  async text(): Promise<string> {
    const content = this.#take();
    if (typeof content !== 'string') return new TextDecoder().decode(content);
    return content.replace(/^\u{feff}/u, '');
  }

  async json(): Promise<unknown> {
    return JSON.parse(await this.text()) as unknown;
  }

  clone(): Response {
    if (this.#used) throw new TypeError('Response: the body was read already');
    const { status, statusText, headers, url } = this;
    const copy = new Response(this.#content ?? null, { statusText, headers });
    return Object.assign(copy, { status, url });
  }

  #take(): Content {
    if (this.#used) throw new TypeError('Response: the body was read already');
    this.#used = this.#content !== undefined;
    return this.#content ?? '';
  }
}

export async function fetch(
  input: string | { readonly href: string },
  init: FetchInit = {},
): Promise<Response> {
  const { method: given = 'GET', redirect, signal, body = null } = init;
  // The whole instance waits for the answer, so nothing can abort it later.
  signal?.throwIfAborted();
  const upper = given.toUpperCase();
  const method = (NORMALIZED.includes(upper) ? upper : given) as HttpRequest['method'];
  const content = contentOf(body);
  if (content !== undefined && (method === 'GET' || method === 'HEAD')) {
    throw new TypeError(`fetch: a ${method} request has no body`);
  }
  const headers = new Headers(init.headers);
  addType(headers, body);
  const answer = await context.http.request({
    method,
    url: typeof input === 'string' ? input : input.href,
    headers: Object.fromEntries(Array.from(headers)),
    ...(redirect && { redirect }),
    ...(content !== undefined && {
      body: typeof content === 'string' ? content.toWellFormed() : content,
    }),
  });
  const bodiless = BODILESS.includes(answer.status);
  const response = new Response(bodiless ? null : (answer.bytes ?? answer.body ?? null));
  response.headers.delete('content-type');
  for (const [name, value] of Object.entries(answer.headers)) response.headers.set(name, value);
  for (const cookie of answer.setCookie ?? []) response.headers.append('set-cookie', cookie);
  return Object.assign(response, { status: answer.status, url: answer.url });
}

function contentOf(body: Body): Content | undefined {
  if (body === null) return undefined;
  if (typeof body === 'string') return body;
  if (body instanceof URLSearchParams) return body.toString();
  if (body instanceof ArrayBuffer) return new Uint8Array(body.slice(0));
  if (ArrayBuffer.isView(body)) {
    return new Uint8Array(body.buffer, body.byteOffset, body.byteLength).slice();
  }
  throw new TypeError('a body is text, bytes or URLSearchParams');
}

function addType(headers: Headers, body: Body): void {
  if (headers.has('content-type')) return;
  if (typeof body === 'string') headers.set('content-type', 'text/plain;charset=UTF-8');
  else if (body instanceof URLSearchParams) {
    headers.set('content-type', 'application/x-www-form-urlencoded;charset=UTF-8');
  }
}
