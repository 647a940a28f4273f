/** A document as text with its parts; whatever it was before. */
import { NoaError } from '@noa/sdk';

export interface Block {
  readonly kind: 'heading' | 'paragraph' | 'code' | 'list' | 'table';
  /** In UTF-16 units of the text. */
  readonly start: number;
  readonly end: number;
  /** Of the sections around it, the outermost first. */
  readonly headings: readonly string[];
  /** Of a heading, from 1, the outermost. */
  readonly level?: number;
  /** From 1. */
  readonly page?: number;
  /** Where it stands in what was sent, if that has lines. */
  readonly lines?: Lines;
}

/** From 1, both in it. */
export interface Lines {
  readonly from: number;
  readonly to: number;
}

/** Where a block is from: its level as a heading, the line of its first character, and its last line if that is not told by its text. */
export interface Origin {
  readonly level?: number;
  readonly line?: number;
  readonly endLine?: number;
}

export interface ParsedDocument {
  readonly title?: string;
  readonly text: string;
  readonly blocks: readonly Block[];
}

/** Longest text of a document, in UTF-16 units. */
export const MAX_TEXT = 8 << 20;
const MAX_HEADING = 200;
/** Part of a text that may be control characters, as of a terminal's colours; the text is kept without them. */
const MAX_CONTROLS = 0.05;

/** Writes a document part by part. */
export class Writer {
  #text = '';
  readonly #blocks: Block[] = [];
  readonly #headings: { readonly level: number; readonly text: string }[] = [];
  #page: number | undefined;
  title: string | undefined;

  page(number: number | undefined): void {
    this.#page = number;
  }

  /** Nothing is written of what is blank. */
  block(kind: Block['kind'], content: string, { level = 1, line, endLine }: Origin = {}): void {
    const whole = cleaned(content);
    const text = whole.trim();
    if (text === '') return;
    if (kind === 'heading') {
      while ((this.#headings.at(-1)?.level ?? 0) >= level) this.#headings.pop();
    }
    if (this.#text.length + text.length > MAX_TEXT) {
      throw refused(`has more than ${MAX_TEXT} characters of text: send it in parts`);
    }
    if (this.#text !== '') this.#text += '\n\n';
    const start = this.#text.length;
    this.#text += text;
    if (kind === 'heading') {
      this.title ??= clipped(text);
      this.#headings.push({ level, text: clipped(text) });
    }
    const headings = this.#headings.map((each) => each.text);
    const from = line === undefined ? 0 : line + newlines(whole.slice(0, whole.indexOf(text)));
    this.#blocks.push({
      kind,
      start,
      end: this.#text.length,
      headings,
      ...(kind === 'heading' && { level }),
      ...(this.#page !== undefined && { page: this.#page }),
      ...(from > 0 && { lines: { from, to: endLine ?? from + newlines(text) } }),
    });
  }

  done(): ParsedDocument {
    const title = clipped(cleaned(this.title ?? '').trim());
    return { ...(title !== '' && { title }), text: this.#text, blocks: this.#blocks };
  }
}

export function newlines(text: string): number {
  let count = 0;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) count += 1;
  return count;
}

/** Without what no reader sees and no database takes: control characters, halves of a character. */
function cleaned(text: string): string {
  return text.toWellFormed().replaceAll(CONTROLS, '');
}

// oxlint-disable-next-line no-control-regex -- they are what is looked for
const CONTROLS = /[\0-\x08\x0B\x0E-\x1F\x7F]/g;

/** Cut between two characters, not between the halves of one. */
function clipped(text: string): string {
  const cut = text.slice(0, MAX_HEADING);
  return (cut.isWellFormed() ? cut : cut.slice(0, -1)).trimEnd();
}

export function refused(words: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `the document ${words}`);
}

/** Throws INVALID_ARGUMENT for what is no UTF-8, or is bytes of something else. */
export function textOf(bytes: Uint8Array): string {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw refused('is not UTF-8: send it as UTF-8');
  }
  if (text.includes('\0')) throw refused('holds NUL, and so is no text');
  const controls = text.match(CONTROLS)?.length ?? 0;
  if (controls > text.length * MAX_CONTROLS) {
    throw refused(`holds ${controls} control characters, and so is no text`);
  }
  return text.replaceAll(/\r\n?/g, '\n');
}
