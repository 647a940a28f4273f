/** Token buckets, one for each key: a burst of one second's worth, refilled evenly. */
import { NoaError } from '@noa/sdk/host';

/** Keys remembered; a key that is forgotten starts with a full bucket. */
const MAX_KEYS = 10_000;

export class RateLimiter {
  readonly #perSecond: number;
  readonly #now: () => number;
  readonly #buckets = new Map<string, { left: number; at: number }>();

  constructor(perSecond: number, now: () => number) {
    this.#perSecond = perSecond;
    this.#now = now;
  }

  /** Takes one. Throws RATE_LIMITED with the time to wait when the bucket is empty. */
  take(key: string, what: string): void {
    const now = this.#now();
    let bucket = this.#buckets.get(key);
    if (bucket === undefined) {
      if (this.#buckets.size >= MAX_KEYS) this.#buckets.clear();
      bucket = { left: this.#perSecond, at: now };
      this.#buckets.set(key, bucket);
    }
    const refill = ((now - bucket.at) / 1000) * this.#perSecond;
    bucket.left = Math.min(this.#perSecond, bucket.left + Math.max(0, refill));
    bucket.at = now;
    if (bucket.left < 1) {
      throw new NoaError('RATE_LIMITED', `${what} is limited to ${this.#perSecond} a second`, {
        retryAfterMs: Math.ceil(((1 - bucket.left) / this.#perSecond) * 1000),
      });
    }
    bucket.left -= 1;
  }
}
