/**
 * The driver of `events` over the host's event log. Invariant: the source of an event is the plugin that
 * the door names, whatever the arguments say; no plugin publishes faster than its rate.
 */
import { type CloudEvent, type Driver, type Json, NoaError } from '@noa/sdk/host';
import { MAX_DATA_BYTES } from './capability.ts';

const PAGE = 100;
/**
 * So much of an event's data counts as one event of the rate. What a plugin may keep is looked at each
 * minute; by the default rate it cannot write more than 200 MiB until then.
 */
const COUNTED_BYTES = 16 << 10;

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
  /** Throws RATE_LIMITED when the plugin publishes too fast; a large event counts as so many. */
  readonly admit: (plugin: string, events: number) => void;
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

export function createEventsDriver({ log, admit }: EventsOptions): Driver {
  async function publish(plugin: string, { subject, type = subject, data = null }: Publish) {
    const json = JSON.stringify(data);
    const bytes = Buffer.byteLength(json);
    if (bytes > MAX_DATA_BYTES) {
      const text = `events: data has more than ${MAX_DATA_BYTES} bytes of JSON: keep it in a blob and send its path`;
      throw new NoaError('PAYLOAD_TOO_LARGE', text);
    }
    admit(plugin, Math.ceil(bytes / COUNTED_BYTES));
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
    async close() {},
  };
}
