/**
 * Compiles JSON Schemas that come from plugins into fast checks. Invariant: no schema and no value can
 * make a check run long: patterns run on RE2 (linear), formats are a list known to be linear, the first
 * violation ends the check, and reading too deep into a value, or for too long, is itself a violation.
 */
import { Ajv2020, type ErrorObject, type Options } from 'ajv/dist/2020.js';
import { fullFormats, type FormatName } from 'ajv-formats/dist/formats.js';
import type { JsonSchema } from './json.ts';
import { compilePattern } from './pattern-size.ts';
import { attach, Meter, metered, TooMuchWork } from './schema-meter.ts';
import { pointerToken } from './schema-walk.ts';

/** One violation: JSON Pointer (RFC 6901) of the value, the schema keyword, and the rule in words. */
export interface SchemaViolation {
  readonly path: string;
  readonly rule: string;
  readonly message: string;
}

/** Answers no violation when the value fits; it stops at the first, so at most one. */
export type CompiledSchema = (value: unknown) => readonly SchemaViolation[];

/** Formats a plugin's schema may name. Absent on purpose: `url` and `regex`, whose checks are not linear. */
export const FORMATS: readonly FormatName[] = [
  'date',
  'time',
  'date-time',
  'duration',
  'uri',
  'uri-reference',
  'email',
  'hostname',
  'ipv4',
  'ipv6',
  'uuid',
  'json-pointer',
  'byte',
  'int32',
  'int64',
  'float',
  'double',
];

/** Memory that matching leaves behind in a pattern grows with its work; it is freed after so many units. */
const MAX_LEFT_BEHIND = 1_000_000;

type RegExpEngine = NonNullable<NonNullable<Options['code']>['regExp']>;

const linearPattern = (meter: Meter): RegExpEngine =>
  Object.assign(
    (pattern: string) => {
      const regex = compilePattern(pattern);
      const instructions = regex.programSize();
      let used = 0;
      const test = (text: string): boolean => {
        used += meter.match(instructions, text.length);
        const fits = regex.test(text);
        if (used > MAX_LEFT_BEHIND) {
          regex.reset();
          used = 0;
        }
        return fits;
      };
      // ajv shares one engine object per `toString()`, so it must tell patterns apart.
      return { test, toString: () => pattern };
    },
    { code: 'linearPattern' },
  );

/** A strict ajv that trusts neither schema nor value. Schemas are checked against the meta-schema elsewhere. */
export function strictAjv(options: Options, meter: Meter = new Meter()): Ajv2020 {
  const ajv = new Ajv2020({
    strict: true,
    strictTypes: true,
    strictTuples: false, // a tuple whose last elements may be absent is fine
    strictRequired: false, // `anyOf: [{required: …}]` beside the properties is common
    allowUnionTypes: true,
    ownProperties: true,
    inlineRefs: false, // one function for a shared part, not its code at each of its places
    meta: false,
    validateSchema: false,
    logger: false,
    code: { regExp: linearPattern(meter) },
    ...options,
  });
  for (const name of FORMATS) ajv.addFormat(name, fullFormats[name]);
  ajv.addKeyword({ keyword: 'secret', schemaType: 'boolean' });
  return ajv;
}

const NONE: readonly SchemaViolation[] = [];
const MAX_VIOLATIONS = 100;

/**
 * Compiles one schema, which must already have passed `parseManifest` (or be the host's own).
 * With `defaults` the check fills absent properties from the schema's `default`s in the value itself:
 * for inputs and configuration, not for outputs. With `described` a text that breaks a pattern is told by the
 * `description` of its schema what it must be: for the host's own schemas, whose descriptions are such rules.
 * With `all` every violation is told, up to a bound, and not the first alone: for values that the host trusts.
 * Throws Error when the schema does not compile strictly.
 */
export function compileSchema(schema: JsonSchema, options: SchemaOptions = {}): CompiledSchema {
  const { defaults = false, described = false, all = false } = options;
  const key = JSON.stringify([schema, defaults, described, all]);
  const known = compiled.get(key) ?? compile(schema, { defaults, described, all });
  compiled.delete(key);
  if (key.length <= MAX_KEPT_LENGTH) compiled.set(key, known);
  if (compiled.size > MAX_KEPT) compiled.delete(compiled.keys().next().value ?? '');
  return known;
}

