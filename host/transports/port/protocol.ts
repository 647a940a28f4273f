/**
 * Which protocol a cleartext connection speaks: HTTP/2 begins with a preface that is no request of
 * HTTP/1.1 (RFC 9113 section 3.4). Invariant: a connection that does not say in time is cut.
 */
import type { Server, Socket } from 'node:net';

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
/** As much as tells it from any method that a host knows. */
const TELLING = Buffer.from(PREFACE.slice(0, 5), 'latin1');

type Take = (socket: Socket) => void;

/** Hands each connection of the server to its own HTTP/1.1, or to `http2`. */
export function tellProtocols(server: Server, http2: Take, timeoutMs: number): void {
  const [http1, ...more] = server.listeners('connection');
  if (http1 === undefined || more.length > 0) {
    throw new Error('the server is expected to have one listener for connections: its HTTP/1.1');
  }
  server.off('connection', http1 as Take);
  server.on('connection', (socket: Socket) => {
    tell(socket, timeoutMs, (isHttp2) => {
      if (isHttp2) return http2(socket);
      http1.call(server, socket);
      socket.resume();
    });
  });
}

function tell(socket: Socket, timeoutMs: number, told: (isHttp2: boolean) => void): void {
  let first: Buffer = Buffer.alloc(0);
  const cut = (): void => void socket.destroy();
  const timer = setTimeout(cut, timeoutMs);
  const read = (chunk: Buffer): void => {
    first = first.length === 0 ? chunk : Buffer.concat([first, chunk]);
    const compared = Math.min(first.length, TELLING.length);
    const isAlike = first.compare(TELLING, 0, compared, 0, compared) === 0;
    if (isAlike && compared < TELLING.length) return;
    done();
    socket.pause();
    socket.unshift(first);
    told(isAlike);
  };
  const done = (): void => {
    clearTimeout(timer);
    socket.off('data', read).off('error', cut).off('end', cut).off('close', done);
  };
  socket.on('data', read).on('error', cut).on('end', cut).on('close', done);
}
