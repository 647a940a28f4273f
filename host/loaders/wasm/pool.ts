/**
 * The jobs of the sandbox: which thread each is given to, how long it may take, and what becomes of it
 * when its thread falls.
 *
 * A job that is past its deadline or whose caller has gone is answered at once. If it waits, its thread
 * is told to drop it; if it executes, its guest is told so where it next asks for fuel, and traps. When
 * it does not ask, and its turn has lasted for some time, the thread is ended and the spare takes its
 * place. Of the other jobs on that thread, those that had not begun move, those that may be repeated begin
 * anew, both unnoticed, and the rest are answered UNAVAILABLE. Either way the plugin is a suspect for a
 * while, and its calls run apart.
 */
import { randomInt } from 'node:crypto';
import { NoaError } from '@noa/sdk/host';
import { Attachments } from './attachment.ts';
import type { BytesTable } from './attachment.ts';
import { Crew } from './crew.ts';
import { answer } from './door.ts';
import { Intake } from './intake.ts';
import { Job } from './job.ts';
import type { JobSpec } from './job.ts';
import type { Harm } from '../../kernel/loader.ts';
import { failure } from './outcome.ts';
import type { Plugin } from './plugin.ts';
import { type FromThread, type ThreadBounds, wordOf } from './protocol.ts';
import { LARGE_REQUEST_BYTES } from './requests.ts';
import { Suspects } from './suspects.ts';
import { Thread } from './thread.ts';
import type { Owner } from './thread.ts';

const TICK_MS = 5;
/** How long a job may take to end after it was told to: most take one, on a crowded machine many. */
const CANCEL_GRACE_MS = 100;
/** How long a job whose caller has gone may go on executing: most end sooner, and no thread is lost. */
const ABORT_GRACE_MS = 100;
/** A turn that has lasted for less is not ended: most overloads end by themselves, without harm. */
const TURN_GRACE_MS = 50;
/** How long a plugin that has brought a worker down runs apart from the others. */
const SUSPECT_MS = 5 * 60_000;
/** After a turn has lasted for this long, what waits behind it is taken elsewhere … */
const STALL_MS = 50;
/** … and, when no other thread is free, its plugin runs apart for this long. */
const HEAVY_MS = 10_000;
const MAX_MOVES = 3;
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
  /** Where capabilities take and answer bytes. */
  readonly bytes?: BytesTable | undefined;
  readonly bounds: ThreadBounds;
  readonly arena: WebAssembly.Module;
  readonly fiber: WebAssembly.Module;
}

