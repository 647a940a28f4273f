/**
 * One subscriber of the event log: first what was before, in its own time, then what comes. Invariants: it
 * gets each event of its subjects once and in order; what waits for it is bounded, and over the bound its
 * connection is ended with the reason, so that it can come again and go on after the last id it got.
 */
import { NoaError } from '@noa/sdk/host';
import type { Connection } from './connections.ts';
import { type EventFeed, type Follower, type Gap, LoggedEvent, type Tail } from './feed.ts';

/** What waits for one subscriber at most; more than one read of the log brings at once. */
const MAX_EVENTS = 1024;
const MAX_BYTES = 8 << 20;
export const MAX_SUBJECTS = 64;
const SUBJECT = /^([A-Za-z0-9][A-Za-z0-9._/-]{0,199})?\*?$/;
const ID = /^\d{1,15}$/;

/** How events go out on a kind of connection. */
export interface EventFrames {
  readonly event: (event: LoggedEvent) => string | Uint8Array;
  readonly gap: (gap: Gap) => string;
}

export interface SubscriptionOptions {
  readonly feed: EventFeed;
  /** Exact, or prefixes that end in `*`. */
  readonly subjects: readonly string[];
  /** Id of the last event that it has; undefined for what comes from now on. */
  readonly since: number | undefined;
}

/** Where the events of a subscription go. */
interface Sink {
  readonly connection: Connection;
  readonly frames: EventFrames;
}

export class Subscription implements Follower {
  readonly #options: SubscriptionOptions;
  readonly #exact: ReadonlySet<string>;
  readonly #prefixes: readonly string[];
  #tail: Tail | undefined;
  #sink: Sink | undefined;
  /** Of the last event that was sent or did not match. */
  #cursor = 0;
  #waiting: LoggedEvent[] = [];
  #bytes = 0;
  #isSending = false;
  #over = false;

  constructor(options: SubscriptionOptions) {
    this.#options = options;
    const { subjects } = options;
    this.#exact = new Set(subjects.filter((subject) => !subject.endsWith('*')));
    this.#prefixes = subjects.flatMap((each) => (each.endsWith('*') ? [each.slice(0, -1)] : []));
  }

  /**
   * Takes its place in the log; answers the id after which it begins. `end` gives the place back. Rejects
   * with INVALID_ARGUMENT for an id that was never given.
   */
  async open(): Promise<number> {
    const { feed, since } = this.#options;
    const tail = await feed.follow();
    if (this.#over) feed.leave();
    else this.#tail = tail;
    this.#cursor = since ?? tail.position;
    if (this.#cursor <= tail.position) return this.#cursor;
    const head = await feed.head();
    if (this.#cursor <= head) return this.#cursor;
    this.end();
    throw new NoaError('INVALID_ARGUMENT', `since: the newest event has the id ${head}`);
  }

  /** Sends what was before, then what comes. Resolves when it follows, or is over. */
  async run(sink: Sink): Promise<void> {
    this.#sink = sink;
    const tail = this.#tail;
    if (tail === undefined) return;
    while (!this.#isOver && this.#cursor < tail.position) await this.#catchUp(sink);
    // Nothing has happened since the comparison.
    if (!this.#isOver) tail.join(this);
  }

  get #isOver(): boolean {
    return this.#over || this.#sink?.connection.closed !== false;
  }

  async #catchUp({ connection, frames }: Sink): Promise<void> {
    const { feed, subjects } = this.#options;
    const { events, next, gap } = await feed.read(this.#cursor, subjects);
    if (this.#isOver) return;
    if (gap !== undefined) await connection.send(frames.gap(gap));
    for (const event of events) {
      if (this.#isOver) return;
      await connection.send(frames.event(new LoggedEvent(event)));
    }
    this.#cursor = next;
  }

  take(event: LoggedEvent): void {
    if (event.id <= this.#cursor || this.#over || !this.#wants(event.subject)) return;
    if (this.#isSending) return this.#queue(event);
    this.#cursor = event.id;
    const room = this.#send(event);
    if (room !== undefined) void this.#sendOn(room);
  }

  #wants(subject: string): boolean {
    if (this.#exact.has(subject)) return true;
    return this.#prefixes.some((prefix) => subject.startsWith(prefix));
  }

  #send(event: LoggedEvent): Promise<void> | undefined {
    return this.#sink?.connection.send(this.#sink.frames.event(event));
  }

  #queue(event: LoggedEvent): void {
    this.#waiting.push(event);
    this.#bytes += event.json.length;
    if (this.#waiting.length <= MAX_EVENTS && this.#bytes <= MAX_BYTES) return;
    const text = `events come faster than they are taken: connect again and go on after ${this.#cursor}`;
    this.#sink?.connection.end(new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 1000 }));
    this.end();
  }

  async #sendOn(room: Promise<void>): Promise<void> {
    this.#isSending = true;
    await room;
    for (;;) {
      const event = this.#waiting.shift();
      if (event === undefined) break;
      this.#bytes -= event.json.length;
      this.#cursor = event.id;
      const next = this.#send(event);
      if (next !== undefined) await next;
    }
    this.#isSending = false;
  }

  /** Sends no more. Idempotent. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#waiting = [];
    const tail = this.#tail;
    this.#tail = undefined;
    if (tail === undefined) return; // `open` sees it
    tail.part(this);
    this.#options.feed.leave();
  }
}

/** Subjects as a client names them; all when it names none. Throws INVALID_ARGUMENT. */
export function readSubjects(given: readonly string[]): readonly string[] {
  const subjects = [
    ...new Set(given.flatMap((text) => text.split(',')).map((text) => text.trim())),
  ].filter((text) => text !== '');
  if (subjects.length > MAX_SUBJECTS) {
    throw new NoaError('INVALID_ARGUMENT', `subjects: name ${MAX_SUBJECTS} at most`);
  }
  const wrong = subjects.find((subject) => !SUBJECT.test(subject));
  if (wrong !== undefined) {
    const rule = 'is no subject such as orders.created, nor a prefix of one and *';
    throw new NoaError(
      'INVALID_ARGUMENT',
      `subjects: ${JSON.stringify(wrong.slice(0, 200))} ${rule}`,
    );
  }
  return subjects.length === 0 ? ['*'] : subjects;
}

/** The id of an event as a client names it. Throws INVALID_ARGUMENT. */
export function readId(name: string, text: string): number {
  if (ID.test(text)) return Number(text);
  throw new NoaError('INVALID_ARGUMENT', `${name}: must be the id of an event, at most 15 digits`);
}
