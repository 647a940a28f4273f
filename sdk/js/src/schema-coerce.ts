/** Reads the text of query and path parameters as the types that an input schema wants. */
import type { Json, JsonSchema } from './json.ts';
import { isSchema, resolveRef } from './schema-walk.ts';

/** Query or path parameters as a transport reads them: repeated names give a list. */
export type TextParameters = Readonly<Record<string, string | readonly string[] | undefined>>;

/**
 * Compiles the reading of query and path parameters, which are only text, into the types that an input
 * schema wants for its top-level properties: number, integer, boolean, or a list of those. What does not
 * read as its type stays text, so that the schema check names it.
 */
export function compileCoercion(
  schema: JsonSchema,
): (text: TextParameters) => Record<string, Json> {
  const wanted = new Map<string, Wanted>();
  for (const part of inPlace(schema, schema)) {
    for (const [name, property] of entries(part['properties'])) {
      wanted.set(name, wantedBy(schema, property));
    }
  }
  return (text) =>
    Object.fromEntries(
      Object.entries(text).flatMap(([name, value]) =>
        value === undefined ? [] : [[name, coerce(value, wanted.get(name))]],
      ),
    );
}

interface Wanted {
  readonly types: ReadonlySet<string>;
  /** Of the elements, when a list is wanted. */
  readonly items: ReadonlySet<string>;
}

function coerce(value: string | readonly string[], wanted: Wanted | undefined): Json {
  if (typeof value !== 'string') return value.map((item) => scalar(item, wanted?.items));
  if (wanted?.types.has('array') && !wanted.types.has('string'))
    return [scalar(value, wanted.items)];
  return scalar(value, wanted?.types);
}

function scalar(text: string, types: ReadonlySet<string> | undefined): Json {
  if (types === undefined || types.has('string')) return text;
  const number = types.has('number') || types.has('integer');
  if (number && /^-?(0|[1-9]\d{0,30})(\.\d{1,30})?([eE][+-]?\d{1,3})?$/.test(text)) {
    return Number(text);
  }
  if (types.has('boolean') && (text === 'true' || text === 'false')) return text === 'true';
  return types.has('null') && text === 'null' ? null : text;
}

function wantedBy(root: JsonSchema, property: JsonSchema): Wanted {
  const types = new Set<string>();
  const items = new Set<string>();
  for (const part of inPlace(root, property)) {
    for (const type of typesOf(part)) types.add(type);
    if (!isSchema(part['items'])) continue;
    for (const item of inPlace(root, part['items'])) {
      for (const type of typesOf(item)) items.add(type);
    }
  }
  return { types, items };
}

function typesOf(schema: JsonSchema): string[] {
  const { type, enum: values } = schema;
  if (type !== undefined) return [type].flat().map(String);
  const shown = Array.isArray(values) ? values : 'const' in schema ? [schema['const']] : [];
  return shown.map((value) => (value === null ? 'null' : typeof value));
}

/** The schema and all that apply to the same value beside it: combinators and local references. */
function inPlace(root: JsonSchema, schema: JsonSchema): Set<JsonSchema> {
  const found = new Set([schema]);
  for (const part of found) {
    for (const keyword of ['allOf', 'anyOf', 'oneOf']) {
      const branches: unknown = part[keyword];
      if (Array.isArray(branches)) for (const b of branches) if (isSchema(b)) found.add(b);
    }
    const target = resolveRef(root, part['$ref']);
    if (isSchema(target)) found.add(target);
  }
  return found;
}

function entries(value: unknown): [string, JsonSchema][] {
  if (!isSchema(value)) return [];
  return Object.entries(value).filter((entry): entry is [string, JsonSchema] => isSchema(entry[1]));
}
