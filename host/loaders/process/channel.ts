/** One end of the socket pair between the host and a process: frames in, frames out, many in one write. */
import type { Socket } from 'node:net';
import { encode, type Frame, FrameError, FrameReader, type FrameBounds } from './frames.ts';

/** A chunk this long says that more waits: others have a turn before it is read. */
const FULL_CHUNK = 48 << 10;

export interface ChannelOwner {
  /** A FrameError thrown here is the peer's. */
  received(frame: Frame): void;
  /** The peer broke the protocol; nothing more is read. */
  broken(error: FrameError): void;
  closed(): void;
}

export class Channel {
  readonly #socket: Socket;
  readonly #owner: ChannelOwner;
  readonly #reader: FrameReader;
  #outbox: Buffer[] = [];
  #closed = false;

  constructor(socket: Socket, owner: ChannelOwner, bounds: FrameBounds) {
    this.#socket = socket;
    this.#owner = owner;
    this.#reader = new FrameReader(bounds);
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('error', () => this.close()); // The peer is gone; `close` follows.
    socket.on('close', () => {
      this.#closed = true;
      owner.closed();
    });
  }

  /** Bytes that the peer has not taken yet. */
  get waitingBytes(): number {
    return this.#socket.writableLength;
  }

  /** Sends with whatever else this turn of the event loop sends. */
  send(kind: number, id: number, head: string, body: string | Uint8Array = ''): void {
    this.#outbox.push(encode(kind, id, head, body));
    if (this.#outbox.length === 1) setImmediate(() => this.#flush());
  }

  close(): void {
    this.#closed = true;
    this.#outbox = [];
    this.#socket.destroy();
  }

  #flush(): void {
    const [first, ...more] = this.#outbox;
    this.#outbox = [];
    if (this.#closed || first === undefined) return;
    this.#socket.write(more.length === 0 ? first : Buffer.concat([first, ...more]));
  }

  #read(chunk: Buffer): void {
    try {
      for (const frame of this.#reader.read(chunk)) {
        if (this.#closed) return;
        this.#owner.received(frame);
      }
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.close();
      return this.#owner.broken(error);
    }
    if (chunk.length < FULL_CHUNK || this.#closed) return;
    this.#socket.pause();
    setImmediate(() => this.#socket.resume());
  }
}
