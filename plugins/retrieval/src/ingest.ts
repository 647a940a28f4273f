/**
 * From a document to its vectors. Invariants: what is answered is kept, and is embedded later if the host is
 * killed before; the same content again changes nothing; what a document was cut into before is gone when its
 * new chunks are there.
 */
import { NoaError } from '@noa/sdk';
import { type Chunk, chunk } from './chunks.ts';
import {
  type Collection,
  type Ctx,
  findCollection,
  pointOf,
  type Row,
  withVectors,
  WORDS,
} from './context.ts';
import { parse } from './documents/parse.ts';
import { chunkVector } from './lexical.ts';
import type { AddDocumentInput, AddDocumentOutput, ResumeInput, ResumeOutput } from './noa.gen.ts';
import { documentOf, erase, eraseVectors, forgetting, viewOf } from './documents.ts';
import { assertPlain } from './plain-text.ts';
import { Turns } from './turns.ts';

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
/** Texts of one call of the tokenizer. */
const TOKENIZE_TEXTS = 64;
/** Of a document, as JSON: each of its points carries them. */
const MAX_METADATA_BYTES = 32_768;

export async function addDocument(
  input: AddDocumentInput,
  context: Ctx,
): Promise<AddDocumentOutput> {
  const collection = await findCollection(context, input.collection);
  assertNamed(input);
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
  const kept = { ...input, id, hash, title, mediaType, chunks };
  const version = await keep(context, collection, kept);
  if (chunks.length <= MAX_AT_ONCE) await embedAll(context, collection, id, version);
  const there = await documentOf(context, collection.name, id);
  if (there === undefined) {
    await findCollection(context, collection.name);
    throw new NoaError('CONFLICT', `document ${id} was deleted meanwhile`);
  }
  return viewOf(there);
}

