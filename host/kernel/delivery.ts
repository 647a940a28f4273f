/**
 * Brings events to the exports that subscribe to them. Invariants: an event is done only when its export
 * has answered or it lies among the dead letters, so each is delivered at least once; one host at a time
 * delivers of a subscription, in order; while a plugin cannot be called its events wait.
 *
 * A host holds a lease of a subscription while it delivers. When it dies the lease runs out and another
 * host goes on after the last event that was noted as done: what was in delivery then comes again.
 */
import { type CloudEvent, covers, type ErrorCode, type Json, type NoaError } from '@noa/sdk/host';
import type { AuditEvent } from './audit.ts';
import type { DeliveryStore, EventReader, Subscription } from './events.ts';
import { overlap } from './grants.ts';
import type { Serving } from './serving.ts';
import { pull, type TriggerPowers } from './trigger.ts';

/** Events read at once, and delivered in one turn of a subscription. */
const PAGE = 16;
const TURN = 128;
/** Subscriptions that this host delivers at the same time, and those of one plugin among them. */
const AT_ONCE = 64;
const OF_ONE_PLUGIN = 4;
/** Beyond an export's own deadline: what a host may be late before another takes over. */
const LEASE_MARGIN_MS = 5000;
/** Ids that a subscription may lag behind without any of its events among them. */
const LAG = 1000;
const MAX_DELAY_MS = 5 * 60_000;
const NEWS = 1000;

export interface DeliveryOptions extends TriggerPowers {
  readonly events: EventReader;
  readonly store: DeliveryStore;
  /** Names this host. */
  readonly host: string;
  /** The plugins that serve in this host now. */
  readonly serving: () => Iterable<Serving>;
  readonly isApproved: (grant: string) => boolean;
  readonly audit: { record(event: AuditEvent): void };
  /** Deliveries of one event before it is given up. */
  readonly attempts: number;
  /** Wait after the first failure; it doubles with each, up to five minutes. */
  readonly retryMs: number;
  readonly now: () => number;
  /** Longest wait for running calls when the host stops. */
  readonly drainMs: number;
  /** From 0 to 1. */
  readonly random: () => number;
  readonly onError: (message: string, error: unknown) => void;
}

/** A subscription of a plugin that serves here. */
interface Active extends Subscription {
  /** There may be events for it. */
  dirty: boolean;
  running: boolean;
  /** Not before, in milliseconds since the epoch. */
  at: number;
}

export class Delivery {
  readonly #options: DeliveryOptions;
  readonly #active = new Map<string, Active>();
  readonly #running = new Set<Promise<void>>();
  readonly #cancel = new AbortController();
  /** Up to here it is known who cares. */
  #seen: number | undefined;
  #looking = false;
  #again = false;
  #away = false;
  #stop: (() => void) | undefined;

  constructor(options: DeliveryOptions) {
    this.#options = options;
  }

  start(): void {
    this.#stop = this.#options.events.onNew(() => this.#wake());
    this.#wake();
  }

