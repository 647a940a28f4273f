/**
 * Tokenizer of the unigram language model (Kudo 2018, as SentencePiece encodes): the pieces whose scores
 * add up to the most, found by Viterbi over a trie. Linear in the text; the longest piece bounds each step.
 */
import { NoaError } from '@noa/sdk/host';
import type { Tokens } from './runner.ts';

/** Beyond it a text is refused: what a model keeps of it would be cut off anyway. */
export const MAX_TEXT = 1 << 20;
const SPACE = '\u2581';
const MAX_PIECES = 1 << 20;

/** What a vocabulary file holds, as JSON. */
export interface Vocabulary {
  readonly pieces: readonly (readonly [piece: string, score: number])[];
  /** The first so many pieces never match text. */
  readonly reserved: number;
  readonly unknown: number;
  /** What a character that no piece begins with costs; ten under the least score when absent. */
  readonly unknownScore?: number;
  readonly lowercase?: boolean;
  readonly begin?: number;
  readonly end?: number;
}

/** Throws NoaError INVALID_ARGUMENT when `value` is no vocabulary. */
export function parseVocabulary(value: unknown): Vocabulary {
  if (!isVocabulary(value)) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      'The vocabulary must be an object of pieces ([piece, score] each), reserved and unknown.',
    );
  }
  return value;
}

export class Unigram {
  readonly vocabulary: Vocabulary;
  /** Key: node × 65,536 + UTF-16 unit. */
  readonly #children = new Map<number, number>();
  readonly #idAt: Int32Array;
  readonly #scores: Float64Array;
  readonly #unknownScore: number;

  constructor(vocabulary: Vocabulary) {
    const { pieces, reserved } = vocabulary;
    this.vocabulary = vocabulary;
    this.#scores = Float64Array.from(pieces, ([, score]) => score);
    this.#idAt = new Int32Array(pieces.reduce((sum, [piece]) => sum + piece.length, 1)).fill(-1);
    this.#unknownScore =
      vocabulary.unknownScore ??
      pieces.reduce((least, [, score]) => Math.min(least, score), 0) - 10;
    let nodes = 1;
    for (const [id, [piece]] of pieces.entries()) {
      if (id < reserved) continue;
      let node = 0;
      for (let at = 0; at < piece.length; at += 1) {
        const key = node * 65_536 + piece.charCodeAt(at);
        let next = this.#children.get(key);
        if (next === undefined) {
          next = nodes++;
          this.#children.set(key, next);
        }
        node = next;
      }
      this.#idAt[node] = id;
    }
  }

  /** Throws NoaError INVALID_ARGUMENT for a text over `MAX_TEXT` UTF-16 units. */
  encode(text: string): Tokens {
    const { text: normal, places } = normalize(text, this.vocabulary.lowercase === true);
    if (normal === '') return tokensOf([], [], []);
    const marked = SPACE + normal.replaceAll(' ', SPACE);
    const { from, ids } = this.#best(marked);
    const tokens = { ids: [] as number[], starts: [] as number[], stops: [] as number[] };
    for (let stop = marked.length; stop > 0; stop = from[stop] ?? 0) {
      const start = from[stop] ?? 0;
      const id = ids[stop] ?? this.vocabulary.unknown;
      const begins =
        marked[start] === SPACE && (stop - start > 1 || start === 0) ? start : start - 1;
      const last = tokens.ids.length - 1;
      if (id === this.vocabulary.unknown && tokens.ids[last] === id) {
        tokens.starts[last] = places[begins] ?? 0; // a run of unknown characters is one token
      } else {
        tokens.ids.push(id);
        tokens.starts.push(places[begins] ?? 0);
        tokens.stops.push(places[stop - 1] ?? 0);
      }
    }
    return tokensOf(tokens.ids.reverse(), tokens.starts.reverse(), tokens.stops.reverse());
  }

