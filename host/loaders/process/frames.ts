/**
 * How the host and the process of an untrusted plugin talk: frames over one socket pair, a length, a
 * kind, a number, a short head and a body. The host reads what the plugin may have written after it has
 * taken its process over, so a frame is judged by its first bytes, before any of it is kept.
 * Invariant: any bytes whatever are answered with frames or one `FrameError`, in linear time, with at
 * most one frame of the largest size held.
 */

/** The peer broke the form of a frame or of what is in it; nothing further from it can be trusted. */
export class FrameError extends Error {}

export const KIND = {
  /** To the process: head `LoadHead`, body the module. Answered by `done` or `failed`. */
  load: 1,
  /** To the process: head `InspectHead`, body the module. Answered by `done` or `failed`. */
  inspect: 2,
  /** To the process: head `CallHead`, body the input. Answered by `done` or `failed`. */
  call: 3,
  /** To the process: the envelope that answers an `invoke`; head its number. */
  reply: 4,
  /** To the process: end this call; it is still answered, once. */
  cancel: 5,
  /** From the process: the output of what was asked; head what a call has cost, if that is known. */
  done: 16,
  /** From the process: an error body as JSON; head as of `done`. */
  failed: 17,
  /** From the process: a capability request as JSON; head its number in its call, then as of `done`. */
  invoke: 18,
  /** From the process: a log line; head its level. */
  log: 19,
  /** From the process: head "instances bytes". */
  usage: 20,
  /** From the process: head what the plugin did to the worker that ran it. */
  harmed: 21,
} as const;

export interface Frame {
  readonly kind: number;
  /** What was asked for: counts up from 1 and is never used twice in one process. */
  readonly id: number;
  readonly head: string;
  /** Good until the next frame is read. */
  readonly body: Buffer;
}

export interface FrameBounds {
  readonly headBytes: number;
  readonly bodyBytes: number;
}

const LENGTH = 4;
/** Kind, id (six bytes), length of the head. */
const FIXED = 1 + 6 + 4;
const ROOM = 64 << 10;

export function encode(
  kind: number,
  id: number,
  head: string,
  body: string | Uint8Array = '',
): Buffer {
  const headBytes = Buffer.byteLength(head);
  const bodyBytes = typeof body === 'string' ? Buffer.byteLength(body) : body.length;
  const frame = Buffer.allocUnsafe(LENGTH + FIXED + headBytes + bodyBytes);
  frame.writeUInt32BE(FIXED + headBytes + bodyBytes, 0);
  frame.writeUInt8(kind, 4);
  frame.writeUIntBE(id, 5, 6);
  frame.writeUInt32BE(headBytes, 11);
  const start = LENGTH + FIXED;
  frame.write(head, start, 'utf8');
  if (typeof body === 'string') frame.write(body, start + headBytes, 'utf8');
  else frame.set(body, start + headBytes);
  return frame;
}

export class FrameReader {
  readonly #bounds: FrameBounds;
  /** The part of a frame that has come so far: its first `#held` bytes. */
  #room = Buffer.allocUnsafeSlow(ROOM);
  #held = 0;

  constructor(bounds: FrameBounds) {
    this.#bounds = bounds;
  }

  /** The frames that are complete with this chunk. Throws FrameError. */
  *read(chunk: Buffer): Generator<Frame, void, undefined> {
    const bytes = this.#held === 0 ? chunk : this.#append(chunk);
    let at = 0;
    for (;;) {
      const size = this.#sizeAt(bytes, at);
      if (size === undefined || bytes.length - at < size) break;
      yield this.#frame(bytes.subarray(at + LENGTH, at + size));
      at += size;
    }
    if (at === 0 && bytes !== chunk) return;
    this.#held = 0;
    if (this.#room.length > ROOM && bytes.length - at <= ROOM) {
      this.#room = Buffer.allocUnsafeSlow(ROOM);
    }
    if (at < bytes.length) this.#append(bytes.subarray(at));
  }

  /** Of the frame that starts here, with its length field; undefined while that has not come. */
  #sizeAt(bytes: Buffer, at: number): number | undefined {
    if (bytes.length - at < LENGTH) return undefined;
    const length = bytes.readUInt32BE(at);
    const { headBytes, bodyBytes } = this.#bounds;
    if (length < FIXED || length > FIXED + headBytes + bodyBytes) {
      throw new FrameError(`a frame of ${length} bytes`);
    }
    return LENGTH + length;
  }

  #frame(bytes: Buffer): Frame {
    const headBytes = bytes.readUInt32BE(7);
    const { headBytes: most, bodyBytes } = this.#bounds;
    if (headBytes > most || headBytes > bytes.length - FIXED) {
      throw new FrameError(`a head of ${headBytes} bytes`);
    }
    const body = bytes.subarray(FIXED + headBytes);
    if (body.length > bodyBytes) throw new FrameError(`a body of ${body.length} bytes`);
    const head = bytes.toString('utf8', FIXED, FIXED + headBytes);
    return { kind: bytes.readUInt8(0), id: bytes.readUIntBE(1, 6), head, body };
  }

  /** Copied together, so that many small chunks cost no more than their bytes. */
  #append(chunk: Buffer): Buffer {
    const held = this.#held + chunk.length;
    if (held > this.#room.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(held, 2 * this.#room.length));
      this.#room.copy(larger, 0, 0, this.#held);
      this.#room = larger;
    }
    chunk.copy(this.#room, this.#held);
    this.#held = held;
    return this.#room.subarray(0, held);
  }
}
