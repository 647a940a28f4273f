/** What a caller says of a generation, as a local model takes it; by OpenAI's names, and nothing is ignored in silence. */
import { type Json, NoaError } from '@noa/sdk/host';
import type { GenerateRequest, Parameters } from '../backend.ts';
import type { GenerateParameters, Turn } from '../models/runner.ts';

const PRESET_TOKENS = 128;
const MAX_STOPS = 4;
const MAX_STOP_LENGTH = 256;
/** Say who asks, or how the answer is to be sent; they change nothing of the text. */
const WITHOUT_EFFECT = ['user', 'stream', 'stream_options', 'metadata', 'store'];
/** Only with the value that changes nothing. */
const NEUTRAL: { readonly [name: string]: Json } = {
  n: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
  logprobs: false,
  best_of: 1,
  echo: false,
};

/** Throws INVALID_ARGUMENT for what a local model cannot do, or for a value that is none. */
export function readParameters(given: Parameters, modelTokens: number): GenerateParameters {
  const {
    max_tokens,
    max_completion_tokens = max_tokens,
    temperature,
    top_p,
    seed,
    stop,
    ...rest
  } = given;
  for (const [name, value] of Object.entries(rest)) {
    if (WITHOUT_EFFECT.includes(name) || value === null) continue;
    if (Object.hasOwn(NEUTRAL, name) && NEUTRAL[name] === value) continue;
    throw wrong(
      name,
      'is nothing that this model can do; leave it out, or take a model of an upstream',
    );
  }
  const most = `a whole number from 1 to ${modelTokens}`;
  return {
    maxTokens: number(
      'max_tokens',
      max_completion_tokens,
      most,
      Math.min(PRESET_TOKENS, modelTokens),
      (n) => Number.isInteger(n) && n >= 1 && n <= modelTokens,
    ),
    temperature: number(
      'temperature',
      temperature,
      'a number from 0 to 2',
      1,
      (n) => n >= 0 && n <= 2,
    ),
    topP: number('top_p', top_p, 'a number above 0 and up to 1', 1, (n) => n > 0 && n <= 1),
    seed: isAbsent(seed)
      ? undefined
      : number('seed', seed, 'a whole number', 0, (n) => Number.isSafeInteger(n)),
    stop: stops(stop),
  };
}

function isAbsent(value: Json | undefined): value is null | undefined {
  return value === undefined || value === null;
}

function number(
  name: string,
  value: Json | undefined,
  rule: string,
  preset: number,
  passes: (value: number) => boolean,
): number {
  if (isAbsent(value)) return preset;
  if (typeof value === 'number' && passes(value)) return value;
  throw wrong(name, `must be ${rule}`);
}

function stops(value: Json | undefined): string[] {
  if (isAbsent(value)) return [];
  const list = Array.isArray(value) ? value : [value];
  const texts = list.filter((one) => typeof one === 'string');
  const fits = texts.every(({ length }) => length > 0 && length <= MAX_STOP_LENGTH);
  if (texts.length === list.length && list.length <= MAX_STOPS && fits) return texts;
  throw wrong(
    'stop',
    `must be a text or up to ${MAX_STOPS} of them, of 1 to ${MAX_STOP_LENGTH} characters`,
  );
}

function wrong(name: string, rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `parameters/${name.slice(0, 64)}: ${rule}`);
}

/** The text that a model without a chat template goes on from: what was said, a line each. */
export function promptOf({ prompt, messages = [] }: GenerateRequest): string {
  if (prompt !== undefined) return prompt;
  return messages.map((message, at) => textOf(message['content'], at)).join('\n');
}

/** The same for a model that has one. */
export function turnsOf({ messages }: GenerateRequest): Turn[] | undefined {
  return messages?.map(({ role, content }, at) => ({
    role: roleOf(role, at),
    text: textOf(content, at),
  }));
}

function roleOf(role: Json | undefined, at: number): Turn['role'] {
  if (role === 'system' || role === 'user' || role === 'assistant') return role;
  if (role === 'developer') return 'system';
  const rule = 'this model knows system, developer, user and assistant';
  throw new NoaError('INVALID_ARGUMENT', `messages/${at}/role: ${rule}`);
}

function textOf(content: Json | undefined, at: number): string {
  if (typeof content === 'string') return content;
  if (content === null || content === undefined) return '';
  const parts = Array.isArray(content) ? content : [content];
  return parts
    .map((part) => {
      const isObject = typeof part === 'object' && part !== null && !Array.isArray(part);
      const text = isObject && part['type'] === 'text' ? part['text'] : undefined;
      if (typeof text === 'string') return text;
      throw new NoaError('INVALID_ARGUMENT', `messages/${at}/content: this model takes text alone`);
    })
    .join('');
}
