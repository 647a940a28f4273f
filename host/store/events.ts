/**
 * The event log in PostgreSQL. Invariant: ids become visible in their order and without gaps. Whoever
 * publishes takes its ids from the one row of `noa.event_head` and holds that row until its commit, so the
 * commits of all hosts stand in the order of their ids. To be fast all the same, events that come while
 * one write runs go together into the next.
 */
import { type CloudEvent, type Json, NoaError } from '@noa/sdk/host';
import type { Pool, PoolClient } from 'pg';
import type { EventPage, EventReader } from '../kernel/events.ts';
import { connected } from './connected.ts';

/** The channel of NOTIFY: every write of events is told there. */
export const EVENTS_CHANNEL = 'noa_events';
/** Events in one write, and events that may wait for theirs. */
const BATCH = 256;
const MAX_WAITING = 4096;
/** About what one page holds, in bytes of data. */
const PAGE_BYTES = 4 << 20;
/** Rows that one statement of the clean-up deletes. */
const SWEEP_ROWS = 5000;
const POLL_MS = 1000;

export interface NewEvent {
  readonly source: string;
  readonly type: string;
  readonly subject: string;
  /** JSON text. */
  readonly data: string;
}

export interface Published {
  readonly id: number;
  readonly time: Date;
}

interface Waiting {
  readonly event: NewEvent;
  readonly resolve: (published: Published) => void;
  readonly reject: (error: unknown) => void;
}

interface EventRow {
  id: string;
  source: string;
  type: string;
  subject: string;
  time: Date;
  data: Json;
}

/** What is kept. Number and size are of one source each, so that none can push out another's events. */
export interface Retention {
  readonly maxAgeMs: number;
  readonly maxCount: number;
  /** Of data. */
  readonly maxBytes: number;
}

export class PostgresEvents implements EventReader {
  readonly #pool: Pool;
  readonly #listeners = new Set<() => void>();
  readonly #poll: NodeJS.Timeout;
  #waiting: Waiting[] = [];
  #writing = false;

  /** `pool` logs in as the owner of schema `noa`. Who hears of NOTIFY calls `notice`. */
  constructor(pool: Pool) {
    this.#pool = pool;
    this.#poll = setInterval(() => this.notice(), POLL_MS).unref();
  }

