/**
 * The calls that have begun on a sandbox thread: each runs in turns, from its start or from the reply to
 * a capability call to its next capability call or its end.
 */
import type { Fibers } from './fibers.ts';
import { mapGuestStack } from './guest-stack.ts';
import { GuestLimit } from './instance.ts';
import type { Instance } from './instance.ts';
import type { InstancePool } from './instance-pool.ts';
import type { Outbox } from './outbox.ts';
import type { Cost, Failure } from './protocol.ts';
import { LARGE_REQUEST_BYTES } from './requests.ts';
import { printable } from './text.ts';
import type { Turn } from './turns.ts';
import type { Unit } from './unit.ts';
import { cause, judge } from './verdict.ts';

export type CallTurn = Extract<Turn, readonly ['call', ...unknown[]]>;

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
  /** What its instance had burned before it, start function included. */
  readonly burnedBefore: number;
  /** How long its turns took until now, in ms. */
  executionMs: number;
}

export interface CallsOptions {
  readonly outbox: Outbox;
  readonly instances: InstancePool;
  readonly fibers: Fibers;
  /** One request to a capability, in bytes. */
  readonly requestBytes: number;
  /** Announces that guest code of the job executes from here on; false when none may any more. */
  readonly enter: (id: number, unit: Unit) => boolean;
}

export class Calls {
  readonly #options: CallsOptions;
  readonly #active = new Map<number, ActiveCall>();
  #endTurn: () => void = () => undefined;
  /** When the present turn began. */
  #since = 0;

  constructor(options: CallsOptions) {
    this.#options = options;
  }

