/**
 * Keeps a flood out of a log. Invariant: of the events of one key all of a burst pass, then a bounded
 * number a second, and the next one that passes knows how many were left out before it.
 */

/** Keys remembered; the one that was seen first is forgotten, with its count. */
const MAX_KEYS = 4096;

export interface SampleRate {
  readonly burst: number;
  readonly perSecond: number;
}

export class Sampler {
  readonly #rate: SampleRate;
  /** Milliseconds, from whenever. */
  readonly #now: () => number;
  readonly #keys = new Map<string, { left: number; at: number; suppressed: number }>();

  constructor(rate: SampleRate, now: () => number) {
    this.#rate = rate;
    this.#now = now;
  }

  /** Undefined when this event is left out; else how many were since the last one that passed. */
  take(key: string): number | undefined {
    const { burst, perSecond } = this.#rate;
    const at = this.#now();
    const state = this.#keys.get(key) ?? { left: burst, at, suppressed: 0 };
    if (!this.#keys.has(key)) this.#remember(key, state);
    const refill = (Math.max(0, at - state.at) / 1000) * perSecond;
    state.left = Math.min(burst, state.left + refill);
    state.at = at;
    if (state.left < 1) {
      state.suppressed += 1;
      return undefined;
    }
    state.left -= 1;
    const { suppressed } = state;
    state.suppressed = 0;
    return suppressed;
  }

  #remember(key: string, state: { left: number; at: number; suppressed: number }): void {
    const [first] = this.#keys.keys();
    if (first !== undefined && this.#keys.size >= MAX_KEYS) this.#keys.delete(first);
    this.#keys.set(key, state);
  }
}
