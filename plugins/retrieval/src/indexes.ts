/**
 * Indexes: the rows and vectors of a collection's documents, cut and embedded in one way. Invariant: one that no
 * collection has, because it was replaced, given up, deleted or half made, is erased with its vectors.
 */
import { NoaError } from '@noa/sdk';
import { type Ctx, type Index, vectorsOf, WORDS } from './context.ts';
import type { CreateCollectionInput } from './noa.gen.ts';
import { assertPlain } from './plain-text.ts';

export type Settings = Pick<Index, 'model' | 'chunk_tokens' | 'chunk_overlap'>;

/** Documents that are erased at a time. */
const ERASED = 200;

/** What of this is not said is as before. Throws INVALID_ARGUMENT. */
export function settingsOf(
  { model, chunking = {} }: Pick<CreateCollectionInput, 'model' | 'chunking'>,
  before: Settings,
): Settings {
  assertPlain(model, 'model');
  const { tokens = before.chunk_tokens } = chunking;
  const { overlap = Math.min(before.chunk_overlap, tokens >> 1) } = chunking;
  if (overlap * 2 > tokens) {
    throw new NoaError('INVALID_ARGUMENT', 'chunking/overlap: is half of chunking/tokens at most');
  }
  return { model: model ?? before.model, chunk_tokens: tokens, chunk_overlap: overlap };
}

/** An index without documents. Whoever asks for it gives it to a collection soon, or it is erased. */
export async function makeIndex(context: Ctx, settings: Settings): Promise<number> {
  const { db, inference, vector } = context;
  const { model, chunk_tokens, chunk_overlap } = settings;
  const { dimensions } = await inference.embed(model, ['How long are the vectors of this model?']);
  const { rows } = await db.execute(
    `insert into indexes (model, dimensions, chunk_tokens, chunk_overlap) values ($1, $2, $3, $4)
      returning id`,
    [model, dimensions, chunk_tokens, chunk_overlap],
  );
  const id = Number(rows[0]?.['id']);
  const form = { default: { dimensions, distance: 'cosine' as const } };
  const make = () => vector.create(vectorsOf(id), { vectors: form, sparse: [WORDS] });
  await make().catch(async (error: unknown) => {
    if (!(error instanceof NoaError) || error.code !== 'CONFLICT') throw error;
    // Of a database that was put back to an earlier state, or is another now.
    await vector.delete(vectorsOf(id));
    await make();
  });
  return id;
}

/** Of one that no collection has any more. */
export async function eraseIndex({ db, vector }: Ctx, id: number): Promise<void> {
  await vector.delete(vectorsOf(id)).catch((error: unknown) => {
    if (!(error instanceof NoaError) || error.code !== 'NOT_FOUND') throw error;
  });
  for (let erased = ERASED; erased === ERASED;) {
    const { rowCount } = await db.execute(
      `delete from documents where index_id = $1
        and id in (select id from documents where index_id = $1 limit $2)`,
      [id, ERASED],
    );
    erased = rowCount;
  }
  await db.execute('delete from indexes where id = $1', [id]);
}

/** Answers whether there was one to erase. */
export async function eraseNext(context: Ctx): Promise<boolean> {
  const [left] = await context.db.query<{ id: number }>(
    `select id from indexes where kept_until < now()
      and not exists (select 1 from collections c where indexes.id in (c.index_id, c.building_id))
      limit 1`,
  );
  if (left !== undefined) await eraseIndex(context, left.id);
  return left !== undefined;
}
