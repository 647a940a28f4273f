/**
 * The filters of `vector`: a tree of conditions on the payload. The language is ours, so that no text of a
 * caller becomes part of an engine's own query language; `matches` says what every driver must answer.
 */
import { NoaError } from './errors.ts';
import type { Json, JsonSchema } from './json.ts';

const MAX_DEPTH = 8;
const MAX_NODES = 64;

type Scalar = string | number | boolean;

export type Filter =
  | { readonly and: readonly Filter[] }
  | { readonly or: readonly Filter[] }
  | { readonly not: Filter }
  | Condition;

/** Exactly one test beside `field`; a range may have two bounds. */
export interface Condition {
  /** Names joined by dots, into objects; of an array, any element may pass. */
  readonly field: string;
  readonly eq?: Scalar;
  readonly ne?: Scalar;
  readonly in?: readonly Scalar[];
  readonly gt?: number;
  readonly gte?: number;
  readonly lt?: number;
  readonly lte?: number;
  readonly exists?: boolean;
  /** All of its words are in the value, in any order; words are runs of letters and digits, case aside. */
  readonly text?: string;
}

const scalar: JsonSchema = {
  anyOf: [{ type: 'string', maxLength: 1024 }, { type: 'number' }, { type: 'boolean' }],
};

const TESTS: { readonly [name: string]: JsonSchema } = {
  eq: scalar,
  ne: scalar,
  in: { type: 'array', items: scalar, minItems: 1, maxItems: 256 },
  gt: { type: 'number' },
  gte: { type: 'number' },
  lt: { type: 'number' },
  lte: { type: 'number' },
  exists: { type: 'boolean' },
  text: { type: 'string', minLength: 1, maxLength: 1024 },
};

/** What one level may hold; `readFilter` judges the levels below, for a schema of its own depth says too little. */
export const filterSchema: JsonSchema = {
  type: 'object',
  properties: {
    and: { type: 'array', items: { type: 'object' }, minItems: 1, maxItems: MAX_NODES },
    or: { type: 'array', items: { type: 'object' }, minItems: 1, maxItems: MAX_NODES },
    not: { type: 'object' },
    field: { type: 'string', minLength: 1, maxLength: 256 },
    ...TESTS,
  },
  additionalProperties: false,
  minProperties: 1,
  maxProperties: 3,
  description:
    '`{and: [filter …]}`, `{or: [filter …]}`, `{not: filter}`, or `{field, …}` with one of eq, ne, in, exists, text, or with gt, gte, lt, lte.',
};

/** The filter when it is one. Throws INVALID_ARGUMENT with the place of what is wrong in it. */
export function readFilter(given: Json): Filter {
  let nodes = 0;
  const read = (value: unknown, path: string, depth: number): Filter => {
    nodes += 1;
    if (depth > MAX_DEPTH) throw wrong(path, `is nested deeper than ${MAX_DEPTH} levels`);
    if (nodes > MAX_NODES) throw wrong(path, `the filter has more than ${MAX_NODES} conditions`);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw wrong(path, 'must be an object');
    }
    const entries: readonly (readonly [string, unknown])[] = Object.entries(value);
    const [[name, inner] = ['', undefined], ...more] = entries;
    if ((name === 'and' || name === 'or') && more.length === 0) {
      if (!Array.isArray(inner) || inner.length === 0) {
        throw wrong(`${path}/${name}`, 'must be a list of filters, and not an empty one');
      }
      const list: readonly unknown[] = inner;
      const parts = list.map((part, i) => read(part, `${path}/${name}/${i}`, depth + 1));
      return name === 'and' ? { and: parts } : { or: parts };
    }
    if (name === 'not' && more.length === 0) {
      return { not: read(inner, `${path}/not`, depth + 1) };
    }
    return readCondition(Object.fromEntries(entries), path);
  };
  return read(given, 'filter', 1);
}

function readCondition(given: { readonly [name: string]: unknown }, path: string): Condition {
  const { field, ...tests } = given;
  if (typeof field !== 'string' || field === '' || field.length > 256) {
    throw wrong(`${path}/field`, 'must name a member of the payload; or write and, or, not alone');
  }
  const names = Object.keys(tests);
  const ranges = names.filter((name) => ['gt', 'gte', 'lt', 'lte'].includes(name));
  const fits = names.length === 1 || (names.length === 2 && ranges.length === 2);
  if (!fits || names.some((name) => !Object.hasOwn(TESTS, name))) {
    throw wrong(path, `has one test of ${Object.keys(TESTS).join(', ')}, or two bounds of a range`);
  }
  for (const [name, value] of Object.entries(tests)) {
    const passes =
      name === 'in'
        ? Array.isArray(value) && value.length > 0 && value.length <= 256 && value.every(isScalar)
        : name === 'exists'
          ? typeof value === 'boolean'
          : name === 'text'
            ? typeof value === 'string' && value.length <= 1024 && wordsOf(value).length > 0
            : ranges.includes(name)
              ? typeof value === 'number' && Number.isFinite(value)
              : isScalar(value);
    if (!passes) throw wrong(`${path}/${name}`, 'has a value that it cannot test for');
  }
  return { ...tests, field };
}

function isScalar(value: unknown): value is Scalar {
  if (typeof value === 'number') return Number.isFinite(value);
  return typeof value === 'boolean' || (typeof value === 'string' && value.length <= 1024);
}

function wrong(path: string, rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `${path}: ${rule}`);
}

/** Whether a payload passes. */
export function matches(filter: Filter, payload: { readonly [name: string]: Json }): boolean {
  if ('and' in filter) return filter.and.every((part) => matches(part, payload));
  if ('or' in filter) return filter.or.some((part) => matches(part, payload));
  if ('not' in filter) return !matches(filter.not, payload);
  const values = valuesAt(payload, filter.field);
  if (filter.exists !== undefined) return values.length > 0 === filter.exists;
  if (filter.ne !== undefined) return !values.includes(filter.ne);
  if (filter.eq !== undefined) return values.includes(filter.eq);
  const { in: wanted, text, ...bounds } = filter;
  if (wanted !== undefined) return values.some((value) => wanted.includes(value));
  if (text !== undefined) {
    const words = wordsOf(text);
    return values.some((value) => {
      if (typeof value !== 'string') return false;
      const there = new Set(wordsOf(value));
      return words.every((word) => there.has(word));
    });
  }
  return values.some((value) => typeof value === 'number' && isWithin(value, bounds));
}

function isWithin(value: number, { gt, gte, lt, lte }: Omit<Condition, 'field'>): boolean {
  return (
    (gt === undefined || value > gt) &&
    (gte === undefined || value >= gte) &&
    (lt === undefined || value < lt) &&
    (lte === undefined || value <= lte)
  );
}

/** The scalars that a field names; arrays are looked into at every level, null is none. */
export function valuesAt(payload: { readonly [name: string]: Json }, field: string): Scalar[] {
  let found: Json[] = [{ ...payload }];
  for (const name of field.split('.')) {
    found = found.flatMap((value) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
      const inner = Object.hasOwn(value, name) ? value[name] : undefined;
      return inner === undefined ? [] : flat(inner);
    });
  }
  return found.filter((value) => value !== null && typeof value !== 'object');
}

function flat(value: Json): Json[] {
  return Array.isArray(value) ? value.flatMap(flat) : [value];
}

/** Runs of letters and digits, in small letters. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}
