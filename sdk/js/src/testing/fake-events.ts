/** What stands behind `events` in a test: a log that really keeps, on the test's clock. */
import type { CloudEvent } from '../cloud-event.ts';
import { covers } from '../capability.ts';
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import { copy, noOperation, text } from './fakes.ts';

type Arguments = { readonly [name: string]: Json };

/** The host's own bound, see `events` in the reference of capabilities. */
const MAX_DATA_BYTES = 256 << 10;

export class FakeEvents {
  /** Every event so far, in order. */
  readonly published: CloudEvent[] = [];
  readonly #source: string;
  readonly #now: () => number;

  constructor(plugin: string, now: () => number) {
    this.#source = `/plugins/${plugin}`;
    this.#now = now;
  }

  /**
   * An event as the host delivers it to a subscription, appended to the log: the input of the export. The
   * plugin `source` published it; the one under test when absent.
   */
  emit<Data = Json>(
    subject: string,
    data: Data,
    { type = subject, source }: { readonly type?: string; readonly source?: string } = {},
  ): CloudEvent<Data> {
    const event = {
      specversion: '1.0',
      id: String(this.published.length + 1),
      source: source === undefined ? this.#source : `/plugins/${source}`,
      type,
      subject,
      time: new Date(this.#now()).toISOString(),
      datacontenttype: 'application/json',
      data: copy<Json>(data),
    } as const;
    this.published.push(event);
    return { ...event, data };
  }

  invoke(operation: string, args: Arguments): Json {
    const subject = text(args, 'subject');
    if (operation === 'publish') {
      const data = args['data'] ?? null;
      if (Buffer.byteLength(JSON.stringify(data)) > MAX_DATA_BYTES) {
        const message = `events: data has more than ${MAX_DATA_BYTES} bytes of JSON: keep it in a blob and send its path`;
        throw new NoaError('PAYLOAD_TOO_LARGE', message);
      }
      const type = args['type'] === undefined ? subject : text(args, 'type');
      const { id, time } = this.emit(subject, data, { type });
      return { id, time };
    }
    if (operation !== 'subscribe') throw noOperation('events', operation);
    const after = Number(args['after'] ?? 0);
    const limit = Number(args['limit'] ?? 100);
    const matching = this.published.filter(
      (event) => Number(event.id) > after && covers(subject, event.subject),
    );
    const events = matching.slice(0, limit);
    const cut = matching.length > limit;
    const next = cut ? events.at(-1)?.id : String(Math.max(after, this.published.length));
    return copy({ events, next });
  }
}
