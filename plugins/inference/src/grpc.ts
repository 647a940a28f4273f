/** noa.api.v1.InferenceService: a prompt, or with `metadata_json` whatever /v1/infer takes. */
import { type Json, NoaError } from '@noa/sdk';
import type { Ctx, StreamCtx, Usage } from './context.ts';
import { contentOf, follow, type Parameters } from './generation.ts';
import { run } from './native.ts';
import type { InferInput, InferOutput, InvokeInput } from './noa.gen.ts';

interface Request {
  model: string;
  prompt: string;
  /** The members of the metadata that /v1/infer takes besides. */
  rest: Omit<InferInput, 'model' | 'prompt'>;
}

const PROTOCOLS = ['', 'text', 'chat'];
const TAKEN = ['inputs', 'messages', 'parameters', 'cache'] as const;

/** What a message says; `protocol` chat has the prompt be what a user says. */
function read(input: { readonly [name: string]: Json }, preset: string): Request {
  const { prompt = '', protocol = '', metadata = {} } = input;
  if (typeof metadata !== 'object' || metadata === null || Array.isArray(metadata)) {
    throw new NoaError('INVALID_ARGUMENT', 'metadata_json: must be the text of a JSON object');
  }
  const { model = preset } = metadata;
  if (typeof model !== 'string' || typeof prompt !== 'string') {
    throw new NoaError('INVALID_ARGUMENT', 'metadata_json: model must be the id of a model');
  }
  if (typeof protocol !== 'string' || !PROTOCOLS.includes(protocol)) {
    throw new NoaError('INVALID_ARGUMENT', 'protocol: must be text or chat, or empty');
  }
  const rest: { [name: string]: Json } = {};
  for (const name of TAKEN) if (metadata[name] !== undefined) rest[name] = metadata[name];
  if (protocol === 'chat') rest['messages'] ??= [{ role: 'user', content: prompt }];
  // Judged by the capability, as what comes over REST is by the schema.
  return { model, prompt, rest };
}

export async function invoke(
  input: InvokeInput,
  context: Ctx,
): Promise<{ [name: string]: unknown }> {
  const { model, prompt, rest } = read(input, context.config.generation_model);
  const given = rest.inputs === undefined && rest.messages === undefined ? { prompt } : {};
  const answer = await run({ model, ...given, ...rest }, context);
  return { ...head(answer), ...written(answer.outputs) };
}

export async function streamed(
  input: Json,
  context: StreamCtx,
): Promise<{ [name: string]: unknown }> {
  const message = input as { [name: string]: Json }; // the transport makes it an object
  const { model, prompt, rest } = read(message, context.config.generation_model);
  const { messages, parameters } = rest;
  const asked = messages === undefined ? { prompt } : { messages };
  const request = { ...asked, ...(parameters && { parameters: parameters as Parameters }) };
  const { finishReason, usage } = await follow(context, model, request, (delta) =>
    context.emit({ text: contentOf(delta), model, status: 'streaming' }),
  );
  return { model, status: 'ok', finish_reason: finishReason, usage };
}

function head({ model, task, finish_reason, usage }: InferOutput): { [name: string]: unknown } {
  return {
    status: 'ok',
    routed_plan: `${task} by ${model}`,
    model,
    ...(finish_reason && { finish_reason }),
    ...(usage && { usage: whole(usage) }),
  };
}

function whole({ prompt_tokens, completion_tokens = 0, total_tokens }: Usage): Required<Usage> {
  return { prompt_tokens, completion_tokens, total_tokens };
}

function written(outputs: unknown): { text: string } | { result: unknown } {
  if (typeof outputs === 'string') return { text: outputs };
  const content: unknown =
    typeof outputs === 'object' && outputs !== null ? Reflect.get(outputs, 'content') : undefined;
  return typeof content === 'string' ? { text: content } : { result: outputs };
}
