/**
 * Which protocol a connection speaks. In TLS the handshake has said so (ALPN, RFC 7301), and what begins
 * without one is told to; in cleartext HTTP/2 begins with a preface that is no request of HTTP/1.1
 * (RFC 9113 section 3.4). Invariant: a connection that does not say in time is cut.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { Server as TlsServer, type TLSSocket } from 'node:tls';

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
/** As much as tells it from any method that a host knows. */
const TELLING = Buffer.from(PREFACE.slice(0, 5), 'latin1');

type Take = (socket: Socket) => void;

const LINGER_MS = 1000;
/** Of a connection that begins a handshake (RFC 8446 section 5.1). */
const HANDSHAKE = 0x16;
const NO_TLS_TEXT = 'This port speaks TLS: use https.\n';
const NO_TLS =
  'HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n' +
  `Content-Length: ${NO_TLS_TEXT.length}\r\n\r\n${NO_TLS_TEXT}`;

/** Hands each connection of the server to its own HTTP/1.1, or to `http2` with nothing of it read. */
export function tellProtocols(server: Server, http2: Take, timeoutMs: number): void {
  const begin = takeListener(server, 'connection');
  if (server instanceof TlsServer) {
    const http1 = takeListener(server, 'secureConnection');
    server.on('secureConnection', (socket: TLSSocket) => {
      if (socket.alpnProtocol === 'h2') http2(socket);
      else http1(socket);
    });
    server.on('connection', (socket: Socket) => {
      peek(
        socket,
        timeoutMs,
        ([first]) => first === HANDSHAKE,
        (isTls) => {
          if (isTls) begin(socket);
          else dismiss(socket);
        },
      );
    });
    return;
  }
  server.on('connection', (socket: Socket) => {
    peek(socket, timeoutMs, isPreface, (isHttp2) => {
      if (isHttp2) return http2(socket);
      begin(socket);
      socket.resume();
    });
  });
}

/** Answers and takes no more; a peer that keeps its half open is cut. */
function dismiss(socket: Socket): void {
  socket.on('error', () => undefined); // the peer is gone
  socket.end(NO_TLS);
  socket.resume();
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}

/** Undefined while there is too little of it to tell. */
function isPreface(first: Buffer): boolean | undefined {
  const compared = Math.min(first.length, TELLING.length);
  const isAlike = first.compare(TELLING, 0, compared, 0, compared) === 0;
  return isAlike && compared < TELLING.length ? undefined : isAlike;
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

/** Reads until `judge` can tell, and gives back what was read. Cuts a connection that does not say in time. */
function peek(
  socket: Socket,
  timeoutMs: number,
  judge: (first: Buffer) => boolean | undefined,
  told: (verdict: boolean) => void,
): void {
  let first: Buffer = Buffer.alloc(0);
  const cut = (): void => void socket.destroy();
  const timer = setTimeout(cut, timeoutMs);
  const read = (chunk: Buffer): void => {
    first = first.length === 0 ? chunk : Buffer.concat([first, chunk]);
    const verdict = judge(first);
    if (verdict === undefined) return;
    done();
    socket.pause();
    socket.unshift(first);
    told(verdict);
  };
  const done = (): void => {
    clearTimeout(timer);
    socket.off('data', read).off('error', cut).off('end', cut).off('close', done);
  };
  socket.on('data', read).on('error', cut).on('end', cut).on('close', done);
}
