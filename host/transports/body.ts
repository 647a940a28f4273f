/**
 * Reads request bodies within a limit that is known only when the request is: each plugin has its own.
 * Invariant: never more than the limit is kept, and a JSON body is UTF-8, not compressed, within the
 * bounds on depth and number of values, and without members that could reach a prototype.
 */
import { isUtf8 } from 'node:buffer';
import { hash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { jsonExcess, NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyRequest } from 'fastify';

/** What of a refused body is read and dropped, so that its sender gets to read the refusal. */
const LINGER_BYTES = 16 << 20;
const LINGER_MS = 1000;

export const BUNDLE = 'application/gzip';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Media type of the body, JSON when absent. */
    takes?: string;
    /** Media types of bodies that are taken as bytes, beside JSON. */
    bytes?: readonly string[];
  }
}

export interface BodyLimit {
  readonly bytes: number;
  /** The setting that it comes from. */
  readonly name: string;
}

export type LimitOf = (request: FastifyRequest) => BodyLimit;

/** Takes JSON and nothing else in this scope. An empty body is no body. */
export function takeJson(scope: FastifyInstance, limitOf: LimitOf): void {
  const parse = scope.getDefaultJsonParser('error', 'error');
  scope.removeAllContentTypeParsers();
  scope.addContentTypeParser('application/json', (request, payload, done) => {
    if (!isUtf8Type(request.raw.headers['content-type'])) return done(wrongCharset());
    readBody(request, payload, limitOf(request), (error, bytes) => {
      if (error !== null || bytes === undefined || bytes.length === 0) return done(error);
      if (!isUtf8(bytes)) {
        return done(
          new NoaError('INVALID_ARGUMENT', 'the body is not UTF-8: JSON is sent as UTF-8'),
        );
      }
      const text = bytes.toString();
      const excess = jsonExcess(text);
      if (excess !== undefined) {
        return done(new NoaError('INVALID_ARGUMENT', `the body ${excess}: send less at a time`));
      }
      // fastify's types allow a promise here; its implementation calls back at once.
      void parse(request, text, (failure, body: unknown) => {
        if (failure === null) done(null, body);
        else done(whyNotJson(text));
      });
    });
  });
}

/** Takes HTML forms too (the URL standard's application/x-www-form-urlencoded); no name may stand twice. */
export function takeForms(scope: FastifyInstance, limit: BodyLimit): void {
  scope.addContentTypeParser('application/x-www-form-urlencoded', (request, payload, done) => {
    readBody(request, payload, limit, (error, bytes) => {
      if (error !== null || bytes === undefined) return done(error);
      const form = new URLSearchParams(bytes.toString());
      const twice = [...form.keys()].find((name) => form.getAll(name).length > 1);
      if (twice === undefined) return done(null, Object.fromEntries(form));
      done(new NoaError('INVALID_ARGUMENT', `${JSON.stringify(twice.slice(0, 64))} stands twice`));
    });
  });
}

/** JSON has no charset parameter and is UTF-8 (RFC 8259 section 8.1, 11); many clients say so all the same. */
function isUtf8Type(type = ''): boolean {
  const named = type.match(/;\s*charset\s*=[^;]*/gi) ?? [];
  return named.every((parameter) => /=\s*(utf-8|"utf-8")\s*$/i.test(parameter));
}

function wrongCharset(): NoaError {
  const rule = 'content-type: JSON is taken as UTF-8; send it so, without another charset';
  return new NoaError('UNSUPPORTED_MEDIA_TYPE', rule);
}