  /** Begins no further delivery and waits for those that run; what is late is cancelled and comes again. */
  async close(): Promise<void> {
    this.#stop?.();
    this.#stop = undefined;
    const timer = setTimeout(() => this.#cancel.abort(), this.#options.drainMs);
    await Promise.all(this.#running);
    clearTimeout(timer);
  }

  get #closed(): boolean {
    return this.#stop === undefined;
  }

  #wake(): void {
    this.#again = true;
    if (this.#looking || this.#closed) return;
    this.#looking = true;
    this.#look()
      .then(() => (this.#away = false))
      .catch((error: unknown) => {
        // Said once for each time that the database goes away.
        if (!this.#away) this.#options.onError('the event log cannot be read', error);
        this.#away = true;
      })
      .finally(() => (this.#looking = false));
  }

  /** Finds out which subscriptions there are and which of them have something to do. */
  async #look(): Promise<void> {
    const { events } = this.#options;
    while (this.#again && !this.#closed) {
      this.#again = false;
      this.#refresh();
      // What was published before is found by each subscription from its own cursor.
      this.#seen ??= await events.head();
      const news = await events.subjects(this.#seen, NEWS);
      for (const { id, subject } of news) {
        this.#seen = id;
        for (const each of this.#active.values()) each.dirty ||= covers(each.subject, subject);
      }
      if (news.length === NEWS) this.#again = true;
      this.#begin();
    }
  }

  #refresh(): void {
    const present = new Set<string>();
    for (const { manifest } of this.#options.serving()) {
      for (const { subject, export: target } of manifest.contributes?.subscriptions ?? []) {
        const subscription = { plugin: manifest.name, subject, export: target };
        const key = JSON.stringify(subscription);
        present.add(key);
        if (this.#active.has(key)) continue;
        this.#active.set(key, { ...subscription, dirty: true, running: false, at: 0 });
      }
    }
    for (const key of this.#active.keys()) if (!present.has(key)) this.#active.delete(key);
  }

  #begin(): void {
    const now = this.#options.now();
    for (const [key, each] of this.#active) {
      if (this.#running.size >= AT_ONCE || this.#closed) return;
      if (!each.dirty || each.running || each.at > now) continue;
      const own = [...this.#active.values()].filter((other) => {
        return other.running && other.plugin === each.plugin;
      });
      if (own.length >= OF_ONE_PLUGIN) continue;
      // The next one to be served after the others.
      this.#active.delete(key);
      this.#active.set(key, each);
      each.running = true;
      each.dirty = false;
      const turn = this.#turn(each)
        .catch((error: unknown) => {
          each.dirty = true;
          each.at = this.#options.now() + this.#options.retryMs;
          const what = `events for ${each.plugin}/${each.export} cannot be delivered now`;
          this.#options.onError(what, error);
        })
        .finally(() => {
          each.running = false;
          this.#running.delete(turn);
          this.#wake();
        });
      this.#running.add(turn);
    }
  }

  /** Delivers what there is, up to the length of a turn; leaves `dirty` when something is left. */
  async #turn(each: Active): Promise<void> {
    const { events, store, host, now } = this.#options;
    const open = this.#open(each);
    if (open === undefined) {
      each.dirty = true;
      each.at = now() + 1000;
      return;
    }
    const { subjects, leaseMs } = open;
    const lease = await store.lease(each, host, leaseMs);
    if ('waitMs' in lease) {
      each.dirty = true;
      each.at = now() + Math.max(50, lease.waitMs);
      return;
    }
    let { cursor, attempts } = lease;
    for (let done = 0; done < TURN;) {
      const page = await events.read({ after: cursor, subjects, limit: PAGE });
      for (const event of page.events) {
        if (this.#closed || this.#open(each) === undefined) {
          each.dirty = true;
          await store.release(each, host, { cursor, attempts, delayMs: 0 });
          return;
        }
        const failure = await this.#deliver(each, event);
        if (failure === undefined) {
          const held = await store.advance(each, host, Number(event.id), leaseMs);
          // Another host has taken over; should it go away, this one is to look again.
          each.dirty ||= !held;
          if (!held) return;
        } else if (!(await this.#failed(each, event, cursor, attempts + 1, failure))) return;
        attempts = 0;
        cursor = Number(event.id);
        done += 1;
      }
      if (page.events.length > 0) continue;
      const idle = page.next - cursor > LAG ? page.next : cursor;
      await store.release(each, host, { cursor: idle, attempts, delayMs: 0 });
      return;
    }
    each.dirty = true;
    await store.release(each, host, { cursor, attempts, delayMs: 0 });
  }

  /** What the plugin may be given now; undefined while it does not serve or nothing is granted. */
  #open(each: Active): { subjects: string[]; leaseMs: number } | undefined {
    for (const { manifest, rights, exports } of this.#options.serving()) {
      const target = exports.get(each.export);
      if (manifest.name !== each.plugin || target === undefined) continue;
      const subjects = rights
        .filter(({ capability, operations, grants }) => {
          const right = capability === 'events' && operations.includes('subscribe');
          return right && grants.every((grant) => this.#options.isApproved(grant));
        })
        .flatMap(({ resources }) => resources)
        .flatMap((resource) => overlap(resource, each.subject) ?? []);
      if (subjects.length === 0) return undefined;
      return { subjects: [...new Set(subjects)], leaseMs: target.timeoutMs + LEASE_MARGIN_MS };
    }
    return undefined;
  }

  /** Calls the export; answers why it failed. */
  async #deliver(each: Active, event: CloudEvent): Promise<NoaError | undefined> {
    const failure = await deliver(this.#options, each, event, this.#cancel.signal);
    this.#options.audit.record(deliveryRecord(each, event, failure));
    return failure;
  }

  /** Notes a failed delivery. True when the event is given up and the next may follow. */
  async #failed(
    each: Active,
    event: CloudEvent,
    cursor: number,
    attempts: number,
    failure: NoaError,
  ): Promise<boolean> {
    const { store, host, now, random, retryMs } = this.#options;
    each.dirty = true;
    // A plugin that stopped meanwhile is not to blame, and neither is the event.
    const counted = this.#open(each) === undefined || this.#closed ? attempts - 1 : attempts;
    // What breaks the input schema will do so for ever.
    if (counted >= this.#options.attempts || FOREVER.has(failure.code)) {
      const { code, message } = failure;
      const reason = message.slice(0, 1000);
      return store.bury(each, host, event, { attempts, code, reason });
    }
    const longest = Math.min(MAX_DELAY_MS, retryMs * 2 ** Math.min(20, attempts - 1));
    const delayMs = Math.round(longest * (0.5 + random() / 2));
    each.at = now() + delayMs;
    await store.release(each, host, { cursor, attempts: counted, delayMs });
    return false;
  }
}

const FOREVER: ReadonlySet<ErrorCode> = new Set(['INVALID_ARGUMENT']);

/** Calls the export with the event; answers why it failed. */
export function deliver(
  powers: TriggerPowers,
  { plugin, export: target }: Subscription,
  event: CloudEvent,
  signal: AbortSignal,
): Promise<NoaError | undefined> {
  const input: { [name: string]: Json } = { ...event };
  return pull(powers, { plugin, export: target, input, subject: 'events' }, signal);
}

/** A delivery is a use of the grant `events.subscribe`. */
export function deliveryRecord(
  { plugin, export: target }: Subscription,
  { id, subject }: CloudEvent,
  failure: NoaError | undefined,
): AuditEvent {
  return {
    kind: 'event.delivery',
    actor: 'events',
    plugin,
    capability: 'events',
    operation: 'subscribe',
    resources: [subject],
    outcome: failure === undefined ? 'ok' : 'failed',
    code: failure?.code ?? null,
    details: { event: id, export: target },
  };
}
