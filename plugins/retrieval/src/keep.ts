/** A document in its chunks, as rows. Invariant: it is there with all of its chunks, and its words are counted, or not at all. */
import { NoaError, type SqlStatement } from '@noa/sdk';
import { type Chunk, chunk } from './chunks.ts';
import { type Collection, type Ctx, findCollection } from './context.ts';
import { forgetting, locking } from './documents.ts';
import type { ParsedDocument } from './documents/document.ts';
import { LEASE_SECONDS } from './embed.ts';
import { chunkVector } from './lexical.ts';
import { partsOf } from './parts.ts';
import { countTokens } from './tokens.ts';
import { Turns } from './turns.ts';

/** By the tokens of the collection's model. */
export function cut(
  context: Ctx,
  collection: Collection,
  parsed: ParsedDocument,
): Promise<Chunk[]> {
  const { model, chunk_tokens: tokens, chunk_overlap: overlap } = collection;
  const count = (texts: string[]) => countTokens(context, model, texts);
  return chunk(parsed, count, { tokens, overlap });
}

/** An index, and a document as it is cut for it. */
export interface Target {
  readonly collection: Collection;
  readonly chunks: readonly Chunk[];
}

export interface Kept {
  readonly id: string;
  readonly hash: string;
  readonly title: string | null;
  readonly source: string | null;
  readonly mediaType: string;
  readonly metadata: object;
  readonly parsed: ParsedDocument;
  /** ISO 8601; now when absent. */
  readonly createdAt?: string;
}

/**
 * The document with its chunks and the numbers of its terms, in one transaction. Into the index that answers, and
 * then, as a copy of that, into the one that is built; or into that alone, as a copy of this `version`. Answers the
 * versions that it has in them; undefined when another index has taken the place of one, or the document is gone.
 */
export async function keep(
  context: Ctx,
  document: Kept,
  targets: readonly [Target, ...Target[]],
  version: number | null = null,
): Promise<readonly number[] | undefined> {
  const [{ collection }] = targets;
  const { name, live_id } = collection;
  const statements = [locking(live_id)];
  for (const target of targets) statements.push(...(await writing(target, document, version)));
  try {
    const results = await context.db.transaction(statements);
    return results.flatMap(({ rows: [row] }) => Number(row?.['version'] ?? []) || []);
  } catch (error) {
    if (!(error instanceof NoaError) || error.code !== 'CONFLICT') throw error;
    // Its collection may have been deleted meanwhile, which is to be told by its name.
    const now = await findCollection(context, name);
    const isAsBefore = now.live_id === live_id && now.building_id === collection.building_id;
    if (isAsBefore && version === null) throw error;
    return undefined;
  }
}

async function writing(
  { collection, chunks }: Target,
  { id, hash, title, source, mediaType, metadata, parsed, createdAt }: Kept,
  version: number | null,
): Promise<SqlStatement[]> {
  const { index_id } = collection;
  const rows: object[] = [];
  const turns = new Turns();
  for (const { text, start, end, gap, blocks } of partsOf(parsed, chunks)) {
    const seq = rows.length;
    const { headings = [], page, lines } = chunks[seq] ?? {};
    const terms = chunkVector(text, headings).indices;
    const place = { start_at: start, end_at: end, page, line: lines?.from, end_line: lines?.to };
    rows.push({ seq, gap, text, ...place, headings, blocks, terms });
    if (turns.isOver) await turns.next();
  }
  const about = [
    id,
    title,
    source,
    mediaType,
    JSON.stringify(metadata),
    hash,
    createdAt ?? null,
    version,
  ];
  return [
    ...forgetting(index_id, id),
    {
      // Into no index that is neither; and a copy only of what is there.
      sql: `insert into documents (index_id, id, title, source, media_type, metadata, hash, created_at, origin, state, chunks, leased_until)
        select $1::bigint, $2, $3, $4, $5, $6::jsonb, $7, coalesce($8::timestamptz, now()), d.seq,
            'embedding', $10::int, now() + make_interval(secs => $11)
          from collections c left join documents d on c.building_id = $1::bigint and d.index_id = c.index_id
            and d.id = $2 and d.state <> 'deleting' and d.seq = coalesce($9::bigint, d.seq)
          where c.index_id = $1::bigint or d.seq is not null
        returning seq as version`,
      params: [index_id, ...about, rows.length, LEASE_SECONDS],
    },
    {
      sql: `insert into chunks (index_id, document, seq, gap, text, start_at, end_at, page, line, end_line, headings, blocks, terms)
        select $1, $2, seq, gap, text, start_at, end_at, page, line, end_line, headings, blocks, terms
          from jsonb_to_recordset($3::jsonb) as c (seq int, gap text, text text, start_at int, end_at int, page int,
            line int, end_line int, headings jsonb, blocks jsonb, terms jsonb)`,
      params: [index_id, id, JSON.stringify(rows)],
    },
    {
      sql: `insert into terms (index_id, term, chunks)
        select $1, t::bigint, count(*) from chunks c, jsonb_array_elements_text(c.terms) t
         where c.index_id = $1 and c.document = $2 group by t order by t::bigint
        on conflict (index_id, term) do update set chunks = terms.chunks + excluded.chunks`,
      params: [index_id, id],
    },
  ];
}
