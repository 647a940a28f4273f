/** The operation table of `stream`: what an export says before it answers. */
import { NoaError, defineCapability } from '@noa/sdk/host';

export const stream = defineCapability({
  name: 'stream',
  summary: 'Values that an export with `stream: true` hands its caller before it answers',
  resource: '* (a call has one caller)',
  always: { ratePerSecond: 100_000 },
  operations: {
    emit: {
      summary:
        'Hands one value to the caller; answers when it has room for the next, and fails with CANCELLED when it left',
      input: {
        type: 'object',
        properties: { value: {} },
        required: ['value'],
        additionalProperties: false,
      },
      output: { type: 'object', additionalProperties: false },
      idempotent: false,
    },
  },
  normalizeResource(pattern) {
    if (pattern === '*') return pattern;
    throw new NoaError('INVALID_ARGUMENT', 'stream: the only resource is *; stream needs no grant');
  },
});
