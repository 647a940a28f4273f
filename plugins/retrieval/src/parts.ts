/**
 * A document as it is kept: in its chunks, each with what of the document is in it alone. Invariant: what is put
 * together again is the document that was cut, to the character.
 */
import type { Chunk } from './chunks.ts';
import { type Block, type ParsedDocument, Writer } from './documents/document.ts';

/** What a chunk keeps beside its text, which begins with the end of the chunk before or, else, after some spaces. */
export interface Part extends Pick<Chunk, 'text' | 'start' | 'end'> {
  readonly gap: string;
  readonly blocks: readonly KeptBlock[];
}

/** Of the blocks that begin in the chunk: kind, start, end, level, page, first and last line; 0 for what there is none of. */
type KeptBlock = readonly [number, number, number, number, number, number, number];

const KINDS = ['heading', 'paragraph', 'code', 'list', 'table'] as const;

export function* partsOf(
  { text, blocks }: ParsedDocument,
  chunks: readonly Chunk[],
): Generator<Part> {
  let before = 0;
  let at = 0;
  for (const { text: own, start, end } of chunks) {
    const from = at;
    while ((blocks[at]?.start ?? Infinity) < end) at += 1;
    const kept = blocks.slice(from, at).map(keptOf);
    yield { text: own, start, end, gap: text.slice(before, Math.max(before, start)), blocks: kept };
    before = end;
  }
}

function keptOf({ kind, start, end, level = 0, page = 0, lines }: Block): KeptBlock {
  return [KINDS.indexOf(kind), start, end, level, page, lines?.from ?? 0, lines?.to ?? 0];
}

/** What of a part's text is not in the part before, which ends at `before`. */
export function ownText(
  { gap, text, start }: Pick<Part, 'gap' | 'text' | 'start'>,
  before: number,
): string {
  return gap + text.slice(Math.max(0, before - start));
}

/** Puts a document together part by part. */
export class Restorer {
  #text = '';
  readonly #blocks: KeptBlock[] = [];

  add(part: Part): void {
    this.#text += ownText(part, this.#text.length);
    this.#blocks.push(...part.blocks);
  }

  done(): ParsedDocument {
    const writer = new Writer();
    for (const [kind, start, end, level, page, line, endLine] of this.#blocks) {
      writer.page(page || undefined);
      writer.block(KINDS[kind] ?? 'paragraph', this.#text.slice(start, end), {
        ...(level > 0 && { level }),
        ...(line > 0 && { line, endLine }),
      });
    }
    return writer.done();
  }
}
