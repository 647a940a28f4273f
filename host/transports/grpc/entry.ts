/**
 * What is to be done of a gRPC call before the library sees it: it reads a long `grpc-timeout` as one that
 * is over, and of a method that it does not know it tells nobody.
 */
import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { ERROR_KINDS } from '@noa/sdk/host';
import { beginTrace, readRequestId } from '../trace.ts';
import type { ExchangeOptions } from './exchange.ts';

/** Longer than any call of a plugin, and what a timer and the library's 32 bits hold: 24 days. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;
const UNITS_MS: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};
const MAX_LOGGED_PATH = 512;
const UNKNOWN = 'unknown';

/** A deadline beyond reach counts as none. */
export function boundTimeout(headers: IncomingHttpHeaders): void {
  const [, value, unit] = /^(\d{1,8})([HMSmun])$/.exec(String(headers['grpc-timeout'])) ?? [];
  if (unit === undefined) return;
  const ms = Number(value) * (UNITS_MS[unit] ?? 0);
  if (ms > MAX_TIMEOUT_MS) delete headers['grpc-timeout'];
}

/** Notes a call of a method that there is not: the library answers it, with UNIMPLEMENTED. */
export function noteUnknown(
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  { observe, access }: ExchangeOptions,
): void {
  const remoteAddress = stream.session?.socket.remoteAddress;
  if (remoteAddress === undefined) return; // the host itself, which tries the way to the library
  const { traceId, spanId } = beginTrace(headers['traceparent'], undefined, UNKNOWN);
  const [path = ''] = (headers[':path'] ?? '').split('?', 1);
  observe({ service: UNKNOWN, method: UNKNOWN, code: 'UNIMPLEMENTED', seconds: 0 });
  access({
    method: 'GRPC',
    route: UNKNOWN,
    status: ERROR_KINDS.METHOD_NOT_ALLOWED.status,
    seconds: 0,
    plugin: undefined,
    requestId: readRequestId(headers['x-request-id']) || spanId,
    traceId,
    spanId: undefined,
    path: path.slice(0, MAX_LOGGED_PATH),
    subject: undefined,
    remoteAddress,
  });
}
