/** Vectors for any number of texts: as many calls of the capability as its bound on texts asks for. */
import { NoaError } from '@noa/sdk';
import type { Ctx } from './context.ts';

/** Texts of one call of the capability. */
const BATCH = 256;
/** Numbers in one answer: the host reads 200,000 values of JSON at most. */
export const MAX_NUMBERS = 190_000;

export interface Embedded {
  vectors: Float32Array[];
  tokens: number;
}

export async function embedAll(
  { inference }: Ctx,
  model: string,
  texts: readonly string[],
  options: { readonly dimensions?: number; readonly truncate?: boolean },
): Promise<Embedded> {
  const batches: string[][] = [];
  for (let at = 0; at < texts.length; at += BATCH) batches.push(texts.slice(at, at + BATCH));
  const parts = await Promise.all(batches.map((batch) => inference.embed(model, batch, options)));
  return {
    vectors: parts.flatMap(({ vectors }) => vectors),
    tokens: parts.reduce((sum, { tokens }) => sum + tokens, 0),
  };
}

/** As JSON numbers. Throws INVALID_ARGUMENT when these are more than an answer holds. */
export function numbersOf(vectors: readonly Float32Array[], fix: string): number[][] {
  const total = vectors.reduce((sum, { length }) => sum + length, 0);
  if (total > MAX_NUMBERS) {
    const text = `input: the answer would hold ${total} numbers, over ${MAX_NUMBERS}; ${fix}`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
  return vectors.map((vector) => Array.from(vector));
}

export function base64Of(vector: Float32Array): string {
  return Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64');
}
