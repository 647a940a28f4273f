/**
 * Pages of lists that stand in memory. Invariant: however the list changes between two requests, an item
 * that stays in it is answered exactly once, because a cursor names a place in an order and no number.
 */
import { type JsonSchema, NoaError } from '@noa/sdk/host';

export interface PageQuery {
  readonly cursor?: string;
  readonly limit: number;
}

export interface Page<T> {
  readonly items: T[];
  /** Cursor of the next page, null after the last. */
  readonly next: string | null;
}

/** Parameters of a list; beside them it may take others. */
export const PAGE_PARAMETERS: { readonly [name: string]: JsonSchema } = {
  cursor: {
    type: 'string',
    maxLength: 1024,
    pattern: '^[A-Za-z0-9_-]*$',
    description: 'the `next` of the page before; without it comes the first page',
  },
  limit: {
    type: 'integer',
    minimum: 1,
    maximum: 1000,
    default: 100,
    description: 'Most items of the page.',
  },
};

export const PAGE_QUERY: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: PAGE_PARAMETERS,
};

/** The page after the cursor, in the order of `keyOf`, which is another one for each item. */
export function pageOf<T>(
  items: readonly T[],
  keyOf: (item: T) => string,
  { cursor, limit }: PageQuery,
  order: 'rising' | 'falling' = 'rising',
): Page<T> {
  const after = placeOf(cursor);
  const precedes = order === 'rising' ? rises : (a: string, b: string) => rises(b, a);
  const rest = items
    .map((item) => ({ item, key: keyOf(item) }))
    .filter(({ key }) => after === undefined || precedes(after, key))
    .sort((a, b) => (precedes(a.key, b.key) ? -1 : 1));
  const shown = rest.slice(0, limit);
  const last = shown.at(-1);
  const more = rest.length > shown.length && last !== undefined;
  return {
    items: shown.map(({ item }) => item),
    next: more ? Buffer.from(last.key).toString('base64url') : null,
  };
}

const rises = (a: string, b: string): boolean => a < b;

/** The key that a list goes on after; undefined at its beginning. */
export function placeOf(cursor: string | undefined): string | undefined {
  if (cursor === undefined) return undefined;
  const bytes = Buffer.from(cursor, 'base64url');
  const isOne = bytes.length > 0 && bytes.toString('base64url') === cursor;
  if (isOne) return bytes.toString();
  throw wrongCursor();
}

/** Of a list whose keys are never written so. */
export function wrongCursor(): NoaError {
  return new NoaError('INVALID_ARGUMENT', 'cursor: take the `next` of the page before as it is');
}
