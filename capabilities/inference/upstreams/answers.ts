/**
 * What OpenAI-compatible servers answer, in the terms of the backend's port. Invariant: numbers are checked
 * before they are believed; what has another form is a failure of the upstream and never a wrong answer.
 */
import type { Json } from '@noa/sdk/host';
import type { Embedded, FinishReason, GenerateItem, TokenUsage } from '../backend.ts';
import { isObject } from './catalogue.ts';
import { errorInside, unusable } from './failure.ts';

const REASONS: { readonly [name: string]: FinishReason } = {
  length: 'length',
  tool_calls: 'tool_calls',
  function_call: 'tool_calls',
  content_filter: 'content_filter',
};

const MAX_COUNT = 2 ** 31 - 1;

/** About four characters to a token, in most languages and tokenizers. */
export function estimatedTokens(characters: number): number {
  return Math.ceil(characters / 4);
}

/** Follows one answer: its parts one by one, then `last`. */
export class Generation {
  readonly #group: string;
  readonly #key: string | undefined;
  #finishReason: FinishReason | undefined;
  #usage: TokenUsage | undefined;
  #characters = 0;

  constructor(group: string, key: string | undefined) {
    this.#group = group;
    this.#key = key;
  }

  get isFinished(): boolean {
    return this.#finishReason !== undefined;
  }

  /** A part of a stream, or a whole answer. Undefined when nothing in it is new to a caller. */
  item(value: Json): GenerateItem | undefined {
    if (!isObject(value)) throw this.#strange();
    const { choices, usage, error } = value;
    if (error !== undefined && error !== null) throw errorInside(this.#group, error, this.#key);
    this.#usage = usageOf(usage) ?? this.#usage;
    if (!Array.isArray(choices)) throw this.#strange();
    const choice = choices.find((each) => isObject(each) && (each['index'] ?? 0) === 0);
    if (!isObject(choice)) return undefined;
    const reason = choice['finish_reason'];
    if (typeof reason === 'string') this.#finishReason = REASONS[reason] ?? 'stop';
    const delta = deltaOf(choice);
    if (delta === undefined) return undefined;
    const { content } = delta;
    const text = typeof content === 'string' ? content : JSON.stringify(delta);
    this.#characters += text.length;
    return { delta };
  }

  /** `promptLength` in characters, for an upstream that does not tell its usage. */
  last(promptLength: number): GenerateItem {
    const usage = this.#usage ?? {
      promptTokens: estimatedTokens(promptLength),
      completionTokens: estimatedTokens(this.#characters),
      estimated: true as const,
    };
    return { finishReason: this.#finishReason ?? 'stop', usage };
  }

  #strange(): Error {
    return unusable(this.#group, 'answered in no form that is known', 'none');
  }
}

/** The members of a part that say something. */
function deltaOf(choice: { readonly [name: string]: Json }): GenerateItem['delta'] {
  const { delta, message, text } = choice;
  const given = typeof text === 'string' ? { content: text } : (delta ?? numbered(message));
  if (!isObject(given)) return undefined;
  const said = Object.entries(given).filter(([, value]) => value !== null);
  const isEmpty = said.every(([, value]) => value === '');
  return isEmpty ? undefined : Object.fromEntries(said);
}

/** A whole message as a part of a stream, in which tool calls have numbers. */
function numbered(message: Json | undefined): Json | undefined {
  const { tool_calls: calls, ...rest } = isObject(message) ? message : {};
  if (!Array.isArray(calls)) return message;
  const tool_calls = calls.map((call, index) => (isObject(call) ? { index, ...call } : call));
  return { ...rest, tool_calls };
}

function usageOf(usage: Json | undefined): TokenUsage | undefined {
  if (!isObject(usage)) return undefined;
  const { prompt_tokens: promptTokens, completion_tokens: completionTokens = 0 } = usage;
  return isCount(promptTokens) && isCount(completionTokens)
    ? { promptTokens, completionTokens }
    : undefined;
}

/** All tokens of an answer without a completion; undefined when it does not say. */
function tokensOf(answer: { readonly [name: string]: Json }): number | undefined {
  const { usage } = answer;
  if (!isObject(usage)) return undefined;
  return [usage['total_tokens'], usage['prompt_tokens']].find(isCount);
}

/** Rows in the order of the texts, made one long. `dimensions`: how many were asked for, if any. */
export function embedded(
  group: string,
  answer: Json,
  texts: readonly string[],
  dimensions: number | undefined,
): Embedded {
  const rows: (Float32Array | undefined)[] = texts.map(() => undefined);
  const data = isObject(answer) ? answer['data'] : undefined;
  if (!isObject(answer) || !Array.isArray(data) || data.length !== texts.length) {
    throw unusable(group, 'did not answer with one vector for each text');
  }
  for (const [place, each] of data.entries()) {
    const { index = place, embedding } = isObject(each) ? each : {};
    if (typeof index !== 'number' || !(index in rows) || rows[index] !== undefined) {
      throw unusable(group, 'numbered its vectors wrongly');
    }
    rows[index] = unit(group, floatsOf(embedding));
  }
  const width = dimensions ?? rows[0]?.length ?? 0;
  const vectors = new Float32Array(width * rows.length);
  for (const [index, row] of rows.entries()) {
    if (row?.length !== width) {
      throw unusable(group, `answered with vectors of other than ${width} dimensions`, 'none');
    }
    vectors.set(row, index * width);
  }
  const characters = texts.reduce((sum, text) => sum + text.length, 0);
  return { dimensions: width, vectors, tokens: tokensOf(answer) ?? estimatedTokens(characters) };
}

/** An array of numbers, or base64 of 32-bit floats, little-endian. */
function floatsOf(value: Json | undefined): Float32Array {
  if (Array.isArray(value))
    return Float32Array.from(value, (each) => (typeof each === 'number' ? each : NaN));
  if (typeof value !== 'string') return new Float32Array();
  const bytes = Buffer.from(value, 'base64');
  const floats = new Float32Array(bytes.length >> 2);
  for (let at = 0; at < floats.length; at += 1) floats[at] = bytes.readFloatLE(at * 4);
  return bytes.length % 4 === 0 ? floats : new Float32Array();
}

function unit(group: string, row: Float32Array): Float32Array {
  const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
  if (!(length > 0 && length < Infinity)) {
    throw unusable(group, 'answered with a vector that has no direction');
  }
  return row.map((value) => value / length);
}

/** Scores in the order of the texts. */
export function reranked(
  group: string,
  answer: Json,
  texts: readonly string[],
  query: string,
): { scores: number[]; tokens: number } {
  const results = isObject(answer) ? answer['results'] : undefined;
  const scores: (number | undefined)[] = texts.map(() => undefined);
  for (const each of Array.isArray(results) ? results : []) {
    const { index, relevance_score: score } = isObject(each) ? each : {};
    if (typeof index === 'number' && index in scores && typeof score === 'number') {
      scores[index] = score;
    }
  }
  const whole = scores.filter((score) => score !== undefined);
  if (!isObject(answer) || whole.length !== texts.length) {
    throw unusable(group, 'did not answer with one score for each text');
  }
  const characters = texts.reduce((sum, text) => sum + text.length + query.length, 0);
  return { scores: whole, tokens: tokensOf(answer) ?? estimatedTokens(characters) };
}

/** What no model counts is not believed: it would be taken from the budget of a caller. */
function isCount(value: Json | undefined): value is number {
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) <= MAX_COUNT;
}
