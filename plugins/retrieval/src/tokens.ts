/** How many tokens texts have, by their model or, where that does not tell, by estimate. */
import { NoaError } from '@noa/sdk';
import type { Ctx } from './context.ts';

/** Texts of one call of the tokenizer. */
const AT_ONCE = 64;

export async function countTokens(
  { inference }: Ctx,
  model: string,
  texts: string[],
): Promise<number[]> {
  const counts: number[] = [];
  try {
    for (let at = 0; at < texts.length; at += AT_ONCE) {
      const tokens = await inference.tokenize(model, texts.slice(at, at + AT_ONCE));
      counts.push(...tokens.map(({ length }) => length));
    }
    return counts;
  } catch (error) {
    // A model of another server.
    const details =
      error instanceof NoaError ? (error.details as { lacks?: string } | undefined) : {};
    if (details?.lacks === 'tokenize') return texts.map(estimate);
    throw error;
  }
}

/** More rather than fewer than a byte-pair encoding makes of prose: four letters are a token, of other scripts two or one. */
export function estimate(text: string): number {
  return text.match(TOKENS)?.length ?? 0;
}

const TOKENS = /\p{Script=Latin}{1,4}|\p{N}{1,3}|[\p{Script=Cyrillic}\p{Script=Greek}]{1,2}|\S/gu;