/** Throws INVALID_ARGUMENT for what could be kept and not be found, or not be deleted, again. */
function assertNamed({ id, title, source, metadata }: AddDocumentInput): void {
  for (const [name, value] of Object.entries({ id, title, source, metadata })) {
    assertPlain(value, name);
  }
  if (id === '.' || id === '..') {
    throw new NoaError('INVALID_ARGUMENT', 'id: . and .. are no ids, for no path can name them');
  }
  const bytes = Buffer.byteLength(JSON.stringify(metadata ?? {}));
  if (bytes > MAX_METADATA_BYTES) {
    const text = `metadata: has ${bytes} bytes as JSON, over ${MAX_METADATA_BYTES}`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
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
    if (base64.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(base64)) {
      throw new NoaError('INVALID_ARGUMENT', 'content/base64: is no base64 (RFC 4648, section 4)');
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

/** The document with its chunks and the numbers of its terms, in one transaction. Answers its version. */
async function keep(
  context: Ctx,
  { name }: Collection,
  document: Omit<Kept, 'title'> & { title: string | null },
): Promise<number> {
  const { id, hash, title, source = null, mediaType, metadata = {}, chunks } = document;
  const rows: object[] = [];
  const turns = new Turns();
  for (const [seq, { text, start, end, page = null, headings }] of chunks.entries()) {
    const terms = chunkVector(text, headings).indices;
    rows.push({ seq, text, start_at: start, end_at: end, page, headings, terms });
    if (turns.isOver) await turns.next();
  }
  const statements = [
    ...forgetting(name, id),
    {
      sql: `insert into documents (collection, id, title, source, media_type, metadata, hash, state, chunks, leased_until)
        values ($1, $2, $3, $4, $5, $6, $7, 'embedding', $8, now() + make_interval(secs => $9))
        returning seq as version`,
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
  ];
  try {
    const results = await context.db.transaction(statements);
    return Number(results.flatMap(({ rows: [row] }) => row?.['version'] ?? [])[0]);
  } catch (error) {
    // Its collection may have been deleted meanwhile, which is to be told by its name.
    if (error instanceof NoaError && error.code === 'CONFLICT') await findCollection(context, name);
    throw error;
  }
}

interface Work {
  readonly embedded: number;
  readonly chunks: number;
  readonly title: string | null;
  readonly source: string | null;
  readonly metadata: object;
}

/** Goes on where a call before has ended. A document that has another version meanwhile is somebody else's. */
async function embedAll(
  context: Ctx,
  collection: Collection,
  id: string,
  version: number,
): Promise<void> {
  const { db, events } = context;
  const { name } = collection;
  for (;;) {
    const [row] = await db.query<Work & Row>(
      `select embedded, chunks, title, source, metadata from documents
        where collection = $1 and id = $2 and seq = $3 and state = 'embedding'`,
      [name, id, version],
    );
    if (row === undefined) break;
    // What it was cut into before is no hit since, and takes no hit's place from now on.
    if (row.embedded === 0) await eraseVectors(context, name, id, { lt: version });
    if (row.embedded < row.chunks) await embedBatch(context, collection, { id, version }, row);
    const done = Math.min(row.chunks, row.embedded + BATCH);
    // Also what was written in between by whoever did not know of this version yet.
    if (done === row.chunks) await eraseVectors(context, name, id, { lt: version });
    const { rowCount } = await db.execute(
      `update documents set embedded = greatest(embedded, $4),
         state = case when $4 = chunks then 'ready' else state end,
         leased_until = now() + make_interval(secs => $5), updated_at = now()
       where collection = $1 and id = $2 and seq = $3 and state = 'embedding'`,
      [name, id, version, done, LEASE_SECONDS],
    );
    if (rowCount === 0) break;
    if (done < row.chunks) continue;
    const told = { collection: name, id, state: 'ready', chunks: row.chunks };
    await events.publish(`retrieval.${name}`, 'retrieval.document', told);
    return;
  }
  await eraseUnless(context, name, id, version);
}

/** Takes back what was written for a document that had been deleted, or written anew, just before. */
async function eraseUnless(context: Ctx, name: string, id: string, version: number): Promise<void> {
  const [there] = await context.db.query(
    `select 1 from documents
      where collection = $1 and id = $2 and seq = $3 and state in ('embedding', 'ready')`,
    [name, id, version],
  );
  if (there === undefined) {
    await eraseVectors(context, name, id, { gte: version, lte: version });
  }
}

async function embedBatch(
  context: Ctx,
  { name, model }: Collection,
  { id, version }: { readonly id: string; readonly version: number },
  { embedded: from, title, source, metadata }: Work,
): Promise<void> {
  const { db, inference, vector } = context;
  const chunks = await db.query<{ seq: number; text: string; headings: string[] }>(
    'select seq, text, headings from chunks where collection = $1 and document = $2 and seq >= $3 order by seq limit $4',
    [name, id, from, BATCH],
  );
  const { vectors: rows } = await inference.embed(
    model,
    chunks.map(({ text }) => text),
    { priority: 'batch' },
  );
  const points = chunks.map(({ seq, text, headings }, i) => ({
    id: pointOf({ document: id, version, seq }),
    vector: rows[i] ?? [],
    sparse: { [WORDS]: chunkVector(text, headings) },
    payload: {
      document: id,
      version,
      metadata,
      ...(title !== null && { title }),
      ...(source !== null && { source }),
    } as never,
  }));
  if (points.length === 0) return;
  await withVectors(context, name, (vectors) => vector.upsert(vectors, points));
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
          returning collection, id, seq as version, state`,
        [LEASE_SECONDS],
      )
    ).rows as { collection: string; id: string; version: number; state: string }[];
    if (next === undefined) break;
    const { collection, id, version, state } = next;
    try {
      if (state === 'deleting') await erase(context, { collection, id, version, isOver: true });
      else await embedAll(context, await findCollection(context, collection), id, version);
      documents += 1;
    } catch (error) {
      if (!(error instanceof NoaError) || ERRORS_THAT_PASS.has(error.code)) throw error;
      log.warn('a document cannot be embedded', { ...next, error: error.message });
      await db.execute(
        `update documents set state = 'failed', error = $4, updated_at = now()
          where collection = $1 and id = $2 and seq = $3 and state = 'embedding'`,
        [collection, id, version, error.message.slice(0, 500)],
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
