/** The rows of `noa.idempotency_keys`. Time is the database's, so that hosts agree on who holds a lease. */
import { randomUUID } from 'node:crypto';
import type { Pool, QueryResult } from 'pg';
import {
  type Found,
  Idempotency,
  type IdempotencyStore,
  type KeyedRun,
} from '../gateway/idempotency.ts';
import type { Seal, Sealed } from '../kernel/seal.ts';
import { connected } from './connected.ts';

const MAX_SWEPT = 1000;

export interface IdempotencyBounds {
  /** Keys of one principal. */
  readonly maxKeys: number;
  /** Bytes of the answers of one principal together. */
  readonly maxBytes: number;
}

interface Row {
  fingerprint: Buffer;
  status: number | null;
  seal_key: string | null;
  nonce: Buffer | null;
  sealed: Buffer | null;
}

export class PostgresIdempotency implements IdempotencyStore {
  readonly #pool: Pool;
  readonly #bounds: IdempotencyBounds;

  constructor(pool: Pool, bounds: IdempotencyBounds) {
    this.#pool = pool;
    this.#bounds = bounds;
  }

  async begin(
    { subject, key, run }: KeyedRun,
    fingerprint: Buffer,
    { leaseMs, keepMs }: { leaseMs: number; keepMs: number },
  ): Promise<Found> {
    // Twice: the row that was in the way may be gone before it is read.
    for (let attempt = 0; attempt < 2; attempt++) {
      const begun = await this.#query(
        `insert into noa.idempotency_keys as known
           (subject, key, fingerprint, run, leased_until, expires_at)
         select $1, $2, $3, $4, now() + $5 * interval '1 millisecond',
           now() + $6 * interval '1 millisecond'
         where $7 > (select count(*) from (select from noa.idempotency_keys
                       where subject = $1 and key <> $2 and expires_at > now() limit $7) as others)
         on conflict (subject, key) do update set fingerprint = excluded.fingerprint,
           run = excluded.run, leased_until = excluded.leased_until,
           expires_at = excluded.expires_at, status = null, seal_key = null, nonce = null,
           sealed = null
         where known.expires_at <= now() or (known.status is null and known.leased_until <= now())
         returning 1`,
        [subject, key, fingerprint, run, leaseMs, keepMs, this.#bounds.maxKeys],
      );
      if (begun.rowCount === 1) return { state: 'begun' };
      const { rows } = await this.#query<Row>(
        `select fingerprint, status, seal_key, nonce, sealed from noa.idempotency_keys
         where subject = $1 and key = $2 and expires_at > now()`,
        [subject, key],
      );
      if (rows[0] !== undefined) return found(rows[0]);
    }
    return { state: 'full' };
  }

  async renew({ subject, key, run }: KeyedRun, leaseMs: number): Promise<void> {
    await this.#query(
      `update noa.idempotency_keys set leased_until = now() + $4 * interval '1 millisecond'
       where subject = $1 and key = $2 and run = $3 and status is null`,
      [subject, key, run, leaseMs],
    );
  }

  async finish(
    { subject, key, run }: KeyedRun,
    status: number,
    answer: Sealed | undefined,
    keepMs: number,
  ): Promise<boolean> {
    const { rows } = await this.#query<{ kept: boolean }>(
      `with others as (select coalesce(sum(octet_length(sealed)), 0) as bytes
         from noa.idempotency_keys where subject = $1)
       update noa.idempotency_keys set status = $4, seal_key = $5, nonce = $6,
         sealed = case when others.bytes + octet_length($7::bytea) <= $8 then $7 end,
         expires_at = now() + $9 * interval '1 millisecond'
       from others where subject = $1 and key = $2 and run = $3
       returning sealed is not null as kept`,
      [
        subject,
        key,
        run,
        status,
        answer?.keyId,
        answer?.nonce,
        answer?.sealed,
        this.#bounds.maxBytes,
        keepMs,
      ],
    );
    return rows[0]?.kept ?? false;
  }

  async release({ subject, key, run }: KeyedRun): Promise<void> {
    await this.#query(
      `delete from noa.idempotency_keys
       where subject = $1 and key = $2 and run = $3 and status is null`,
      [subject, key, run],
    );
  }

  async sweep(): Promise<void> {
    for (let swept = MAX_SWEPT; swept === MAX_SWEPT;) {
      const { rowCount } = await this.#query(
        `delete from noa.idempotency_keys where (subject, key) in (
           select subject, key from noa.idempotency_keys where expires_at <= now() limit $1
           for update skip locked)`,
        [MAX_SWEPT],
      );
      swept = rowCount ?? 0;
    }
  }

  #query<R extends object>(sql: string, values: unknown[]): Promise<QueryResult<R>> {
    return connected(this.#pool, (client) => client.query<R>(sql, values));
  }
}

function found({ fingerprint, status, seal_key: keyId, nonce, sealed }: Row): Found {
  if (status === null) return { state: 'running', fingerprint };
  const isKept = keyId !== null && nonce !== null && sealed !== null;
  return {
    state: 'done',
    fingerprint,
    status,
    answer: isKept ? { keyId, nonce, sealed } : undefined,
  };
}

/** As the section `gateway.idempotency` of the configuration says; to be closed before the pool. */
export function openIdempotency(
  pool: Pool,
  seal: Seal,
  config: {
    readonly keep_hours: number;
    readonly max_answer_bytes: number;
    readonly max_keys: number;
    readonly max_bytes: number;
  },
  onError: (message: string, error: unknown) => void,
): { readonly idempotency: Idempotency } & Disposable {
  const bounds = { maxKeys: config.max_keys, maxBytes: config.max_bytes };
  const idempotency = new Idempotency({
    store: new PostgresIdempotency(pool, bounds),
    seal,
    keepMs: config.keep_hours * 3_600_000,
    maxAnswerBytes: config.max_answer_bytes,
    newId: randomUUID,
    onError,
  });
  return { idempotency, [Symbol.dispose]: () => idempotency.close() };
}
