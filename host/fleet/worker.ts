/**
 * One of several processes that serve on one port: it gets its engines from the process that started it
 * (`fleet.ts`) and ends with it. Entry point; run by node:cluster.
 */
import type { Driver, Json } from '@noa/sdk/host';
import type { Config } from '../config.ts';
import type { Engines } from '../engines.ts';
import { type Front, startFront } from '../main.ts';
import { openLogs } from '../start.ts';
import type { MetricSnapshot } from '../telemetry/metrics.ts';
import type { LogPage } from '../telemetry/plugin-logs.ts';
import type { Metrics } from '../transports/metrics.ts';
import { Peer, type Wire } from './peer.ts';

/** What a worker is told at its start. */
export interface Start {
  readonly config: Config;
  readonly worker: number;
  readonly engines: Omit<Engines, EngineName | 'shareCache'>;
}

/** Engines that one process of the host has for all. */
export type EngineName = 'blob' | 'vector';

/** A call of such an engine's driver, without what cannot be sent. */
export interface EngineCall {
  readonly engine: EngineName;
  readonly operation: string;
  readonly input: Json;
  readonly plugin: string;
  readonly resources: readonly string[];
  readonly deadline: number;
}

async function start({ config, worker, engines }: Start): Promise<{ url: string }> {
  const logs = openLogs(config, {
    worker,
    onPluginLine: (plugin, line) => peer.tell('noteLine', { plugin, line }),
  });
  onError = (message, error) => logs.logger('host').error({ error }, message);
  const front = await startFront(
    config,
    {
      engines: {
        ...engines,
        blob: remote('blob'),
        vector: remote('vector'),
        shareCache: () => Promise.resolve(engines.cache),
      },
      logs,
      pluginLines: {
        read: (plugin, query) => peer.ask<LogPage>('readLines', { plugin, ...query }),
        dropped: (plugin) => logs.plugins.dropped(plugin),
        forget: (plugin) => {
          logs.plugins.forget(plugin);
          peer.tell('forgetLines', { plugin });
        },
      },
      exposeAll: () => peer.ask<Metrics>('metrics', {}),
      converge: () =>
        peer
          .ask<void>('converge', {})
          .catch((error: unknown) => onError('other workers do not know of a change yet', error)),
    },
    (step) => peer.tell('progress', { step }),
  );
  running = { front, close: () => logs.close() };
  return { url: front.url };
}

function remote(engine: EngineName): Driver {
  return {
    invoke: (operation, input, { plugin, resources, deadline, signal }) =>
      peer.ask(
        'engine',
        { engine, operation, input, plugin, resources, deadline } satisfies EngineCall,
        signal,
      ),
    check: () => peer.ask('checkEngine', { engine }),
    drop: (plugin) => peer.ask('dropArea', { engine, plugin }),
    close: () => Promise.resolve(), // it belongs to the other process
  };
}

/** Finishes what runs; answers what was counted until then. */
function stop(): Promise<MetricSnapshot> {
  ending ??= (async () => {
    await running?.front.stop();
    running?.close();
    return running?.front.metrics.snapshot() ?? [];
  })();
  return ending;
}

// Before there is a log, what goes wrong ends the process, and its parent tells of it.
let onError = (message: string, error: unknown): void => {
  throw new Error(message, { cause: error });
};
let running: { readonly front: Front; readonly close: () => void } | undefined;
let ending: Promise<MetricSnapshot> | undefined;

const wire: Wire = {
  send: (message) => void process.send?.(message),
  onMessage: (listener) => void process.on('message', listener),
};
const peer = new Peer(
  wire,
  {
    start,
    stop,
    sync: () => running?.front.sync(),
    metrics: () => running?.front.metrics.snapshot() ?? [],
    reload: (config: Config) => running?.front.reload(config),
  },
  (message, error) => onError(message, error),
);

// The signals of a terminal reach every process of its group; the fleet tells this one what to do.
for (const signal of ['SIGINT', 'SIGHUP', 'SIGTERM'] as const) process.on(signal, () => undefined);
process.on('disconnect', () => {
  peer.end();
  void stop().finally(() => process.exit());
});
