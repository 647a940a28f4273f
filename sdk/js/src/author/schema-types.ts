/**
 * Writes TypeScript types for the values of JSON Schemas. Invariant: every value that the schema takes
 * has the type (what a type cannot say, such as a pattern, is left out), equal schemas give equal text,
 * and no text of a schema gets out of its literal or comment.
 */
import type { JsonSchema } from '../json.ts';
import { isSchema, resolveRef } from '../schema-walk.ts';

/** The type of a value that a schema leaves open: `Json` where values come in, `unknown` where they go out. */
export type Open = 'Json' | 'unknown';

export class TypeWriter {
  readonly #declarations = new Map<string, string>();

  /**
   * Declares `name` (made unique) as the type of a schema, and one type for each reference in it. With
   * `filled` it is the type of a value whose absent properties have their defaults.
   */
  declare(name: string, root: JsonSchema, open: Open, filled = false): string {
    const names = new Map<JsonSchema, string>();
    const refer = (schema: JsonSchema, wanted: string): string => {
      const known = names.get(schema);
      if (known !== undefined) return known;
      const unique = this.#unused(wanted);
      names.set(schema, unique);
      this.#declarations.set(unique, ''); // keeps its place before the types it refers to
      this.#declarations.set(unique, declaration(unique, schema, writer));
      return unique;
    };
    const writer: Writer = {
      root,
      open,
      filled,
      refer: (schema, part) => refer(schema, name + part),
    };
    return refer(root, name);
  }

