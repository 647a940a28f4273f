/**
 * The port to distributed tracing. Whether a piece of work is traced is decided once, where it enters the
 * host; from there its span travels beside it, and what has no span is not traced.
 */
import type { Span, SpanKind } from '@noa/sdk/host';

/** Where a caller's trace stands, as its `traceparent` header told. */
export interface Caller {
  /** 32 hex digits. */
  readonly traceId: string;
  /** The caller's own span, 16 hex digits. */
  readonly spanId: string;
  /** Whether the caller records it. */
  readonly sampled: boolean;
}

export interface Tracer {
  /** The first span of a piece of work in this host; undefined when it is not traced. */
  begin(name: string, kind: SpanKind, caller?: Caller): Span | undefined;
}
