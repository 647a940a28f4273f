/**
 * Collections: what their documents are embedded by and how they are cut. Invariant: a collection that is
 * listed has its vectors; one that was half made or half deleted is finished by asking again.
 */
import { NoaError } from '@noa/sdk';
import {
  type Collection,
  type Ctx,
  findCollection,
  type Row,
  vectorsOf,
  WORDS,
} from './context.ts';
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
  const { config, db, inference, vector } = context;
  const { name, description = null, model = config.embedding_model, chunking = {} } = input;
  const { tokens = config.chunk_tokens, overlap = Math.min(config.chunk_overlap, tokens >> 1) } =
    chunking;
  if (overlap * 2 > tokens) {
    throw new NoaError('INVALID_ARGUMENT', 'chunking/overlap: is half of chunking/tokens at most');
  }
  assertPlain(description, 'description');
  assertPlain(model, 'model');
  const [known] = await db.query('select 1 from collections where name = $1', [name]);
  if (known !== undefined) throw taken(name);
  const { dimensions } = await inference.embed(model, ['How long are the vectors of this model?']);
  // The vectors first: a collection without them could not be used.
  const vectors = `v1_${name}`;
  const form = { default: { dimensions, distance: 'cosine' as const } };
  try {
    await vector.create(vectors, { vectors: form, sparse: [WORDS] });
  } catch (error) {
    if (!(error instanceof NoaError) || error.code !== 'CONFLICT') throw error;
    // Of another model, of a collection that was half made or half deleted: nobody has them.
    await vector.delete(vectors);
    await vector.create(vectors, { vectors: form, sparse: [WORDS] });
  }
  await vector.alias(vectorsOf(name), vectors);
  const { rowCount } = await db.execute(
    `insert into collections (name, description, model, dimensions, chunk_tokens, chunk_overlap)
     values ($1, $2, $3, $4, $5, $6) on conflict (name) do nothing`,
    [name, description, model, dimensions, tokens, overlap],
  );
  if (rowCount === 0) throw taken(name);
  return collection({ collection: name }, context);
}

function taken(name: string): NoaError {
  const text = `collection ${name} is there already: delete it first, or take another name`;
  return new NoaError('CONFLICT', text);
}

const COUNTED = `select c.*, count(d.id)::int as documents, coalesce(sum(d.chunks), 0)::int as chunks
  from collections c left join documents d on d.collection = c.name and d.state <> 'deleting'`;

export async function collection(
  { collection: name }: CollectionInput,
  context: Ctx,
): Promise<CollectionOutput> {
  await findCollection(context, name);
  const rows = await context.db.query<Collection & Row>(
    `${COUNTED} where c.name = $1 group by c.name`,
    [name],
  );
  const [found] = rows;
  if (found === undefined) throw new NoaError('NOT_FOUND', `collection ${name} was just deleted`);
  return viewOf(found);
}

export async function collections(
  { limit = 50, cursor = '' }: CollectionsInput,
  { db }: Ctx,
): Promise<CollectionsOutput> {
  assertPlain(cursor, 'cursor');
  const rows = await db.query<Collection & Row>(
    `${COUNTED} where c.name > $1 group by c.name order by c.name limit $2`,
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
  const { vector, db } = context;
  for (const each of await vector.list()) {
    if (each.aliases.includes(vectorsOf(name))) await vector.delete(each.collection);
  }
  await db.execute('delete from collections where name = $1', [name]);
  return {};
}

function viewOf(row: Collection & Row): CollectionOutput {
  const {
    name,
    description,
    model,
    dimensions,
    chunk_tokens: tokens,
    chunk_overlap: overlap,
  } = row;
  return {
    name,
    description,
    model,
    dimensions,
    chunking: { tokens, overlap },
    documents: Number(row['documents']),
    chunks: Number(row['chunks']),
    created_at: row.created_at,
  };
}
