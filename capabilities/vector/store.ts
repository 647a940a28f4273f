/**
 * What keeps collections, behind the driver of `vector`. A collection is named by its space (the plugin) and
 * its name in it, or by an alias. Invariant: a write is durable when its promise resolves, and each method may
 * be called again with the same arguments to the same effect.
 */
import { type Json, NoaError } from '@noa/sdk/host';
import type { Filter } from './filter.ts';

export type Distance = 'cosine' | 'dot' | 'euclidean';
export type Payload = { readonly [name: string]: Json };

/** What points of a collection have. */
export interface Form {
  readonly vectors: {
    readonly [name: string]: { readonly dimensions: number; readonly distance: Distance };
  };
  readonly sparse: readonly string[];
}

export interface CollectionView extends Form {
  readonly collection: string;
  readonly points: number;
  readonly aliases: readonly string[];
}

/** Indices rise, and none stands twice. */
export interface Sparse {
  readonly indices: readonly number[];
  readonly values: readonly number[];
}

export interface NewPoint {
  readonly id: string;
  readonly payload: Payload;
  readonly sparse: { readonly [name: string]: Sparse };
}

/** A row for each point, by the name of the vector. */
export type Rows = { readonly [name: string]: Float32Array };

export interface Query {
  readonly vector?: { readonly name: string; readonly values: Float32Array };
  readonly sparse?: Sparse & { readonly name: string };
  readonly filter?: Filter | undefined;
  readonly limit: number;
  readonly offset: number;
  readonly withVectors: boolean;
  readonly minScore?: number | undefined;
}

export interface Found {
  readonly id: string;
  readonly payload: Payload;
}

export interface Hit extends Found {
  /** Higher is better: the cosine, the dot product, or the distance below zero. */
  readonly score: number;
}

export interface Page<Point> {
  readonly points: readonly Point[];
  /** Only when they were asked for. */
  readonly vectors?: Rows;
}

export interface ScrollPage extends Page<Found> {
  readonly next: string | null;
}

export type Chosen = { readonly ids: readonly string[] } | { readonly filter: Filter };

export interface VectorStore {
  /** What keeps them, as traces name it. */
  readonly system: 'embedded' | 'qdrant';
  list(space: string): Promise<CollectionView[]>;
  /** Rejects with NOT_FOUND, as whatever names a collection does. */
  describe(space: string, name: string): Promise<CollectionView>;
  /** False when there is one of this form. Rejects with CONFLICT when it has another, or the name is an alias. */
  create(space: string, name: string, form: Form): Promise<boolean>;
  /** With its aliases; false when there was none. */
  drop(space: string, name: string): Promise<boolean>;
  /** Takes the alias from whichever has it. Rejects with CONFLICT when a collection has the name. */
  alias(space: string, alias: string, name: string): Promise<void>;
  unalias(space: string, alias: string): Promise<boolean>;
  upsert(space: string, name: string, points: readonly NewPoint[], rows: Rows): Promise<void>;
  search(space: string, name: string, query: Query): Promise<Page<Hit>>;
  scroll(
    space: string,
    name: string,
    page: {
      readonly filter?: Filter | undefined;
      readonly limit: number;
      readonly after?: string | undefined;
      readonly withVectors: boolean;
    },
  ): Promise<ScrollPage>;
  /** How many there were. */
  delete(space: string, name: string, which: Chosen): Promise<number>;
  dropSpace(space: string): Promise<void>;
  check(): Promise<void>;
  close(): Promise<void>;
}

export function noCollection(name: string, known: readonly string[]): NoaError {
  const there = known.length === 0 ? 'there is none' : `there is ${known.slice(0, 50).join(', ')}`;
  return new NoaError('NOT_FOUND', `collection: there is no ${JSON.stringify(name)}; ${there}`);
}

/** Throws CONFLICT unless both are the same. */
export function assertSameForm(name: string, there: Form, wanted: Form): void {
  if (textOf(there) === textOf(wanted)) return;
  const text = `collection: ${name} is there with another form: ${textOf(there)}`;
  throw new NoaError('CONFLICT', `${text}; delete it first, or take another name`);
}

function textOf({ vectors, sparse }: Form): string {
  const named = Object.entries(vectors).map(
    ([name, { dimensions, distance }]) => `${name} ${dimensions} ${distance}`,
  );
  return [...named.toSorted(), ...sparse.map((name) => `${name} sparse`).toSorted()].join(', ');
}

/** Throws INVALID_ARGUMENT unless points with these rows fit into a collection of this form. */
export function assertFits(form: Form, points: readonly NewPoint[], rows: Rows): void {
  for (const [name, { dimensions, distance }] of Object.entries(form.vectors)) {
    const floats = rows[name];
    if (floats === undefined) throw wrong(`vectors: the vector ${name} is missing`);
    if (floats.length !== dimensions * points.length) {
      const has = `${floats.length} numbers for ${points.length} points`;
      throw wrong(`vectors: ${name} has ${has}, and each has ${dimensions} dimensions`);
    }
    if (distance !== 'cosine') continue;
    for (const [i, { id }] of points.entries()) {
      assertDirection(floats.subarray(i * dimensions, (i + 1) * dimensions), `of ${id} in ${name}`);
    }
  }
  for (const name of Object.keys(rows)) named(form.vectors, name, 'vector');
  for (const { sparse } of points) {
    for (const name of Object.keys(sparse)) assertSparse(form, name);
  }
}

/** Throws INVALID_ARGUMENT unless a collection of this form can be asked so. */
export function assertAnswers(form: Form, { vector, sparse }: Query): void {
  if (sparse !== undefined) assertSparse(form, sparse.name);
  if (vector === undefined) return;
  const { dimensions, distance } = named(form.vectors, vector.name, 'vector');
  if (vector.values.length !== dimensions) {
    const text = `vector: has ${vector.values.length} dimensions, and ${vector.name} has ${dimensions}`;
    throw wrong(text);
  }
  if (distance === 'cosine') assertDirection(vector.values, 'that is searched for');
}

function assertSparse({ sparse }: Form, name: string): void {
  if (sparse.includes(name)) return;
  throw wrong(`sparse: the collection has no ${name}; it has ${sparse.join(', ') || 'none'}`);
}

function named<Value>(
  values: { readonly [name: string]: Value },
  name: string,
  what: string,
): Value {
  const found = Object.hasOwn(values, name) ? values[name] : undefined;
  if (found !== undefined) return found;
  const has = Object.keys(values).join(', ') || 'none';
  throw wrong(`${what}: the collection has no ${name}; it has ${has}`);
}

function assertDirection(values: Float32Array, which: string): void {
  if (values.some((value) => value !== 0)) return;
  throw wrong(`vector ${which}: is all zeros, which has no direction to compare by cosine`);
}

function wrong(text: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', text);
}
