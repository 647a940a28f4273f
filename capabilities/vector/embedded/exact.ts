/**
 * Points in SQLite, searched by looking at each of them: right in every case and slow with many, for machines
 * on which zvec cannot be loaded. Invariant: a write is on disk when it returns.
 */
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { Form, NewPoint, Payload, Rows, Sparse } from '../store.ts';
import {
  type Near,
  type OpenIndex,
  type PointIndex,
  scoreOf,
  sparseDot,
  type Wanted,
} from './point-index.ts';

interface Held {
  readonly vectors: { readonly [name: string]: Float32Array };
  readonly sparse: { readonly [name: string]: Sparse };
}

const EMPTY: Sparse = { indices: [], values: [] };

export const openExact: OpenIndex = (folder, form) => new ExactIndex(folder, form);

class ExactIndex implements PointIndex {
  readonly #form: Form;
  readonly #db: DatabaseSync;
  readonly #held = new Map<string, Held>();

  constructor(folder: string, form: Form) {
    this.#form = form;
    this.#db = new DatabaseSync(join(folder, 'points.sqlite'));
    this.#db.exec(`pragma journal_mode = wal; pragma synchronous = full;
      create table if not exists points (id text primary key, payload text, vectors blob, sparse text)`);
  }

  *entries(): Generator<{ id: string; payload: Payload }> {
    const rows = this.#db.prepare('select id, payload, vectors, sparse from points').iterate();
    for (const { id, payload, vectors, sparse } of rows) {
      const bytes = vectors as Uint8Array;
      const floats = new Float32Array(bytes.length / 4);
      new Uint8Array(floats.buffer).set(bytes);
      this.#hold(String(id), floats, JSON.parse(String(sparse)) as Held['sparse']);
      yield { id: String(id), payload: JSON.parse(String(payload)) as Payload };
    }
  }

  /** `floats` holds all vectors of the point, in the order of the form. */
  #hold(id: string, floats: Float32Array, sparse: Held['sparse']): void {
    const vectors: { [name: string]: Float32Array } = {};
    let at = 0;
    for (const [name, { dimensions }] of Object.entries(this.#form.vectors)) {
      vectors[name] = floats.subarray(at, at + dimensions);
      at += dimensions;
    }
    this.#held.set(id, { vectors, sparse });
  }

  upsert(points: readonly NewPoint[], rows: Rows): void {
    const write = this.#db.prepare('insert or replace into points values (?, ?, ?, ?)');
    const whole = points.map(({ id, payload, sparse }, i) => {
      const parts = Object.entries(this.#form.vectors).flatMap(([name, { dimensions }]) =>
        Array.from(rows[name]?.subarray(i * dimensions, (i + 1) * dimensions) ?? []),
      );
      return { id, payload, sparse, floats: Float32Array.from(parts) };
    });
    this.#transaction(() => {
      for (const { id, payload, sparse, floats } of whole) {
        const bytes = new Uint8Array(floats.buffer);
        write.run(id, JSON.stringify(payload), bytes, JSON.stringify(sparse));
      }
    });
    for (const { id, floats, sparse } of whole) this.#hold(id, floats, sparse);
  }

  delete(ids: readonly string[]): void {
    const remove = this.#db.prepare('delete from points where id = ?');
    this.#transaction(() => {
      for (const id of ids) remove.run(id);
    });
    for (const id of ids) this.#held.delete(id);
  }

  #transaction(work: () => void): void {
    this.#db.exec('begin');
    try {
      work();
      this.#db.exec('commit');
    } catch (error) {
      this.#db.exec('rollback');
      throw error;
    }
  }

  nearest(wanted: Wanted, count: number): Near[] {
    const all = this.scores(wanted, [...this.#held.keys()]);
    return all.toSorted((a, b) => b.score - a.score).slice(0, count);
  }

  scores(wanted: Wanted, ids: readonly string[]): Near[] {
    const distance = this.#form.vectors[wanted.name]?.distance;
    return ids.map((id) => {
      const held = this.#held.get(id);
      const score =
        distance === undefined
          ? sparseDot(wanted as Sparse, held?.sparse[wanted.name] ?? EMPTY)
          : scoreOf(
              distance,
              wanted.values as Float32Array,
              held?.vectors[wanted.name] ?? new Float32Array(),
            );
      return { id, score };
    });
  }

  vectors(ids: readonly string[]): Rows {
    const rows: { [name: string]: Float32Array } = {};
    for (const [name, { dimensions }] of Object.entries(this.#form.vectors)) {
      const floats = new Float32Array(dimensions * ids.length);
      for (const [i, id] of ids.entries()) {
        floats.set(this.#held.get(id)?.vectors[name] ?? [], i * dimensions);
      }
      rows[name] = floats;
    }
    return rows;
  }

  tend(): Promise<void> {
    return Promise.resolve(); // there is nothing to build
  }

  close(): void {
    this.#db.close();
  }
}
