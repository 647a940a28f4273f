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

/** Throws NOT_FOUND, which names those that there are. */
export async function findCollection({ db }: Ctx, name: string): Promise<Collection> {
  const [found] = await db.query<Collection>('select * from collections where name = $1', [name]);
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

/** Points of vectors are named by their document and place. */
export const pointOf = (document: string, seq: number): string => `${document}#${seq}`;

export function placeOf(point: string): { document: string; seq: number } {
  const at = point.lastIndexOf('#');
  return { document: point.slice(0, at), seq: Number(point.slice(at + 1)) };
}
