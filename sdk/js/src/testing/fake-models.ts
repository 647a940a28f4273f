/**
 * What stands behind `inference` in a test. Vectors are made of the words of a text, so that texts with words
 * in common are alike and equal texts are equal; what is generated, a test says beforehand.
 */
import { createHash } from 'node:crypto';
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import { noOperation, text } from './fakes.ts';

type Arguments = { readonly [name: string]: Json };

const DIMENSIONS = 64;

export class FakeModels {
  /** What the next generations answer, each once; `…` when there is none. */
  readonly answers: string[] = [];
  readonly #streams = new Map<string, Json[]>();

  invoke(operation: string, args: Arguments): Json {
    if (operation === 'models') return { models: [] };
    const model = text(args, 'model');
    switch (operation) {
      case 'embed': {
        const rows = textsOf(args).map(embed);
        const bytes = Buffer.concat(rows.map((row) => Buffer.from(row.buffer)));
        const count = rows.length;
        const tokens = tokensOf(textsOf(args));
        return { model, dimensions: DIMENSIONS, count, base64: bytes.toString('base64'), tokens };
      }
      case 'rerank': {
        const query = embed(text(args, 'query'));
        const scores = textsOf(args).map((each) => likeness(query, embed(each)));
        return { model, scores, tokens: tokensOf(textsOf(args)), method: 'cosine' };
      }
      case 'classify': {
        const labels = Array.isArray(args['labels']) ? args['labels'].map(String) : ['label'];
        const results = textsOf(args).map((each) =>
          labels
            .map((label) => ({ label, score: likeness(embed(label), embed(each)) }))
            .toSorted((a, b) => b.score - a.score),
        );
        return { model, results, tokens: tokensOf(textsOf(args)), method: 'likeness' };
      }
      case 'tokenize':
        return { tokens: textsOf(args).map(places) };
      case 'generate':
        return this.#generate(model, args);
      default:
        throw noOperation('inference', operation);
    }
  }

  /** `stream.next` and `stream.close`. */
  read(operation: string, stream: string): Json {
    const items = this.#streams.get(stream);
    if (operation === 'close') return { closed: this.#streams.delete(stream) };
    if (items === undefined)
      throw new NoaError('NOT_FOUND', 'stream: this call has no such stream');
    const [item, ...rest] = items;
    this.#streams.set(stream, rest);
    if (rest.length === 0) this.#streams.delete(stream);
    return { items: item === undefined ? [] : [item], done: rest.length === 0 };
  }

  #generate(model: string, args: Arguments): Json {
    const answer = this.answers.shift() ?? '…';
    const promptTokens = tokensOf([JSON.stringify(args['messages'] ?? args['prompt'] ?? '')]);
    const usage = { promptTokens, completionTokens: tokensOf([answer]) };
    if (args['stream'] !== true) {
      const said =
        args['messages'] === undefined
          ? { text: answer }
          : { message: { role: 'assistant', content: answer } };
      return { model, ...said, finishReason: 'stop', usage };
    }
    const stream = `stream-${this.#streams.size + 1}`;
    const pieces = answer.match(/\S+\s*/g) ?? [answer];
    const items = pieces.map((content): Json => ({ delta: { content } }));
    this.#streams.set(stream, [...items, { finishReason: 'stop', usage }]);
    return { stream };
  }
}

function textsOf(args: Arguments): string[] {
  return Array.isArray(args['texts']) ? args['texts'].map(String) : [];
}

function wordsOf(given: string): string[] {
  return given.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

function tokensOf(texts: readonly string[]): number {
  return texts.reduce((sum, each) => sum + wordsOf(each).length, 0);
}

function places(given: string): Json[] {
  return [...given.matchAll(/[\p{L}\p{N}]+/gu)].map((match) => {
    const [word] = match;
    const id = createHash('sha256').update(word.toLowerCase()).digest().readUInt16LE(0);
    return { id, text: word, start: match.index, stop: match.index + word.length };
  });
}

function embed(given: string): Float32Array<ArrayBuffer> {
  const row = new Float32Array(DIMENSIONS);
  for (const word of wordsOf(given)) {
    const digest = createHash('sha256').update(word).digest();
    for (let at = 0; at < DIMENSIONS; at += 1) {
      row[at] = (row[at] ?? 0) + (digest[at % digest.length] ?? 0) / 127.5 - 1;
    }
  }
  const length = Math.hypot(...row) || 1;
  return row.map((value) => value / length);
}

function likeness(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0);
}
