/**
 * The life of one sandbox thread: takes messages one at a time, lets at most one guest execute, and
 * says in shared words which one, so that the host's thread can judge an overrun without asking.
 *
 * A turn is one stretch of guest execution: from its start, or from a reply, to its next capability
 * call or its end. Nothing else runs in a turn; this is what makes the `executing` word exact.
 */
import { setImmediate as nextLoop } from 'node:timers/promises';
import type { LogLevel } from '../../kernel/loader.ts';
import { Fibers } from './fibers.ts';
import { mapGuestStack } from './guest-stack.ts';
import { GuestLimit } from './instance.ts';
import type { Instance, InstanceHost } from './instance.ts';
import { InstancePool } from './instance-pool.ts';
import { Outbox } from './outbox.ts';
import { WORD, wordOf } from './protocol.ts';
import type { ThreadBounds, ThreadData, ToThread } from './protocol.ts';
import { printable } from './text.ts';
import { LOG_LINES_PER_SECOND, Unit } from './unit.ts';
import { cause, judge } from './verdict.ts';

/** After this long, in ms, the thread looks for new messages (cancellations) before it goes on. */
const SLICE_MS = 5;
const MAX_LOG_CHARS = 4096;

type CallMessage = Extract<ToThread, readonly ['call', ...unknown[]]>;

interface Pending {
  readonly resolve: (block: bigint) => void;
  readonly reject: (error: Error) => void;
}

interface ActiveCall {
  readonly id: number;
  readonly instance: Instance;
  /** Settles the capability call that the guest waits for. */
  pending: Pending | undefined;
  cancelled: boolean;
}

export class Executor implements InstanceHost {
  readonly #outbox: Outbox;
  readonly #words: Int32Array;
  readonly #bounds: ThreadBounds;
  readonly #fibers: Fibers;
  readonly #instances: InstancePool;
  readonly #units = new Map<number, Unit>();
  readonly #active = new Map<number, ActiveCall>();
  #queue: ToThread[] = [];
  /** Calls that wait for a stack. */
  #parked: CallMessage[] = [];
  /** The plugin whose turns the messages in the outbox come from. */
  #holder: Unit | undefined;
  #draining = false;
  #endTurn: () => void = () => undefined;

  constructor(data: ThreadData) {
    this.#words = new Int32Array(data.words);
    this.#bounds = data.bounds;
    this.#fibers = new Fibers(data.fiber, data.bounds.fibers);
    this.#instances = new InstancePool(data.arena, data.bounds, this, () => this.#report());
    this.#outbox = new Outbox(data.port, () =>
      this.#instances
        .changed()
        .map((unit) => ['usage', unit.id, unit.instances, unit.bytes] as const),
    );
    data.port.on('message', (batch: ToThread[]) => this.#receive(batch));
  }

  #receive(batch: ToThread[]): void {
    for (const message of batch) {
      if (message[0] === 'cancel' && this.#withdraw(message[1])) continue;
      this.#queue.push(message);
    }
    if (!this.#draining) void this.#drain();
  }

  /** Takes a call out that has not begun. */
  #withdraw(id: number): boolean {
    const is = (message: ToThread): boolean => message[0] === 'call' && message[1] === id;
    const waiting = this.#queue.some(is) || this.#parked.some(is);
    if (!waiting) return false;
    this.#queue = this.#queue.filter((message) => !is(message));
    this.#parked = this.#parked.filter((message) => !is(message));
    this.#outbox.fail(id, 'cancelled');
    return true;
  }

