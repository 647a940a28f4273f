/**
 * One gRPC call and its answer: its ids, whoever stands behind it, the signal that tells when the caller is
 * gone, and what is noted when it is over. Invariant: each call is observed exactly once, whether it is a
 * handler, the library or the caller that ends it, and labels come from the descriptors alone.
 */
import { constants, type ServerHttp2Stream } from 'node:http2';
import { Duplex } from 'node:stream';
import {
  Metadata,
  type ServerInterceptingCallInterface,
  type StatusObject,
  status as statuses,
} from '@grpc/grpc-js';
import { ERROR_KINDS, type ErrorCode, isErrorCode, NoaError } from '@noa/sdk/host';
import type { Arrival } from '../../gateway/arrival.ts';
import { RateLimitError, rateFields, type RateState } from '../../gateway/limits.ts';
import type { Principal } from '../../kernel/chain.ts';
import type { Tracer } from '../../kernel/tracing.ts';
import type { AccessEntry } from '../exchange.ts';
import { beginTrace, readRequestId, type Trace, traceparent } from '../trace.ts';
import type { Method } from './protos.ts';

/** Of trailers together clients take 8 KiB and more; a character may take nine bytes there. */
const MAX_MESSAGE = 800;
const CODE = 'noa-code';

/** For metrics. */
export interface GrpcObservation {
  readonly service: string;
  readonly method: string;
  /** Name of the gRPC status, such as `NOT_FOUND`. */
  readonly code: string;
  readonly seconds: number;
}

export interface ExchangeOptions {
  readonly observe: (observation: GrpcObservation) => void;
  readonly access: (entry: AccessEntry) => void;
  readonly tracer?: Tracer | undefined;
}

export class GrpcExchange {
  readonly method: Method;
  readonly arrival: Arrival;
  readonly metadata: Metadata;
  readonly id: string;
  readonly trace: Trace;
  readonly #options: ExchangeOptions;
  readonly #call: ServerInterceptingCallInterface;
  readonly #started = performance.now();
  readonly #deadline: number;
  principal: Principal | undefined;
  rate: RateState | undefined;
  /** Told how the call ended; the status is HTTP's. */
  onEnd: ((answer: { readonly status: number; readonly durationMs: number }) => void) | undefined;
  /** What answers it, once it is known to serve. */
  plugin: string | undefined;
  #controller: AbortController | undefined;
  #left: NoaError | undefined;
  #isSettled = false;
  #isOver = false;

  constructor(
    call: ServerInterceptingCallInterface,
    method: Method,
    metadata: Metadata,
    options: ExchangeOptions,
  ) {
    const text = (name: string): string | undefined => {
      const [value, second] = metadata.get(name);
      return typeof value === 'string' && second === undefined ? value : undefined;
    };
    this.method = method;
    this.metadata = metadata;
    this.#call = call;
    this.#options = options;
    this.trace = beginTrace(text('traceparent'), options.tracer, method.name);
    this.id = readRequestId(text('x-request-id')) || this.trace.spanId;
    this.#deadline = Number(call.getDeadline());
    this.arrival = {
      transport: 'grpc',
      requestId: this.id,
      traceId: this.trace.traceId,
      method: 'POST',
      path: method.definition.path,
      authorization: text('authorization'),
      apiKey: text('x-api-key'),
      remoteAddress: call.getConnectionInfo().remoteAddress,
      clientCertificate: call.getAuthContext().sslPeerCertificate !== undefined,
    };
    this.#watch(call);
  }

