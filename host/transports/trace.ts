/**
 * Who joins what: the W3C trace context (https://www.w3.org/TR/trace-context/) and the request id. Both
 * are taken from the caller when they are well formed, made otherwise, and answered either way.
 * Invariant: nothing of a caller's header is repeated that has not passed its pattern.
 */
import { randomFillSync } from 'node:crypto';
import type { Span } from '@noa/sdk/host';
import type { Caller, Tracer } from '../kernel/tracing.ts';

export interface Trace {
  /** 32 hex digits, the caller's when it sent any. */
  readonly traceId: string;
  /** This request's own span, 16 hex digits. */
  readonly spanId: string;
  /** Whether this host records it; where no host traces, whether the caller does. */
  readonly sampled: boolean;
  /** Of this request, when it is traced. */
  readonly span: Span | undefined;
}

const REQUEST_ID = /^[A-Za-z0-9._:/+=@-]{1,128}$/;
/** A later version may append fields, version ff is forbidden. */
const TRACEPARENT = /^(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,256})?$/;
const NO_TRACE = '0'.repeat(32);
const NO_SPAN = '0'.repeat(16);

/** A header that came more than once is joined with a comma by then, and fits no pattern. */
type Header = string | string[] | undefined;

/** The caller's request id, or nothing when it sent none that is sound. */
export function readRequestId(header: Header): string {
  return typeof header === 'string' && REQUEST_ID.test(header) ? header : '';
}

/** The trace of a request that came with this `traceparent`; `name` is its span's until more is known. */
export function beginTrace(header: Header, tracer: Tracer | undefined, name: string): Trace {
  const caller = readCaller(header);
  const span = tracer?.begin(name, 'server', caller);
  if (span !== undefined) {
    return { traceId: span.traceId, spanId: span.spanId, sampled: true, span };
  }
  if (caller === undefined) {
    const ids = randomHex(24);
    return { traceId: ids.slice(0, 32), spanId: ids.slice(32), sampled: false, span };
  }
  const sampled = tracer === undefined && caller.sampled;
  return { traceId: caller.traceId, spanId: randomHex(8), sampled, span };
}

function readCaller(header: Header): Caller | undefined {
  const found = typeof header === 'string' ? TRACEPARENT.exec(header) : null;
  if (found === null) return undefined;
  const [, version, traceId = NO_TRACE, spanId = NO_SPAN, flags = '00', rest] = found;
  const longer = version === '00' && rest !== undefined;
  if (traceId === NO_TRACE || spanId === NO_SPAN || longer) return undefined;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** The trace as the value of a `traceparent` header. */
export function traceparent({ traceId, spanId, sampled }: Omit<Trace, 'span'>): string {
  return `00-${traceId}-${spanId}-${sampled ? '01' : '00'}`;
}

/** Random bytes are drawn many at a time: one draw for each id costs more than the rest of its making. */
const pool = Buffer.alloc(24 << 10);
let used = pool.length;

function randomHex(bytes: number): string {
  if (used + bytes > pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  used += bytes;
  return pool.toString('hex', used - bytes, used);
}
