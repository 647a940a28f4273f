/** Bounds how many calls of one plugin run at once and how many wait for their turn. */
import { NoaError } from '@noa/sdk/host';

interface Waiting {
  enter(): void;
  refuse(error: NoaError): void;
}

export class Gate {
  readonly #limit: number;
  readonly #queueLimit: number;
  readonly #now: () => number;
  readonly #queue: Waiting[] = [];
  #running = 0;
  #onIdle: (() => void) | undefined;

  constructor(limit: number, queueLimit: number, now: () => number) {
    this.#limit = limit;
    this.#queueLimit = queueLimit;
    this.#now = now;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#queue.length;
  }

  /** Takes a place at once, or answers false when the caller has to `wait`. */
  tryEnter(): boolean {
    if (this.#running >= this.#limit) return false;
    this.#running += 1;
    return true;
  }

  /**
   * Waits for a place. Rejects with RESOURCE_EXHAUSTED when the queue is full, DEADLINE_EXCEEDED when
   * the time (milliseconds since the epoch) is over first, CANCELLED when the caller leaves.
   */
  wait(deadline: number, signal: AbortSignal): Promise<void> {
    if (this.#queue.length >= this.#queueLimit) {
      throw new NoaError(
        'RESOURCE_EXHAUSTED',
        `${this.#limit} calls of this plugin run and ${this.#queueLimit} wait: try again later`,
        { retryAfterMs: 1000 },
      );
    }
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        const index = this.#queue.indexOf(waiting);
        if (index >= 0) this.#queue.splice(index, 1);
      };
      const waiting: Waiting = {
        enter: () => {
          leave();
          resolve();
        },
        refuse: (error) => {
          leave();
          reject(error);
        },
      };
      const onAbort = (): void => waiting.refuse(new NoaError('CANCELLED', 'the caller went away'));
      const expire = (): void =>
        waiting.refuse(
          new NoaError('DEADLINE_EXCEEDED', 'the call waited for its turn until its deadline'),
        );
      const timer = setTimeout(expire, Math.max(0, deadline - this.#now()));
      signal.addEventListener('abort', onAbort);
      this.#queue.push(waiting);
    });
  }

  /** Gives the place to the next in line. */
  leave(): void {
    const next = this.#queue.shift();
    if (next) return next.enter();
    this.#running -= 1;
    if (this.#running === 0) this.#onIdle?.();
  }

  /** Resolves when nothing runs, or after `timeoutMs`; answers whether it became idle. */
  async idle(timeoutMs: number): Promise<boolean> {
    if (this.#running === 0) return true;
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), timeoutMs);
      this.#onIdle = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }
}
