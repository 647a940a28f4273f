/**
 * Several processes that serve on one port (`server.workers`). This one holds what a machine has once: the
 * data folder, the embedded engines, the lines of the plugins' logs and the metrics of all. It serves
 * nobody itself. Invariants: a worker that ends by itself is replaced, ever later when it goes on; a new
 * configuration replaces the workers one by one, and an old one goes only when its successor serves.
 */
import cluster, { type Worker } from 'node:cluster';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import type { Config } from '../config.ts';
import type { Engines } from '../engines.ts';
import { type Host, openHost } from '../start.ts';
import { addUp, type MetricSnapshot } from '../telemetry/metrics.ts';
import type { Logs } from '../telemetry/logs.ts';
import { PastCounters } from '../telemetry/past-counters.ts';
import type { LogLine } from '../telemetry/plugin-logs.ts';
import { Peer } from './peer.ts';
import type { EngineCall, EngineName, Start } from './worker.ts';

const CONVERGE_MS = 1000;
const RESTART_MS = 250;
const MAX_RESTART_MS = 30_000;
/** Who served for so long before it ended is replaced at once. */
const HEALTHY_MS = 60_000;
/** Beyond the drain that the configuration allows. */
const CLOSE_MS = 10_000;
/** The embedded PostgreSQL takes 100 connections, and each worker has its own. */
const MAX_EMBEDDED_WORKERS = 8;

interface Member {
  readonly number: number;
  readonly worker: Worker;
  readonly peer: Peer;
  readonly since: number;
  url: string;
  /** It was told to end. */
  leaving: boolean;
  /** As far as they were last asked for. */
  metrics: MetricSnapshot;
}

/** Starts a host of `server.workers` processes. Rejects with NoaError for the operator. */
export async function startFleet(
  config: Config,
  onProgress?: (step: string) => void,
): Promise<Host> {
  const { workers } = config.server;
  if (config.database.url === undefined && workers > MAX_EMBEDDED_WORKERS) {
    const rule = `server.workers is ${workers}, and the embedded PostgreSQL serves at most ${MAX_EMBEDDED_WORKERS}`;
    throw new NoaError('INVALID_ARGUMENT', `${rule}: set database.url, or fewer workers`);
  }
  return openHost(config, onProgress, async (engines, logs, progress) => {
    const { blob, vector, shareCache, ...shared } = engines;
    const drivers = { blob, vector };
    const fleet = new Fleet({ ...shared, cache: await shareCache() }, drivers, logs, progress);
    try {
      await fleet.start(config);
    } catch (error) {
      await fleet.stop();
      throw error;
    }
    return {
      url: fleet.url,
      metrics: () => fleet.metrics(),
      reload: (next) => fleet.reload(next),
      stop: () => fleet.stop(),
    };
  });
}

class Fleet {
  readonly #shared: Start['engines'];
  readonly #drivers: Pick<Engines, 'blob' | 'vector'>;
  readonly #logs: Logs;
  readonly #onProgress: (step: string) => void;
  readonly #members = new Map<number, Member>();
  readonly #past = new PastCounters();
  #config: Config | undefined;
  #reloading: Promise<void> = Promise.resolve();
  #failures = 0;
  #stopping = false;

  constructor(
    shared: Start['engines'],
    drivers: Pick<Engines, 'blob' | 'vector'>,
    logs: Logs,
    onProgress: (step: string) => void,
  ) {
    this.#shared = shared;
    this.#drivers = drivers;
    this.#logs = logs;
    this.#onProgress = onProgress;
    // Workers accept by themselves. A connection that Node hands to a worker which is killed just then is
    // never answered nor closed, and handing over halves what the host serves.
    cluster.schedulingPolicy = cluster.SCHED_NONE;
    cluster.setupPrimary({
      exec: join(import.meta.dirname, 'worker.ts'),
      args: [],
      execArgv: process.execArgv,
      serialization: 'advanced',
    });
  }

  get url(): string {
    const [first] = this.#members.values();
    return first?.url ?? '';
  }

  /** One after the other: the first makes the schema, and takes the port that the others share. */
  async start(config: Config): Promise<void> {
    this.#config = config;
    for (let count = 0; count < config.server.workers; count += 1) await this.#launch(config);
  }

  /** Takes a new configuration by and by, with a worker more than there are until it is done. */
  reload(config: Config): void {
    this.#logs.setLevel(config.observability.log_level);
    this.#reloading = this.#reloading.then(async () => {
      if (this.#stopping) return;
      const old = [...this.#members.values()];
      try {
        for (const member of old) {
          if (member.leaving) continue;
          await this.#launch(config);
          await this.#dismiss(member);
        }
        this.#config = config;
        this.#log().info(`${old.length} workers were replaced`);
      } catch (error) {
        const text = 'a worker with the new configuration does not start; the old ones stay';
        this.#log().error({ error }, text);
      }
    });
  }

