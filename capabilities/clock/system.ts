/** The driver of `clock`: the host's own clock, or another one in tests. */
import type { Driver } from '@noa/sdk/host';

export function createClockDriver(now: () => number = Date.now): Driver {
  return {
    async invoke() {
      return { epochMs: Math.trunc(now()) };
    },
    async check() {},
    async close() {},
  };
}
