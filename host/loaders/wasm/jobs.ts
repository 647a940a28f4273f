/**
 * The jobs that one thread holds, by id. A table of places rather than a Map: a Map makes a new table
 * every few dozen changes, and the tables it leaves behind keep dead jobs and all that hangs on them
 * alive until the next full collection (measured: 40 % of what a call costs).
 */
import type { Job } from './job.ts';
import { PLACES } from './protocol.ts';

export class Jobs {
  readonly #places: (Job | undefined)[] = [];
  readonly #free: number[] = [];

  get size(): number {
    return this.#places.length - this.#free.length;
  }

  /** Gives the job a place and the id that is made of it. */
  add(job: Job, serial: number): void {
    const place = this.#free.pop() ?? this.#places.length;
    this.#places[place] = job;
    job.id = serial * PLACES + place;
  }

  get(id: number): Job | undefined {
    const job = this.#places[id % PLACES];
    return job?.id === id ? job : undefined;
  }

  delete(job: Job): void {
    if (this.get(job.id) !== job) return;
    const place = job.id % PLACES;
    this.#places[place] = undefined;
    this.#free.push(place);
  }

  /** Those of this moment. */
  all(): Job[] {
    return this.#places.filter((job) => job !== undefined);
  }
}
