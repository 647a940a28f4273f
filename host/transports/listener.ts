/**
 * One listening socket with HTTP/1.1 on it, in cleartext or TLS: its limits, its clear words when it cannot
 * listen, and its end. Invariant: a connection that does not move is cut, whichever part of a request it withholds; one
 * that waits for a running call is not.
 */
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, Server as NetServer } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type SecureContextOptions, Server as TlsServer } from 'node:tls';
import { NoaError } from '@noa/sdk/host';
import { problem, PROBLEM_TYPE } from './problem-document.ts';
import { beginTrace, traceparent } from './trace.ts';

export interface ConnectionLimits {
  readonly maxConnections: number;
  readonly maxHeaderBytes: number;
  /** From the first byte of a request to the end of its headers. */
  readonly headersTimeoutMs: number;
  /** From the first byte of a request to the end of its body. */
  readonly requestTimeoutMs: number;
  /** Longest rest of a connection between two requests; longer than what load balancers keep (60 s). */
  readonly keepAliveTimeoutMs: number;
  /** Longest time in which a caller takes nothing of an answer. */
  readonly stallTimeoutMs: number;
}

export const CONNECTION_LIMITS: ConnectionLimits = {
  maxConnections: 10_000,
  maxHeaderBytes: 16 << 10,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  keepAliveTimeoutMs: 65_000,
  stallTimeoutMs: 30_000,
};

/** In the order of the host's preference. */
const ALPN = ['h2', 'http/1.1'];
/** How often requests over their time are looked for. */
const CHECK_MS = 1000;
/**
 * So long after the listener closes a connection without a request may still bring one: it was on its way when
 * nobody had told its sender.
 */
export const PATIENCE_MS = 500;
/** How often connections without a request are looked for while the listener closes. */
const CLOSE_CHECK_MS = 50;

/** Answers that are not complete, by which a running call is told from a caller that does not read. */
type Open = () => Iterable<ServerResponse>;

/** `tls` holds the certificate; with authorities in it, a client certificate of theirs is required. */
export function createListener(
  handler: RequestListener,
  limits: ConnectionLimits,
  open: Open,
  tls?: SecureContextOptions,
): Server {
  const options = {
    maxHeaderSize: limits.maxHeaderBytes,
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    requireHostHeader: false, // http.ts asks for it, to answer as to any other fault
    connectionsCheckingInterval: Math.min(CHECK_MS, limits.headersTimeoutMs),
    // Any other upgrade (h2c) may be passed over (RFC 9110 section 7.8).
    shouldUpgradeCallback: ({ method, headers, url = '' }: IncomingMessage) =>
      server.listenerCount('upgrade') > 0 &&
      method === 'GET' &&
      url.startsWith('/ws/') &&
      headers.upgrade?.toLowerCase() === 'websocket',
  };
  const server: Server =
    tls === undefined
      ? createServer(options, handler)
      : createTlsServer(
          {
            ...options,
            ...tls,
            requestCert: tls.ca !== undefined,
            rejectUnauthorized: true,
            handshakeTimeout: limits.headersTimeoutMs,
            // A client that offers none of these is told so; one that offers nothing speaks HTTP/1.1.
            ALPNCallback: ({ protocols }) => ALPN.find((name) => protocols.includes(name)),
          },
          handler,
        );
  if (tls !== undefined) {
    // Nobody could read an answer of HTTP to a handshake that failed.
    server.removeAllListeners('tlsClientError');
    server.on('tlsClientError', (_error: Error, socket: Duplex) => void socket.destroy());
  }
  server.maxConnections = limits.maxConnections;
  server.setTimeout(limits.stallTimeoutMs, (socket) => {
    for (const response of open()) {
      if (response.socket === socket && !response.writableEnded) return;
    }
    socket.destroy();
  });
  return server;
}