  /** Of those that have ended too: no counter that was ever told goes down. */
  async metrics(): ReturnType<typeof addUp> {
    const asked = [...this.#members.values()].map((member) => this.#measure(member, 'metrics'));
    await Promise.all(asked);
    const live = Array.from(this.#members.values(), ({ metrics }) => metrics);
    return addUp([this.#past.snapshot(), ...live]);
  }

  /** Takes what a worker answers with. Of one that cannot answer any more, what was known stays. */
  async #measure(member: Member, method: 'metrics' | 'stop'): Promise<void> {
    const { peer } = member;
    const metrics = await peer.ask<MetricSnapshot>(method, {}).catch(() => member.metrics);
    member.metrics = metrics;
  }

  /**
   * Has all others take over what one has changed. Whoever is too slow, or starts just now, finds it by
   * itself within the second in which other hosts do.
   */
  async #converge(changed: number): Promise<void> {
    const others = [...this.#members.values()].filter(
      ({ number, url, leaving }) => number !== changed && url !== '' && !leaving,
    );
    const done = others.map(({ peer }) => peer.ask('sync', {}).catch(() => undefined));
    await Promise.race([Promise.all(done), sleep(CONVERGE_MS, undefined, { ref: false })]);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#reloading;
    await Promise.all([...this.#members.values()].map((member) => this.#dismiss(member)));
  }

  #log() {
    return this.#logs.logger('fleet');
  }

  /** The least number that nobody has: a worker's audit chain goes on where the last of its number ended. */
  #freeNumber(): number {
    let number = 1;
    while (this.#members.has(number)) number += 1;
    return number;
  }

  async #launch(config: Config): Promise<void> {
    const number = this.#freeNumber();
    const worker = cluster.fork();
    const peer = new Peer(
      {
        send: (message) => void (worker.isConnected() && worker.send(message)),
        onMessage: (listener) => void worker.on('message', listener),
      },
      this.#methods(number),
      (message, error) => this.#log().error({ error, worker: number }, message),
    );
    const member: Member = {
      number,
      worker,
      peer,
      since: performance.now(),
      url: '',
      leaving: false,
      metrics: [],
    };
    this.#members.set(number, member);
    worker.on('error', (error) => this.#log().error({ error, worker: number }, 'a worker failed'));
    worker.once('exit', (code, signal) => this.#ended(member, String(signal ?? code)));
    const { hostId } = this.#shared;
    const engines = { ...this.#shared, hostId: `${hostId}-${number}` };
    try {
      const order: Start = { config: share(config), worker: number, engines };
      member.url = (await peer.ask<{ url: string }>('start', order)).url;
      this.#log().info({ worker: number, pid: worker.process.pid }, 'a worker serves');
    } catch (error) {
      await this.#dismiss(member);
      throw error;
    }
  }

  /** What a worker may ask for. */
  #methods(asking: number) {
    const { plugins } = this.#logs;
    return {
      engine: ({ engine, operation, input, ...call }: EngineCall, signal: AbortSignal) =>
        this.#drivers[engine].invoke(operation, input, { ...call, signal, chain: undefined }),
      checkEngine: ({ engine }: { engine: EngineName }) => this.#drivers[engine].check(),
      dropArea: ({ engine, plugin }: { engine: EngineName; plugin: string }) =>
        this.#drivers[engine].drop?.(plugin),
      noteLine: ({ plugin, line }: { plugin: string; line: LogLine }) =>
        void plugins.append(plugin, line.level, line.message),
      readLines: ({ plugin, ...query }: { plugin: string; since: number; limit: number }) =>
        plugins.read(plugin, query),
      forgetLines: ({ plugin }: { plugin: string }) => {
        plugins.forget(plugin);
        this.#past.forget(plugin);
      },
      metrics: () => this.metrics(),
      converge: () => this.#converge(asking),
      progress: ({ step }: { step: string }) => this.#onProgress(step),
    };
  }

  /** Lets a worker finish what runs; one that does not end in time is killed. */
  async #dismiss(member: Member): Promise<void> {
    member.leaving = true;
    const { worker } = member;
    if (worker.isDead()) return;
    const gone = once(worker, 'exit');
    const { server, plugins } = this.#config ?? {};
    const ms = (server?.drain_ms ?? 0) + (plugins?.drain_ms ?? 0) + CLOSE_MS;
    const late = setTimeout(() => worker.process.kill('SIGKILL'), ms);
    // One that cannot stop any more has ended by itself, or is killed.
    await this.#measure(member, 'stop');
    worker.disconnect();
    await gone;
    clearTimeout(late);
  }

  #ended(member: Member, how: string): void {
    member.peer.end();
    this.#members.delete(member.number);
    this.#past.add(member.metrics);
    if (member.leaving || this.#stopping || member.url === '') return;
    const lived = performance.now() - member.since;
    this.#failures = lived > HEALTHY_MS ? 0 : this.#failures + 1;
    const wait =
      this.#failures === 0 ? 0 : Math.min(RESTART_MS * 2 ** (this.#failures - 1), MAX_RESTART_MS);
    this.#log().error(
      { worker: member.number, how },
      `a worker ended; another starts in ${wait} ms`,
    );
    setTimeout(() => this.#replace(), wait);
  }

  #replace(): void {
    const config = this.#config;
    if (this.#stopping || config === undefined) return;
    const missing = config.server.workers - this.#members.size;
    if (missing <= 0) return;
    this.#launch(config).catch((error: unknown) => {
      this.#failures += 1;
      const wait = Math.min(RESTART_MS * 2 ** this.#failures, MAX_RESTART_MS);
      this.#log().error({ error }, `a worker does not start; it is tried again in ${wait} ms`);
      setTimeout(() => this.#replace(), wait);
    });
  }
}

/** What is bounded for the whole host, a worker has its part of. */
function share(config: Config): Config {
  const { workers } = config.server;
  const part = (whole: number, least = 1): number => Math.max(least, Math.ceil(whole / workers));
  const { plugins, database, events, inference } = config;
  const threads = plugins.threads === 0 ? availableParallelism() - 1 : plugins.threads;
  return {
    ...config,
    database: { ...database, max_connections: part(database.max_connections, 4) },
    events: { ...events, max_per_second: part(events.max_per_second) },
    inference: {
      ...inference,
      workers: part(inference.workers === 0 ? availableParallelism() : inference.workers),
      memory_mib: part(inference.memory_mib, 16),
      max_queued: part(inference.max_queued),
    },
    plugins: {
      ...plugins,
      threads: part(threads),
      max_processes: part(plugins.max_processes),
    },
  };
}
