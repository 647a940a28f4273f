/** The operation table of `secrets`: values that an administrator sets and a plugin reads by name. */
import { NoaError, defineCapability } from '@noa/sdk/host';

const NAME = /^[a-z][a-z0-9._-]{0,63}$/;

export const secrets = defineCapability({
  name: 'secrets',
  summary: 'Values that an administrator set, such as keys of other services',
  resource: 'the exact name of a secret, such as mail.password; no prefixes',
  operations: {
    read: {
      summary: 'The value of a secret',
      input: {
        type: 'object',
        properties: { name: { type: 'string', minLength: 1, maxLength: 64 } },
        required: ['name'],
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: { value: { type: 'string' } },
        required: ['value'],
        additionalProperties: false,
      },
      idempotent: true,
      resources: (input: { readonly name: string }) => [input.name],
      usage: (_input: never, output: { readonly value: string }) => ({
        bytes: Buffer.byteLength(output.value),
      }),
    },
  },
  /** A prefix would hand over secrets that did not exist when it was approved. */
  normalizeResource(pattern) {
    if (NAME.test(pattern)) return pattern;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `secrets: the resource ${JSON.stringify(pattern.slice(0, 200))} must be the exact name of a secret: ` +
        'a small letter, then at most 63 small letters, digits and . _ -; such as mail.password',
    );
  },
});
