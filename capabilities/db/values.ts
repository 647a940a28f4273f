/** Values between JSON and PostgreSQL's text format; session settings make dates ISO and bytea hex. */
import { JSON_BOUNDS, type Json, NoaError, parseJson } from '@noa/sdk/host';
import type { Parameter } from './frontend.ts';

const JSON_TYPES = new Set([114, 3802]);
/** Digits that a double always carries exactly. */
const EXACT_DIGITS = 15;
/** PostgreSQL's own bound of an array's dimensions. */
const MAX_DIMENSIONS = 6;

type FromText = (text: string) => Json;

const boolean: FromText = (text) => text === 't';
const float: FromText = (text) => (Number.isFinite(Number(text)) ? Number(text) : text);
const integer: FromText = (text) => (Number.isSafeInteger(Number(text)) ? Number(text) : text);
const numeric: FromText = (text) =>
  text.replace(/^-?0*\.?0*|\./g, '').length <= EXACT_DIGITS ? float(text) : text;
const json: FromText = parseJson;
const bytes: FromText = (text) => Buffer.from(text.slice(2), 'hex').toString('base64');
const timestamp: FromText = (text) => text.replace(' ', 'T').replace(/\+00$/, 'Z');

/** Parsers by type, with the type of its array; every other type stays text. */
const TYPES: readonly (readonly [oid: number, array: number, parse: FromText])[] = [
  [16, 1000, boolean],
  [17, 1001, bytes],
  [20, 1016, integer],
  [21, 1005, integer],
  [23, 1007, integer],
  [26, 1028, integer],
  [700, 1021, float],
  [701, 1022, float],
  [1700, 1231, numeric],
  [114, 199, json],
  [3802, 3807, json],
  [1114, 1115, timestamp],
  [1184, 1185, timestamp],
];
/** Arrays whose elements stay text: text, varchar, bpchar, name, date, time, timetz, interval, uuid. */
const TEXT_ARRAYS = [1009, 1015, 1014, 1003, 1182, 1183, 1270, 1187, 2951];

const PARSERS = new Map<number, FromText>();
for (const [oid, array, parse] of TYPES) {
  PARSERS.set(oid, parse);
  PARSERS.set(array, (text) => fromArray(text, parse));
}
for (const array of TEXT_ARRAYS) PARSERS.set(array, (text) => fromArray(text, asText));

function asText(text: string): Json {
  return text;
}

/** Reads the text form of an array: `{1,NULL,"a \\"b\\""}`, nested, with or without bounds in front. */
function fromArray(text: string, parse: FromText): Json[] {
  let at = text.indexOf('{');
  let left = JSON_BOUNDS.values;
  const list = (dimension: number): Json[] => {
    if (dimension > MAX_DIMENSIONS) throw new SyntaxError('an array has too many dimensions');
    const items: Json[] = [];
    at += 1;
    while (text[at] !== '}') {
      left -= 1;
      if (left < 0) throw new RangeError(`the array holds more than ${JSON_BOUNDS.values} values`);
      if (text[at] === '{') {
        items.push(list(dimension + 1));
      } else if (text[at] === '"') {
        const end = closingQuote(text, at);
        items.push(parse(text.slice(at + 1, end).replace(/\\(.)/gs, '$1')));
        at = end + 1;
      } else {
        const length = text.slice(at).search(/[,}]/);
        if (length <= 0) throw new SyntaxError('an array has no end or an empty element');
        const item = text.slice(at, at + length);
        items.push(item === 'NULL' ? null : parse(item));
        at += length;
      }
      if (text[at] === ',') at += 1;
      else if (text[at] !== '}') throw new SyntaxError('array elements need a comma between them');
    }
    at += 1;
    return items;
  };
  if (at < 0) throw new SyntaxError('an array has no beginning');
  return list(1);
}

function closingQuote(text: string, open: number): number {
  for (let at = open + 1; at < text.length; at += 1) {
    if (text[at] === '"') return at;
    if (text[at] === '\\') at += 1;
  }
  throw new SyntaxError('a quoted array element has no end');
}

/** How the values of a column are read, by its type. The reader throws NoaError for what it cannot read. */
export function parserOf(oid: number): FromText {
  const parse = PARSERS.get(oid);
  if (!parse) return asText;
  return (text) => {
    try {
      return parse(text);
    } catch (cause) {
      const why = cause instanceof RangeError ? `: ${cause.message}` : '';
      throw new NoaError(
        'INVALID_ARGUMENT',
        `db: a value of the answer cannot be read as its type${why}; select it as text`,
        { cause },
      );
    }
  };
}

/** True when the parameter's meaning depends on the type that the server gives it. */
export function isAmbiguous(value: Json): boolean {
  return Array.isArray(value);
}

/** One parameter in text format; `oid` is known for ambiguous ones. Throws INVALID_ARGUMENT. */
export function toParameter(value: Json, index: number, oid: number | undefined): Parameter {
  if (value === null) return null;
  const isJson = oid !== undefined && JSON_TYPES.has(oid);
  const text = !Array.isArray(value)
    ? typeof value === 'object'
      ? JSON.stringify(value)
      : String(value)
    : isJson
      ? JSON.stringify(value)
      : arrayLiteral(value);
  return refuseNul(text, `params[${index}]`);
}

function arrayLiteral(values: readonly Json[]): string {
  const items = values.map((value) => {
    if (value === null) return 'NULL';
    if (Array.isArray(value)) return arrayLiteral(value);
    const text = typeof value === 'object' ? JSON.stringify(value) : String(value);
    return `"${text.replace(/["\\]/g, '\\$&')}"`;
  });
  return `{${items.join(',')}}`;
}

/** PostgreSQL has no NUL in text, and the protocol ends its strings with it. */
export function refuseNul(text: string, field: string): string {
  if (!text.includes('\0')) return text;
  throw new NoaError('INVALID_ARGUMENT', `db: ${field} holds a NUL character; leave it out`);
}
