/** From the chunks of a document to its vectors. Invariant: what was written of another version is gone when those of this are there. */
import { chunkVector } from './lexical.ts';
import { type Collection, type Ctx, pointOf, type Row, withVectors, WORDS } from './context.ts';
import { eraseVectors } from './documents.ts';

/** Chunks that are embedded and written at a time. */
const BATCH = 64;
/** How long a batch may take before another call takes the document over. */
export const LEASE_SECONDS = 20;

interface Work {
  readonly embedded: number;
  readonly chunks: number;
  readonly title: string | null;
  readonly source: string | null;
  readonly metadata: object;
}

/** Goes on where a call before has ended. A document that has another version meanwhile is somebody else's. */
export async function embedAll(
  context: Ctx,
  collection: Collection,
  id: string,
  version: number,
): Promise<void> {
  const { db, events } = context;
  const { name, index_id, live_id } = collection;
  for (;;) {
    const [row] = await db.query<Work & Row>(
      `select embedded, chunks, title, source, metadata from documents
        where index_id = $1 and id = $2 and seq = $3 and state = 'embedding'`,
      [index_id, id, version],
    );
    if (row === undefined) break;
    // What it was cut into before is no hit since, and takes no hit's place from now on.
    if (row.embedded === 0) await eraseVectors(context, collection, id, { lt: version });
    if (row.embedded < row.chunks) await embedBatch(context, collection, { id, version }, row);
    const done = Math.min(row.chunks, row.embedded + BATCH);
    // Also what was written in between by whoever did not know of this version yet.
    if (done === row.chunks) await eraseVectors(context, collection, id, { lt: version });
    const { rowCount } = await db.execute(
      `update documents set embedded = greatest(embedded, $4),
         state = case when $4 = chunks then 'ready' else state end,
         leased_until = now() + make_interval(secs => $5), updated_at = now()
       where index_id = $1 and id = $2 and seq = $3 and state = 'embedding'`,
      [index_id, id, version, done, LEASE_SECONDS],
    );
    if (rowCount === 0) break;
    if (done < row.chunks) continue;
    // What is in the index that is being built is told of when that takes its place.
    if (index_id !== live_id) return;
    const told = { collection: name, id, state: 'ready', chunks: row.chunks };
    await events.publish(`retrieval.${name}`, 'retrieval.document', told);
    return;
  }
  await eraseUnless(context, collection, id, version);
}

/** Takes back what was written for a document that had been deleted, or written anew, just before. */
async function eraseUnless(
  context: Ctx,
  collection: Collection,
  id: string,
  version: number,
): Promise<void> {
  const [there] = await context.db.query(
    `select 1 from documents
      where index_id = $1 and id = $2 and seq = $3 and state in ('embedding', 'ready')`,
    [collection.index_id, id, version],
  );
  if (there === undefined) {
    await eraseVectors(context, collection, id, { gte: version, lte: version });
  }
}

async function embedBatch(
  context: Ctx,
  collection: Collection,
  { id, version }: { readonly id: string; readonly version: number },
  { embedded: from, title, source, metadata }: Work,
): Promise<void> {
  const { db, inference, vector } = context;
  const chunks = await db.query<{ seq: number; text: string; headings: string[] }>(
    'select seq, text, headings from chunks where index_id = $1 and document = $2 and seq >= $3 order by seq limit $4',
    [collection.index_id, id, from, BATCH],
  );
  const { vectors: rows } = await inference.embed(
    collection.model,
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
  await withVectors(context, collection, (vectors) => vector.upsert(vectors, points));
}
