/**
 * The counters of rate limits in the cache that plugins use too. Invariant: no plugin reaches them: a
 * pattern of keys cannot begin with `*` (capabilities/cache/capability.ts), and theirs do.
 */
import type { Driver } from '@noa/sdk/host';
import { type LevelLimits, Limits, type LimitsOptions, type SharedCounters } from './limits.ts';

const PREFIX = '*rate:';
/** In whose name they are kept: no plugin is called so. */
const ACCOUNT = '*';
/** Longest wait for an answer; then the cache counts as away. */
const ANSWER_MS = 1000;

/** A driver of `cache`. */
export function cacheCounters(cache: Driver): SharedCounters {
  return {
    async add(key, by, keptMs) {
      const output = await cache.invoke(
        'increment',
        { key: PREFIX + key, by, ttlMs: keptMs },
        {
          plugin: ACCOUNT,
          resources: [`${PREFIX}*`],
          signal: AbortSignal.timeout(ANSWER_MS),
          deadline: Date.now() + ANSWER_MS,
          chain: undefined,
        },
      );
      return (output as { value: number }).value; // as the capability says
    },
  };
}

/** `cache` is the limits' own, so that the calls of plugins cannot keep it busy; it is closed with them. */
export function openLimits(
  cache: Driver,
  levels: LevelLimits,
  { refused, warn }: Pick<LimitsOptions, 'refused'> & { readonly warn: (message: string) => void },
): { readonly limits: Limits } & AsyncDisposable {
  const limits = new Limits({
    levels,
    shared: cacheCounters(cache),
    now: Date.now,
    refused,
    onShared: (shared, error) => {
      const why = error instanceof Error ? error.message : String(error);
      warn(
        shared
          ? 'rate limits hold for all hosts together again'
          : `rate limits hold for each host alone until the cache answers again: ${why}`,
      );
    },
  });
  return {
    limits,
    [Symbol.asyncDispose]() {
      limits.close();
      return cache.close();
    },
  };
}
