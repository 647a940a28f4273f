/**
 * What each plugin may keep in the database. PostgreSQL has no bound on a schema, so the host measures:
 * once a second while a plugin writes, and after. Over the bound its running writes are ended, and only
 * statements that free space are taken until it is below. Invariant: what a plugin has grows beyond the
 * bound by no more than its sessions write in about a second, and once.
 *
 * What a transaction makes is in no catalog before its commit. For that there is a second line: a write
 * during which the whole database grows by more than the bound is ended too, whoever made it grow.
 */
import { type Json, NoaError } from '@noa/sdk/host';

export interface QuotaBounds {
  /** Of tables with their indexes and large values, as files, and of definitions in the catalogs. */
  readonly bytes: number;
  /** Tables, indexes, views, sequences, functions and types together. */
  readonly objects: number;
  readonly columns: number;
}

export interface Usage {
  readonly bytes: number;
  readonly objects: number;
  readonly columns: number;
}

export interface QuotaOptions {
  readonly bounds: QuotaBounds;
  /** Undefined when a lock of the plugin's is in the way. */
  readonly measure: (plugin: string) => Promise<Usage | undefined>;
  /** Size of the whole database in bytes. */
  readonly total: () => Promise<number>;
  /** Told when the database cannot be measured. */
  readonly warn: (message: string) => void;
}

interface Write {
  readonly plugin: string;
  readonly stop: (error: Error) => void;
  /** Size of the database when this write was first seen. */
  from: number | undefined;
}

/** Of a plugin that is over a bound. */
interface Over {
  readonly reason: string;
  /** The least it had since its other writes were ended. */
  readonly least: number | undefined;
  /** What should have freed space made it grow. */
  readonly closed: boolean;
}

const INTERVAL_MS = 1_000;
/** What statements that only free space may add: new versions of catalog rows, a page here and there. */
const SLACK_BYTES = 16 << 20;
/** Begins a statement that frees space, or makes what is free usable. */
const FREEING = /^\s*(DELETE|TRUNCATE|DROP|VACUUM)\b/i;
const MiB = 1 << 20;

export class Quotas {
  readonly #options: QuotaOptions;
  readonly #writes = new Set<Write>();
  /** Plugins that wrote since they were last measured. */
  readonly #dirty = new Set<string>();
  readonly #over = new Map<string, Over>();
  /** Plugins that wrote and could not be measured at the last look. */
  readonly #unmeasured = new Set<string>();
  readonly #timer: NodeJS.Timeout;
  #measuring = false;
  /** The last look failed, or nobody wants to hear of it any more. */
  #blind = false;

  constructor(options: QuotaOptions) {
    this.#options = options;
    this.#timer = setInterval(() => void this.#watch(), INTERVAL_MS).unref();
  }

  /** To be measured soon. */
  touch(plugin: string): void {
    this.#dirty.add(plugin);
  }

  forget(plugin: string): void {
    this.#dirty.delete(plugin);
    this.#over.delete(plugin);
    this.#unmeasured.delete(plugin);
  }

  /** Throws RESOURCE_EXHAUSTED when the plugin is over a bound and this does not make it less. */
  admit(plugin: string, input: Json): void {
    const over = this.#over.get(plugin);
    // Somebody else may have made room.
    if (over) this.#dirty.add(plugin);
    if (!over || (!over.closed && statementsOf(input).every(isFreeing))) return;
    throw refusal(over.reason, over.closed);
  }

  /** Keeps watch over a write while `work` runs; `stop` ends it. */
  async during<T>(plugin: string, stop: (error: Error) => void, work: () => Promise<T>) {
    const write: Write = { plugin, stop, from: undefined };
    this.#writes.add(write);
    this.#dirty.add(plugin);
    try {
      return await work();
    } finally {
      this.#writes.delete(write);
      this.#dirty.add(plugin);
    }
  }

