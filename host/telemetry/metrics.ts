/**
 * The host's metrics: one function for each thing observed, on a registry of their own. Invariant:
 * labels come from configuration, manifests and fixed lists, never from text that a caller or a guest
 * chose, and the number of series is bounded.
 */
import { AggregatorRegistry, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { measureProcess } from './process.ts';
import { Timings } from './timings.ts';

export interface MetricSources {
  readonly version: string;
  /** Connections to PostgreSQL that are in use now. */
  readonly databaseConnections: () => number;
  /** Linear memory of the live instances of each plugin. */
  readonly pluginMemory: () => Iterable<{ readonly plugin: string; readonly bytes: number }>;
  readonly upstreams: () => Iterable<UpstreamMetrics>;
}

/** A server behind a route of the gateway. */
interface UpstreamMetrics {
  readonly route: string;
  readonly upstream: string;
  readonly state: 'closed' | 'half-open' | 'open';
  /** By the class of the answer (`2xx`), or by how they failed. */
  readonly requests: ReadonlyMap<string, number>;
}

export interface Metrics {
  readonly http: (observation: {
    readonly method: string;
    /** The pattern that matched, never a path. */
    readonly route: string;
    readonly status: number;
    readonly seconds: number;
  }) => void;
  readonly grpc: (observation: {
    readonly service: string;
    readonly method: string;
    /** Name of the gRPC status. */
    readonly code: string;
    readonly seconds: number;
  }) => void;
  readonly call: (observation: {
    readonly plugin: string;
    readonly export: string;
    /** `OK` or an error code. */
    readonly code: string;
    readonly seconds: number;
  }) => void;
  readonly capability: (observation: {
    readonly plugin: string;
    readonly capability: string;
    readonly operation: string;
    readonly outcome: 'ok' | 'denied' | 'failed';
    readonly seconds: number;
  }) => void;
  readonly inference: (observation: {
    /** One that there is. */
    readonly model: string;
    readonly operation: string;
    readonly outcome: 'ok' | 'failed';
    readonly seconds: number;
  }) => void;
  /** Texts of one run of a model. */
  readonly inferenceBatch: (texts: number) => void;
  /** Of a model engine that was opened. */
  readonly inferenceQueue: (source: { queued(): number; memoryBytes(): number }) => void;
  /** Of the code of a plugin's calls. */
  readonly cost: (observation: {
    readonly plugin: string;
    readonly fuel: number;
    readonly executionMs: number;
  }) => void;
  readonly restart: (plugin: string) => void;
  /** A call of a hook before or after a request of others. */
  readonly hook: (plugin: string, on: string, outcome: string) => void;
  readonly cacheLookup: (hit: boolean) => void;
  readonly spans: (outcome: 'exported' | 'dropped', count: number) => void;
  /** A request was one too many for its caller's level. */
  readonly rateLimited: (level: string) => void;
  /** Drops the series of a removed plugin. */
  readonly forget: (plugin: string) => void;
  /** In the Prometheus text format. */
  readonly expose: () => Promise<{ contentType: string; text: string }>;
  /** The same as values, to be added to those of other processes by `addUp`. */
  readonly snapshot: () => Promise<MetricSnapshot>;
  /** Ends the measurement of the process. */
  readonly close: () => void;
}

/** Whichever plugin answers it. */
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

export function createMetrics(sources: MetricSources): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const counter = (name: string, help: string, labelNames: readonly string[] = []) =>
    new Counter({ name, help, labelNames, registers });

  const http = new Timings({
    registry,
    labels: ['method', 'route', 'status'],
    counter: { name: 'http_requests_total', help: 'HTTP requests that were answered.' },
    histogram: {
      name: 'http_request_duration_seconds',
      help: 'Time from the first byte of a request to the end of its answer.',
    },
  });
  const grpc = new Timings({
    registry,
    labels: ['service', 'method', 'code'],
    counter: { name: 'grpc_server_handled_total', help: 'gRPC calls that have ended, by status.' },
    histogram: {
      name: 'grpc_server_handling_seconds',
      help: 'Time from the metadata of a gRPC call to its status.',
    },
  });
  const calls = new Timings({
    registry,
    labels: ['plugin', 'export', 'code'],
    counter: { name: 'noa_plugin_calls_total', help: 'Calls of plugin exports by result.' },
    histogram: {
      name: 'noa_plugin_call_duration_seconds',
      help: 'Duration of calls of plugin exports.',
    },
  });
  const capabilities = new Timings({
    registry,
    labels: ['plugin', 'capability', 'operation', 'outcome'],
    counter: {
      name: 'noa_capability_calls_total',
      help: 'Capability operations that plugins asked for, by outcome.',
    },
    histogram: {
      name: 'noa_capability_call_duration_seconds',
      help: 'Duration of capability operations.',
    },
  });
  const inference = new Timings({
    registry,
    labels: ['model', 'operation', 'outcome'],
    counter: {
      name: 'inference_requests_total',
      help: 'Requests for inference that were answered, by outcome (ok, failed).',
    },
    histogram: {
      name: 'inference_duration_seconds',
      help: 'Time from a request for inference to the end of its answer.',
    },
  });
  const denials = counter(
    'noa_plugin_denials_total',
    'Capability operations refused to a plugin.',
    ['plugin', 'capability'],
  );
  const restarts = counter('noa_plugin_restarts_total', 'Starts of a plugin after a failure.', [
    'plugin',
  ]);
  const hooks = counter(
    'noa_gateway_hooks_total',
    'Calls of gateway hooks by outcome: passed, denied, failed, or dropped because too many waited.',
    ['plugin', 'on', 'outcome'],
  );
  const costs = new Map<string, { fuel: number; seconds: number }>();
  const sums = (name: string, help: string, pick: 'fuel' | 'seconds') =>
    new Counter({
      name,
      help,
      labelNames: ['plugin'],
      registers,
      collect() {
        this.reset();
        for (const [plugin, cost] of costs) this.inc({ plugin }, cost[pick]);
      },
    });
  sums('noa_plugin_fuel_total', "Fuel that the code of a plugin's calls has burned.", 'fuel');
  sums(
    'noa_plugin_cpu_seconds_total',
    "Time that the code of a plugin's calls has executed in the sandbox.",
    'seconds',
  );
  const hits = counter('cache_hits_total', 'Cache reads that found a value.');
  const misses = counter('cache_misses_total', 'Cache reads that found none.');
  const rateLimited = counter(
    'noa_rate_limited_total',
    'Requests refused because their caller had made too many, by level.',
    ['level'],
  );
  const spans = counter(
    'noa_trace_spans_total',
    'Spans of traces, by whether the collector has taken them or they are lost.',
    ['outcome'],
  );
  gauges(registry, sources);
  const batches = new Histogram({
    name: 'noa_inference_batch_texts',
    help: 'Texts that one run of a model took.',
    buckets: [1, 2, 4, 8, 16, 32, 64, 128],
    registers: [registry],
  });
  const models: { source?: { queued(): number; memoryBytes(): number } } = {};
  new Gauge({
    name: 'noa_inference_queue_depth',
    help: 'Texts and other work that wait for a model.',
    registers: [registry],
    collect() {
      this.set(models.source?.queued() ?? 0);
    },
  });
  new Gauge({
    name: 'noa_inference_memory_bytes',
    help: 'What the loaded models take.',
    registers: [registry],
    collect() {
      this.set(models.source?.memoryBytes() ?? 0);
    },
  });
  const closeProcess = measureProcess(registry);
  const denied = new Map<string, Set<string>>();

  return {
    http: ({ method, route, status, seconds }) => {
      const known = METHODS.includes(method) ? method : 'other';
      http.record([known, route, String(status)], seconds);
    },
    grpc: ({ service, method, code, seconds }) => {
      grpc.record([service, method, code], seconds);
    },
    inference: ({ model, operation, outcome, seconds }) =>
      inference.record([model, operation, outcome], seconds),
    inferenceBatch: (texts) => batches.observe(texts),
    inferenceQueue: (source) => {
      models.source = source;
    },
    call: (call) => calls.record([call.plugin, call.export, call.code], call.seconds),
    capability: ({ plugin, capability, operation, outcome, seconds }) => {
      capabilities.record([plugin, capability, operation, outcome], seconds);
      if (outcome !== 'denied') return;
      denials.inc({ plugin, capability });
      denied.set(plugin, (denied.get(plugin) ?? new Set()).add(capability));
    },
    cost: ({ plugin, fuel, executionMs }) => {
      const cost = costs.get(plugin) ?? { fuel: 0, seconds: 0 };
      costs.set(plugin, cost);
      cost.fuel += fuel;
      cost.seconds += executionMs / 1000;
    },
    restart: (plugin) => restarts.inc({ plugin }),
    hook: (plugin, on, outcome) => hooks.inc({ plugin, on, outcome }),
    cacheLookup: (hit) => (hit ? hits : misses).inc(),
    spans: (outcome, count) => spans.inc({ outcome }, count),
    rateLimited: (level) => rateLimited.inc({ level }),
    forget: (plugin) => {
      calls.forget('plugin', plugin);
      capabilities.forget('plugin', plugin);
      restarts.remove({ plugin });
      for (const on of ['beforeRequest', 'afterResponse']) {
        for (const outcome of ['passed', 'denied', 'failed', 'dropped']) {
          hooks.remove({ plugin, on, outcome });
        }
      }
      costs.delete(plugin);
      for (const capability of denied.get(plugin) ?? []) denials.remove({ plugin, capability });
      denied.delete(plugin);
    },
    expose: () => write(registry),
    snapshot: () => registry.getMetricsAsJSON(),
    close: closeProcess,
  };
}

