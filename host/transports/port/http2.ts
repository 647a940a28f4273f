/**
 * HTTP/2 on connections that somebody else has accepted: gRPC streams go to grpc-js, all others to the
 * handler that HTTP/1.1 has too. Invariants: whatever a peer does or leaves undone, a connection holds a
 * bounded number of streams and bytes, and one that costs without being of use is cut; when the front
 * closes, what runs may finish in its time.
 */
import type { RequestListener } from 'node:http';
import { createServer, type Http2Server, type ServerHttp2Session } from 'node:http2';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Server as GrpcServer, type ServerOptions } from '@grpc/grpc-js';
import { Connection, type Http2Limits } from './connection.ts';
import { answersGrpc, grpcEntry, isGrpc, refuseGrpc, type TakeGrpc } from './grpc.ts';

/** Streams that one connection has open; RFC 9113 section 6.5.2 asks for no fewer than 100. */
const MAX_STREAMS = 256;
/** Bytes that the protocol itself may keep for one connection, in MB: what callers have not taken yet counts. */
const MAX_SESSION_MB = 64;
/**
 * Streams that a caller takes back at once, and in each second after that (CVE-2023-44487): a little more
 * than all of its streams each second, as when an upstream hangs and every call runs into its deadline.
 */
const RESET_BURST = 1000;
const RESETS_PER_SECOND = 300;
/** Entries of one SETTINGS frame. */
const MAX_SETTINGS = 16;
const CHECK_MS = 1000;
const CLOSE_CHECK_MS = 50;

export interface Http2FrontOptions {
  /** Of fastify; HTTP/2's requests and answers have the form of HTTP/1.1's. */
  readonly handler: RequestListener;
  readonly limits: Http2Limits;
  /** Of the gRPC server, whose options on connections have no effect: this front has them. */
  readonly grpc?: ServerOptions;
  /** Sees each gRPC call before that server does. */
  readonly enterGrpc?: TakeGrpc;
}

export interface Http2Front {
  /** Takes services at any time. It listens nowhere itself. */
  readonly server: GrpcServer;
  /** Takes a connection on which the peer speaks HTTP/2; nothing of it may have been read. */
  accept(socket: Duplex): void;
  /** Tries whether gRPC calls reach `server`; when they do not, they are refused and all else goes on. */
  tryGrpc(): Promise<boolean>;
  /** Tells every peer (GOAWAY), lets open streams finish for `graceMs`, then cuts. Idempotent. */
  close(graceMs: number): Promise<void>;
}

export function createHttp2Front(options: Http2FrontOptions): Http2Front {
  return new Front(options);
}

class Front implements Http2Front {
  readonly server: GrpcServer;
  readonly #limits: Http2Limits;
  readonly #connections = new Set<Connection>();
  readonly #sessions: Http2Server;
  readonly #rest: Http2Server;
  #grpc: TakeGrpc;
  #enterGrpc: TakeGrpc | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isClosing = false;

  constructor({ handler, limits, grpc, enterGrpc }: Http2FrontOptions) {
    this.#limits = limits;
    this.server = new GrpcServer({ ...grpc, 'grpc.enable_channelz': 0 });
    this.#grpc = grpcEntry(this.server);
    this.#enterGrpc = enterGrpc;
    // Never given a connection: it gives a stream the form of a request and an answer of HTTP/1.1.
    this.#rest = createServer().on('request', handler);
    this.#sessions = createServer({
      maxSessionMemory: MAX_SESSION_MB,
      maxSettings: MAX_SETTINGS,
      streamResetBurst: RESET_BURST,
      streamResetRate: RESETS_PER_SECOND,
      settings: {
        maxConcurrentStreams: MAX_STREAMS,
        maxHeaderListSize: limits.maxHeaderBytes,
        enableConnectProtocol: false,
      },
    });
    this.#sessions.on('stream', (stream, headers, flags, raw) => {
      if (isGrpc(headers)) {
        this.#enterGrpc?.(stream, headers);
        return this.#grpc(stream, headers);
      }
      headers.host ??= headers[':authority']; // RFC 9113 section 8.3.1
      this.#rest.emit('stream', stream, headers, flags, raw);
    });
  }

  accept(socket: Duplex): void {
    if (this.#isClosing) {
      socket.destroy();
      return;
    }
    // A peer that has closed its half is gone; HTTP/1.1's server leaves the other half to its handler.
    socket.allowHalfOpen = false;
    this.#sessions.once('session', (session: ServerHttp2Session) => {
      const connection = new Connection(session, socket, this.#limits);
      this.#connections.add(connection);
      socket.once('close', () => this.#connections.delete(connection));
    });
    this.#sessions.emit('connection', socket);
    this.#timer ??= setInterval(() => this.#check(), CHECK_MS).unref();
  }

  #check(): void {
    const now = performance.now();
    for (const connection of this.#connections) connection.check(now);
    if (this.#connections.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async tryGrpc(): Promise<boolean> {
    const enter = this.#enterGrpc;
    this.#enterGrpc = undefined; // it is nobody's call
    const works = await answersGrpc((socket) => this.accept(socket));
    this.#enterGrpc = enter;
    if (!works) this.#grpc = refuseGrpc;
    return works;
  }

  async close(graceMs: number): Promise<void> {
    this.#isClosing = true;
    const end = performance.now() + graceMs;
    for (const connection of this.#connections) connection.end();
    while (this.#connections.size > 0 && performance.now() < end) {
      for (const connection of this.#connections) connection.leave(performance.now());
      await sleep(Math.max(1, Math.min(CLOSE_CHECK_MS, end - performance.now())));
    }
    for (const { socket } of this.#connections) socket.destroy();
    clearInterval(this.#timer);
    this.server.forceShutdown();
  }
}
