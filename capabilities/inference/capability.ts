/**
 * The operation table of `inference`: what models do with texts and tensors. A resource is a model by its
 * id; a model of an upstream group is `group/model`. Vectors and tensors are bytes, never JSON numbers.
 */
import { type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';
import { PRIORITIES } from './backend.ts';

/** Texts of one call. */
export const MAX_TEXTS = 256;
/** Longest text in characters; what a model cannot take of it is cut off, or refused on request. */
export const MAX_TEXT_LENGTH = 65_536;
const MAX_MESSAGES = 1024;
const MAX_TENSORS = 64;
const MAX_TENSOR_BYTES = 16 << 20;
const MAX_ID_LENGTH = 128;

/** Data types of the Open Inference Protocol, version 2. */
export const DATATYPES = [
  'BOOL',
  'UINT8',
  'UINT16',
  'UINT32',
  'UINT64',
  'INT8',
  'INT16',
  'INT32',
  'INT64',
  'FP16',
  'FP32',
  'FP64',
  'BYTES',
] as const;

const count: JsonSchema = { type: 'integer', minimum: 0 };
const text: JsonSchema = { type: 'string', maxLength: MAX_TEXT_LENGTH };
const texts: JsonSchema = { type: 'array', items: text, minItems: 1, maxItems: MAX_TEXTS };
const model: JsonSchema = { type: 'string', minLength: 1, maxLength: MAX_ID_LENGTH };
const version: JsonSchema = { type: 'string', minLength: 1, maxLength: 64 };
const open: JsonSchema = { type: 'object' };
const usage = object(
  { promptTokens: count, completionTokens: count },
  { estimated: { const: true, description: 'An upstream did not tell.' } },
);
const finishReason: JsonSchema = { enum: ['stop', 'length', 'tool_calls', 'content_filter'] };

const tensor = (maxBytes: number): JsonSchema =>
  object({
    name: { type: 'string', minLength: 1, maxLength: 256 },
    shape: { type: 'array', items: { type: 'integer', minimum: 0 }, maxItems: 8 },
    datatype: { enum: DATATYPES },
    base64: {
      type: 'string',
      contentEncoding: 'base64',
      maxLength: Math.ceil(maxBytes / 3) * 4,
      description: 'The elements in row-major order, little-endian.',
    },
  });
const tensors: JsonSchema = {
  type: 'array',
  items: tensor(MAX_TENSOR_BYTES),
  minItems: 1,
  maxItems: MAX_TENSORS,
};

const message: JsonSchema = {
  type: 'object',
  properties: { role: { type: 'string', minLength: 1, maxLength: 32 } },
  required: ['role'],
  description: 'As in OpenAI’s chat completions.',
};

const item: JsonSchema = object(
  {},
  {
    delta: { ...open, description: 'What is new: `content`, `role`, `tool_calls`.' },
    finishReason,
    usage,
    tokens: { ...count, description: 'What the item takes of a budget.' },
  },
);

const view: JsonSchema = {
  ...object({
    id: model,
    version: { type: 'string' },
    task: { enum: ['embedding', 'generation', 'classification', 'rerank', 'tensor'] },
    state: { enum: ['available', 'loading', 'ready', 'failed'] },
    backend: { type: 'string', description: '`local`, or the group of an upstream.' },
  }),
  additionalProperties: true,
};

interface OfModel {
  readonly model: string;
}

interface Counted {
  readonly tokens?: number;
}

interface Generated extends Counted {
  readonly usage?: { readonly promptTokens: number; readonly completionTokens: number };
}

function tokensOf({ usage: told }: Generated): number {
  return told === undefined ? 0 : told.promptTokens + told.completionTokens;
}

const resources = (input: OfModel): string[] => [input.model];
const tokens = (_input: never, output: Counted): { tokens: number } => ({
  tokens: output.tokens ?? 0,
});

export const inference = defineCapability({
  name: 'inference',
  summary: 'Models: of this host, on its processors, and of upstreams that the operator names',
  resource: 'model id, such as use-lite, or group/model of an upstream',
  operations: {
    embed: {
      summary: 'One vector of unit length for each text, as 32-bit floats in row-major order',
      input: object(
        { model, texts },
        {
          dimensions: { type: 'integer', minimum: 1, maximum: 16_384 },
          truncate: {
            type: 'boolean',
            description: 'false: a text over the limit of the model is refused and not cut.',
          },
          priority: {
            enum: PRIORITIES,
            description:
              'batch: work that nobody waits for, behind all that is interactive (the default).',
          },
        },
      ),
      output: object({
        model,
        dimensions: count,
        count,
        base64: { type: 'string', contentEncoding: 'base64' },
        tokens: count,
      }),
      idempotent: true,
      resources,
      usage: tokens,
    },
    rerank: {
      summary: 'How well each text answers the query; higher is better',
      input: object({ model, query: { ...text, minLength: 1 }, texts }),
      output: object({
        model,
        scores: { type: 'array', items: { type: 'number' } },
        tokens: count,
        method: { enum: ['cross-encoder', 'cosine'] },
      }),
      idempotent: true,
      resources,
      usage: tokens,
    },
    classify: {
      summary:
        'The labels of each text with their scores, best first; with labels of the caller’s choice by likeness',
      input: object(
        { model, texts },
        {
          labels: {
            type: 'array',
            items: { type: 'string', minLength: 1, maxLength: 256 },
            minItems: 2,
            maxItems: 64,
            uniqueItems: true,
          },
        },
      ),
      output: object({
        model,
        results: {
          type: 'array',
          items: {
            type: 'array',
            items: object({ label: { type: 'string' }, score: { type: 'number' } }),
          },
        },
        tokens: count,
        method: { enum: ['classifier', 'likeness'] },
      }),
      idempotent: true,
      resources,
      usage: tokens,
    },
    generate: {
      summary: 'Text that goes on from a prompt or answers messages; with stream, item by item',
      input: {
        ...object(
          { model },
          {
            prompt: { ...text, maxLength: 1 << 20 },
            messages: { type: 'array', items: message, minItems: 1, maxItems: MAX_MESSAGES },
            parameters: {
              ...open,
              description:
                'By OpenAI’s names: max_tokens, temperature, top_p, seed, stop …; a local model refuses what it cannot do.',
            },
            stream: { type: 'boolean' },
          },
        ),
        oneOf: [{ required: ['prompt'] }, { required: ['messages'] }],
      },
      output: {
        type: 'object',
        properties: {
          model,
          text: { type: 'string' },
          message: open,
          finishReason,
          usage,
          stream: { type: 'string' },
        },
        additionalProperties: false,
      },
      items: item,
      idempotent: false,
      resources,
      usage: (_input: never, output: Generated) => ({
        tokens: output.tokens ?? tokensOf(output),
      }),
    },
    run: {
      summary: 'The outputs of a model for input tensors',
      input: object(
        { model, inputs: tensors },
        {
          version,
          outputs: {
            type: 'array',
            items: { type: 'string', minLength: 1, maxLength: 256 },
            maxItems: MAX_TENSORS,
            uniqueItems: true,
            description: 'All of them when absent.',
          },
        },
      ),
      output: object({ model, version, outputs: tensors }),
      idempotent: true,
      resources,
    },
    tokenize: {
      summary: 'The tokens of each text, with the places in it where they begin and end',
      input: object({ model, texts: { ...texts, maxItems: 64 } }),
      output: object({
        tokens: {
          type: 'array',
          items: {
            type: 'array',
            items: object({
              id: count,
              text: { type: 'string' },
              start: { ...count, description: 'In UTF-16 units.' },
              stop: count,
            }),
          },
        },
      }),
      idempotent: true,
      resources,
      usage: (_input: never, output: { readonly tokens: readonly (readonly object[])[] }) => ({
        tokens: output.tokens.reduce((sum, each) => sum + each.length, 0),
      }),
    },
    models: {
      summary: 'The models that the grant covers',
      input: object({}),
      output: object({ models: { type: 'array', items: view } }),
      idempotent: true,
    },
    manage: {
      summary: 'Loads a model before its first use, or gives its memory back',
      input: object({ model, action: { enum: ['load', 'unload'] } }, { version }),
      output: view,
      idempotent: true,
      resources,
    },
  },
  normalizeResource(pattern) {
    const name = pattern.endsWith('*') ? pattern.slice(0, -1) : pattern;
    if (pattern.length <= MAX_ID_LENGTH && (name !== '' || pattern === '*') && isIdPart(name)) {
      return pattern;
    }
    throw new NoaError(
      'INVALID_ARGUMENT',
      `inference: the resource ${JSON.stringify(pattern.slice(0, 200))} must be the id of a model, such as ` +
        'use-lite or group/model, or the beginning of one and *',
    );
  },
});

/** Letters, digits and . _ : - / @, which ids of models are made of. */
function isIdPart(name: string): boolean {
  return /^[A-Za-z0-9._:/@-]*$/.test(name);
}

function object(
  required: { readonly [name: string]: JsonSchema },
  optional: { readonly [name: string]: JsonSchema } = {},
): JsonSchema {
  return {
    type: 'object',
    properties: { ...required, ...optional },
    required: Object.keys(required),
    additionalProperties: false,
  };
}
