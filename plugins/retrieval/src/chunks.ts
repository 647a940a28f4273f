/**
 * Cuts a document into chunks that a model can embed whole. Invariants: a chunk is a run of the document's text
 * with its place in it; none has more tokens than it may, by the model's own count of its pieces, but for a
 * character that is longer; nothing of the text but spaces is in no chunk.
 */
import { type Block, type Lines, newlines, type ParsedDocument } from './documents/document.ts';
import { Turns } from './turns.ts';

export interface Chunk {
  readonly text: string;
  /** In UTF-16 units of the document's text. */
  readonly start: number;
  readonly end: number;
  readonly headings: readonly string[];
  readonly page?: number;
  /** In what was sent, if that has lines. */
  readonly lines?: Lines;
}

export interface ChunkSize {
  readonly tokens: number;
  /** Of the end of the chunk before that a chunk begins with. */
  readonly overlap: number;
}

/** How many tokens each of these texts has. */
export type CountTokens = (texts: string[]) => Promise<number[]>;

interface Place {
  readonly start: number;
  readonly end: number;
  readonly block: Block;
  /** Of its first character; undefined where only the block's lines are known. */
  readonly line: number | undefined;
}

/** A run of text, and where what follows it begins: between them are spaces. */
interface Span extends Place {
  readonly next: number;
}

/** What is not cut any further: a sentence, a line, code or a table, or a part of one that is too long. */
interface Piece extends Span {
  /** With the spaces after it. */
  readonly tokens: number;
}

/** So many UTF-16 units count as a token at least, so that a chunk is bounded in both. */
export const UNITS_PER_TOKEN = 16;
/** Of the spaces after a piece, so many are shown to the model. */
const COUNTED_SPACES = 32;

export async function chunk(
  document: ParsedDocument,
  count: CountTokens,
  { tokens, overlap }: ChunkSize,
): Promise<Chunk[]> {
  const pieces = await piecesOf(document, count, tokens);
  const chunks: Chunk[] = [];
  let open: Piece[] = [];
  /** Pieces at the front of `open` that the chunk before has too. */
  let shared = 0;
  let size = 0;
  let sharedSize = 0;
  const close = (from: Piece[], next: Piece[], sharedNext: number): void => {
    if (from.length > shared) chunks.push(chunkOf(document.text, from, shared));
    open = next;
    shared = sharedNext;
    size = sizeOf(next);
    sharedSize = sharedNext === 0 ? 0 : size;
  };
  for (const piece of pieces) {
    const isFull = size + piece.tokens > tokens;
    const fresh = size - sharedSize;
    if (piece.block.kind === 'heading' && fresh >= tokens / 4) {
      close(open, [], 0);
    } else if (isFull) {
      // Headings go with what is below them.
      const above = open.findLastIndex(({ block }) => block.kind !== 'heading') + 1;
      const headings = open.slice(above);
      const isMoved = above > shared && headings.length > 0;
      if (isMoved && sizeOf(headings) + piece.tokens <= tokens) {
        close(open.slice(0, above), headings, 0);
      } else {
        const common = tail(open, Math.min(overlap, tokens - piece.tokens));
        close(open, common, common.length);
      }
    }
    open.push(piece);
    size += piece.tokens;
  }
  close(open, [], 0);
  return chunks;
}

function chunkOf(text: string, pieces: readonly Piece[], shared: number): Chunk {
  const start = pieces[0]?.start ?? 0;
  const end = pieces.at(-1)?.end ?? start;
  // Of what is new in it.
  const { headings = [], page } = pieces[shared]?.block ?? {};
  const lines = linesOf(text, pieces);
  return {
    text: text.slice(start, end),
    start,
    end,
    headings,
    ...(page !== undefined && { page }),
    ...(lines && { lines }),
  };
}

