/**
 * Idempotency-Key on the requests of a scope that change something. Invariant: a request with a key is
 * executed to its end even when its caller leaves, for the caller sends it again to learn the answer.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import {
  type Answer,
  type Idempotency,
  KEPT_FIELDS,
  readIdempotencyKey,
  type Run,
} from '../gateway/idempotency.ts';
import { principalOf } from './identity.ts';

const METHODS = new Set(['POST', 'PUT', 'PATCH', 'DELETE']);

export function takesKey(method: string): boolean {
  return METHODS.has(method);
}

/** What a request with a key goes through. */
export interface Keyed {
  readonly key: string;
  /** The body's bytes by their SHA-256; set by whoever reads the body. */
  bodyDigest: Buffer | undefined;
  /** Held until the answer is kept. */
  run: Run | undefined;
}

declare module 'fastify' {
  interface FastifyRequest {
    keyed: Keyed | undefined;
  }
}

/** To be called after whatever admits requests; `body.ts` reads the bodies in the scope. */
export function keepAnswers(scope: FastifyInstance, idempotency: Idempotency): void {
  scope.decorateRequest('keyed');
  scope.addHook('preParsing', (request, _reply, _payload, proceed) => {
    const field = request.raw.headers['idempotency-key'];
    if (field !== undefined && takesKey(request.method) && canRepeat(request)) {
      // Node joins several fields by a comma and a space, which no key holds.
      const key = readIdempotencyKey(String(field));
      request.keyed = { key, bodyDigest: undefined, run: undefined };
    }
    proceed();
  });
  scope.addHook('preHandler', (request, reply, proceed) => {
    const { keyed } = request;
    if (keyed === undefined) return proceed();
    begin(idempotency, request, keyed).then(
      (kept) => (kept === undefined ? proceed() : replay(reply, kept)),
      (error: Error) => proceed(error),
    );
    // An answer that a handler writes by itself passes no hook.
    reply.raw.once('close', () => {
      if (reply.sent) void end(keyed, reply, undefined);
    });
  });
  scope.addHook('onSend', (request, reply, payload, proceed) => {
    const { keyed } = request;
    if (keyed?.run === undefined) return proceed(null, payload);
    void end(keyed, reply, payload).then((isKept) => {
      if (!isKept) void reply.header('idempotency-kept', 'false');
      proceed(null, payload);
    });
  });
}

/**
 * Whether a request can be told from another and its answer be kept: not where a body goes through unread,
 * which the key then goes with, nor when the answer is a stream, which is to end when its reader leaves.
 */
function canRepeat({ is404, raw, routeOptions }: FastifyRequest): boolean {
  const isStream = /\btext\/event-stream\b/i.test(raw.headers.accept ?? '');
  return !is404 && !isStream && routeOptions.config.takes !== '*/*';
}

/** The answer that is kept; undefined when the request is to be executed now. */
async function begin(
  idempotency: Idempotency,
  request: FastifyRequest,
  keyed: Keyed,
): Promise<Answer | undefined> {
  const { raw, exchange } = request;
  const { subject, token } = principalOf(request);
  // What one token may be answered, another of the same caller need not be.
  const owner = token === undefined ? subject : `${subject}/${token.view.id}`;
  const body = keyed.bodyDigest ?? '';
  const same = [raw.method ?? '', raw.url ?? '', body];
  const begun = await idempotency.begin(owner, keyed.key, same, exchange.signal);
  if ('status' in begun) return begun;
  exchange.outlive();
  keyed.run = begun;
  return undefined;
}

async function end(keyed: Keyed, reply: FastifyReply, payload: unknown): Promise<boolean> {
  const { run } = keyed;
  keyed.run = undefined;
  if (run === undefined) return true;
  return run.end({
    status: reply.statusCode,
    fields: fieldsOf(reply),
    body: bytesOf(payload),
  });
}

function fieldsOf(reply: FastifyReply): Answer['fields'] {
  const given = KEPT_FIELDS.filter((name) => reply.hasHeader(name));
  return Object.fromEntries(given.map((name) => [name, String(reply.getHeader(name))]));
}

function bytesOf(payload: unknown): Buffer | undefined {
  if (payload === undefined || payload === null) return Buffer.alloc(0);
  if (typeof payload === 'string' || payload instanceof Uint8Array) return Buffer.from(payload);
  return undefined;
}

function replay(reply: FastifyReply, { status, fields, body }: Answer): void {
  void reply.code(status).headers({ ...fields, 'idempotency-replayed': 'true' });
  if (body === undefined || body.length === 0) void reply.send();
  else void reply.send(body);
}
