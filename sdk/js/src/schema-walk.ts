/** How the parts of a JSON Schema hang together: which keywords hold schemas, and where a reference leads. */
import type { JsonSchema } from './json.ts';

/** A schema inside a schema. `path` is its JSON Pointer from the parent. */
export interface Subschema {
  readonly keyword: string;
  /** Property name or index under a keyword that holds several. */
  readonly key: string;
  readonly path: string;
  readonly schema: unknown;
}

const SINGLE = [
  'additionalProperties',
  'contains',
  'else',
  'if',
  'items',
  'not',
  'propertyNames',
  'then',
  'unevaluatedItems',
  'unevaluatedProperties',
];
const LISTS = ['allOf', 'anyOf', 'oneOf', 'prefixItems'];
const MAPS = ['$defs', 'definitions', 'dependentSchemas', 'patternProperties', 'properties'];

/** The schemas directly inside `schema`, in the order of its keywords' kinds. */
export function* subschemas(schema: JsonSchema): Generator<Subschema> {
  for (const keyword of SINGLE) {
    if (Object.hasOwn(schema, keyword)) {
      yield { keyword, key: '', path: `/${keyword}`, schema: schema[keyword] };
    }
  }
  for (const keyword of [...LISTS, ...MAPS]) {
    const group = schema[keyword];
    if (typeof group !== 'object' || group === null) continue;
    for (const [key, inner] of Object.entries(group)) {
      yield { keyword, key, path: `/${keyword}/${pointerToken(key)}`, schema: inner };
    }
  }
}

export function isSchema(value: unknown): value is JsonSchema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What a local reference (`#` or `#/…`) points to, or undefined. */
export function resolveRef(root: JsonSchema, ref: unknown): unknown {
  if (ref === '#') return root;
  if (typeof ref !== 'string' || !ref.startsWith('#/')) return undefined;
  let at: unknown = root;
  for (const token of ref.slice(2).split('/')) {
    const key = decodePart(token).replaceAll('~1', '/').replaceAll('~0', '~');
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, key)) return undefined;
    at = (at as Record<string, unknown>)[key];
  }
  return at;
}

function decodePart(token: string): string {
  try {
    return decodeURIComponent(token);
  } catch {
    return token; // a stray % is itself
  }
}

/** One segment of a JSON Pointer (RFC 6901). */
export function pointerToken(key: string): string {
  return key.replaceAll('~', '~0').replaceAll('/', '~1');
}