  async #drain(): Promise<void> {
    this.#draining = true;
    let slice = performance.now();
    for (let message = this.#queue.shift(); message; message = this.#queue.shift()) {
      await this.#handle(message);
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

  /** Answers a promise when guest code runs beyond this call's return. */
  #handle(message: ToThread): Promise<void> | void {
    switch (message[0]) {
      case 'call':
        return this.#call(message);
      case 'reply':
        return this.#resume(message[1], message[2]);
      case 'cancel':
        return this.#cancel(message[1]);
      case 'compile':
        return this.#compile(message[1], message[2]);
      case 'warm':
        return this.#warm(message[1], message[2]);
      case 'load':
        this.#units.set(message[1], new Unit(message[1], message[2]));
        return;
      case 'unload':
        return this.#unload(message[1]);
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
    if (((word - (this.#words[WORD.begun] ?? 0)) | 0) > 0) {
      Atomics.store(this.#words, WORD.begun, word);
    }
    return Atomics.load(this.#words, WORD.stop) === 0;
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => {
      this.#endTurn = resolve;
    });
  }

  #call(message: CallMessage): Promise<void> | undefined {
    const [, id, unitId, name, input, inputBytes] = message;
    const unit = this.#units.get(unitId);
    if (unit === undefined) {
      this.#outbox.fail(id, 'cancelled');
      return undefined;
    }
    if (unit.spec.suspends && !this.#fibers.available) {
      this.#parked.push(message);
      return undefined;
    }
    if (!this.#enter(id, unit)) return undefined;
    let instance: Instance;
    try {
      instance = this.#instances.take(unit);
    } catch (error) {
      this.#outbox.fail(id, ...cause(error));
      return undefined;
    }
    const call: ActiveCall = { id, instance, pending: undefined, cancelled: false };
    instance.job = id;
    this.#active.set(id, call);
    const entry = instance.export(name);
    const turn = this.#turn();
    if (entry === undefined) {
      this.#outbox.fail(id, 'invalid', `The plugin has no export ${printable(name, 64)}.`);
      this.#end(call, true);
      return turn;
    }
    if (!instance.arena.begin(input, inputBytes)) {
      this.#outbox.fail(id, 'exhausted', 'The input does not fit into the memory of the sandbox.');
      this.#end(call, false);
      return turn;
    }
    if (unit.spec.suspends) {
      this.#fibers.run(entry, {
        done: (result) => this.#returned(call, result),
        failed: (error) => this.#threw(call, error),
      });
      return turn;
    }
    try {
      this.#returned(call, Number(entry()));
    } catch (error) {
      this.#threw(call, error);
    }
    return turn;
  }

  #returned(call: ActiveCall, result: number): void {
    if (call.cancelled) {
      this.#outbox.fail(call.id, 'cancelled');
      return this.#end(call, false);
    }
    const verdict = judge(call.instance, result);
    if ('output' in verdict) {
      this.#outbox.add(['done', call.id, verdict.output]);
      return this.#end(call, true);
    }
    const { reason, text, reusable } = verdict;
    const { module } = call.instance.unit.spec;
    void (reason === 'error' ? mapGuestStack(text, module) : Promise.resolve(text)).then(
      (shown) => {
        this.#outbox.fail(call.id, reason, shown);
        this.#end(call, reusable);
      },
    );
  }

  #threw(call: ActiveCall, error: unknown): void {
    if (call.cancelled) this.#outbox.fail(call.id, 'cancelled');
    else this.#outbox.fail(call.id, ...cause(error, call.instance));
    this.#end(call, false);
  }

  #end(call: ActiveCall, reusable: boolean): void {
    this.#active.delete(call.id);
    if (reusable) this.#instances.give(call.instance);
    else this.#instances.drop(call.instance);
    const parked = call.instance.unit.spec.suspends ? this.#parked.shift() : undefined;
    if (parked !== undefined) this.#queue.unshift(parked);
    this.#endTurn();
  }

  invoke(instance: Instance, request: number): bigint | Promise<bigint> {
    const call = instance.job === undefined ? undefined : this.#active.get(instance.job);
    if (call === undefined)
      throw new GuestLimit('The plugin called a capability before any call to it.');
    if (call.cancelled) throw new Error('cancelled');
    this.#instances.count(instance);
    const size = instance.arena.size(request);
    const { requestBytes } = this.#bounds;
    if (size > requestBytes) {
      const message = `The request has ${size} bytes; at most ${requestBytes} are allowed.`;
      return this.#deliver(instance, refusal('PAYLOAD_TOO_LARGE', message));
    }
    this.#outbox.add(['invoke', call.id, instance.arena.text(request, size) ?? '']);
    return new Promise((resolve, reject) => {
      call.pending = { resolve, reject };
      this.#endTurn();
    });
  }

  #deliver(instance: Instance, envelope: string): bigint {
    const block =
      instance.arena.put(envelope) ||
      instance.arena.put(
        refusal('RESOURCE_EXHAUSTED', 'The reply does not fit into the memory of the sandbox.'),
      );
    if (block === 0) throw new GuestLimit('The blocks of this call have filled their memory.');
    return BigInt(block);
  }

  #resume(id: number, envelope: string): Promise<void> | undefined {
    const call = this.#active.get(id);
    if (call?.pending === undefined || !this.#enter(id, call.instance.unit)) return undefined;
    const { resolve, reject } = call.pending;
    call.pending = undefined;
    const turn = this.#turn();
    try {
      resolve(this.#deliver(call.instance, envelope));
    } catch (error) {
      reject(error instanceof Error ? error : new Error('the reply could not be delivered'));
    }
    return turn;
  }

  /** The guest sees its capability call throw; whatever it does then, no further one is served. */
  #cancel(id: number): Promise<void> | undefined {
    const call = this.#active.get(id);
    if (call?.pending === undefined || !this.#enter(id, call.instance.unit)) return undefined;
    const { reject } = call.pending;
    call.pending = undefined;
    call.cancelled = true;
    const turn = this.#turn();
    reject(new Error('cancelled'));
    return turn;
  }

  #compile(id: number, bytes: Uint8Array): void {
    if (!this.#enter(id)) return;
    try {
      this.#outbox.add(['compiled', id, new WebAssembly.Module(bytes)]);
    } catch (error) {
      this.#outbox.fail(id, 'invalid', printable(error instanceof Error ? error.message : '', 300));
    }
  }

  #warm(id: number, unitId: number): void {
    const unit = this.#units.get(unitId);
    if (unit === undefined) return this.#outbox.fail(id, 'cancelled');
    if (!this.#enter(id, unit)) return;
    try {
      this.#instances.give(this.#instances.take(unit));
      this.#outbox.add(['done', id, '']);
    } catch (error) {
      this.#outbox.fail(id, ...cause(error));
    }
  }

  #unload(unitId: number): void {
    const unit = this.#units.get(unitId);
    this.#units.delete(unitId);
    if (unit !== undefined) this.#instances.close(unit);
  }

  log(unit: Unit, level: LogLevel, text: string): void {
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

function refusal(code: string, message: string): string {
  return JSON.stringify({ ok: false, error: { code, message } });
}
