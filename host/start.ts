/** A host of one process: its engines, its front, its metrics listener. */
import type { Config } from './config.ts';
import { openEngines } from './engines.ts';
import { startFront } from './main.ts';
import { createLogs, type Logs, type LogsOptions } from './telemetry/logs.ts';
import { createMetricsListener } from './transports/metrics.ts';

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

/** Starts a host. `onProgress` hears of steps that take seconds. Rejects with NoaError for the operator. */
export async function startHost(
  config: Config,
  onProgress: (step: string) => void = () => undefined,
): Promise<Host> {
  await using parts = new AsyncDisposableStack();
  const logs = openLogs(config);
  parts.defer(() => logs.close());
  const failure = Promise.withResolvers<Error>();
  const engines = parts.use(await openEngines(config, logs.logger, onProgress, failure.resolve));
  const base = { engines, logs, pluginLines: logs.plugins };
  const front = await startFront(config, base, onProgress);
  parts.defer(() => front.stop());
  const metricsListener = createMetricsListener({
    metrics: front.metrics.expose,
    onError: (message, error) => logs.logger('host').error({ error }, message),
  });
  const { metrics_bind: host, metrics_port: port } = config.observability;
  const { url: metricsUrl } = await metricsListener.listen({ host, port });
  parts.defer(() => metricsListener.close());

  const running = parts.move();
  let stopping: Promise<void> | undefined;
  return {
    url: front.url,
    metricsUrl,
    dataPath: engines.path,
    embedded: engines.embedded,
    newToken: engines.bootstrap.made ? engines.bootstrap.token : undefined,
    failed: failure.promise,
    reload: (next) => front.reload(next),
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
