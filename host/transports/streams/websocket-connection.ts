/**
 * One WebSocket. Invariants: of what is sent no more than a bound waits here, and over it, or when nothing is
 * taken for long, the connection is cut; one message is dealt with at a time, and meanwhile no other is read.
 */
import { type ErrorCode, NoaError } from '@noa/sdk/host';
import type { WebSocket } from 'ws';
import type { Connection, Connections } from './connections.ts';
import { type Message, parseMessage } from './messages.ts';

/** Bytes that wait to be taken: below the first there is room, above the second the reader is too slow. */
const ROOM_BYTES = 64 << 10;
const MAX_BYTES = 1 << 20;

/** Close codes: RFC 6455 section 7.4.1 and the registry of IANA. */
const GOING_AWAY = 1001;
const UNSUPPORTED = 1003;
const TRY_AGAIN = 1013;
const POLICY = 1008;
const CLOSE_CODES: { readonly [code in ErrorCode]?: number } = {
  UNAUTHENTICATED: POLICY,
  PERMISSION_DENIED: POLICY,
  RATE_LIMITED: TRY_AGAIN,
  RESOURCE_EXHAUSTED: TRY_AGAIN,
  UNAVAILABLE: TRY_AGAIN,
};
const FAILED = 1011;

export interface Receiver {
  /** A message of the client. What it throws is told as an error. */
  receive(message: Message): void | Promise<void>;
  /** The connection is gone. Called once. */
  closed(): void;
}

export class WebSocketConnection implements Connection {
  readonly #socket: WebSocket;
  readonly #connections: Connections;
  readonly #onError: (message: string, error: unknown) => void;
  #room: PromiseWithResolvers<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isAlive = true;
  /** The first is being dealt with. */
  readonly #unread: Buffer[] = [];
  #ended = false;

  constructor(
    socket: WebSocket,
    connections: Connections,
    onError: (message: string, error: unknown) => void,
  ) {
    this.#socket = socket;
    this.#connections = connections;
    this.#onError = onError;
  }

  listen(receiver: Receiver): void {
    const socket = this.#socket;
    socket.on('error', () => undefined); // the protocol was broken; `close` follows
    socket.on('pong', () => (this.#isAlive = true));
    socket.on('ping', (data) => {
      if (this.#isTooFull()) this.#tooSlow();
      else if (!this.closed) socket.pong(data);
    });
    socket.on('message', (data: Buffer, isBinary) => {
      this.#isAlive = true;
      if (isBinary) socket.close(UNSUPPORTED, 'messages are JSON text');
      else if (!this.#ended) void this.#receive(receiver, data);
    });
    socket.on('close', () => {
      this.#ended = true;
      clearTimeout(this.#timer);
      this.#connections.delete(this);
      this.#room?.resolve();
      receiver.closed();
    });
  }

  /** The rest of what was read at once waits for its turn, and nothing more is read until then. */
  async #receive(receiver: Receiver, data: Buffer): Promise<void> {
    this.#unread.push(data);
    if (this.#unread.length > 1) return;
    for (let next = this.#unread[0]; next !== undefined; next = this.#unread[0]) {
      try {
        const done = receiver.receive(parseMessage(next.toString()));
        if (done !== undefined) {
          this.#socket.pause();
          await done;
        }
      } catch (error) {
        void this.sendError(error);
      }
      this.#unread.shift();
      if (this.#ended) this.#unread.length = 0;
    }
    if (!this.#socket.isPaused) return;
    this.#isAlive = true; // a pong may wait to be read
    this.#socket.resume();
  }

  get closed(): boolean {
    return this.#ended || this.#socket.readyState !== this.#socket.OPEN;
  }

  send(frame: string | Uint8Array): Promise<void> | undefined {
    if (this.closed) return undefined;
    if (this.#isTooFull()) {
      this.#tooSlow();
      return undefined;
    }
    this.#socket.send(frame, { binary: false }, this.#flushed);
    if (this.#socket.bufferedAmount < ROOM_BYTES) return undefined;
    if (this.#room === undefined) {
      this.#room = Promise.withResolvers<void>();
      this.#timer = setTimeout(() => this.#tooSlow(), this.#connections.options.stallMs);
    }
    return this.#room.promise;
  }

  /** Of a failed send there is nothing to do: `close` comes. */
  readonly #flushed = (): void => {
    if (this.#room === undefined || this.#socket.bufferedAmount >= ROOM_BYTES) return;
    if (!this.#ended) clearTimeout(this.#timer);
    this.#room.resolve();
    this.#room = undefined;
  };

  /** `{type: "error", id?, code, message}`; of what is no NoaError the client learns no more than INTERNAL. */
  sendError(error: unknown, id?: string): Promise<void> | undefined {
    const known = error instanceof NoaError;
    if (!known) this.#onError('a message of a WebSocket failed', error);
    const { code, message, retryAfterMs } = known
      ? error
      : new NoaError('INTERNAL', 'the host failed; its log tells more');
    return this.send(JSON.stringify({ type: 'error', id, code, message, retryAfterMs }));
  }

  #isTooFull(): boolean {
    return this.#socket.bufferedAmount > MAX_BYTES;
  }

  #tooSlow(): void {
    const text = 'messages come faster than they are taken: connect again';
    this.end(new NoaError('RESOURCE_EXHAUSTED', text));
  }

  /** One that has not answered the last time is dead. */
  beat(): void {
    if (this.closed || this.#unread.length > 0) return;
    if (!this.#isAlive) return this.#socket.terminate();
    this.#isAlive = false;
    this.#socket.ping();
  }

  end(reason?: NoaError): void {
    if (this.closed) return;
    if (reason !== undefined && !this.#isTooFull()) void this.sendError(reason);
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#socket.terminate(), this.#connections.endMs);
    const code = reason === undefined ? GOING_AWAY : (CLOSE_CODES[reason.code] ?? FAILED);
    this.#socket.close(code, reason === undefined ? 'the host stops' : reason.code);
    this.#room?.resolve();
  }
}
