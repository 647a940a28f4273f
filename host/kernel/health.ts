/**
 * How a plugin fares in this host: its calls of the last minute and its last error. Invariant: what is kept
 * of a plugin is of one size, however often it is called.
 */
import type { ErrorCode, NoaError } from '@noa/sdk/host';
import type { CallObservation } from './dispatcher.ts';
import type { PluginDetail } from './views.ts';

/** A minute is kept in slices, and the oldest is given up as a whole. */
const SLICE_MS = 5000;
const SLICES = 12;
/** Durations are kept in classes: up to a tenth of a millisecond, and each next a fifth longer. */
const CLASSES = 80;
const LEAST_MS = 0.1;
const STEP = 1.2;

/** `reason` also tells of a plugin that serves which events are kept from it. */
export interface HealthView extends Pick<
  PluginDetail,
  'name' | 'version' | 'state' | 'reason' | 'restarts' | 'instances' | 'memoryBytes' | 'isolation'
> {
  readonly lastMinute: {
    readonly calls: number;
    /** Those that ended by the plugin's own fault, and every call for an event or a schedule that failed. */
    readonly failures: number;
    /** Milliseconds, to a fifth; null without a call. */
    readonly p50Ms: number | null;
    readonly p95Ms: number | null;
  };
  readonly lastError: {
    /** ISO 8601. */
    readonly at: string;
    readonly export: string;
    readonly code: ErrorCode;
    readonly message: string;
  } | null;
  /** Log lines that were not kept since the start of the host, because there were too many at once. */
  readonly droppedLogLines: number;
}

interface Slice {
  /** Which slice of time it is about. */
  number: number;
  calls: number;
  failures: number;
  readonly durations: Uint32Array;
}

interface Fare {
  readonly slices: readonly Slice[];
  lastError: HealthView['lastError'];
}

export class Health {
  readonly #now: () => number;
  readonly #fares = new Map<string, Fare>();

  constructor(now: () => number) {
    this.#now = now;
  }

  call({ plugin, seconds }: CallObservation): void {
    const slice = this.#slice(plugin);
    slice.calls += 1;
    const place = Math.ceil(Math.log((seconds * 1000) / LEAST_MS) / Math.log(STEP));
    const at = Math.min(CLASSES - 1, Math.max(0, place));
    slice.durations[at] = (slice.durations[at] ?? 0) + 1;
  }

  /** Notes a call that is to count as failed. */
  fault(plugin: string, name: string, { code, message }: NoaError): void {
    this.#slice(plugin).failures += 1;
    const at = new Date(this.#now()).toISOString();
    const lastError = { at, export: name, code, message: message.slice(0, 500) };
    this.#of(plugin).lastError = lastError;
  }

  view(detail: PluginDetail, droppedLogLines: number): HealthView {
    const { name, version, state, restarts, instances, memoryBytes, isolation } = detail;
    const still = detail.subscriptions.find(({ undelivered }) => undelivered !== null);
    const reason = detail.reason ?? still?.undelivered ?? null;
    const fare = this.#fares.get(name);
    const oldest = this.#number() - SLICES;
    const slices = (fare?.slices ?? []).filter(({ number }) => number > oldest);
    const sum = (part: (slice: Slice) => number): number =>
      slices.reduce((total, slice) => total + part(slice), 0);
    const calls = sum((slice) => slice.calls);
    const longest = (share: number): number | null => {
      let left = Math.ceil(calls * share);
      for (let at = 0; at < CLASSES && calls > 0; at += 1) {
        left -= sum(({ durations }) => durations[at] ?? 0);
        if (left <= 0) return Math.round(LEAST_MS * STEP ** at * 10) / 10;
      }
      return null;
    };
    const [p50Ms, p95Ms] = [longest(0.5), longest(0.95)];
    return {
      name,
      version,
      state,
      reason,
      restarts,
      instances,
      memoryBytes,
      isolation,
      lastMinute: { calls, failures: sum(({ failures }) => failures), p50Ms, p95Ms },
      lastError: fare?.lastError ?? null,
      droppedLogLines,
    };
  }

  /** Frees what is kept of a removed plugin. */
  forget(plugin: string): void {
    this.#fares.delete(plugin);
  }

  #number(): number {
    return Math.floor(this.#now() / SLICE_MS);
  }

  #of(plugin: string): Fare {
    let fare = this.#fares.get(plugin);
    if (fare === undefined) {
      const slices = Array.from({ length: SLICES }, () => ({
        number: -SLICES,
        calls: 0,
        failures: 0,
        durations: new Uint32Array(CLASSES),
      }));
      this.#fares.set(plugin, (fare = { slices, lastError: null }));
    }
    return fare;
  }

  #slice(plugin: string): Slice {
    const number = this.#number();
    const slice = this.#of(plugin).slices[number % SLICES];
    if (slice === undefined) throw new RangeError('the clock stands before the epoch');
    if (slice.number !== number) {
      slice.durations.fill(0);
      Object.assign(slice, { number, calls: 0, failures: 0 });
    }
    return slice;
  }
}
