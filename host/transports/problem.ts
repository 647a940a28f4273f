/**
 * Errors on the wire: RFC 9457 problem documents with the stable `code` of the SDK's one table.
 * Invariant: only a NoaError speaks to a caller; of anything else the caller learns INTERNAL and the
 * ids under which the host's log tells more.
 */
import { NoaError } from '@noa/sdk/host';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { InsufficientScopeError } from '../gateway/gateway.ts';
import { RateLimitError, rateFields } from '../gateway/limits.ts';
import { BadGatewayError } from '../gateway/upstream/failure.ts';
import { wrongType } from './body.ts';
import { dialectOf, errorBody } from './dialect.ts';
import { type Problem, problem, PROBLEM_TYPE } from './problem-document.ts';

/** Answers a request with an error. Headers that were set before (`allow` …) stay. */
export function sendProblem(
  request: FastifyRequest,
  reply: FastifyReply,
  error: NoaError,
  dialect = dialectOf(request),
): void {
  const body: Problem = {
    ...problem(error, error instanceof BadGatewayError ? 502 : undefined),
    instance: pathOf(request.raw.url),
    traceId: request.exchange.trace.traceId,
  };
  if (error.code === 'UNAUTHENTICATED') {
    const presented = request.raw.headers.authorization !== undefined;
    const why = presented ? ', error="invalid_token"' : ''; // RFC 6750 section 3
    void reply.header('www-authenticate', `Bearer realm="noa"${why}`);
  }
  if (error instanceof InsufficientScopeError) {
    const challenge = `Bearer realm="noa", error="insufficient_scope", scope="${error.scope}"`;
    void reply.header('www-authenticate', challenge);
  }
  if (error instanceof RateLimitError) void reply.headers(rateFields(error.rate));
  if (error.retryAfterMs !== undefined) {
    void reply.header('retry-after', String(Math.max(1, Math.ceil(error.retryAfterMs / 1000))));
  }
  // fastify sets it on what it refuses; HTTP/2 has no such header.
  if (request.raw.httpVersionMajor === 2) void reply.removeHeader('connection');
  const type = dialect === undefined ? PROBLEM_TYPE : 'application/json';
  // A serialiser of its own: the type must stay as it is, without the charset that fastify adds.
  void reply.code(body.status).header('content-type', type).serializer(identity);
  void reply.send(dialect === undefined ? write(body) : JSON.stringify(errorBody(dialect, body)));
}

/** Never throws, for nobody stands behind an answer to an error: particulars that are no JSON are left out. */
function write(body: Problem): string {
  try {
    return JSON.stringify(body);
  } catch {
    return JSON.stringify({ ...body, errors: undefined, details: undefined });
  }
}

const identity = (text: unknown): string => String(text);

/** What a caller is told of any failure. */
export function asNoaError(error: unknown, request: FastifyRequest): NoaError {
  if (error instanceof NoaError) return error;
  switch ((error as Partial<FastifyError> | null)?.code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return wrongType(request);
    case 'FST_ERR_ROUTE_MISSING_CONTENT_TYPE':
      return new NoaError('INVALID_ARGUMENT', 'content-type: is required with this method');
    case 'FST_ERR_BAD_URL':
      return new NoaError('INVALID_ARGUMENT', 'the path is not valid percent-encoded UTF-8');
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new NoaError('INVALID_ARGUMENT', 'a segment of the path is too long for this route');
    default:
      return new NoaError('INTERNAL', 'the host failed to answer; its log tells more', {
        cause: error,
      });
  }
}

/** The path of a request target without query and fragment; of an absolute target, its path (RFC 9112 section 3.2). */
export function pathOf(target = '/'): string {
  const query = target.indexOf('?');
  const fragment = target.indexOf('#');
  const end = query < 0 || (fragment >= 0 && fragment < query) ? fragment : query;
  const whole = end < 0 ? target : target.slice(0, end);
  if (whole.startsWith('/')) return whole;
  const slash = whole.indexOf('/', whole.indexOf('://') + 3);
  return slash < 0 ? '/' : whole.slice(slash);
}