  /** All declarations, in the order in which they were asked for. */
  text(): string {
    return [...this.#declarations.values()].join('\n');
  }

  #unused(name: string): string {
    let unique = name;
    for (let i = 2; this.#declarations.has(unique); i += 1) unique = `${name}${i}`;
    return unique;
  }
}

interface Writer {
  readonly root: JsonSchema;
  readonly open: Open;
  /** Defaults have been filled in. */
  readonly filled: boolean;
  /** The name of the type of a schema that is referred to. */
  refer(schema: JsonSchema, part: string): string;
}

const COMBINED = ['$ref', 'const', 'enum', 'anyOf', 'oneOf', 'allOf'];

function declaration(name: string, schema: JsonSchema, writer: Writer): string {
  const isObject = schema['type'] === 'object' && !COMBINED.some((key) => key in schema);
  const text = isObject ? objectType(schema, writer, '') : typeOf(schema, writer, '');
  const head = comment(schema, '');
  return isObject && text.includes('\n')
    ? `${head}export interface ${name} ${text}\n`
    : `${head}export type ${name} = ${text};\n`;
}

function typeOf(schema: unknown, writer: Writer, indent: string): string {
  if (schema === false) return 'never';
  if (!isSchema(schema)) return writer.open;
  if ('const' in schema) return literal(schema['const'], writer);
  if (Array.isArray(schema['enum'])) {
    return union(
      schema['enum'].map((value: unknown) => literal(value, writer)),
      writer.open,
    );
  }
  const parts: string[] = [];
  const target = resolveRef(writer.root, schema['$ref']);
  if (isSchema(target)) parts.push(writer.refer(target, partName(schema['$ref'])));
  for (const keyword of ['anyOf', 'oneOf']) {
    const branches: unknown = schema[keyword];
    if (!Array.isArray(branches)) continue;
    parts.push(
      union(
        // Of several branches no default is taken.
        branches.map((branch) => typeOf(branch, { ...writer, filled: false }, indent)),
        writer.open,
      ),
    );
  }
  if (Array.isArray(schema['allOf'])) {
    parts.push(...schema['allOf'].map((part) => typeOf(part, writer, indent)));
  }
  const useful = parts.filter((part) => part !== writer.open);
  const bare = schema['properties'] === undefined && schema['items'] === undefined;
  if (useful.length === 0 || !bare) useful.push(plainType(schema, writer, indent));
  const distinct = [...new Set(useful.filter((part) => part !== writer.open))];
  if (distinct.length === 0) return writer.open;
  if (distinct.length === 1) return distinct.join('');
  return distinct.map((part) => (part.includes(' | ') ? `(${part})` : part)).join(' & ');
}

function plainType(schema: JsonSchema, writer: Writer, indent: string): string {
  const types =
    schema['type'] === undefined ? inferred(schema) : [schema['type']].flat().map(String);
  return union(
    types.map((type) => {
      switch (type) {
        case 'object':
          return objectType(schema, writer, indent);
        case 'array':
          return arrayType(schema, writer, indent);
        case 'integer':
          return 'number';
        default:
          return type;
      }
    }),
    writer.open,
  );
}

function inferred(schema: JsonSchema): string[] {
  if (schema['properties'] !== undefined) return ['object'];
  return schema['items'] !== undefined || schema['prefixItems'] !== undefined ? ['array'] : [];
}

function objectType(schema: JsonSchema, writer: Writer, indent: string): string {
  const properties = isSchema(schema['properties']) ? schema['properties'] : {};
  const required: unknown[] = Array.isArray(schema['required']) ? schema['required'] : [];
  const names = new Set([...Object.keys(properties), ...required.map(String)]);
  const inner = `${indent}  `;
  const lines = [...names].map((name) => {
    const property = Object.hasOwn(properties, name) ? properties[name] : undefined;
    const key = /^[A-Za-z_$][\w$]*$/.test(name) ? name : quote(name);
    const has = writer.filled && isSchema(property) && property['default'] !== undefined;
    const mark = has || required.includes(name) ? '' : '?';
    return `${comment(property, inner)}${inner}${key}${mark}: ${typeOf(property, writer, inner)};`;
  });
  const others = othersType(schema, writer, indent, names.size > 0);
  if (lines.length === 0) return `Record<string, ${others ?? 'never'}>`;
  if (others !== undefined) lines.push(`${inner}[key: string]: ${others};`);
  return `{\n${lines.join('\n')}\n${indent}}`;
}

/** The type of properties that have no name in the schema; undefined when a type need not mention them. */
function othersType(
  schema: JsonSchema,
  writer: Writer,
  indent: string,
  named: boolean,
): string | undefined {
  const { additionalProperties: rest, patternProperties: patterns } = schema;
  if (patterns === undefined && (rest === false || (rest === undefined && named))) return undefined;
  // Named properties must fit an index signature, which only `unknown` is sure to allow.
  if (named) return 'unknown';
  const schemas = [
    ...(isSchema(patterns) ? Object.values(patterns) : []),
    ...(rest === false ? [] : [rest]),
  ];
  return union(
    schemas.map((other) => typeOf(other, writer, indent)),
    writer.open,
  );
}

function arrayType(schema: JsonSchema, writer: Writer, indent: string): string {
  const { items, prefixItems, minItems } = schema;
  const rest = many(typeOf(items, writer, indent));
  if (!Array.isArray(prefixItems)) return items === false ? '[]' : rest;
  const sure = typeof minItems === 'number' ? minItems : 0;
  const elements = prefixItems.map((item, i) => {
    const type = typeOf(item, writer, indent);
    return i < sure ? type : `${type.includes(' ') ? `(${type})` : type}?`;
  });
  if (items !== false) elements.push(`...${rest}`);
  return `[${elements.join(', ')}]`;
}

function many(type: string): string {
  return / [|&] /.test(type) && !type.endsWith('}') ? `(${type})[]` : `${type}[]`;
}

function union(types: readonly string[], open: Open): string {
  if (types.length === 0 || types.includes(open)) return open;
  return [...new Set(types)].join(' | ');
}

function literal(value: unknown, writer: Writer): string {
  if (typeof value === 'string') return quote(value);
  return typeof value === 'object' && value !== null ? writer.open : String(value);
}

function quote(text: string): string {
  const json = JSON.stringify(text).replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029');
  return `'${json.slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}'`;
}

function comment(schema: unknown, indent: string): string {
  if (!isSchema(schema) || typeof schema['description'] !== 'string') return '';
  const lines = schema['description'].replaceAll('*/', '*\\/').split(/[\r\n\u2028\u2029]+/);
  if (lines.length === 1) return `${indent}/** ${lines.join('')} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`).join('\n')}\n${indent} */\n`;
}

/** `#/$defs/note-id` → `NoteId` */
function partName(ref: unknown): string {
  const last = String(ref).split('/').at(-1) ?? '';
  const words = last.split(/[^A-Za-z0-9]+/).filter((word) => word !== '');
  return words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join('');
}
