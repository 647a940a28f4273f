/**
 * The way of spans out of the host: OpenTelemetry's SDK and its exporter for OTLP over HTTP. Loading it
 * takes time and memory, so only a host with a collector imports this file. Invariants: a collector that
 * is away, slow or refuses costs spans and nothing else; what is lost is counted; an outage is told once,
 * and so is its end.
 */
import { Agent, type AgentOptions } from 'node:http';
import { Agent as TlsAgent } from 'node:https';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import {
  AlwaysOnSampler,
  BatchSpanProcessor,
  type ReadableSpan,
  type SpanExporter,
  type SpanProcessor,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import type { Logger } from 'pino';
import { type SpanStarter, spanStarter } from './spans.ts';

/** Ended spans that wait for the collector; one more is dropped. */
const MAX_QUEUE = 4096;
const MAX_BATCH = 512;
const BATCH_MS = 1000;
/** For one batch, tried again meanwhile. */
const EXPORT_MS = 3000;
/** Longer than the exporter takes of itself. */
const GIVE_UP_MS = EXPORT_MS + 2000;
const CLOSE_MS = 2000;
/** `ExportResultCode.SUCCESS` of a package that this one does not import. */
const SUCCESS = 0;
const CONNECTION: AgentOptions = { keepAlive: true, maxSockets: 2 };

export interface OtlpOptions {
  /** Base URL of the collector; `/v1/traces` is appended. */
  readonly endpoint: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly serviceName: string;
  readonly version: string;
  /** Names this host among those of the service. */
  readonly instance: string;
  /** Told of spans that the collector has taken, or that are lost. */
  readonly observe: (outcome: 'exported' | 'dropped', spans: number) => void;
  readonly log: Pick<Logger, 'info' | 'warn'>;
}

export interface Otlp {
  readonly begin: SpanStarter;
  /** Sends what waits, for at most two seconds. */
  readonly close: () => Promise<void>;
}

export function openOtlp(options: OtlpOptions): Otlp {
  const { serviceName, version, instance } = options;
  const agent = options.endpoint.startsWith('https:')
    ? new TlsAgent(CONNECTION)
    : new Agent(CONNECTION);
  const exporter = new OTLPTraceExporter({
    url: tracesUrl(options.endpoint),
    headers: { ...options.headers },
    timeoutMillis: EXPORT_MS,
    httpAgentOptions: () => agent,
  });
  const provider = new TracerProvider({
    resource: resourceFromAttributes({
      'service.name': serviceName,
      'service.version': version,
      'service.instance.id': instance,
    }),
    // Who is traced was decided before there is a span.
    sampler: new AlwaysOnSampler(),
    spanLimits: { attributeCountLimit: 32, attributeValueLengthLimit: 1024 },
    spanProcessors: [new Queue(new Outlet(exporter, options))],
  });
  return {
    begin: spanStarter(provider.getTracer('noa', version)),
    close: async () => {
      const late = Promise.withResolvers<void>();
      const timer = setTimeout(late.resolve, CLOSE_MS);
      await Promise.race([provider.shutdown(), late.promise]);
      clearTimeout(timer);
      agent.destroy();
    },
  };
}

function tracesUrl(endpoint: string): string {
  const url = new URL(endpoint);
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/v1/traces`;
  return url.href;
}

/** Hands batches to the exporter, and tells what became of them. */
class Outlet implements SpanExporter {
  readonly #exporter: SpanExporter;
  readonly #options: Pick<OtlpOptions, 'observe' | 'log'>;
  /** Spans that have ended and were not handed on yet. */
  waiting = 0;
  /** Spans since the collector took the last ones. */
  #lost = 0;

  constructor(exporter: SpanExporter, options: Pick<OtlpOptions, 'observe' | 'log'>) {
    this.#exporter = exporter;
    this.#options = options;
  }

  export(spans: ReadableSpan[], done: Parameters<SpanExporter['export']>[1]): void {
    this.waiting -= spans.length;
    this.#exporter.export(spans, ({ code, error }) => {
      if (code === SUCCESS) this.#delivered(spans.length);
      else this.lose(spans.length, reason(error));
      // What there is to say of a failure has been said.
      done({ code: SUCCESS });
    });
  }

  #delivered(spans: number): void {
    this.#options.observe('exported', spans);
    if (this.#lost === 0) return;
    this.#options.log.info(`the collector takes traces again; ${this.#lost} spans were lost`);
    this.#lost = 0;
  }

  lose(spans: number, why: string): void {
    this.#options.observe('dropped', spans);
    if (this.#lost === 0) {
      this.#options.log.warn(
        `the collector at observability.otlp_endpoint does not take traces (${why}); ` +
          'spans are lost until it does, requests are not concerned',
      );
    }
    this.#lost += spans;
  }

  shutdown(): Promise<void> {
    return this.#exporter.shutdown();
  }
}

/** The SDK's batches; what they would drop in silence is counted before it comes to that. */
class Queue implements SpanProcessor {
  readonly #outlet: Outlet;
  readonly #batches: SpanProcessor;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
    this.#batches = new BatchSpanProcessor({
      exporter: outlet,
      maxQueueSize: MAX_QUEUE,
      maxExportBatchSize: MAX_BATCH,
      scheduledDelayMillis: BATCH_MS,
      exportTimeoutMillis: GIVE_UP_MS,
    });
  }

  onStart(): void {}

  onEnd(span: ReadableSpan): void {
    if (this.#outlet.waiting >= MAX_QUEUE) return this.#outlet.lose(1, 'too slow');
    this.#outlet.waiting += 1;
    this.#batches.onEnd(span);
  }

  forceFlush(): Promise<void> {
    return this.#batches.forceFlush();
  }

  shutdown(): Promise<void> {
    return this.#batches.shutdown();
  }
}

/** Without what the other side wrote. */
function reason(error: Error | undefined): string {
  if (error === undefined) return 'no reason given';
  const code = 'code' in error ? error.code : undefined;
  if (typeof code === 'number') return `it answers ${code}`;
  return typeof code === 'string' ? code : error.message;
}
