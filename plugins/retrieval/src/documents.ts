/** Documents that are there: told of, and deleted with all that was made of them. */
import { NoaError, type SqlStatement } from '@noa/sdk';
import { UNITS_PER_TOKEN } from './chunks.ts';
import { type Collection, type Ctx, findCollection, type Row, withVectors } from './context.ts';
import type {
  AddDocumentOutput,
  DeleteDocumentInput,
  DeleteDocumentOutput,
  DocumentInput,
  DocumentOutput,
  DocumentsInput,
  DocumentsOutput,
  DocumentTextInput,
  DocumentTextOutput,
} from './noa.gen.ts';
import { ownText, type Part } from './parts.ts';
import { assertPlain } from './plain-text.ts';

export async function documentOf(
  { db }: Ctx,
  { name, index_id }: Collection,
  id: string,
): Promise<Row | undefined> {
  const [row] = await db.query<Row>(
    "select * from documents where index_id = $1 and id = $2 and state <> 'deleting'",
    [index_id, id],
  );
  return row && { ...row, collection: name };
}

export function viewOf(row: Row): AddDocumentOutput {
  const { collection, id, title, source, state, chunks, embedded, error } = row;
  const { media_type, metadata, created_at, updated_at } = row;
  const view = { collection, id, title, source, state, chunks, embedded, error };
  return { ...view, media_type, metadata, created_at, updated_at } as AddDocumentOutput;
}

export async function document(
  { collection, id }: DocumentInput,
  context: Ctx,
): Promise<DocumentOutput> {
  return viewOf(await requireDocument(context, await findCollection(context, collection), id));
}

async function requireDocument(context: Ctx, collection: Collection, id: string): Promise<Row> {
  assertPlain(id, 'id');
  const row = await documentOf(context, collection, id);
  if (row === undefined) throw absent(collection.name, id);
  return row;
}

function absent(collection: string, id: string): NoaError {
  const text = `there is no document ${JSON.stringify(id)} in ${collection}`;
  return new NoaError('NOT_FOUND', text);
}

/** The text that was read of a document, a run of chunks at a time. */
export async function documentText(
  { collection: name, id, cursor = '0' }: DocumentTextInput,
  context: Ctx,
): Promise<DocumentTextOutput> {
  const collection = await findCollection(context, name);
  const from = integerOf(cursor);
  const { chunks } = await requireDocument(context, collection, id);
  const parts = await readParts(context, collection, id, from);
  let text = '';
  let start: number | undefined;
  let before = 0;
  for (const { seq, ...part } of parts) {
    if (seq >= from) {
      start ??= before;
      text += ownText(part, before);
    }
    before = part.end;
  }
  const last = parts.at(-1)?.seq ?? from;
  return { text, start: start ?? 0, next: last + 1 < Number(chunks) ? String(last + 1) : null };
}

function integerOf(cursor: string): number {
  const value = Number(cursor);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new NoaError('INVALID_ARGUMENT', 'cursor: is `next` of the page before');
}

/** Bytes of chunks that are read at a time, as many as a token and a character may have at most. */
const READ_BYTES = 2 << 20;
const BYTES_PER_TOKEN = UNITS_PER_TOKEN * 3;

type KeptPart = Part & { readonly seq: number };

/** From this chunk on, and the one before it, which tells what is in it alone. */
export async function readParts(
  { db }: Ctx,
  { index_id, chunk_tokens }: Collection,
  id: string,
  from: number,
): Promise<KeptPart[]> {
  const most = Math.max(2, Math.floor(READ_BYTES / (chunk_tokens * BYTES_PER_TOKEN)));
  return db.query<KeptPart & Row>(
    `select seq, gap, text, start_at as start, end_at as end, blocks from chunks
      where index_id = $1 and document = $2 and seq >= $3 order by seq limit $4`,
    [index_id, id, from - 1, most],
  );
}

export async function documents(
  { collection, limit = 50, cursor = '0' }: DocumentsInput,
  context: Ctx,
): Promise<DocumentsOutput> {
  const { index_id } = await findCollection(context, collection);
  const after = integerOf(cursor);
  const rows = await context.db.query<Row>(
    `select * from documents where index_id = $1 and seq > $2 and state <> 'deleting'
      order by seq limit $3`,
    [index_id, after, limit + 1],
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1)?.['seq'];
  return {
    documents: page.map((row) => viewOf({ ...row, collection })),
    next: rows.length > limit && typeof last === 'number' ? String(last) : null,
  };
}

