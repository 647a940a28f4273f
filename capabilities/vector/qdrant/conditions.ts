/**
 * Our filters in Qdrant's words, over what `points.ts` keeps of a payload. Invariant: the translation passes
 * the points that `matches` does, and no others.
 */
import type { Schemas } from '@qdrant/js-client-rest';
import { type Condition, type Filter, wordsOf } from '../filter.ts';
import { tokenOf } from './points.ts';

export function conditionsOf(filter: Filter): Schemas['Filter'] {
  if ('and' in filter) return { must: filter.and.map(conditionsOf) };
  if ('or' in filter) return { should: filter.or.map(conditionsOf) };
  if ('not' in filter) return { must_not: [conditionsOf(filter.not)] };
  return conditionOf(filter);
}

function conditionOf({ field, eq, ne, exists, text, ...more }: Condition): Schemas['Filter'] {
  const { in: among, ...range } = more;
  if (exists !== undefined) {
    const there = oneOf(tokenOf(field));
    return exists ? { must: [there] } : { must_not: [there] };
  }
  if (ne !== undefined) return { must_not: [oneOf(tokenOf(field, ne))] };
  if (eq !== undefined) return { must: [oneOf(tokenOf(field, eq))] };
  if (among !== undefined) return { must: [oneOf(...among.map((each) => tokenOf(field, each)))] };
  if (text !== undefined) {
    // Within one text, and not one word here and another there.
    const words = [...new Set(wordsOf(text))].map((value) => ({ key: 'words', match: { value } }));
    return within('texts', field, words);
  }
  return within('numbers', field, [{ key: 'value', range }]);
}

function oneOf(...tokens: readonly string[]): Schemas['FieldCondition'] {
  return { key: 'is', match: { any: [...tokens] } };
}

/** That one of the elements is of this field and passes. */
function within(
  key: string,
  field: string,
  conditions: readonly Schemas['FieldCondition'][],
): Schemas['Filter'] {
  const must = [{ key: 'field', match: { value: field } }, ...conditions];
  return { must: [{ nested: { key, filter: { must } } }] };
}
