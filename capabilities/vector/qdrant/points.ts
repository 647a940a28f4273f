/**
 * Points as Qdrant has them: a UUID made of the id, and a payload made to be filtered exactly. Beside the
 * payload as text stand its values, as tokens and by kind, so that every filter of ours is a filter of Qdrant's
 * over few fields that are known beforehand and indexed.
 */
import { createHash } from 'node:crypto';
import type { Json } from '@noa/sdk/host';
import type { Schemas } from '@qdrant/js-client-rest';
import { wordsOf } from '../filter.ts';
import type { Form, Found, NewPoint, Payload, Rows } from '../store.ts';

export interface Kept {
  readonly id: string;
  /** JSON, as it was given: the client would read large whole numbers as something else. */
  readonly payload: string;
  /** `tokenOf` each field that has a value, and of each value. */
  readonly is: readonly string[];
  readonly numbers: readonly { readonly field: string; readonly value: number }[];
  readonly texts: readonly { readonly field: string; readonly words: readonly string[] }[];
}

/** What filters ask of, with the index that answers. */
export const INDEXES = {
  is: 'keyword',
  'numbers[].field': 'keyword',
  'numbers[].value': 'float',
  'texts[].field': 'keyword',
  'texts[].words': 'keyword',
} as const;

/** What the points that are found need to have with them. */
export const WITH_PAYLOAD = ['id', 'payload'];

/** Of points in general; made once, and never to change. */
const NAMESPACE = Buffer.from('5b3c1f0e8a4d4f6b9c2e7d1a0f3b6c58', 'hex');
/** Longer than a field of a filter may be. */
const MAX_FIELD = 256;
/** Longer than a text of a filter may be that is compared whole. */
const MAX_VALUE = 1024;
const MAX_TOKEN = 128;

/** UUID version 5 (RFC 9562, section 5.5). */
export function uuidOf(id: string): string {
  const bytes = createHash('sha1').update(NAMESPACE).update(id).digest().subarray(0, 16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x50;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** Of a field that has this value, or any value. No two are the same; a long one is a digest. */
export function tokenOf(field: string, ...value: readonly (string | number | boolean)[]): string {
  const token = JSON.stringify([field, ...value]);
  if (token.length <= MAX_TOKEN) return token;
  return `#${createHash('sha256').update(token).digest('base64url')}`;
}

export function keptOf(id: string, payload: Payload): Kept {
  const is = new Set<string>();
  const numbers: { field: string; value: number }[] = [];
  const texts: { field: string; words: readonly string[] }[] = [];
  for (const [field, value] of leavesOf(payload)) {
    is.add(tokenOf(field));
    if (typeof value !== 'string' || value.length <= MAX_VALUE) is.add(tokenOf(field, value));
    if (typeof value === 'number') numbers.push({ field, value });
    if (typeof value === 'string') texts.push({ field, words: [...new Set(wordsOf(value))] });
  }
  return {
    id,
    payload: JSON.stringify(payload),
    is: [...is],
    numbers,
    texts: texts.filter(({ words }) => words.length > 0),
  };
}

/** Each scalar by the field that names it; what no field can name is left out. */
function leavesOf(payload: Payload): [string, string | number | boolean][] {
  const leaves: [string, string | number | boolean][] = [];
  const open: { readonly field: string | undefined; readonly value: Json }[] = [
    { field: undefined, value: { ...payload } },
  ];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { field, value } = next;
    if (Array.isArray(value)) open.push(...value.map((each) => ({ field, value: each })));
    else if (typeof value === 'object' && value !== null) {
      for (const [name, inner] of Object.entries(value)) {
        const path = field === undefined ? name : `${field}.${name}`;
        if (!name.includes('.') && path.length <= MAX_FIELD)
          open.push({ field: path, value: inner });
      }
    } else if (field !== undefined && value !== null) leaves.push([field, value]);
  }
  return leaves;
}

/** One row for each name; a sparse vector without a number is left out, since it has nothing to find. */
export function pointOf(
  form: Form,
  { id, sparse }: NewPoint,
  kept: Kept,
  row: (name: string, dimensions: number) => Float32Array,
): Schemas['PointStruct'] {
  const vector: { [name: string]: number[] | Schemas['SparseVector'] } = {};
  for (const [name, { dimensions }] of Object.entries(form.vectors)) {
    vector[name] = Array.from(row(name, dimensions));
  }
  for (const [name, { indices, values }] of Object.entries(sparse)) {
    if (indices.length > 0) vector[name] = { indices: [...indices], values: [...values] };
  }
  return { id: uuidOf(id), vector, payload: { ...kept } };
}

/** What was kept of a point. Throws when something else wrote it. */
export function foundOf({ payload }: Pick<Schemas['Record'], 'payload'>): Found {
  const { id, payload: text } = payload ?? {};
  if (typeof id !== 'string' || typeof text !== 'string') {
    throw new TypeError('a point in Qdrant was written by something else');
  }
  return { id, payload: JSON.parse(text) as Payload };
}

export function rowsOf(
  form: Form,
  points: readonly Pick<Schemas['Record'], 'vector'>[],
): { readonly vectors: Rows } {
  const rows: { [name: string]: Float32Array } = {};
  for (const [name, { dimensions }] of Object.entries(form.vectors)) {
    const floats = new Float32Array(dimensions * points.length);
    for (const [i, { vector }] of points.entries()) {
      const named: unknown = isRecord(vector) ? vector[name] : undefined;
      if (Array.isArray(named)) floats.set(named.map(Number), i * dimensions);
    }
    rows[name] = floats;
  }
  return { vectors: rows };
}

function isRecord(value: unknown): value is { readonly [name: string]: unknown } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