  /** Milliseconds since the epoch, where the caller has set one. */
  get deadline(): number | undefined {
    return Number.isFinite(this.#deadline) ? this.#deadline : undefined;
  }

  /** Aborts when nobody waits for the answer any more; its reason is a NoaError. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#left !== undefined) this.#controller.abort(this.#left);
    }
    return this.#controller.signal;
  }

  /** Sends the metadata before any message, so that the caller knows that what it asked for has begun. */
  open(): void {
    this.#call.sendMetadata(new Metadata());
  }

  /** Ends the work for this call; where the caller still listens, with this error. */
  leave(reason: NoaError): void {
    if (this.#left !== undefined) return;
    this.#left = reason;
    this.#controller?.abort(reason);
  }

  /** Its handler has nothing left to do that could be ended. */
  settle(): void {
    this.#isSettled = true;
  }

  /** The caller is gone, or has its answer. */
  cancelled(): void {
    if (this.#isSettled) return this.#end(statuses.CANCELLED, 'CANCELLED');
    const isLate = Date.now() >= this.#deadline;
    const code = isLate ? 'DEADLINE_EXCEEDED' : 'CANCELLED';
    this.leave(new NoaError(code, isLate ? 'the deadline passed' : 'the caller went away'));
    this.#end(ERROR_KINDS[code].grpc, code);
  }

  /**
   * Ends a call whose caller takes nothing: the status would wait behind what is not taken, so the stream
   * is reset, as RESOURCE_EXHAUSTED. The library has no way to it of its own.
   */
  abandon(error: NoaError): void {
    this.leave(error);
    this.#call.sendStatus(statusOf(error));
    const stream: unknown = Reflect.get(this.#call, 'stream');
    if (stream instanceof Duplex && isResettable(stream)) {
      stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    }
  }

  /**
   * Puts the ids into what is sent, and hears how the call ends. The library ends some calls by itself
   * (deadlines, sizes) and passes interceptors by then, but not this method of the call.
   */
  #watch(call: ServerInterceptingCallInterface): void {
    const sendMetadata = call.sendMetadata.bind(call);
    const sendStatus = call.sendStatus.bind(call);
    let isSent = false;
    call.sendMetadata = (metadata) => {
      isSent = true;
      this.#label(metadata);
      sendMetadata(metadata);
    };
    call.sendStatus = (status) => {
      const metadata = status.metadata ?? new Metadata();
      const { code, details } = status;
      if (!isSent) this.#label(metadata);
      const ours = code === statuses.OK ? 'OK' : codeOf(code, metadata);
      if (ours !== 'OK') metadata.set(CODE, ours);
      this.#end(code, ours);
      sendStatus({ code, details, metadata });
    };
  }

  #label(metadata: Metadata): void {
    metadata.set('x-request-id', this.id);
    metadata.set('traceparent', traceparent(this.trace));
    if (this.rate === undefined) return;
    for (const [name, value] of Object.entries(rateFields(this.rate))) metadata.set(name, value);
  }

  #end(grpc: number, code: ErrorCode | 'OK'): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { service, short, name } = this.method;
    const seconds = (performance.now() - this.#started) / 1000;
    const status = code === 'OK' ? 200 : ERROR_KINDS[code].status;
    const { span } = this.trace;
    this.onEnd?.({ status, durationMs: Math.round(seconds * 1000) });
    this.#options.observe({ service, method: short, code: nameOf(grpc), seconds });
    this.#options.access({
      method: 'GRPC',
      route: name,
      status,
      seconds,
      plugin: this.plugin,
      requestId: this.id,
      traceId: this.trace.traceId,
      spanId: span?.spanId,
      path: this.arrival.path,
      subject: this.principal?.subject,
      remoteAddress: this.arrival.remoteAddress,
    });
    if (span === undefined) return;
    span.set({
      'rpc.system': 'grpc',
      'rpc.service': service,
      'rpc.method': short,
      'rpc.grpc.status_code': grpc,
      'noa.request_id': this.id,
    });
    if (this.plugin !== undefined) span.set({ 'noa.plugin': this.plugin });
    span.end(status >= 500 ? nameOf(grpc) : undefined);
  }
}

function isResettable(stream: Duplex): stream is Duplex & Pick<ServerHttp2Stream, 'close'> {
  return 'close' in stream && typeof stream.close === 'function';
}

/** Of a status that the library made, the code that comes nearest. */
function codeOf(grpc: number, metadata: Metadata): ErrorCode {
  const [ours] = metadata.get(CODE);
  if (isErrorCode(ours)) return ours;
  switch (grpc) {
    case statuses.CANCELLED:
      return 'CANCELLED';
    case statuses.DEADLINE_EXCEEDED:
      return 'DEADLINE_EXCEEDED';
    case statuses.RESOURCE_EXHAUSTED:
      return 'PAYLOAD_TOO_LARGE'; // the library knows no other bound
    case statuses.UNIMPLEMENTED:
      return 'INVALID_ARGUMENT'; // a compression it cannot read, no message or two of them
    default:
      return 'INTERNAL';
  }
}

function nameOf(grpc: number): string {
  return statuses[grpc] ?? 'UNKNOWN';
}

/** What a caller is told of any failure. */
export function asNoaError(error: unknown): NoaError {
  if (error instanceof NoaError) return error;
  return new NoaError('INTERNAL', 'the host failed to answer; its log tells more', {
    cause: error,
  });
}

/** An error as the status that ends a call: its code by the SDK's one table, and again in `noa-code`. */
export function statusOf(error: NoaError): StatusObject & Error {
  const { code, message, retryAfterMs } = error;
  const metadata = new Metadata();
  metadata.set(CODE, code);
  if (retryAfterMs !== undefined) metadata.set('retry-after-ms', String(Math.ceil(retryAfterMs)));
  if (error instanceof RateLimitError) {
    for (const [name, value] of Object.entries(rateFields(error.rate))) metadata.set(name, value);
  }
  const details = message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}…` : message;
  const status = { code: ERROR_KINDS[code].grpc, details: details.toWellFormed(), metadata };
  return Object.assign(new Error(code), status);
}
