/** The operation table of `log`: lines of a plugin in the host's own log. */
import { NoaError, defineCapability } from '@noa/sdk/host';

export const LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type Level = (typeof LEVELS)[number];

export const log = defineCapability({
  name: 'log',
  summary: 'Writes lines to the host’s log under the plugin’s name',
  resource: '* (there is one log)',
  always: { ratePerSecond: 200 },
  operations: {
    write: {
      summary: 'Writes one line; what is too long is cut',
      input: {
        type: 'object',
        properties: {
          level: { enum: LEVELS },
          message: { type: 'string' },
          fields: { type: 'object', description: 'Structured particulars.' },
        },
        required: ['level', 'message'],
        additionalProperties: false,
      },
      output: { type: 'object', additionalProperties: false },
      idempotent: false,
    },
  },
  normalizeResource(pattern) {
    if (pattern === '*') return pattern;
    throw new NoaError('INVALID_ARGUMENT', 'log: the only resource is *; log needs no grant');
  },
});
