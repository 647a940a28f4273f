/**
 * A collection indexed anew, by another model or cut in another way. Another index is built beside the one that
 * answers, from the text that is kept, and takes its place at once. Invariants: a search sees one of the two whole;
 * what is written or deleted meanwhile is written or deleted in both before the other takes over.
 */
import { NoaError } from '@noa/sdk';
import { collection as read } from './collections.ts';
import { type Collection, collectionWith, type Ctx, findCollection, type Row } from './context.ts';
import { documentOf, locking, readParts } from './documents.ts';
import { embedAll, LEASE_SECONDS } from './embed.ts';
import { fail, giveUp } from './failures.ts';
import { eraseIndex, makeIndex, settingsOf } from './indexes.ts';
import { cut, keep } from './keep.ts';
import type {
  CancelReindexInput,
  CancelReindexOutput,
  ReindexInput,
  ReindexOutput,
} from './noa.gen.ts';
import { Restorer } from './parts.ts';

/** Documents that are copied at a time. */
const AT_ONCE = 4;

export async function reindex(input: ReindexInput, context: Ctx): Promise<ReindexOutput> {
  const { collection: name, ...wish } = input;
  const collection = await findCollection(context, name);
  const settings = settingsOf(wish, collection);
  if (collection.building_id !== null) throw underWay(name);
  const index = await makeIndex(context, settings);
  const { rowCount } = await context.db.execute(
    `update collections set building_id = $2, reindex_error = null, leased_until = now()
      where name = $1 and building_id is null`,
    [name, index],
  );
  if (rowCount === 0) {
    await eraseIndex(context, index);
    await findCollection(context, name);
    throw underWay(name);
  }
  return read({ collection: name }, context);
}

function underWay(name: string): NoaError {
  const text = `collection ${name} is indexed anew already: wait for it, or end it by DELETE /v1/collections/${name}/reindex`;
  return new NoaError('CONFLICT', text);
}

/** What was built is erased, and so is the word of a failure. */
export async function cancelReindex(
  { collection: name }: CancelReindexInput,
  context: Ctx,
): Promise<CancelReindexOutput> {
  const { building_id } = await findCollection(context, name);
  const { rowCount } = await context.db.execute(
    `update collections set building_id = null, reindex_error = null
      where name = $1 and building_id is not distinct from $2::bigint`,
    [name, building_id],
  );
  if (rowCount > 0 && building_id !== null) await eraseIndex(context, building_id);
  return {};
}

/** Goes on with a collection that is indexed anew. Answers whether that brought anything forward. */
export async function reindexNext(context: Ctx): Promise<boolean> {
  const { db } = context;
  const { rows } = await db.execute(
    `update collections set leased_until = now() + make_interval(secs => $1)
      where name = (select name from collections
        where building_id is not null and leased_until < now()
        order by leased_until limit 1 for update skip locked)
      returning name, index_id, building_id`,
    [LEASE_SECONDS],
  );
  const [next] = rows as { name: string; index_id: number; building_id: number }[];
  if (next === undefined) return false;
  const from = await collectionWith(context, next.index_id);
  const to = await collectionWith(context, next.building_id);
  // Otherwise it was ended just now.
  if (from === undefined || to === undefined) return true;
  const release = (seconds: number, error: string | null) =>
    db.execute(
      `update collections set leased_until = now() + make_interval(secs => $2), reindex_error = $3
        where name = $1 and building_id = $4`,
      [next.name, seconds, error, next.building_id],
    );
  try {
    const isForward = await copySome(context, from, to);
    await release(isForward ? 0 : 1, null);
    return isForward;
  } catch (error) {
    // What it waits for is told; the next call tries again.
    if (error instanceof NoaError) await release(1, error.message.slice(0, 500));
    throw error;
  }
}

async function copySome(context: Ctx, from: Collection, to: Collection): Promise<boolean> {
  const { db } = context;
  const params = [from.index_id, to.index_id];
  const missing = await db.query<{ id: string; version: number }>(
    `select d.id, d.seq as version from documents d
      where d.index_id = $1 and d.state <> 'deleting' and not exists (select 1 from documents n
        where n.index_id = $2 and n.id = d.id and n.origin = d.seq
          and (n.state in ('embedding', 'ready') or (n.state = 'failed' and d.state <> 'ready')))
      order by d.seq limit $3`,
    [...params, AT_ONCE],
  );
  if (missing.length > 0) {
    const copies = await Promise.allSettled(
      missing.map(({ id, version }) => copy(context, from, to, id, version)),
    );
    for (const each of copies) if (each.status === 'rejected') throw each.reason;
    return true;
  }
  return takeOver(context, from, to);
}

async function copy(
  context: Ctx,
  from: Collection,
  to: Collection,
  id: string,
  version: number,
): Promise<void> {
  const restorer = new Restorer();
  for (let at = 0, isWhole = false; !isWhole;) {
    const parts = await readParts(context, from, id, at);
    for (const part of parts) if (part.seq >= at) restorer.add(part);
    const last = parts.at(-1)?.seq ?? -1;
    isWhole = last < at;
    at = last + 1;
  }
  const row = await documentOf(context, from, id);
  // Else it was written anew while it was read, or deleted.
  if (row?.['seq'] !== version) return;
  const {
    hash,
    title,
    source,
    media_type: mediaType,
    metadata,
    created_at: createdAt,
  } = row as Was;
  const parsed = restorer.done();
  const chunks = await cut(context, to, parsed).catch((error: unknown) =>
    giveUp(context, to, error),
  );
  if (chunks === undefined) return;
  const document = { id, hash, title, source, mediaType, metadata, createdAt, parsed };
  const [copied] = (await keep(context, document, [{ collection: to, chunks }], version)) ?? [];
  if (copied === undefined) return;
  await embedAll(context, to, id, copied).catch((error: unknown) =>
    fail(context, to, { id, version: copied }, error),
  );
}

interface Was extends Row {
  readonly hash: string;
  readonly title: string | null;
  readonly source: string | null;
  readonly media_type: string;
  readonly metadata: Row;
  readonly created_at: string;
}

/** When all that is ready in the one is ready in the other. */
async function takeOver(context: Ctx, from: Collection, to: Collection): Promise<boolean> {
  const { name, model } = to;
  const params = [from.index_id, to.index_id];
  const [, taken] = await context.db.transaction([
    locking(from.index_id),
    {
      sql: `update collections set index_id = $2, building_id = null, reindex_error = null
        where index_id = $1 and building_id = $2
          and not exists (select 1 from documents d
            left join documents n on n.index_id = $2 and n.id = d.id and n.origin = d.seq
            where d.index_id = $1 and d.state <> 'deleting'
              and (n.id is null or n.state = 'deleting' or (d.state = 'ready' and n.state <> 'ready')))`,
      params,
    },
    {
      // Those that search it, or write to it, now may end that.
      sql: `update indexes set kept_until = now() + interval '10 minutes'
        where id = $1 and not exists (select 1 from collections c where c.index_id = $1)`,
      params: [from.index_id],
    },
  ]);
  if (taken?.rowCount !== 1) return false;
  await context.events.publish(`retrieval.${name}`, 'retrieval.reindex', {
    collection: name,
    state: 'ready',
    model,
  });
  return true;
}
