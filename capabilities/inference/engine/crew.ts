/**
 * Workers of one kind and the work that waits for them. Invariants: what waits is bounded, in number and in
 * characters; a request is settled once; work that a worker took with it is done once more when it may be.
 */
import { NoaError, stopped } from '@noa/sdk/host';
import type { BackendCall, Embedded, EmbedRequest } from '../backend.ts';
import { type EmbeddingJob, handOut } from './embedding-job.ts';
import { EmbeddingQueues, type Piece } from './embedding-queue.ts';
import type { OpenLane } from './lane.ts';
import type { EmbedAnswer, Key, Work } from './protocol.ts';
import { Station, WorkerLostError } from './station.ts';

const MAX_CHARS = 32 << 20;
/** Pieces of work of other kinds, and generations, that wait. */
const MAX_JOBS = 256;
/** At one worker; other work goes on between their tokens. */
const MAX_GENERATIONS = 4;
/** Texts that one run takes though others could share them: fewer would not be worth it. */
const WORTHWHILE = 8;
/** Of what a worker does in a second, the part of the past. */
const MEMORY = 0.8;
const MAX_RETRY_MS = 30_000;

export interface CrewOptions {
  readonly open: OpenLane;
  readonly workers: number;
  /** Of a worker whose model knows how to use more than one. */
  readonly threads: number;
  /** Texts in one run. */
  readonly maxBatch: number;
  /** Texts that may wait. */
  readonly maxQueued: number;
  /** Longest time that one run may take before its worker is ended. */
  readonly limitMs: number;
  /** Whether there is room for one more copy of a model that is loaded already. */
  readonly hasRoom: (key: Key) => boolean;
  /** Has the model loaded there. Rejects with NoaError. */
  readonly prepare: (station: Station, key: Key) => Promise<void>;
  readonly observeBatch: (texts: number) => void;
  readonly onLost: (reason: string) => void;
  readonly now: () => number;
}

interface Job {
  readonly key: Key;
  readonly plugin: string;
  readonly isGeneration: boolean;
  /** Takes the place at this worker until it resolves. */
  readonly run: (station: Station) => Promise<void>;
}

export class Crew {
  readonly stations: readonly Station[];
  readonly #options: CrewOptions;
  readonly #embeddings = new EmbeddingQueues<EmbeddingJob>();
  /** Chosen, and not yet asked for anything: this model is being prepared. */
  readonly #held = new Map<Station, Key>();
  /** Generations at each. */
  readonly #places = new Map<Station, number>();
  #jobs: Job[] = [];
  #jobsFirst = false;
  /** Texts a second, of all workers. */
  #rate = 50;

  constructor(options: CrewOptions) {
    this.#options = options;
    const { open, workers, threads, onLost } = options;
    this.stations = Array.from(
      { length: workers },
      () =>
        new Station(open, threads, { free: () => this.#pump(), lost: (reason) => onLost(reason) }),
    );
  }

  /** What waits. */
  get queued(): number {
    return this.#embeddings.size + this.#jobs.length;
  }

  embed(
    key: Key,
    wish: Pick<EmbedRequest, 'texts' | 'truncate' | 'priority'>,
    call: BackendCall,
  ): Promise<Embedded> {
    const { texts, truncate, priority = 'interactive' } = wish;
    const queue = this.#embeddings.of({ priority });
    const { size, chars } = queue;
    const more = texts.reduce((sum, { length }) => sum + length, 0);
    const isFull = size + texts.length > this.#options.maxQueued || chars + more > MAX_CHARS;
    if (size > 0 && isFull) throw this.#full(size / this.#rate);
    return this.#settled<Embedded>(call, (done, fail) => {
      const { plugin } = call;
      const left = texts.length;
      const request = { key, plugin, texts, truncate, priority, left };
      const job = {
        ...request,
        fail,
        done,
        vectors: undefined,
        tokens: 0,
        again: false,
        over: false,
      };
      queue.add(job);
      return () => {
        job.over = true;
        queue.remove(job);
      };
    });
  }

  /** Runs at a worker that has nothing else to do but generations. */
  run<Answer>(key: Key, work: Work, call: BackendCall): Promise<Answer> {
    let isAgain = false;
    return this.#job<Answer>(key, false, call, async (station, done) => {
      try {
        done(await station.run<Answer>(key, work, this.#options.limitMs));
      } catch (error) {
        // Nothing that is run here leaves anything behind, so it may be run twice.
        if (!(error instanceof WorkerLostError) || isAgain) throw error;
        isAgain = true;
        return 'again';
      }
      return undefined;
    });
  }

