/**
 * Tells whether the check of a value by a schema is bounded by the size of the value. It follows the
 * schema the way a check does, but place by place (`/tags/*`) instead of value by value, and adds up what
 * is compared at each place. References that fan out (a → b twice, b → c twice …) and recursion that
 * doubles are both seen as a place whose cost grows; recursion that walks down a tree stays the same.
 */
import type { JsonSchema } from './json.ts';
import { isSchema, resolveRef, subschemas } from './schema-walk.ts';

/** Comparisons that the check of one place may take. */
const MAX_COST = 4096;
/** Schemas that may judge one place, counted as often as they do. */
const MAX_JUDGES = 256;
/** Different places, and schemas looked at to find them: bounds on this analysis itself. */
const MAX_PLACES = 2000;
const MAX_WORK = 500_000;

const IN_PLACE = ['allOf', 'anyOf', 'oneOf', 'not', 'if', 'then', 'else', 'dependentSchemas'];
const NAMED = ['properties', 'prefixItems'];
const ELSEWHERE = ['$defs', 'definitions'];

/** The schemas that judge one place of a value, each with how often it does. */
type Judges = Map<JsonSchema, number>;

/** For a schema whose references all lead to schemas inside it. */
export function isBounded(root: JsonSchema): boolean {
  const ids = new Map<JsonSchema, number>();
  const keyOf = (judges: Judges): string =>
    [...judges]
      .map(([schema, times]) => `${identify(ids, schema)}:${times}`)
      .toSorted()
      .join();
  const seen = new Set<string>();
  const places: Judges[] = [new Map([[root, 1]])];
  let work = 0;
  for (const place of places) {
    const judges = expand(root, place);
    if (judges === undefined || places.length > MAX_PLACES) return false;
    const next = below(judges);
    work += next.reduce((total, { size }) => total + size, judges.size);
    if (work > MAX_WORK) return false;
    for (const candidate of next) {
      const key = keyOf(candidate);
      if (!seen.has(key)) places.push(candidate);
      seen.add(key);
    }
  }
  return true;
}

function identify(ids: Map<JsonSchema, number>, schema: JsonSchema): number {
  const known = ids.get(schema) ?? ids.size;
  ids.set(schema, known);
  return known;
}

/** All schemas that judge the place where `start` does, or undefined when that costs too much. */
function expand(root: JsonSchema, start: Judges): Judges | undefined {
  const all: Judges = new Map();
  const pending = [...start];
  let count = 0;
  let cost = 0;
  for (const [schema, times] of pending) {
    count += times;
    cost += times * ownCost(schema);
    if (count > MAX_JUDGES || cost > MAX_COST) return undefined;
    all.set(schema, (all.get(schema) ?? 0) + times);
    const target = resolveRef(root, schema['$ref']);
    if (isSchema(target)) pending.push([target, times]);
    for (const { keyword, schema: inner } of subschemas(schema)) {
      if (IN_PLACE.includes(keyword) && isSchema(inner)) pending.push([inner, times]);
    }
  }
  return all;
}

function ownCost({ enum: values, properties }: JsonSchema): number {
  const listed = Array.isArray(values) ? values.length : 0;
  return 1 + listed + (isSchema(properties) ? Object.keys(properties).length : 0);
}

/** The places below: one for each named property and tuple index, and one for all others. */
function below(judges: Judges): Judges[] {
  const named = new Map<string, Judges>();
  const others: Judges = new Map();
  for (const [schema, times] of judges) {
    for (const { keyword, key, schema: inner } of subschemas(schema)) {
      if (!isSchema(inner) || IN_PLACE.includes(keyword) || ELSEWHERE.includes(keyword)) continue;
      let place = others;
      if (NAMED.includes(keyword)) {
        const name = `${keyword}/${key}`;
        place = named.get(name) ?? new Map();
        named.set(name, place);
      }
      add(place, inner, times);
    }
  }
  for (const place of named.values()) {
    for (const [schema, times] of others) add(place, schema, times);
  }
  return [...named.values(), others].filter(({ size }) => size > 0);
}

function add(place: Judges, schema: JsonSchema, times: number): void {
  place.set(schema, (place.get(schema) ?? 0) + times);
}
