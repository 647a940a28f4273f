/** What the handlers of this plugin are given, and how they find what they work on. */
import { type Context, type Emit, type Json, NoaError } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

export type Ctx = Context<Plugin>;
export type StreamCtx = Ctx & { readonly emit: Emit };
export type Row = { readonly [name: string]: Json };

/** How the documents of an index are cut and embedded. */
export interface Index {
  readonly index_id: number;
  readonly model: string;
  readonly dimensions: number;
  readonly chunk_tokens: number;
  readonly chunk_overlap: number;
}

/** A collection, and the index of it that is meant (`index_id`): the one that answers, or the one that is built. */
export interface Collection extends Index {
  readonly name: string;
  readonly description: string | null;
  /** The index that answers. */
  readonly live_id: number;
  readonly building_id: number | null;
  readonly reindex_error: string | null;
  readonly created_at: string;
}

const NAME = /^[a-z][a-z0-9_-]{0,47}$/;
const COLUMNS = `c.name, c.description, c.index_id as live_id, c.building_id, c.reindex_error, c.created_at,
  i.id as index_id, i.model, i.dimensions, i.chunk_tokens, i.chunk_overlap`;

/** With the index that answers. Throws NOT_FOUND, which names those that there are. */
export async function findCollection({ db }: Ctx, name: string): Promise<Collection> {
  const [found] = NAME.test(name)
    ? await db.query<Collection & Row>(
        `select ${COLUMNS} from collections c join indexes i on i.id = c.index_id where c.name = $1`,
        [name],
      )
    : [];
  if (found !== undefined) return found;
  const known = await db.query<{ name: string }>(
    'select name from collections order by name limit 50',
  );
  const names = known.map((each) => each.name).join(', ');
  const there =
    names === '' ? 'there is none: POST /v1/collections makes one' : `there is ${names}`;
  throw new NoaError('NOT_FOUND', `collection: there is no ${JSON.stringify(name)}; ${there}`);
}

/** The collection that has this index, with it; undefined when none has it any more. */
export async function collectionWith({ db }: Ctx, index: number): Promise<Collection | undefined> {
  const [found] = await db.query<Collection & Row>(
    `select ${COLUMNS} from indexes i join collections c on i.id in (c.index_id, c.building_id)
      where i.id = $1`,
    [index],
  );
  return found;
}

/** The name of the vectors of an index. */
export const vectorsOf = (index: number): string => `i${index}`;
export const WORDS = 'words';

/**
 * What is done with the vectors of a collection. When they are not there, the collection is gone (NOT_FOUND), or
 * about to go, or they are where another host has them (UNAVAILABLE).
 */
export async function withVectors<Value>(
  context: Ctx,
  { name, index_id }: Collection,
  work: (vectors: string) => Promise<Value>,
): Promise<Value> {
  try {
    return await work(vectorsOf(index_id));
  } catch (error) {
    if (!(error instanceof NoaError) || error.code !== 'NOT_FOUND') throw error;
    await findCollection(context, name);
    const text = `collection: the vectors of ${name} are not here: it is just being deleted, or another host has them`;
    throw new NoaError('UNAVAILABLE', `${text} (hosts that share a database need qdrant.url)`);
  }
}

/** Where a chunk is. Each time that a document is written it is another version, which no other ever is. */
export interface Place {
  readonly document: string;
  readonly version: number;
  readonly seq: number;
}

/** Points of vectors are named by their document, its version and their place in it. */
export const pointOf = ({ document, version, seq }: Place): string =>
  `${document}#${version}.${seq}`;

export function placeOf(point: string): Place {
  const at = point.lastIndexOf('#');
  const [version = '', seq = ''] = point.slice(at + 1).split('.');
  return { document: point.slice(0, at), version: Number(version), seq: Number(seq) };
}
