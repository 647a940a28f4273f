/** Documents that are there: told of, and deleted with all that was made of them. */
import { NoaError, type SqlStatement } from '@noa/sdk';
import { type Ctx, findCollection, type Row, withVectors } from './context.ts';
import type {
  AddDocumentOutput,
  DeleteDocumentInput,
  DeleteDocumentOutput,
  DocumentInput,
  DocumentOutput,
  DocumentsInput,
  DocumentsOutput,
} from './noa.gen.ts';
import { assertPlain } from './plain-text.ts';

export async function documentOf(
  { db }: Ctx,
  collection: string,
  id: string,
): Promise<Row | undefined> {
  const [row] = await db.query<Row>(
    "select * from documents where collection = $1 and id = $2 and state <> 'deleting'",
    [collection, id],
  );
  return row;
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
  await findCollection(context, collection);
  assertPlain(id, 'id');
  const row = await documentOf(context, collection, id);
  if (row !== undefined) return viewOf(row);
  const text = `there is no document ${JSON.stringify(id)} in ${collection}`;
  throw new NoaError('NOT_FOUND', text);
}

export async function documents(
  { collection, limit = 50, cursor }: DocumentsInput,
  context: Ctx,
): Promise<DocumentsOutput> {
  await findCollection(context, collection);
  const after = cursor === undefined ? 0 : Number(cursor);
  if (!Number.isSafeInteger(after)) {
    throw new NoaError('INVALID_ARGUMENT', 'cursor: is `next` of the page before');
  }
  const rows = await context.db.query<Row>(
    `select * from documents where collection = $1 and seq > $2 and state <> 'deleting'
      order by seq limit $3`,
    [collection, after, limit + 1],
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1)?.['seq'];
  return {
    documents: page.map(viewOf),
    next: rows.length > limit && typeof last === 'number' ? String(last) : null,
  };
}

/** From its answer on the document is in no search; what was made of it goes with it, also after a kill. */
export async function deleteDocument(
  { collection, id }: DeleteDocumentInput,
  context: Ctx,
): Promise<DeleteDocumentOutput> {
  await findCollection(context, collection);
  assertPlain(id, 'id');
  const { rows } = await context.db.execute(
    `update documents set state = 'deleting', leased_until = now() + make_interval(secs => 60)
      from documents was
      where documents.collection = $1 and documents.id = $2 and documents.state <> 'deleting'
        and was.collection = documents.collection and was.id = documents.id
      returning documents.seq as version, was.state`,
    [collection, id],
  );
  const [gone] = rows as { version: number; state: string }[];
  if (gone === undefined) {
    const text = `there is no document ${JSON.stringify(id)} in ${collection}`;
    throw new NoaError('NOT_FOUND', text);
  }
  // Somebody may be about to write vectors of it: they are erased once more when that is over.
  const isOver = gone.state !== 'embedding';
  await erase(context, { collection, id, version: gone.version, isOver });
  return {};
}

export interface Erased {
  readonly collection: string;
  readonly id: string;
  readonly version: number;
  /** Nobody embeds it any more. */
  readonly isOver: boolean;
}

/** All of a document that is deleted, up to this version: whoever added it again meanwhile keeps the next. */
export async function erase(
  context: Ctx,
  { collection, id, version, isOver }: Erased,
): Promise<void> {
  await eraseVectors(context, collection, id, { lte: version });
  const statements = forgetting(collection, id, version);
  await context.db.transaction(isOver ? statements : statements.slice(0, -1));
}

/** Of the versions within these bounds. */
export async function eraseVectors(
  context: Ctx,
  collection: string,
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
 * The rows of a document, with the numbers of its terms; of one version, or of whichever is there. First the
 * collection is locked: two that count terms at a time would count some twice, or wait for each other for ever.
 */
export function forgetting(
  collection: string,
  id: string,
  version: number | null = null,
): SqlStatement[] {
  const params = [collection, id, version];
  const terms = `select t::bigint as term, count(*) as chunks
    from chunks c join documents d on d.collection = c.collection and d.id = c.document,
      jsonb_array_elements_text(c.terms) t
    where d.collection = $1 and d.id = $2 and ($3::bigint is null or d.seq = $3) group by 1`;
  return [
    { sql: 'select 1 from collections where name = $1 for no key update', params: [collection] },
    {
      sql: `update terms set chunks = terms.chunks - gone.chunks from (${terms}) gone
        where terms.collection = $1 and terms.term = gone.term`,
      params,
    },
    {
      sql: `delete from terms using (${terms}) gone
        where terms.collection = $1 and terms.term = gone.term and terms.chunks <= 0`,
      params,
    },
    {
      sql: `delete from chunks using documents d
        where chunks.collection = $1 and chunks.document = $2
          and d.collection = $1 and d.id = $2 and ($3::bigint is null or d.seq = $3)`,
      params,
    },
    {
      sql: `delete from documents
        where collection = $1 and id = $2 and ($3::bigint is null or seq = $3)`,
      params,
    },
  ];
}