export interface SchemaOptions {
  readonly defaults?: boolean;
  readonly described?: boolean;
  readonly all?: boolean;
}

/** Used last, last. The schemas of a plugin are judged when it is read, and compiled again when it starts. */
const compiled = new Map<string, CompiledSchema>();
const MAX_KEPT = 256;
/** Of a schema that is kept, as JSON: what it compiles to grows with it. */
const MAX_KEPT_LENGTH = 16_384;

function compile(
  schema: JsonSchema,
  { defaults, described, all }: Required<SchemaOptions>,
): CompiledSchema {
  const meter = new Meter();
  const ajv = strictAjv({ useDefaults: defaults, verbose: described, allErrors: all }, meter);
  attach(meter, ajv);
  const check = ajv.compile(metered(schema));
  return (value) => {
    meter.start();
    try {
      if (check(value)) return NONE;
    } catch (error) {
      if (error instanceof TooMuchWork) {
        return [{ path: '', rule: 'bounded', message: error.message }];
      }
      if (!(error instanceof RangeError)) throw error;
      return [{ path: '', rule: 'depth', message: 'is nested too deeply' }];
    }
    const errors = check.errors ?? [];
    return (all ? errors.slice(0, MAX_VIOLATIONS) : foremost(errors)).map((error) =>
      violation(error, described),
    );
  };
}

/** The first; of a choice between types what the value of one of them lacks, or all types when it is of none. */
function foremost(errors: readonly ErrorObject[]): ErrorObject[] {
  const [first] = errors;
  const last = errors.at(-1);
  if (first === undefined || last === undefined) return [];
  const isChoice = last.keyword === 'anyOf' || last.keyword === 'oneOf';
  if (!isChoice || !isOfAnotherType(first, last)) return [first];
  const branches = errors.slice(0, -1);
  const within = branches.find((error) => !isOfAnotherType(error, last));
  if (within !== undefined) return [within];
  const types = branches.flatMap(({ params }): unknown => params['type']);
  return [{ ...first, params: { type: [...new Set(types)] } }];
}

function isOfAnotherType(error: ErrorObject, choice: ErrorObject): boolean {
  return error.keyword === 'type' && error.instancePath === choice.instancePath;
}

/**
 * Our form of an ajv error: the path leads to the very value, also when it is missing or too much. For
 * `described` see `compileSchema`.
 */
export function violation(error: ErrorObject, described = false): SchemaViolation {
  const { instancePath, keyword } = error;
  const params: Record<string, unknown> = error.params;
  const at = (key: unknown): string => clip(`${instancePath}/${pointerToken(String(key))}`);
  switch (keyword) {
    case 'required':
      return { path: at(params['missingProperty']), rule: keyword, message: 'is required' };
    case 'additionalProperties':
      return {
        path: at(params['additionalProperty']),
        rule: keyword,
        message: 'is not a known key',
      };
    case 'unevaluatedProperties':
      return {
        path: at(params['unevaluatedProperty']),
        rule: keyword,
        message: 'is not a known key',
      };
    case 'type': {
      const types = [params['type']].flat().join(' or ');
      return { path: clip(instancePath), rule: keyword, message: `must be ${types}` };
    }
    case 'enum':
    case 'const': {
      const { allowedValues, allowedValue } = params;
      const allowed: unknown[] = Array.isArray(allowedValues) ? allowedValues : [allowedValue];
      const list = allowed.map((value) => JSON.stringify(value)).join(', ');
      return { path: clip(instancePath), rule: keyword, message: clip(`must be one of ${list}`) };
    }
    default: {
      const path = error.propertyName === undefined ? clip(instancePath) : at(error.propertyName);
      const isTold = described && keyword === 'pattern';
      const rule: unknown = isTold ? error.parentSchema?.['description'] : undefined;
      const message = typeof rule === 'string' ? `must be ${rule}` : error.message;
      return { path, rule: keyword, message: clip(message ?? 'breaks the schema') };
    }
  }
}

/** Text from a caller or a plugin, fit for an error: no control characters and a bounded length. */
export function clip(text: string): string {
  const plain = text.replace(
    /\p{C}/gu,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return plain.length > 300 ? `${plain.slice(0, 299)}…` : plain;
}
