/**
 * The instances of one sandbox thread. Invariant: the linear memory of all of them stays within the
 * thread's budget, exceeded at most by what the one executing guest grows in its present turn.
 */
import { collectGarbage } from './garbage.ts';
import { GuestLimit, Instance } from './instance.ts';
import type { InstanceHost } from './instance.ts';
import type { ThreadBounds } from './protocol.ts';
import type { Unit } from './unit.ts';

/** An instance whose block memory has grown beyond this is not kept: such memory never shrinks. */
const KEPT_ARENA_BYTES = 1 << 20;
const HOUSEKEEPING_MS = 1000;
/** Housekeeping collects garbage once instances of so many bytes have been let go. */
const COLLECTED_BYTES = 4 << 20;

export class InstancePool {
  readonly #arena: WebAssembly.Module;
  readonly #bounds: ThreadBounds;
  readonly #host: InstanceHost;
  readonly #report: () => void;
  readonly #changed = new Set<Unit>();
  /** Units with idle instances. */
  readonly #idle = new Set<Unit>();
  #idleCount = 0;
  #bytes = 0;
  /** Linear memory let go since the last collection. */
  #released = 0;
  #timer: NodeJS.Timeout | undefined;

  /** `report` is called by housekeeping, at most once a second, while there is something to attend to. */
  constructor(
    arena: WebAssembly.Module,
    bounds: ThreadBounds,
    host: InstanceHost,
    report: () => void,
  ) {
    this.#arena = arena;
    this.#bounds = bounds;
    this.#host = host;
    this.#report = report;
  }

  /** An idle instance of the unit, or a new one. Throws GuestLimit, or what the module's start throws. */
  take(unit: Unit): Instance {
    const kept = unit.idle.pop();
    if (kept !== undefined) {
      this.#idleCount -= 1;
      return kept;
    }
    let instance: Instance;
    try {
      instance = new Instance(unit, this.#arena, this.#host);
    } catch (error) {
      if (error instanceof RangeError && error.message.includes('memory')) {
        throw new GuestLimit('There is no memory for another instance of the plugin.');
      }
      throw error;
    }
    unit.instances += 1;
    try {
      this.count(instance);
    } catch (error) {
      this.drop(instance);
      throw error;
    }
    return instance;
  }

  /** Keeps the instance for the next call, or drops it when it is not worth its memory. */
  give(instance: Instance): void {
    const { unit } = instance;
    instance.job = undefined;
    this.#update(instance);
    const grown = instance.arena.byteLength > KEPT_ARENA_BYTES;
    if (unit.closed || grown || this.#bytes > this.#bounds.memoryBytes) return this.drop(instance);
    instance.idleSince = performance.now();
    unit.idle.push(instance);
    this.#idle.add(unit);
    this.#idleCount += 1;
    if (this.#idleCount > this.#bounds.idleInstances) this.#dropIdle(this.#oldest());
    this.attend();
  }

  /** Forgets an instance that is not idle; its memory goes with the next garbage collection. */
  drop(instance: Instance): void {
    const { unit } = instance;
    instance.job = undefined;
    unit.instances -= 1;
    unit.bytes -= instance.counted;
    this.#bytes -= instance.counted;
    this.#released += instance.counted;
    instance.counted = 0;
    this.#changed.add(unit);
    this.attend();
  }

  /** Brings the budget up to date. Throws GuestLimit when it is exceeded and no idle instance can go. */
  count(instance: Instance): void {
    this.#update(instance);
    const { memoryBytes } = this.#bounds;
    while (this.#bytes > memoryBytes && this.#idleCount > 0) this.#dropIdle(this.#oldest());
    if (this.#bytes > memoryBytes) {
      throw new GuestLimit(
        `The plugins of one worker together are over ${Math.floor(memoryBytes / (1 << 20))} MiB of memory.`,
      );
    }
  }

  close(unit: Unit): void {
    unit.closed = true;
    while (unit.idle.length > 0) this.#dropIdle(unit);
    this.#idle.delete(unit);
  }

  /** Units whose figures have changed since the last time. */
  changed(): Unit[] {
    if (this.#changed.size === 0) return [];
    const units = [...this.#changed];
    this.#changed.clear();
    return units;
  }

  /** Makes sure that housekeeping runs. */
  attend(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => this.#keepHouse(), HOUSEKEEPING_MS);
  }

  #keepHouse(): void {
    this.#timer = undefined;
    const limit = performance.now() - this.#bounds.idleMs;
    for (const unit of this.#idle) {
      // Idle instances are a stack: the first has waited longest.
      while ((unit.idle[0]?.idleSince ?? Infinity) < limit) this.#dropIdle(unit);
    }
    this.#report();
    if (this.#released > COLLECTED_BYTES) {
      this.#released = 0;
      collectGarbage();
    }
    if (this.#idleCount > 0) this.attend();
  }

  #oldest(): Unit | undefined {
    let oldest: Unit | undefined;
    for (const unit of this.#idle) {
      const since = unit.idle[0]?.idleSince ?? Infinity;
      if (since < (oldest?.idle[0]?.idleSince ?? Infinity)) oldest = unit;
    }
    return oldest;
  }

  #dropIdle(unit: Unit | undefined): void {
    const instance = unit?.idle.shift();
    if (unit === undefined || instance === undefined) return;
    this.#idleCount -= 1;
    if (unit.idle.length === 0) this.#idle.delete(unit);
    this.drop(instance);
  }

  #update(instance: Instance): void {
    const bytes = instance.byteLength;
    if (bytes === instance.counted) return;
    instance.unit.bytes += bytes - instance.counted;
    this.#bytes += bytes - instance.counted;
    instance.counted = bytes;
    this.#changed.add(instance.unit);
  }
}
