/** A generation as its parts come, followed to its end. */
import type { GeneratedItem, Json } from '@noa/sdk';
import { type Ctx, type Usage, usageOf } from './context.ts';

export type Prompt = { readonly prompt: string } | { readonly messages: readonly object[] };
export type Parameters = { readonly [name: string]: Json };
type Delta = NonNullable<GeneratedItem['delta']>;

export interface Ending {
  finishReason: NonNullable<GeneratedItem['finishReason']>;
  usage: Required<Usage>;
}

/** Hands each part on, and resolves when the model has ended. */
export async function follow(
  { inference }: Ctx,
  model: string,
  request: Prompt & { readonly parameters?: Parameters },
  part: (delta: Delta) => Promise<void>,
): Promise<Ending> {
  const ending: Ending = {
    finishReason: 'stop',
    usage: usageOf({ promptTokens: 0, completionTokens: 0 }),
  };
  for await (const { delta, finishReason, usage } of inference.stream(model, request)) {
    if (delta !== undefined) await part(delta);
    if (finishReason !== undefined) ending.finishReason = finishReason;
    if (usage !== undefined) ending.usage = usageOf(usage);
  }
  return ending;
}

export function contentOf(delta: Delta): string {
  const { content } = delta;
  return typeof content === 'string' ? content : '';
}
