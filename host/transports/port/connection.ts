/**
 * One HTTP/2 connection under watch. Node and nghttp2 bound what a frame may hold; this bounds time:
 * a connection without streams, a request that does not end, an answer that is not taken, a peer that is
 * gone, and frames that cost work and ask for nothing. Invariant: every check is made for one stream or
 * one connection alone, so that one that moves does not hide another that does not.
 */
import { constants, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { ConnectionLimits } from '../listener.ts';

/** Slowest rate at which a complete answer may be taken, in bytes each ms; a slow line of 2G has it. */
const LEAST_RATE = 16;
/** A peer that nothing was heard of while a stream is open is asked for a sign of life. */
const PING_MS = 30_000;
/** What a peer may spend in each second on frames that ask for nothing. */
const BUDGET = 2000;
/** A client that measures its line sends one for each answer that it reads. */
const PING_COST = 1;
/** Each may resize what nghttp2 keeps; a peer has reason for two or three in a connection's life. */
const SETTINGS_COST = 40;
/** Whichever side resets the stream: a peer can also have it done by frames that are wrong. */
const RESET_COST = 2;
/** What a peer has to read the last frames in, once its streams are over. */
const LINGER_MS = 250;
/** Longest wait for a peer to have read that no more streams are taken. */
const FAREWELL_MS = 500;
/** No stream that a peer can name comes after it. */
const LAST_STREAM = 2 ** 31 - 1;

export type Http2Limits = Pick<
  ConnectionLimits,
  | 'maxHeaderBytes'
  | 'headersTimeoutMs'
  | 'requestTimeoutMs'
  | 'keepAliveTimeoutMs'
  | 'stallTimeoutMs'
>;

interface OpenStream {
  readonly since: number;
  /** When its answer was first seen to be complete on this side. */
  answered: number | undefined;
}

export class Connection {
  readonly session: ServerHttp2Session;
  readonly socket: Duplex;
  readonly #limits: Http2Limits;
  readonly #streams = new Map<ServerHttp2Stream, OpenStream>();
  #budget = BUDGET;
  /** When the last stream ended. */
  #idleSince = performance.now();
  #pingedAt = performance.now();
  #isWaiting = false;
  /** The peer's SETTINGS have come, with which it has to begin (RFC 9113 section 3.4). */
  #isGreeted = false;
  #farewell: NodeJS.Timeout | undefined;
  #closedAt = Infinity;

  constructor(session: ServerHttp2Session, socket: Duplex, limits: Http2Limits) {
    this.session = session;
    this.socket = socket;
    this.#limits = limits;
    socket.on('error', () => undefined); // its end is told by 'close'
    session.on('ping', () => this.#spend(PING_COST));
    session.on('remoteSettings', () => {
      this.#isGreeted = true;
      this.#spend(SETTINGS_COST);
    });
    session.on('stream', (stream) => this.#open(stream));
  }

  #open(stream: ServerHttp2Stream): void {
    this.#streams.set(stream, { since: performance.now(), answered: undefined });
    stream.once('close', () => {
      this.#streams.delete(stream);
      if (this.#streams.size === 0) this.#idleSince = performance.now();
      if (stream.rstCode !== constants.NGHTTP2_NO_ERROR) this.#spend(RESET_COST);
    });
  }

  #spend(cost: number): void {
    this.#budget -= cost;
    if (this.#budget >= 0 || this.session.destroyed) return;
    this.session.destroy(new Error('spent its budget'), constants.NGHTTP2_ENHANCE_YOUR_CALM);
  }

  /** Once a second. */
  check(now: number): void {
    this.#budget = BUDGET;
    const { headersTimeoutMs, keepAliveTimeoutMs, stallTimeoutMs } = this.#limits;
    if (this.#streams.size === 0) {
      const allowed = this.#isGreeted ? keepAliveTimeoutMs : headersTimeoutMs;
      const rest = now - this.#idleSince - allowed;
      if (rest > stallTimeoutMs && this.#farewell !== undefined) this.socket.destroy();
      else if (rest > 0) this.end();
      return;
    }
    for (const [stream, open] of this.#streams) {
      if (this.#isStuck(stream, open, now)) stream.close(constants.NGHTTP2_CANCEL);
    }
    this.#ping(now);
  }

  #isStuck(stream: ServerHttp2Stream, open: OpenStream, now: number): boolean {
    const { requestTimeoutMs, stallTimeoutMs } = this.#limits;
    if (stream.writableEnded) {
      open.answered ??= now;
      const allowed = stallTimeoutMs + stream.writableLength / LEAST_RATE;
      return now - open.answered > allowed;
    }
    return now - open.since > requestTimeoutMs && stream.state.remoteClose === 0;
  }

  /** Without a sign of life within the next interval the connection is cut. */
  #ping(now: number): void {
    if (now - this.#pingedAt < PING_MS) return;
    if (this.#isWaiting) {
      this.socket.destroy();
      return;
    }
    this.#pingedAt = now;
    this.#isWaiting = this.session.ping(() => (this.#isWaiting = false));
  }

  /**
   * Has the connection end with its open streams. The peer is told first, with no stream refused that has
   * come by now; a second GOAWAY names the last one that was served, so that what was still on its way may
   * be sent again elsewhere (RFC 9113 section 6.8). Idempotent.
   */
  end(): void {
    if (this.#farewell !== undefined || this.session.closed) return;
    const close = (): void => {
      if (this.#closedAt < Infinity) return;
      this.#closedAt = performance.now();
      clearTimeout(this.#farewell);
      this.session.close();
    };
    this.#farewell = setTimeout(close, FAREWELL_MS).unref();
    this.session.goaway(constants.NGHTTP2_NO_ERROR, LAST_STREAM);
    this.session.ping(close);
  }

  /** After `end`: cuts the connection when its streams are over, and its peer keeps it open. */
  leave(now: number): void {
    const since = Math.max(this.#closedAt, this.#idleSince);
    if (this.#streams.size === 0 && now - since > LINGER_MS) this.socket.destroy();
  }
}
