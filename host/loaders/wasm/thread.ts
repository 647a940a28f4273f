/**
 * The host's end of one sandbox thread: sends batches, reads its shared words, ends it. Nothing that
 * happens inside, a crash or an exhausted heap included, may surface anywhere but in `Owner`.
 */
import { MessageChannel, Worker, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { bareEnvironment } from '@noa/sdk/host';
import { Jobs } from './jobs.ts';
import type { Plugin } from './plugin.ts';
import { BEGUN, PLACES, WORD, wordOf } from './protocol.ts';
import type { FromThread, ThreadBounds, ThreadData, ToThread } from './protocol.ts';

export interface Owner {
  received(thread: Thread, message: FromThread): void;
  /** The thread ended by itself. Called once. */
  crashed(thread: Thread): void;
}

export interface ThreadOptions {
  readonly arena: WebAssembly.Module;
  readonly fiber: WebAssembly.Module;
  readonly bounds: ThreadBounds;
  /** Jobs that it holds at one time. */
  readonly maxJobs: number;
  /** How long to wait before it starts; what is sent meanwhile waits with it. */
  readonly delayMs: number;
}

/** Input and reply texts that one thread may hold; a queue of large calls must not exhaust its heap. */
const MAX_HELD_BYTES = 64 << 20;

/**
 * Heap of the thread's own code; guests live outside it, in linear memory. It holds the texts that wait
 * (MAX_HELD_BYTES, two bytes a character at worst) with much to spare.
 */
const RESOURCE_LIMITS = {
  maxOldGenerationSizeMb: 256,
  maxYoungGenerationSizeMb: 16,
  stackSizeMb: 4,
};

export class Thread {
  /** Jobs that were sent and have not been answered. */
  readonly jobs: Jobs;
  /** Plugins that this thread knows, by id. */
  readonly plugins = new Map<number, Plugin>();
  /** Whether the same turn lasted from one look to the next. */
  stalled = false;
  /** When it was last given a job, by `performance.now()`. */
  lastJob = performance.now();
  /** The present turn, as of the last look; undefined when no guest executed. */
  #turn: { readonly count: number; readonly since: number } | undefined;
  #worker: Worker | undefined;
  #start: NodeJS.Timeout | undefined;
  readonly #port: MessagePort;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #owner: Owner;
  #outbox: ToThread[] = [];
  #ended = false;

  constructor(owner: Owner, options: ThreadOptions) {
    const { port1, port2 } = new MessageChannel();
    const { arena, fiber, bounds, maxJobs, delayMs } = options;
    this.jobs = new Jobs(maxJobs, MAX_HELD_BYTES);
    this.#words = new Int32Array(new SharedArrayBuffer(4 * (BEGUN + maxJobs)));
    const words = this.#words.buffer;
    this.#owner = owner;
    this.#port = port1;
    port1.on('message', (batch: FromThread[]) => this.#receive(batch));
    port1.on('messageerror', () => this.#crashed());
    const data = { port: port2, words, arena, fiber, bounds };
    if (delayMs === 0) this.#launch(data);
    else this.#start = setTimeout(() => this.#launch(data), delayMs);
  }

  #launch(data: ThreadData): void {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), {
      name: 'noa-sandbox',
      workerData: data,
      transferList: [data.port],
      env: bareEnvironment(),
      execArgv: [],
      resourceLimits: RESOURCE_LIMITS,
    });
    worker.on('messageerror', () => this.#crashed());
    worker.on('error', () => this.#crashed());
    worker.on('exit', () => this.#crashed());
    this.#worker = worker;
  }

  #crashed(): void {
    if (!this.#ended) this.#owner.crashed(this);
  }

  /** The job whose code executes now, by its `wordOf`; 0 when none does. */
  get executing(): number {
    return Atomics.load(this.#words, WORD.executing);
  }

  /** Log lines that the turn which executes now has lost. */
  get droppedLines(): number {
    return this.#words[WORD.dropped] ?? 0;
  }

  /** The job, whose id is new, has not begun. */
  expect(id: number): void {
    Atomics.store(this.#words, BEGUN + (id % PLACES), 0);
  }

  /** Makes sure that the job never begins here; false when it has. The thread acknowledges as ever. */
  recall(id: number): boolean {
    return Atomics.compareExchange(this.#words, BEGUN + (id % PLACES), 0, ~wordOf(id)) === 0;
  }

  /** False only when the job's code cannot have run and, once `halt` was called, never will here. */
  hasBegun(id: number): boolean {
    return Atomics.load(this.#words, BEGUN + (id % PLACES)) === wordOf(id);
  }

  /** The job's code, should it execute, ends where it next asks whether it may go on. */
  endGuest(id: number): void {
    Atomics.store(this.#words, WORD.end, wordOf(id));
  }

  /** Tells the thread how many plugins this host has loaded. */
  set neighbours(count: number) {
    Atomics.store(this.#words, WORD.plugins, count);
  }

  /** Notes whether the same turn lasts since the last look. `now` by `performance.now()`. */
  look(now: number): void {
    const count = this.#words[WORD.turns] ?? 0;
    const executes = this.executing !== 0;
    this.stalled = executes && this.#turn?.count === count;
    if (!executes) this.#turn = undefined;
    else if (!this.stalled) this.#turn = { count, since: now };
  }

  /** How long the present turn has been seen to last, in ms; 0 when it is new or none executes. */
  lasted(now: number): number {
    const isSame = this.#turn?.count === this.#words[WORD.turns] && this.executing !== 0;
    return isSame && this.#turn !== undefined ? now - this.#turn.since : 0;
  }

  /** Sends with whatever else this turn of the event loop sends. */
  post(message: ToThread): void {
    this.#outbox.push(message);
    if (this.#outbox.length === 1) setImmediate(() => this.#flush());
  }

  /** Handles at once what has arrived. */
  collect(): void {
    for (
      let next = receiveMessageOnPort(this.#port);
      next;
      next = receiveMessageOnPort(this.#port)
    ) {
      this.#receive(next.message as FromThread[]);
    }
  }

  /** No further job begins. */
  halt(): void {
    Atomics.store(this.#words, WORD.stop, 1);
  }

  /** Ends the thread in the middle of whatever it executes. Resolves when it is gone. */
  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#start);
    this.#port.close();
    await this.#worker?.terminate();
  }

  #flush(): void {
    if (!this.#ended) this.#port.postMessage(this.#outbox);
    this.#outbox = [];
  }

  #receive(batch: FromThread[]): void {
    for (const message of batch) if (!this.#ended) this.#owner.received(this, message);
  }
}
