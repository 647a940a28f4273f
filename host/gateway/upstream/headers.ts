/**
 * Headers on their way through, in both directions. Invariants: what concerns one connection ends with it
 * (RFC 9110 section 7.6.1); who calls, from where and for what is said by the gateway alone, whatever the
 * caller wrote; and a caller's credential for this host goes no further unless the route says so.
 */
import type { Principal } from '../../kernel/chain.ts';
import type { RouteSettings } from './settings.ts';

/** In lower case, as they came. */
type Received = { readonly [name: string]: string | string[] | undefined };
export type RequestHeaders = { [name: string]: string | string[] };

/** What the gateway knows of a request. */
export interface RequestFacts {
  readonly requestId: string;
  readonly traceId: string;
  /** This host's own span, as the next one's parent. */
  readonly traceparent: string;
  readonly principal: Principal;
  readonly remoteAddress: string | undefined;
  /** As the caller wrote it: `api.example.com:8080`. */
  readonly host: string;
  readonly protocol: string;
  /** 1.1 or 2.0, of the request. */
  readonly httpVersion: string;
}

const HOP_BY_HOP = new Set([
  'connection',
  'http2-settings',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authentication-info',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);
/** Said anew, or obeyed by some servers instead of the request line or the connection. */
const NOT_FROM_CALLERS = new Set([
  'cf-connecting-ip',
  'expect',
  'fastly-client-ip',
  'forwarded',
  'host',
  'traceparent',
  'true-client-ip',
  'via',
  'x-client-ip',
  'x-cluster-client-ip',
  'x-http-method',
  'x-http-method-override',
  'x-method-override',
  'x-original-url',
  'x-real-ip',
  'x-request-id',
  'x-rewrite-url',
]);
const CREDENTIALS = new Set(['authorization', 'x-api-key']);
/** Names the upstream's own ports and protocols, which are not this host's. */
const NOT_FROM_UPSTREAMS = 'alt-svc';
const OWN_NAME = 'noa';

/** What goes to the upstream; `added` by hooks. */
export function requestHeaders(
  given: Received,
  facts: RequestFacts,
  route: RouteSettings,
  added: { readonly [name: string]: string } = {},
): RequestHeaders {
  const listed = namedBy(given['connection']);
  const isTraced = String(given['traceparent']).includes(facts.traceId);
  const headers: RequestHeaders = {};
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || listed.has(name)) continue;
    // CGI (RFC 3875 section 4.1.18) and all that came of it read `_` and `-` as one.
    const read = name.replaceAll('_', '-');
    if (HOP_BY_HOP.has(read) || (read !== name && read === 'content-length')) continue;
    if (NOT_FROM_CALLERS.has(read) || /^(:|x-forwarded-|x-noa-)/.test(read)) continue;
    if (CREDENTIALS.has(read) && !route.forward_authorization) continue;
    if (name === 'tracestate' && !isTraced) continue;
    headers[name] = value;
  }
  const { remove, set } = route.headers.request;
  for (const name of remove) delete headers[name];
  Object.assign(headers, set, added, said(given, facts));
  if (route.forward_identity) Object.assign(headers, identity(facts.principal));
  return headers;
}

/** What goes to the caller; `isSet` tells which headers the gateway has written already. */
export function responseHeaders(
  given: Received,
  { headers: { response } }: RouteSettings,
  isSet: (name: string) => boolean,
): RequestHeaders {
  const listed = namedBy(given['connection']);
  const headers: RequestHeaders = {};
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || HOP_BY_HOP.has(name) || listed.has(name)) continue;
    if (name === NOT_FROM_UPSTREAMS || isSet(name)) continue;
    headers[name] = value;
  }
  for (const name of response.remove) delete headers[name];
  return Object.assign(headers, response.set);
}

/** RFC 7239, and the names that came before it; RFC 9110 section 7.6.3 for Via. */
function said(given: Received, facts: RequestFacts): RequestHeaders {
  const { host, protocol, remoteAddress = 'unknown' } = facts;
  const address = remoteAddress.replace(/^::ffff:(?=\d+\.)/, '');
  const node = address.includes(':') ? `"[${address}]"` : address;
  const via = `${facts.httpVersion.replace(/\.0$/, '')} ${OWN_NAME}`;
  const quotable = host.replaceAll(/[^A-Za-z0-9.:[\]_-]/g, '');
  return {
    forwarded: `for=${node};host="${quotable}";proto=${protocol}`,
    'x-forwarded-for': address,
    'x-forwarded-host': quotable,
    'x-forwarded-proto': protocol,
    'x-request-id': facts.requestId,
    traceparent: facts.traceparent,
    via: given['via'] === undefined ? via : `${String(given['via'])}, ${via}`,
  };
}

/** In ASCII: what is none of it is percent-encoded. */
function identity({ subject, roles = [] }: Principal): RequestHeaders {
  const text = (value: string) =>
    value.toWellFormed().replaceAll(/[^\x21-\x24\x26-\x7e]/gu, encodeURIComponent);
  const headers: RequestHeaders = { 'x-noa-subject': text(subject) };
  if (roles.length > 0) {
    headers['x-noa-roles'] = roles.map((role) => text(role).replaceAll(',', '%2C')).join(',');
  }
  return headers;
}

/** Names of headers that Connection declares to be for this connection alone. */
function namedBy(connection: Received[string] = 'close'): ReadonlySet<string> {
  const text = String(connection).toLowerCase();
  return /^(keep-alive|close)$/.test(text) ? NONE : new Set(text.split(/\s*,\s*/));
}

const NONE: ReadonlySet<string> = new Set();
