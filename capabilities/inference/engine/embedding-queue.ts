/**
 * Texts that wait to be embedded. A worker that is free takes what waits, at most so many: nothing waits for
 * company, so one alone is as fast as it can be, and many share what a run costs. Invariants: plugins take
 * turns, so that a thousand texts of one delay another by one batch; what is interactive comes before what is
 * not, which gets on all the same; each text is handed out once; what was cancelled is not.
 */
import { PRIORITIES, type Priority } from '../backend.ts';
import type { Key } from './protocol.ts';

/** Runs that may pass work that nobody waits for before it has its turn. */
const PATIENCE = 8;

export interface Request {
  readonly key: Key;
  readonly plugin: string;
  readonly texts: readonly string[];
  readonly truncate: boolean;
  readonly priority: Priority;
}

/** A run of one request's texts. */
export interface Piece<R extends Request> {
  readonly request: R;
  readonly from: number;
  readonly to: number;
}

interface Waiting<R extends Request> {
  readonly request: R;
  next: number;
  readonly end: number;
}

/** What a run is made of. */
export interface Turn {
  readonly key: Key;
  readonly truncate: boolean;
  readonly priority: Priority;
}

/** A queue for each priority, with a bound of its own. */
export class EmbeddingQueues<R extends Request> {
  readonly #queues = { interactive: new EmbeddingQueue<R>(), batch: new EmbeddingQueue<R>() };
  #passed = 0;

  get size(): number {
    return PRIORITIES.reduce((sum, each) => sum + this.#queues[each].size, 0);
  }

  of({ priority }: { readonly priority: Priority }): EmbeddingQueue<R> {
    return this.#queues[priority];
  }

  /** What is to be run next. */
  next(): Turn | undefined {
    const order = this.#passed < PATIENCE ? PRIORITIES : PRIORITIES.toReversed();
    for (const priority of order) {
      const first = this.#queues[priority].next();
      if (first !== undefined) return { key: first.key, truncate: first.truncate, priority };
    }
    return undefined;
  }

  /** At most `most` texts for it. */
  take({ key, truncate, priority }: Turn, most: number): Piece<R>[] {
    const isPassing = priority === 'interactive' && this.#queues.batch.size > 0;
    this.#passed = isPassing ? this.#passed + 1 : 0;
    return this.#queues[priority].take(key, truncate, most);
  }
}

class EmbeddingQueue<R extends Request> {
  /** By plugin, in the order of their turns. */
  readonly #lines = new Map<string, Waiting<R>[]>();
  #texts = 0;
  #chars = 0;

  /** Texts that wait. */
  get size(): number {
    return this.#texts;
  }

  get chars(): number {
    return this.#chars;
  }

  add(request: R): void {
    const { plugin, texts } = request;
    this.#lines.set(plugin, [
      ...(this.#lines.get(plugin) ?? []),
      { request, next: 0, end: texts.length },
    ]);
    this.#count(request, 0, texts.length, 1);
  }

  /** Puts back what a worker could not do, before all that waits of its plugin. */
  putBack({ request, from, to }: Piece<R>): void {
    const line = this.#lines.get(request.plugin) ?? [];
    this.#lines.set(request.plugin, [{ request, next: from, end: to }, ...line]);
    this.#count(request, from, to, 1);
  }

  remove(request: R): void {
    const line = this.#lines.get(request.plugin) ?? [];
    for (const waiting of line.filter((one) => one.request === request)) {
      this.#count(request, waiting.next, waiting.end, -1);
    }
    const rest = line.filter((one) => one.request !== request);
    if (rest.length === 0) this.#lines.delete(request.plugin);
    else this.#lines.set(request.plugin, rest);
  }

  /** The model whose turn it is. */
  next(): { readonly key: Key; readonly truncate: boolean } | undefined {
    for (const [first] of this.#lines.values()) if (first !== undefined) return first.request;
    return undefined;
  }

  /**
   * At most `most` texts for this model, of as many plugins as there are; whoever was served goes to the end.
   * Texts that may not be cut come of one request: a refusal is for that one alone.
   */
  take(key: Key, truncate: boolean, most: number): Piece<R>[] {
    const pieces: Piece<R>[] = [];
    let room = most;
    for (const [plugin, line] of Array.from(this.#lines)) {
      if (room === 0) break;
      let served = false;
      for (let at = 0; at < line.length && room > 0;) {
        const waiting = line[at];
        if (waiting?.request.key !== key || waiting.request.truncate !== truncate) {
          at += 1;
          continue;
        }
        const { request, next: from, end } = waiting;
        const to = Math.min(end, from + room);
        pieces.push({ request, from, to });
        room = truncate ? room - (to - from) : 0;
        this.#count(request, from, to, -1);
        waiting.next = to;
        served = true;
        if (to === end) line.splice(at, 1);
      }
      if (served) this.#lines.delete(plugin);
      if (line.length > 0) this.#lines.set(plugin, line);
    }
    return pieces;
  }

  #count({ texts }: Request, from: number, to: number, sign: 1 | -1): void {
    for (let at = from; at < to; at += 1) {
      this.#texts += sign;
      this.#chars += sign * (texts[at]?.length ?? 0);
    }
  }
}
