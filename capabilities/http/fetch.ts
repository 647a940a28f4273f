/**
 * The driver of `http`: governed egress. Invariant: every request that leaves, the first and each redirect,
 * goes to a resource that the call was granted and to an address that was judged for that connection.
 * Connections are kept for reuse by one plugin alone; proxies of the environment are not used.
 */
import { Agent } from 'node:http';
import { Agent as TlsAgent } from 'node:https';
import { getCACertificates } from 'node:tls';
import {
  type Driver,
  type DriverCall,
  type Json,
  NoaError,
  type SpanAttributes,
  covers,
  errorType,
} from '@noa/sdk/host';
import { Gatekeeper, type Resolve } from './address.ts';
import { DEFAULT_TIMEOUT_MS, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES } from './capability.ts';
import { type Sent, isCoded, readBody, send } from './exchange.ts';
import {
  answerHeaders,
  requestHeaders,
  withTrace,
  withoutBodyHeaders,
  withoutCredentials,
} from './headers.ts';
import { METHODS, canonicalUrl, portOf, resourceOf } from './target.ts';

export interface HttpOptions {
  /** Hosts, as URLs name them, that may be at private addresses. */
  readonly privateHosts?: readonly string[];
  /** Certificates (PEM) that are trusted beside those that Node.js trusts. */
  readonly authorities?: readonly string[];
  /** In place of the system's resolver. */
  readonly resolve?: Resolve;
  /** Requests under way at most. */
  readonly maxRequests?: number;
  readonly maxRequestsPerPlugin?: number;
}

const MAX_REQUESTS = 128;
const MAX_REQUESTS_PER_PLUGIN = 16;
/** Part of all requests that is kept for plugins that have none under way. */
const KEPT = 0.5;
const MAX_REDIRECTS = 5;
const REDIRECTS = [301, 302, 303, 307, 308];
/** Shorter than the five seconds after which common servers close a connection. */
const IDLE_MS = 4_000;
const MAX_IDLE = 4;
/** What fits as JSON into one reply to the sandbox, beside the headers. */
const MAX_TEXT_BYTES = (MAX_RESPONSE_BYTES / 3) * 4;

interface Agents {
  readonly plain: Agent;
  readonly tls: TlsAgent;
}

/** How one request ended: with an answer for the plugin, or with another place to ask. */
type Hop = { readonly status: number } & (
  | { readonly answer: object }
  | { readonly location: string }
);

export function createHttpDriver(options: HttpOptions = {}): Driver {
  return new HttpDriver(options);
}

class HttpDriver implements Driver {
  readonly #gatekeeper: Gatekeeper;
  readonly #agents = new Map<string, Agents>();
  readonly #running = new Map<string, number>();
  /** Undefined leaves the choice to Node.js. */
  readonly #authorities: string[] | undefined;
  readonly #max: number;
  readonly #maxPerPlugin: number;

  constructor({ privateHosts = [], resolve, authorities = [], ...options }: HttpOptions) {
    const { maxRequests, maxRequestsPerPlugin } = options;
    this.#gatekeeper = new Gatekeeper(privateHosts, resolve);
    this.#authorities =
      authorities.length > 0 ? [...getCACertificates('default'), ...authorities] : undefined;
    this.#max = maxRequests ?? MAX_REQUESTS;
    this.#maxPerPlugin = maxRequestsPerPlugin ?? MAX_REQUESTS_PER_PLUGIN;
  }

  async invoke(_operation: string, input: Json, call: DriverCall): Promise<unknown> {
    const { sent, redirect, timeoutMs } = readArguments(input);
    this.#enter(call.plugin);
    const timeout = new AbortController();
    const timer = setTimeout(
      () => timeout.abort(),
      Math.max(0, Math.min(timeoutMs, call.deadline - Date.now())),
    );
    try {
      const signal = AbortSignal.any([call.signal, timeout.signal]);
      return await this.#follow(sent, redirect, call, signal);
    } catch (error) {
      if (call.signal.aborted && Date.now() < call.deadline) {
        throw new NoaError('CANCELLED', 'http: the caller went away', { cause: error });
      }
      if (call.signal.aborted || timeout.signal.aborted) {
        throw new NoaError('DEADLINE_EXCEEDED', `http: ${sent.url.host} took too long`, {
          cause: error,
        });
      }
      throw fromWire(error, sent.url);
    } finally {
      clearTimeout(timer);
      this.#leave(call.plugin);
    }
  }