  async #watch(): Promise<void> {
    if (this.#measuring || this.#dirty.size === 0) return;
    this.#measuring = true;
    try {
      const due = [...this.#dirty];
      for (const plugin of due) await this.#judge(plugin);
      if (this.#writes.size > 0) this.#judgeWrites(await this.#options.total());
      this.#blind = false;
    } catch (error) {
      // What is dirty stays so: the next look comes in a second. Told once, not each second.
      const text = error instanceof Error ? error.message : String(error);
      if (!this.#blind) this.#options.warn(`db: what plugins keep cannot be measured: ${text}`);
      this.#blind = true;
    } finally {
      this.#measuring = false;
    }
  }

  async #judge(plugin: string): Promise<void> {
    const busy = [...this.#writes].filter((write) => write.plugin === plugin);
    const usage = await this.#options.measure(plugin);
    if (usage === undefined) return this.#judgeUnseen(plugin, busy);
    this.#unmeasured.delete(plugin);
    const reason = this.#exceeded(usage);
    const before = this.#over.get(plugin);
    if (busy.length === 0 && (reason === undefined || before)) this.#dirty.delete(plugin);
    if (reason === undefined) {
      this.#over.delete(plugin);
      return;
    }
    // What was running when it was found may have grown until it was ended: the second look counts.
    const grew = usage.bytes > (before?.least ?? usage.bytes) + SLACK_BYTES;
    const least = before && Math.min(before.least ?? usage.bytes, usage.bytes);
    const closed = grew || before?.closed === true;
    this.#over.set(plugin, { reason, least, closed });
    if (before && !grew) return;
    for (const { stop } of busy) stop(refusal(reason, closed));
  }

  /** Locks of its own that hide what a plugin has are ended with its writes at the second look. */
  #judgeUnseen(plugin: string, busy: readonly Write[]): void {
    if (busy.length === 0 || !this.#unmeasured.has(plugin)) {
      if (busy.length > 0) this.#unmeasured.add(plugin);
      return;
    }
    const text =
      'db: locks of this plugin keep what it has from being measured (plugins.db_max_bytes); hold them for less than a second';
    for (const { stop } of busy) stop(new NoaError('RESOURCE_EXHAUSTED', text));
  }

  #judgeWrites(total: number): void {
    for (const write of this.#writes) {
      write.from ??= total;
      if (total - write.from <= this.#options.bounds.bytes) continue;
      const bound = `${Math.round(this.#options.bounds.bytes / MiB)} MiB (plugins.db_max_bytes)`;
      const text = `db: the database grew by more than ${bound} during this write; write less at a time`;
      write.stop(new NoaError('RESOURCE_EXHAUSTED', text));
    }
  }

  #exceeded({ bytes, objects, columns }: Usage): string | undefined {
    const { bounds } = this.#options;
    if (bytes > bounds.bytes) {
      const [has, may] = [bytes, bounds.bytes].map((size) => `${Math.ceil(size / MiB)} MiB`);
      return `its tables and definitions take ${has}, over the ${may} of plugins.db_max_bytes`;
    }
    if (objects > bounds.objects) {
      return `it has ${objects} tables, indexes, functions and types, over ${bounds.objects}`;
    }
    if (columns > bounds.columns) return `it has ${columns} columns, over ${bounds.columns}`;
    return undefined;
  }

  close(): void {
    this.#blind = true;
    clearInterval(this.#timer);
  }
}

/** The texts of a write's statements. */
function statementsOf(input: Json): unknown[] {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return [];
  const { statements } = input;
  return Array.isArray(statements) ? statements.flatMap(statementsOf) : [input['sql']];
}

function isFreeing(sql: unknown): boolean {
  return typeof sql === 'string' && FREEING.test(sql);
}

function refusal(reason: string, closed: boolean): NoaError {
  const way = closed
    ? 'statements that should free space made it grow: nothing is written until an administrator makes room'
    : 'only statements that begin with DELETE, TRUNCATE, DROP or VACUUM are run until it has less; ' +
      'VACUUM FULL gives back what DELETE leaves';
  return new NoaError('RESOURCE_EXHAUSTED', `db: ${reason}; ${way}`);
}
