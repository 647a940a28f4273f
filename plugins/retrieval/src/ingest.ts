/**
 * From a document to its vectors. Invariants: what is answered is kept, and is embedded later if the host is
 * killed before; the same content again changes nothing; what a document was cut into before is gone when its
 * new chunks are there.
 */
import { NoaError } from '@noa/sdk';
import { type Chunk, chunk } from './chunks.ts';
import { type Collection, type Ctx, findCollection, pointOf, vectorsOf, WORDS } from './context.ts';
import { parse } from './documents/parse.ts';
import { chunkVector } from './lexical.ts';
import type { AddDocumentInput, AddDocumentOutput, ResumeInput, ResumeOutput } from './noa.gen.ts';
import { documentOf, erase, eraseVectors, forgetting, viewOf } from './documents.ts';

/** Chunks of one document. */
const MAX_CHUNKS = 10_000;
/** Chunks that are embedded and written at a time. */
const BATCH = 64;
/** A document of more chunks is embedded after the answer. */
const MAX_AT_ONCE = 2048;
/** How long a batch may take before another call takes the document over. */
const LEASE_SECONDS = 20;
/** For how long one call goes on with what waits. */
const RESUME_MS = 240_000;
/** Texts of one call of the tokenizer, and characters. */
const TOKENIZE_TEXTS = 64;

export async function addDocument(
  input: AddDocumentInput,
  context: Ctx,
): Promise<AddDocumentOutput> {
  const collection = await findCollection(context, input.collection);
  const { bytes, mediaType } = contentOf(input);
  const hash = await digest(bytes, mediaType, input, collection);
  const id = input.id ?? `d-${hash.slice(0, 32)}`;
  const known = await documentOf(context, collection.name, id);
  if (known?.['hash'] === hash && known['state'] !== 'failed') return viewOf(known);
  const parsed = await parse(bytes, mediaType);
  const count = (texts: string[]) => countTokens(context, collection.model, texts);
  const { chunk_tokens: tokens, chunk_overlap: overlap } = collection;
  const chunks = await chunk(parsed, count, { tokens, overlap });
  if (chunks.length === 0) {
    throw new NoaError('INVALID_ARGUMENT', 'the document has no text in it');
  }
  if (chunks.length > MAX_CHUNKS) {
    const text = `the document has ${chunks.length} chunks, over ${MAX_CHUNKS}: send it in parts`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
  const title = input.title ?? parsed.title ?? null;
  await keep(context, collection, { ...input, id, hash, title, mediaType, chunks });
  if (chunks.length <= MAX_AT_ONCE) await embedAll(context, collection, id, hash);
  const kept = await documentOf(context, collection.name, id);
  if (kept === undefined) throw new NoaError('CONFLICT', `document ${id} was deleted meanwhile`);
  return viewOf(kept);
}

function contentOf(input: AddDocumentInput): { bytes: Uint8Array; mediaType: string } {
  const { text, markdown, html, content } = input;
  const given = [text, markdown, html, content].filter((each) => each !== undefined);
  if (given.length !== 1) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      'send one of text, markdown and html, or the bytes of a file',
    );
  }
  if (content !== undefined) {
    const { mediaType, charset, base64 } = content;
    if (charset !== undefined && !['utf-8', 'utf8', 'us-ascii'].includes(charset)) {
      const words = `content-type: the charset ${charset} is not taken; send UTF-8`;
      throw new NoaError('INVALID_ARGUMENT', words);
    }
    return { bytes: Buffer.from(base64, 'base64'), mediaType };
  }
  if (html !== undefined) return { bytes: Buffer.from(html), mediaType: 'text/html' };
  return markdown === undefined
    ? { bytes: Buffer.from(text ?? ''), mediaType: 'text/plain' }
    : { bytes: Buffer.from(markdown), mediaType: 'text/markdown' };
}

/** Of all that decides on the chunks, their vectors and what they carry. */
async function digest(
  bytes: Uint8Array,
  mediaType: string,
  { title, source, metadata }: AddDocumentInput,
  { name, model, chunk_tokens, chunk_overlap }: Collection,
): Promise<string> {
  const about = [mediaType, title, source, metadata, name, model, chunk_tokens, chunk_overlap];
  const whole = Buffer.concat([Buffer.from(JSON.stringify(about)), Buffer.from([0]), bytes]);
  return Buffer.from(await crypto.subtle.digest('SHA-256', whole)).toString('hex');
}

async function countTokens({ inference }: Ctx, model: string, texts: string[]): Promise<number[]> {
  const counts: number[] = [];
  for (let at = 0; at < texts.length; at += TOKENIZE_TEXTS) {
    const tokens = await inference.tokenize(model, texts.slice(at, at + TOKENIZE_TEXTS));
    counts.push(...tokens.map(({ length }) => length));
  }
  return counts;
}

interface Kept extends AddDocumentInput {
  readonly id: string;
  readonly hash: string;
  readonly mediaType: string;
  readonly chunks: readonly Chunk[];
}

