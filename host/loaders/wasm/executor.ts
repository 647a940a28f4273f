/**
 * The life of one sandbox thread: takes messages one at a time, lets at most one guest execute, and
 * says in shared words which one, so that the host's thread can judge an overrun without asking.
 *
 * A turn is one stretch of guest execution: from its start, or from a reply, to its next capability
 * call or its end. Nothing else runs in a turn; this is what makes the `executing` word exact.
 */
import { setImmediate as nextLoop } from 'node:timers/promises';
import type { LogLevel } from '../../kernel/loader.ts';
import { Calls } from './calls.ts';
import type { CallTurn } from './calls.ts';
import { Fibers } from './fibers.ts';
import { asking, meter } from './fuel.ts';
import { InstancePool } from './instance-pool.ts';
import { Outbox } from './outbox.ts';
import { BEGUN, PLACES, WORD, wordOf } from './protocol.ts';
import type { ThreadData, ToThread } from './protocol.ts';
import { printable } from './text.ts';
import { Lane, Turns } from './turns.ts';
import type { Turn } from './turns.ts';
import { LOG_LINES_PER_SECOND, Unit } from './unit.ts';
import { cause } from './verdict.ts';

/** After this long, in ms, the thread looks for new messages (cancellations) before it goes on. */
const SLICE_MS = 5;
const MAX_LOG_CHARS = 4096;

export class Executor {
  readonly #outbox: Outbox;
  readonly #words: Int32Array;
  readonly #fibers: Fibers;
  readonly #instances: InstancePool;
  readonly #units = new Map<number, Unit>();
  readonly #calls: Calls;
  readonly #turns = new Turns();
  /** Of the host itself: compilations. */
  readonly #own = new Lane();
  /** The plugin whose turns the messages in the outbox come from. */
  #holder: Unit | undefined;
  #draining = false;

