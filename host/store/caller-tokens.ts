/** The capability tokens of machine callers in PostgreSQL: a token is good while its row is there. */
import type { Pool, PoolClient } from 'pg';
import type {
  CallerTokenStore,
  CallerTokenTx,
  CallerTokenView,
  Spending,
} from '../kernel/caller-token-records.ts';
import type { StoreTx } from '../kernel/store.ts';
import { connected } from './connected.ts';
import { clientOf } from './postgres.ts';

interface Row {
  readonly id: string;
  readonly parent: string | null;
  readonly subject: string;
  readonly calls: string[];
  readonly rights: CallerTokenView['rights'];
  readonly budget: CallerTokenView['budget'];
  readonly level: string | null;
  readonly created_by: string;
  readonly created_at: Date;
  readonly expires_at: Date;
}

const COLUMNS =
  'id, parent, subject, calls, rights, budget, level, created_by, created_at, expires_at';
const FAMILY_SIZE = `with recursive family as (
    select id from noa.caller_tokens where id = $1
    union all
    select below.id from noa.caller_tokens below join family on below.parent = family.id)
  select count(*) from family`;
const added = (field: string): string =>
  `'${field}', coalesce((token.spent->>'${field}')::float8, 0) + more."${field}"`;
/** Hosts that spend of the same tokens lock them in one order. */
const SPEND = `with more as (
    select * from jsonb_to_recordset($1) as
      one(id uuid, calls float8, "rows" float8, tokens float8, bytes float8, ms float8)),
  locked as (
    select id from noa.caller_tokens where id in (select id from more) order by id for update)
  update noa.caller_tokens token
  set spent = jsonb_build_object(${['calls', 'rows', 'tokens', 'bytes', 'ms'].map(added).join(', ')})
  from more join locked on locked.id = more.id
  where token.id = more.id`;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export class PostgresCallerTokens implements CallerTokenStore {
  readonly #pool: Pool;

  /** `pool` logs in as the owner of schema `noa`. */
  constructor(pool: Pool) {
    this.#pool = pool;
  }

  in(tx: StoreTx): CallerTokenTx {
    const client = clientOf(tx);
    return {
      put: (token) => insert(client, token),
      count: async (now) => {
        const sql = 'select count(*) from noa.caller_tokens where expires_at > $1';
        const { rows } = await client.query<{ count: string }>(sql, [now]);
        return Number(rows[0]?.count);
      },
      delete: async (id) => {
        if (!UUID.test(id)) return false;
        const sql = 'delete from noa.caller_tokens where id = $1';
        return (await client.query(sql, [id])).rowCount === 1;
      },
    };
  }

  putChild(token: CallerTokenView, root: string, most: number): Promise<boolean> {
    return connected(this.#pool, async (client) => {
      await client.query('begin');
      try {
        // Held to the end, so that of many at once each counts the others, and none outlives its parent. The
        // root goes first, as it does when the family is deleted.
        const lock = 'select id from noa.caller_tokens where id = $1 for update';
        await client.query(lock, [root]);
        const parents = await client.query(lock, [token.parent]);
        const { rows } = await client.query<{ count: string }>(FAMILY_SIZE, [root]);
        const hasRoom = parents.rowCount === 1 && Number(rows[0]?.count) < most;
        if (hasRoom) await insert(client, token);
        await client.query('commit');
        return hasRoom;
      } catch (error) {
        await client.query('rollback');
        throw error;
      }
    });
  }

  async line(id: string, now: string): Promise<readonly CallerTokenView[]> {
    if (!UUID.test(id)) return [];
    const rows = await this.#rows<Row & { depth: number }>(
      `with recursive line as (
         select ${COLUMNS}, 0 as depth from noa.caller_tokens where id = $1 and expires_at > $2
         union all
         select ${COLUMNS.split(', ')
           .map((name) => `above.${name}`)
           .join(', ')}, line.depth + 1
         from noa.caller_tokens above join line on above.id = line.parent)
       select * from line order by depth`,
      [id, now],
    );
    return rows.map(toView);
  }

  async present(ids: readonly string[]): Promise<readonly string[]> {
    const sql = 'select id from noa.caller_tokens where id = any ($1)';
    return (await this.#rows<{ id: string }>(sql, [ids])).map(({ id }) => id);
  }

  async spend(spent: readonly Spending[]): Promise<readonly Spending[]> {
    const more = spent.filter((one) => Object.values(one.spent).some((amount) => amount > 0));
    if (more.length > 0) {
      const flat = more.map(({ id, spent: amounts }) => ({ id, ...amounts }));
      await this.#rows(SPEND, [JSON.stringify(flat)]);
    }
    const sql = 'select id, spent from noa.caller_tokens where id = any ($1)';
    return this.#rows<Spending>(sql, [spent.map(({ id }) => id)]);
  }

  async list(after: string | undefined, limit: number, now: string) {
    const rows = await this.#rows<Row>(
      `select ${COLUMNS} from noa.caller_tokens
       where expires_at > $1 and id::text > $2 order by id::text limit $3`,
      [now, after ?? '', limit],
    );
    return rows.map(toView);
  }

  async sweep(now: string): Promise<void> {
    await this.#rows('delete from noa.caller_tokens where expires_at <= $1', [now]);
  }

  #rows<R extends object>(sql: string, values: unknown[]): Promise<R[]> {
    return connected(this.#pool, async (client) => (await client.query<R>(sql, values)).rows);
  }
}

async function insert(client: PoolClient, token: CallerTokenView): Promise<void> {
  const { id, parent, subject, calls, rights, budget, level, createdBy } = token;
  await client.query(
    `insert into noa.caller_tokens (${COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      id,
      parent,
      subject,
      calls,
      rights && JSON.stringify(rights),
      budget && JSON.stringify(budget),
      level,
      createdBy,
      token.createdAt,
      token.expiresAt,
    ],
  );
}

function toView(row: Row): CallerTokenView {
  const { id, parent, subject, calls, rights, budget, level } = row;
  return {
    id,
    parent,
    subject,
    calls,
    rights,
    budget,
    level,
    createdBy: row.created_by,
    createdAt: row.created_at.toISOString(),
    expiresAt: row.expires_at.toISOString(),
  };
}
