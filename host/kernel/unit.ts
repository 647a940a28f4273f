/** One plugin in this host, as the supervisor keeps it: where it stands and when it is tried again. */
import { Conduct } from './conduct.ts';
import { Life, notServing, type Transition } from './lifecycle.ts';
import type { Serving } from './serving.ts';

export class Unit {
  readonly life: Life;
  serving: Serving | undefined;
  /** What the unit was last brought to; nothing is done while that is unchanged. */
  applied = '';
  /** Resolves when the last of its moves has ended; never rejects. */
  turn: Promise<void> = Promise.resolve();
  /** Starts that failed in a row. */
  failures = 0;
  /** Of the version that was loaded last. */
  conduct = new Conduct();
  digest = '';
  /** Starts after a failure. */
  restarts = 0;
  #retry: NodeJS.Timeout | undefined;
  #retryAt = 0;

  constructor(name: string, onTransition: (transition: Transition) => void) {
    this.life = new Life(name, onTransition);
  }

  /** The running version. Throws what a caller is told when there is none. */
  get running(): Serving {
    if (this.serving !== undefined) return this.serving;
    const { plugin, state, reason } = this.life;
    throw notServing(plugin, state, reason, Math.max(1000, this.#retryAt - performance.now()));
  }

  /** Does the work once, in `ms`, in place of what was planned before. */
  retryIn(ms: number, work: () => void): void {
    clearTimeout(this.#retry);
    this.#retryAt = performance.now() + ms;
    this.#retry = setTimeout(work, ms).unref();
  }

  endRetry(): void {
    clearTimeout(this.#retry);
    this.#retryAt = 0;
  }
}
