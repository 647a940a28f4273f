/**
 * How many requests an identity may make in a minute, by its level, counted by all hosts together.
 *
 * A host admits by what it knows and tells the others a tenth of a second later, so that a request costs
 * no way to the cache. Invariant: of each identity a host admits no more than a tenth of its limit (rounded up)
 * that the others do not know of; the next one waits until they do. So N hosts admit at most N tenths
 * above the limit. While the cache is away each host counts for itself.
 */
import { hash } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';
import { type Slot, SlidingWindow } from './window.ts';

export const LEVELS = ['L1', 'L2', 'L3', 'L4', 'L5'] as const;
export type Level = (typeof LEVELS)[number];
/** Requests a minute; at least 1. */
export type LevelLimits = { readonly [level in Lowercase<Level>]: number };

const LOWER = { L1: 'l1', L2: 'l2', L3: 'l3', L4: 'l4', L5: 'l5' } as const;

const WINDOW_MS = 60_000;
/** Long enough for the window after it, on a host whose clock is behind. */
const KEPT_MS = 3 * WINDOW_MS;
const TELL_MS = 100;
/** How often a cache that is away is asked whether it is back. */
const PROBE_MS = 1000;
/** Identities told at one time; the rest follow. */
const MAX_TOLD = 1000;
/** Identities remembered; of one that is forgotten, the others still know. */
const MAX_IDENTITIES = 50_000;

/** Counters that all hosts share. */
export interface SharedCounters {
  /** Adds to a counter, from 0 when there is none, and answers its value. Rejects when it cannot. */
  add(key: string, by: number, keptMs: number): Promise<number>;
}

/** What an admitted or refused request is told of its limit. */
export interface RateState {
  readonly level: Level;
  /** Requests a minute. */
  readonly limit: number;
  /** More that would be admitted now. */
  readonly remaining: number;
  /** Seconds until more are: the end of the window of the clock, or when none remains the next one. */
  readonly resetSeconds: number;
}

/** RATE_LIMITED, with what there is to know of the limit. */
export class RateLimitError extends NoaError {
  readonly rate: RateState;

  constructor(rate: RateState, retryAfterMs: number) {
    const { level, limit, resetSeconds } = rate;
    const text = `the level ${level} allows ${limit} requests a minute; try again in ${resetSeconds} s`;
    super('RATE_LIMITED', text, { retryAfterMs });
    this.rate = rate;
  }
}

export interface LimitsOptions {
  readonly levels: LevelLimits;
  readonly shared: SharedCounters;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Of each refusal, for metrics. */
  readonly refused: (level: Level) => void;
  /** Hears once that limits hold for this host alone, with the reason, and once that they are shared again. */
  readonly onShared: (shared: boolean, error?: unknown) => void;
}

class Identity {
  readonly window: SlidingWindow;
  readonly key: string;
  /** Whether what the others counted in the window before is known. */
  isPreviousKnown = false;
  exchange: Promise<void> | undefined;

  constructor(subject: string, now: number) {
    this.window = new SlidingWindow(WINDOW_MS, now);
    this.key = hash('sha256', subject, 'base64url');
  }
}