/** The document with its chunks and the numbers of its terms, in one transaction. */
async function keep(
  context: Ctx,
  { name }: Collection,
  document: Omit<Kept, 'title'> & { title: string | null },
): Promise<void> {
  const { id, hash, title, source = null, mediaType, metadata = {}, chunks } = document;
  const rows = chunks.map(({ text, start, end, page = null, headings }, seq) => ({
    seq,
    text,
    start_at: start,
    end_at: end,
    page,
    headings,
    terms: chunkVector(text, headings).indices,
  }));
  await context.db.transaction([
    ...forgetting(name, id),
    {
      sql: `insert into documents (collection, id, title, source, media_type, metadata, hash, state, chunks, leased_until)
        values ($1, $2, $3, $4, $5, $6, $7, 'embedding', $8, now() + make_interval(secs => $9))`,
      params: [
        name,
        id,
        title,
        source,
        mediaType,
        JSON.stringify(metadata),
        hash,
        rows.length,
        LEASE_SECONDS,
      ],
    },
    {
      sql: `insert into chunks (collection, document, seq, text, start_at, end_at, page, headings, terms)
        select $1, $2, seq, text, start_at, end_at, page, headings, terms from jsonb_to_recordset($3::jsonb)
          as c (seq int, text text, start_at int, end_at int, page int, headings jsonb, terms jsonb)`,
      params: [name, id, JSON.stringify(rows)],
    },
    {
      sql: `insert into terms (collection, term, chunks)
        select $1, t::bigint, count(*) from chunks c, jsonb_array_elements_text(c.terms) t
         where c.collection = $1 and c.document = $2 group by t order by t::bigint
        on conflict (collection, term) do update set chunks = terms.chunks + excluded.chunks`,
      params: [name, id],
    },
  ]);
}

/** Goes on where a call before has ended. A document that has changed meanwhile is somebody else's. */
async function embedAll(
  context: Ctx,
  collection: Collection,
  id: string,
  hash: string,
): Promise<void> {
  const { db, events } = context;
  const { name } = collection;
  for (;;) {
    const [row] = await db.query<{
      embedded: number;
      chunks: number;
      title: string | null;
      source: string | null;
      metadata: object;
    }>(
      'select embedded, chunks, title, source, metadata from documents where collection = $1 and id = $2 and hash = $3',
      [name, id, hash],
    );
    if (row === undefined) return;
    // What it was cut into before has other texts under the same names, and may have been more.
    if (row.embedded === 0) await eraseVectors(context, name, id);
    if (row.embedded < row.chunks) {
      const { title, source, metadata } = row;
      await embedBatch(context, collection, id, row.embedded, { title, source, metadata });
    }
    const done = Math.min(row.chunks, row.embedded + BATCH);
    const { rowCount } = await db.execute(
      `update documents set embedded = $4, state = case when $4 = chunks then 'ready' else state end,
         leased_until = now() + make_interval(secs => $5), updated_at = now()
       where collection = $1 and id = $2 and hash = $3`,
      [name, id, hash, done, LEASE_SECONDS],
    );
    if (rowCount === 0 || done < row.chunks) continue;
    await events.publish(`retrieval.${name}`, 'retrieval.document', {
      collection: name,
      id,
      state: 'ready',
      chunks: row.chunks,
    });
    return;
  }
}

async function embedBatch(
  { db, inference, vector }: Ctx,
  { name, model }: Collection,
  id: string,
  from: number,
  about: {
    readonly title: string | null;
    readonly source: string | null;
    readonly metadata: object;
  },
): Promise<void> {
  const chunks = await db.query<{ seq: number; text: string; headings: string[] }>(
    'select seq, text, headings from chunks where collection = $1 and document = $2 and seq >= $3 order by seq limit $4',
    [name, id, from, BATCH],
  );
  const { vectors } = await inference.embed(
    model,
    chunks.map(({ text }) => text),
    { priority: 'batch' },
  );
  const { title, source, metadata } = about;
  const points = chunks.map(({ seq, text, headings }, i) => ({
    id: pointOf(id, seq),
    vector: vectors[i] ?? [],
    sparse: { [WORDS]: chunkVector(text, headings) },
    payload: {
      document: id,
      metadata,
      ...(title !== null && { title }),
      ...(source !== null && { source }),
    } as never,
  }));
  if (points.length > 0) await vector.upsert(vectorsOf(name), points);
}

/** Called now and then: goes on with what waits, as after a host was killed. */
export async function resume(_input: ResumeInput, context: Ctx): Promise<ResumeOutput> {
  const { db, clock, log } = context;
  const until = clock.now() + RESUME_MS;
  let documents = 0;
  while (clock.now() < until) {
    const [next] = (
      await db.execute(
        `update documents set leased_until = now() + make_interval(secs => $1)
          where (collection, id) = (select collection, id from documents
            where state in ('embedding', 'deleting') and leased_until < now()
            order by seq limit 1 for update skip locked)
          returning collection, id, hash, state`,
        [LEASE_SECONDS],
      )
    ).rows as { collection: string; id: string; hash: string; state: string }[];
    if (next === undefined) break;
    try {
      if (next.state === 'deleting') await erase(context, next.collection, next.id);
      else
        await embedAll(context, await findCollection(context, next.collection), next.id, next.hash);
      documents += 1;
    } catch (error) {
      if (!(error instanceof NoaError) || ERRORS_THAT_PASS.has(error.code)) throw error;
      log.warn('a document cannot be embedded', { ...next, error: error.message });
      await db.execute(
        `update documents set state = 'failed', error = $4, updated_at = now()
          where collection = $1 and id = $2 and hash = $3`,
        [next.collection, next.id, next.hash, error.message.slice(0, 500)],
      );
    }
  }
  return { documents };
}

/** Of an engine that is away or busy: the next call tries again. */
const ERRORS_THAT_PASS: ReadonlySet<string> = new Set([
  'UNAVAILABLE',
  'RESOURCE_EXHAUSTED',
  'DEADLINE_EXCEEDED',
  'CANCELLED',
  'CAPABILITY_DENIED',
]);
