/**
 * The sandbox threads, one warm spare among them, and the watch over what they execute.
 *
 * A job that is past its deadline or whose caller has gone is answered at once. If it waits, its thread
 * is told to drop it; if it executes, the thread is ended, the spare takes its place, and what else
 * was on it is answered UNAVAILABLE, except for jobs that had not begun: these move, unnoticed.
 */
import { randomInt } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';
import { answer } from './door.ts';
import { Job } from './job.ts';
import type { JobSpec } from './job.ts';
import { failure } from './outcome.ts';
import type { Plugin } from './plugin.ts';
import { type FromThread, type ThreadBounds, wordOf } from './protocol.ts';
import { Thread } from './thread.ts';
import type { Owner } from './thread.ts';

const TICK_MS = 5;
/** How long a job that waited may take to end after it was told to. */
const CANCEL_GRACE_MS = 25;
/** How long a job whose caller has gone may go on executing: most end sooner, and no thread is lost. */
const ABORT_GRACE_MS = 100;
const MAX_MOVES = 3;
/** Input and reply texts that one thread may hold; a queue of large calls must not exhaust its heap. */
const MAX_HELD_BYTES = 64 << 20;
/** How long the thread after a crash waits to start: where none can start, no loop of attempts runs. */
const CRASH_DELAY_MS = 500;

const BUSY = JSON.stringify({
  ok: false,
  error: { code: 'RESOURCE_EXHAUSTED', message: 'The sandbox holds too many large replies.' },
});

export interface PoolOptions {
  readonly threads: number;
  /** Jobs that one thread holds at one time, waiting ones included. */
  readonly jobsPerThread: number;
  /** One reply of a capability, in bytes. */
  readonly replyBytes: number;
  readonly bounds: ThreadBounds;
  readonly arena: WebAssembly.Module;
  readonly fiber: WebAssembly.Module;
}

