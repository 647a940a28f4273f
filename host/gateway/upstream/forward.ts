/**
 * Sends one request to one upstream of its route, and to another when that fails in a way that may be
 * repeated. Invariants: nothing is sent twice unless it is idempotent (RFC 9110 section 9.2.2) or carries
 * an Idempotency-Key, its body is there whole, and nothing of an answer has reached the caller; and from
 * the moment that the request is complete an answer begins within the route's time, all attempts together.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { errorType, type Span } from '@noa/sdk/host';
import type { Dispatcher } from 'undici';
import type { Body } from './body.ts';
import { clientLeft, type Failure, failureOf, noneLeft } from './failure.ts';
import type { RequestHeaders } from './headers.ts';
import type { RouteSettings } from './settings.ts';
import type { Sent, Upstream } from './upstream.ts';

const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE']);
/** Of the answer that is given up for another attempt. */
const MAX_DROPPED_BYTES = 16 << 10;
const MAX_BACKOFF_MS = 10_000;

export interface ForwardRequest {
  readonly method: string;
  /** Below the upstream's own path, with the query. */
  readonly target: string;
  readonly headers: RequestHeaders;
  readonly body: Body | undefined;
  /** Aborts when the caller leaves. */
  readonly signal: AbortSignal;
  /** Of the request, when it is traced. */
  readonly span?: Span | undefined;
}

/** A route as it is followed now. */
export interface LiveRoute {
  readonly config: RouteSettings;
  readonly upstreams: readonly Upstream[];
}

/** The answer as soon as it begins. Rejects with NoaError. */
export async function forward(
  route: LiveRoute,
  request: ForwardRequest,
  now: () => number,
): Promise<Dispatcher.ResponseData> {
  const { config } = route;
  const patience = new Patience(config.timeout_ms, request, now);
  const tried = new Set<Upstream>();
  try {
    if (isRepeatable(route, request)) await request.body?.keep();
    for (let attempt = 1; ; attempt += 1) {
      const upstream = choose(route.upstreams, tried) ?? choose(route.upstreams);
      if (upstream === undefined) throw exhausted(route);
      tried.add(upstream);
      const sent = await traced(request, upstream, attempt, (headers) =>
        upstream.send(
          {
            method: request.method,
            path: upstream.basePath + request.target,
            headers,
            body: request.body?.read() ?? null,
            signal: patience.signal,
          },
          (reason) => patience.isLate(reason),
        ),
      );
      const waitMs = mayRepeat(route, request, attempt, sent)
        ? patience.allows(pause(route, attempt, tried, sent))
        : undefined;
      if (waitMs === undefined) return answerOf(config.name, sent);
      if ('answer' in sent) await sent.answer.body.dump({ limit: MAX_DROPPED_BYTES });
      await sleep(waitMs, undefined, { signal: patience.signal });
    }
  } catch (error) {
    if (!patience.signal.aborted) throw error;
    throw patience.isLate(patience.signal.reason)
      ? failureOf(config.name, 'timeout')
      : clientLeft();
  } finally {
    patience.end();
  }
}

/** One attempt, until its answer begins, as a part of the request's trace. */
async function traced(
  { span: above, method, headers }: ForwardRequest,
  { url }: Upstream,
  attempt: number,
  send: (headers: RequestHeaders) => Promise<Sent>,
): Promise<Sent> {
  if (above === undefined) return send(headers);
  const { hostname, port, protocol } = new URL(url);
  const span = above.child(method, 'client', {
    'http.request.method': method,
    'server.address': hostname,
    'server.port': port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port),
    ...(attempt > 1 && { 'http.request.resend_count': attempt - 1 }),
  });
  try {
    const sent = await send({ ...headers, traceparent: span.traceparent });
    if ('failure' in sent) span.end(sent.failure);
    else {
      const { statusCode } = sent.answer;
      span.set({ 'http.response.status_code': statusCode });
      span.end(statusCode >= 400 ? String(statusCode) : undefined);
    }
    return sent;
  } catch (error) {
    span.end(errorType(error));
    throw error;
  }
}