  constructor(data: ThreadData) {
    this.#words = new Int32Array(data.words);
    this.#fibers = new Fibers(data.fiber, data.bounds.fibers);
    this.#instances = new InstancePool({
      arena: data.arena,
      bounds: data.bounds,
      host: {
        invoke: (instance, request, attachment) =>
          this.#calls.invoke(instance, request, attachment),
        log: (unit, level, text) => this.#log(unit, level, text),
        ask: asking(() => this.#mayGoOn),
      },
      alone: () => this.#alone,
      report: () => this.#report(),
    });
    this.#outbox = new Outbox(data.port, () =>
      this.#instances
        .changed()
        .map((unit) => ['usage', unit.id, unit.instances, unit.bytes] as const),
    );
    this.#calls = new Calls({
      outbox: this.#outbox,
      instances: this.#instances,
      fibers: this.#fibers,
      requestBytes: data.bounds.requestBytes,
      enter: (id, unit) => this.#enter(id, unit),
    });
    data.port.on('message', (batch: ToThread[]) => this.#receive(batch));
  }

  #receive(batch: ToThread[]): void {
    for (const message of batch) this.#sort(message);
    if (!this.#draining) void this.#drain();
  }

  /** Does at once what runs no guest, and gives the rest a place in the order of turns. */
  #sort(message: ToThread): void {
    switch (message[0]) {
      case 'load':
        this.#units.set(message[1], new Unit(message[1], message[2]));
        return;
      case 'unload':
        return this.#unload(message[1]);
      case 'compile':
        return this.#turns.add(this.#own, message);
      case 'call':
      case 'warm': {
        const unit = this.#units.get(message[2]);
        if (unit === undefined) return this.#outbox.fail(message[1], 'cancelled');
        return this.#turns.add(unit.lane, message);
      }
      default: {
        const unit = this.#calls.unitOf(message[1]);
        if (unit !== undefined) return this.#turns.add(unit.lane, message);
        const unbegun = message[0] === 'cancel' && this.#turns.withdraw(message[1]);
        if (unbegun) this.#outbox.fail(message[1], 'cancelled');
      }
    }
  }

  async #drain(): Promise<void> {
    this.#draining = true;
    const mayBegin = (lane: Lane): boolean => this.#mayBegin(lane);
    let slice = performance.now();
    for (let turn = this.#turns.next(mayBegin); turn; turn = this.#turns.next(mayBegin)) {
      await this.#take(turn);
      this.#words[WORD.dropped] = 0;
      Atomics.store(this.#words, WORD.executing, 0);
      const now = performance.now();
      this.#outbox.sendDue(now);
      if (now - slice > SLICE_MS) {
        await nextLoop();
        slice = performance.now();
      }
    }
    this.#outbox.send();
    this.#draining = false;
  }

  /** Whether no other plugin is loaded in this host, so that nothing has to be kept for others. */
  get #alone(): boolean {
    return Atomics.load(this.#words, WORD.plugins) <= 1;
  }

  /** Whether the host still wants what executes now. */
  get #mayGoOn(): boolean {
    const end = Atomics.load(this.#words, WORD.end);
    return end !== Atomics.load(this.#words, WORD.executing);
  }

  /** Beside others, a plugin takes a stack only while it holds fewer than are free. */
  #mayBegin({ unit }: Lane): boolean {
    if (unit?.spec.suspends !== true) return true;
    const { free } = this.#fibers;
    return free > 0 && (this.#alone || unit.begun < free);
  }

  /** Answers a promise when guest code runs beyond this call's return. */
  #take(turn: Turn): Promise<void> | void {
    switch (turn[0]) {
      case 'call':
        return this.#begin(turn);
      case 'reply':
        return this.#calls.resume(turn[1], turn[2], turn[3]);
      case 'cancel':
        return this.#calls.cancel(turn[1]);
      case 'compile':
        return this.#compile(turn[1], turn[2]);
      case 'warm':
        return this.#warm(turn[1], turn[2]);
    }
  }

  /**
   * Announces that guest code of this job executes from here on. False when the host has given this
   * thread up: then the job has not begun, and the host may run it elsewhere.
   */
  #enter(id: number, unit?: Unit): boolean {
    // What others have finished must not be lost with a plugin that may now never come back.
    if (unit !== this.#holder) this.#outbox.send();
    this.#holder = unit;
    const word = wordOf(id);
    Atomics.store(this.#words, WORD.executing, word);
    this.#words[WORD.turns] = (this.#words[WORD.turns] ?? 0) + 1;
    const before = Atomics.compareExchange(this.#words, BEGUN + (id % PLACES), 0, word);
    if (before !== 0 && before !== word) {
      this.#outbox.fail(id, 'cancelled');
      return false;
    }
    return Atomics.load(this.#words, WORD.stop) === 0;
  }

  #begin(turn: CallTurn): Promise<void> | undefined {
    const unit = this.#units.get(turn[2]);
    if (unit !== undefined) return this.#calls.begin(turn, unit);
    this.#outbox.fail(turn[1], 'cancelled');
    return undefined;
  }

  #compile(id: number, bytes: Uint8Array): void {
    if (!this.#enter(id)) return;
    try {
      // First as it is: what is added must not make its code valid. If not, the engine says why.
      const metered = WebAssembly.validate(bytes) ? meter(bytes) : bytes;
      this.#outbox.add(['compiled', id, new WebAssembly.Module(metered)]);
    } catch (error) {
      const words = printable(error instanceof Error ? error.message : '', 300);
      this.#outbox.fail(id, 'invalid', `runtime.file: ${words}`);
    }
  }

  #warm(id: number, unitId: number): void {
    const unit = this.#units.get(unitId);
    if (unit === undefined) return this.#outbox.fail(id, 'cancelled');
    if (!this.#enter(id, unit)) return;
    try {
      this.#instances.give(this.#instances.take(unit));
      this.#outbox.add(['done', id, 0, 0, '']);
    } catch (error) {
      this.#outbox.fail(id, ...cause(error));
    }
  }

  #unload(unitId: number): void {
    const unit = this.#units.get(unitId);
    this.#units.delete(unitId);
    if (unit !== undefined) this.#instances.close(unit);
  }

  #log(unit: Unit, level: LogLevel, text: string): void {
    if (!unit.allowLine(performance.now())) {
      unit.dropped += 1;
      this.#words[WORD.dropped] = (this.#words[WORD.dropped] ?? 0) + 1;
      this.#instances.attend();
      return;
    }
    this.#outbox.add(['log', unit.id, level, printable(text, MAX_LOG_CHARS)]);
    this.#outbox.send(); // Now: a guest that never returns would take its last words along.
  }

  /** Tells what housekeeping has found out, once a second at most. */
  #report(): void {
    for (const unit of this.#units.values()) {
      if (unit.dropped === 0) continue;
      const text = `${unit.dropped} log lines were dropped: more than ${LOG_LINES_PER_SECOND} a second`;
      this.#outbox.add(['log', unit.id, 'warn', text]);
      unit.dropped = 0;
    }
    this.#outbox.send();
  }
}
