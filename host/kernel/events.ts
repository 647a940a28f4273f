/**
 * The ports to the event log and to what is kept of its delivery. Ids are whole numbers, given in the order
 * in which events become visible: who has read up to an id has missed none below it. What is answered is
 * durable.
 */
import type { CloudEvent } from '@noa/sdk/host';

export interface EventPage {
  /** Oldest first. */
  readonly events: readonly CloudEvent[];
  /** Everything up to this id has been looked at: the `after` of the next read. */
  readonly next: number;
}

/** What streams and deliveries read from; shared by all hosts on one database. */
export interface EventReader {
  /** The last id that was given; 0 before the first event. */
  head(): Promise<number>;
  /** At most `limit` events, and about 4 MiB, on any of the subjects (exact, or prefixes that end in `*`). */
  read(query: {
    readonly after: number;
    readonly subjects: readonly string[];
    readonly limit: number;
  }): Promise<EventPage>;
  /** Only what tells whether anybody cares. */
  subjects(
    after: number,
    limit: number,
  ): Promise<{ readonly id: number; readonly subject: string }[]>;
  /** Of the ids after `after` and up to `until`, how many are kept no longer. */
  missing(after: number, until: number): Promise<number>;
  /**
   * Calls back soon after there may be new events, also those of other hosts, and at least once a second
   * while it cannot know. Answers the way to stop.
   */
  onNew(listener: () => void): () => void;
}

export interface Subscription {
  readonly plugin: string;
  /** As the manifest writes it: exact, or a prefix that ends in `*`. */
  readonly subject: string;
  readonly export: string;
}

/** Where a subscription stands, for the host that holds it. */
export interface Lease {
  /** Id of the last event that was delivered or given up. */
  readonly cursor: number;
  /** Failed deliveries of the event that is next. */
  readonly attempts: number;
}

export interface DeadLetter extends Subscription {
  readonly id: string;
  readonly event: CloudEvent;
  readonly attempts: number;
  readonly code: string;
  readonly reason: string;
  /** ISO 8601. */
  readonly failedAt: string;
}

export type Failure = Pick<DeadLetter, 'attempts' | 'code' | 'reason'>;

/**
 * Every change but `lease` is made by the holder alone and answers false when it is the holder no more:
 * another host has taken over after the lease ran out.
 */
export interface DeliveryStore {
  /** Takes or extends the lease, or tells how many milliseconds to wait before trying again. */
  lease(
    subscription: Subscription,
    holder: string,
    ms: number,
  ): Promise<Lease | { waitMs: number }>;
  /** Notes that all up to the id is done, and extends the lease. */
  advance(subscription: Subscription, holder: string, cursor: number, ms: number): Promise<boolean>;
  /** Ends the lease; nothing is delivered for `delayMs`. */
  release(
    subscription: Subscription,
    holder: string,
    state: Lease & { readonly delayMs: number },
  ): Promise<boolean>;
  /** Gives an event up: it goes to the dead letters, of which the newest are kept, and is done. */
  bury(
    subscription: Subscription,
    holder: string,
    event: CloudEvent,
    failure: Failure,
  ): Promise<boolean>;
  /** Oldest first, after the one with this id. */
  letters(query: { plugin: string; after: number; limit: number }): Promise<DeadLetter[]>;
  letter(plugin: string, id: number): Promise<DeadLetter | undefined>;
  /** Notes another failed delivery. */
  keepLetter(letter: DeadLetter, failure: Failure): Promise<void>;
  /** Answers how many there were; all of the plugin's without an id. */
  dropLetters(plugin: string, id?: number): Promise<number>;
}
