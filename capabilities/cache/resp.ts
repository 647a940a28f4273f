/**
 * The Redis serialization protocol, version 2, as far as a server needs it: commands in, replies out.
 * The embedded cache speaks it on its connections and keeps its journal in it.
 */

export type Reply = bigint | number | string | null | Status | ReplyError | readonly Reply[];

/** A simple string such as `OK`. */
export class Status {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

export class ReplyError {
  readonly message: string;
  constructor(message: string) {
    this.message = message;
  }
}

export const OK = new Status('OK');

const CR = 0x0d;
const LF = 0x0a;
const ARRAY = 0x2a;
const BULK = 0x24;
const MAX_ARGUMENTS = 1_024;
const MAX_ARGUMENT_BYTES = 8 << 20;
/** Digits of a length, its type byte and its line end. */
const MAX_LINE = 16;

/** Cuts a stream of bytes into commands; what is incomplete waits for more. */
export class CommandReader {
  #buffer: Buffer = Buffer.alloc(0);
  /** Bytes of complete commands taken so far. */
  consumed = 0;

  /** Takes the next bytes and yields every command that is complete. Throws on what is no command. */
  *read(chunk: Uint8Array): Generator<string[]> {
    this.#buffer =
      this.#buffer.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#buffer, chunk]);
    let at = 0;
    try {
      for (;;) {
        const command = readCommand(this.#buffer, at);
        if (!command) return;
        this.consumed += command.end - at;
        at = command.end;
        yield command.args;
      }
    } finally {
      this.#buffer = this.#buffer.subarray(at);
    }
  }
}

function readCommand(buffer: Buffer, start: number): { args: string[]; end: number } | undefined {
  const count = readLength(buffer, start, ARRAY, MAX_ARGUMENTS);
  if (!count) return undefined;
  const args: string[] = [];
  let at = count.end;
  for (let index = 0; index < count.value; index += 1) {
    const length = readLength(buffer, at, BULK, MAX_ARGUMENT_BYTES);
    if (!length) return undefined;
    const end = length.end + length.value;
    if (buffer.length < end + 2) return undefined;
    if (buffer[end] !== CR || buffer[end + 1] !== LF) throw new Error('a bulk string has no end');
    args.push(buffer.toString('utf8', length.end, end));
    at = end + 2;
  }
  return { args, end: at };
}

function readLength(
  buffer: Buffer,
  at: number,
  type: number,
  max: number,
): { value: number; end: number } | undefined {
  if (at >= buffer.length) return undefined;
  if (buffer[at] !== type) throw new Error('a command must be an array of bulk strings');
  const lf = buffer.indexOf(LF, at);
  if (lf < 0 && buffer.length - at < MAX_LINE) return undefined;
  const text = lf < 0 || lf - at > MAX_LINE ? '' : buffer.toString('latin1', at + 1, lf - 1);
  if (!/^\d+$/.test(text) || buffer[lf - 1] !== CR || Number(text) > max) {
    throw new Error('a length is malformed or over its bound');
  }
  return { value: Number(text), end: lf + 1 };
}

export function encodeCommand(args: readonly string[]): string {
  return `*${args.length}\r\n${args.map(bulk).join('')}`;
}

export function encodeReply(reply: Reply): string {
  if (reply === null) return '$-1\r\n';
  if (typeof reply === 'number' || typeof reply === 'bigint') return `:${reply}\r\n`;
  if (typeof reply === 'string') return bulk(reply);
  if (reply instanceof Status) return `+${reply.text}\r\n`;
  if (reply instanceof ReplyError) return `-${reply.message}\r\n`;
  return `*${reply.length}\r\n${reply.map(encodeReply).join('')}`;
}

function bulk(text: string): string {
  return `$${Buffer.byteLength(text)}\r\n${text}\r\n`;
}
