/** What one call has cost so far, as its runtime tells it: for the records that the call leaves. */
import type { CallCost } from './loader.ts';

export class Spending implements CallCost {
  fuel = 0;
  executionMs = 0;
  readonly #onMore: (more: CallCost) => void;

  /** `onMore` is told of each increase. */
  constructor(onMore: (more: CallCost) => void) {
    this.#onMore = onMore;
  }

  /** Takes the sums of a call until now; one that was begun anew counts from zero again. */
  note({ fuel: fuelSum, executionMs: msSum }: CallCost): void {
    // A process that its plugin has taken over says what it likes.
    const sums = { fuel: Math.max(0, fuelSum), executionMs: Math.max(0, msSum) };
    const anew = sums.fuel < this.fuel || sums.executionMs < this.executionMs;
    const fuel = anew ? sums.fuel : sums.fuel - this.fuel;
    const executionMs = anew ? sums.executionMs : sums.executionMs - this.executionMs;
    this.fuel = sums.fuel;
    this.executionMs = sums.executionMs;
    if (fuel > 0 || executionMs > 0) this.#onMore({ fuel, executionMs });
  }
}
