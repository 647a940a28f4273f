/** Collections: what their documents are embedded by and how they are cut. */
import { NoaError } from '@noa/sdk';
import { type Collection, type Ctx, findCollection, type Row } from './context.ts';
import { eraseIndex, makeIndex, settingsOf } from './indexes.ts';
import { assertPlain } from './plain-text.ts';
import type {
  CollectionInput,
  CollectionOutput,
  CollectionsInput,
  CollectionsOutput,
  CreateCollectionInput,
  CreateCollectionOutput,
  DeleteCollectionInput,
  DeleteCollectionOutput,
} from './noa.gen.ts';

export async function createCollection(
  input: CreateCollectionInput,
  context: Ctx,
): Promise<CreateCollectionOutput> {
  const { config, db } = context;
  const { name, description = null } = input;
  const settings = settingsOf(input, {
    model: config.embedding_model,
    chunk_tokens: config.chunk_tokens,
    chunk_overlap: config.chunk_overlap,
  });
  assertPlain(description, 'description');
  const [known] = await db.query('select 1 from collections where name = $1', [name]);
  if (known !== undefined) throw taken(name);
  const index = await makeIndex(context, settings);
  const { rowCount } = await db.execute(
    `insert into collections (name, description, index_id) values ($1, $2, $3)
      on conflict (name) do nothing`,
    [name, description, index],
  );
  if (rowCount === 0) {
    await eraseIndex(context, index);
    throw taken(name);
  }
  return collection({ collection: name }, context);
}

function taken(name: string): NoaError {
  const text = `collection ${name} is there already: delete it first, or take another name`;
  return new NoaError('CONFLICT', text);
}

const COUNTED = `select c.name, c.description, c.reindex_error, c.created_at,
    i.model, i.dimensions, i.chunk_tokens, i.chunk_overlap,
    b.id as building_id, b.model as next_model, b.dimensions as next_dimensions,
    b.chunk_tokens as next_tokens, b.chunk_overlap as next_overlap,
    (select count(*)::int from documents d where d.index_id = b.id and d.state in ('ready', 'failed')) as done,
    there.documents, there.chunks
  from collections c join indexes i on i.id = c.index_id left join indexes b on b.id = c.building_id,
    lateral (select count(*)::int as documents, coalesce(sum(d.chunks), 0)::int as chunks
      from documents d where d.index_id = i.id and d.state <> 'deleting') there`;

interface Counted extends Collection {
  readonly next_model: string;
  readonly next_dimensions: number;
  readonly next_tokens: number;
  readonly next_overlap: number;
  readonly done: number;
  readonly documents: number;
  readonly chunks: number;
}

export async function collection(
  { collection: name }: CollectionInput,
  context: Ctx,
): Promise<CollectionOutput> {
  await findCollection(context, name);
  const [found] = await context.db.query<Counted & Row>(`${COUNTED} where c.name = $1`, [name]);
  if (found === undefined) throw new NoaError('NOT_FOUND', `collection ${name} was just deleted`);
  return viewOf(found);
}

export async function collections(
  { limit = 50, cursor = '' }: CollectionsInput,
  { db }: Ctx,
): Promise<CollectionsOutput> {
  assertPlain(cursor, 'cursor');
  const rows = await db.query<Counted & Row>(
    `${COUNTED} where c.name > $1 order by c.name limit $2`,
    [cursor, limit + 1],
  );
  const page = rows.slice(0, limit).map(viewOf);
  return { collections: page, next: rows.length > limit ? (page.at(-1)?.name ?? null) : null };
}

export async function deleteCollection(
  { collection: name }: DeleteCollectionInput,
  context: Ctx,
): Promise<DeleteCollectionOutput> {
  await findCollection(context, name);
  // From here on it is gone; what is left of its indexes is erased later if this is killed.
  const { rows } = await context.db.execute(
    'delete from collections where name = $1 returning index_id, building_id',
    [name],
  );
  for (const { index_id, building_id } of rows as Pick<Collection, 'index_id' | 'building_id'>[]) {
    await eraseIndex(context, index_id);
    if (building_id !== null) await eraseIndex(context, building_id);
  }
  return {};
}

function viewOf(row: Counted): CollectionOutput {
  const { name, description, model, dimensions, documents, chunks, created_at, done } = row;
  const reindex =
    row.building_id === null
      ? row.reindex_error === null
        ? null
        : { state: 'failed' as const, error: row.reindex_error }
      : {
          state: 'building' as const,
          model: row.next_model,
          dimensions: row.next_dimensions,
          chunking: { tokens: row.next_tokens, overlap: row.next_overlap },
          documents: done,
          ...(row.reindex_error !== null && { error: row.reindex_error }),
        };
  return {
    name,
    description,
    model,
    dimensions,
    chunking: { tokens: row.chunk_tokens, overlap: row.chunk_overlap },
    documents,
    chunks,
    reindex,
    created_at,
  };
}
