/**
 * The operation table of `http`: requests to hosts that a grant names. A resource is one method on one
 * origin, so a plugin that reads and writes asks for two. The query is no part of it.
 */
import { type JsonSchema, defineCapability } from '@noa/sdk/host';
import { MAX_HEADERS } from './headers.ts';
import { MAX_URL_LENGTH, METHODS, canonicalPattern, canonicalUrl, resourceOf } from './target.ts';

/** Longest body of a request in bytes: as base64 it fits into one request from the sandbox (1 MiB). */
export const MAX_REQUEST_BYTES = 720_000;
/** Longest body of an answer in bytes, unpacked: as base64 it fits into one reply to the sandbox (4 MiB). */
export const MAX_RESPONSE_BYTES = 3_000_000;
export const DEFAULT_TIMEOUT_MS = 30_000;
const MAX_TIMEOUT_MS = 300_000;

interface Target {
  readonly method: string;
  readonly url: string;
}

interface Body {
  readonly body?: string;
  readonly bodyBase64?: string;
}

const headers: JsonSchema = {
  type: 'object',
  additionalProperties: { type: 'string' },
};

export const http = defineCapability({
  name: 'http',
  summary:
    'Requests to other servers; addresses are checked when a connection is made, and redirects like requests',
  resource:
    'METHOD scheme://host:port/path, such as GET https://api.example.com:443/v1/*; one method and one whole host each',
  operations: {
    request: {
      summary: `Sends a request with a body of at most ${MAX_REQUEST_BYTES} bytes and answers what came back, at most ${MAX_RESPONSE_BYTES} bytes; the body is bodyBase64 when it is no UTF-8`,
      input: {
        type: 'object',
        properties: {
          method: { enum: METHODS },
          url: { type: 'string', minLength: 1, maxLength: MAX_URL_LENGTH },
          headers: { ...headers, maxProperties: MAX_HEADERS },
          body: { type: 'string', maxLength: MAX_REQUEST_BYTES, description: 'Sent as UTF-8.' },
          bodyBase64: {
            type: 'string',
            contentEncoding: 'base64',
            maxLength: Math.ceil(MAX_REQUEST_BYTES / 3) * 4,
          },
          timeoutMs: {
            type: 'integer',
            minimum: 1,
            maximum: MAX_TIMEOUT_MS,
            description: `Milliseconds for all of it, within the call’s own deadline; ${DEFAULT_TIMEOUT_MS} when absent.`,
          },
          redirect: {
            enum: ['follow', 'manual', 'error'],
            description: 'follow when absent, at most five times; every step needs its own grant.',
          },
        },
        required: ['method', 'url'],
        not: { required: ['body', 'bodyBase64'] },
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: {
          status: { type: 'integer' },
          headers,
          setCookie: { type: 'array', items: { type: 'string' } },
          body: { type: 'string' },
          bodyBase64: { type: 'string', contentEncoding: 'base64' },
          url: { type: 'string', description: 'Where the answer came from, after redirects.' },
        },
        required: ['status', 'headers', 'url'],
        additionalProperties: false,
      },
      idempotent: false,
      resources: ({ method, url }: Target) => [resourceOf(method, canonicalUrl(url))],
      usage: (input: Body, output: Body) => ({ bytes: sizeOf(input) + sizeOf(output) }),
    },
  },
  normalizeResource: canonicalPattern,
});

function sizeOf({ body = '', bodyBase64 = '' }: Body): number {
  return Buffer.byteLength(body) + Buffer.byteLength(bodyBase64, 'base64');
}
