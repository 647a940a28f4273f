/**
 * Judges a JSON Schema that a plugin brings (from a document whose depth is bounded), before anything is checked against it. Invariant: a schema
 * that passes compiles strictly, stands alone (no reference leaves it) and judges each part of a value a
 * bounded number of times, so that no value makes the check explode.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { JsonSchema } from './json.ts';
import { isBounded } from './schema-cost.ts';
import { patternSize } from './pattern-size.ts';
import { COST, hasScalarItems } from './schema-meter.ts';
import { FORMATS, clip, compileSchema, violation } from './schema.ts';
import { isSchema, pointerToken, resolveRef, subschemas } from './schema-walk.ts';

/** A violation of a rule, with what to do about it. */
export interface Finding {
  /** JSON Pointer (RFC 6901) from the root of the document. */
  readonly path: string;
  readonly rule: string;
  readonly message: string;
  readonly fix: string;
}

export const SCHEMA_BOUNDS = {
  /** Schemas inside one schema, itself included: each member of an object is a level of the check's code. */
  nodes: 500,
  /** Keywords and names that a schema tells a check to look at: what its code grows by. */
  rules: 2000,
  /** Elements that `uniqueItems` compares pair by pair when they are not all scalars. */
  uniqueItems: 200,
  /** Instructions of one pattern, as estimated before it is compiled. */
  patternSize: 2500,
  /** The same of all patterns of one manifest. */
  patternTotal: 20_000,
  /** Rules of all schemas of one manifest. */
  rulesTotal: 20_000,
};

/** What the schemas that are judged with it may still take together. */
export interface SchemaBudget {
  patterns: number;
  rules: number;
}

export function schemaBudget(): SchemaBudget {
  return { patterns: SCHEMA_BOUNDS.patternTotal, rules: SCHEMA_BOUNDS.rulesTotal };
}

const DIALECT = 'https://json-schema.org/draft/2020-12/schema';
/** Keywords that add nothing to a check. */
const ANNOTATIONS = new Set([
  'title',
  'description',
  'examples',
  '$comment',
  'deprecated',
  '$defs',
]);
const NAMING = ['$id', '$anchor', '$dynamicAnchor', '$dynamicRef', '$recursiveRef', '$vocabulary'];

interface CheckOptions {
  readonly secrets: boolean;
  /** Shared by the schemas of one manifest. */
  readonly budget: SchemaBudget;
}

/** Answers every finding in `schema`, whose JSON Pointer in its document is `at`; none when it is sound. */
export function checkSchema(schema: JsonSchema, at: string, options: CheckOptions): Finding[] {
  const form = wellFormed(schema, at);
  if (form.length > 0) return form;
  const findings = rules(schema, at, options);
  if (findings.length > 0) return findings;
  try {
    compileSchema(schema);
  } catch (error) {
    const message = clip(error instanceof Error ? error.message : String(error));
    return [
      {
        path: at,
        rule: 'strict',
        message,
        fix: 'Correct the schema; unknown keywords, unsupported patterns and keywords without their type are refused.',
      },
    ];
  }
  if (isBounded(schema)) return [];
  return [
    {
      path: at,
      rule: 'bounded',
      message: 'makes the check of one part of a value too long',
      fix: 'Shorten enum lists and combinations, and let references not meet at the same place.',
    },
  ];
}

/** Compiled once: it depends on nothing but the dialect. */
let metaSchema: ReturnType<Ajv2020['getSchema']>;

function wellFormed(schema: JsonSchema, at: string): Finding[] {
  metaSchema ??= new Ajv2020({ strict: false }).getSchema(DIALECT);
  if (metaSchema === undefined) throw new Error(`ajv brings no meta-schema ${DIALECT}`);
  if (metaSchema(schema)) return [];
  const [first] = metaSchema.errors ?? [];
  const found = first === undefined ? { path: '', message: 'is wrong' } : violation(first);
  return [
    {
      path: at + found.path,
      rule: 'json-schema',
      message: `is not JSON Schema 2020-12: ${found.message}`,
      fix: 'Write the keyword as JSON Schema 2020-12 defines it.',
    },
  ];
}