/** Smooth weighted round robin (as in nginx) among those that can be used now. */
function choose(
  upstreams: readonly Upstream[],
  without?: ReadonlySet<Upstream>,
): Upstream | undefined {
  let chosen: Upstream | undefined;
  let total = 0;
  for (const upstream of upstreams) {
    if (!upstream.free || without?.has(upstream)) continue;
    upstream.current += upstream.weight;
    total += upstream.weight;
    if (chosen === undefined || upstream.current > chosen.current) chosen = upstream;
  }
  if (chosen !== undefined) chosen.current -= total;
  return chosen;
}

function exhausted({ config, upstreams }: LiveRoute): Error {
  return noneLeft(config.name, Math.min(...upstreams.map(({ waitMs }) => waitMs)));
}

function answerOf(route: string, sent: Sent): Dispatcher.ResponseData {
  if ('answer' in sent) return sent.answer;
  throw failureOf(route, sent.failure);
}

/** Whether the method and the configuration allow another attempt. */
function isRepeatable({ config }: LiveRoute, { method, headers }: ForwardRequest): boolean {
  if (config.retries.attempts === 1) return false;
  return IDEMPOTENT.has(method) || headers['idempotency-key'] !== undefined;
}

function mayRepeat(
  route: LiveRoute,
  request: ForwardRequest,
  attempt: number,
  sent: Sent,
): boolean {
  const { attempts, on } = route.config.retries;
  if (attempt >= attempts || !on.some((kind) => isOf(kind, sent))) return false;
  if (!isRepeatable(route, request) || request.body?.isWhole === false) return false;
  return route.upstreams.some(({ free }) => free);
}

function isOf(kind: string, sent: Sent): boolean {
  if ('failure' in sent) return kind === (sent.failure satisfies Failure);
  const { statusCode } = sent.answer;
  return kind === String(statusCode) || kind === `${Math.floor(statusCode / 100)}xx`;
}

/** Twice as long with each attempt, less up to half at random; and as long as the same server asks for. */
function pause(
  { config, upstreams }: LiveRoute,
  attempt: number,
  tried: ReadonlySet<Upstream>,
  sent: Sent,
): number {
  const longest = Math.min(MAX_BACKOFF_MS, config.retries.backoff_ms * 2 ** (attempt - 1));
  const backoff = longest * (1 - Math.random() / 2);
  const another = upstreams.some((upstream) => upstream.free && !tried.has(upstream));
  return another || 'failure' in sent ? backoff : Math.max(backoff, retryAfterMs(sent.answer));
}

/** RFC 9110 section 10.2.3: seconds, or a date. */
function retryAfterMs({ headers }: Dispatcher.ResponseData): number {
  const value = headers['retry-after'];
  if (typeof value !== 'string') return 0;
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const at = Date.parse(value);
  return Number.isNaN(at) ? 0 : Math.max(0, at - Date.now());
}

const LATE = Symbol('late');

/** How long an answer is waited for; whoever is slow with a request does not use up the upstream's time. */
class Patience {
  readonly #controller = new AbortController();
  readonly #request: ForwardRequest;
  readonly #ms: number;
  readonly #now: () => number;
  readonly #onLeave = (): void => this.#controller.abort();
  #timer: NodeJS.Timeout;
  #deadline = 0;

  constructor(ms: number, request: ForwardRequest, now: () => number) {
    this.#ms = ms;
    this.#request = request;
    this.#now = now;
    this.#timer = this.#start();
    const { signal } = request;
    if (signal.aborted) this.#onLeave();
    else signal.addEventListener('abort', this.#onLeave, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  isLate(reason: unknown): boolean {
    return reason === LATE;
  }

  /** The wait, if there is time for it and for an answer after it. */
  allows(waitMs: number): number | undefined {
    return this.#now() + waitMs < this.#deadline ? waitMs : undefined;
  }

  /** The answer has begun, or there is none. A caller that leaves is told by the answer's body then. */
  end(): void {
    clearTimeout(this.#timer);
    this.#request.signal.removeEventListener('abort', this.#onLeave);
  }

  #start(): NodeJS.Timeout {
    this.#deadline = this.#now() + this.#ms;
    return setTimeout(() => {
      // How long a caller may take for its request, the listener knows.
      if (this.#request.body?.isAwaited) this.#timer = this.#start();
      else this.#controller.abort(LATE);
    }, this.#ms);
  }
}
