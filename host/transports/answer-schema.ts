/**
 * How the bodies of answers are described. `object<T>` takes its members from the type that is answered,
 * so a member that is added to the one and not to the other does not compile.
 */
import type { JsonSchema } from '@noa/sdk/host';

type Members<T> = { readonly [name in keyof T]-?: JsonSchema };
type Optional<T> = {
  readonly [name in keyof T]-?: undefined extends T[name] ? name : never;
}[keyof T];

/** An object that may gain members in later versions. With a `title` the document holds it once, under that name. */
export function object<T extends object>(
  properties: Members<T>,
  { title, optional = [] }: { title?: string; optional?: readonly Optional<T>[] } = {},
): JsonSchema {
  const required = Object.keys(properties).filter((name) => !optional.some((one) => one === name));
  return { ...(title === undefined ? {} : { title }), type: 'object', properties, required };
}

/** One page of a list, its items under `member`; `next` is the cursor of the next page. */
export function page(member: string, item: JsonSchema): JsonSchema {
  const next = orNull(text('Cursor of the next page; null after the last.'));
  return {
    type: 'object',
    properties: { [member]: list(item), next },
    required: [member, 'next'],
  };
}

export const text = (description?: string): JsonSchema =>
  described({ type: 'string' }, description);
export const flag = (description?: string): JsonSchema =>
  described({ type: 'boolean' }, description);
/** A whole number from 0. */
export const count = (description?: string): JsonSchema =>
  described({ type: 'integer', minimum: 0 }, description);
export const time = (description?: string): JsonSchema =>
  described({ type: 'string', format: 'date-time' }, description);
export const oneOf = (values: readonly string[], description?: string): JsonSchema =>
  described({ type: 'string', enum: values }, description);
export const list = (items: JsonSchema, description?: string): JsonSchema =>
  described({ type: 'array', items }, description);
/** Any JSON value. */
export const anything = (description?: string): JsonSchema => described({}, description);
/** A whole number as text. */
export const numeral = (description?: string): JsonSchema =>
  described({ type: 'string', pattern: '^[0-9]+$' }, description);
export const sha256 = (description?: string): JsonSchema =>
  described({ type: 'string', pattern: '^[0-9a-f]{64}$' }, description);

export function orNull(schema: JsonSchema): JsonSchema {
  const { type, title, description, ...rest } = schema;
  const simple = typeof type === 'string' && title === undefined && rest['enum'] === undefined;
  if (simple) return { ...schema, type: [type, 'null'] };
  const either = { anyOf: [schema, { type: 'null' }] };
  return typeof description === 'string' && title === undefined
    ? { description, ...either }
    : either;
}

function described(schema: JsonSchema, description: string | undefined): JsonSchema {
  return description === undefined ? schema : { ...schema, description };
}