function rules(root: JsonSchema, at: string, options: CheckOptions): Finding[] {
  const findings: Finding[] = [];
  const add = (path: string, rule: string, message: string, fix: string): void => {
    findings.push({ path, rule, message, fix });
  };
  const visited = new Set<JsonSchema>();
  const references: { path: string; target: unknown }[] = [];
  let size = 0;
  const visit = (schema: JsonSchema, path: string): void => {
    if (visited.size > SCHEMA_BOUNDS.nodes) return;
    visited.add(schema);
    size += rulesOf(schema);
    for (const keyword of NAMING) {
      if (Object.hasOwn(schema, keyword)) {
        add(
          `${path}/${keyword}`,
          'local',
          `${keyword} is not taken here`,
          'Put shared parts under $defs and refer to them by "#/$defs/…".',
        );
      }
    }
    const { $schema, $ref, format } = schema;
    if ($schema !== undefined && $schema !== DIALECT) {
      add(
        `${path}/$schema`,
        'dialect',
        'names another dialect',
        `Leave it out or write "${DIALECT}".`,
      );
    }
    if ($ref !== undefined) {
      references.push({ path: `${path}/$ref`, target: resolveRef(root, $ref) });
    }
    if (format !== undefined && !FORMATS.some((known) => known === format)) {
      add(
        `${path}/format`,
        'format',
        'is not a known format',
        `Use one of ${FORMATS.join(', ')}, or a pattern.`,
      );
    }
    for (const { where, pattern } of patternsOf(schema)) {
      const size = patternSize(pattern);
      const left = Math.min(options.budget.patterns, SCHEMA_BOUNDS.patternSize);
      if (size <= left) options.budget.patterns -= size;
      else add(path + where, 'bounded', ...tooLarge(size, left));
    }
    if (Object.hasOwn(schema, 'secret') && !options.secrets) {
      add(`${path}/secret`, 'secret', 'has a meaning in the configuration only', 'Remove it.');
    }
    if (Object.hasOwn(schema, COST)) {
      add(`${path}/${COST}`, 'strict', 'is not a keyword', 'Remove it.');
    }
    if (schema['uniqueItems'] === true && !cheapToCompare(schema)) {
      add(
        `${path}/uniqueItems`,
        'bounded',
        'compares every pair of elements',
        `Set maxItems to at most ${SCHEMA_BOUNDS.uniqueItems}, or give the items one scalar type.`,
      );
    }
    for (const inner of subschemas(schema)) {
      if (isSchema(inner.schema)) visit(inner.schema, path + inner.path);
    }
  };
  visit(root, at);
  for (const { path, target } of references) {
    // A reference into an enum or a const would escape these rules.
    if (!isSchema(target) || !visited.has(target)) {
      add(
        path,
        'local',
        'leads to no schema inside this one',
        'Refer to a schema inside this one, for example "#/$defs/note".',
      );
    }
  }
  if (visited.size > SCHEMA_BOUNDS.nodes) {
    add(at, 'bounded', `holds more than ${SCHEMA_BOUNDS.nodes} schemas`, 'Make it smaller.');
  }
  if (size > SCHEMA_BOUNDS.rules) {
    const message = `holds more than ${SCHEMA_BOUNDS.rules} keywords and required names`;
    add(at, 'bounded', message, 'Make it smaller.');
  } else if (size > options.budget.rules) {
    const message = `makes the schemas hold more than ${SCHEMA_BOUNDS.rulesTotal} keywords together`;
    add(at, 'bounded', message, 'Make them smaller, or split the plugin.');
  } else options.budget.rules -= size;
  return findings;
}

function rulesOf(schema: JsonSchema): number {
  const { required, dependentRequired } = schema;
  const keywords = Object.keys(schema).filter((key) => !ANNOTATIONS.has(key)).length;
  const dependents = Object.entries(dependentRequired ?? {}).flat(2).length;
  return keywords + (Array.isArray(required) ? required.length : 0) + 4 * dependents;
}

function patternsOf({ pattern, patternProperties }: JsonSchema): {
  where: string;
  pattern: string;
}[] {
  const keys = isSchema(patternProperties) ? Object.keys(patternProperties) : [];
  return [
    ...(typeof pattern === 'string' ? [{ where: '/pattern', pattern }] : []),
    ...keys.map((key) => ({ where: `/patternProperties/${pointerToken(key)}`, pattern: key })),
  ];
}

function tooLarge(size: number, left: number): [message: string, fix: string] {
  if (size === Infinity) {
    const what = 'is a pattern with \\Q, or with [: in a class, which ECMA-262 does not have';
    return [what, 'Escape the characters one by one.'];
  }
  const whole = left === SCHEMA_BOUNDS.patternSize;
  return [
    `is a pattern of up to ${size} steps, over the ${left} that ${whole ? 'one may have' : `are left of ${SCHEMA_BOUNDS.patternTotal} for all patterns of a manifest`}`,
    'Repeat less in it, above all groups inside groups: each {n} counts n times. Bound lengths by maxLength.',
  ];
}

function cheapToCompare(schema: JsonSchema): boolean {
  const { maxItems, items } = schema;
  if (typeof maxItems === 'number' && maxItems <= SCHEMA_BOUNDS.uniqueItems) return true;
  return hasScalarItems(items);
}