function linesOf(text: string, pieces: readonly Piece[]): Lines | undefined {
  const [first, last] = [pieces[0], pieces.at(-1)];
  if (!first?.block.lines || !last?.block.lines) return undefined;
  const from = first.line ?? first.block.lines.from;
  const { line } = last;
  const to =
    line === undefined ? last.block.lines.to : line + newlines(text.slice(last.start, last.end));
  return { from, to };
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
  const turns = new Turns();
  const places: Place[] = [];
  for (const block of blocks) {
    for (const place of placesOf(text, block)) {
      places.push(place);
      if (turns.isOver) await turns.next();
    }
  }
  const longest = most * UNITS_PER_TOKEN;
  let spans: Span[] = [];
  for (const [i, place] of places.entries()) {
    const next = places[i + 1]?.start ?? text.length;
    for (const span of shortened(text, { ...place, next }, longest)) {
      spans.push(span);
      if (turns.isOver) await turns.next();
    }
  }
  const done: Piece[] = [];
  // Each round halves what is too long, so this ends; a character that is too long stays.
  while (spans.length > 0) {
    const counts = await count(
      spans.map(({ start, end, next }) => text.slice(start, Math.min(next, end + COUNTED_SPACES))),
    );
    const rest: Span[] = [];
    for (const [i, span] of spans.entries()) {
      const counted = Math.max(1, counts[i] ?? 1);
      const parts = counted > most ? halves(text, span) : undefined;
      const units = Math.ceil((span.next - span.start) / UNITS_PER_TOKEN);
      if (parts === undefined) done.push({ ...span, tokens: Math.max(counted, units) });
      else rest.push(...parts);
    }
    spans = rest;
  }
  return done.toSorted((a, b) => a.start - b.start);
}

function* shortened(text: string, span: Span, longest: number): Generator<Span> {
  const parts = span.end - span.start > longest ? halves(text, span) : undefined;
  if (parts === undefined) yield span;
  else for (const part of parts) yield* shortened(text, part, longest);
}

/** The sentences of a paragraph, the lines of a list, all else whole. */
function* placesOf(text: string, block: Block): Generator<Place> {
  const content = text.slice(block.start, block.end);
  const { kind, lines } = block;
  // Of what was joined to one line, as HTML's paragraphs are, only the whole block's are known.
  const isVerbatim = lines !== undefined && newlines(content) === lines.to - lines.from;
  let line = isVerbatim ? lines.from : undefined;
  const parts =
    kind === 'paragraph'
      ? sentencesOf(content)
      : kind === 'list'
        ? content.split(/(?<=\n)/)
        : [content];
  let at = block.start;
  for (const part of parts) {
    const start = at + part.length - part.trimStart().length;
    const end = at + part.trimEnd().length;
    if (part.trim() !== '') yield { start, end, block, line: below(line, text.slice(at, start)) };
    line = below(line, part);
    at += part.length;
  }
}

/** The line after this text. */
const below = (line: number | undefined, text: string): number | undefined =>
  line === undefined ? undefined : line + newlines(text);

function* sentencesOf(content: string): Generator<string> {
  for (const { segment } of SENTENCES.segment(content)) yield segment;
}

const SENTENCES = new Intl.Segmenter('en', { granularity: 'sentence' });

/** A space is looked for so far from the middle: what has none there is no prose. */
const LONGEST_WORD = 512;

/**
 * Cut where it hurts least near the middle: at the end of a line, but for prose, or at a space. In the middle of
 * what has neither, unless that is one character.
 */
function halves(text: string, span: Span): Span[] | undefined {
  const content = text.slice(span.start, span.end);
  const line = span.block.kind === 'paragraph' ? undefined : nearestLine(content);
  let cut = line ?? nearestSpace(content) ?? content.length >>> 1;
  // Not between the two units of one character.
  if (/^[\uDC00-\uDFFF]$/.test(content[cut] ?? '')) cut += cut > 1 ? -1 : 1;
  if (cut <= 0 || cut >= content.length) return undefined;
  const start = span.end - content.slice(cut).trimStart().length;
  const end = span.start + content.slice(0, cut).trimEnd().length;
  return [
    { ...span, end, next: start },
    { ...span, start, line: below(span.line, text.slice(span.start, start)) },
  ];
}

function nearestLine(content: string): number | undefined {
  const middle = content.length >>> 1;
  const [before, after] = [content.lastIndexOf('\n', middle), content.indexOf('\n', middle)];
  if (before < 0 || after < 0)
    return Math.max(before, after) < 0 ? undefined : Math.max(before, after);
  return middle - before < after - middle ? before : after;
}

function nearestSpace(content: string): number | undefined {
  const middle = content.length >>> 1;
  for (let step = 0; step < Math.min(middle, LONGEST_WORD); step += 1) {
    if (/\s/.test(content[middle + step] ?? '')) return middle + step;
    if (/\s/.test(content[middle - step] ?? '')) return middle - step;
  }
  return undefined;
}
