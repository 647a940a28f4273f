/** What keeps the points of one collection on disk and finds the nearest; zvec, or an exact scan where that is not to be had. */
import type { Form, NewPoint, Payload, Rows, Sparse } from '../store.ts';

export interface Near {
  readonly id: string;
  readonly score: number;
}

export type Wanted =
  | { readonly name: string; readonly values: Float32Array }
  | (Sparse & { readonly name: string });

export interface PointIndex {
  /** All points, once, at the start. */
  entries(): Iterable<{ readonly id: string; readonly payload: Payload }>;
  /** Durable when it returns. */
  upsert(points: readonly NewPoint[], rows: Rows): void;
  delete(ids: readonly string[]): void;
  /** The best, best first. */
  nearest(wanted: Wanted, count: number): Near[];
  /** The scores of these points, in their order. */
  scores(wanted: Wanted, ids: readonly string[]): Near[];
  /** Of points that are there. */
  vectors(ids: readonly string[]): Rows;
  /** Makes searches faster after many writes; may take minutes, beside them. */
  tend(): Promise<void>;
  close(): void;
}

/** Opens what is in the folder, or makes it. */
export type OpenIndex = (folder: string, form: Form) => PointIndex;

/** By `distance`; of sparse vectors it is the dot product. */
export function scoreOf(distance: string, a: Float32Array, b: Float32Array): number {
  let dot = 0;
  let aa = 0;
  let bb = 0;
  let apart = 0;
  for (let i = 0; i < a.length; i += 1) {
    const x = a[i] ?? 0;
    const y = b[i] ?? 0;
    dot += x * y;
    aa += x * x;
    bb += y * y;
    apart += (x - y) ** 2;
  }
  if (distance === 'dot') return dot;
  return distance === 'cosine' ? dot / Math.sqrt(aa * bb) : -Math.sqrt(apart);
}

/** Both with rising indices. */
export function sparseDot(a: Sparse, b: Sparse): number {
  let sum = 0;
  for (let i = 0, j = 0; i < a.indices.length && j < b.indices.length;) {
    const x = a.indices[i] ?? 0;
    const y = b.indices[j] ?? 0;
    if (x === y) sum += (a.values[i] ?? 0) * (b.values[j] ?? 0);
    if (x <= y) i += 1;
    if (y <= x) j += 1;
  }
  return sum;
}
