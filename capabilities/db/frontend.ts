/**
 * Messages of PostgreSQL's frontend protocol, version 3.0 (PostgreSQL manual, "Message Formats"), made
 * as whole buffers so that several of them leave in one write.
 */

/** One parameter in text format; null is SQL NULL. */
export type Parameter = string | null;

export const FLUSH = message('H');
export const SYNC = message('S');

/** A simple query; the text is always ours, never a plugin's. */
export function simpleQuery(text: string): Buffer {
  return message('Q', cstring(text));
}

/** Prepares the unnamed statement: exactly one statement, or the server refuses it. */
export function parse(text: string): Buffer {
  return message('P', cstring(''), cstring(text), int16(0));
}

/** Asks for the types of the unnamed statement's parameters and columns. */
export const DESCRIBE_STATEMENT = message('D', Buffer.from('S'), cstring(''));

/** Binds values to the unnamed portal; all in text format, results too. */
export function bind(values: readonly Parameter[]): Buffer {
  const parts = [cstring(''), cstring(''), int16(0), int16(values.length)];
  for (const value of values) {
    if (value === null) {
      parts.push(int32(-1));
    } else {
      const bytes = Buffer.from(value);
      parts.push(int32(bytes.length), bytes);
    }
  }
  return message('B', ...parts, int16(0));
}

/** Runs the unnamed portal and stops it after `maxRows` rows. */
export function execute(maxRows: number): Buffer {
  return message('E', cstring(''), int32(maxRows));
}

function message(code: string, ...parts: readonly Buffer[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 4);
  return Buffer.concat([Buffer.from(code), int32(length), ...parts]);
}

function cstring(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}

function int16(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(2);
  buffer.writeUInt16BE(value);
  return buffer;
}

function int32(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(4);
  buffer.writeInt32BE(value);
  return buffer;
}
