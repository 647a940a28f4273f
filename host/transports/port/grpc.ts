/**
 * The way into a gRPC server for a stream of a session that is not its own. grpc-js has no public one: it
 * is named in this file alone, its version is pinned, and `answersGrpc` tries it at each start.
 */
import { connect, constants, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import { type Duplex, duplexPair } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Server, status } from '@grpc/grpc-js';

const TRIAL_MS = 2000;
const TRIAL_PATH = '/noa.Trial/Nothing';

export type TakeGrpc = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/** gRPC over HTTP/2, and not gRPC-Web, which is a body like any other. */
export function isGrpc({ 'content-type': type = '' }: IncomingHttpHeaders): boolean {
  return type.startsWith('application/grpc') && !type.startsWith('application/grpc-web');
}

/** Answers every call with UNIMPLEMENTED when this grpc-js has no such way in. */
export function grpcEntry(server: Server): TakeGrpc {
  const entry: unknown = server['_streamHandler'];
  if (typeof entry !== 'function') return refuseGrpc;
  const interceptors: never[] = []; // beside those of the server itself
  return (stream, headers) => void Reflect.apply(entry, server, [interceptors, stream, headers]);
}

/** An answer without messages: its status stands in the headers. */
export function refuseGrpc(stream: ServerHttp2Stream): void {
  stream.on('error', () => undefined); // the caller is gone
  const trailers = {
    ':status': 200,
    'content-type': 'application/grpc',
    'grpc-status': String(status.UNIMPLEMENTED),
    'grpc-message': 'this host does not take gRPC calls',
    'noa-code': 'UNIMPLEMENTED',
  };
  stream.respond(trailers, { endStream: true });
}

/** Whether a call of a method that does not exist gets the answer of a gRPC server, in its own words. */
export async function answersGrpc(accept: (socket: Duplex) => void): Promise<boolean> {
  const [near, far] = duplexPair();
  accept(far);
  const client = connect('http://127.0.0.1', { createConnection: () => near });
  client.on('error', () => undefined); // shows as no answer
  const late = new AbortController();
  const answered = new Promise<boolean>((resolve) => {
    const call = client.request({
      [constants.HTTP2_HEADER_METHOD]: 'POST',
      [constants.HTTP2_HEADER_PATH]: TRIAL_PATH,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    call.on('response', (headers) =>
      resolve(
        headers['grpc-status'] === String(status.UNIMPLEMENTED) &&
          String(headers['grpc-message']).includes(TRIAL_PATH),
      ),
    );
    call.on('error', () => undefined).on('close', () => resolve(false));
    call.resume().end();
  });
  const timeout = sleep(TRIAL_MS, false, { signal: late.signal }).catch(() => false);
  try {
    return await Promise.race([answered, timeout]);
  } finally {
    late.abort();
    client.destroy();
    far.destroy();
  }
}
