/**
 * Called now and then: goes on with what waits, as after a host was killed. Invariant: what fails for good is said
 * of the document, or of the attempt to index its collection anew; what may pass is tried again by the next call.
 */
import { collectionWith, type Ctx } from './context.ts';
import { erase } from './documents.ts';
import { embedAll, LEASE_SECONDS } from './embed.ts';
import { fail } from './failures.ts';
import { eraseNext } from './indexes.ts';
import type { ResumeInput, ResumeOutput } from './noa.gen.ts';
import { reindexNext } from './reindex.ts';

/** For how long one call goes on. */
const RESUME_MS = 240_000;

export async function resume(_input: ResumeInput, context: Ctx): Promise<ResumeOutput> {
  const { clock } = context;
  const until = clock.now() + RESUME_MS;
  let documents = 0;
  while (clock.now() < until) {
    if (await finishNext(context)) documents += 1;
    else if (!(await reindexNext(context)) && !(await eraseNext(context))) break;
  }
  return { documents };
}

interface Waiting {
  readonly index_id: number;
  readonly id: string;
  readonly version: number;
  readonly state: 'embedding' | 'deleting';
}

/** A document that waits to be embedded or erased. Answers whether there was one. */
async function finishNext(context: Ctx): Promise<boolean> {
  const { rows } = await context.db.execute(
    `update documents set leased_until = now() + make_interval(secs => $1)
      where (index_id, id) = (select d.index_id, d.id
        from documents d join collections c on d.index_id in (c.index_id, c.building_id)
        where d.state in ('embedding', 'deleting') and d.leased_until < now()
        order by d.seq limit 1 for update of d skip locked)
      returning index_id, id, seq as version, state`,
    [LEASE_SECONDS],
  );
  const [next] = rows as unknown[] as Waiting[];
  if (next === undefined) return false;
  const collection = await collectionWith(context, next.index_id);
  // Otherwise it goes with its index.
  if (collection === undefined) return true;
  const { id, version, state } = next;
  try {
    if (state === 'deleting') await erase(context, collection, { id, version, isOver: true });
    else await embedAll(context, collection, id, version);
  } catch (error) {
    await fail(context, collection, next, error);
  }
  return true;
}