/** Answers what is not HTTP, or not in time, or too long to be read; there is no request to tell of. */
export function refuseConnection(
  error: Error & { code?: string },
  socket: Duplex,
  open: Open,
): void {
  // Into an answer that has begun, no other may be written.
  const begun = [...open()].some((response) => response.socket === socket && response.headersSent);
  if (error.code === 'ECONNRESET' || !socket.writable || begun) {
    socket.destroy();
    return;
  }
  const [status, body] = unreadable(error.code);
  const trace = beginTrace(undefined, undefined, ''); // the request's own cannot be read
  const text = JSON.stringify({ ...body, traceId: trace.traceId });
  socket.end(
    `HTTP/1.1 ${status}\r\nContent-Type: ${PROBLEM_TYPE}\r\nConnection: close\r\n` +
      `X-Request-Id: ${trace.spanId}\r\nTraceparent: ${traceparent(trace)}\r\n` +
      `Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
    // What it still sends is not read, so that it cannot keep the connection.
    () => socket.destroy(),
  );
}

function unreadable(code: string | undefined): [status: string, body: object] {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT': {
      const error = new NoaError('DEADLINE_EXCEEDED', 'the request was not complete in time');
      return ['408 Request Timeout', problem(error, 408)];
    }
    case 'HPE_HEADER_OVERFLOW': {
      const error = new NoaError('PAYLOAD_TOO_LARGE', 'the request line and headers are too long');
      return ['431 Request Header Fields Too Large', problem(error, 431)];
    }
    default: {
      const error = new NoaError('INVALID_ARGUMENT', 'the request is not valid HTTP/1.1');
      return ['400 Bad Request', problem(error, 400)];
    }
  }
}

export interface Address {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
}

/** The command-line flags of a listener, for its error messages. */
export interface Flags {
  readonly host: string;
  readonly port: string;
}

export interface Listening {
  readonly url: string;
  readonly port: number;
}

/** Rejects with NoaError in words for an operator: CONFLICT when the port is taken, else INVALID_ARGUMENT. */
export function listen(server: Server, address: Address, flags: Flags): Promise<Listening> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException): void => reject(whyNot(error, address, flags));
    server.once('error', onError);
    server.listen({ host: address.host, port: address.port }, () => {
      server.off('error', onError);
      const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
      const scheme = server instanceof TlsServer ? 'https' : 'http';
      resolve({ url: `${scheme}://${reachable(address.host)}:${port}`, port });
    });
  });
}

/** Rejects as `listen` would now. Port 0 is always free. */
export async function assertFree(address: Address, flags: Flags): Promise<void> {
  const server = createServer();
  await listen(server, address, flags);
  await new Promise((resolve) => server.close(resolve));
}

function whyNot(error: NodeJS.ErrnoException, { host, port }: Address, flags: Flags): NoaError {
  switch (error.code) {
    case 'EADDRINUSE':
      return new NoaError(
        'CONFLICT',
        `port ${port} on ${host} is in use by another process: choose another with ${flags.port}`,
      );
    case 'EACCES':
      return new NoaError(
        'INVALID_ARGUMENT',
        `port ${port} on ${host} may not be opened by this user: choose one above 1023 with ${flags.port}`,
      );
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new NoaError(
        'INVALID_ARGUMENT',
        `${host} is not an address of this machine: choose another with ${flags.host}`,
      );
    default:
      return new NoaError('INTERNAL', `cannot listen on port ${port} of ${host}: ${error.code}`, {
        cause: error,
      });
  }
}

/** An address that a person on this machine can open. */
function reachable(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '[::1]';
  return host.includes(':') ? `[${host}]` : host;
}

/**
 * Takes no more connections, lets those that run finish for `graceMs`, then cuts the rest. Resolves when
 * none is left. Node's own `close` would at once destroy connections whose answer is written but not yet
 * taken by its reader, and stop to watch over slow requests: it comes last here. `cutRest` cuts
 * connections that do not speak HTTP/1.1.
 */
export async function closeListener(
  server: Server,
  open: Open,
  graceMs: number,
  cutRest: () => void = () => undefined,
): Promise<void> {
  if (!server.listening) return;
  const end = performance.now() + graceMs;
  const patience = performance.now() + Math.min(PATIENCE_MS, graceMs);
  const closed = new Promise<boolean>((resolve) => {
    NetServer.prototype.close.call(server, () => resolve(true));
  });
  const wait = () => sleep(Math.max(1, Math.min(CLOSE_CHECK_MS, end - performance.now())), false);
  do {
    const flushing = [...open()].some((response) => response.writableEnded);
    if (!flushing && performance.now() >= patience) server.closeIdleConnections();
  } while (!(await Promise.race([closed, wait()])) && performance.now() < end);
  server.closeAllConnections();
  cutRest();
  await closed;
  server.close();
}
