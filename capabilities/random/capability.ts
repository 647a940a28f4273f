/** The operation table of `random`. */
import { NoaError, defineCapability } from '@noa/sdk/host';

/** Most bytes of one call. */
export const MAX_LENGTH = 1_024;

export const random = defineCapability({
  name: 'random',
  summary: 'Random bytes fit for keys and tokens',
  resource: '* (there is one source)',
  always: { ratePerSecond: 10_000 },
  operations: {
    bytes: {
      summary: 'That many random bytes',
      input: {
        type: 'object',
        properties: { length: { type: 'integer', minimum: 0, maximum: MAX_LENGTH } },
        required: ['length'],
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: { base64: { type: 'string', contentEncoding: 'base64' } },
        required: ['base64'],
      },
      idempotent: true,
    },
  },
  normalizeResource(pattern) {
    if (pattern === '*') return pattern;
    throw new NoaError('INVALID_ARGUMENT', 'random: the only resource is *; random needs no grant');
  },
});
