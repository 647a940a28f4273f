/**
 * Cuts a document into chunks that a model can embed whole. Invariants: a chunk is a run of the document's text
 * with its place in it; none has more tokens than it may, by the model's own count, but for a word that is
 * longer; nothing of the text is in no chunk.
 */
import type { Block, ParsedDocument } from './documents/document.ts';

export interface Chunk {
  readonly text: string;
  /** In UTF-16 units of the document's text. */
  readonly start: number;
  readonly end: number;
  readonly headings: readonly string[];
  readonly page?: number;
}

export interface ChunkSize {
  readonly tokens: number;
  /** Of the end of the chunk before that a chunk begins with. */
  readonly overlap: number;
}

/** How many tokens each of these texts has. */
export type CountTokens = (texts: string[]) => Promise<number[]>;

/** What is not cut any further: a sentence, a line, or a part of one that is too long. */
interface Piece {
  readonly start: number;
  readonly end: number;
  readonly tokens: number;
  readonly block: Block;
}

export async function chunk(
  document: ParsedDocument,
  count: CountTokens,
  { tokens, overlap }: ChunkSize,
): Promise<Chunk[]> {
  const pieces = await piecesOf(document, count, tokens);
  const chunks: Chunk[] = [];
  let open: Piece[] = [];
  let size = 0;
  /** Pieces at the front of `open` that the chunk before has too. */
  let shared = 0;
  const close = (): void => {
    if (open.length > shared) chunks.push(chunkOf(document.text, open, shared));
  };
  for (const piece of pieces) {
    const begins =
      piece.block.kind === 'heading' && size - sizeOf(open.slice(0, shared)) >= tokens / 4;
    if (begins || size + piece.tokens > tokens) {
      close();
      open = begins ? [] : tail(open, Math.min(overlap, tokens - piece.tokens));
      shared = open.length;
      size = sizeOf(open);
    }
    open.push(piece);
    size += piece.tokens;
  }
  close();
  return chunks;
}

function chunkOf(text: string, pieces: readonly Piece[], shared: number): Chunk {
  const start = pieces[0]?.start ?? 0;
  const end = pieces.at(-1)?.end ?? start;
  // Of what is new in it.
  const { headings = [], page } = pieces[shared]?.block ?? {};
  return {
    text: text.slice(start, end),
    start,
    end,
    headings,
    ...(page !== undefined && { page }),
  };
}

/** The last pieces that have so many tokens together, and never all of them. */
function tail(pieces: readonly Piece[], most: number): Piece[] {
  let size = 0;
  let at = pieces.length;
  while (at > 1 && size + (pieces[at - 1]?.tokens ?? 0) <= most) {
    at -= 1;
    size += pieces[at]?.tokens ?? 0;
  }
  return pieces.slice(at);
}

function sizeOf(pieces: readonly Piece[]): number {
  return pieces.reduce((sum, { tokens }) => sum + tokens, 0);
}

async function piecesOf(
  { text, blocks }: ParsedDocument,
  count: CountTokens,
  most: number,
): Promise<Piece[]> {
  let spans = blocks.flatMap((block) => spansOf(text, block));
  const done: Piece[] = [];
  // Each round halves what is too long, so this ends; a word that is too long stays.
  while (spans.length > 0) {
    const counts = await count(spans.map(({ start, end }) => text.slice(start, end)));
    const next: typeof spans = [];
    for (const [i, span] of spans.entries()) {
      const tokens = Math.max(1, counts[i] ?? 1);
      const parts = tokens > most ? halves(text, span.start, span.end) : undefined;
      if (parts === undefined) done.push({ ...span, tokens });
      else next.push(...parts.map((part) => ({ ...part, block: span.block })));
    }
    spans = next;
  }
  return done.toSorted((a, b) => a.start - b.start);
}

interface Span {
  readonly start: number;
  readonly end: number;
}

/** The sentences of a paragraph, the lines of all else. */
function spansOf(text: string, block: Block): (Span & { readonly block: Block })[] {
  const content = text.slice(block.start, block.end);
  const isProse = block.kind === 'paragraph';
  const parts = isProse
    ? [...SENTENCES.segment(content)].map(({ segment }) => segment)
    : content.split(/(?<=\n)/);
  let at = block.start;
  return parts.flatMap((part) => {
    const span = { start: at, end: at + part.trimEnd().length, block };
    at += part.length;
    return part.trim() === '' ? [] : [span];
  });
}

const SENTENCES = new Intl.Segmenter('en', { granularity: 'sentence' });

/** At the space nearest to the middle; in the middle of what has none, unless that is too short. */
function halves(text: string, start: number, end: number): Span[] | undefined {
  if (end - start < 2) return undefined;
  const middle = (start + end) >>> 1;
  let cut = middle;
  for (let step = 0; step < middle - start; step += 1) {
    const found = [middle + step, middle - step].find(
      (at) => at < end && /\s/.test(text[at] ?? ''),
    );
    if (found !== undefined) {
      cut = found;
      break;
    }
  }
  // Not between the two units of one character.
  if (/[\uDC00-\uDFFF]/.test(text[cut] ?? '')) cut -= 1;
  if (cut <= start) return undefined;
  const left = { start, end: start + text.slice(start, cut).trimEnd().length };
  const right = {
    start: cut + (text.slice(cut, end).length - text.slice(cut, end).trimStart().length),
    end,
  };
  return [left, right].filter((span) => span.end > span.start);
}