export class Limits {
  readonly #options: LimitsOptions;
  readonly #identities = new Map<string, Identity>();
  /** With something to tell. */
  readonly #untold = new Set<Identity>();
  #levels: LevelLimits;
  #isAway = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LimitsOptions) {
    this.#options = options;
    this.#levels = options.levels;
  }

  /** What was counted stays. */
  setLevels(levels: LevelLimits): void {
    this.#levels = levels;
  }

  /**
   * Counts one request. Throws or rejects with RateLimitError when it is one too many; a promise only when
   * the others must hear of earlier ones first.
   */
  take(subject: string, level: string | undefined): RateState | Promise<RateState> {
    const name = LEVELS.find((known) => known === level) ?? 'L5';
    const limit = this.#levels[LOWER[name]];
    const now = this.#options.now();
    const identity = this.#identity(subject, now);
    const { window } = identity;
    const used = window.used(now);
    if (used + 1 > limit) {
      this.#options.refused(name);
      const wait = window.wait(now, limit);
      const rate = { level: name, limit, remaining: 0, resetSeconds: Math.ceil(wait / 1000) };
      throw new RateLimitError(rate, wait);
    }
    const unsaid = window.current.unsaid + window.previous.unsaid;
    if (unsaid >= Math.ceil(limit / 10) && !this.#isAway) {
      return this.#takeNext(identity, subject, level);
    }
    window.current.pending += 1;
    this.#untold.add(identity);
    this.#schedule();
    const remaining = Math.floor(limit - used) - 1;
    const reset = remaining > 0 ? window.left(now) : window.wait(now, limit);
    return { level: name, limit, remaining, resetSeconds: Math.ceil(reset / 1000) };
  }

  /** Tells nobody any more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#untold.clear();
  }

  async #takeNext(
    identity: Identity,
    subject: string,
    level: string | undefined,
  ): Promise<RateState> {
    await this.#exchange(identity);
    return this.take(subject, level);
  }

  #identity(subject: string, now: number): Identity {
    let identity = this.#identities.get(subject);
    if (identity === undefined) {
      identity = new Identity(subject, now);
      const [oldest] = this.#identities.keys();
      if (oldest !== undefined && this.#identities.size >= MAX_IDENTITIES) {
        this.#identities.delete(oldest);
      }
    } else {
      if (!identity.window.advance(now)) return identity;
      identity.isPreviousKnown = false;
      this.#identities.delete(subject);
    }
    this.#identities.set(subject, identity);
    return identity;
  }

  #schedule(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => void this.#tell(), this.#isAway ? PROBE_MS : TELL_MS).unref();
  }

  /** One alone while the cache is away. */
  async #tell(): Promise<void> {
    const exchanges: Promise<void>[] = [];
    for (const identity of this.#untold) {
      exchanges.push(this.#exchange(identity));
      if (this.#isAway || exchanges.length === MAX_TOLD) break;
    }
    await Promise.all(exchanges);
    this.#timer = undefined;
    if (this.#untold.size > 0) this.#schedule();
  }

  #exchange(identity: Identity): Promise<void> {
    identity.exchange ??= this.#tellOf(identity).finally(() => (identity.exchange = undefined));
    return identity.exchange;
  }

  /** Never rejects. */
  async #tellOf(identity: Identity): Promise<void> {
    const { current, previous } = identity.window;
    this.#untold.delete(identity);
    try {
      const isPreviousDue = previous.pending > 0 || !identity.isPreviousKnown;
      await Promise.all([
        this.#add(identity.key, current),
        ...(isPreviousDue ? [this.#add(identity.key, previous)] : []),
      ]);
      if (identity.window.previous === previous) identity.isPreviousKnown = true;
      if (this.#isAway) this.#options.onShared(true);
      this.#isAway = false;
    } catch (error) {
      this.#untold.add(identity);
      if (!this.#isAway) this.#options.onShared(false, error);
      this.#isAway = true;
    }
  }

  async #add(key: string, slot: Slot): Promise<void> {
    const told = slot.pending;
    slot.flying += told;
    slot.pending = 0;
    try {
      const value = await this.#options.shared.add(`${slot.index}:${key}`, told, KEPT_MS);
      slot.known = Math.max(slot.known, value); // the cache may have lost some
    } catch (error) {
      slot.pending += told;
      throw error;
    } finally {
      slot.flying -= told;
    }
  }
}

/** The fields of HTTP (metadata of gRPC) that tell of a limit: the three of old and those of draft-ietf-httpapi-ratelimit-headers from 08 on. */
export function rateFields({ level, limit, remaining, resetSeconds }: RateState): {
  readonly [name: string]: string;
} {
  return {
    'ratelimit-limit': String(limit),
    'ratelimit-remaining': String(remaining),
    'ratelimit-reset': String(resetSeconds),
    'ratelimit-policy': `"${level}";q=${limit};w=${WINDOW_MS / 1000}`,
    ratelimit: `"${level}";r=${remaining};t=${resetSeconds}`,
  };
}
