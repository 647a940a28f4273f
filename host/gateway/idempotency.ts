/**
 * Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): a request that is sent again with its key
 * is answered again, and not executed again. Invariant: of one principal and key at most one execution
 * holds the lease; an answer is kept before it is sent. When a host dies in the middle the lease ends, and
 * whoever sends the request again then has it executed once more.
 */
import { hash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import type { Seal, Sealed } from '../kernel/seal.ts';

/** How long after its host died a key cannot be used. */
const LEASE_MS = 30_000;
/** A lease is renewed for so long at most. */
const MAX_RUN_MS = 3_600_000;
const WAIT_MS = 15_000;
/** Requests that wait in this host for the answer to another. */
const MAX_WAITING = 256;
const MAX_PAUSE_MS = 500;
const SWEEP_MS = 60_000;

/** Fields that come with a kept answer; all others are made anew, or were of that moment. */
export const KEPT_FIELDS = ['content-type', 'location', 'cache-control', 'etag'] as const;

export interface Answer {
  readonly status: number;
  /** Those of `KEPT_FIELDS` that it has. */
  readonly fields: { readonly [name: string]: string };
  /** Undefined when it goes out as it comes into being, and cannot be kept. */
  readonly body: Buffer | undefined;
}

/** Whose key; `run` tells this execution from others. */
export interface KeyedRun {
  readonly subject: string;
  readonly key: string;
  readonly run: string;
}

export type Found =
  | { readonly state: 'begun' }
  | { readonly state: 'running'; readonly fingerprint: Buffer }
  | {
      readonly state: 'done';
      readonly fingerprint: Buffer;
      readonly status: number;
      /** Undefined when it was too large to keep. */
      readonly answer: Sealed | undefined;
    }
  /** The principal has as many keys as are kept. */
  | { readonly state: 'full' };

/** What hosts share of it; durable. Rejects with UNAVAILABLE when it is away. */
export interface IdempotencyStore {
  /** Takes the lease where nobody holds it and nothing is kept, else tells what there is. */
  begin(
    run: KeyedRun,
    fingerprint: Buffer,
    times: { leaseMs: number; keepMs: number },
  ): Promise<Found>;
  renew(run: KeyedRun, leaseMs: number): Promise<void>;
  /** Ends the execution; answers whether there was room for the answer. */
  finish(
    run: KeyedRun,
    status: number,
    answer: Sealed | undefined,
    keepMs: number,
  ): Promise<boolean>;
  /** Forgets the key, if this execution still holds it. */
  release(run: KeyedRun): Promise<void>;
  /** Forgets what is over. */
  sweep(): Promise<void>;
}

export interface IdempotencyOptions {
  readonly store: IdempotencyStore;
  readonly seal: Seal;
  /** How long answers are kept, in milliseconds. */
  readonly keepMs: number;
  readonly maxAnswerBytes: number;
  readonly newId: () => string;
  readonly onError: (message: string, error: unknown) => void;
  /** Longest wait for the answer to the same request elsewhere. */
  readonly waitMs?: number;
  readonly leaseMs?: number;
}

/** An execution that holds the lease until it has ended. */
export interface Run {
  /**
   * Keeps the answer; answers whether it is kept, and never rejects: the work is done, and the caller must
   * hear of it. An answer that may be another one next time (5xx, 429, a caller that left), or is a
   * stream, is not kept on purpose: whoever sends the request again has it executed again.
   */
  end(answer: Answer): Promise<boolean>;
}

export class Idempotency {
  readonly #options: IdempotencyOptions;
  readonly #leaseMs: number;
  readonly #sweeper: NodeJS.Timeout;
  #waiting = 0;

  constructor(options: IdempotencyOptions) {
    this.#options = options;
    this.#leaseMs = options.leaseMs ?? LEASE_MS;
    this.#sweeper = setInterval(() => {
      options.store.sweep().catch((error: unknown) => {
        options.onError('old idempotency keys were not deleted', error);
      });
    }, SWEEP_MS).unref();
  }

  close(): void {
    clearInterval(this.#sweeper);
  }

  /**
   * The lease, or the answer that is kept. `request` is all that makes it the same request. Rejects with
   * IDEMPOTENCY_MISMATCH when the key came with another request; with CONFLICT when the same one does not
   * end in time, or its answer was too large to keep; with RESOURCE_EXHAUSTED when there is no room.
   */
  async begin(
    subject: string,
    key: string,
    request: readonly (string | Uint8Array)[],
    signal: AbortSignal,
  ): Promise<Run | Answer> {
    const { store, keepMs, newId, waitMs = WAIT_MS } = this.#options;
    const run = { subject, key, run: newId() };
    const fingerprint = fingerprintOf(request);
    const until = Date.now() + waitMs;
    for (let pause = 20; ; pause = Math.min(2 * pause, MAX_PAUSE_MS)) {
      const found = await store.begin(run, fingerprint, { leaseMs: this.#leaseMs, keepMs });
      if (found.state === 'begun') return this.#lease(run);
      if (found.state === 'full') throw full();
      if (!found.fingerprint.equals(fingerprint)) throw mismatch();
      if (found.state === 'done') return this.#answer(run, found.status, found.answer);
      if (Date.now() >= until || this.#waiting >= MAX_WAITING) throw busy();
      this.#waiting++;
      await sleep(pause, undefined, { signal })
        .catch((cause: unknown) => {
          throw new NoaError('CANCELLED', 'the caller left before the answer', { cause });
        })
        .finally(() => this.#waiting--);
    }
  }

  #lease(run: KeyedRun): Run {
    const { store, onError } = this.#options;
    const until = Date.now() + MAX_RUN_MS;
    const renewal = setInterval(() => {
      if (Date.now() > until) return clearInterval(renewal);
      store.renew(run, this.#leaseMs).catch((error: unknown) => {
        onError('the lease of an idempotency key was not renewed', error);
      });
    }, this.#leaseMs / 3).unref();
    return {
      end: async (answer) => {
        clearInterval(renewal);
        try {
          return await this.#keep(run, answer);
        } catch (error) {
          onError('the answer to a request with an idempotency key was not kept', error);
          return false;
        }
      },
    };
  }

  async #keep(run: KeyedRun, answer: Answer): Promise<boolean> {
    const { store, seal, keepMs, maxAnswerBytes } = this.#options;
    const { status, body } = answer;
    if (status >= 499 || status === 429 || body === undefined) {
      await store.release(run);
      return false;
    }
    const isSmall = body.length <= maxAnswerBytes;
    const sealed = isSmall ? seal.close(contextOf(run), write(answer, body)) : undefined;
    return store.finish(run, status, sealed, keepMs);
  }

  #answer(run: KeyedRun, status: number, sealed: Sealed | undefined): Answer {
    if (sealed === undefined) {
      const text = `idempotency-key: the request was answered with ${status}, and the answer was too large to keep; look up what it did`;
      throw new NoaError('CONFLICT', text);
    }
    return read(status, this.#options.seal.open(contextOf(run), sealed));
  }
}

/**
 * The key in the field: a string of structured fields (RFC 9651), or bare visible ASCII as many clients
 * send it. Throws INVALID_ARGUMENT.
 */
export function readIdempotencyKey(field: string): string {
  const quoted = /^"((?:[ !#-[\]-~]|\\["\\])*)"$/.exec(field)?.[1];
  const key = quoted?.replaceAll(/\\(["\\])/g, '$1') ?? (/^[!-~]+$/.test(field) ? field : '');
  if (key.length >= 1 && key.length <= 255 && !(quoted === undefined && key.includes('"')))
    return key;
  const rule =
    'idempotency-key: must be 1 to 255 visible ASCII characters, best as a string in quotes';
  throw new NoaError('INVALID_ARGUMENT', rule);
}

/** Each part by its digest, so that none can run over into the next. */
function fingerprintOf(request: readonly (string | Uint8Array)[]): Buffer {
  return hash('sha256', request.map((part) => hash('sha256', part)).join(), 'buffer');
}

const contextOf = ({ subject, key }: KeyedRun) => ['idempotency', subject, key];

function write({ fields }: Answer, body: Buffer): string {
  return JSON.stringify({ fields, body: body.toString('base64') });
}

function read(status: number, text: string): Answer {
  const { fields, body } = JSON.parse(text) as { fields: Answer['fields']; body: string };
  return { status, fields, body: Buffer.from(body, 'base64') };
}

function mismatch(): NoaError {
  const text = 'idempotency-key: was used with another request; use a new key for each request';
  return new NoaError('IDEMPOTENCY_MISMATCH', text);
}

function busy(): NoaError {
  const text = 'idempotency-key: the same request is being executed; send it again later';
  return new NoaError('CONFLICT', text, { retryAfterMs: 1000 });
}

function full(): NoaError {
  const text =
    'idempotency-key: as many keys of this caller are kept as may be (gateway.idempotency.max_keys); wait until some expire';
  return new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 60_000 });
}
