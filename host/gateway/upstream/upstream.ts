/**
 * One server behind a route: its connections, its breaker, and what it has answered. Invariant: at most
 * `max_connections` are open, at most as many requests more wait for one, and each request that was begun
 * is counted once.
 */
import type { LookupFunction } from 'node:net';
import { getCACertificates } from 'node:tls';
import { type Dispatcher, errors, Pool } from 'undici';
import { Breaker, type BreakerState, type Ticket } from './breaker.ts';
import type { Failure } from './failure.ts';
import type { RouteSettings, ServerSettings } from './settings.ts';

const KEEP_ALIVE_MS = 10_000;
const MAX_HEADER_BYTES = 64 << 10;

export interface UpstreamPowers {
  /** Milliseconds of a clock that is never set. */
  readonly now: () => number;
  /** How the names of upstreams become addresses; the system's way when absent. */
  readonly lookup?: (url: URL) => LookupFunction;
  /** PEM certificates that are trusted beside the public ones. */
  readonly authorities?: readonly string[];
  /** Of each change, for the log. */
  readonly onBreaker: (change: BreakerChange) => void;
}

export interface BreakerChange {
  readonly route: string;
  readonly upstream: string;
  readonly state: BreakerState;
  /** What happened last. */
  readonly because: string;
}

export interface UpstreamStats {
  readonly route: string;
  readonly upstream: string;
  readonly state: BreakerState;
  /** Requests by the class of their answer (`2xx`), or by how they failed. */
  readonly requests: ReadonlyMap<string, number>;
}

export type SendOptions = Pick<
  Dispatcher.RequestOptions,
  'method' | 'path' | 'headers' | 'body'
> & {
  readonly signal: AbortSignal;
};

/** The answer has begun, or why it never did. */
export type Sent = { readonly answer: Dispatcher.ResponseData } | { readonly failure: Failure };

export class Upstream {
  /** Of it, as configuration has it; for metrics and the log. */
  readonly url: string;
  /** Put before each path; no slash at its end. */
  readonly basePath: string;
  readonly #route: string;
  readonly #powers: UpstreamPowers;
  readonly #pool: Pool;
  readonly #breaker: Breaker;
  readonly #capacity: number;
  readonly #requests = new Map<string, number>();
  readonly #connectErrors = new WeakSet<Error>();
  #running = 0;
  #known: BreakerState = 'closed';
  weight: number;
  /** Of the smooth weighted round robin. */
  current = 0;

  constructor(route: RouteSettings, { url, weight }: ServerSettings, powers: UpstreamPowers) {
    const target = new URL(url);
    this.url = url;
    this.basePath = target.pathname.replace(/\/$/, '');
    this.weight = weight;
    this.#route = route.name;
    this.#powers = powers;
    this.#breaker = new Breaker(route.breaker);
    this.#capacity = 2 * route.max_connections;
    const { lookup, authorities = [] } = powers;
    this.#pool = new Pool(target.origin, {
      connections: route.max_connections,
      pipelining: 1,
      allowH2: false,
      keepAliveTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: 0, // `forward` measures all attempts together
      bodyTimeout: route.timeout_ms,
      connect: {
        timeout: route.connect_timeout_ms,
        ...(lookup && { lookup: lookup(target) }),
        ...(authorities.length > 0 && { ca: [...getCACertificates('default'), ...authorities] }),
      },
    });
    this.#pool.on('connectionError', (_origin, _targets, error) => this.#connectErrors.add(error));
  }

  stats(): UpstreamStats {
    const state = this.#breaker.state(this.#powers.now());
    return { route: this.#route, upstream: this.url, state, requests: this.#requests };
  }

  /** Whether a request may be sent now. */
  get free(): boolean {
    return this.#running < this.#capacity && this.#breaker.admits(this.#powers.now());
  }

  /** Milliseconds after which it is worth to ask again. */
  get waitMs(): number {
    return Math.max(this.#breaker.waitMs(this.#powers.now()), 1000);
  }

  /**
   * Sends one request, and resolves when its answer begins. Rejects with the reason of the signal, or with
   * what the body was broken off by; neither is held against the upstream, unless `isLate` says so.
   */
  async send(options: SendOptions, isLate: (reason: unknown) => boolean): Promise<Sent> {
    const ticket = this.#breaker.enter();
    this.#running += 1;
    let answer: Dispatcher.ResponseData;
    try {
      answer = await this.#pool.request(options);
    } catch (error) {
      this.#running -= 1;
      const failure = this.#failureOf(error, options.signal, isLate);
      if (failure === undefined) {
        this.#count('cancelled');
        this.#breaker.left(ticket);
        throw options.signal.aborted ? options.signal.reason : error;
      }
      this.#count(failure);
      this.#failed(ticket, failure, error);
      return { failure };
    }
    const { statusCode, body } = answer;
    this.#count(`${Math.floor(statusCode / 100)}xx`);
    if (isFault(statusCode)) this.#failed(ticket, `status ${statusCode}`);
    else this.#passed(ticket);
    // The ticket is spent: from here on it is the breaker of that moment that learns of a break.
    body.once('error', (error) => {
      if (!options.signal.aborted && !(error instanceof errors.RequestAbortedError)) {
        this.#failed(this.#breaker.enter(), 'reset', error);
      }
    });
    body.once('close', () => (this.#running -= 1));
    return { answer };
  }

  /** Finishes what runs and takes no more. */
  close(): Promise<void> {
    return this.#pool.close();
  }

  /** Undefined when the upstream is not at fault. */
  #failureOf(
    error: unknown,
    { aborted, reason }: AbortSignal,
    isLate: (reason: unknown) => boolean,
  ): Failure | undefined {
    if (aborted) return isLate(reason) ? 'timeout' : undefined;
    if (!(error instanceof Error)) return undefined;
    if (this.#connectErrors.has(error)) return 'connect';
    if (error instanceof errors.ConnectTimeoutError) return 'connect';
    if (error instanceof errors.BodyTimeoutError) return 'timeout';
    return BROKEN.has(codeOf(error)) || codeOf(error).startsWith('HPE_') ? 'reset' : undefined;
  }

  #count(kind: string): void {
    this.#requests.set(kind, (this.#requests.get(kind) ?? 0) + 1);
  }

  #passed(ticket: Ticket): void {
    this.#breaker.passed(ticket);
    this.#tell('a probe passed');
  }

  #failed(ticket: Ticket, because: string, error?: unknown): void {
    this.#breaker.failed(ticket, this.#powers.now());
    const code = error instanceof Error ? ` (${codeOf(error)})` : '';
    this.#tell(`${because}${code}`);
  }

  #tell(because: string): void {
    const state = this.#breaker.state(this.#powers.now());
    if (state === this.#known || state === 'half-open') return;
    this.#known = state;
    this.#powers.onBreaker({ route: this.#route, upstream: this.url, state, because });
  }
}

/** Said by a gateway or a server that cannot, not by one that has failed at this request. */
function isFault(status: number): boolean {
  return status === 502 || status === 503 || status === 504;
}

/** The connection ended, or held what is no HTTP. */
const BROKEN: ReadonlySet<string> = new Set([
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'UND_ERR_SOCKET',
  'UND_ERR_HEADERS_OVERFLOW',
  'UND_ERR_RES_CONTENT_LENGTH_MISMATCH',
  'UND_ERR_RES_EXCEEDED_MAX_SIZE',
]);

function codeOf(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name;
}
