/**
 * One request and its answer on the wire (HTTP/1.1, RFC 9112), without redirects. Invariant: everything
 * that the other side decides is bounded: time by the signal, headers and body by size, packed and unpacked.
 */
import {
  type Agent,
  type ClientRequest,
  type IncomingMessage,
  request as requestPlain,
} from 'node:http';
import { request as requestTls } from 'node:https';
import type { LookupFunction } from 'node:net';
import { PassThrough, Transform, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import { NoaError } from '@noa/sdk/host';
import { bare } from './address.ts';
import { MAX_RESPONSE_BYTES } from './capability.ts';
import type { Headers } from './headers.ts';
import { type Method, portOf } from './target.ts';

/** Time for the name, the connection and the TLS handshake together. */
const CONNECT_MS = 10_000;
const MAX_ANSWER_HEADER_BYTES = 32 << 10;
const MAX_CODINGS = 3;
/** May be sent again after a connection was lost before an answer (RFC 9110, section 9.2.2). */
const REPEATABLE: readonly Method[] = ['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS'];

export interface Sent {
  readonly method: Method;
  readonly url: URL;
  readonly headers: Headers;
  readonly body: Buffer | undefined;
}

export interface Wire {
  readonly agent: Agent;
  readonly lookup: LookupFunction;
  readonly signal: AbortSignal;
}

/** Sends and resolves with the head of the answer; its body must be read or destroyed. */
export async function send(sent: Sent, wire: Wire): Promise<IncomingMessage> {
  const request = start(sent, wire, wire.agent);
  try {
    return await answerTo(request);
  } catch (error) {
    const stale = request.reusedSocket && isCoded(error) && error.code === 'ECONNRESET';
    if (!stale || !REPEATABLE.includes(sent.method)) throw error;
    // The server had closed a connection that was kept for reuse.
    return answerTo(start(sent, wire, false));
  }
}

function start(sent: Sent, { lookup, signal }: Wire, agent: Agent | false): ClientRequest {
  const { method, url, headers, body } = sent;
  const options = {
    method,
    hostname: bare(url.hostname),
    port: portOf(url),
    path: `${url.pathname}${url.search}`,
    headers: {
      'user-agent': 'NOA',
      accept: '*/*',
      ...headers,
      'accept-encoding': 'gzip, deflate, br',
      ...(body && { 'content-length': body.length }),
    },
    agent,
    lookup,
    signal,
    maxHeaderSize: MAX_ANSWER_HEADER_BYTES,
    // Neither may be weakened by variables or options of the process.
    insecureHTTPParser: false,
    rejectUnauthorized: true,
  };
  const tls = url.protocol === 'https:';
  const request = tls ? requestTls(options) : requestPlain(options);
  // The size bounds them; over a number Node would leave out the rest in silence.
  request.maxHeadersCount = 0;
  request.once('socket', (socket) => {
    if (!socket.connecting) return;
    const timer = setTimeout(() => request.destroy(new ConnectTimeout()), CONNECT_MS);
    const stop = () => clearTimeout(timer);
    socket.once(tls ? 'secureConnect' : 'connect', stop).once('close', stop);
  });
  request.end(body);
  return request;
}

function answerTo(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.on('error', reject);
    request.once('response', resolve);
    // Also after an answer to no request of ours, such as 101.
    request.once('close', () => reject(broken()));
  });
}

/** The whole body, unpacked when all its codings are known; `decoded` says so. */
export async function readBody(
  response: IncomingMessage,
  hasBody: boolean,
): Promise<{ bytes: Buffer; decoded: boolean }> {
  const codings = (response.headers['content-encoding'] ?? '')
    .split(',')
    .map((coding) => coding.trim().toLowerCase())
    .filter((coding) => coding !== '' && coding !== 'identity');
  const decoders = hasBody && codings.length <= MAX_CODINGS ? codings.map(decoderOf) : [];
  const known = decoders.filter((decoder) => decoder !== undefined);
  const decoded = known.length > 0 && known.length === decoders.length;
  const sink = new Collector();
  // Packed bytes are counted too: a stream may go on for ever and unpack to nothing.
  const stages = decoded ? [meter(), ...known.reverse()] : [new PassThrough()];
  await pipeline([response, ...stages, sink]);
  // Node ends a body that the connection's end cut short without an error when no length was announced
  // otherwise; `complete` is what the framing says.
  if (!response.complete) throw broken();
  return { bytes: Buffer.concat(sink.chunks), decoded };
}

function decoderOf(coding: string): Transform | undefined {
  switch (coding) {
    case 'gzip':
    case 'x-gzip':
      return createGunzip();
    case 'deflate':
      return createInflate();
    case 'br':
      return createBrotliDecompress();
    default:
      return undefined;
  }
}

function meter(): Transform {
  let size = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      size += chunk.length;
      if (size > MAX_RESPONSE_BYTES) done(tooLong());
      else done(null, chunk);
    },
  });
}

class Collector extends Writable {
  readonly chunks: Buffer[] = [];
  #size = 0;

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error) => void): void {
    this.#size += chunk.length;
    if (this.#size > MAX_RESPONSE_BYTES) return done(tooLong());
    this.chunks.push(chunk);
    return done();
  }
}

class ConnectTimeout extends Error {
  readonly code = 'ETIMEDOUT';
}

/** An error with a code, as the system, the parser and the unpackers give. */
export function isCoded(error: unknown): error is Error & { readonly code: string } {
  return error instanceof Error && 'code' in error && typeof error.code === 'string';
}

function broken(): Error {
  return Object.assign(new Error('the connection broke off'), { code: 'ECONNRESET' });
}

function tooLong(): NoaError {
  return new NoaError(
    'RESOURCE_EXHAUSTED',
    `http: the answer is over ${MAX_RESPONSE_BYTES} bytes; ask for less, in pages or ranges`,
  );
}