  async #follow(
    first: Sent,
    redirect: string,
    call: DriverCall,
    signal: AbortSignal,
  ): Promise<unknown> {
    let sent = first;
    for (let redirects = 0; ; redirects += 1) {
      signal.throwIfAborted();
      if (redirects > 0) await call.also?.(resourceOf(sent.method, sent.url));
      this.#check(sent, call);
      const hop = await this.#traced(sent, redirect, call, signal);
      if ('answer' in hop) return hop.answer;
      if (redirect === 'error') {
        throw new NoaError('CONFLICT', `http: ${sent.url.host} redirects, which was not wanted`);
      }
      if (redirects === MAX_REDIRECTS) {
        throw new NoaError('RESOURCE_EXHAUSTED', `http: more than ${MAX_REDIRECTS} redirects`);
      }
      sent = redirected(sent, hop.status, hop.location);
    }
  }

  /** The request as a part of the call's trace, which the other side is told of. */
  async #traced(sent: Sent, redirect: string, call: DriverCall, signal: AbortSignal): Promise<Hop> {
    const span = call.span?.child(sent.method, 'client', describe(sent));
    if (span === undefined) return this.#exchange(sent, redirect, call.plugin, signal);
    const headers = withTrace(sent.headers, span.traceparent);
    try {
      const hop = await this.#exchange({ ...sent, headers }, redirect, call.plugin, signal);
      span.set({ 'http.response.status_code': hop.status });
      span.end(hop.status >= 400 ? String(hop.status) : undefined);
      return hop;
    } catch (error) {
      span.end(errorType(error));
      throw error;
    }
  }

  async #exchange(sent: Sent, redirect: string, plugin: string, signal: AbortSignal): Promise<Hop> {
    const { plain, tls } = this.#agentsOf(plugin);
    const agent = sent.url.protocol === 'https:' ? tls : plain;
    const lookup = this.#gatekeeper.lookupFor(sent.url);
    const response = await send(sent, { agent, lookup, signal });
    const status = response.statusCode ?? 0;
    const { location } = response.headers;
    if (redirect !== 'manual' && REDIRECTS.includes(status) && location !== undefined) {
      response.destroy();
      return { status, location };
    }
    const hasBody = sent.method !== 'HEAD' && status !== 204 && status !== 304;
    const { bytes, decoded } = await readBody(response, hasBody);
    const head = answerHeaders(response.headers, decoded);
    return { status, answer: { status, ...head, ...bodyOf(bytes), url: sent.url.href } };
  }

  /** The door has been asked for each; this is the same question to what the call began with. */
  #check({ method, url }: Sent, call: DriverCall): void {
    const resource = resourceOf(method, url);
    if (!call.resources.some((pattern) => covers(pattern, resource))) {
      throw new NoaError(
        'CAPABILITY_DENIED',
        `plugin ${call.plugin} has no grant for http.request on ${JSON.stringify(resource.slice(0, 200))}, to which it was redirected`,
      );
    }
    this.#gatekeeper.admit(url);
  }

  #agentsOf(plugin: string): Agents {
    const known = this.#agents.get(plugin);
    if (known !== undefined) return known;
    const options = { keepAlive: true, timeout: IDLE_MS, maxFreeSockets: MAX_IDLE };
    const trust = this.#authorities ? { ca: this.#authorities } : {};
    const made = { plain: new Agent(options), tls: new TlsAgent({ ...options, ...trust }) };
    this.#agents.set(plugin, made);
    return made;
  }

  #enter(plugin: string): void {
    const own = this.#running.get(plugin) ?? 0;
    const all = this.#running.values().reduce((sum, count) => sum + count, 0);
    const open = own === 0 ? this.#max : this.#max * (1 - KEPT);
    if (own >= this.#maxPerPlugin || all >= open) {
      throw new NoaError('RESOURCE_EXHAUSTED', 'http: too many requests are under way; try again');
    }
    this.#running.set(plugin, own + 1);
  }

  #leave(plugin: string): void {
    const left = (this.#running.get(plugin) ?? 0) - 1;
    if (left > 0) this.#running.set(plugin, left);
    else this.#running.delete(plugin);
  }

  async check(): Promise<void> {}

  async drop(plugin: string): Promise<void> {
    const agents = this.#agents.get(plugin);
    this.#agents.delete(plugin);
    agents?.plain.destroy();
    agents?.tls.destroy();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#agents.keys()].map((plugin) => this.drop(plugin)));
  }
}

