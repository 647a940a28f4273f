/** Spans of OpenTelemetry behind the host's own port. Invariant: of one trace at most MAX_SPANS are recorded. */
import type { Span, SpanAttributes, SpanKind } from '@noa/sdk/host';
import {
  type Context,
  ROOT_CONTEXT,
  SpanKind as Kind,
  type Span as RawSpan,
  SpanStatusCode,
  trace,
  TraceFlags,
  type Tracer,
} from '@opentelemetry/api';

/** A plugin may ask for anything any number of times in one call. */
const MAX_SPANS = 500;

const KINDS: { readonly [kind in SpanKind]: Kind } = {
  internal: Kind.INTERNAL,
  server: Kind.SERVER,
  client: Kind.CLIENT,
  consumer: Kind.CONSUMER,
};

/** Where a caller's trace stands. */
export interface Caller {
  readonly traceId: string;
  readonly spanId: string;
  readonly sampled: boolean;
}

export type SpanStarter = (name: string, kind: SpanKind, caller: Caller | undefined) => Span;

/** Begins traces, or goes on with those of callers. */
export function spanStarter(tracer: Tracer): SpanStarter {
  return (name, kind, caller) => {
    const context =
      caller === undefined
        ? ROOT_CONTEXT
        : trace.setSpanContext(ROOT_CONTEXT, {
            traceId: caller.traceId,
            spanId: caller.spanId,
            traceFlags: caller.sampled ? TraceFlags.SAMPLED : TraceFlags.NONE,
            isRemote: true,
          });
    const raw = tracer.startSpan(name, { kind: KINDS[kind] }, context);
    return new TracedSpan(tracer, raw, { left: MAX_SPANS - 1 });
  };
}

class TracedSpan implements Span {
  readonly #tracer: Tracer;
  readonly #raw: RawSpan;
  /** Of the whole trace in this host. */
  readonly #budget: { left: number };
  #context: Context | undefined;

  constructor(tracer: Tracer, raw: RawSpan, budget: { left: number }) {
    this.#tracer = tracer;
    this.#raw = raw;
    this.#budget = budget;
  }

  get traceId(): string {
    return this.#raw.spanContext().traceId;
  }

  get spanId(): string {
    return this.#raw.spanContext().spanId;
  }

  get traceparent(): string {
    return `00-${this.traceId}-${this.spanId}-01`;
  }

  child(name: string, kind: SpanKind, attributes: SpanAttributes): Span {
    if (this.#budget.left <= 0) {
      // Not recorded, and what continues it elsewhere hangs on this one.
      const silent = trace.wrapSpanContext(this.#raw.spanContext());
      return new TracedSpan(this.#tracer, silent, this.#budget);
    }
    this.#budget.left -= 1;
    this.#context ??= trace.setSpan(ROOT_CONTEXT, this.#raw);
    const raw = this.#tracer.startSpan(name, { kind: KINDS[kind], attributes }, this.#context);
    return new TracedSpan(this.#tracer, raw, this.#budget);
  }

  rename(name: string): void {
    this.#raw.updateName(name);
  }

  set(attributes: SpanAttributes): void {
    this.#raw.setAttributes(attributes);
  }

  end(errorType?: string): void {
    if (errorType !== undefined) {
      this.#raw.setAttribute('error.type', errorType);
      this.#raw.setStatus({ code: SpanStatusCode.ERROR });
    }
    this.#raw.end();
  }
}
