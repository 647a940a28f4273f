/**
 * Reads and writes the primitive forms of the WebAssembly binary format (core specification, section
 * 5.2). Invariant: a read beyond the end or of a form that may not be there is a `ModuleError`.
 */

/** A rule of the format or of this host that the bytes break. The message is one plain sentence. */
export class ModuleError extends Error {}

export interface Extent {
  readonly min: number;
  /** Absent in the binary: unlimited. */
  readonly max: number | undefined;
}

const VALUE_TYPES: { readonly [code: number]: string } = {
  0x7f: 'i32',
  0x7e: 'i64',
  0x7d: 'f32',
  0x7c: 'f64',
  0x7b: 'v128',
  0x70: 'funcref',
  0x6f: 'externref',
  0x69: 'exnref',
};
/** More of one kind than any compiler emits; a bound on what an outline may hold. */
export const MAX_ENTRIES = 1 << 17;

export class Reader {
  at: number;
  readonly #bytes: Uint8Array;
  readonly #end: number;

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.#bytes = bytes;
    this.at = start;
    this.#end = end;
  }

  get done(): boolean {
    return this.at >= this.#end;
  }

  byte(): number {
    if (this.at >= this.#end)
      throw new ModuleError('The module is cut short or has a wrong length.');
    return this.#bytes[this.at++] ?? 0;
  }

  /** An unsigned LEB128 number of at most 32 bits. */
  number(): number {
    const first = this.byte();
    if (first < 0x80) return first;
    let value = first & 0x7f;
    for (let shift = 7; shift < 35; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) {
        if (value > 0xffffffff) break;
        return value;
      }
    }
    throw new ModuleError('The module holds a number of more than 32 bits where none may be.');
  }

  /** Passes over a LEB128 number of at most 64 bits. */
  skipNumber(): void {
    for (let length = 1; length <= 10; length += 1) if (this.byte() < 0x80) return;
    throw new ModuleError('The module holds a number of more than 64 bits.');
  }

  skip(bytes: number): void {
    if (bytes > this.#end - this.at)
      throw new ModuleError('The module is cut short or has a wrong length.');
    this.at += bytes;
  }

  count(): number {
    const count = this.number();
    if (count > MAX_ENTRIES || count > this.#end - this.at) {
      throw new ModuleError(
        `The module declares ${count} entries in a section that cannot hold them.`,
      );
    }
    return count;
  }

  name(): string {
    const length = this.number();
    if (length > this.#end - this.at || length > 1024) {
      throw new ModuleError('The module has a name that is cut short or longer than 1024 bytes.');
    }
    this.at += length;
    return Buffer.from(
      this.#bytes.buffer,
      this.#bytes.byteOffset + this.at - length,
      length,
    ).toString();
  }

  valueType(): string {
    const code = this.byte();
    const name = VALUE_TYPES[code];
    if (name === undefined) {
      throw new ModuleError(
        `The module uses the value type 0x${code.toString(16)}, which this host does not take; build it without the GC and typed-reference proposals.`,
      );
    }
    return name;
  }

  valueTypes(): string {
    return Array.from({ length: this.count() }, () => this.valueType()).join(', ');
  }

  /** Passes over value types and answers how many they are. */
  skipValueTypes(): number {
    const count = this.count();
    for (let left = count; left > 0; left -= 1) this.valueType();
    return count;
  }

  extent(what: 'memory' | 'table'): Extent {
    const flags = this.byte();
    if (flags > 1) {
      throw new ModuleError(
        `The module's ${what} is shared, 64-bit or of a custom page size; build it with a plain 32-bit ${what}.`,
      );
    }
    return { min: this.number(), max: flags === 1 ? this.number() : undefined };
  }

  tableType(): Extent {
    this.valueType();
    return this.extent('table');
  }

  /** The type of a block: nothing, a value, or the index of a function type. */
  blockType(): number | 'nothing' | 'value' {
    const code = this.#bytes[this.at] ?? 0;
    if (code < 0x40 || code >= 0x80) return this.number();
    if (code === 0x40) {
      this.at += 1;
      return 'nothing';
    }
    this.valueType();
    return 'value';
  }
}

/** LEB128 of a number that is not negative. */
export function leb(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low | 0x80 : low);
  } while (rest > 0);
  return bytes;
}

/** The same as a signed number, which needs one bit more. */
export function signedLeb(value: number): number[] {
  const bytes = leb(value);
  const last = bytes.pop() ?? 0;
  return last < 0x40 ? [...bytes, last] : [...bytes, last | 0x80, 0];
}

/** A section with its content in parts. */
export function section(
  id: number,
  content: readonly (readonly number[] | Uint8Array)[],
): Uint8Array {
  const body = Buffer.concat(
    content.map((part) => (part instanceof Uint8Array ? part : Uint8Array.from(part))),
  );
  return Buffer.concat([Uint8Array.from([id, ...leb(body.length)]), body]);
}
