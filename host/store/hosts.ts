/**
 * Which hosts share this database: each writes a row of its own every few seconds. Invariant: all times are
 * the database's, so that the clocks of the hosts do not matter; a host that is stopped takes its row away,
 * one that was killed is away after a minute and forgotten after a day.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool, PoolClient } from 'pg';
import type { Hosts, HostView } from '../kernel/hosts.ts';
import { connected } from './connected.ts';

const BEAT_MS = 5000;
const AWAY_AFTER = '1 minute';
const FORGOTTEN_AFTER = '1 day';

export interface HostRegisterOptions {
  readonly id: string;
  readonly version: string;
  /** Told once for each time that the database cannot be told. */
  readonly onError: (message: string, error: unknown) => void;
}

interface Row {
  readonly id: string;
  readonly version: string;
  readonly url: string;
  readonly started_at: Date;
  readonly seen_at: Date;
  readonly away: boolean;
}

export class HostRegister implements Hosts, AsyncDisposable {
  readonly #pool: Pool;
  readonly #options: HostRegisterOptions;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #failing = false;

  constructor(pool: Pool, options: HostRegisterOptions) {
    this.#pool = pool;
    this.#options = options;
  }

  /** From now on this host is listed, as one that began now and listens at `url`. */
  enter(url: string): void {
    this.#running = this.#run(url);
  }

  async #run(url: string): Promise<void> {
    const { id, version } = this.#options;
    const { signal } = this.#stop;
    let entered = false;
    while (!signal.aborted) {
      await this.#tell(async (client) => {
        // The row of a host that could not write for a day has been swept.
        if (!entered || !(await renew(client, id))) await enter(client, [id, version, url]);
        entered = true;
        await client.query('delete from noa.hosts where seen_at < now() - $1::interval', [
          FORGOTTEN_AFTER,
        ]);
      });
      await sleep(BEAT_MS, undefined, { signal, ref: false }).catch(() => undefined); // stopped
    }
  }

  async list(): Promise<HostView[]> {
    const { rows } = await connected(this.#pool, (client) =>
      client.query<Row>(
        `select id, version, url, started_at, seen_at, seen_at < now() - $1::interval as away
         from noa.hosts order by id collate "C"`,
        [AWAY_AFTER],
      ),
    );
    return rows.map((row) => ({
      id: row.id,
      version: row.version,
      url: row.url,
      state: row.away ? 'away' : 'present',
      startedAt: row.started_at.toISOString(),
      seenAt: row.seen_at.toISOString(),
    }));
  }

  /** Takes this host off the list; where that fails it is away after a minute. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#running === undefined) return;
    this.#stop.abort();
    await this.#running;
    await this.#tell((client) =>
      client.query('delete from noa.hosts where id = $1', [this.#options.id]),
    );
  }

  async #tell(work: (client: PoolClient) => Promise<unknown>): Promise<void> {
    try {
      await connected(this.#pool, work);
      this.#failing = false;
    } catch (error) {
      if (!this.#failing) this.#options.onError('the list of hosts cannot be written', error);
      this.#failing = true;
    }
  }
}

/** Whether there was a row. */
async function renew(client: PoolClient, id: string): Promise<boolean> {
  const { rowCount } = await client.query('update noa.hosts set seen_at = now() where id = $1', [
    id,
  ]);
  return rowCount === 1;
}

async function enter(client: PoolClient, row: readonly [id: string, version: string, url: string]) {
  await client.query(
    `insert into noa.hosts (id, version, url, started_at, seen_at)
     values ($1, $2, $3, now(), now())
     on conflict (id) do update set
       (version, url, started_at, seen_at)
         = (excluded.version, excluded.url, excluded.started_at, excluded.seen_at)`,
    [...row],
  );
}
