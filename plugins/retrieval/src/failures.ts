/** What becomes of what cannot be done. Invariant: nobody is left waiting for it, and what answers goes on answering. */
import { NoaError } from '@noa/sdk';
import { type Collection, collectionWith, type Ctx } from './context.ts';

/** Of an engine that is away or busy: the next call tries again. */
const PASSING: ReadonlySet<string> = new Set([
  'UNAVAILABLE',
  'RESOURCE_EXHAUSTED',
  'DEADLINE_EXCEEDED',
  'CANCELLED',
  'CAPABILITY_DENIED',
]);

const isForGood = (error: unknown): error is NoaError =>
  error instanceof NoaError && !PASSING.has(error.code);

/**
 * Says of a document that it cannot be embedded; a collection is not indexed anew without one that it has now.
 * Throws what may pass.
 */
export async function fail(
  context: Ctx,
  collection: Collection,
  { id, version }: { readonly id: string; readonly version: number },
  error: unknown,
): Promise<void> {
  const { db, log } = context;
  const { name, index_id } = collection;
  // It was ended meanwhile, and is erased with its index.
  if ((await collectionWith(context, index_id)) === undefined) return;
  if (!isForGood(error)) {
    // Whoever comes next need not wait for the lease.
    await db.execute(
      "update documents set leased_until = now() where seq = $1 and state = 'embedding'",
      [version],
    );
    throw error;
  }
  const [ready] = await db.query(
    `select 1 from documents n join collections c on c.building_id = n.index_id
      join documents d on d.index_id = c.index_id and d.id = n.id and d.seq = n.origin
      where n.index_id = $1 and n.id = $2 and d.state = 'ready'`,
    [index_id, id],
  );
  if (ready !== undefined) return giveUp(context, collection, error);
  log.warn('a document cannot be embedded', { collection: name, id, error: error.message });
  await db.execute(
    `update documents set state = 'failed', error = $4, updated_at = now()
      where index_id = $1 and id = $2 and seq = $3 and state = 'embedding'`,
    [index_id, id, version, error.message.slice(0, 500)],
  );
}

/** What answers stays; what was built is erased. */
export async function giveUp(
  context: Ctx,
  { name, index_id }: Collection,
  error: unknown,
): Promise<undefined> {
  if (!isForGood(error)) throw error;
  const { db, events, log } = context;
  const message = error.message.slice(0, 500);
  const [given] = await db.transaction([
    {
      sql: 'update collections set building_id = null, reindex_error = $2 where building_id = $1',
      params: [index_id, message],
    },
    { sql: 'update indexes set kept_until = now() where id = $1', params: [index_id] },
  ]);
  if (given?.rowCount !== 1) return undefined;
  log.warn('a collection cannot be indexed anew', { collection: name, error: message });
  const told = { collection: name, state: 'failed', error: message };
  await events.publish(`retrieval.${name}`, 'retrieval.reindex', told);
  return undefined;
}
