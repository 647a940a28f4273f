/**
 * A sliding window counter: what was counted in this window of the clock and, by the part of it that a
 * window ending now still covers, in the one before. Invariant: whoever is admitted only while `used` is
 * below a limit is admitted at most `limit` times in a window of the clock, and at most
 * `limit × (1 + d / length)` times in any stretch of d ≤ length.
 */

/** One window of the clock, as far as it is known here. */
export class Slot {
  readonly index: number;
  /** What all hosts had counted when they were last asked. */
  known = 0;
  /** Counted here and not yet told. */
  pending = 0;
  /** Counted here and on its way to the others. */
  flying = 0;

  constructor(index: number) {
    this.index = index;
  }

  get count(): number {
    return this.known + this.pending + this.flying;
  }

  /** Counted here without the others' knowing. */
  get unsaid(): number {
    return this.pending + this.flying;
  }
}

export class SlidingWindow {
  readonly #length: number;
  current: Slot;
  previous: Slot;

  /** `length` in milliseconds; `now` in milliseconds since the epoch, so that all hosts mean the same window. */
  constructor(length: number, now: number) {
    this.#length = length;
    const index = Math.floor(now / length);
    this.current = new Slot(index);
    this.previous = new Slot(index - 1);
  }

  /** Goes on to the window of `now`; answers whether it is another one. A clock that is set back stays in it. */
  advance(now: number): boolean {
    const index = Math.floor(now / this.#length);
    if (index <= this.current.index) return false;
    this.previous = index === this.current.index + 1 ? this.current : new Slot(index - 1);
    this.current = new Slot(index);
    return true;
  }

  /** What counts against a limit at `now`. */
  used(now: number): number {
    return this.previous.count * (1 - this.#elapsed(now) / this.#length) + this.current.count;
  }

  /** Milliseconds until this window of the clock ends. */
  left(now: number): number {
    return this.#length - this.#elapsed(now);
  }

  /** Milliseconds until one more is within `limit`, when nothing else is counted; 0 when it is now. */
  wait(now: number, limit: number): number {
    if (this.used(now) + 1 <= limit) return 0;
    const { count } = this.current;
    const whole =
      count + 1 <= limit
        ? this.#length * (1 - (limit - 1 - count) / this.previous.count) - this.#elapsed(now)
        : this.left(now) + this.#length * (1 - (limit - 1) / count);
    return Math.ceil(whole);
  }

  #elapsed(now: number): number {
    return Math.max(0, now - this.current.index * this.#length);
  }
}
