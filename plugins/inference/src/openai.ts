/**
 * The OpenAI API (https://platform.openai.com/docs/api-reference): embeddings, chat completions, completions
 * and models, so that its clients work unchanged. What is not a member of its own here is a parameter of the
 * generation, and whoever runs the model judges it.
 */
import { type GeneratedItem, type Json, NoaError } from '@noa/sdk';
import {
  type Ctx,
  findModel,
  promptUsage,
  type StreamCtx,
  type Usage,
  usageOf,
} from './context.ts';
import { base64Of, embedAll, numbersOf } from './embedding.ts';
import { contentOf, follow, type Parameters } from './generation.ts';
import type {
  ChatInput,
  CompletionsInput,
  EmbeddingsInput,
  EmbeddingsOutput,
  ModelInput,
  ModelOutput,
  ModelsInput,
  ModelsOutput,
} from './noa.gen.ts';

/** When this process began: models have no date of their own. */
const CREATED = seconds();

export async function embeddings(input: EmbeddingsInput, context: Ctx): Promise<EmbeddingsOutput> {
  const { model, input: given, encoding_format: format = 'float', dimensions } = input;
  const texts = textsOf('input', given);
  const options = dimensions === undefined ? {} : { dimensions };
  const { vectors, tokens } = await embedAll(context, model, texts, options);
  const rows =
    format === 'base64'
      ? vectors.map(base64Of)
      : numbersOf(vectors, 'ask for encoding_format base64, or send fewer texts at a time');
  const data = rows.map((embedding, index) => ({ object: 'embedding' as const, index, embedding }));
  return { object: 'list', data, model, usage: promptUsage(tokens) };
}

export async function chat(
  { model, messages, stream, stream_options: options, ...rest }: ChatInput,
  context: StreamCtx,
): Promise<{ [name: string]: unknown }> {
  const request = { messages, parameters: parametersOf(rest) };
  const head = { id: `chatcmpl-${context.random.uuid()}`, created: seconds(), model };
  if (stream !== true) {
    const { message, finishReason, usage } = await context.inference.generate(model, request);
    const answer = { role: 'assistant', content: null, refusal: null, ...message };
    const choice = { index: 0, message: answer, logprobs: null, finish_reason: finishReason };
    return {
      ...head,
      object: 'chat.completion',
      choices: [choice],
      usage: usage && usageOf(usage),
    };
  }
  const chunks = new Chunks({ ...head, object: 'chat.completion.chunk' }, options, context);
  let isFirst = true;
  const { finishReason, usage } = await follow(context, model, request, async (delta) => {
    const role = isFirst ? { role: 'assistant' } : {};
    isFirst = false;
    await chunks.send({ index: 0, delta: { ...role, ...delta }, ...OPEN });
  });
  await chunks.send({ index: 0, delta: {}, logprobs: null, finish_reason: finishReason });
  await chunks.end(usage);
  return {};
}

export async function completions(
  { model, prompt, stream, stream_options: options, ...rest }: CompletionsInput,
  context: StreamCtx,
): Promise<{ [name: string]: unknown }> {
  const prompts = textsOf('prompt', prompt);
  const parameters = parametersOf(rest);
  const head = {
    id: `cmpl-${context.random.uuid()}`,
    object: 'text_completion',
    created: seconds(),
    model,
  };
  let total = usageOf({ promptTokens: 0, completionTokens: 0 });
  if (stream !== true) {
    const choices = [];
    for (const [index, each] of prompts.entries()) {
      const request = { prompt: each, parameters };
      const answer = await context.inference.generate(model, request);
      const { text = '', finishReason, usage } = answer;
      choices.push({ index, text, logprobs: null, finish_reason: finishReason });
      if (usage) total = sum(total, usageOf(usage));
    }
    return { ...head, choices, usage: total };
  }
  const chunks = new Chunks(head, options, context);
  for (const [index, each] of prompts.entries()) {
    const request = { prompt: each, parameters };
    const { finishReason, usage } = await follow(context, model, request, (delta) =>
      chunks.send({ index, text: contentOf(delta), ...OPEN }),
    );
    await chunks.send({ index, text: '', logprobs: null, finish_reason: finishReason });
    total = sum(total, usage);
  }
  await chunks.end(total);
  return {};
}

const OPEN = { logprobs: null, finish_reason: null };

type Delta = NonNullable<GeneratedItem['delta']>;
type Choice = { readonly index: number; readonly delta?: Delta; readonly text?: string } & {
  readonly [name: string]: unknown;
};

/** The parts of a streamed answer; with `include_usage`, the tokens come in one more at the end. */
class Chunks {
  readonly #head: object;
  readonly #withUsage: boolean;
  readonly #emit: StreamCtx['emit'];

  constructor(head: object, options: ChatInput['stream_options'], { emit }: StreamCtx) {
    this.#head = head;
    this.#withUsage = options?.include_usage === true;
    this.#emit = emit;
  }

  send(choice: Choice): Promise<void> {
    const usage = this.#withUsage ? { usage: null } : {};
    return this.#emit({ ...this.#head, choices: [choice], ...usage });
  }

  async end(usage: Usage): Promise<void> {
    if (this.#withUsage) await this.#emit({ ...this.#head, choices: [], usage });
  }
}

export async function models(_input: ModelsInput, { inference }: Ctx): Promise<ModelsOutput> {
  const all = await inference.models();
  const newest = new Map(all.toReversed().map((each) => [each.id, each]));
  return { object: 'list', data: [...newest.values()].toReversed().map(viewOf) };
}

export async function model({ model: id }: ModelInput, context: Ctx): Promise<ModelOutput> {
  return viewOf(await findModel(context, id));
}

function viewOf({ id, backend }: { id: string; backend: string }): ModelOutput {
  return { id, object: 'model', created: CREATED, owned_by: backend };
}

/** Throws INVALID_ARGUMENT for token ids: those that a client makes belong to another tokenizer. */
function textsOf(name: string, given: EmbeddingsInput['input']): string[] {
  const list: unknown[] = Array.isArray(given) ? given : [given];
  const texts = list.filter((each) => typeof each === 'string');
  if (texts.length === list.length) return texts;
  const text = `${name}: token ids are not taken, since each model has its own; send text`;
  throw new NoaError('INVALID_ARGUMENT', text);
}

function parametersOf(rest: { readonly [name: string]: unknown }): Parameters {
  if (typeof rest['n'] === 'number' && rest['n'] !== 1) {
    throw new NoaError('INVALID_ARGUMENT', 'n: one choice is answered to a prompt; send n: 1');
  }
  return rest as { [name: string]: Json };
}

function sum(a: Required<Usage>, b: Required<Usage>): Required<Usage> {
  return {
    prompt_tokens: a.prompt_tokens + b.prompt_tokens,
    completion_tokens: a.completion_tokens + b.completion_tokens,
    total_tokens: a.total_tokens + b.total_tokens,
  };
}

function seconds(): number {
  return Math.floor(Date.now() / 1000);
}
