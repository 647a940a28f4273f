/** Documents that are there: told of, and deleted with all that was made of them. */
import { NoaError, type SqlStatement } from '@noa/sdk';
import { type Ctx, findCollection, type Row, vectorsOf } from './context.ts';
import type {
  AddDocumentOutput,
  DeleteDocumentInput,
  DeleteDocumentOutput,
  DocumentInput,
  DocumentOutput,
  DocumentsInput,
  DocumentsOutput,
} from './noa.gen.ts';

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
  const { rowCount } = await context.db.execute(
    `update documents set state = 'deleting', leased_until = now() + make_interval(secs => 60)
      where collection = $1 and id = $2 and state <> 'deleting'`,
    [collection, id],
  );
  if (rowCount === 0) {
    const text = `there is no document ${JSON.stringify(id)} in ${collection}`;
    throw new NoaError('NOT_FOUND', text);
  }
  await erase(context, collection, id);
  return {};
}

export async function erase(context: Ctx, collection: string, id: string): Promise<void> {
  await eraseVectors(context, collection, id);
  await context.db.transaction(forgetting(collection, id));
}

export async function eraseVectors({ vector }: Ctx, collection: string, id: string): Promise<void> {
  await vector.deletePoints(vectorsOf(collection), { filter: { field: 'document', eq: id } });
}

/** The rows of a document, with the numbers of its terms. */
export function forgetting(collection: string, id: string): SqlStatement[] {
  return [
    {
      sql: `update terms set chunks = terms.chunks - gone.chunks from (
          select t::bigint as term, count(*) as chunks
            from chunks c, jsonb_array_elements_text(c.terms) t
           where c.collection = $1 and c.document = $2 group by t) gone
        where terms.collection = $1 and terms.term = gone.term`,
      params: [collection, id],
    },
    { sql: 'delete from terms where collection = $1 and chunks <= 0', params: [collection] },
    { sql: 'delete from documents where collection = $1 and id = $2', params: [collection, id] },
  ];
}