export type MetricSnapshot = Awaited<ReturnType<Registry['getMetricsAsJSON']>>;

/** The metrics of several processes as those of one: sums, but where a gauge says otherwise. */
export function addUp(snapshots: readonly MetricSnapshot[]): ReturnType<Metrics['expose']> {
  return write(AggregatorRegistry.aggregate([...snapshots]));
}

async function write(registry: Registry): ReturnType<Metrics['expose']> {
  return { contentType: registry.contentType, text: await registry.metrics() };
}

/** What is read when it is asked for. */
function gauges(registry: Registry, sources: MetricSources): void {
  const registers = [registry];
  new Gauge({
    name: 'noa_build_info',
    help: 'Always 1; the labels tell what runs.',
    labelNames: ['version', 'node'],
    registers,
    aggregator: 'first',
  }).set({ version: sources.version, node: process.version }, 1);
  new Gauge({
    name: 'db_connections_active',
    help: 'Connections to PostgreSQL that are in use.',
    registers,
    collect() {
      this.set(sources.databaseConnections());
    },
  });
  new Gauge({
    name: 'noa_plugin_memory_bytes',
    help: 'Linear memory of the live instances of a plugin.',
    labelNames: ['plugin'],
    registers,
    collect() {
      this.reset();
      for (const { plugin, bytes } of sources.pluginMemory()) this.set({ plugin }, bytes);
    },
  });
  upstreamMetrics(registry, sources);
}

/** Of servers that the configuration names now. */
function upstreamMetrics(registry: Registry, { upstreams }: MetricSources): void {
  const registers = [registry];
  new Counter({
    name: 'noa_upstream_requests_total',
    help: 'Requests sent to servers behind routes of the gateway, by class of answer or failure.',
    labelNames: ['route', 'upstream', 'code'],
    registers,
    collect() {
      this.reset();
      for (const { route, upstream, requests } of upstreams()) {
        for (const [code, count] of requests) this.inc({ route, upstream, code }, count);
      }
    },
  });
  new Gauge({
    name: 'noa_upstream_breaker_state',
    help: 'Whether requests go to a server behind a route: 0 they do, 1 probes alone, 2 none.',
    labelNames: ['route', 'upstream'],
    registers,
    aggregator: 'max',
    collect() {
      this.reset();
      for (const { route, upstream, state } of upstreams()) {
        this.set({ route, upstream }, ['closed', 'half-open', 'open'].indexOf(state));
      }
    },
  });
}
