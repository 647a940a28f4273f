/** HTTP/2 in frames as they are (RFC 9113), for what no client library would send. */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
export const TYPE = {
  data: 0,
  headers: 1,
  reset: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  window: 8,
  continuation: 9,
} as const;
export const CODE = { none: 0, protocol: 1, refused: 7, cancel: 8, calm: 11 } as const;
export const END_STREAM = 1;
export const ACK = 1;
export const END_HEADERS = 4;

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Buffer;
}

export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Buffer = Buffer.alloc(0),
) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

export function settings(...entries: readonly (readonly [id: number, value: number])[]): Buffer {
  const payload = Buffer.alloc(entries.length * 6);
  entries.forEach(([id, value], index) => {
    payload.writeUInt16BE(id, index * 6);
    payload.writeUInt32BE(value, index * 6 + 2);
  });
  return frame(TYPE.settings, 0, 0, payload);
}

export function reset(stream: number, code: number = CODE.cancel): Buffer {
  return frame(TYPE.reset, 0, stream, number(code));
}

export function ping(): Buffer {
  return frame(TYPE.ping, 0, 0, Buffer.alloc(8));
}

/** Literal fields without indexing and without Huffman's code (RFC 7541 section 6.2.2). */
export function fields(headers: Readonly<Record<string, string>>): Buffer {
  const parts = Object.entries(headers).flatMap(([name, value]) => [
    Buffer.from([0]),
    text(name),
    text(value),
  ]);
  return Buffer.concat(parts);
}

export function request(
  stream: number,
  headers: Readonly<Record<string, string>>,
  flags = END_HEADERS | END_STREAM,
): Buffer {
  const all = { ':method': 'GET', ':scheme': 'http', ':path': '/health', ':authority': 'x' };
  return frame(TYPE.headers, flags, stream, fields({ ...all, ...headers }));
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** RFC 7541 section 5.2, with the integer of section 5.1. */
function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'latin1');
  if (bytes.length < 127) return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  const length = [127];
  let rest = bytes.length - 127;
  for (; rest >= 128; rest = Math.floor(rest / 128)) length.push((rest % 128) + 128);
  length.push(rest);
  return Buffer.concat([Buffer.from(length), bytes]);
}

/** A client that sends what it is told, and keeps what comes. */
export class RawHttp2 {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  isClosed = false;
  #unread: Buffer = Buffer.alloc(0);

  /** Sends the preface and empty settings at once, unless it is told what else. */
  constructor(port: number, first: Buffer = Buffer.concat([PREFACE, settings()])) {
    this.socket = connect(port, '127.0.0.1')
      .on('data', (chunk) => this.#read(chunk))
      .on('error', () => undefined) // a reset is an end too
      .on('close', () => (this.isClosed = true));
    this.send(first);
  }

  send(...frames: readonly Buffer[]): void {
    if (!this.socket.destroyed) this.socket.write(Buffer.concat(frames));
  }

  #read(chunk: Buffer): void {
    this.#unread = Buffer.concat([this.#unread, chunk]);
    while (this.#unread.length >= 9) {
      const end = 9 + this.#unread.readUIntBE(0, 3);
      if (this.#unread.length < end) return;
      const payload = this.#unread.subarray(9, end);
      const [type, flags] = [this.#unread.readUInt8(3), this.#unread.readUInt8(4)];
      this.frames.push({ type, flags, stream: this.#unread.readUInt32BE(5), payload });
      this.#unread = this.#unread.subarray(end);
    }
  }

  of(type: number, stream?: number): Frame[] {
    return this.frames.filter(
      (each) => each.type === type && (stream === undefined || each.stream === stream),
    );
  }

  /** The error code of the last GOAWAY; undefined when none came. */
  get goaway(): number | undefined {
    return this.of(TYPE.goaway).at(-1)?.payload.readUInt32BE(4);
  }

  /** The error code with which the server reset a stream. */
  resetOf(stream: number): number | undefined {
    return this.of(TYPE.reset, stream).at(-1)?.payload.readUInt32BE(0);
  }

  /** Resolves when the server has ended the connection, or `test` is true. */
  async until(test: () => boolean = () => false): Promise<void> {
    while (!this.isClosed && !test()) await sleep(10);
  }

  async closed(): Promise<void> {
    await this.until();
  }

  destroy(): void {
    this.socket.destroy();
  }
}