  /** A worker that has a place for a generation; `release` gives it back. */
  place(key: Key, call: BackendCall): Promise<{ station: Station; release: () => void }> {
    return this.#job(key, true, call, (station, done) => {
      const { promise, resolve } = Promise.withResolvers<undefined>();
      this.#places.set(station, this.#placesAt(station) + 1);
      const release = (): void => {
        this.#places.set(station, this.#placesAt(station) - 1);
        resolve(undefined);
      };
      done({ station, release });
      return promise;
    });
  }

  close(): void {
    for (const station of this.stations) station.close();
  }

  #placesAt(station: Station): number {
    return this.#places.get(station) ?? 0;
  }

  #job<Answer>(
    key: Key,
    isGeneration: boolean,
    call: BackendCall,
    work: (station: Station, done: (answer: Answer) => void) => Promise<'again' | undefined>,
  ): Promise<Answer> {
    if (this.#jobs.length >= MAX_JOBS) throw this.#full(1);
    return this.#settled<Answer>(call, (done, fail) => {
      let hasLeft = false;
      const job: Job = {
        key,
        plugin: call.plugin,
        isGeneration,
        run: async (station) => {
          try {
            await this.#options.prepare(station, key);
            // Nobody would give back a place that nobody has taken.
            if (hasLeft) return;
            const working = work(station, done);
            this.#letGo(station);
            if ((await working) === 'again' && !hasLeft) this.#jobs.unshift(job);
          } catch (error) {
            fail(asError(error));
          } finally {
            this.#held.delete(station);
          }
        },
      };
      this.#jobs.push(job);
      return () => {
        hasLeft = true;
        this.#jobs = this.#jobs.filter((one) => one !== job);
      };
    });
  }

  /** `enter` puts something into a queue and answers how to take it out again. */
  #settled<Answer>(
    call: BackendCall,
    enter: (done: (answer: Answer) => void, fail: (error: Error) => void) => () => void,
  ): Promise<Answer> {
    const { signal } = call;
    if (signal.aborted) throw stopped('inference', call);
    return new Promise<Answer>((resolve, reject) => {
      const leave = (): void => {
        withdraw();
        reject(stopped('inference', call));
      };
      const over = (): void => signal.removeEventListener('abort', leave);
      signal.addEventListener('abort', leave, { once: true });
      const withdraw = enter(
        (answer) => {
          over();
          resolve(answer);
        },
        (error) => {
          over();
          reject(error);
        },
      );
      this.#pump();
    });
  }

  #full(seconds: number): NoaError {
    const retryAfterMs = Math.ceil(Math.min(MAX_RETRY_MS, Math.max(250, seconds * 1000)));
    const text = 'as much waits for the models of this host as may wait: try again';
    return new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs });
  }

  /** Gives work to whoever is free; whoever has the model first. */
  #pump(): void {
    for (;;) {
      const started = this.#jobsFirst
        ? this.#startJob() || this.#startEmbedding()
        : this.#startEmbedding() || this.#startJob();
      if (!started) return;
      this.#jobsFirst = !this.#jobsFirst;
    }
  }

  #startJob(): boolean {
    for (const [at, job] of this.#jobs.entries()) {
      const station = this.#pick(job.key, (one) =>
        job.isGeneration ? one.isUp && this.#placesAt(one) < MAX_GENERATIONS : one.isFree,
      );
      if (station === undefined) continue;
      this.#jobs.splice(at, 1);
      this.#held.set(station, job.key);
      void job.run(station).then(() => this.#pump());
      return true;
    }
    return false;
  }

  #startEmbedding(): boolean {
    const next = this.#embeddings.next();
    const station = next && this.#pick(next.key, ({ isFree }) => isFree);
    if (next === undefined || station === undefined) return false;
    // One worker that takes all has whoever comes next wait for the whole of it.
    const share = Math.ceil(this.#embeddings.of(next).size / this.stations.length);
    // What nobody waits for is done in small runs, since somebody may come.
    const most = next.priority === 'batch' ? WORTHWHILE : Math.max(WORTHWHILE, share);
    const pieces = this.#embeddings.take(next, Math.min(this.#options.maxBatch, most));
    void this.#embedAt(station, next.key, pieces);
    return true;
  }

  /** Its model is there: others of this model have waited for that. */
  #letGo(station: Station): void {
    this.#held.delete(station);
    this.#pump();
  }

  #pick(key: Key, can: (station: Station) => boolean): Station | undefined {
    const able = this.stations.filter((station) => !this.#held.has(station) && can(station));
    const withIt = able.find(({ loaded }) => loaded.has(key));
    if (withIt !== undefined) return withIt;
    // One copy after another, so that each knows what room the others have left.
    const isComing = [...this.#held].some(([one, held]) => held === key && !one.loaded.has(key));
    if (isComing) return undefined;
    // A copy that has no room is no use: whoever has the model is waited for.
    const isSomewhere = this.stations.some((one) => one.loaded.has(key) || one.uses(key));
    return isSomewhere && !this.#options.hasRoom(key) ? undefined : able[0];
  }

  async #embedAt(station: Station, key: Key, pieces: Piece<EmbeddingJob>[]): Promise<void> {
    const texts = pieces.flatMap(({ request, from, to }) => request.texts.slice(from, to));
    const truncate = pieces[0]?.request.truncate ?? true;
    this.#held.set(station, key);
    try {
      await this.#options.prepare(station, key);
      const started = this.#options.now();
      const work: Work = { kind: 'embed', texts, truncate };
      const answering = station.run<EmbedAnswer>(key, work, this.#options.limitMs);
      this.#letGo(station);
      const answer = await answering;
      const seconds = Math.max(1, this.#options.now() - started) / 1000;
      const rate = (texts.length / seconds) * this.stations.length;
      this.#rate = MEMORY * this.#rate + (1 - MEMORY) * rate;
      this.#options.observeBatch(texts.length);
      handOut(answer, pieces, texts.length);
    } catch (error) {
      for (const piece of pieces) {
        const { request } = piece;
        if (request.over) continue;
        if (error instanceof WorkerLostError && !request.again) {
          request.again = true;
          this.#embeddings.of(request).putBack(piece);
        } else {
          request.over = true;
          this.#embeddings.of(request).remove(request);
          request.fail(asError(error));
        }
      }
    } finally {
      this.#held.delete(station);
      this.#pump();
    }
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