function whyNotJson(text: string): NoaError {
  try {
    JSON.parse(text);
  } catch (error) {
    // The engine quotes what is around the fault, which may be a secret.
    const reason = error instanceof Error ? error.message.split(/, (?:\.\.\.)?"/, 1)[0] : '';
    return new NoaError('INVALID_ARGUMENT', `the body is not JSON: ${reason}`);
  }
  const rule = 'the body may not have a member __proto__, or constructor with a member prototype';
  return new NoaError('INVALID_ARGUMENT', rule);
}

/** Takes plugin bundles as bytes, on the routes whose `config.takes` says so. */
export function takeBundles(scope: FastifyInstance, limit: BodyLimit): void {
  const types = [BUNDLE, 'application/octet-stream', 'application/x-gzip'];
  scope.addContentTypeParser(types, (request, payload, done) => {
    if (takes(request) === BUNDLE) readBody(request, payload, limit, done);
    else done(wrongType(request));
  });
}

/**
 * Takes bodies of these types, on the routes whose `config.bytes` names them, as `{content: {mediaType,
 * charset?, base64}}`.
 */
export function takeBytes(
  scope: FastifyInstance,
  types: readonly string[],
  limitOf: LimitOf,
): void {
  if (types.length === 0) return;
  scope.addContentTypeParser([...types], (request, payload, done) => {
    const [mediaType = '', ...parameters] = (request.raw.headers['content-type'] ?? '')
      .split(';')
      .map((part) => part.trim().toLowerCase());
    const { bytes: taken = [] } = request.routeOptions.config;
    if (!taken.includes(mediaType)) return done(wrongType(request));
    const charset = parameters.find((each) => each.startsWith('charset='))?.slice(8, 72);
    readBody(request, payload, limitOf(request), (error, body) => {
      if (error !== null) return done(error);
      const base64 = (body ?? Buffer.alloc(0)).toString('base64');
      const unquoted = charset?.replaceAll('"', '');
      done(null, { content: { mediaType, ...(unquoted && { charset: unquoted }), base64 } });
    });
  });
}

/** The bundle in a request. Throws when there is none. */
export function bundleOf(request: FastifyRequest): Buffer {
  if (Buffer.isBuffer(request.body) && request.body.length > 0) return request.body;
  if (request.body === undefined) {
    throw new NoaError('INVALID_ARGUMENT', `the body is empty: send the .tgz as ${BUNDLE}`);
  }
  throw wrongType(request);
}

export function wrongType(request: FastifyRequest): NoaError {
  const rule = `content-type: a body is taken as ${takes(request)} here; send it with that media type`;
  return new NoaError('UNSUPPORTED_MEDIA_TYPE', rule);
}

function takes(request: FastifyRequest): string {
  const { takes = 'application/json', bytes = [] } = request.routeOptions.config;
  return [takes, ...bytes].join(', ');
}

function readBody(
  request: FastifyRequest,
  payload: IncomingMessage,
  limit: BodyLimit,
  done: (error: Error | null, body?: Buffer) => void,
): void {
  const { 'content-encoding': encoding, 'content-length': length } = request.raw.headers;
  if (encoding !== undefined && encoding !== 'identity') {
    const rule = 'content-encoding: bodies are not decoded here; send it as it is';
    return done(new NoaError('UNSUPPORTED_MEDIA_TYPE', rule));
  }
  const chunks: Buffer[] = [];
  let size = 0;
  let over = false;
  const refuse = (): void => {
    over = true;
    chunks.length = 0;
    const text = `the body is over the limit of ${limit.bytes} bytes (${limit.name})`;
    drop(payload, () => done(new NoaError('PAYLOAD_TOO_LARGE', text)));
  };
  if (Number(length) > limit.bytes) return refuse();
  payload.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (over) return;
    if (size > limit.bytes) refuse();
    else chunks.push(chunk);
  });
  payload.on('end', () => {
    if (over) return;
    const body = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
    if (request.keyed && body) request.keyed.bodyDigest = hash('sha256', body, 'buffer');
    done(null, body);
  });
  payload.on('error', () => {
    if (!over) done(new NoaError('CANCELLED', 'the caller left before its body was complete'));
  });
}

/** Reads on without keeping anything, for a while: whoever sends gets to read the answer. */
export function dropRest(payload: IncomingMessage): Promise<void> {
  return new Promise((resolve) => drop(payload, resolve));
}

/** Reads on without keeping anything, for a while, then says that it is over. */
function drop(payload: IncomingMessage, over: () => void): void {
  let left = LINGER_BYTES;
  const drained = (chunk: Buffer): void => {
    left -= chunk.length;
    if (left < 0) stop();
  };
  const stop = (): void => {
    clearTimeout(timer);
    payload.off('data', drained).off('end', stop).off('error', stop).off('close', stop);
    over();
  };
  const timer = setTimeout(stop, LINGER_MS);
  payload.on('data', drained).on('end', stop).on('error', stop).on('close', stop);
}
