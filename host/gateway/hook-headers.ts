/**
 * Headers to and from hooks. Invariants: what a plugin is shown of a caller's holds no credential of any
 * kind that is known; what it adds can neither break the framing of a message nor say who calls.
 */
import { type Json, NoaError } from '@noa/sdk/host';
import { FRAMING } from './upstream/settings.ts';

export type HeaderTexts = { readonly [name: string]: string };

const SHOWN = new Set([
  'accept',
  'accept-language',
  'content-encoding',
  'content-length',
  'content-type',
  'host',
  'idempotency-key',
  'if-match',
  'if-modified-since',
  'if-none-match',
  'origin',
  'range',
  'traceparent',
  'user-agent',
]);
/** Of the application's own ones. */
const SECRET = /auth|cookie|credential|jwt|key|password|secret|session|signature|token/;
const MAX_HEADERS = 32;
const MAX_VALUE = 4096;

/** The caller's headers as a plugin may see them: the usual ones, and those of applications (`x-…`). */
export function shownHeaders(given: {
  readonly [name: string]: string | string[] | undefined;
}): HeaderTexts {
  const headers: { [name: string]: string } = {};
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const isOwn = name.startsWith('x-') && !FRAMING.test(name) && !SECRET.test(name);
    if (SHOWN.has(name) || isOwn) headers[name] = String(value);
  }
  return headers;
}

/** Headers that a plugin adds. Throws PLUGIN_OUTPUT_INVALID. */
export function headerChange(given: Json): HeaderTexts {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw wrong('headers are an object of texts');
  }
  const headers: { [name: string]: string } = {};
  for (const [written, value] of Object.entries(given)) {
    const name = written.toLowerCase();
    if (!/^[a-z0-9][a-z0-9-]{0,63}$/.test(name) || FRAMING.test(name)) {
      throw wrong(`${JSON.stringify(written.slice(0, 64))} is no header that a hook may set`);
    }
    if (typeof value !== 'string' || value.length > MAX_VALUE || !/^[\x20-\x7e]*$/.test(value)) {
      throw wrong(`${name} is one line of at most ${MAX_VALUE} ASCII characters`);
    }
    headers[name] = value;
  }
  if (Object.keys(headers).length > MAX_HEADERS) throw wrong(`at most ${MAX_HEADERS} headers`);
  return headers;
}

function wrong(rule: string): NoaError {
  return new NoaError('PLUGIN_OUTPUT_INVALID', `the answer of a hook: ${rule}`);
}
