/**
 * Which protocol a connection speaks. In TLS the handshake has said so (ALPN, RFC 7301); in cleartext
 * HTTP/2 begins with a preface that is no request of HTTP/1.1 (RFC 9113 section 3.4). Invariant: a
 * connection that does not say in time is cut.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { Server as TlsServer, type TLSSocket } from 'node:tls';

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
/** As much as tells it from any method that a host knows. */
const TELLING = Buffer.from(PREFACE.slice(0, 5), 'latin1');

type Take = (socket: Socket) => void;

/** Hands each connection of the server to its own HTTP/1.1, or to `http2` with nothing of it read. */
export function tellProtocols(server: Server, http2: Take, timeoutMs: number): void {
  if (server instanceof TlsServer) {
    const http1 = takeListener(server, 'secureConnection');
    server.on('secureConnection', (socket: TLSSocket) => {
      if (socket.alpnProtocol === 'h2') http2(socket);
      else http1(socket);
    });
    return;
  }
  const http1 = takeListener(server, 'connection');
  server.on('connection', (socket: Socket) => {
    tell(socket, timeoutMs, (isHttp2) => {
      if (isHttp2) return http2(socket);
      http1(socket);
      socket.resume();
    });
  });
}

/** The listener by which Node's server takes a connection, which it is left without. */
function takeListener(server: Server, event: 'connection' | 'secureConnection'): Take {
  // In TLS, the server's own `connection` begins the handshake.
  const [http1, ...more] = server.listeners(event);
  if (http1 === undefined || more.length > 0) {
    throw new Error(`the server is expected to have one listener for ${event}: its HTTP/1.1`);
  }
  server.removeAllListeners(event);
  return (socket) => void Reflect.apply(http1, server, [socket]);
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
