/**
 * Answers that were asked for again. Invariant: what is found was computed for the same request by the same
 * version of the same model; who asks for no cache neither reads nor fills it.
 */
import { type Ctx, findModel } from './context.ts';

export interface CacheWish {
  readonly ttl_seconds: number;
}

/** What `compute` answers, or answered when it was last asked for the same. */
export async function cached<Answer>(
  context: Ctx,
  wish: CacheWish | undefined,
  request: { readonly model: string; readonly [name: string]: unknown },
  compute: () => Promise<Answer>,
): Promise<Answer> {
  if (wish === undefined) return compute();
  const { cache, log } = context;
  const { version } = await findModel(context, request.model);
  const text = JSON.stringify([version, Object.entries(request).toSorted(byName)]);
  const key = `inference:${await digest(text)}`;
  const known = await cache.get<Answer>(key);
  if (known !== null) return known;
  const answer = await compute();
  try {
    await cache.set(key, answer, { ttlMs: wish.ttl_seconds * 1000 });
  } catch (error) {
    // The answer is there; that it cannot be kept concerns whoever runs the host.
    log.warn('an answer could not be kept in the cache', { error: String(error) });
  }
  return answer;
}

function byName([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : 1;
}

async function digest(text: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return Buffer.from(hash).toString('base64url');
}
