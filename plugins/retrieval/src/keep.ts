/** A document in its chunks, as rows. Invariant: it is there with all of its chunks, and its words are counted, or not at all. */
import { NoaError } from '@noa/sdk';
import { type Chunk, chunk } from './chunks.ts';
import { type Collection, collectionWith, type Ctx, findCollection } from './context.ts';
import { forgetting } from './documents.ts';
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

export interface Kept {
  readonly id: string;
  readonly hash: string;
  readonly title: string | null;
  readonly source: string | null;
  readonly mediaType: string;
  readonly metadata: object;
  readonly parsed: ParsedDocument;
  readonly chunks: readonly Chunk[];
  /** The version of another index that it is a copy of. */
  readonly origin?: number;
  /** ISO 8601; now when absent. */
  readonly createdAt?: string;
}

/**
 * The document with its chunks and the numbers of its terms, in one transaction. Answers its version; undefined when
 * no collection has the index any more.
 */
export async function keep(
  context: Ctx,
  { name, index_id }: Collection,
  document: Kept,
): Promise<number | undefined> {
  const { id, hash, title, source, mediaType, metadata, parsed, chunks } = document;
  const { origin = null, createdAt = null } = document;
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
  const about = [id, title, source, mediaType, JSON.stringify(metadata), hash, origin, createdAt];
  const statements = [
    ...forgetting(index_id, id),
    {
      // Not into an index that no collection has any more, for another took its place.
      sql: `insert into documents (index_id, id, title, source, media_type, metadata, hash, origin, created_at, state, chunks, leased_until)
        select $1::bigint, $2, $3, $4, $5, $6::jsonb, $7, $8::bigint, coalesce($9::timestamptz, now()),
            'embedding', $10::int, now() + make_interval(secs => $11)
          from collections c where $1::bigint in (c.index_id, c.building_id)
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
  try {
    const results = await context.db.transaction(statements);
    return Number(results.flatMap(({ rows: [row] }) => row?.['version'] ?? [])[0]);
  } catch (error) {
    if (!(error instanceof NoaError) || error.code !== 'CONFLICT') throw error;
    if ((await collectionWith(context, index_id)) !== undefined) throw error;
    // Its collection may have been deleted meanwhile, which is to be told by its name.
    await findCollection(context, name);
    return undefined;
  }
}