export class Pool implements Owner {
  readonly #options: PoolOptions;
  readonly #crew: Crew;
  readonly #intake = new Intake();
  /** Those that are loaded to serve. */
  readonly #plugins = new Set<Plugin>();
  readonly #suspects = new Suspects();
  #lastSerial = randomInt(2 ** 32);
  #ticker: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    const { arena, fiber, bounds, jobsPerThread: maxJobs } = options;
    this.#crew = new Crew(options.threads, (delayMs) => {
      const thread = new Thread(this, { arena, fiber, bounds, maxJobs, delayMs });
      thread.neighbours = this.#plugins.size;
      return thread;
    });
  }

  /** Makes the plugin one of those among which the threads are shared, until it is unloaded. */
  enter(plugin: Plugin): void {
    this.#plugins.add(plugin);
    this.#tellNeighbours();
  }

  #tellNeighbours(): void {
    for (const thread of this.#crew.all()) thread.neighbours = this.#plugins.size;
  }

  get #alone(): boolean {
    return this.#plugins.size <= 1;
  }

  /** Gives the job to the thread with the least to do, or to the spare, which serves no calls. */
  submit(spec: JobSpec, to: 'serving' | 'spare' = 'serving'): void {
    const job = new Job(spec);
    spec.plugin?.began();
    this.#assign(job, to === 'spare' ? this.#crew.spare : this.#pick(spec.plugin));
    this.#ticker ??= setInterval(() => this.#tick(), TICK_MS);
  }

  /** Ends the plugin's jobs with UNAVAILABLE and frees it everywhere. */
  async unload(plugin: Plugin): Promise<void> {
    for (const thread of this.#crew.all()) {
      for (const job of thread.jobs.all()) {
        if (job.spec.plugin !== plugin || job.reapAt !== undefined) continue;
        const error = new NoaError('UNAVAILABLE', `The plugin ${plugin.name} was stopped.`);
        this.#cancel(thread, job, error, CANCEL_GRACE_MS);
      }
    }
    await plugin.drained();
    for (const thread of this.#crew.all()) {
      thread.jobs.forget(plugin);
      if (thread.plugins.delete(plugin.id)) thread.post(['unload', plugin.id]);
    }
    plugin.usage.clear();
    if (this.#plugins.delete(plugin)) this.#tellNeighbours();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#ticker);
    const error = new NoaError('UNAVAILABLE', 'The sandbox was shut down.');
    for (const thread of this.#crew.all()) {
      for (const job of thread.jobs.all()) this.#finish(thread, job, error);
    }
    await this.#crew.close();
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
    if (message[0] !== 'compiled') {
      job.spec.call?.spent?.({ fuel: message[2], executionMs: message[3] });
    }
    if (message[0] === 'invoke') return this.#invoke(thread, job, message[4], message[5]);
    thread.jobs.delete(job);
    if (job.reapAt === undefined) {
      if (message[0] === 'done') job.spec.done?.(message[4]);
      else if (message[0] === 'compiled') job.spec.compiled?.(message[2]);
      else job.spec.failed(failure(message[4], message[5]));
    } else if (message[0] === 'failed' && message[4] !== 'cancelled') {
      this.#blame(job, 'overran', message[3]);
    }
    job.spec.plugin?.ended();
  }

  crashed(thread: Thread): void {
    const executing = thread.jobs.all().find((job) => wordOf(job.id) === thread.executing);
    this.#replace(thread, executing, 'crashed');
  }

  #pick(plugin: Plugin | undefined): Thread | undefined {
    return this.#suspects.has(plugin?.name) ? this.#crew.apart() : this.#crew.serving();
  }

  #assign(job: Job, thread: Thread | undefined): void {
    const { plugin, bytes = 0 } = job.spec;
    if (this.#closed || !thread?.jobs.admits(plugin, bytes, this.#alone)) {
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
    thread.jobs.add(job, this.#lastSerial, bytes);
    thread.expect(job.id);
    thread.lastJob = performance.now();
    thread.post(job.spec.message(job.id));
  }

  #invoke(thread: Thread, job: Job, request: string, bytes?: Uint8Array | null): void {
    const { call } = job.spec;
    const size = request.length + (bytes?.length ?? 0);
    thread.jobs.hold(job, size);
    if (call === undefined || job.reapAt !== undefined) return;
    const { id } = job;
    const isCurrent = (): boolean => job.reapAt === undefined && thread.jobs.get(id) === job;
    const { replyBytes, bytes: table = {} } = this.#options;
    const serve = async (): Promise<void> => {
      if (!isCurrent()) return;
      const beside = bytes === undefined ? undefined : new Attachments(table, bytes);
      const envelope = await answer(request, call, job.signal, replyBytes, beside);
      if (!isCurrent()) return;
      const attachment = beside?.reply;
      const held = envelope.length + (attachment?.length ?? 0);
      thread.jobs.hold(job, 0);
      const fits = thread.jobs.affords(job, held, this.#alone);
      thread.jobs.hold(job, fits ? held : BUSY.length);
      thread.post(fits ? ['reply', id, envelope, attachment] : ['reply', id, BUSY]);
    };
    if (size < LARGE_REQUEST_BYTES) void serve();
    else this.#intake.add(() => void serve());
  }

  #tick(): void {
    const now = performance.now();
    let busy = false;
    for (const thread of this.#crew.all()) {
      thread.look(now);
      if (thread.jobs.size === 0) continue;
      busy = true;
      if (thread.lasted(now) >= STALL_MS && this.#crew.serves(thread)) this.#relieve(thread);
      for (const job of thread.jobs.all()) {
        if (!this.#watch(thread, job, now)) break;
      }
    }
    this.#crew.tidy();
    if (busy) return;
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }

  /** Others need not wait behind a turn that lasts: those that have not begun go to another thread. */
  #relieve(thread: Thread): void {
    const jobs = thread.jobs.all();
    const holder = jobs.find((job) => wordOf(job.id) === thread.executing)?.spec.plugin;
    const others = jobs.filter(
      ({ id, spec, reapAt, moves }) =>
        spec.call !== undefined &&
        spec.plugin !== holder &&
        reapAt === undefined &&
        moves < MAX_MOVES &&
        !thread.hasBegun(id),
    );
    if (others.length === 0) return;
    if (this.#crew.serving()?.stalled === true) {
      this.#crew.relieve(thread);
      if (holder !== undefined) this.#suspects.add(holder.name, HEAVY_MS);
    }
    for (const job of others) {
      const { plugin, bytes = 0 } = job.spec;
      const next = this.#pick(plugin);
      if (!next?.jobs.admits(plugin, bytes, this.#alone) || !thread.recall(job.id)) continue;
      // The old one keeps its place until the thread has dropped it.
      job.reapAt = Infinity;
      thread.post(['cancel', job.id]);
      const moved = new Job(job.spec);
      moved.moves = job.moves + 1;
      moved.repeated = job.repeated;
      plugin?.began();
      this.#assign(moved, next);
    }
  }

  /** False when the thread had to be ended. */
  #watch(thread: Thread, job: Job, now: number): boolean {
    if (thread.jobs.get(job.id) !== job) return true; // It ended while another was looked at.
    const { spec } = job;
    if (job.reapAt === undefined) {
      if (now >= spec.expires) {
        thread.collect(); // It may have ended in time, and the answer waits behind this tick.
        if (thread.jobs.get(job.id) !== job) return true;
        const error = new NoaError('DEADLINE_EXCEEDED', spec.expired);
        this.#cancel(thread, job, error, CANCEL_GRACE_MS);
      } else if (spec.call?.signal.aborted === true) {
        this.#cancel(thread, job, gone(), ABORT_GRACE_MS);
      }
    }
    if (job.reapAt === undefined || thread.executing !== wordOf(job.id)) return true;
    thread.endGuest(job.id);
    if (now < job.reapAt || thread.lasted(now) < TURN_GRACE_MS) return true;
    this.#replace(thread, job, 'overran');
    return false;
  }

  /** Answers the submitter; the job stays with the thread until that acknowledges or is ended. */
  #cancel(thread: Thread, job: Job, error: NoaError, graceMs: number): void {
    job.reapAt = performance.now() + graceMs;
    job.giveUp(error);
    thread.post(['cancel', job.id]);
  }

  /** Ends a thread, puts the spare in its place and decides about each of its jobs. */
  #replace(thread: Thread, culprit: Job | undefined, what: Harm): void {
    thread.halt();
    thread.collect();
    const lasted = thread.lasted(performance.now());
    this.#crew.replace(thread, what === 'crashed' ? CRASH_DELAY_MS : 0);
    if (culprit !== undefined) {
      this.#blame(culprit, what, lasted);
      const { droppedLines } = thread;
      const { plugin } = culprit.spec;
      if (droppedLines > 0) plugin?.log('warn', `${droppedLines} log lines were dropped`);
    }
    const words = `Another call on the same worker ${what}, and this one was lost with it; try again.`;
    const lost = new NoaError('UNAVAILABLE', words, { retryAfterMs: 50 });
    for (const job of thread.jobs.all()) {
      const { plugin, call } = job.spec;
      const begun = thread.hasBegun(job.id);
      const wanted = job.reapAt === undefined && call?.signal.aborted !== true;
      const again = begun && job !== culprit && call?.idempotent === true && !job.repeated;
      if (wanted && job.moves < MAX_MOVES && (!begun || again)) {
        if (begun) job.repeat(lost);
        job.moves += 1;
        thread.jobs.delete(job);
        this.#assign(job, this.#pick(plugin));
      } else this.#finish(thread, job, job === culprit ? crash(plugin) : lost);
    }
  }

  /**
   * The plugin whose job crashed a thread, or was ended while it executed and after it had done so for
   * long, runs apart for a while. It is harm of its own doing when the job had taken half of what it may:
   * one that took less had to wait, or its caller gave it little time.
   */
  #blame({ spec: { plugin, allowanceMs } }: Job, what: Harm, executedMs: number): void {
    if (plugin === undefined || !this.#plugins.has(plugin)) return;
    const isHarm = what === 'crashed' || executedMs >= allowanceMs / 2;
    if (!isHarm && executedMs < TURN_GRACE_MS) return;
    this.#suspects.add(plugin.name, isHarm ? SUSPECT_MS : HEAVY_MS);
    if (isHarm) plugin.harmed(what);
  }

  #finish(thread: Thread, job: Job, error: NoaError): void {
    thread.jobs.delete(job);
    if (job.reapAt === undefined) job.giveUp(error);
    job.spec.plugin?.ended();
  }
}

/** The error of a call whose caller no longer waits. */
export function gone(): NoaError {
  return new NoaError('CANCELLED', 'The caller went away before the plugin had answered.');
}

function crash(plugin: Plugin | undefined): NoaError {
  const name = plugin === undefined ? 'The module' : `The plugin ${plugin.name}`;
  return new NoaError('PLUGIN_TRAP', `${name} brought its worker down while it executed.`);
}
