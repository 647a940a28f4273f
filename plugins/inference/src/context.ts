/** What the handlers of this plugin are given, and what they tell of tokens. */
import { type Context, type Emit, type ModelInfo, NoaError, type TokenUsage } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

export type Ctx = Context<Plugin>;
export type StreamCtx = Ctx & { readonly emit: Emit };

/** Tokens by OpenAI's names. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens?: number;
  total_tokens: number;
}

export function usageOf({ promptTokens, completionTokens }: TokenUsage): Required<Usage> {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** Of work that writes nothing. */
export function promptUsage(tokens: number): Usage {
  return { prompt_tokens: tokens, total_tokens: tokens };
}

/** The model, as it is now. Throws NOT_FOUND, which names those that there are. */
export async function findModel(
  { inference }: Ctx,
  id: string,
  version?: string,
): Promise<ModelInfo> {
  const models = await inference.models();
  const found = models.find(
    (each) => each.id === id && (version === undefined || each.version === version),
  );
  if (found !== undefined) return found;
  const known = models.map((each) => each.id).join(', ');
  const of = version === undefined ? '' : ` of version ${version}`;
  const there = known === '' ? 'there is none' : `there is ${known.slice(0, 500)}`;
  throw new NoaError('NOT_FOUND', `model: there is no ${JSON.stringify(id)}${of}; ${there}`);
}
