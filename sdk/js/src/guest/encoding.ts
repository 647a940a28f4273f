/** TextEncoder and TextDecoder for UTF-8 (WHATWG Encoding), on the engine's own conversion. */
import * as engine from './engine.ts';

export class TextEncoder {
  get encoding(): string {
    return 'utf-8';
  }

  encode(text = ''): Uint8Array<ArrayBuffer> {
    return engine.encode(String(text).toWellFormed());
  }

  encodeInto(source: string, target: Uint8Array): { read: number; written: number } {
    let read = 0;
    let written = 0;
    for (const character of source) {
      const point = character.codePointAt(0) ?? 0;
      const size = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
      if (written + size > target.length) break;
      read += character.length;
      written += size;
    }
    target.set(this.encode(source.slice(0, read)));
    return { read, written };
  }
}

const LABELS = [
  'utf-8',
  'utf8',
  'unicode-1-1-utf-8',
  'unicode11utf8',
  'unicode20utf8',
  'x-unicode20utf8',
];

export class TextDecoder {
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;
  #held = new Uint8Array(0);
  #started = false;

  constructor(label = 'utf-8', options: { fatal?: boolean; ignoreBOM?: boolean } = {}) {
    if (!LABELS.includes(String(label).trim().toLowerCase())) {
      throw new RangeError(`TextDecoder: '${label}' is not available, utf-8 is`);
    }
    this.fatal = Boolean(options.fatal);
    this.ignoreBOM = Boolean(options.ignoreBOM);
  }

  get encoding(): string {
    return 'utf-8';
  }

  decode(input?: ArrayBuffer | ArrayBufferView, options: { stream?: boolean } = {}): string {
    let bytes = view(input);
    if (this.#held.length > 0) {
      const joined = new Uint8Array(this.#held.length + bytes.length);
      joined.set(this.#held);
      joined.set(bytes, this.#held.length);
      bytes = joined;
    }
    const whole = options.stream ? bytes.length - unfinished(bytes) : bytes.length;
    this.#held = bytes.slice(whole);
    const text = this.#convert(bytes.subarray(0, whole));
    if (text === '') {
      if (!options.stream) this.#started = false;
      return text;
    }
    const strip = !this.#started && !this.ignoreBOM && text.startsWith('\u{feff}');
    this.#started = Boolean(options.stream);
    return strip ? text.slice(1) : text;
  }

  #convert(bytes: Uint8Array): string {
    const text = engine.decode(bytes);
    // The engine's conversion is right for well-formed bytes. It replaces others in its own way, and it
    // takes surrogates, which begin with ED, for characters.
    if (!text.includes(REPLACEMENT) && !bytes.includes(0xed)) return text;
    if (text.isWellFormed() && same(engine.encode(text), bytes)) return text;
    if (!this.fatal) return replaceMalformed(bytes);
    this.#held = new Uint8Array(0);
    this.#started = false;
    throw new TypeError('TextDecoder: the bytes are not valid utf-8');
  }
}

const REPLACEMENT = '\u{fffd}';

function view(input: ArrayBuffer | ArrayBufferView | undefined): Uint8Array {
  if (input === undefined) return new Uint8Array(0);
  if (ArrayBuffer.isView(input)) {
    return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
  }
  return new Uint8Array(input);
}

/** How many bytes at the end begin a sequence that the next chunk may complete. */
function unfinished(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    if (sequenceAt(bytes, bytes.length - back) === -back) return back;
  }
  return 0;
}

/** The length of the sequence at a place; negative that of its well-formed beginning; 0 for no lead. */
function sequenceAt(bytes: Uint8Array, at: number): number {
  const lead = bytes[at] ?? 0;
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // Unicode, table 3-7: four leads narrow what may come second.
  let low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  let high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  for (let length = 1; length < size; length += 1) {
    const next = bytes[at + length] ?? 0;
    if (next < low || next > high) return -length;
    [low, high] = [0x80, 0xbf];
  }
  return size;
}

/** One U+FFFD for each longest beginning of a sequence, as the standard has it. */
function replaceMalformed(bytes: Uint8Array): string {
  let text = '';
  let start = 0;
  for (let at = 0; at < bytes.length;) {
    const size = sequenceAt(bytes, at);
    if (size > 0) at += size;
    else {
      text += engine.decode(bytes.subarray(start, at)) + REPLACEMENT;
      at += Math.max(1, -size);
      start = at;
    }
  }
  return text + engine.decode(bytes.subarray(start));
}

function same(left: Uint8Array, right: Uint8Array): boolean {
  return left.length === right.length && left.every((byte, index) => byte === right[index]);
}
