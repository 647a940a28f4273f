/** When schedules are due: the `ScheduleStore` port over `noa.schedules`. Time is the database's. */
import type { Pool, PoolClient, QueryResult } from 'pg';
import type { ScheduleKey, ScheduleStore } from '../kernel/schedules.ts';
import { connected } from './connected.ts';

/** How soon to look again for a schedule that is not there. */
const ABSENT_MS = 5000;

export class PostgresSchedules implements ScheduleStore {
  readonly #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  async note({ plugin, name }: ScheduleKey, spec: string, first: number): Promise<number> {
    const { rows } = await this.#query<{ next_at: Date }>(
      `insert into noa.schedules as known (plugin, name, spec, next_at) values ($1, $2, $3, $4)
       on conflict (plugin, name) do update set spec = excluded.spec,
         next_at = case when known.spec = excluded.spec then known.next_at else excluded.next_at end
       returning next_at`,
      [plugin, name, spec, new Date(first)],
    );
    return rows[0]?.next_at.getTime() ?? first;
  }

  async lease(
    { plugin, name }: ScheduleKey,
    holder: string,
    ms: number,
  ): Promise<{ due: number } | { next: number }> {
    const taken = await this.#query<{ next_at: Date }>(
      `update noa.schedules
       set leased_by = $3, leased_until = now() + $4 * interval '1 millisecond'
       where plugin = $1 and name = $2 and next_at <= now()
         and (leased_by is null or leased_by = $3 or leased_until < now())
       returning next_at`,
      [plugin, name, holder, ms],
    );
    const due = taken.rows[0]?.next_at.getTime();
    if (due !== undefined) return { due };
    const present = await this.#query<{ wait: string }>(
      `select extract(epoch from greatest(next_at, leased_until) - now()) * 1000 as wait
       from noa.schedules where plugin = $1 and name = $2`,
      [plugin, name],
    );
    return { next: Date.now() + Number(present.rows[0]?.wait ?? ABSENT_MS) };
  }

  async finish({ plugin, name }: ScheduleKey, holder: string, next: number): Promise<void> {
    await this.#query(
      `update noa.schedules set next_at = $4, leased_by = null, leased_until = null
       where plugin = $1 and name = $2 and leased_by = $3`,
      [plugin, name, holder, new Date(next)],
    );
  }

  #query<R extends object>(sql: string, values: unknown[]): Promise<QueryResult<R>> {
    return connected(this.#pool, (client) => client.query<R>(sql, values));
  }
}

/** See `StoreTx.keepSchedules`. */
export async function keepSchedules(
  client: PoolClient,
  plugin: string,
  names: readonly string[],
): Promise<void> {
  await client.query('delete from noa.schedules where plugin = $1 and name <> all ($2)', [
    plugin,
    names,
  ]);
}