  textOf(id: number): string {
    if (id === this.vocabulary.unknown) return '\ufffd';
    if (id < this.vocabulary.reserved) return '';
    return (this.vocabulary.pieces[id]?.[0] ?? '').replaceAll(SPACE, ' ');
  }

  /** For each place the best way to it: where its last piece begins, and which it is. */
  #best(text: string): { from: Int32Array; ids: Int32Array } {
    const length = text.length;
    const best = new Float64Array(length + 1).fill(Number.NEGATIVE_INFINITY);
    const from = new Int32Array(length + 1);
    const ids = new Int32Array(length + 1);
    best[0] = 0;
    const reach = (start: number, stop: number, id: number, score: number): void => {
      if (score < (best[stop] ?? 0)) return;
      best[stop] = score;
      from[stop] = start;
      ids[stop] = id;
    };
    for (let start = 0; start < length; start += 1) {
      const before = best[start] ?? 0;
      if (before === Number.NEGATIVE_INFINITY) continue;
      let node = 0;
      let matched = false;
      for (let at = start; at < length; at += 1) {
        const next = this.#children.get(node * 65_536 + text.charCodeAt(at));
        if (next === undefined) break;
        node = next;
        const id = this.#idAt[node] ?? -1;
        if (id < 0) continue;
        matched = true;
        reach(start, at + 1, id, before + (this.#scores[id] ?? 0));
      }
      if (!matched) {
        const units = (text.codePointAt(start) ?? 0) > 0xffff ? 2 : 1;
        reach(start, start + units, this.vocabulary.unknown, before + this.#unknownScore);
      }
    }
    return { from, ids };
  }
}

/** NFKC, with the place in `text` of each unit of the result (and of its end). */
function normalize(text: string, lowercase: boolean): { text: string; places: Int32Array } {
  if (text.length > MAX_TEXT) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `A text has ${text.length} characters; at most ${MAX_TEXT} are taken. Split it.`,
    );
  }
  const sound = text.toWellFormed();
  const simple = /^[\0-\x7f]*$/.test(sound);
  if (simple) {
    const places = Int32Array.from({ length: sound.length + 1 }, (_, at) => at);
    return { text: lowercase ? sound.toLowerCase() : sound, places };
  }
  let result = '';
  const places: number[] = [];
  // A character with the marks and Hangul jamo that may be composed with it.
  for (const { 0: part, index } of sound.matchAll(/[^][\p{M}\u1160-\u11ff]*/gu)) {
    const normal = part.normalize('NFKC');
    const cased = lowercase ? normal.toLowerCase() : normal;
    for (let at = 0; at < cased.length; at += 1) places.push(index + Math.min(at, part.length - 1));
    result += cased;
  }
  places.push(sound.length);
  return { text: result, places: Int32Array.from(places) };
}

function tokensOf(ids: number[], starts: number[], stops: number[]): Tokens {
  return {
    ids: Int32Array.from(ids),
    starts: Int32Array.from(starts),
    stops: Int32Array.from(stops),
  };
}

function isVocabulary(value: unknown): value is Vocabulary {
  if (typeof value !== 'object' || value === null || !('pieces' in value)) return false;
  const { pieces } = value;
  if (!Array.isArray(pieces) || pieces.length < 1 || pieces.length > MAX_PIECES) return false;
  const isId = (id: unknown): boolean =>
    typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < pieces.length;
  const { reserved, unknown, unknownScore, lowercase, begin, end } = value as Partial<
    Record<keyof Vocabulary, unknown>
  >;
  return (
    isId(reserved) &&
    isId(unknown) &&
    (unknownScore === undefined || Number.isFinite(unknownScore)) &&
    (lowercase === undefined || typeof lowercase === 'boolean') &&
    (begin === undefined || isId(begin)) &&
    (end === undefined || isId(end)) &&
    pieces.every(
      (each) =>
        Array.isArray(each) &&
        each.length === 2 &&
        typeof each[0] === 'string' &&
        Number.isFinite(each[1]),
    )
  );
}