/** From its answer on the document is in no search; what was made of it goes with it, also after a kill. */
export async function deleteDocument(
  input: DeleteDocumentInput,
  context: Ctx,
): Promise<DeleteDocumentOutput> {
  const { collection: name, id } = input;
  const collection = await findCollection(context, name);
  const { index_id } = collection;
  assertPlain(id, 'id');
  const [, marked] = await context.db.transaction([
    locking(index_id),
    {
      sql: `update documents set state = 'deleting', leased_until = now() + make_interval(secs => 60)
        from documents was
        where documents.index_id = $1 and documents.id = $2 and documents.state <> 'deleting'
          and was.index_id = documents.index_id and was.id = documents.id
          and exists (select 1 from collections c where c.index_id = $1)
        returning documents.seq as version, was.state`,
      params: [index_id, id],
    },
    {
      sql: `update documents set state = 'deleting', leased_until = now()
        where id = $2 and index_id in (select building_id from collections where index_id = $1)`,
      params: [index_id, id],
    },
  ]);
  const [gone] = (marked?.rows ?? []) as { version: number; state: string }[];
  if (gone === undefined) {
    const now = await findCollection(context, name);
    if (now.index_id !== index_id) return deleteDocument(input, context);
    throw absent(name, id);
  }
  // Somebody may be about to write vectors of it: they are erased once more when that is over.
  const isOver = gone.state !== 'embedding';
  await erase(context, collection, { id, version: gone.version, isOver });
  return {};
}

export interface Erased {
  readonly id: string;
  readonly version: number;
  /** Nobody embeds it any more. */
  readonly isOver: boolean;
}

/** All of a document that is deleted, up to this version: whoever added it again meanwhile keeps the next. */
export async function erase(
  context: Ctx,
  collection: Collection,
  { id, version, isOver }: Erased,
): Promise<void> {
  await eraseVectors(context, collection, id, { lte: version });
  const statements = forgetting(collection.index_id, id, version);
  await context.db.transaction(isOver ? statements : statements.slice(0, -1));
}

/** Of the versions within these bounds. */
export async function eraseVectors(
  context: Ctx,
  collection: Collection,
  id: string,
  version: { readonly lt?: number; readonly lte?: number; readonly gte?: number },
): Promise<void> {
  const filter = {
    and: [
      { field: 'document', eq: id },
      { field: 'version', ...version },
    ],
  };
  await withVectors(context, collection, (vectors) =>
    context.vector.deletePoints(vectors, { filter }),
  );
}

/**
 * Who writes documents of an index has it alone: two that count terms at a time would count some twice, or wait
 * for each other for ever; and what is written while another index takes its place would be lost.
 */
export const locking = (index: number): SqlStatement => ({
  sql: 'select 1 from indexes where id = $1 for no key update',
  params: [index],
});

/** The rows of a document, with the numbers of its terms; of one version, or of whichever is there. */
export function forgetting(
  index: number,
  id: string,
  version: number | null = null,
): SqlStatement[] {
  const params = [index, id, version];
  const terms = `select t::bigint as term, count(*) as chunks
    from chunks c join documents d on d.index_id = c.index_id and d.id = c.document,
      jsonb_array_elements_text(c.terms) t
    where d.index_id = $1 and d.id = $2 and ($3::bigint is null or d.seq = $3) group by 1`;
  return [
    locking(index),
    {
      sql: `update terms set chunks = terms.chunks - gone.chunks from (${terms}) gone
        where terms.index_id = $1 and terms.term = gone.term`,
      params,
    },
    {
      sql: `delete from terms using (${terms}) gone
        where terms.index_id = $1 and terms.term = gone.term and terms.chunks <= 0`,
      params,
    },
    {
      sql: `delete from chunks using documents d
        where chunks.index_id = $1 and chunks.document = $2
          and d.index_id = $1 and d.id = $2 and ($3::bigint is null or d.seq = $3)`,
      params,
    },
    {
      sql: `delete from documents
        where index_id = $1 and id = $2 and ($3::bigint is null or seq = $3)`,
      params,
    },
  ];
}
