/**
 * The jobs that one thread holds, by id, and what they make it hold, by plugin. Invariant: never more
 * than the thread's bounds; and beside others a plugin takes more only while it then has no more than it
 * leaves free, so that a flood of one ends where there is still room for the next.
 *
 * A table of places rather than a Map: a Map makes a new table every few dozen changes, and the tables
 * it leaves behind keep dead jobs and all that hangs on them alive until the next full collection
 * (measured: 40 % of what a call costs).
 */
import type { Job } from './job.ts';
import type { Plugin } from './plugin.ts';
import { PLACES } from './protocol.ts';

/** What one plugin has of a thread. */
export interface Share {
  jobs: number;
  /** Input and reply text that was sent and that the thread may still hold. */
  bytes: number;
}

export class Jobs {
  readonly #maxJobs: number;
  readonly #maxBytes: number;
  readonly #places: (Job | undefined)[] = [];
  readonly #free: number[] = [];
  readonly #shares = new Map<number, Share>();
  #bytes = 0;

  constructor(maxJobs: number, maxBytes: number) {
    this.#maxJobs = maxJobs;
    this.#maxBytes = maxBytes;
  }

  get size(): number {
    return this.#places.length - this.#free.length;
  }

  /** Whether a job of the plugin may be added that carries so many bytes. */
  admits(plugin: Plugin | undefined, bytes: number, alone: boolean): boolean {
    const free = this.#maxJobs - this.size;
    const share = plugin && this.#shares.get(plugin.id);
    if (free < 1) return false;
    return this.#spares(bytes, share?.bytes ?? 0, alone) && (alone || (share?.jobs ?? 0) < free);
  }

  /** Whether the thread may hold so many bytes more for the job. */
  affords(job: Job, bytes: number, alone: boolean): boolean {
    return this.#spares(bytes, job.share?.bytes ?? 0, alone);
  }

  #spares(bytes: number, held: number, alone: boolean): boolean {
    const free = this.#maxBytes - this.#bytes;
    return bytes <= free && (alone || held + bytes <= free);
  }

  /** Gives the job a place and the id that is made of it. */
  add(job: Job, serial: number, bytes: number): void {
    const place = this.#free.pop() ?? this.#places.length;
    this.#places[place] = job;
    job.id = serial * PLACES + place;
    const { plugin } = job.spec;
    if (plugin !== undefined) {
      job.share = this.#shares.get(plugin.id) ?? { jobs: 0, bytes: 0 };
      this.#shares.set(plugin.id, job.share);
      job.share.jobs += 1;
    }
    this.hold(job, bytes);
  }

  get(id: number): Job | undefined {
    const job = this.#places[id % PLACES];
    return job?.id === id ? job : undefined;
  }

  /** Notes how much text the thread now holds for the job. */
  hold(job: Job, bytes: number): void {
    const by = bytes - job.heldBytes;
    job.heldBytes = bytes;
    this.#bytes += by;
    if (job.share !== undefined) job.share.bytes += by;
  }

  delete(job: Job): void {
    if (this.get(job.id) !== job) return;
    this.hold(job, 0);
    if (job.share !== undefined) job.share.jobs -= 1;
    job.share = undefined;
    const place = job.id % PLACES;
    this.#places[place] = undefined;
    this.#free.push(place);
  }

  /** The plugin, which has no jobs, will not come back. */
  forget(plugin: Plugin): void {
    this.#shares.delete(plugin.id);
  }

  /** Those of this moment. */
  all(): Job[] {
    return this.#places.filter((job) => job !== undefined);
  }
}
