/**
 * The event log as it grows, read once for all who follow it in this process. Invariant: whoever joins at
 * `position` gets every later event, once and in the order of ids. With no follower nothing is read.
 */
import type { CloudEvent } from '@noa/sdk/host';
import type { EventPage, EventReader } from '../../kernel/events.ts';

/** Events of one read; the reader bounds a page in bytes as well. */
const PAGE = 256;
/** Reads of what was before, at one time: the log's few connections are not for streams alone. */
const LANES = 2;

/** An event with the forms in which it is sent, each made once for all. */
export class LoggedEvent {
  readonly event: CloudEvent;
  readonly id: number;
  readonly subject: string;
  readonly json: string;
  #sse: Buffer | undefined;
  readonly #type: string;

  constructor(event: CloudEvent) {
    this.event = event;
    this.id = Number(event.id);
    this.subject = event.subject;
    this.#type = event.type;
    this.json = JSON.stringify(event);
  }

  /** A frame of server-sent events; JSON text and types hold no line breaks. */
  get sse(): Buffer {
    this.#sse ??= Buffer.from(`id: ${this.id}\nevent: ${this.#type}\ndata: ${this.json}\n\n`);
    return this.#sse;
  }
}

export interface Follower {
  /** In the order of ids; must not block. */
  take(event: LoggedEvent): void;
}

/** Ids of events that are kept no longer. */
export interface Gap {
  readonly after: number;
  readonly until: number;
  readonly missing: number;
}

export type CatchUp = EventPage & { readonly gap: Gap | undefined };

export interface FeedOptions {
  readonly events: EventReader;
  readonly onError: (message: string, error: unknown) => void;
}

export class EventFeed {
  readonly #options: FeedOptions;
  readonly #lanes: Promise<unknown>[] = Array.from({ length: LANES }, () => Promise.resolve());
  #lane = 0;
  #tail: Promise<Tail> | undefined;
  #followers = 0;

  constructor(options: FeedOptions) {
    this.#options = options;
  }

  get followers(): number {
    return this.#followers;
  }

  /** The growing end of the log; each call is taken back by `leave`. */
  async follow(): Promise<Tail> {
    this.#followers += 1;
    try {
      this.#tail ??= Tail.begin(this.#options);
      return await this.#tail;
    } catch (error) {
      this.leave();
      throw error;
    }
  }

  leave(): void {
    this.#followers -= 1;
    if (this.#followers > 0) return;
    // A tail that could not begin has nothing to stop; who asked for it has heard why.
    this.#tail?.then(
      (tail) => tail.stop(),
      () => undefined,
    );
    this.#tail = undefined;
  }

  /** The last id that was given. */
  head(): Promise<number> {
    return this.#options.events.head();
  }

  /** What was before, with what is kept of it no longer. */
  read(after: number, subjects: readonly string[], limit = PAGE): Promise<CatchUp> {
    const { events } = this.#options;
    this.#lane = (this.#lane + 1) % LANES;
    const read = (this.#lanes[this.#lane] ?? Promise.resolve()).then(async () => {
      const page = await events.read({ after, subjects, limit });
      // Asked second: what goes between the two is told as missing rather than lost in silence.
      const missing = page.next > after ? await events.missing(after, page.next) : 0;
      return { ...page, gap: missing > 0 ? { after, until: page.next, missing } : undefined };
    });
    this.#lanes[this.#lane] = read.catch(() => undefined); // its reader hears of it
    return read;
  }
}

/** Reads on at each notice while anybody follows. */
export class Tail {
  readonly #options: FeedOptions;
  readonly #live = new Set<Follower>();
  #position = 0;
  #stop: (() => void) | undefined;
  #reading = false;
  #again = false;
  #away = false;

  private constructor(options: FeedOptions) {
    this.#options = options;
  }

  static async begin(options: FeedOptions): Promise<Tail> {
    const tail = new Tail(options);
    tail.#position = await options.events.head();
    tail.#stop = options.events.onNew(() => tail.#wake());
    tail.#wake();
    return tail;
  }

  /** All up to this id went to those who had joined. */
  get position(): number {
    return this.#position;
  }

  join(follower: Follower): void {
    this.#live.add(follower);
  }

  part(follower: Follower): void {
    this.#live.delete(follower);
  }

  stop(): void {
    this.#stop?.();
    this.#stop = undefined;
  }

  #wake(): void {
    this.#again = true;
    if (this.#reading || this.#stop === undefined) return;
    this.#reading = true;
    this.#read()
      .then(() => (this.#away = false))
      .catch((error: unknown) => {
        // Said once for each time that the log goes away; the next notice tries again.
        if (!this.#away) this.#options.onError('the event log cannot be read for streams', error);
        this.#away = true;
      })
      .finally(() => (this.#reading = false));
  }

  async #read(): Promise<void> {
    while (this.#again && this.#stop !== undefined) {
      this.#again = false;
      const after = this.#position;
      const page = await this.#options.events.read({ after, subjects: ['*'], limit: PAGE });
      this.#position = page.next;
      for (const event of page.events) {
        const logged = new LoggedEvent(event);
        for (const follower of this.#live) follower.take(logged);
      }
      this.#again ||= page.events.length > 0;
    }
  }
}
