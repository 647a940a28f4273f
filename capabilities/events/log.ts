/**
 * The driver of `events` over the host's event log. Invariant: the source of an event is the plugin that
 * the door names, whatever the arguments say; no plugin publishes faster than its rate.
 */
import { type CloudEvent, type Driver, type Json, NoaError } from '@noa/sdk/host';
import { MAX_DATA_BYTES } from './capability.ts';

const PAGE = 100;

/** What the driver needs of the host's log; ids are whole numbers. */
export interface Log {
  /** Resolves when the event is durable. */
  publish(event: {
    readonly source: string;
    readonly type: string;
    readonly subject: string;
    /** JSON text. */
    readonly data: string;
  }): Promise<{ readonly id: number; readonly time: Date }>;
  /** Events after an id on any of the subjects or prefixes, oldest first; `next` goes on from there. */
  read(query: {
    readonly after: number;
    readonly subjects: readonly string[];
    readonly limit: number;
  }): Promise<{ readonly events: readonly CloudEvent[]; readonly next: number }>;
}

export interface EventsOptions {
  readonly log: Log;
  /** Events a second of one plugin in this host; as many at once. */
  readonly ratePerSecond: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

type Publish = {
  readonly subject: string;
  readonly type?: string;
  readonly data?: Json;
};

type Subscribe = {
  readonly subject: string;
  readonly after?: string;
  readonly limit?: number;
};

export function createEventsDriver({ log, ratePerSecond, now }: EventsOptions): Driver {
  const buckets = new Map<string, { tokens: number; at: number }>();

  /** Takes one token of the plugin's bucket. Throws RATE_LIMITED when there is none. */
  function take(plugin: string): void {
    const at = now();
    const bucket = buckets.get(plugin) ?? { tokens: ratePerSecond, at };
    buckets.set(plugin, bucket);
    const filled = bucket.tokens + ((at - bucket.at) / 1000) * ratePerSecond;
    bucket.tokens = Math.min(ratePerSecond, filled);
    bucket.at = at;
    if (bucket.tokens < 1) {
      const retryAfterMs = Math.ceil(((1 - bucket.tokens) / ratePerSecond) * 1000);
      const text = `events: a plugin publishes at most ${ratePerSecond} events a second on a host`;
      throw new NoaError('RATE_LIMITED', text, { retryAfterMs });
    }
    bucket.tokens -= 1;
  }

  async function publish(plugin: string, { subject, type = subject, data = null }: Publish) {
    const json = JSON.stringify(data);
    if (Buffer.byteLength(json) > MAX_DATA_BYTES) {
      const text = `events: data has more than ${MAX_DATA_BYTES} bytes of JSON: keep it in a blob and send its path`;
      throw new NoaError('PAYLOAD_TOO_LARGE', text);
    }
    take(plugin);
    const event = { source: `/plugins/${plugin}`, type, subject, data: json };
    const { id, time } = await log.publish(event);
    return { id: String(id), time: time.toISOString() };
  }

  return {
    async invoke(operation, input, { plugin }) {
      // The door has judged the arguments by the operation's schema.
      if (operation === 'publish') return publish(plugin, input as Publish);
      const { subject, after = '0', limit = PAGE } = input as Subscribe;
      const { events, next } = await log.read({ after: Number(after), subjects: [subject], limit });
      return { events, next: String(next) };
    },
    async check() {},
    drop(plugin) {
      buckets.delete(plugin);
      return Promise.resolve();
    },
    async close() {},
  };
}
