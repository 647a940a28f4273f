/**
 * Qdrant's filters, judged as its documentation says (https://qdrant.tech/documentation/concepts/filtering/),
 * and in its strict mode: a filter by what has no index is refused.
 */
import { type Json, NoaError } from '@noa/sdk/host';
import type { Schemas } from '@qdrant/js-client-rest';

type Filter = Schemas['Filter'];
type Condition = Schemas['Condition'];

/** Whether a payload passes. */
export function passes(filter: Filter, payload: Json): boolean {
  const { must, must_not, should, ...others } = filter;
  if (Object.keys(others).length > 0) throw unknown(filter);
  const some = listOf(should);
  return (
    listOf(must).every((each) => holds(each, payload)) &&
    !listOf(must_not).some((each) => holds(each, payload)) &&
    (some.length === 0 || some.some((each) => holds(each, payload)))
  );
}

/** Throws INVALID_ARGUMENT when a field that is asked of has no index. */
export function assertIndexed(filter: Filter, indexed: ReadonlySet<string>, prefix = ''): void {
  const { must, must_not, should } = filter;
  for (const condition of [must, must_not, should].flatMap(listOf)) {
    if ('nested' in condition) {
      const { key, filter: inner } = condition.nested;
      assertIndexed(inner, indexed, `${prefix}${key}[].`);
    } else if ('key' in condition) {
      const field = prefix + condition.key;
      if (indexed.has(field)) continue;
      const text = `Bad request: Index required but not found for "${field}"`;
      throw new NoaError('INVALID_ARGUMENT', text);
    } else if (isFilter(condition)) assertIndexed(condition, indexed, prefix);
  }
}

function listOf(conditions: Filter['must']): Condition[] {
  if (conditions == null) return [];
  return Array.isArray(conditions) ? conditions : [conditions];
}

function isFilter(condition: Condition): condition is Filter {
  return 'must' in condition || 'must_not' in condition || 'should' in condition;
}

function holds(condition: Condition, payload: Json): boolean {
  if ('nested' in condition) {
    const { key, filter } = condition.nested;
    return elementsOf(at(payload, key)).some((element) => passes(filter, element));
  }
  if ('key' in condition) return passesField(condition, elementsOf(at(payload, condition.key)));
  if (isFilter(condition)) return passes(condition, payload);
  throw unknown(condition);
}

function passesField({ key, ...condition }: Schemas['FieldCondition'], values: Json[]): boolean {
  const { match, range, ...others }: { readonly match?: unknown; readonly range?: unknown } =
    condition;
  if (Object.keys(others).length > 0) throw unknown({ key, ...others });
  if (isRecord(match) && 'value' in match) {
    return values.some((value) => value === match['value']);
  }
  if (isRecord(match) && Array.isArray(match['any'])) {
    const any: readonly unknown[] = match['any'];
    return values.some((value) => any.includes(value));
  }
  if (isRecord(range)) {
    return values.some(
      (value) =>
        typeof value === 'number' &&
        Object.entries(range).every(([name, bound]) => within(name, value, Number(bound))),
    );
  }
  throw unknown({ key, match });
}

function within(name: string, value: number, bound: number): boolean {
  if (name === 'gt') return value > bound;
  if (name === 'gte') return value >= bound;
  if (name === 'lt') return value < bound;
  if (name === 'lte') return value <= bound;
  throw unknown({ [name]: bound });
}

/** The one name of a key: what this server is asked of has no path in it. */
function at(payload: Json, key: string): Json {
  if (!/^[A-Za-z0-9_-]+$/.test(key)) throw unknown(key);
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) return null;
  return payload[key] ?? null;
}

function elementsOf(value: Json): Json[] {
  if (value === null) return [];
  return Array.isArray(value) ? value : [value];
}

function isRecord(value: unknown): value is { readonly [name: string]: unknown } {
  return typeof value === 'object' && value !== null;
}

function unknown(what: unknown): Error {
  return new TypeError(`the test server does not know ${JSON.stringify(what)}`);
}
