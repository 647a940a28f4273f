/**
 * The host's end of one sandbox thread: sends batches, reads its shared words, ends it. Nothing that
 * happens inside, a crash or an exhausted heap included, may surface anywhere but in `Owner`.
 */
import { MessageChannel, Worker, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { Job } from './job.ts';
import type { Plugin } from './plugin.ts';
import { WORD } from './protocol.ts';
import type { FromThread, ThreadBounds, ThreadData, ToThread } from './protocol.ts';

export interface Owner {
  received(thread: Thread, message: FromThread): void;
  /** The thread ended by itself. Called once. */
  crashed(thread: Thread): void;
}

/** Heap of the thread's own code; guests live outside it, in linear memory. */
const RESOURCE_LIMITS = {
  maxOldGenerationSizeMb: 96,
  maxYoungGenerationSizeMb: 16,
  stackSizeMb: 4,
};

export class Thread {
  /** Jobs that were sent and have not been answered. */
  readonly jobs = new Map<number, Job>();
  /** Plugins that this thread knows. */
  readonly plugins = new Set<Plugin>();
  /** Whether the same job has been executing at two successive ticks. */
  stalled = false;
  /** What `executing` was at the last tick. */
  lastExecuting = 0;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * Object.keys(WORD).length));
  readonly #owner: Owner;
  #outbox: ToThread[] = [];
  #ended = false;

  /** `lastId` is the last id given to any job so far. */
  constructor(
    lastId: number,
    arena: WebAssembly.Module,
    fiber: WebAssembly.Module,
    bounds: ThreadBounds,
    owner: Owner,
  ) {
    const { port1, port2 } = new MessageChannel();
    const words = this.#words.buffer;
    this.#words[WORD.begun] = lastId | 0;
    this.#owner = owner;
    this.#port = port1;
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), {
      name: 'noa-sandbox',
      workerData: { port: port2, words, arena, fiber, bounds } satisfies ThreadData,
      transferList: [port2],
      env: {},
      execArgv: [],
      resourceLimits: RESOURCE_LIMITS,
    });
    port1.on('message', (batch: FromThread[]) => this.#receive(batch));
    const crashed = (): void => {
      if (!this.#ended) this.#owner.crashed(this);
    };
    port1.on('messageerror', crashed);
    this.#worker.on('messageerror', crashed);
    this.#worker.on('error', crashed);
    this.#worker.on('exit', crashed);
  }

  /** The job whose code executes now, as the low 32 bits of its id; 0 when none does. */
  get executing(): number {
    return Atomics.load(this.#words, WORD.executing);
  }

  /** Log lines that the turn which executes now has lost. */
  get droppedLines(): number {
    return this.#words[WORD.dropped] ?? 0;
  }

  /** False only when the job's code cannot have run and, once `halt` was called, never will here. */
  hasBegun(id: number): boolean {
    return (((id | 0) - Atomics.load(this.#words, WORD.begun)) | 0) <= 0;
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
    this.#port.close();
    await this.#worker.terminate();
  }

  #flush(): void {
    if (!this.#ended) this.#port.postMessage(this.#outbox);
    this.#outbox = [];
  }

  #receive(batch: FromThread[]): void {
    for (const message of batch) if (!this.#ended) this.#owner.received(this, message);
  }
}