/** For a trace: where to, without the query. */
function describe({ method, url }: Sent): SpanAttributes {
  return {
    'http.request.method': method,
    'server.address': url.hostname,
    'server.port': portOf(url),
    'url.full': `${url.origin}${url.pathname}`,
  };
}

/** The next request (Fetch standard, HTTP-redirect fetch). */
function redirected(sent: Sent, status: number, location: string): Sent {
  const url = canonicalUrl(location, sent.url);
  const toGet =
    ([301, 302].includes(status) && sent.method === 'POST') ||
    (status === 303 && sent.method !== 'GET' && sent.method !== 'HEAD');
  const kept = url.origin === sent.url.origin ? sent.headers : withoutCredentials(sent.headers);
  if (!toGet) return { ...sent, url, headers: kept };
  return { method: 'GET', url, headers: withoutBodyHeaders(kept), body: undefined };
}

/** Text when the bytes are UTF-8 and do not swell as JSON, base64 otherwise. */
function bodyOf(bytes: Buffer): { body: string } | { bodyBase64: string } {
  const text = bytes.toString('utf8');
  const whole = Buffer.byteLength(text) === bytes.length && Buffer.from(text).equals(bytes);
  if (whole && Buffer.byteLength(JSON.stringify(text)) <= MAX_TEXT_BYTES) return { body: text };
  return { bodyBase64: bytes.toString('base64') };
}

/** Reads arguments that the broker has checked. */
function readArguments(input: Json): { sent: Sent; redirect: string; timeoutMs: number } {
  if (!isObject(input)) throw wrong('the arguments must be an object');
  const { method: named, url, headers = {}, body, bodyBase64 } = input;
  const method = METHODS.find((each) => each === named);
  if (method === undefined) throw wrong(`method must be one of ${METHODS.join(', ')}`);
  if (typeof url !== 'string') throw wrong('url must be a string');
  if (!isObject(headers)) throw wrong('headers must be an object');
  const bytes =
    typeof bodyBase64 === 'string'
      ? Buffer.from(bodyBase64, 'base64')
      : typeof body === 'string'
        ? Buffer.from(body)
        : undefined;
  if (bytes !== undefined && (method === 'GET' || method === 'HEAD')) {
    throw wrong(`a ${method} request has no body`);
  }
  if (bytes !== undefined && bytes.length > MAX_REQUEST_BYTES) {
    throw new NoaError('PAYLOAD_TOO_LARGE', `http: the body is over ${MAX_REQUEST_BYTES} bytes`);
  }
  return {
    sent: { method, url: canonicalUrl(url), headers: requestHeaders(headers), body: bytes },
    redirect: typeof input['redirect'] === 'string' ? input['redirect'] : 'follow',
    timeoutMs: typeof input['timeoutMs'] === 'number' ? input['timeoutMs'] : DEFAULT_TIMEOUT_MS,
  };
}

/** Failures of the other side, without addresses: what a name resolves to is not the plugin's to know. */
function fromWire(error: unknown, { host }: URL): unknown {
  if (error instanceof NoaError || error instanceof TypeError || !isCoded(error)) return error;
  if (error.code === 'HPE_HEADER_OVERFLOW') {
    return new NoaError('RESOURCE_EXHAUSTED', `http: the headers from ${host} are too long`);
  }
  const why = /CERT|UNABLE_TO|ERR_TLS|ERR_SSL|EPROTO/.test(error.code)
    ? 'offers no TLS with a certificate that this host trusts'
    : /^(Z_|ERR_|HPE_)/.test(error.code)
      ? 'answered what is no valid HTTP'
      : 'could not be reached, or the connection broke off';
  return new NoaError('UNAVAILABLE', `http: ${host} ${why}`, { cause: error });
}

function isObject(value: Json | undefined): value is { [name: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wrong(rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `http: ${rule}`);
}
