/**
 * Models that read texts: sentence embedders, classifiers and cross-encoders with the inputs of BERT
 * (input_ids, attention_mask and, when the graph has it, token_type_ids, all INT64 [batch, sequence]).
 */
import { NoaError } from '@noa/sdk/host';
import type { InferenceSession, Tensor as RuntimeTensor } from 'onnxruntime-node';
import type { ModelFiles } from './runner.ts';
import { reason } from './session.ts';
import type { Tokenizer } from './tokenizer.ts';

type TensorClass = typeof RuntimeTensor;
/** Pairs of one run of a cross-encoder. */
const PAIRS = 16;
const INPUTS = ['input_ids', 'attention_mask', 'token_type_ids'];

interface Sequence {
  readonly ids: ArrayLike<number>;
  readonly parts?: ArrayLike<number>;
}

interface Result {
  readonly data: Float32Array;
  readonly dims: readonly number[];
}

export class TextModel {
  readonly #model: ModelFiles;
  readonly #session: InferenceSession;
  readonly #tokenizer: Tokenizer;
  readonly #Tensor: TensorClass;

  constructor(
    model: ModelFiles,
    session: InferenceSession,
    tokenizer: Tokenizer,
    Tensor: TensorClass,
  ) {
    const odd = session.inputNames.find((name) => !INPUTS.includes(name));
    if (odd !== undefined || !session.inputNames.includes('input_ids')) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `Model ${model.id} must take input_ids and may take attention_mask and token_type_ids; it takes ${session.inputNames.join(', ')}. Give it the task tensor, or export it again.`,
      );
    }
    this.#model = model;
    this.#session = session;
    this.#tokenizer = tokenizer;
    this.#Tensor = Tensor;
  }

  async embed(batch: readonly Int32Array[]): Promise<Float32Array> {
    const { pooling, normalize, dimensions = 0 } = this.#model;
    const sequences = batch.map((ids) => ({ ids: this.#fit(ids) }));
    const result = await this.#run(sequences);
    const [rows, second = 0, third = 0] = result.dims;
    const pooled = result.dims.length === 2;
    if (rows !== batch.length || (pooled ? second : third) !== dimensions) {
      throw this.#unlike(`[batch, ${dimensions}] or [batch, sequence, ${dimensions}]`, result);
    }
    const vectors = new Float32Array(batch.length * dimensions);
    if (pooled) vectors.set(result.data);
    else {
      for (const [row, { ids }] of sequences.entries()) {
        const from = row * second * dimensions;
        const count = pooling === 'cls' ? 1 : Math.max(ids.length, 1);
        for (let at = 0; at < count * dimensions; at += 1) {
          const to = row * dimensions + (at % dimensions);
          vectors[to] = (vectors[to] ?? 0) + (result.data[from + at] ?? 0) / count;
        }
      }
    }
    if (normalize) toUnitLength(vectors, dimensions);
    if (vectors.every((each) => Number.isFinite(each))) return vectors;
    throw new NoaError('INTERNAL', `Model ${this.#model.id} answered a vector that is not finite.`);
  }

  async classify(batch: readonly Int32Array[]): Promise<Float32Array> {
    const labels = this.#model.labels?.length ?? 0;
    const result = await this.#run(batch.map((ids) => ({ ids: this.#fit(ids) })));
    if (result.dims.length !== 2 || result.dims[0] !== batch.length || result.dims[1] !== labels) {
      throw this.#unlike(`[batch, ${labels}], one score for each of its labels`, result);
    }
    const scores = new Float32Array(result.data.length);
    for (let row = 0; row < batch.length; row += 1) {
      const logits = result.data.subarray(row * labels, (row + 1) * labels);
      scores.set(labels === 1 ? logits.map(sigmoid) : softmax(logits), row * labels);
    }
    return scores;
  }

  /** Scores between 0 and 1. A text that is too long beside the query is cut; a query that is too long is refused. */
  async rerank(
    query: string,
    texts: readonly string[],
  ): Promise<{ scores: Float32Array; tokens: number }> {
    const pairs = texts.map((text) => this.#pair(query, text));
    const order = [...pairs.keys()].toSorted(
      (a, b) => (pairs[a]?.ids.length ?? 0) - (pairs[b]?.ids.length ?? 0),
    );
    const scores = new Float32Array(texts.length);
    for (let from = 0; from < order.length; from += PAIRS) {
      const chunk = order.slice(from, from + PAIRS);
      const result = await this.#run(chunk.map((at) => pairs[at] ?? { ids: [] }));
      const [rows, width] = result.dims;
      if (rows !== chunk.length || (width !== 1 && width !== 2)) {
        throw this.#unlike('[batch, 1] or [batch, 2]', result);
      }
      for (const [row, at] of chunk.entries()) {
        const logits = result.data.subarray(row * width, (row + 1) * width);
        scores[at] = width === 1 ? sigmoid(logits[0] ?? 0) : (softmax(logits)[1] ?? 0);
      }
    }
    return { scores, tokens: pairs.reduce((sum, { ids }) => sum + ids.length, 0) };
  }

  #pair(query: string, text: string): { ids: number[]; parts: number[] } {
    const { maxTokens } = this.#model;
    const { suffix } = this.#tokenizer;
    const pair = (second: string): { ids: number[]; parts: number[] } => {
      const both = this.#tokenizer.pair?.(query, second);
      if (both === undefined) throw new Error('a cross-encoder has a tokenizer for pairs');
      return both;
    };
    const both = pair(text);
    if (both.ids.length <= maxTokens) return both;
    const kept = maxTokens - suffix.length;
    if (pair('').ids.length >= kept) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `The query leaves no room for a text within ${maxTokens} tokens; shorten it.`,
      );
    }
    return {
      ids: [...both.ids.slice(0, kept), ...suffix],
      parts: [...both.parts.slice(0, kept), ...suffix.map(() => 1)],
    };
  }

  /** At most `maxTokens`, with the special tokens at the end that the model was trained with. */
  #fit(ids: Int32Array): Int32Array {
    const { maxTokens } = this.#model;
    const { suffix } = this.#tokenizer;
    const ends = suffix.every((id, at) => ids[ids.length - suffix.length + at] === id);
    if (ids.length <= maxTokens && (ends || ids.length < maxTokens)) return ids;
    const fitted = ids.slice(0, maxTokens);
    fitted.set(suffix, maxTokens - suffix.length);
    return fitted;
  }

  async #run(batch: readonly Sequence[]): Promise<Result> {
    const length = Math.max(1, ...batch.map(({ ids }) => ids.length));
    const shape = [batch.length, length];
    const ids = new BigInt64Array(batch.length * length);
    const mask = new BigInt64Array(ids.length);
    const parts = new BigInt64Array(ids.length);
    for (const [row, sequence] of batch.entries()) {
      for (let at = 0; at < sequence.ids.length; at += 1) {
        const to = row * length + at;
        ids[to] = BigInt(sequence.ids[at] ?? 0);
        mask[to] = 1n;
        parts[to] = BigInt(sequence.parts?.[at] ?? 0);
      }
    }
    const all = { input_ids: ids, attention_mask: mask, token_type_ids: parts };
    const feeds: Record<string, RuntimeTensor> = {};
    for (const [name, data] of Object.entries(all)) {
      if (this.#session.inputNames.includes(name)) {
        feeds[name] = new this.#Tensor('int64', data, shape);
      }
    }
    const name = this.#model.outputs?.[0]?.name ?? this.#session.outputNames[0] ?? '';
    let result;
    try {
      result = (await this.#session.run(feeds, [name]))[name];
    } catch (error) {
      const why = reason(error, this.#model.folder);
      throw new NoaError('INVALID_ARGUMENT', `Model ${this.#model.id} cannot take this: ${why}`, {
        cause: error,
      });
    }
    if (!(result?.data instanceof Float32Array)) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `Output ${name} of model ${this.#model.id} must be FP32.`,
      );
    }
    return { data: result.data, dims: result.dims };
  }

  #unlike(wanted: string, { dims }: Result): NoaError {
    return new NoaError(
      'INVALID_ARGUMENT',
      `Model ${this.#model.id} answers [${dims.join()}] and must answer ${wanted}; correct its manifest.`,
    );
  }
}

/** Each row of `width`; one of zeros stays. */
export function toUnitLength(vectors: Float32Array, width: number): void {
  for (let from = 0; from < vectors.length; from += width) {
    let square = 0;
    for (let at = from; at < from + width; at += 1) square += (vectors[at] ?? 0) ** 2;
    const norm = Math.sqrt(square);
    if (norm === 0) continue;
    for (let at = from; at < from + width; at += 1) vectors[at] = (vectors[at] ?? 0) / norm;
  }
}

function sigmoid(value: number): number {
  return 1 / (1 + Math.exp(-value));
}

function softmax(logits: Float32Array): Float32Array {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const weights = logits.map((each) => Math.exp(each - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((each) => each / sum);
}
