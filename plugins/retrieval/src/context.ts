/** What the handlers of this plugin are given, and how they read rows. */
import { type Context, type Emit, type Json, NoaError } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

export type Ctx = Context<Plugin>;
export type StreamCtx = Ctx & { readonly emit: Emit };
export type Row = { readonly [name: string]: Json };

export interface Collection {
  readonly name: string;
  readonly description: string | null;
  readonly model: string;
  readonly dimensions: number;
  readonly chunk_tokens: number;
  readonly chunk_overlap: number;
  readonly created_at: string;
}

const NAME = /^[a-z][a-z0-9_-]{0,47}$/;

/** Throws NOT_FOUND, which names those that there are. */
export async function findCollection({ db }: Ctx, name: string): Promise<Collection> {
  const [found] = NAME.test(name)
    ? await db.query<Collection>('select * from collections where name = $1', [name])
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

/** The name of the vectors behind a collection: an alias, so that they can be made anew beside the old ones. */
export const vectorsOf = (collection: string): string => `a_${collection}`;
export const WORDS = 'words';

/**
 * What is done with the vectors of a collection. When they are not there, the collection is gone (NOT_FOUND), or
 * about to go, or they are where another host has them (UNAVAILABLE).
 */
export async function withVectors<Value>(
  context: Ctx,
  collection: string,
  work: (vectors: string) => Promise<Value>,
): Promise<Value> {
  try {
    return await work(vectorsOf(collection));
  } catch (error) {
    if (!(error instanceof NoaError) || error.code !== 'NOT_FOUND') throw error;
    await findCollection(context, collection);
    const text = `collection: the vectors of ${collection} are not here: it is just being deleted, or another host has them`;
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
