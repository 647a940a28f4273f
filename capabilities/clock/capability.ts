/** The operation table of `clock`. */
import { NoaError, defineCapability } from '@noa/sdk/host';

export const clock = defineCapability({
  name: 'clock',
  summary: 'The time of day',
  resource: '* (there is one clock)',
  always: { ratePerSecond: 10_000 },
  operations: {
    now: {
      summary: 'Milliseconds since the epoch, UTC',
      input: { type: 'object', additionalProperties: false },
      output: {
        type: 'object',
        properties: { epochMs: { type: 'integer' } },
        required: ['epochMs'],
      },
      idempotent: true,
    },
  },
  normalizeResource(pattern) {
    if (pattern === '*') return pattern;
    throw new NoaError('INVALID_ARGUMENT', 'clock: the only resource is *; clock needs no grant');
  },
});
