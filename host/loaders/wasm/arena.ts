/**
 * The host's handle on one `arena.wat` instance: puts text in, takes text out. Everything it reads
 * there was written by a guest, so each length is checked before a byte is touched.
 */
import { isUtf8 } from 'node:buffer';

const PAGE = 65536;

interface Exports {
  readonly reset: () => void;
  readonly take: (length: number) => number;
  readonly drop: (block: number) => void;
  readonly size: (block: number) => number;
  readonly holds: (address: bigint, length: number) => number;
  readonly setInput: (block: number, length: number) => void;
  readonly output: WebAssembly.Global;
  readonly outputLength: WebAssembly.Global;
  readonly error: WebAssembly.Global;
}

export class Arena {
  /** The exports of arena.wat: the functions that a guest imports are handed on as they are. */
  readonly exports: Readonly<Record<string, unknown>>;
  readonly #memory: WebAssembly.Memory;
  readonly #own: Exports;
  #bytes: Buffer;
  /** The attachment of the last reply until the guest takes it; 0 for none. */
  #beside = 0;

  /** `maxBytes` is the hard cap of all blocks of one call together. */
  constructor(module: WebAssembly.Module, maxBytes: number) {
    this.#memory = new WebAssembly.Memory({ initial: 1, maximum: Math.ceil(maxBytes / PAGE) });
    this.exports = new WebAssembly.Instance(module, { host: { memory: this.#memory } }).exports;
    this.#own = this.exports as Readonly<Record<keyof Exports, unknown>> as Exports; // As arena.wat declares.
    this.#bytes = Buffer.from(this.#memory.buffer);
  }

  get byteLength(): number {
    return this.#view().length;
  }

  /** Begins a call: forgets every block and holds the input. False when it does not fit. */
  begin(input: string, inputBytes: number): boolean {
    this.#own.reset();
    this.#beside = 0;
    if (inputBytes === 0) return true;
    const block = this.#own.take(inputBytes);
    if (block === 0) return false;
    this.#view().write(input, block, inputBytes, 'utf8');
    this.#own.setInput(block, inputBytes);
    return true;
  }

  /** A new block with this text; 0 when it does not fit or the text is empty. */
  put(text: string): number {
    const length = Buffer.byteLength(text);
    const block = this.#own.take(length);
    if (block !== 0) this.#view().write(text, block, length, 'utf8');
    return block;
  }

  size(block: number): number {
    return this.#own.size(block);
  }

  /** The text of a live block, at most `max` bytes of it; undefined when no block is there. */
  text(block: number, max: number): string | undefined {
    const length = Math.min(this.#own.size(block), max);
    return length === 0 ? undefined : this.#view().toString('utf8', block, block + length);
  }

  /** A copy of a live block's bytes, in a buffer of its own; undefined when no block is there. */
  copy(block: number): Uint8Array | undefined {
    const length = this.#own.size(block);
    return length === 0 ? undefined : new Uint8Array(this.#view().subarray(block, block + length));
  }

  putBytes(bytes: Uint8Array): number {
    const block = this.#own.take(bytes.length);
    if (block !== 0) this.#view().set(bytes, block);
    return block;
  }

  /** The bytes at an address that a guest names, not copied; undefined when they are not all in blocks. */
  range(address: bigint, length: number): Uint8Array | undefined {
    if (this.#own.holds(address, length) === 0) return undefined;
    return this.#view().subarray(Number(address), Number(address) + length);
  }

  /** Keeps an attachment in place of one that the guest did not take. False when it does not fit. */
  putBeside(bytes: Uint8Array | undefined): boolean {
    this.drop(this.takeBeside());
    if (bytes !== undefined) this.#beside = this.putBytes(bytes);
    return bytes === undefined || this.#beside !== 0;
  }

  takeBeside(): number {
    const block = this.#beside;
    this.#beside = 0;
    return block;
  }

  drop(block: number): void {
    this.#own.drop(block);
  }

  /** The block that the guest set as its error; 0 when it set none. */
  get error(): number {
    return this.#own.error.value;
  }

  /** Bytes that the guest set as its output; negative when it named bytes outside its blocks. */
  get outputLength(): number {
    return this.#own.outputLength.value;
  }

  /** The output as text; undefined when it is not UTF-8. */
  output(): string | undefined {
    const start = this.#own.output.value;
    const bytes = this.#view().subarray(start, start + this.#own.outputLength.value);
    return isUtf8(bytes) ? bytes.toString('utf8') : undefined;
  }

  /** Growth detaches the buffer; take the new one. */
  #view(): Buffer {
    if (this.#bytes.length === 0) this.#bytes = Buffer.from(this.#memory.buffer);
    return this.#bytes;
  }
}
