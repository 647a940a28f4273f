/**
 * The instances of one sandbox thread. Invariant: the memory of all of them stays within the thread's
 * budget, exceeded at most by what the one executing guest grows in its present turn. Beside other
 * plugins, one takes more only while it then holds no more than it leaves free: half when it is the
 * first to need much, and always something for the next.
 */
import { collectGarbage } from './garbage.ts';
import { GuestLimit, Instance } from './instance.ts';
import type { InstanceHost } from './instance.ts';
import type { ThreadBounds } from './protocol.ts';
import type { Unit } from './unit.ts';

const MIB = 1 << 20;
/**
 * An instance whose block memory has grown beyond this is not kept: such memory never shrinks. Enough for
 * inputs and outputs of 1 MiB, for what a new instance costs is ten times what those do.
 */
const KEPT_ARENA_BYTES = 4 * MIB;
/** Tables live in the heap of the thread, at 16 bytes a slot: a quarter of what that may have. */
const MAX_TABLE_SLOTS = 1 << 22;
const HOUSEKEEPING_MS = 1000;
/** Housekeeping collects garbage once instances of so many bytes have been let go. */
const COLLECTED_BYTES = 4 << 20;

export interface InstancePoolOptions {
  readonly arena: WebAssembly.Module;
  readonly bounds: ThreadBounds;
  readonly host: InstanceHost;
  /** Whether no other plugin is loaded in this host. */
  readonly alone: () => boolean;
  /** Called by housekeeping, at most once a second, while there is something to attend to. */
  readonly report: () => void;
}

export class InstancePool {
  readonly #options: InstancePoolOptions;
  readonly #changed = new Set<Unit>();
  /** Units with idle instances. */
  readonly #idle = new Set<Unit>();
  #idleCount = 0;
  #bytes = 0;
  #tableSlots = 0;
  /** Linear memory let go since the last collection. */
  #released = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: InstancePoolOptions) {
    this.#options = options;
  }

  /** An idle instance of the unit, or a new one. Throws GuestLimit, or what the module's start throws. */
  take(unit: Unit): Instance {
    const kept = unit.idle.pop();
    if (kept !== undefined) {
      this.#idleCount -= 1;
      return kept;
    }
    this.#checkTables(unit);
    let instance: Instance;
    try {
      instance = new Instance(unit, this.#options.arena, this.#options.host);
    } catch (error) {
      if (error instanceof RangeError && error.message.includes('memory')) {
        throw new GuestLimit('There is no memory for another instance of the plugin.');
      }
      throw error;
    }
    unit.instances += 1;
    this.#tableSlots += unit.spec.tableSlots;
    try {
      this.count(instance);
    } catch (error) {
      this.drop(instance);
      throw error;
    }
    return instance;
  }

  /** Throws GuestLimit when the tables of one more instance have no room, idle instances gone. */
  #checkTables(unit: Unit): void {
    const { tableSlots } = unit.spec;
    const lacks = (): boolean => {
      const free = MAX_TABLE_SLOTS - this.#tableSlots;
      const held = unit.instances * tableSlots;
      return tableSlots > free || (held + tableSlots > free && !this.#options.alone());
    };
    if (tableSlots === 0) return;
    while (lacks() && this.#idleCount > 0) this.#dropIdle(this.#oldest());
    if (!lacks()) return;
    throw new GuestLimit(
      `There is no room for the tables of another instance of the plugin, ${tableSlots} slots; give its tables a lower maximum or make fewer calls at a time.`,
    );
  }

  /** Keeps the instance for the next call, or drops it when it is not worth its memory. */
  give(instance: Instance): void {
    const { unit } = instance;
    instance.job = undefined;
    this.#update(instance);
    const grown = instance.arena.byteLength > KEPT_ARENA_BYTES;
    const { memoryBytes, idleInstances } = this.#options.bounds;
    if (unit.closed || grown || this.#bytes > memoryBytes) return this.drop(instance);
    instance.idleSince = performance.now();
    unit.idle.push(instance);
    this.#idle.add(unit);
    this.#idleCount += 1;
    if (this.#idleCount > idleInstances) this.#dropIdle(this.#oldest());
    this.attend();
  }

  /** Forgets an instance that is not idle; its memory goes with the next garbage collection. */
  drop(instance: Instance): void {
    const { unit } = instance;
    instance.job = undefined;
    unit.instances -= 1;
    this.#tableSlots -= unit.spec.tableSlots;
    unit.bytes -= instance.counted;
    this.#bytes -= instance.counted;
    this.#released += instance.counted;
    instance.counted = 0;
    this.#changed.add(unit);
    this.attend();
  }

  /**
   * Brings the budget up to date. Throws GuestLimit when it is exceeded, or when the instance has grown
   * and its plugin is over its share, and no idle instance can go.
   */
  count(instance: Instance): void {
    const grown = this.#update(instance) > 0;
    const { memoryBytes } = this.#options.bounds;
    const { unit } = instance;
    const isOver = (): boolean => this.#bytes > memoryBytes;
    const isGreedy = (): boolean =>
      grown && unit.bytes > memoryBytes - this.#bytes && !this.#options.alone();
    while ((isOver() || isGreedy()) && this.#idleCount > 0) this.#dropIdle(this.#oldest());
    const budget = `${Math.floor(memoryBytes / MIB)} MiB of memory`;
    if (isOver()) {
      throw new GuestLimit(`The plugins of one worker together are over ${budget}.`);
    }
    if (isGreedy()) {
      const held = Math.ceil(unit.bytes / MIB);
      throw new GuestLimit(
        `The plugin would hold ${held} of a worker's ${budget}, which is more than it would leave to others; make fewer calls at a time or lower limits.memoryMiB.`,
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
    const limit = performance.now() - this.#options.bounds.idleMs;
    for (const unit of this.#idle) {
      // Idle instances are a stack: the first has waited longest.
      while ((unit.idle[0]?.idleSince ?? Infinity) < limit) this.#dropIdle(unit);
    }
    this.#options.report();
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

  /** Answers by how many bytes it has grown since it was last counted. */
  #update(instance: Instance): number {
    const by = instance.byteLength - instance.counted;
    if (by === 0) return 0;
    instance.unit.bytes += by;
    this.#bytes += by;
    instance.counted += by;
    this.#changed.add(instance.unit);
    return by;
  }
}
