/** Token buckets, one for each key, refilled evenly: how all that is limited by rate is limited. */
import { NoaError } from '@noa/sdk/host';

/** Keys remembered; the one that was seen first is forgotten, and starts anew with a full bucket. */
const MAX_KEYS = 10_000;

export interface Rate {
  readonly burst: number;
  readonly perSecond: number;
}

export class Buckets {
  readonly #rate: Rate;
  /** Milliseconds, from whenever. */
  readonly #now: () => number;
  readonly #buckets = new Map<string, { left: number; at: number }>();

  constructor(rate: Rate, now: () => number) {
    this.#rate = rate;
    this.#now = now;
  }

  /** Takes so much and answers 0, or takes nothing and answers the milliseconds until there is so much. */
  take(key: string, amount = 1): number {
    const { burst, perSecond } = this.#rate;
    const now = this.#now();
    let bucket = this.#buckets.get(key);
    if (bucket === undefined) {
      const [first] = this.#buckets.keys();
      if (first !== undefined && this.#buckets.size >= MAX_KEYS) this.#buckets.delete(first);
      bucket = { left: burst, at: now };
      this.#buckets.set(key, bucket);
    }
    const refill = (Math.max(0, now - bucket.at) / 1000) * perSecond;
    bucket.left = Math.min(burst, bucket.left + refill);
    bucket.at = now;
    // More than a bucket holds waits for a full one.
    const wanted = Math.min(amount, burst);
    if (bucket.left < wanted) return Math.ceil(((wanted - bucket.left) / perSecond) * 1000);
    bucket.left -= wanted;
    return 0;
  }
}

/** A burst of one second's worth, then a refusal. */
export class RateLimiter {
  readonly #perSecond: number;
  readonly #buckets: Buckets;

  constructor(perSecond: number, now: () => number) {
    this.#perSecond = perSecond;
    this.#buckets = new Buckets({ burst: perSecond, perSecond }, now);
  }

  /** Throws RATE_LIMITED with the time to wait when there is not so much left. */
  take(key: string, what: string, amount = 1): void {
    const retryAfterMs = this.#buckets.take(key, amount);
    if (retryAfterMs === 0) return;
    const text = `${what} is limited to ${this.#perSecond} a second`;
    throw new NoaError('RATE_LIMITED', text, { retryAfterMs });
  }
}
