/**
 * What a part of the host sees of distributed tracing. A call that is traced carries a span, any other
 * carries none, and then tracing costs nothing. Invariant: a span holds names, codes, counts and places;
 * never SQL, bodies, queries of URLs, or anything that could be a credential.
 */

import { NoaError } from './errors.ts';

/** As OpenTelemetry says it: who waits for whom. */
export type SpanKind = 'internal' | 'server' | 'client' | 'consumer';

export type SpanAttribute = string | number | boolean;

/** Names are those of OpenTelemetry's semantic conventions, or begin with `noa.`. */
export type SpanAttributes = { readonly [name: string]: SpanAttribute };

/** One timed piece of work in a trace. */
export interface Span {
  /** 32 hex digits. */
  readonly traceId: string;
  /** 16 hex digits. */
  readonly spanId: string;
  /** The value of the header with which another server continues the trace from here (W3C). */
  readonly traceparent: string;
  /** Begins a piece of this work. */
  child(name: string, kind: SpanKind, attributes: SpanAttributes): Span;
  /** Names are to be few; one may become known late. */
  rename(name: string): void;
  set(attributes: SpanAttributes): void;
  /** Once. `errorType` says that the work failed, and how: a code out of a small set. */
  end(errorType?: string): void;
}

/** How a failure is named in a trace: by a code, for its text may hold anything. */
export function errorType(error: unknown): string {
  if (error instanceof NoaError) return error.code;
  const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code.slice(0, 64) : 'INTERNAL';
}

/** What a driver waits for, as a span of its own when the call is traced. */
export async function inSpan<T>(
  above: Span | undefined,
  name: string,
  attributes: SpanAttributes,
  work: () => Promise<T>,
): Promise<T> {
  if (above === undefined) return work();
  const span = above.child(name, 'client', attributes);
  try {
    const value = await work();
    span.end();
    return value;
  } catch (error) {
    span.end(errorType(error));
    throw error;
  }
}
