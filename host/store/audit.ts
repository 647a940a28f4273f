/** The rows of `noa.audit`: what was hashed is kept, and read, to the letter. */
import type { PoolClient } from 'pg';
import type { AuditRecord, ChainHead } from '../kernel/audit.ts';
import type { AuditPage } from '../kernel/store.ts';

/** Records read at once when the whole log is read. */
const CHUNK = 1000;

export interface AuditQuery {
  readonly cursor?: string;
  readonly limit: number;
  readonly plugin?: string;
}

/** Newest first. */
export async function selectAuditPage(client: PoolClient, query: AuditQuery): Promise<AuditPage> {
  const { rows } = await client.query<{ position: string; body: string }>(
    `select position, body from noa.audit
     where ($1::bigint is null or position < $1) and ($2::text is null or plugin = $2)
     order by position desc limit $3`,
    [query.cursor ?? null, query.plugin ?? null, query.limit + 1],
  );
  const page = rows.slice(0, query.limit);
  const next = rows.length > query.limit ? (page.at(-1)?.position ?? null) : null;
  return { records: page.map(({ body }) => JSON.parse(body) as AuditRecord), next };
}

/** Every record, chain by chain, in order; `chunk` runs one query on a connection of its own. */
export async function* allAudit(
  chunk: <T>(work: (client: PoolClient) => Promise<T>) => Promise<T>,
): AsyncGenerator<AuditRecord> {
  let chain = '';
  let seq = 0;
  for (;;) {
    const after = [chain, seq];
    const { rows } = await chunk((client) =>
      client.query<{ body: string }>(
        `select body from noa.audit where (chain, seq) > ($1, $2) order by chain, seq limit ${CHUNK}`,
        after,
      ),
    );
    for (const { body } of rows) {
      const record = JSON.parse(body) as AuditRecord;
      yield record;
      ({ chain, seq } = record);
    }
    if (rows.length < CHUNK) return;
  }
}

export async function selectHead(
  client: PoolClient,
  chain: string,
): Promise<ChainHead | undefined> {
  const { rows } = await client.query<{ body: string }>(
    'select body from noa.audit where chain = $1 order by seq desc limit 1',
    [chain],
  );
  const body = rows[0]?.body;
  if (body === undefined) return undefined;
  const { seq, hash } = JSON.parse(body) as AuditRecord;
  return { seq, hash };
}

export async function insertAudit(
  client: PoolClient,
  records: readonly AuditRecord[],
): Promise<void> {
  await client.query(
    `insert into noa.audit (chain, seq, plugin, body)
     select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[])`,
    [
      records.map(({ chain }) => chain),
      records.map(({ seq }) => seq),
      records.map(({ plugin }) => plugin),
      records.map((record) => JSON.stringify(record)),
    ],
  );
}
