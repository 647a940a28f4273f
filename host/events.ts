/**
 * The host's part in events: the log with its retention and its notices, and the calls that it makes for
 * events and at times, each opened as one thing and closed as one. Only main.ts uses it.
 */
import { randomUUID } from 'node:crypto';
import type { NoaError } from '@noa/sdk/host';
import type { ClientConfig, Pool } from 'pg';
import type { Config } from './config.ts';
import { DeadLetters } from './kernel/dead-letters.ts';
import { Delivery } from './kernel/delivery.ts';
import type { Invocation } from './kernel/invocation.ts';
import type { Kernel } from './kernel/kernel.ts';
import { Schedules } from './kernel/schedules.ts';
import type { Tracer } from './kernel/tracing.ts';
import type { Trigger } from './kernel/trigger.ts';
import { PostgresDeliveries } from './store/deliveries.ts';
import { EVENTS_CHANNEL, PostgresEvents } from './store/events.ts';
import { listenTo } from './store/notices.ts';
import { PostgresSchedules } from './store/schedules.ts';

const SWEEP_MS = 60_000;

type OnError = (message: string, error: unknown) => void;

export interface EventLog extends AsyncDisposable {
  readonly events: PostgresEvents;
}

/** `connection` is for the session that hears of other hosts' events. */
export function openEventLog(
  pool: Pool,
  connection: ClientConfig,
  { max_age_hours, max_count, max_bytes }: Config['events'],
  onError: OnError,
): EventLog {
  const events = new PostgresEvents(pool);
  const notices = listenTo(connection, EVENTS_CHANNEL, () => events.notice());
  const maxAgeMs = max_age_hours * 3_600_000;
  const retention = { maxAgeMs, maxCount: max_count, maxBytes: max_bytes };
  let sweeping: Promise<unknown> | undefined;
  const timer = setInterval(() => {
    sweeping ??= events
      .sweep(retention)
      .catch((error: unknown) => onError('old events cannot be deleted now', error))
      .finally(() => (sweeping = undefined));
  }, SWEEP_MS).unref();
  return {
    events,
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      events.close();
      await notices[Symbol.asyncDispose]();
      await sweeping;
    },
  };
}

export interface DeliveryParts {
  readonly kernel: Kernel;
  readonly events: PostgresEvents;
  readonly pool: Pool;
  readonly config: Config['events'];
  /** Names this host. */
  readonly host: string;
  /** Longest wait for running calls when the host stops. */
  readonly drainMs: number;
  readonly tracer: Tracer | undefined;
  readonly onError: OnError;
}

/** Calls the plugins that serve here, for events and at their times, until it is disposed of. */
export function startDelivery({
  kernel,
  events,
  pool,
  config,
  host,
  drainMs,
  tracer,
  onError,
}: DeliveryParts): AsyncDisposable & { readonly deadLetters: DeadLetters } {
  const { dispatcher, supervisor, audit, administration } = kernel;
  const serving = () => [...supervisor.units.values()].flatMap((unit) => unit.serving ?? []);
  const common = {
    store: new PostgresDeliveries(pool),
    dispatch: (invocation: Invocation) => dispatcher.dispatch(invocation),
    noteFailure: (trigger: Trigger, failure: NoaError) => kernel.noteTriggered(trigger, failure),
    audit,
    tracer,
    newId: randomUUID,
  };
  const delivery = new Delivery({
    ...common,
    events,
    host,
    serving,
    isApproved: (grant) => supervisor.isApproved(grant),
    attempts: config.attempts,
    retryMs: config.retry_ms,
    now: Date.now,
    drainMs,
    random: Math.random,
    onError,
  });
  const schedules = new Schedules({
    ...common,
    store: new PostgresSchedules(pool),
    host,
    serving,
    drainMs,
    now: Date.now,
    onError,
  });
  const assertPlugin = (name: string) => void administration.plugin(name);
  delivery.start();
  schedules.start();
  return {
    deadLetters: new DeadLetters({
      ...common,
      assertPlugin,
      assertServing: (name) => void supervisor.serving(name),
    }),
    async [Symbol.asyncDispose]() {
      await Promise.all([delivery.close(), schedules.close()]);
    },
  };
}
