/**
 * How far each subscription has come, and what was given up: the `DeliveryStore` port over
 * `noa.subscriptions` and `noa.dead_letters`. Time is the database's, so that hosts need not agree on it.
 */
import type { CloudEvent } from '@noa/sdk/host';
import type { Pool, PoolClient, QueryResult } from 'pg';
import type { DeadLetter, DeliveryStore, Failure, Lease, Subscription } from '../kernel/events.ts';
import { connected } from './connected.ts';

/** Dead letters of one plugin that are kept; beyond, the oldest go. */
const MAX_LETTERS = 1000;
/** How soon to look again for a subscription that is not there. */
const ABSENT_MS = 5000;

interface LetterRow {
  id: string;
  plugin: string;
  subject: string;
  export: string;
  event: CloudEvent;
  attempts: number;
  code: string;
  reason: string;
  failed_at: Date;
}

const LETTER = 'id, plugin, subject, export, event, attempts, code, reason, failed_at';
const MINE = 'plugin = $1 and subject = $2 and export = $3 and leased_by = $4';

export class PostgresDeliveries implements DeliveryStore {
  readonly #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  async lease(
    subscription: Subscription,
    holder: string,
    ms: number,
  ): Promise<Lease | { waitMs: number }> {
    const key = keyOf(subscription);
    const taken = await this.#query<{ cursor: string; attempts: number }>(
      `update noa.subscriptions
       set leased_by = $4, leased_until = now() + $5 * interval '1 millisecond'
       where plugin = $1 and subject = $2 and export = $3 and next_at <= now()
         and (leased_by is null or leased_by = $4 or leased_until < now())
       returning cursor, attempts`,
      [...key, holder, ms],
    );
    const row = taken.rows[0];
    if (row !== undefined) return { cursor: Number(row.cursor), attempts: row.attempts };
    const present = await this.#query<{ wait: string }>(
      `select extract(epoch from greatest(next_at, leased_until) - now()) * 1000 as wait
       from noa.subscriptions where plugin = $1 and subject = $2 and export = $3`,
      key,
    );
    return { waitMs: Math.max(0, Number(present.rows[0]?.wait ?? ABSENT_MS)) };
  }

  async advance(
    subscription: Subscription,
    holder: string,
    cursor: number,
    ms: number,
  ): Promise<boolean> {
    const { rowCount } = await this.#query(
      `update noa.subscriptions set cursor = $5, attempts = 0,
         leased_until = now() + $6 * interval '1 millisecond' where ${MINE}`,
      [...keyOf(subscription), holder, cursor, ms],
    );
    return rowCount === 1;
  }

  async release(
    subscription: Subscription,
    holder: string,
    { cursor, attempts, delayMs }: Lease & { readonly delayMs: number },
  ): Promise<boolean> {
    const { rowCount } = await this.#query(
      `update noa.subscriptions set cursor = $5, attempts = $6, leased_by = null,
         leased_until = null, next_at = now() + $7 * interval '1 millisecond' where ${MINE}`,
      [...keyOf(subscription), holder, cursor, attempts, delayMs],
    );
    return rowCount === 1;
  }

  async bury(
    subscription: Subscription,
    holder: string,
    event: CloudEvent,
    { attempts, code, reason }: Failure,
  ): Promise<boolean> {
    const { plugin } = subscription;
    const { rowCount } = await this.#query(
      `with held as (
         update noa.subscriptions set cursor = $5, attempts = 0 where ${MINE} returning 1
       ), old as (
         delete from noa.dead_letters where id in (
           select id from noa.dead_letters where plugin = $1 order by id desc offset ${MAX_LETTERS - 1}
         )
       )
       insert into noa.dead_letters (plugin, subject, export, event, attempts, code, reason)
       select $1, $2, $3, $6, $7, $8, $9 from held`,
      [
        plugin,
        subscription.subject,
        subscription.export,
        holder,
        event.id,
        JSON.stringify(event),
        attempts,
        code,
        reason,
      ],
    );
    return rowCount === 1;
  }

  async letters(query: { plugin: string; after: number; limit: number }): Promise<DeadLetter[]> {
    const { rows } = await this.#query<LetterRow>(
      `select ${LETTER} from noa.dead_letters where plugin = $1 and id > $2 order by id limit $3`,
      [query.plugin, query.after, query.limit],
    );
    return rows.map(toLetter);
  }

  async letter(plugin: string, id: number): Promise<DeadLetter | undefined> {
    const { rows } = await this.#query<LetterRow>(
      `select ${LETTER} from noa.dead_letters where plugin = $1 and id = $2`,
      [plugin, id],
    );
    return rows.map(toLetter)[0];
  }

  async keepLetter({ id }: DeadLetter, { attempts, code, reason }: Failure): Promise<void> {
    await this.#query(
      `update noa.dead_letters set attempts = $2, code = $3, reason = $4, failed_at = now()
       where id = $1`,
      [id, attempts, code, reason],
    );
  }

  async dropLetters(plugin: string, id?: number): Promise<number> {
    const { rowCount } = await this.#query(
      'delete from noa.dead_letters where plugin = $1 and ($2::bigint is null or id = $2)',
      [plugin, id ?? null],
    );
    return rowCount ?? 0;
  }

  #query<R extends object>(sql: string, values: unknown[]): Promise<QueryResult<R>> {
    return connected(this.#pool, (client) => client.query<R>(sql, values));
  }
}

/** See `StoreTx.keepSubscriptions`. */
export async function keepSubscriptions(
  client: PoolClient,
  plugin: string,
  wanted: readonly Omit<Subscription, 'plugin'>[],
): Promise<void> {
  const values = [
    plugin,
    wanted.map(({ subject }) => subject),
    wanted.map((subscription) => subscription.export),
  ];
  await client.query(
    `delete from noa.subscriptions where plugin = $1
       and (subject, export) not in (select * from unnest($2::text[], $3::text[]))`,
    values,
  );
  await client.query(
    `insert into noa.subscriptions (plugin, subject, export, cursor)
     select distinct $1, wanted.subject, wanted.export, last
     from unnest($2::text[], $3::text[]) as wanted (subject, export), noa.event_head
     on conflict do nothing`,
    values,
  );
}

function keyOf(subscription: Subscription): string[] {
  return [subscription.plugin, subscription.subject, subscription.export];
}

function toLetter({ failed_at, ...row }: LetterRow): DeadLetter {
  return { ...row, failedAt: failed_at.toISOString() };
}
