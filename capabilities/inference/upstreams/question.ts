/** What is asked of an upstream for a generation. Invariant: a caller's parameters never stand in for what the host says. */
import { type Json, NoaError } from '@noa/sdk/host';
import type { GenerateRequest } from '../backend.ts';
import type { GroupSettings } from './settings.ts';

/** What the host itself says of a request; a caller's parameters say the rest. */
export function questionOf(
  { prompt, messages, parameters }: GenerateRequest,
  { stream, stream_usage: usage }: GroupSettings,
): [operation: string, path: string, body: { readonly [name: string]: Json }] {
  for (const name of ['model', 'prompt', 'messages', 'stream', 'stream_options']) {
    if (Object.hasOwn(parameters, name)) {
      const rule = `parameters.${name} is not a parameter: leave it out`;
      throw new NoaError('INVALID_ARGUMENT', `inference: ${rule}`);
    }
  }
  for (const name of ['n', 'best_of']) {
    if ((parameters[name] ?? 1) !== 1) {
      const rule = `parameters.${name} must be 1: one call has one answer`;
      throw new NoaError('INVALID_ARGUMENT', `inference: ${rule}`);
    }
  }
  for (const name of ['logprobs', 'top_logprobs']) {
    if ((parameters[name] ?? false) !== false) {
      const rule = `parameters.${name}: an answer has no log probabilities; leave it out`;
      throw new NoaError('INVALID_ARGUMENT', `inference: ${rule}`);
    }
  }
  const streamed = { stream: true, ...(usage && { stream_options: { include_usage: true } }) };
  const rest = { ...parameters, ...(stream ? streamed : { stream: false }) };
  return messages === undefined
    ? ['text_completion', '/completions', { ...rest, prompt: prompt ?? '' }]
    : ['chat', '/chat/completions', { ...rest, messages: [...messages] }];
}

/** In characters. */
export function lengthOf({ prompt, messages }: GenerateRequest): number {
  return prompt?.length ?? JSON.stringify(messages ?? []).length;
}
