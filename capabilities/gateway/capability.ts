/**
 * The operation table of `gateway`: what a plugin is told of the requests of others, and what it may
 * answer. Here the host calls and the plugin answers: the manifest names the exports (`contributes.hooks`),
 * and the grant says for which operations.
 */
import { type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';

const PATTERN = /^(([A-Z]{1,16} )?[!-)+-~]{1,200}\*?|\*)$/;

const text: JsonSchema = { type: 'string' };
const texts: JsonSchema = { type: 'object', additionalProperties: text };
const request = {
  operation: text,
  method: text,
  requestId: text,
  subject: text,
  roles: { type: 'array', items: text },
};

const object = (properties: { [name: string]: JsonSchema }): JsonSchema => ({
  type: 'object',
  properties,
  additionalProperties: false,
});

export const gateway = defineCapability({
  name: 'gateway',
  summary:
    'To take part in the requests of others. The host calls the exports that `contributes.hooks` names, with these arguments',
  resource: 'an operation such as GET /plugins/notes/notes/:id, or a prefix such as POST /orders/*',
  operations: {
    beforeRequest: {
      summary:
        'Is told of a request without its body and credential, and may refuse it or add headers',
      input: {
        ...object({ ...request, path: text, query: texts, headers: texts }),
        required: ['operation'],
      },
      output: object({
        deny: object({ code: text, message: text }),
        setHeaders: object({ request: texts, response: texts }),
      }),
      idempotent: false,
      resources: (input: { readonly operation: string }) => [input.operation],
    },
    afterResponse: {
      summary: 'Is told of an answer, after it; what it says is dropped',
      input: {
        ...object({ ...request, status: { type: 'integer' }, durationMs: { type: 'number' } }),
        required: ['operation'],
      },
      output: object({}),
      idempotent: false,
      resources: (input: { readonly operation: string }) => [input.operation],
    },
  },
  normalizeResource(pattern) {
    if (PATTERN.test(pattern)) return pattern;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `gateway: the resource ${JSON.stringify(pattern.slice(0, 200))} must be an operation, METHOD and ` +
        'path as metrics name it, or such a prefix and *; such as POST /orders/*',
    );
  },
});