  /** Resolves when the event is durable. Rejects with RESOURCE_EXHAUSTED, UNAVAILABLE. */
  async publish(event: NewEvent): Promise<Published> {
    if (this.#waiting.length >= MAX_WAITING) {
      const text = `the event log cannot keep up: ${MAX_WAITING} events wait; try again later`;
      throw new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 1000 });
    }
    const { promise, resolve, reject } = Promise.withResolvers<Published>();
    this.#waiting.push({ event, resolve, reject });
    if (!this.#writing) void this.#write();
    return promise;
  }

  async #write(): Promise<void> {
    this.#writing = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, BATCH);
      try {
        const written = await connected(this.#pool, (client) =>
          insertEvents(
            client,
            batch.map(({ event }) => event),
          ),
        );
        for (const [index, published] of written.entries()) batch[index]?.resolve(published);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
      this.notice();
    }
    this.#writing = false;
  }

  async head(): Promise<number> {
    const { rows } = await connected(this.#pool, (client) =>
      client.query<{ last: string }>('select last from noa.event_head'),
    );
    return Number(rows[0]?.last);
  }

  async read({ after, subjects, limit }: Parameters<EventReader['read']>[0]): Promise<EventPage> {
    const prefixes = subjects.filter((subject) => subject.endsWith('*'));
    const exact = subjects.filter((subject) => !subject.endsWith('*'));
    const { rows } = await connected(this.#pool, (client) =>
      client.query<EventRow & { last: string; found: string }>(
        `select last, page.* from noa.event_head left join lateral (
           select *, count(*) over () as found, sum(bytes) over (order by id) - bytes as before from (
             select * from noa.events where id > $1 and id <= last and (subject = any ($2)
               or exists (select from unnest($3::text[]) as prefix where starts_with(subject, prefix)))
             order by id limit $4
           ) as matching
         ) as page on before < $5 order by id`,
        [after, exact, prefixes.map((prefix) => prefix.slice(0, -1)), limit, PAGE_BYTES],
      ),
    );
    const [first] = rows;
    // Without a match the row is the head alone.
    const events = first?.id == null ? [] : rows.map(toEvent);
    const cut = events.length === limit || events.length < Number(first?.found ?? 0);
    const next = cut ? Number(events.at(-1)?.id) : Number(first?.last);
    return { events, next: Math.max(after, next) };
  }

  async subjects(after: number, limit: number): Promise<{ id: number; subject: string }[]> {
    const { rows } = await connected(this.#pool, (client) =>
      client.query<{ id: string; subject: string }>(
        'select id, subject from noa.events where id > $1 order by id limit $2',
        [after, limit],
      ),
    );
    return rows.map(({ id, subject }) => ({ id: Number(id), subject }));
  }

  async missing(after: number, until: number): Promise<number> {
    const { rows } = await connected(this.#pool, (client) =>
      client.query<{ kept: string }>(
        'select count(*) as kept from noa.events where id > $1 and id <= $2',
        [after, until],
      ),
    );
    return Math.max(0, until - after - Number(rows[0]?.kept)); // ids are without gaps
  }

  onNew(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** There may be new events. */
  notice(): void {
    for (const listener of this.#listeners) listener();
  }

  /** Deletes what is too old or too much; answers how many. Hosts that do so at once harm nothing. */
  async sweep({ maxAgeMs, maxCount, maxBytes }: Retention): Promise<number> {
    for (let deleted = 0; ;) {
      const { rowCount } = await connected(this.#pool, (client) =>
        client.query(
          `delete from noa.events where id in (
             select id from noa.events where time < now() - $1 * interval '1 millisecond'
             union
             select old.id from (select distinct source from noa.events) as sources, lateral (
               select id, row_number() over newest as place, sum(bytes) over newest as size
               from noa.events where source = sources.source window newest as (order by id desc)
             ) as old where place > $2 or size > $3
             limit ${SWEEP_ROWS})`,
          [maxAgeMs, maxCount, maxBytes],
        ),
      );
      deleted += rowCount ?? 0;
      if ((rowCount ?? 0) < SWEEP_ROWS) return deleted;
    }
  }

  close(): void {
    clearInterval(this.#poll);
    this.#listeners.clear();
  }
}

/** One statement, and so one transaction: take the ids, insert, and have all hosts told at the commit. */
async function insertEvents(client: PoolClient, events: readonly NewEvent[]): Promise<Published[]> {
  const { rows } = await client.query<{ id: string; time: Date }>(
    `with head as (
       update noa.event_head set last = last + $5 returning last - $5 as before
     ), written as (
       insert into noa.events (id, source, type, subject, time, data, bytes)
       select before + place, source, type, subject, clock_timestamp(), data::json,
         octet_length(data)
       from head, unnest($1::text[], $2::text[], $3::text[], $4::text[])
         with ordinality as given (source, type, subject, data, place)
       returning id, time
     )
     select id, time, pg_notify('${EVENTS_CHANNEL}', '') from written order by id`,
    [
      events.map(({ source }) => source),
      events.map(({ type }) => type),
      events.map(({ subject }) => subject),
      events.map(({ data }) => data),
      events.length,
    ],
  );
  return rows.map(({ id, time }) => ({ id: Number(id), time }));
}

function toEvent({ id, source, type, subject, time, data }: EventRow): CloudEvent {
  return {
    specversion: '1.0',
    id,
    source,
    type,
    subject,
    time: time.toISOString(),
    datacontenttype: 'application/json',
    data,
  };
}
