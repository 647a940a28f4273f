/**
 * The one port of a host: HTTP/1.1, WebSocket, HTTP/2 and gRPC on one listening socket, in cleartext or
 * TLS. Invariant: a connection is somebody's from its first byte, counts against one limit, and is closed
 * with the port.
 */
import type { RequestListener, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Server as TlsServer } from 'node:tls';
import type { Server as GrpcServer, ServerOptions } from '@grpc/grpc-js';
import {
  type Address,
  closeListener,
  type ConnectionLimits,
  createListener,
  type Flags,
  listen,
  type Listening,
  PATIENCE_MS,
} from '../listener.ts';
import type { TakeGrpc } from './grpc.ts';
import { createHttp2Front, type Http2Front } from './http2.ts';
import { tellProtocols } from './protocol.ts';
import { type PortTls, Rotation } from './tls.ts';

/** What answers gRPC calls; see `createGrpc`. */
export interface GrpcServices {
  readonly serverOptions: ServerOptions;
  /** Sees each call before the server does. */
  enter: TakeGrpc;
  addTo(server: GrpcServer): void;
  drain(): void;
}

export interface PortOptions {
  readonly limits: ConnectionLimits;
  /** Answers of HTTP/1.1 that are not over. */
  readonly open: () => Iterable<ServerResponse>;
  /** Absent: cleartext. */
  readonly tls?: PortTls | undefined;
  readonly grpc?: GrpcServices | undefined;
  /** For the log. */
  readonly onError: (message: string, error: unknown) => void;
}

export class Port {
  readonly server: Server;
  readonly #options: PortOptions;
  readonly #http2: Http2Front;
  readonly #rotation: Rotation | undefined;
  readonly #sockets = new Set<Socket>();

  constructor(handler: RequestListener, options: PortOptions) {
    const { limits, open, tls, grpc } = options;
    this.#options = options;
    this.server = createListener(handler, limits, open, tls?.certificate.context);
    this.#http2 = createHttp2Front({
      handler,
      limits,
      ...(grpc && { grpc: grpc.serverOptions, enterGrpc: grpc.enter }),
    });
    grpc?.addTo(this.#http2.server);
    tellProtocols(this.server, (socket) => this.#http2.accept(socket), limits.headersTimeoutMs);
    this.server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    if (tls !== undefined && this.server instanceof TlsServer) {
      this.#rotation = new Rotation(this.server, tls);
    }
  }

  /** Rejects with NoaError in words for an operator when it cannot. */
  async listen(address: Address, flags: Flags): Promise<Listening> {
    if (this.#options.grpc !== undefined && !(await this.#http2.tryGrpc())) {
      const error = new Error('the gRPC library takes no streams of a session that is not its own');
      this.#options.onError('gRPC calls are refused, all else is served', error);
    }
    return listen(this.server, address, flags);
  }

  /** Takes the certificate that the files hold now. */
  async rotate(): Promise<void> {
    await this.#rotation?.look();
  }

  /** Takes no more connections, lets what runs finish for `graceMs`, then cuts the rest. */
  async close(graceMs: number): Promise<void> {
    this.#rotation?.stop();
    this.#options.grpc?.drain();
    const silent = setTimeout(
      () => {
        for (const socket of this.#sockets) {
          if (socket.bytesRead === 0) socket.destroy();
        }
      },
      Math.min(PATIENCE_MS, graceMs),
    );
    const cutRest = (): void => {
      for (const socket of this.#sockets) socket.destroy();
    };
    await Promise.all([
      closeListener(this.server, this.#options.open, graceMs, cutRest),
      this.#http2.close(graceMs),
    ]);
    clearTimeout(silent);
  }
}
