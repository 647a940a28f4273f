/**
 * The sandbox threads by what they are for: those that serve, a warm spare that takes the place of one
 * that falls out, and, while there are suspects, one apart for plugins that keep workers or bring them
 * down.
 */
import type { Thread } from './thread.ts';

/** The thread apart is ended when it has had nothing to do for this long. */
const APART_IDLE_MS = 30_000;

export class Crew {
  readonly #serving: Thread[];
  readonly #spawn: (delayMs: number) => Thread;
  #spare: Thread;
  #apart: Thread | undefined;
  /** They get no more jobs and are ended when they have none. */
  readonly #leaving = new Set<Thread>();
  #idle: NodeJS.Timeout | undefined;
  readonly #ending = new Set<Promise<void>>();

  /** `spawn` makes a thread that starts after so many ms. */
  constructor(count: number, spawn: (delayMs: number) => Thread) {
    this.#spawn = spawn;
    this.#serving = Array.from({ length: count }, () => spawn(0));
    this.#spare = spawn(0);
  }

  get spare(): Thread {
    return this.#spare;
  }

  all(): Thread[] {
    const threads = [...this.#serving, this.#spare, ...this.#leaving];
    return this.#apart === undefined ? threads : [...threads, this.#apart];
  }

  /** The serving thread with the least to do; one in the middle of a long turn is the last choice. */
  serving(): Thread | undefined {
    let best: Thread | undefined;
    for (const thread of this.#serving) {
      const better =
        best === undefined ||
        (best.stalled === thread.stalled ? thread.jobs.size < best.jobs.size : best.stalled);
      if (better) best = thread;
    }
    return best;
  }

  serves(thread: Thread): boolean {
    return this.#serving.includes(thread);
  }

  /** The thread apart; when there is none yet, the spare becomes it. */
  apart(): Thread {
    if (this.#apart !== undefined) return this.#apart;
    const thread = this.#spare;
    this.#spare = this.#spawn(0);
    this.#setApart(thread);
    return thread;
  }

  #setApart(thread: Thread): void {
    this.#apart = thread;
    this.#idle = setTimeout(() => this.#dismiss(), APART_IDLE_MS).unref();
  }

  /** The spare takes the place of a serving thread, which goes on with what it has, apart. */
  relieve(thread: Thread): void {
    const at = this.#serving.indexOf(thread);
    if (at < 0) return;
    this.#serving[at] = this.#spare;
    this.#spare = this.#spawn(0);
    if (this.#apart === undefined) this.#setApart(thread);
    else this.#leaving.add(thread);
  }

  /** Ends the threads that are no longer needed. */
  tidy(): void {
    for (const thread of this.#leaving) {
      if (thread.jobs.size > 0) continue;
      this.#leaving.delete(thread);
      this.end(thread);
    }
  }

  #dismiss(): void {
    if (this.#apart === undefined) return;
    const idle = this.#apart.jobs.size === 0 && performance.now() - this.#apart.lastJob;
    if (idle !== false && idle >= APART_IDLE_MS) {
      this.end(this.#apart);
      this.#apart = undefined;
    } else this.#idle = setTimeout(() => this.#dismiss(), APART_IDLE_MS).unref();
  }

  /** Ends the thread and puts the spare where it stood; the next spare starts after so many ms. */
  replace(thread: Thread, delayMs: number): void {
    this.end(thread);
    if (this.#leaving.delete(thread)) return;
    if (thread === this.#apart) {
      clearTimeout(this.#idle);
      this.#apart = undefined;
      return;
    }
    const at = this.#serving.indexOf(thread);
    if (at >= 0) this.#serving[at] = this.#spare;
    if (at >= 0 || thread === this.#spare) this.#spare = this.#spawn(delayMs);
  }

  end(thread: Thread): void {
    for (const plugin of thread.plugins.values()) plugin.usage.delete(thread);
    const ending = thread.end().finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
  }

  /** Resolves when every thread is gone. */
  async close(): Promise<void> {
    clearTimeout(this.#idle);
    for (const thread of this.all()) this.end(thread);
    await Promise.all(this.#ending);
  }
}