  /** Whose call this is; undefined when it has not begun or has ended. */
  unitOf(id: number): Unit | undefined {
    return this.#active.get(id)?.instance.unit;
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => {
      this.#endTurn = resolve;
    });
  }

  /** Runs the call to its first capability call or its end; the promise resolves then. */
  begin([, id, , name, input, inputBytes]: CallTurn, unit: Unit): Promise<void> | undefined {
    const { outbox, instances, fibers, enter } = this.#options;
    if (!enter(id, unit)) return undefined;
    this.#since = performance.now();
    let instance: Instance;
    try {
      instance = instances.take(unit);
    } catch (error) {
      outbox.fail(id, ...cause(error));
      return undefined;
    }
    const call: ActiveCall = {
      id,
      instance,
      pending: undefined,
      cancelled: false,
      burnedBefore: instance.burned,
      executionMs: 0,
    };
    instance.job = id;
    unit.begun += 1;
    this.#active.set(id, call);
    const entry = instance.export(name);
    const turn = this.#turn();
    if (entry === undefined) {
      outbox.fail(id, 'invalid', `The plugin has no export ${printable(name, 64)}.`);
      this.#end(call, true);
      return turn;
    }
    if (!instance.arena.begin(input, inputBytes)) {
      outbox.fail(id, 'exhausted', 'The input does not fit into the memory of the sandbox.');
      this.#end(call, false);
      return turn;
    }
    if (unit.spec.suspends) {
      fibers.run(entry, {
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
      this.#fail(call, 'cancelled');
      return this.#end(call, false);
    }
    const verdict = judge(call.instance, result);
    if ('output' in verdict) {
      this.#options.outbox.add(['done', call.id, ...this.#cost(call), verdict.output]);
      return this.#end(call, true);
    }
    const { reason, text, reusable } = verdict;
    const { module } = call.instance.unit.spec;
    void (reason === 'error' ? mapGuestStack(text, module) : Promise.resolve(text)).then(
      (shown) => {
        this.#fail(call, reason, shown);
        this.#end(call, reusable);
      },
    );
  }

  #threw(call: ActiveCall, error: unknown): void {
    if (call.cancelled) this.#fail(call, 'cancelled');
    else this.#fail(call, ...cause(error, call.instance));
    this.#end(call, false);
  }

  #fail(call: ActiveCall, reason: Failure, text?: string): void {
    this.#options.outbox.fail(call.id, reason, text, this.#cost(call));
  }

  /** What the call has cost by now, in one of its turns. */
  #cost(call: ActiveCall): Cost {
    const now = performance.now();
    call.executionMs += now - this.#since;
    this.#since = now;
    return [call.instance.burned - call.burnedBefore, call.executionMs];
  }

  #end(call: ActiveCall, reusable: boolean): void {
    const { unit } = call.instance;
    this.#active.delete(call.id);
    unit.begun -= 1;
    unit.large.settled(call.id);
    call.instance.flush();
    if (reusable) this.#options.instances.give(call.instance);
    else this.#options.instances.drop(call.instance);
    this.#endTurn();
  }

  /**
   * The host functions noa_call and, with an `attachment` (its block, 0 for none), noa_call_bytes: ends
   * the turn and answers the block of the reply in a later one.
   */
  invoke(instance: Instance, request: number, attachment?: number): bigint | Promise<bigint> {
    const call = instance.job === undefined ? undefined : this.#active.get(instance.job);
    if (call === undefined)
      throw new GuestLimit('The plugin called a capability before any call to it.');
    if (call.cancelled) throw new Error('cancelled');
    this.#options.instances.count(instance);
    const { arena } = instance;
    const size = arena.size(request);
    const beside = attachment === undefined ? 0 : arena.size(attachment);
    const { requestBytes, outbox } = this.#options;
    if (size > requestBytes || beside > requestBytes) {
      const [what, has] = size > requestBytes ? ['request', size] : ['attachment', beside];
      const message = `The ${what} has ${has} bytes; at most ${requestBytes} are allowed.`;
      return this.#deliver(instance, refusal('PAYLOAD_TOO_LARGE', message));
    }
    const cost = this.#cost(call);
    const send = (): void => {
      const bytes = attachment === undefined ? undefined : (arena.copy(attachment) ?? null);
      outbox.add(['invoke', call.id, ...cost, arena.text(request, size) ?? '', bytes]);
    };
    if (size + beside < LARGE_REQUEST_BYTES) send();
    else instance.unit.large.send(call.id, send);
    return new Promise((resolve, reject) => {
      call.pending = { resolve, reject };
      this.#endTurn();
    });
  }

  #deliver({ arena }: Instance, envelope: string, attachment?: Uint8Array): bigint {
    const block =
      (arena.putBeside(attachment) && arena.put(envelope)) ||
      arena.put(
        refusal('RESOURCE_EXHAUSTED', 'The reply does not fit into the memory of the sandbox.'),
      );
    if (block === 0) throw new GuestLimit('The blocks of this call have filled their memory.');
    return BigInt(block);
  }

  resume(id: number, envelope: string, attachment?: Uint8Array): Promise<void> | undefined {
    const call = this.#active.get(id);
    if (call?.pending === undefined || !this.#options.enter(id, call.instance.unit))
      return undefined;
    const { resolve, reject } = call.pending;
    call.pending = undefined;
    call.instance.unit.large.settled(id);
    this.#since = performance.now();
    const turn = this.#turn();
    try {
      resolve(this.#deliver(call.instance, envelope, attachment));
    } catch (error) {
      reject(error instanceof Error ? error : new Error('the reply could not be delivered'));
    }
    return turn;
  }

  /** The guest sees its capability call throw; whatever it does then, no further one is served. */
  cancel(id: number): Promise<void> | undefined {
    const call = this.#active.get(id);
    if (call?.pending === undefined || !this.#options.enter(id, call.instance.unit))
      return undefined;
    const { reject } = call.pending;
    call.pending = undefined;
    call.cancelled = true;
    call.instance.unit.large.settled(id);
    this.#since = performance.now();
    const turn = this.#turn();
    reject(new Error('cancelled'));
    return turn;
  }
}

function refusal(code: string, message: string): string {
  return JSON.stringify({ ok: false, error: { code, message } });
}
