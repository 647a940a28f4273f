/** The operation table of `stream`: what an export says before it answers, and what it is told bit by bit. */
import { type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';

const id: JsonSchema = { type: 'string', minLength: 1, maxLength: 64 };

export const stream = defineCapability({
  name: 'stream',
  summary:
    'Values that an export with `stream: true` hands its caller before it answers, and items of what a capability answers as a stream',
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
    next: {
      summary:
        'The next items of a stream that a capability answered, at least one unless it is the end; waits for them',
      input: {
        type: 'object',
        properties: { stream: id },
        required: ['stream'],
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: { items: { type: 'array' }, done: { type: 'boolean' } },
        required: ['items', 'done'],
        additionalProperties: false,
      },
      idempotent: false,
    },
    close: {
      summary: 'Ends a stream before its end; says whether it was open',
      input: {
        type: 'object',
        properties: { stream: id },
        required: ['stream'],
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: { closed: { type: 'boolean' } },
        required: ['closed'],
        additionalProperties: false,
      },
      idempotent: true,
    },
  },
  normalizeResource(pattern) {
    if (pattern === '*') return pattern;
    throw new NoaError('INVALID_ARGUMENT', 'stream: the only resource is *; stream needs no grant');
  },
});
