/**
 * One reader of the event log that is asked for each event: first what was before, then what comes.
 * Invariants: each event of its subjects once and in order; what waits for it is bounded, and over the
 * bound it waits in the log, so that a reader which is slow for a while loses nothing.
 */
import { type CloudEvent, covers, NoaError } from '@noa/sdk/host';
import type { EventFeed, Follower, Gap, LoggedEvent } from '../streams/feed.ts';
import { readId } from '../streams/subscription.ts';
import type { GrpcExchange } from './exchange.ts';

/** What waits for one reader at most; more than one read of the log brings at once. */
const MAX_EVENTS = 1024;
const MAX_CHARS = 8 << 20;

export type Found = { readonly event: CloudEvent } | { readonly gap: Gap };

/**
 * Events after the one of the id `since`; when it is empty, those after the call is told to have begun.
 * Throws INVALID_ARGUMENT for an id that was never given, and the signal's reason when it aborts.
 */
export async function* follow(
  feed: EventFeed,
  subjects: readonly string[],
  since: string,
  exchange: Pick<GrpcExchange, 'signal' | 'open'>,
): AsyncGenerator<Found> {
  const { signal } = exchange;
  const wanted = since === '' ? undefined : readId('since', since);
  const tail = await feed.follow();
  try {
    let cursor = wanted ?? tail.position;
    if (cursor > tail.position && cursor > (await feed.head())) {
      throw new NoaError('INVALID_ARGUMENT', 'since: no event has had this id yet');
    }
    exchange.open();
    for (;;) {
      while (cursor < tail.position) {
        signal.throwIfAborted();
        const { events, next, gap } = await feed.read(cursor, subjects);
        if (gap !== undefined) yield { gap };
        for (const event of events) yield { event };
        cursor = next;
      }
      const waiting = new Waiting(subjects, cursor, signal);
      tail.join(waiting); // nothing has happened since the comparison
      try {
        for (let next = await waiting.next(); next !== undefined; next = await waiting.next()) {
          yield next;
          cursor = next.id;
        }
      } finally {
        tail.part(waiting);
      }
    }
  } finally {
    feed.leave();
  }
}

class Waiting implements Follower {
  readonly #subjects: readonly string[];
  readonly #after: number;
  readonly #signal: AbortSignal;
  #events: LoggedEvent[] = [];
  #chars = 0;
  #isFull = false;
  #wake: () => void = () => undefined;

  constructor(subjects: readonly string[], after: number, signal: AbortSignal) {
    this.#subjects = subjects;
    this.#after = after;
    this.#signal = signal;
  }

  take(event: LoggedEvent): void {
    if (this.#isFull || event.id <= this.#after) return;
    if (!this.#subjects.some((pattern) => covers(pattern, event.subject))) return;
    this.#events.push(event);
    this.#chars += event.json.length;
    this.#isFull = this.#events.length > MAX_EVENTS || this.#chars > MAX_CHARS;
    if (this.#isFull) this.#events = [];
    this.#wake();
  }

  /** Undefined when there were too many: they are in the log. Throws the signal's reason when it aborts. */
  async next(): Promise<LoggedEvent | undefined> {
    const signal = this.#signal;
    while (this.#events.length === 0 && !this.#isFull && !signal.aborted) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = (): void => resolve();
      this.#wake = wake;
      signal.addEventListener('abort', wake);
      await promise;
      signal.removeEventListener('abort', wake);
    }
    signal.throwIfAborted();
    const event = this.#events.shift();
    if (event !== undefined) this.#chars -= event.json.length;
    return event;
  }
}
