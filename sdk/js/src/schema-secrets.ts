/**
 * Which parts of a configuration are secret. Invariant: a value is secret when any schema that may speak
 * of it says so; where branches differ, the cautious one counts.
 */
import type { Json, JsonSchema } from './json.ts';
import { compilePattern } from './pattern-size.ts';
import { isSchema, pointerToken, resolveRef } from './schema-walk.ts';

/** Keywords whose schemas speak of the same value. */
const SAME_PLACE = ['allOf', 'anyOf', 'oneOf', 'if', 'then', 'else', 'dependentSchemas'];

/**
 * JSON Pointers (RFC 6901) of the secret values in `value`, outermost only, in order. `schema` has passed
 * `parseManifest`.
 */
export function secretPointers(schema: JsonSchema, value: Json): string[] {
  const found: string[] = [];
  const visit = (speaking: readonly JsonSchema[], inner: Json, at: string): void => {
    const schemas = allAt(schema, speaking);
    if (schemas.some((each) => each['secret'] === true)) {
      found.push(at);
      return;
    }
    if (typeof inner !== 'object' || inner === null) return;
    for (const [key, member] of Object.entries(inner)) {
      const below = schemas.flatMap((each) =>
        Array.isArray(inner) ? ofItem(each, Number(key)) : ofProperty(each, key),
      );
      if (below.length > 0) visit(below, member, `${at}/${pointerToken(key)}`);
    }
  };
  visit([schema], value, '');
  return found;
}

/** These schemas, what they refer to and what they combine. */
function allAt(root: JsonSchema, given: readonly JsonSchema[]): JsonSchema[] {
  const all = new Set<JsonSchema>(given);
  for (const schema of all) {
    const target = resolveRef(root, schema['$ref']);
    const parts = SAME_PLACE.flatMap((keyword): unknown[] => {
      const part: unknown = schema[keyword];
      if (typeof part !== 'object' || part === null) return [];
      return Array.isArray(part) || keyword === 'dependentSchemas' ? Object.values(part) : [part];
    });
    for (const part of [target, ...parts]) if (isSchema(part)) all.add(part);
  }
  return [...all];
}

function ofItem({ prefixItems, items, contains }: JsonSchema, index: number): JsonSchema[] {
  const own: unknown = Array.isArray(prefixItems) ? prefixItems[index] : undefined;
  return [own ?? items, contains].filter(isSchema);
}

function ofProperty(schema: JsonSchema, key: string): JsonSchema[] {
  const { properties, patternProperties, additionalProperties, unevaluatedProperties } = schema;
  const own = isSchema(properties) && Object.hasOwn(properties, key) ? [properties[key]] : [];
  const byPattern = Object.entries(isSchema(patternProperties) ? patternProperties : {})
    .filter(([pattern]) => compilePattern(pattern).test(key))
    .map(([, inner]) => inner);
  const named = [...own, ...byPattern];
  const rest = named.length === 0 ? [additionalProperties, unevaluatedProperties] : [];
  return [...named, ...rest].filter(isSchema);
}
