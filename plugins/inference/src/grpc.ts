/** noa.api.v1.InferenceService: a prompt, or with `metadata_json` whatever /v1/infer takes. */
import { type Json, NoaError } from '@noa/sdk';
import type { Ctx, StreamCtx, Usage } from './context.ts';
import { contentOf, follow } from './generation.ts';
import { readMetadata } from './grpc-metadata.ts';
import { run, streamedPromptOf } from './native.ts';
import type { InferInput, InferOutput, InvokeInput } from './noa.gen.ts';

const PROTOCOLS = ['', 'text', 'chat'];

/** What a message asks for; `protocol` chat has the prompt be what a user says. */
function read(input: { readonly [name: string]: Json }, preset: string): InferInput {
  const { prompt = '', protocol = '' } = input;
  if (typeof prompt !== 'string') {
    throw new NoaError('INVALID_ARGUMENT', 'prompt: must be a text');
  }
  if (typeof protocol !== 'string' || !PROTOCOLS.includes(protocol)) {
    throw new NoaError('INVALID_ARGUMENT', 'protocol: must be text or chat, or empty');
  }
  const { model, rest } = readMetadata(input, preset);
  const hasOther = rest.inputs !== undefined || rest.messages !== undefined;
  if (prompt === '' && hasOther) return { model, ...rest };
  const asked =
    protocol === 'chat' ? { messages: [{ role: 'user', content: prompt }] } : { prompt };
  if (hasOther) {
    const text = 'send one of prompt, and inputs or messages in metadata_json';
    throw new NoaError('INVALID_ARGUMENT', text);
  }
  return { model, ...rest, ...asked };
}

export async function invoke(
  input: InvokeInput,
  context: Ctx,
): Promise<{ [name: string]: unknown }> {
  const answer = await run(read(input, context.config.generation_model), context);
  return { ...head(answer), ...written(answer.outputs) };
}

export async function streamed(
  input: Json,
  context: StreamCtx,
): Promise<{ [name: string]: unknown }> {
  const message = input as { [name: string]: Json }; // the transport makes it an object
  const asked = read(message, context.config.generation_model);
  const { model, parameters = {} } = asked;
  const request = { ...streamedPromptOf(asked), parameters };
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
