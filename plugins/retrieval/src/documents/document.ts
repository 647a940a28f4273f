/** A document as text with its parts; whatever it was before. */
import { NoaError } from '@noa/sdk';

export interface Block {
  readonly kind: 'heading' | 'paragraph' | 'code' | 'list' | 'table';
  /** In UTF-16 units of the text. */
  readonly start: number;
  readonly end: number;
  /** Of the sections around it, the outermost first. */
  readonly headings: readonly string[];
  /** From 1. */
  readonly page?: number;
}

export interface ParsedDocument {
  readonly title?: string;
  readonly text: string;
  readonly blocks: readonly Block[];
}

/** Longest text of a document, in UTF-16 units. */
export const MAX_TEXT = 8 << 20;
const MAX_HEADING = 200;

/** Writes a document part by part. */
export class Writer {
  #text = '';
  readonly #blocks: Block[] = [];
  readonly #headings: { readonly level: number; readonly text: string }[] = [];
  #page: number | undefined;
  title: string | undefined;

  page(number: number): void {
    this.#page = number;
  }

  /** Nothing is written of what is blank. `level` is of a heading. */
  block(kind: Block['kind'], content: string, level = 0): void {
    const text = content.trim();
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
      this.title ??= text.slice(0, MAX_HEADING);
      this.#headings.push({ level, text: text.slice(0, MAX_HEADING) });
    }
    const headings = this.#headings.map((each) => each.text);
    const page = this.#page === undefined ? {} : { page: this.#page };
    this.#blocks.push({ kind, start, end: this.#text.length, headings, ...page });
  }

  done(): ParsedDocument {
    const { title } = this;
    return { ...(title !== undefined && { title }), text: this.#text, blocks: this.#blocks };
  }
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
  return text.replaceAll('\r\n', '\n');
}