export class Pool implements Owner {
  readonly #options: PoolOptions;
  readonly #threads: Thread[];
  #spare: Thread;
  #lastSerial = randomInt(2 ** 32);
  #ticker: NodeJS.Timeout | undefined;
  readonly #ending = new Set<Promise<void>>();
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#threads = Array.from({ length: options.threads }, () => this.#spawn());
    this.#spare = this.#spawn();
  }

  /** Gives the job to the thread with the least to do, or to the spare, which serves no calls. */
  submit(spec: JobSpec, to: 'serving' | 'spare' = 'serving'): void {
    const job = new Job(spec);
    spec.plugin?.began();
    this.#assign(job, to === 'spare' ? this.#spare : this.#pick());
    this.#ticker ??= setInterval(() => this.#tick(), TICK_MS);
  }

  /** Ends the plugin's jobs with UNAVAILABLE and frees it everywhere. */
  async unload(plugin: Plugin): Promise<void> {
    for (const thread of this.#all()) {
      for (const job of thread.jobs.all()) {
        if (job.spec.plugin !== plugin || job.reapAt !== undefined) continue;
        const error = new NoaError('UNAVAILABLE', `The plugin ${plugin.name} was stopped.`);
        this.#cancel(thread, job, error, CANCEL_GRACE_MS);
      }
    }
    await plugin.drained();
    for (const thread of this.#all()) {
      if (thread.plugins.delete(plugin.id)) thread.post(['unload', plugin.id]);
    }
    plugin.usage.clear();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#ticker);
    const error = new NoaError('UNAVAILABLE', 'The sandbox was shut down.');
    for (const thread of this.#all()) {
      for (const job of thread.jobs.all()) this.#finish(thread, job, error);
      this.#end(thread);
    }
    await Promise.all(this.#ending);
  }

  received(thread: Thread, message: FromThread): void {
    if (message[0] === 'log' || message[0] === 'usage') {
      const plugin = thread.plugins.get(message[1]);
      if (message[0] === 'log') plugin?.log(message[2], message[3]);
      else plugin?.usage.set(thread, { instances: message[2], memoryBytes: message[3] });
      return;
    }
    const job = thread.jobs.get(message[1]);
    if (job === undefined) return;
    hold(thread, job, 0);
    if (message[0] === 'invoke') return this.#invoke(thread, job, message[2]);
    thread.jobs.delete(job);
    if (job.reapAt === undefined) {
      if (message[0] === 'done') job.spec.done?.(message[2]);
      else if (message[0] === 'compiled') job.spec.compiled?.(message[2]);
      else job.spec.failed(failure(message[2], message[3]));
    }
    job.spec.plugin?.ended();
  }

  crashed(thread: Thread): void {
    this.#replace(thread, undefined, 'crashed');
  }

  #all(): Thread[] {
    return [...this.#threads, this.#spare];
  }

  #spawn(delayMs = 0): Thread {
    const { arena, fiber, bounds } = this.#options;
    return new Thread(this, { arena, fiber, bounds, lastSerial: this.#lastSerial, delayMs });
  }

  #pick(): Thread | undefined {
    let best: Thread | undefined;
    let least = Infinity;
    for (const thread of this.#threads) {
      // A thread in the middle of a long execution is the last choice.
      const load = thread.jobs.size + (thread.stalled ? this.#options.jobsPerThread : 0);
      if (load < least) [best, least] = [thread, load];
    }
    return best;
  }

  #assign(job: Job, thread: Thread | undefined): void {
    const { plugin, bytes = 0 } = job.spec;
    if (this.#closed || thread === undefined || this.#isFull(thread, bytes)) {
      plugin?.ended();
      const error = this.#closed
        ? new NoaError('UNAVAILABLE', 'The sandbox was shut down.')
        : new NoaError('RESOURCE_EXHAUSTED', 'The sandbox has too much to do; try again.', {
            retryAfterMs: 1000,
          });
      return job.spec.failed(error);
    }
    // As a shared word, 0 means that no job executes.
    this.#lastSerial = (this.#lastSerial + 1) % 2 ** 32 || 1;
    if (plugin !== undefined && !thread.plugins.has(plugin.id)) {
      thread.plugins.set(plugin.id, plugin);
      thread.post(['load', plugin.id, plugin.spec]);
    }
    thread.jobs.add(job, this.#lastSerial);
    hold(thread, job, bytes);
    thread.post(job.spec.message(job.id));
  }

  #isFull(thread: Thread, bytes: number): boolean {
    const { jobsPerThread } = this.#options;
    return thread.jobs.size >= jobsPerThread || thread.heldBytes + bytes > MAX_HELD_BYTES;
  }

  #invoke(thread: Thread, job: Job, request: string): void {
    const { call } = job.spec;
    if (call === undefined || job.reapAt !== undefined) return;
    const { id } = job;
    void answer(request, call, job.signal, this.#options.replyBytes).then((envelope) => {
      if (job.reapAt !== undefined || thread.jobs.get(id) !== job) return;
      const fits = thread.heldBytes + envelope.length <= MAX_HELD_BYTES;
      const reply = fits ? envelope : BUSY;
      hold(thread, job, reply.length);
      thread.post(['reply', id, reply]);
    });
  }

  #tick(): void {
    const now = performance.now();
    let busy = false;
    for (const thread of this.#all()) {
      if (thread.jobs.size === 0) continue;
      busy = true;
      const { executing } = thread;
      thread.stalled = executing !== 0 && executing === thread.lastExecuting;
      thread.lastExecuting = executing;
      for (const job of thread.jobs.all()) {
        if (!this.#watch(thread, job, now)) break;
      }
    }
    if (busy) return;
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }

  /** False when the thread had to be ended. */
  #watch(thread: Thread, job: Job, now: number): boolean {
    if (thread.jobs.get(job.id) !== job) return true; // It ended while another was looked at.
    const { spec, reapAt } = job;
    if (reapAt !== undefined) {
      if (now < reapAt || thread.executing !== wordOf(job.id)) return true;
      this.#replace(thread, job, 'overran');
      return false;
    }
    if (now >= spec.expires) {
      thread.collect(); // It may have ended in time, and the answer waits behind this tick.
      if (thread.jobs.get(job.id) !== job) return true;
      const executes = thread.executing === wordOf(job.id);
      const error = new NoaError('DEADLINE_EXCEEDED', spec.expired);
      this.#cancel(thread, job, error, executes ? 0 : CANCEL_GRACE_MS);
      if (executes) this.#replace(thread, job, 'overran');
      return !executes;
    }
    if (spec.call?.signal.aborted === true) {
      this.#cancel(thread, job, gone(), ABORT_GRACE_MS);
    }
    return true;
  }

  /** Answers the submitter; the job stays with the thread until that acknowledges or is ended. */
  #cancel(thread: Thread, job: Job, error: NoaError, graceMs: number): void {
    job.reapAt = performance.now() + graceMs;
    job.giveUp(error);
    thread.post(['cancel', job.id]);
  }

  /** Ends a thread, puts the spare in its place and decides about each of its jobs. */
  #replace(thread: Thread, culprit: Job | undefined, what: 'overran' | 'crashed'): void {
    thread.halt();
    thread.collect();
    const executing = thread.executing;
    this.#end(thread);
    const at = this.#threads.indexOf(thread);
    if (at >= 0) this.#threads[at] = this.#spare;
    if (at >= 0 || thread === this.#spare)
      this.#spare = this.#spawn(what === 'crashed' ? CRASH_DELAY_MS : 0);
    if (culprit !== undefined && thread.droppedLines > 0) {
      culprit.spec.plugin?.log('warn', `${thread.droppedLines} log lines were dropped`);
    }
    const words = `Another call on the same worker ${what}, and this one was lost with it; try again.`;
    for (const job of thread.jobs.all()) {
      const { plugin, call } = job.spec;
      const untouched = !thread.hasBegun(job.id) && job.reapAt === undefined;
      if (untouched && job.moves < MAX_MOVES && call?.signal.aborted !== true) {
        job.moves += 1;
        thread.jobs.delete(job);
        this.#assign(job, this.#pick());
      } else if (what === 'crashed' && wordOf(job.id) === executing) {
        this.#finish(thread, job, crash(plugin));
      } else {
        this.#finish(thread, job, new NoaError('UNAVAILABLE', words, { retryAfterMs: 50 }));
      }
    }
  }

  #finish(thread: Thread, job: Job, error: NoaError): void {
    thread.jobs.delete(job);
    if (job.reapAt === undefined) job.giveUp(error);
    job.spec.plugin?.ended();
  }

  #end(thread: Thread): void {
    for (const plugin of thread.plugins.values()) plugin.usage.delete(thread);
    const ending = thread.end().finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
  }
}

/** Notes how much text the thread now holds for the job. */
function hold(thread: Thread, job: Job, bytes: number): void {
  const by = bytes - job.heldBytes;
  job.heldBytes = bytes;
  thread.heldBytes += by;
}

/** The error of a call whose caller no longer waits. */
export function gone(): NoaError {
  return new NoaError('CANCELLED', 'The caller went away before the plugin had answered.');
}

function crash(plugin: Plugin | undefined): NoaError {
  const name = plugin === undefined ? 'The module' : `The plugin ${plugin.name}`;
  return new NoaError('PLUGIN_TRAP', `${name} brought its worker down while it executed.`);
}
