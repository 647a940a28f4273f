/**
 * The circuit breaker of one upstream (Nygard, Release It!, 2007): after so many failures in a row nothing
 * is sent to it for a while, then a few probes, and all again once they pass. Invariant: what a request
 * that began in an earlier state ends in changes nothing, and every probe is given back, however it ends.
 */
export interface BreakerSettings {
  /** In a row, that open it. */
  readonly failures: number;
  readonly open_ms: number;
  /** Requests that must pass before it closes, and that may be under way until then. */
  readonly probes: number;
}

export type BreakerState = 'closed' | 'half-open' | 'open';

/** What a request took along from the state that let it through. */
export type Ticket = number;

export class Breaker {
  readonly #settings: BreakerSettings;
  #generation = 0;
  /** While closed, in a row. */
  #failures = 0;
  /** 0 while closed. */
  #openUntil = 0;
  #probing = 0;
  #passed = 0;

  constructor(settings: BreakerSettings) {
    this.#settings = settings;
  }

  /** `now` in milliseconds of any one clock, here and below. */
  state(now: number): BreakerState {
    if (this.#openUntil === 0) return 'closed';
    return now < this.#openUntil ? 'open' : 'half-open';
  }

  /** Whether a request may go through now. */
  admits(now: number): boolean {
    if (this.#openUntil === 0) return true;
    return now >= this.#openUntil && this.#probing + this.#passed < this.#settings.probes;
  }

  /** Milliseconds until the next probe; 0 when it is not open. */
  waitMs(now: number): number {
    return Math.max(0, this.#openUntil - now);
  }

  /** Lets a request through that `admits` has allowed; one of `passed`, `failed` and `left` follows. */
  enter(): Ticket {
    if (this.#openUntil !== 0) this.#probing += 1;
    return this.#generation;
  }

  passed(ticket: Ticket): void {
    if (ticket !== this.#generation) return;
    this.#failures = 0;
    if (this.#openUntil === 0) return;
    this.#probing -= 1;
    this.#passed += 1;
    if (this.#passed >= this.#settings.probes) this.#begin(0);
  }

  failed(ticket: Ticket, now: number): void {
    if (ticket !== this.#generation) return;
    this.#failures += 1;
    if (this.#openUntil === 0 && this.#failures < this.#settings.failures) return;
    this.#begin(now + this.#settings.open_ms);
  }

  /** It ended without telling anything of the upstream. */
  left(ticket: Ticket): void {
    if (ticket === this.#generation && this.#openUntil !== 0) this.#probing -= 1;
  }

  #begin(openUntil: number): void {
    this.#generation += 1;
    this.#openUntil = openUntil;
    this.#failures = 0;
    this.#probing = 0;
    this.#passed = 0;
  }
}
