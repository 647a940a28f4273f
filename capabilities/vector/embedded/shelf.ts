/**
 * One collection in memory: the payloads of its points, by which filters are judged exactly, before the index
 * that keeps them and finds the nearest. Invariant: what is here is what the index has on disk.
 */
import { type Filter, matches, NoaError } from '@noa/sdk/host';
import {
  assertAnswers,
  assertFits,
  type Chosen,
  type Form,
  type Found,
  type Hit,
  type NewPoint,
  type Page,
  type Payload,
  type Query,
  type Rows,
  type ScrollPage,
} from '../store.ts';
import type { Near, PointIndex, Wanted } from './point-index.ts';

/** So many points or fewer are each looked at, rather than sought among all. */
const FEW = 256;
/** Filters whose result is kept until the collection changes. */
const KEPT_FILTERS = 16;
/** All plugins share the process, and it does one thing at a time: a filter may take so long. */
const FILTER_MS = 3000;
/** Payloads judged between two looks at the clock. */
const JUDGED = 64;

export class Shelf {
  readonly form: Form;
  readonly #index: PointIndex;
  readonly #payloads = new Map<string, Payload>();
  #sorted: string[] | undefined;
  readonly #passing = new Map<string, ReadonlySet<string>>();
  /** Written since the index was last tended. */
  #fresh = 0;
  #tending: Promise<void> | undefined;

  constructor(form: Form, index: PointIndex) {
    this.form = form;
    this.#index = index;
    for (const { id, payload } of index.entries()) this.#payloads.set(id, payload);
  }

  get size(): number {
    return this.#payloads.size;
  }

  /** How many of these are not there yet. */
  countNew(points: readonly NewPoint[]): number {
    return points.filter(({ id }) => !this.#payloads.has(id)).length;
  }

  upsert(points: readonly NewPoint[], rows: Rows): void {
    assertFits(this.form, points, rows);
    this.#index.upsert(points, rows);
    for (const { id, payload } of points) this.#payloads.set(id, payload);
    this.#fresh += points.length;
    this.#changed();
  }

  delete(which: Chosen): number {
    const ids =
      'ids' in which
        ? which.ids.filter((id) => this.#payloads.has(id))
        : [...this.#matching(which.filter)];
    if (ids.length === 0) return 0;
    this.#index.delete(ids);
    for (const id of ids) this.#payloads.delete(id);
    this.#changed();
    return ids.length;
  }

  #changed(): void {
    this.#sorted = undefined;
    this.#passing.clear();
  }

  search(query: Query): Page<Hit> {
    assertAnswers(this.form, query);
    const { filter, limit, offset, minScore = -Infinity } = query;
    const wanted = (query.vector ?? query.sparse) as Wanted; // one of them, by the schema
    const passing = filter && this.#matching(filter);
    const near = this.#nearest(wanted, offset + limit, passing)
      .filter(({ score }) => score >= minScore)
      // A point that shares nothing with a sparse query is no hit.
      .filter(({ score }) => query.vector !== undefined || score !== 0)
      .slice(offset, offset + limit);
    const points = near.map(({ id, score }) => ({ ...this.#found(id), score }));
    return { points, ...this.#vectorsOf(points, query.withVectors) };
  }

  #nearest(wanted: Wanted, count: number, passing: ReadonlySet<string> | undefined): Near[] {
    if (this.size === 0 || passing?.size === 0) return [];
    if (passing === undefined) return this.#index.nearest(wanted, Math.min(count, this.size));
    if (passing.size <= FEW) {
      return this.#index.scores(wanted, [...passing]).toSorted((a, b) => b.score - a.score);
    }
    // As many as hold enough that pass, if they are spread evenly; more when they are not.
    let asked = Math.ceil((count * this.size * 1.5) / passing.size) + FEW;
    for (;;) {
      asked = Math.min(asked, this.size);
      const near = this.#index.nearest(wanted, asked);
      const hits = near.filter(({ id }) => passing.has(id));
      if (hits.length >= Math.min(count, passing.size) || asked === this.size) return hits;
      asked *= 4;
    }
  }

  scroll(
    after: string | undefined,
    limit: number,
    filter: Filter | undefined,
    withVectors: boolean,
  ): ScrollPage {
    this.#sorted ??= [...this.#payloads.keys()].toSorted();
    const passing = filter && this.#matching(filter);
    const points: Found[] = [];
    let next: string | null = null;
    for (let at = after === undefined ? 0 : firstBehind(this.#sorted, after); ; at += 1) {
      const id = this.#sorted[at];
      if (id === undefined) break;
      if (passing !== undefined && !passing.has(id)) continue;
      if (points.length === limit) {
        next = points.at(-1)?.id ?? null;
        break;
      }
      points.push(this.#found(id));
    }
    return { points, next, ...this.#vectorsOf(points, withVectors) };
  }

  #found(id: string): Found {
    return { id, payload: this.#payloads.get(id) ?? {} };
  }

  #vectorsOf(points: readonly Found[], wanted: boolean): { readonly vectors?: Rows } {
    return wanted ? { vectors: this.#index.vectors(points.map(({ id }) => id)) } : {};
  }

  #matching(filter: Filter): ReadonlySet<string> {
    const key = JSON.stringify(filter);
    const kept = this.#passing.get(key);
    if (kept !== undefined) return kept;
    const passing = new Set<string>();
    const until = performance.now() + FILTER_MS;
    let judged = 0;
    for (const [id, payload] of this.#payloads) {
      if (matches(filter, payload)) passing.add(id);
      judged += 1;
      if (judged % JUDGED === 0 && performance.now() > until) {
        const text = `filter: takes over ${FILTER_MS / 1000} s for ${this.size} points: test less text with it`;
        throw new NoaError('RESOURCE_EXHAUSTED', text);
      }
    }
    if (this.#passing.size >= KEPT_FILTERS) {
      const [oldest = ''] = this.#passing.keys();
      this.#passing.delete(oldest);
    }
    this.#passing.set(key, passing);
    return passing;
  }

  /** Whether enough was written for the index to be worth tending. */
  get isDue(): boolean {
    return this.#tending === undefined && this.#fresh >= Math.max(2000, this.size / 5);
  }

  async tend(): Promise<void> {
    this.#fresh = 0;
    this.#tending = this.#index.tend();
    await this.#tending.finally(() => (this.#tending = undefined));
  }

  async close(): Promise<void> {
    await this.#tending?.catch(() => undefined); // told by `tend`
    this.#index.close();
  }
}

/** Where the first id behind this one is. */
function firstBehind(sorted: readonly string[], id: string): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] ?? '') <= id) low = middle + 1;
    else high = middle;
  }
  return low;
}
