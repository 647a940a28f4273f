/**
 * Judges a plugin whose code brings workers down (Harm in loader.ts): now and then is tolerated, too
 * often means a pause, longer each time, and too many pauses mean that it is given up. What a plugin
 * throws or traps on is no harm, so no input that makes it fail brings it here; one that makes an export
 * overrun its own time does, because a plugin answers for its time (SECURITY.md).
 */

/** So many times at once; one of them is forgotten each … */
const TOLERATED = 5;
const FORGOTTEN_MS = 10_000;
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 30_000;
/** After so many pauses the next one is for good, unless … */
const MAX_PAUSES = 5;
/** … it has behaved for so long since the last. */
const REFORMED_MS = 10 * 60_000;

export type Verdict =
  | { readonly action: 'tolerate' }
  | { readonly action: 'pause'; readonly ms: number }
  | { readonly action: 'quarantine' };

export class Conduct {
  /** How much is not forgotten yet, as of `#at`. */
  #weight = 0;
  #at = 0;
  #pauses = 0;
  #pausedUntil = 0;

  /** Notes one harm; what is due for it. What still comes during a pause belongs to what led to it. */
  harmed(now: number): Verdict {
    if (now < this.#pausedUntil) return { action: 'tolerate' };
    this.#weight = Math.max(0, this.#weight - Math.max(0, now - this.#at) / FORGOTTEN_MS) + 1;
    this.#at = now;
    if (this.#weight < TOLERATED) return { action: 'tolerate' };
    if (now - this.#pausedUntil > REFORMED_MS) this.#pauses = 0;
    this.#pauses += 1;
    if (this.#pauses > MAX_PAUSES) return { action: 'quarantine' };
    const ms = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this.#pauses - 1));
    this.#pausedUntil = now + ms;
    // A plugin that comes back is on probation: about one more and it pauses again.
    this.#weight = TOLERATED - 1;
    return { action: 'pause', ms };
  }
}
