/**
 * One spelling for what a request goes to. Invariant: the URL that is checked is the URL that is sent,
 * byte for byte, and no common server reads its path as one outside of the prefix that was granted.
 */
import { NoaError } from '@noa/sdk/host';

/** Methods that a grant can name; each is a resource of its own. */
export const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;
export type Method = (typeof METHODS)[number];
/** Longest URL in its canonical form, in characters. */
export const MAX_URL_LENGTH = 8_192;

const MAX_ENCODINGS = 4;

/**
 * Parses by the WHATWG URL standard, which settles case, IDN, dot segments, backslashes and the many ways
 * to write an IPv4 address. The fragment is dropped, for it is never sent. Throws NoaError
 * INVALID_ARGUMENT for what is no http(s) URL, carries credentials, or hides dot segments in its path.
 */
export function canonicalUrl(given: string, base?: URL): URL {
  const url = URL.parse(given, base?.href);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw wrong('url', 'must be an absolute URL of http or https');
  }
  if (url.username !== '' || url.password !== '') {
    throw wrong('url', 'must carry no user name or password: send them in a header');
  }
  if (url.hostname.endsWith('.') || url.hostname.includes('*')) {
    throw wrong('url', `must name a host without "*" and without a dot at its end`);
  }
  url.hash = '';
  // An empty query leaves a "?" that is in the text and not in `search`.
  if (url.search === '') url.search = '';
  if (url.href.length > MAX_URL_LENGTH) {
    throw wrong('url', `is over ${MAX_URL_LENGTH} characters`);
  }
  if (hidesDotSegment(url.pathname)) {
    throw wrong('url', 'must not hide a "." or ".." segment in its path');
  }
  return url;
}

/** `GET https://api.example.com:443/v1/x`: the port always, the query never. */
export function resourceOf(method: string, url: URL): string {
  return `${method} ${url.protocol}//${url.hostname}:${portOf(url)}${url.pathname}`;
}

export function portOf(url: URL): number {
  if (url.port !== '') return Number(url.port);
  return url.protocol === 'https:' ? 443 : 80;
}

/** The canonical form of a pattern in a manifest or a grant; NoaError INVALID_ARGUMENT says its rule. */
export function canonicalPattern(pattern: string): string {
  const prefix = pattern.endsWith('*');
  const [method = '', text = '', ...rest] = (prefix ? pattern.slice(0, -1) : pattern).split(' ');
  const form = prefix
    ? /^https?:\/\/[^/?#\\@*]+\/[^?#\\*]*$/i
    : /^https?:\/\/[^/?#\\@*]+[^?#\\*]*$/i;
  if (!isMethod(method) || rest.length > 0 || !form.test(text)) throw wrongPattern(pattern);
  try {
    // A letter stands for what `*` matches, so that a prefix that ends in a dot segment stays as it is.
    const resource = resourceOf(method, canonicalUrl(prefix ? `${text}x` : text));
    return prefix ? `${resource.slice(0, -1)}*` : resource;
  } catch (cause) {
    throw wrongPattern(pattern, cause);
  }
}

/**
 * Servers and proxies decode `%2f`, `%5c` and `%2e`, some of them twice, or cut what follows a `;`, and
 * resolve dot segments after that: `/v1/..%2fadmin` is `/admin` to them.
 */
function hidesDotSegment(path: string): boolean {
  let text = path;
  for (let round = 0; round <= MAX_ENCODINGS; round += 1) {
    if (text.split(/[/\\]/).some((segment) => /^\.{1,2}(;|$)/.test(segment))) return true;
    const decoded = text.replace(/%([0-9a-f]{2})/gi, (_match, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    if (decoded === text) return false;
    text = decoded;
  }
  return true;
}

function isMethod(text: string): text is Method {
  return METHODS.some((method) => method === text);
}

function wrong(field: string, rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `http: ${field} ${rule}`);
}

function wrongPattern(pattern: string, cause?: unknown): NoaError {
  const why = cause instanceof NoaError ? ` (${cause.message})` : '';
  return new NoaError(
    'INVALID_ARGUMENT',
    `http: the resource ${JSON.stringify(pattern.slice(0, 200))} must be METHOD URL, the whole host, ` +
      `no query, "*" at the end of the path alone, such as GET https://api.example.com:443/v1/*; ` +
      `methods are ${METHODS.join(', ')}${why}`,
  );
}
