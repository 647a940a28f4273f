/**
 * The connections of this process that stay open: event streams, streamed answers, WebSockets. Invariants:
 * they are bounded in all and for each identity; one whose credential holds no more ends within a beat.
 */
import { NoaError } from '@noa/sdk/host';
import type { FastifyRequest } from 'fastify';
import type { Gateway } from '../../gateway/gateway.ts';
import { arrivalOf, principalOf } from '../identity.ts';

export interface ConnectionsOptions {
  readonly max: number;
  readonly maxPerIdentity: number;
  /** Between two signs of life. */
  readonly beatMs: number;
  /** Longest time in which the other end takes nothing of what waits for it. */
  readonly stallMs: number;
  /** For the other end to take the last of what it is told. */
  readonly endMs: number;
}

export const STREAM_LIMITS: ConnectionsOptions = {
  max: 8000,
  maxPerIdentity: 1000,
  beatMs: 15_000,
  stallMs: 30_000,
  endMs: 5000,
};

/** Somebody at the other end who takes frames in their own time. */
export interface Consumer {
  /**
   * Undefined when there is room for more, else a promise of room. Never rejects; when the other end is
   * gone a frame is dropped and there is room.
   */
  send(frame: string | Uint8Array): Promise<void> | undefined;
  readonly closed: boolean;
}

export interface Connection extends Consumer {
  /** Shows that this end lives, and looks whether the other one does. */
  beat(): void;
  /** With the reason, or because the host stops. */
  end(reason?: NoaError): void;
}

/** Who is behind a connection. */
export interface Holder {
  readonly subject: string;
  /** Throws or rejects when the credential holds no more. */
  readonly verify: () => unknown;
}

export class Connections {
  readonly options: ConnectionsOptions;
  readonly #open = new Map<Connection, Holder>();
  readonly #bySubject = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;
  #draining = false;
  #endMs: number;

  constructor(options: ConnectionsOptions) {
    this.options = options;
    this.#endMs = options.endMs;
    this.#timer = setInterval(() => this.#beat(), options.beatMs).unref();
  }

  /** Longest wait for the other end to take the last of what it is told. */
  get endMs(): number {
    return this.#endMs;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Throws RESOURCE_EXHAUSTED or UNAVAILABLE when no further connection of this identity is taken. */
  assertRoom(subject: string): void {
    if (this.#draining) {
      throw new NoaError('UNAVAILABLE', 'the host stops: connect again', { retryAfterMs: 1000 });
    }
    const { max, maxPerIdentity } = this.options;
    const bound =
      (this.#bySubject.get(subject) ?? 0) >= maxPerIdentity
        ? `${maxPerIdentity} of ${subject} (streams.max_per_identity)`
        : this.#open.size >= max
          ? `${max} (streams.max_connections)`
          : undefined;
    if (bound === undefined) return;
    const text = `no more streams and WebSockets are open at one time than ${bound}: close one`;
    throw new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 5000 });
  }

  /** To be taken back by `delete` when it is closed. */
  add(connection: Connection, holder: Holder): void {
    this.#open.set(connection, holder);
    this.#bySubject.set(holder.subject, (this.#bySubject.get(holder.subject) ?? 0) + 1);
  }

  delete(connection: Connection): void {
    const holder = this.#open.get(connection);
    if (holder === undefined) return;
    this.#open.delete(connection);
    const left = (this.#bySubject.get(holder.subject) ?? 0) - 1;
    if (left > 0) this.#bySubject.set(holder.subject, left);
    else this.#bySubject.delete(holder.subject);
  }

  /** Takes no more and ends those that are open; what is not taken within `graceMs` is cut. */
  drain(graceMs: number): void {
    this.#draining = true;
    this.#endMs = Math.min(this.#endMs, graceMs);
    clearInterval(this.#timer);
    for (const connection of this.#open.keys()) connection.end();
  }

  #beat(): void {
    for (const [connection, { verify }] of this.#open) {
      connection.beat();
      void this.#verify(connection, verify);
    }
  }

  async #verify(connection: Connection, verify: () => unknown): Promise<void> {
    try {
      const verdict = verify();
      if (verdict instanceof Promise) await verdict;
    } catch (error) {
      // Who cannot be asked now is asked at the next beat.
      if (error instanceof NoaError && error.code === 'UNAVAILABLE') return;
      const text = 'the credential of this connection holds no more: connect again with another';
      const gone = new NoaError('UNAUTHENTICATED', text, { cause: error });
      connection.end(error instanceof NoaError ? error : gone);
    }
  }
}

/** Whoever made this request, for as long as its credential holds and has this scope. */
export function holderOf(
  gateway: Gateway,
  request: FastifyRequest,
  scope: string | undefined,
): Holder {
  const arrival = arrivalOf(request);
  const verify = async (): Promise<void> => {
    const principal = await gateway.identify(arrival);
    if (scope !== undefined) gateway.requireScope(arrival, principal, scope);
  };
  return { subject: principalOf(request).subject, verify };
}
