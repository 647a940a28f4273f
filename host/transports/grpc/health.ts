/**
 * grpc.health.v1: the host as a whole by its empty name, and each service by its own. Open to anyone, as
 * GET /health is, and so bounded in number.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import type { Answer, Streaming } from './handler.ts';

const LOOK_MS = 1000;
const MAX_WATCHES = 256;

/** Whether a service answers; undefined when there is none of this name. */
export type IsServing = (service: string) => boolean | undefined;

export function check(isServing: IsServing): Answer {
  return (_exchange, request) => {
    const { service } = request as { service: string };
    const serving = isServing(service);
    if (serving === undefined) {
      const shown = JSON.stringify(service.slice(0, 200));
      return Promise.reject(new NoaError('NOT_FOUND', `service: there is no ${shown}`));
    }
    return Promise.resolve({ status: nameOf(serving) });
  };
}

export function watch(isServing: IsServing): Streaming {
  let watches = 0;
  return {
    isEndless: true,
    run: async ({ signal }, request, send) => {
      if (watches === MAX_WATCHES) {
        const rule = `${MAX_WATCHES} watch already: ask with Check`;
        throw new NoaError('RESOURCE_EXHAUSTED', rule, { retryAfterMs: LOOK_MS });
      }
      watches += 1;
      try {
        const { service } = request as { service: string };
        let told = '';
        for (;;) {
          const status = nameOf(isServing(service));
          if (status !== told) await send({ status });
          told = status;
          await pause(signal);
        }
      } finally {
        watches -= 1;
      }
    },
  };
}

function nameOf(serving: boolean | undefined): string {
  if (serving === undefined) return 'SERVICE_UNKNOWN';
  return serving ? 'SERVING' : 'NOT_SERVING';
}

/** Throws the signal's reason. */
async function pause(signal: AbortSignal): Promise<void> {
  try {
    await sleep(LOOK_MS, undefined, { signal, ref: false });
  } catch {
    signal.throwIfAborted();
  }
}
