/**
 * Calls exports at the times that manifests name. Invariants: of all hosts one calls at each time, by a
 * lease, and another does when that one dies in the middle; however many times were missed, one call makes
 * up for them; a time that the plugin fails is not tried again before the next.
 */
import { type ScheduleSpec, nextCronTime } from '@noa/sdk/host';
import type { AuditEvent } from './audit.ts';
import type { Serving } from './serving.ts';
import { pull, type TriggerPowers } from './trigger.ts';

const LOOK_MS = 250;
/** Beyond an export's own deadline: what a host may be late before another takes over. */
const LEASE_MARGIN_MS = 5000;

export interface ScheduleKey {
  readonly plugin: string;
  readonly name: string;
}

/** Times are in milliseconds since the epoch. */
export interface ScheduleStore {
  /** Notes a schedule that is new, or whose `spec` is, with its first time; answers when it is due. */
  note(key: ScheduleKey, spec: string, first: number): Promise<number>;
  /** Takes the lease of one that is due, or tells when to try again. */
  lease(key: ScheduleKey, holder: string, ms: number): Promise<{ due: number } | { next: number }>;
  /** Ends the holder's lease; the schedule is due again at `next`. */
  finish(key: ScheduleKey, holder: string, next: number): Promise<void>;
}

export interface SchedulesOptions extends TriggerPowers {
  readonly store: ScheduleStore;
  /** Names this host. */
  readonly host: string;
  /** The plugins that serve in this host now. */
  readonly serving: () => Iterable<Serving>;
  readonly audit: { record(event: AuditEvent): void };
  /** Longest wait for running calls when the host stops. */
  readonly drainMs: number;
  readonly now: () => number;
  readonly onError: (message: string, error: unknown) => void;
}

/** A schedule of a plugin that serves here. */
interface Active extends ScheduleKey {
  readonly spec: string;
  /** Not before; 0 until the store has been asked. */
  at: number;
  noted: boolean;
  running: boolean;
}

export class Schedules {
  readonly #options: SchedulesOptions;
  readonly #active = new Map<string, Active>();
  readonly #running = new Set<Promise<void>>();
  readonly #cancel = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: SchedulesOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref();
  }

  /** Begins no further call and waits for those that run; what is late is cancelled. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    const timer = setTimeout(() => this.#cancel.abort(), this.#options.drainMs);
    await Promise.all(this.#running);
    clearTimeout(timer);
  }

  #look(): void {
    const now = this.#options.now();
    const present = new Set<string>();
    for (const serving of this.#options.serving()) {
      for (const schedule of serving.manifest.contributes?.schedules ?? []) {
        const { cron, everyMs, timezone } = schedule;
        const spec = JSON.stringify({ cron, everyMs, timezone });
        const plugin = serving.manifest.name;
        const key = JSON.stringify([plugin, schedule.name, spec]);
        present.add(key);
        let active = this.#active.get(key);
        if (active === undefined) {
          active = { plugin, name: schedule.name, spec, at: 0, noted: false, running: false };
          this.#active.set(key, active);
        }
        if (!active.running && active.at <= now) this.#begin(active, schedule, serving);
      }
    }
    for (const key of this.#active.keys()) if (!present.has(key)) this.#active.delete(key);
  }

  #begin(active: Active, schedule: ScheduleSpec, serving: Serving): void {
    const { now, onError } = this.#options;
    active.running = true;
    const turn = this.#turn(active, schedule, serving)
      .catch((error: unknown) => {
        active.at = now() + 1000;
        onError(`schedule ${active.plugin}/${active.name} cannot be followed now`, error);
      })
      .finally(() => {
        active.running = false;
        this.#running.delete(turn);
      });
    this.#running.add(turn);
  }

  async #turn(active: Active, schedule: ScheduleSpec, serving: Serving): Promise<void> {
    const { store, host, now } = this.#options;
    if (!active.noted) {
      active.at = await store.note(active, active.spec, nextTime(schedule, now(), now()));
      active.noted = true;
      return;
    }
    const target = serving.exports.get(schedule.export);
    const leaseMs = (target?.timeoutMs ?? 0) + LEASE_MARGIN_MS;
    const lease = await store.lease(active, host, leaseMs);
    if ('next' in lease) {
      active.at = lease.next;
      return;
    }
    await this.#fire(active, schedule);
    // Cut off by the end of this host: another one calls again when the lease has run out.
    if (this.#cancel.signal.aborted) return;
    const next = nextTime(schedule, lease.due, now());
    await store.finish(active, host, next);
    active.at = next;
  }

  async #fire({ plugin, name }: Active, schedule: ScheduleSpec): Promise<void> {
    const { export: target, input = null } = schedule;
    const trigger = { plugin, export: target, input, subject: 'schedule' };
    const failure = await pull(this.#options, trigger, this.#cancel.signal);
    this.#options.audit.record({
      kind: 'schedule.run',
      actor: 'schedule',
      plugin,
      capability: null,
      operation: target,
      resources: [],
      outcome: failure === undefined ? 'ok' : 'failed',
      code: failure?.code ?? null,
      details: { schedule: name, ...(failure && { message: failure.message.slice(0, 500) }) },
    });
  }
}

/** The first time after both `due` and `now`; far away when there is none. */
export function nextTime(schedule: ScheduleSpec, due: number, now: number): number {
  const { cron, everyMs, timezone = 'UTC' } = schedule;
  const after = Math.max(due, now);
  if (everyMs !== undefined) return due + (Math.floor((after - due) / everyMs) + 1) * everyMs;
  return nextCronTime(cron ?? '', timezone, after) ?? after + 366 * 86_400_000;
}
