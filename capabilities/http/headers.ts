/**
 * Headers in both directions. Invariant: what a plugin sends can neither break the framing of a request,
 * nor say another host, method or path than the ones that were checked.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { type Json, NoaError } from '@noa/sdk/host';

export type Headers = { readonly [name: string]: string };

export const MAX_HEADERS = 64;
const MAX_HEADER_BYTES = 16 << 10;

/** Set by the driver, hop by hop (RFC 9110, section 7.6.1), or obeyed by servers instead of the request line. */
const REFUSED = new Set([
  'accept-encoding',
  'connection',
  'content-length',
  'expect',
  'host',
  'http2-settings',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'x-http-method',
  'x-http-method-override',
  'x-method-override',
  'x-original-url',
  'x-rewrite-url',
]);
const CREDENTIALS = ['authorization', 'cookie'];
const OF_A_BODY = ['content-encoding', 'content-language', 'content-location', 'content-type'];

/** The plugin's headers in lower case; throws NoaError INVALID_ARGUMENT for what it may not send. */
export function requestHeaders(given: { readonly [name: string]: Json }): Headers {
  const headers = new Map<string, string>();
  let size = 0;
  for (const [written, value] of Object.entries(given)) {
    const name = written.toLowerCase();
    const shown = JSON.stringify(written.slice(0, 64));
    if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name)) throw wrong(shown, 'is not the name of a header');
    if (REFUSED.has(name) || name.startsWith('proxy-')) {
      throw wrong(shown, 'is not for plugins to set: leave it out');
    }
    if (typeof value !== 'string' || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) {
      throw wrong(shown, 'must be one line of Latin-1 text without control characters');
    }
    if (headers.has(name)) throw wrong(shown, 'is there twice: join the values with a comma');
    headers.set(name, value);
    size += name.length + value.length;
  }
  if (headers.size > MAX_HEADERS || size > MAX_HEADER_BYTES) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `http: headers are over ${MAX_HEADERS} or over ${MAX_HEADER_BYTES} bytes`,
    );
  }
  return Object.fromEntries(headers);
}

/** What goes on to another origin: no credentials (Fetch standard, HTTP-redirect fetch). */
export function withoutCredentials(headers: Headers): Headers {
  return without(headers, CREDENTIALS);
}

/** What continues a trace of the host's: the plugin's own, if any, has no part in it. */
export function withTrace(headers: Headers, traceparent: string): Headers {
  return { ...without(headers, ['tracestate']), traceparent };
}

/** What goes on when the body does not. */
export function withoutBodyHeaders(headers: Headers): Headers {
  return without(headers, OF_A_BODY);
}

/**
 * The headers of an answer: values of one name joined by commas, Set-Cookie apart because its values hold
 * commas. `decoded` leaves out what described the body on the wire.
 */
export function answerHeaders(
  headers: IncomingHttpHeaders,
  decoded: boolean,
): { headers: Headers; setCookie?: string[] } {
  const { 'set-cookie': setCookie, ...rest } = headers;
  const texts = Object.entries(rest).map(([name, value = '']): [string, string] => [
    name,
    String(value),
  ]);
  const all = Object.fromEntries(texts);
  return {
    headers: decoded ? without(all, ['content-encoding', 'content-length']) : all,
    ...(setCookie && { setCookie }),
  };
}

function without(headers: Headers, names: readonly string[]): Headers {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !names.includes(name)));
}

function wrong(name: string, rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `http: the header ${name} ${rule}`);
}
