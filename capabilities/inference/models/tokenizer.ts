/**
 * Texts to token ids and back: the unigram tokenizer of this folder, or a `tokenizer.json` of Hugging Face.
 * Invariant: ids of one text are the same each time, and no text makes it fail but one over the limit.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import type { ModelFiles, Tokens } from './runner.ts';
import { MAX_TEXT, Unigram, parseVocabulary } from './unigram.ts';

export interface Tokenizer {
  encode(text: string): Tokens;
  /** Ends with U+FFFD while its last character is not whole. */
  decode(ids: readonly number[]): string;
  textOf(id: number): string;
  /** Two texts as one sequence, with the part that each token is of. */
  pair?(first: string, second: string): { ids: number[]; parts: number[] };
  /** Special tokens that end each sequence. */
  readonly suffix: readonly number[];
  /** Set before a prompt. */
  readonly begin: number | undefined;
  /** Those that end a generated text. */
  readonly ends: ReadonlySet<number>;
}

/** Reads the tokenizer of `model`. Rejects with NoaError INVALID_ARGUMENT. */
export async function openTokenizer(model: ModelFiles): Promise<Tokenizer> {
  if (model.tokenizer === undefined) throw new Error(`model ${model.id} has no tokenizer`);
  const { kind, file } = model.tokenizer;
  let value: unknown;
  try {
    value = JSON.parse(await readFile(join(model.folder, file), 'utf8'));
  } catch (error) {
    throw new NoaError('INVALID_ARGUMENT', `The tokenizer ${file} is not JSON.`, { cause: error });
  }
  if (kind === 'unigram') return unigram(new Unigram(parseVocabulary(value)));
  return huggingFace(file, value);
}

function unigram(model: Unigram): Tokenizer {
  const { begin, end } = model.vocabulary;
  return {
    encode: (text) => model.encode(text),
    decode: (ids) => ids.map((id) => model.textOf(id)).join(''),
    textOf: (id) => model.textOf(id),
    suffix: [],
    begin,
    ends: new Set(end === undefined ? [] : [end]),
  };
}

/** What is used of the library, whose own declarations do not resolve in ECMAScript modules. */
interface HuggingFace {
  encode(
    text: string,
    options?: { text_pair?: string; add_special_tokens?: boolean; return_token_type_ids?: boolean },
  ): {
    ids: (number | undefined)[];
    tokens: string[];
    token_type_ids?: number[];
  };
  decode(
    ids: number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean },
  ): string;
  token_to_id(token: string): number | undefined;
  get_added_tokens_decoder(): Map<number, { special: boolean }>;
}
interface HuggingFaceModule {
  readonly Tokenizer: new (tokenizer: object, config: object) => HuggingFace;
}

const UNKNOWN_TOKENS = ['[UNK]', '<unk>', '<|unk|>'];
const END_TOKENS = ['</s>', '<|endoftext|>', '<|im_end|>', '<eos>', '<|eot_id|>', '<|end|>'];

async function huggingFace(file: string, value: unknown): Promise<Tokenizer> {
  const module: HuggingFaceModule = await import('@huggingface/tokenizers');
  let library: HuggingFace;
  let inner: readonly number[];
  let whole: readonly number[];
  try {
    if (typeof value !== 'object' || value === null) throw new Error('it is not an object');
    library = new module.Tokenizer(value, {});
    inner = known(library, library.encode('a', { add_special_tokens: false }).ids);
    whole = known(library, library.encode('a').ids);
  } catch (error) {
    const why = error instanceof Error ? error.message.slice(0, 300) : 'unknown';
    throw new NoaError('INVALID_ARGUMENT', `The tokenizer ${file} cannot be used: ${why}`, {
      cause: error,
    });
  }
  const added = whole.length - inner.length;
  const before =
    [...whole.keys()].find((at) => inner.every((id, by) => whole[at + by] === id)) ?? 0;
  const suffix = added > before ? whole.slice(before + inner.length) : [];
  const prefix = whole.slice(0, before);
  const special = new Set(
    [...library.get_added_tokens_decoder()].filter(([, token]) => token.special).map(([id]) => id),
  );
  const bounded = (text: string): string => {
    if (text.length <= MAX_TEXT) return text.toWellFormed();
    throw new NoaError(
      'INVALID_ARGUMENT',
      `A text has ${text.length} characters; at most ${MAX_TEXT} are taken. Split it.`,
    );
  };
  const textOf = (id: number): string =>
    library.decode([id], { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  return {
    encode: (text) => {
      const sound = bounded(text);
      if (sound === '') return place('', [...prefix, ...suffix], () => '');
      const { ids: found, tokens } = library.encode(sound);
      const ids = known(library, found);
      return place(sound, ids, (id, at) =>
        special.has(id) ? '' : pieceText(tokens[at] ?? '', textOf(id)),
      );
    },
    decode: (ids) =>
      ids.length === 0
        ? ''
        : library.decode([...ids], {
            skip_special_tokens: true,
            clean_up_tokenization_spaces: false,
          }),
    textOf,
    pair: (first, second) => {
      const encoded = library.encode(bounded(first), {
        text_pair: bounded(second),
        return_token_type_ids: true,
      });
      return { ids: known(library, encoded.ids), parts: encoded.token_type_ids ?? [] };
    },
    suffix,
    begin: undefined, // its own template sets it
    ends: new Set(
      END_TOKENS.map((token) => library.token_to_id(token)).filter((id) => id !== undefined),
    ),
  };
}

/** The library leaves words unknown to some kinds of model without an id. */
function known(library: HuggingFace, ids: readonly (number | undefined)[]): number[] {
  return ids.map((id) => {
    if (id !== undefined) return id;
    for (const token of UNKNOWN_TOKENS) {
      const unknown = library.token_to_id(token);
      if (unknown !== undefined) return unknown;
    }
    throw new NoaError('INVALID_ARGUMENT', 'The tokenizer has no id for a word of this text.');
  });
}

/** A piece as it reads within a text: without the marks that WordPiece and SentencePiece put before it. */
function pieceText(token: string, decoded: string): string {
  if (token.startsWith('##')) return token.slice(2);
  return (decoded === '' ? token : decoded).replaceAll('\u2581', ' ').trim();
}

/** The library tells no places: each piece is looked for after the one before it, without case and accents. */
function place(
  text: string,
  ids: readonly number[],
  pieceOf: (id: number, at: number) => string,
): Tokens {
  const plain = fold(text);
  const starts = new Int32Array(ids.length);
  const stops = new Int32Array(ids.length);
  let cursor = 0;
  for (const [at, id] of ids.entries()) {
    const piece = fold(pieceOf(id, at));
    const window = plain.slice(cursor, cursor + piece.length + 64);
    const found = piece === '' ? -1 : window.indexOf(piece);
    starts[at] = found < 0 ? cursor : cursor + found;
    if (found >= 0) cursor += found + piece.length;
    stops[at] = cursor;
  }
  return { ids: Int32Array.from(ids), starts, stops };
}

/** Of the same length as `text`. */
function fold(text: string): string {
  return text.replaceAll(/[^\0-\x40\x5b-\x7f]/g, (unit) => {
    const [base = unit] = unit.normalize('NFD').toLowerCase();
    return base.length === 1 ? base : unit;
  });
}
