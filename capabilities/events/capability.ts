/**
 * The operation table of `events`: a log of CloudEvents that all plugins and hosts share, by subject.
 * Delivery to an export is a matter of the manifest (`contributes.subscriptions`) and needs the same right
 * as reading.
 */
import { type Json, type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';

/** Largest `data` as JSON text, in bytes. */
export const MAX_DATA_BYTES = 256 << 10;
const SUBJECT = '[A-Za-z0-9][A-Za-z0-9._/-]{0,199}';

const text = (pattern: string, description: string): JsonSchema => ({
  type: 'string',
  maxLength: 201,
  pattern: `^${pattern}$`,
  description,
});
const id = text('[0-9]{1,15}', 'The id of an event.');

const event: JsonSchema = {
  type: 'object',
  properties: {
    specversion: { const: '1.0' },
    id,
    source: { type: 'string' },
    type: { type: 'string' },
    subject: { type: 'string' },
    time: { type: 'string' },
    datacontenttype: { const: 'application/json' },
    data: {},
  },
};

export const events = defineCapability({
  name: 'events',
  summary: 'A log of CloudEvents that plugins publish and others receive; kept for a time',
  resource: 'a subject such as orders.created, or a prefix such as orders.*',
  operations: {
    publish: {
      summary: 'Appends an event; it is durable when answered, and its id is above all seen before',
      input: {
        type: 'object',
        properties: {
          subject: text(SUBJECT, 'What it is about, such as orders.created.'),
          type: text(SUBJECT, 'What happened; the subject when absent.'),
          data: {},
        },
        required: ['subject'],
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: { id, time: { type: 'string' } },
        required: ['id', 'time'],
        additionalProperties: false,
      },
      idempotent: false,
      resources: (input: { readonly subject: string }) => [input.subject],
      usage: (input: { readonly data?: Json }) => ({ rows: 1, bytes: sizeOf(input.data ?? null) }),
    },
    subscribe: {
      summary: 'Reads the events of a subject or prefix after an id, oldest first',
      input: {
        type: 'object',
        properties: {
          subject: text(`(${SUBJECT})?\\*?`, 'A subject, or a prefix that ends in *.'),
          after: {
            ...id,
            description: 'Only later ones; from the oldest that is kept when absent.',
          },
          limit: { type: 'integer', minimum: 1, maximum: 100, description: '100 when absent.' },
        },
        required: ['subject'],
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: { events: { type: 'array', items: event }, next: id },
        required: ['events', 'next'],
        additionalProperties: false,
      },
      idempotent: true,
      resources: (input: { readonly subject: string }) => [input.subject],
      usage: (_input: never, output: { readonly events: readonly { data: Json }[] }) => ({
        rows: output.events.length,
        bytes: output.events.reduce((sum, { data }) => sum + sizeOf(data), 0),
      }),
    },
  },
  normalizeResource(pattern) {
    if (pattern === '*' || new RegExp(`^${SUBJECT}\\*?$`).test(pattern)) return pattern;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `events: the resource ${JSON.stringify(pattern.slice(0, 200))} must be a subject of letters, digits ` +
        'and . _ / - (at most 200 characters), or such a prefix and *; such as orders.created or orders.*',
    );
  },
});

function sizeOf(value: Json): number {
  return Buffer.byteLength(JSON.stringify(value));
}
