/**
 * One worker as the engine sees it: what it has loaded, what it is doing, and its replacement when it dies.
 * Invariants: every piece of work that it was given is settled once; a worker that ends is replaced, later
 * each time while none of its work succeeds.
 */
import { NoaError } from '@noa/sdk/host';
import type { ModelFiles, Device } from '../models/runner.ts';
import type { Lane, LaneEvents, OpenLane } from './lane.ts';
import {
  type FromWorker,
  fromFailure,
  type Key,
  type LoadAnswer,
  type ToWorker,
  type Work,
} from './protocol.ts';

const MAX_BACKOFF_MS = 30_000;

/** The worker is gone, and what it did with it. */
export class WorkerLostError extends NoaError {
  constructor(reason: string) {
    super('UNAVAILABLE', 'the worker that ran the model ended; try again', {
      retryAfterMs: 1000,
      cause: new Error(reason),
    });
  }
}

interface Job {
  readonly key: Key;
  readonly isGeneration: boolean;
  readonly part: ((value: unknown) => void) | undefined;
  readonly settle: (outcome: { value: unknown } | { error: NoaError }) => void;
  readonly timer: NodeJS.Timeout | undefined;
}

export interface StationEvents {
  /** It can take work now. */
  readonly free: () => void;
  /** It ended; it had so many pieces of work. */
  readonly lost: (reason: string, jobs: number) => void;
}

export class Station {
  /** Bytes of each model that it has loaded. */
  readonly loaded = new Map<Key, number>();
  readonly #open: OpenLane;
  readonly #events: StationEvents;
  readonly #threads: number;
  readonly #jobs = new Map<number, Job>();
  readonly #loading = new Map<Key, Promise<void>>();
  #lane: Lane | undefined;
  #lastId = 0;
  #failures = 0;
  #restart: NodeJS.Timeout | undefined;
  #isClosed = false;

  /** `threads` is what a model may take that knows how to use more than one. */
  constructor(open: OpenLane, threads: number, events: StationEvents) {
    this.#open = open;
    this.#threads = threads;
    this.#events = events;
  }

  /** Whether it takes work. */
  get isUp(): boolean {
    return !this.#isClosed && this.#restart === undefined;
  }

  /** Whether it has nothing to do but generations. */
  get isFree(): boolean {
    return this.isUp && [...this.#jobs.values()].every(({ isGeneration }) => isGeneration);
  }

  /** Whether it works with this model now. */
  uses(key: Key): boolean {
    return this.#loading.has(key) || [...this.#jobs.values()].some((job) => job.key === key);
  }

  /** Once, however many ask for it at one time. */
  load(key: Key, files: ModelFiles, device: Device): Promise<void> {
    if (this.loaded.has(key)) return Promise.resolve();
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      const how = { key, files, device, threads: this.#threads };
      loading = this.#ask<LoadAnswer>(key, (id) => ({ type: 'load', id, ...how }))
        .then(({ memoryBytes }) => void this.loaded.set(key, memoryBytes))
        .finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return loading;
  }

  unload(key: Key): void {
    if (this.loaded.delete(key)) this.#post({ type: 'unload', key });
  }

  /** Ends the worker when it takes longer than `limitMs`: what runs on its thread cannot be told to stop. */
  run<Answer>(key: Key, work: Work, limitMs: number): Promise<Answer> {
    return this.#ask<Answer>(key, (id) => ({ type: 'work', id, key, work }), { limitMs });
  }

  /** `part` is told each part; the answer comes after the last. */
  generate<Answer>(
    key: Key,
    work: Work,
    part: (value: unknown) => void,
  ): { id: number; answer: Promise<Answer> } {
    const answer = this.#ask<Answer>(key, (id) => ({ type: 'work', id, key, work }), { part });
    return { id: this.#lastId, answer };
  }

  taken(id: number, count: number): void {
    if (this.#jobs.has(id)) this.#post({ type: 'taken', id, count });
  }

  cancel(id: number): void {
    if (this.#jobs.has(id)) this.#post({ type: 'cancel', id });
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#restart);
    this.#lane?.end();
    this.#fail(new NoaError('UNAVAILABLE', 'the host is stopping', { retryAfterMs: 1000 }));
  }

  #ask<Answer>(
    key: Key,
    message: (id: number) => ToWorker,
    { limitMs, part }: { limitMs?: number; part?: (value: unknown) => void } = {},
  ): Promise<Answer> {
    const id = (this.#lastId += 1);
    return new Promise<Answer>((resolve, reject) => {
      const timer =
        limitMs === undefined ? undefined : setTimeout(() => this.#lane?.end(), limitMs).unref();
      const settle: Job['settle'] = (outcome) => {
        clearTimeout(timer);
        this.#jobs.delete(id);
        if ('error' in outcome) reject(outcome.error);
        else resolve(outcome.value as Answer); // by the protocol
        this.#events.free();
      };
      this.#jobs.set(id, { key, isGeneration: part !== undefined, part, settle, timer });
      this.#post(message(id));
    });
  }

  #post(message: ToWorker): void {
    this.#lane ??= this.#start();
    this.#lane.post(message);
  }

  #start(): Lane {
    const events: LaneEvents = {
      received: (message) => this.#receive(message),
      ended: (reason) => this.#lost(lane, reason),
    };
    const lane: Lane = this.#open(events);
    return lane;
  }

  #receive(message: FromWorker): void {
    if (message.type === 'ready') return;
    const job = this.#jobs.get(message.id);
    if (job === undefined) return;
    if (message.type === 'part') return job.part?.(message.value);
    if (message.type === 'failure') return job.settle({ error: fromFailure(message.error) });
    this.#failures = 0;
    job.settle({ value: message.value });
  }

  #lost(lane: Lane, reason: string): void {
    if (this.#lane !== lane) return;
    this.#lane = undefined;
    this.loaded.clear();
    if (this.#isClosed) return;
    const jobs = this.#jobs.size;
    const delay = Math.min(MAX_BACKOFF_MS, 2 ** this.#failures * 250 - 250);
    this.#failures += 1;
    this.#restart = setTimeout(() => {
      this.#restart = undefined;
      this.#events.free();
    }, delay).unref();
    this.#events.lost(reason, jobs);
    this.#fail(new WorkerLostError(reason));
  }

  #fail(error: NoaError): void {
    for (const job of this.#jobs.values()) job.settle({ error });
  }
}
