/**
 * The streams that are open: bounded, in all and for each identity. Invariant: one that would go on for
 * ever ends when its caller may no longer have it, within `heartbeat_ms`, and when the host stops.
 */
import { NoaError } from '@noa/sdk/host';
import type { GrpcExchange } from './exchange.ts';

export interface StreamSettings {
  readonly max_connections: number;
  readonly max_per_identity: number;
  readonly heartbeat_ms: number;
}

export class OpenStreams {
  readonly #settings: StreamSettings;
  /** Rejects when the caller may not have its stream any more. */
  readonly #verify: (exchange: GrpcExchange) => Promise<void>;
  readonly #bySubject = new Map<string, number>();
  readonly #endless = new Set<GrpcExchange>();
  #count = 0;
  #timer: NodeJS.Timeout | undefined;
  #isDraining = false;

  constructor(settings: StreamSettings, verify: (exchange: GrpcExchange) => Promise<void>) {
    this.#settings = settings;
    this.#verify = verify;
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** Does the work of a stream. Rejects with RESOURCE_EXHAUSTED over a bound, UNAVAILABLE at the end. */
  async hold(exchange: GrpcExchange, isEndless: boolean, work: () => Promise<void>): Promise<void> {
    if (this.#isDraining) throw stops();
    const subject = exchange.principal?.subject; // of health and reflection there is none
    const { max_connections: max, max_per_identity: maxEach } = this.#settings;
    if (this.#count >= max) throw tooMany(`this host has ${max}`, 'streams.max_connections');
    const own = subject === undefined ? 0 : (this.#bySubject.get(subject) ?? 0);
    if (own >= maxEach) throw tooMany(`${subject} has ${maxEach}`, 'streams.max_per_identity');
    this.#count += 1;
    if (subject !== undefined) this.#bySubject.set(subject, own + 1);
    if (isEndless) this.#watch(exchange);
    try {
      await work();
    } finally {
      this.#count -= 1;
      this.#endless.delete(exchange);
      if (subject !== undefined) this.#release(subject);
    }
  }

  #release(subject: string): void {
    const left = (this.#bySubject.get(subject) ?? 1) - 1;
    if (left > 0) this.#bySubject.set(subject, left);
    else this.#bySubject.delete(subject);
  }

  #watch(exchange: GrpcExchange): void {
    this.#endless.add(exchange);
    this.#timer ??= setInterval(() => this.#look(), this.#settings.heartbeat_ms).unref();
  }

  #look(): void {
    for (const exchange of this.#endless) {
      if (exchange.principal === undefined) continue;
      this.#verify(exchange).catch((error: unknown) => {
        // What cannot be asked now holds until it can be.
        if (error instanceof NoaError && error.code !== 'UNAVAILABLE') exchange.leave(error);
      });
    }
    if (this.#endless.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Takes no more, and ends those that would go on for ever. */
  drain(): void {
    this.#isDraining = true;
    clearInterval(this.#timer);
    for (const exchange of this.#endless) exchange.leave(stops());
  }
}

function tooMany(who: string, key: string): NoaError {
  const text = `${who} streams open already (${key}): end one, or try again later`;
  return new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 1000 });
}

function stops(): NoaError {
  const text = 'the host stops: call again, a stream of events after the last id that arrived';
  return new NoaError('UNAVAILABLE', text, { retryAfterMs: 1000 });
}
