/**
 * Keeps a flood out of a log. Invariant: of the events of one key all of a burst pass, then a bounded
 * number a second, and the next one that passes knows how many were left out before it.
 */
import { Buckets, type Rate } from './rate.ts';

/** Keys with something left out; the count of the one that was seen first is forgotten. */
const MAX_KEYS = 4096;

export class Sampler {
  readonly #buckets: Buckets;
  readonly #suppressed = new Map<string, number>();

  constructor(rate: Rate, now: () => number) {
    this.#buckets = new Buckets(rate, now);
  }

  /** Undefined when this event is left out; else how many were since the last one that passed. */
  take(key: string): number | undefined {
    const before = this.#suppressed.get(key) ?? 0;
    if (this.#buckets.take(key) === 0) {
      this.#suppressed.delete(key);
      return before;
    }
    const [first] = this.#suppressed.keys();
    const full = before === 0 && this.#suppressed.size >= MAX_KEYS;
    if (first !== undefined && full) this.#suppressed.delete(first);
    this.#suppressed.set(key, before + 1);
    return undefined;
  }
}
