/** The operation table of `cache`: JSON values by key, counters and locks, shared by all hosts. */
import { type Json, type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';

/** Longest key in characters. */
export const MAX_KEY_LENGTH = 512;
/** Largest value as JSON text, in bytes. */
export const MAX_VALUE_BYTES = 1 << 20;
const MAX_TTL_MS = 365 * 24 * 3_600_000;
/** A holder that dies keeps others waiting at most this long. */
const MAX_LOCK_MS = 3_600_000;

const key: JsonSchema = { type: 'string', minLength: 1, maxLength: MAX_KEY_LENGTH };
const ttlMs: JsonSchema = {
  type: 'integer',
  minimum: 1,
  maximum: MAX_TTL_MS,
  description: 'Milliseconds until the key goes away; it stays when absent.',
};

interface Keyed {
  readonly key: string;
}

const resources = (input: Keyed) => [input.key];

export const cache = defineCapability({
  name: 'cache',
  summary: 'Keys with JSON values, counters and locks; an old key may go away to make room',
  resource: 'key prefix, such as notes:*',
  operations: {
    get: {
      summary: 'The value of a key, or null',
      input: object({ key }),
      output: object({ value: {} }),
      idempotent: true,
      resources,
      usage: (_input: never, output: { value: Json }) => ({ bytes: sizeOf(output.value) }),
    },
    set: {
      summary: 'Sets the value of a key',
      input: object({ key, value: {} }, { ttlMs }),
      output: object({}),
      idempotent: true,
      resources,
      usage: (input: { value: Json }) => ({ bytes: sizeOf(input.value) }),
    },
    delete: {
      summary: 'Deletes a key; says whether there was one',
      input: object({ key }),
      output: object({ deleted: { type: 'boolean' } }),
      idempotent: false,
      resources,
    },
    increment: {
      summary: 'Adds to a whole number, from 0 when there is none; ttlMs counts from its creation',
      input: object(
        { key },
        {
          by: {
            type: 'integer',
            minimum: -Number.MAX_SAFE_INTEGER,
            maximum: Number.MAX_SAFE_INTEGER,
          },
          ttlMs,
        },
      ),
      output: object({ value: { type: 'integer' } }),
      idempotent: false,
      resources,
    },
    lock: {
      summary: 'Takes a lock for ttlMs, or releases one with its token',
      input: {
        oneOf: [
          object({ key, ttlMs: { type: 'integer', minimum: 1, maximum: MAX_LOCK_MS } }),
          object({ key, release: { type: 'string', minLength: 1, maxLength: 128 } }),
        ],
      },
      output: {
        oneOf: [
          object({ acquired: { type: 'boolean' } }, { token: { type: 'string' } }),
          object({ released: { type: 'boolean' } }),
        ],
      },
      idempotent: false,
      resources,
    },
  },
  /**
   * A pattern is always a prefix: `notes:` and `notes:*` are the same. None begins with `*`: keys that do
   * are the host's own.
   */
  normalizeResource(pattern) {
    const prefix = pattern.endsWith('*') ? pattern.slice(0, -1) : pattern;
    if (prefix.length <= MAX_KEY_LENGTH && /^[^*\p{Cc}]+$/u.test(prefix)) return `${prefix}*`;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `cache: the resource ${JSON.stringify(pattern.slice(0, 200))} must be a key prefix of 1 to ` +
        `${MAX_KEY_LENGTH} characters, such as notes:*`,
    );
  },
});

function object(
  required: { readonly [name: string]: JsonSchema },
  optional: { readonly [name: string]: JsonSchema } = {},
): JsonSchema {
  return {
    type: 'object',
    properties: { ...required, ...optional },
    required: Object.keys(required),
    additionalProperties: false,
  };
}

function sizeOf(value: Json): number {
  return Buffer.byteLength(JSON.stringify(value));
}
