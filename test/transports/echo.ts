/** A plugin for tests of the front: it answers its input, fails in every way, or waits for its caller to leave. */
import { NoaError } from '@noa/sdk/host';
import { type Exports, manifest, RawText } from './front.ts';

const NOTE = {
  type: 'object',
  additionalProperties: false,
  properties: {
    id: { type: 'string' },
    text: { type: 'string', minLength: 1 },
    limit: { type: 'integer' },
    tags: { type: 'array', items: { type: 'string' } },
    done: { type: 'boolean' },
  },
};

export const echo = manifest({
  name: 'echo',
  limits: { maxInputBytes: 128 << 10, timeoutMs: 5000 },
  exports: {
    echo: { input: NOTE },
    any: {},
    bad: { output: { type: 'string' } },
    fail: {},
    deep: {},
    heap: {},
    trap: {},
    wait: {},
    garbage: {},
  },
  contributes: {
    routes: [
      { method: 'GET', path: '/', export: 'any' },
      { method: 'POST', path: '/notes', export: 'echo', status: 201 },
      { method: 'GET', path: '/notes', export: 'echo' },
      { method: 'GET', path: '/notes/latest', export: 'any', status: 202 },
      { method: 'GET', path: '/notes/:id', export: 'echo' },
      { method: 'PUT', path: '/notes/:id', export: 'echo' },
      { method: 'DELETE', path: '/notes/:key', export: 'any', status: 204 },
      { method: 'GET', path: '/notes/:id/parts/:part', export: 'any' },
      { method: 'POST', path: '/any', export: 'any' },
      { method: 'PATCH', path: '/any', export: 'any' },
      { method: 'GET', path: '/bad', export: 'bad' },
      { method: 'GET', path: '/fail', export: 'fail' },
      { method: 'GET', path: '/deep', export: 'deep' },
      { method: 'GET', path: '/heap', export: 'heap' },
      { method: 'GET', path: '/trap', export: 'trap' },
      { method: 'GET', path: '/garbage', export: 'garbage' },
      { method: 'POST', path: '/wait', export: 'wait' },
    ],
  },
});

/** The signals of the calls of `wait`. */
export const waiting: AbortSignal[] = [];

export const functions: Exports = {
  echo: (input) => input,
  any: (input) => input,
  bad: () => ({ not: 'a string' }),
  fail: () => {
    throw new NoaError('RATE_LIMITED', 'slow down', { retryAfterMs: 1500, details: { left: 0 } });
  },
  deep: () => {
    const details: unknown = JSON.parse('['.repeat(50_000) + ']'.repeat(50_000));
    throw new NoaError('CONFLICT', 'too deep to be written', { details });
  },
  heap: () => new RawText(`[${'[],'.repeat(100_000)}[]]`),
  trap: () => {
    throw new TypeError('/etc/host/secret is gone');
  },
  garbage: () => new RawText('{"half":'),
  wait: (_input, { signal }) =>
    new Promise((_resolve, reject) => {
      waiting.push(signal);
      signal.addEventListener('abort', () => reject(new NoaError('CANCELLED', 'left')));
    }),
};
