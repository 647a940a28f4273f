/** A host: its engines, what serves on them (one front here, several processes in `fleet`), its metrics listener. */
import type { Config } from './config.ts';
import { type Engines, openEngines } from './engines.ts';
import { startFront } from './main.ts';
import { createLogs, type Logs, type LogsOptions } from './telemetry/logs.ts';
import { createMetricsListener, type Metrics } from './transports/metrics.ts';

export interface Host {
  readonly url: string;
  readonly metricsUrl: string;
  readonly dataPath: string;
  /** What runs inside this process instead of a service. */
  readonly embedded: readonly string[];
  /** The bootstrap token, when this start made it: it is shown once. */
  readonly newToken: string | undefined;
  /** Resolves with the reason when the host cannot go on. */
  readonly failed: Promise<Error>;
  /** Takes what may change while running. */
  reload(config: Config): void;
  /** Finishes what runs, then closes everything. Idempotent. */
  stop(): Promise<void>;
}

/** What serves callers, on engines that it was given. */
export interface Serving {
  readonly url: string;
  readonly metrics: () => Promise<Metrics>;
  reload(config: Config): void;
  stop(): Promise<void>;
}

/** Starts a host of one process. `onProgress` hears of steps that take seconds. Rejects with NoaError for the operator. */
export function startHost(config: Config, onProgress?: (step: string) => void): Promise<Host> {
  return openHost(config, onProgress, async (engines, logs, progress) => {
    const base = { engines, logs, pluginLines: logs.plugins };
    const front = await startFront(config, base, progress);
    return { ...front, metrics: front.metrics.expose };
  });
}

/** Opens what every host has once, has `serve` serve on it, and closes all in reverse. Rejects with NoaError. */
export async function openHost(
  config: Config,
  onProgress: (step: string) => void = () => undefined,
  serve: (engines: Engines, logs: Logs, onProgress: (step: string) => void) => Promise<Serving>,
): Promise<Host> {
  await using parts = new AsyncDisposableStack();
  const logs = openLogs(config);
  parts.defer(() => logs.close());
  const failure = Promise.withResolvers<Error>();
  const engines = parts.use(await openEngines(config, logs.logger, onProgress, failure.resolve));
  const serving = await serve(engines, logs, onProgress);
  parts.defer(() => serving.stop());
  const metricsListener = createMetricsListener({
    metrics: serving.metrics,
    onError: (message, error) => logs.logger('host').error({ error }, message),
  });
  const { metrics_bind: host, metrics_port: port } = config.observability;
  const { url: metricsUrl } = await metricsListener.listen({ host, port });
  parts.defer(() => metricsListener.close());

  const running = parts.move();
  let stopping: Promise<void> | undefined;
  return {
    url: serving.url,
    metricsUrl,
    dataPath: engines.path,
    embedded: engines.embedded,
    newToken: engines.bootstrap.made ? engines.bootstrap.token : undefined,
    failed: failure.promise,
    reload: (next) => serving.reload(next),
    stop: () => (stopping ??= running.disposeAsync()),
  };
}

/** The log of a process of the host. */
export function openLogs(
  { observability, plugins }: Config,
  more: Pick<LogsOptions, 'worker' | 'onPluginLine'> = {},
): Logs {
  return createLogs({
    level: observability.log_level,
    format: observability.log_format ?? (process.stdout.isTTY ? 'pretty' : 'json'),
    pluginLines: plugins.log_lines,
    now: Date.now,
    ...more,
  });
}
