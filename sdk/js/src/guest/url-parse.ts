/**
 * The URL parser of the WHATWG URL standard (url.spec.whatwg.org, sections 3 and 4), by components
 * instead of by states. International domain names (url-host.ts) are mapped by NFKC and lower case, which
 * is what UTS 46 does for letters in use, without its tables of deviations and disallowed code points.
 */
import { parseHost } from './url-host.ts';
import { percentEncode, SETS } from './url-percent.ts';

export interface UrlRecord {
  scheme: string;
  username: string;
  password: string;
  host: string | null;
  port: number | null;
  /** Segments, or one opaque text (`mailto:a@b`). */
  path: string[] | string;
  query: string | null;
  fragment: string | null;
}

const SPECIAL: { readonly [scheme: string]: number | null | undefined } = {
  http: 80,
  https: 443,
  ws: 80,
  wss: 443,
  ftp: 21,
  file: null,
};

export const isSpecial = (scheme: string): boolean => Object.hasOwn(SPECIAL, scheme);

/** The record, or undefined for a text that is no URL. */
export function parseUrl(text: string, base?: UrlRecord): UrlRecord | undefined {
  const input = text.replace(/^[\0-\u{20}]+|[\0-\u{20}]+$/gu, '').replaceAll(/[\t\n\r]/g, '');
  const [beforeFragment, fragment] = split(input, '#');
  const [head, query] = split(beforeFragment, '?');
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(head)?.[1];
  const record = scheme
    ? absolute(scheme.toLowerCase(), head.slice(scheme.length + 1), query, base)
    : base && relative(head, query, base, fragment !== undefined);
  if (record === undefined) return undefined;
  if (query !== undefined) {
    record.query = percentEncode(query, isSpecial(record.scheme) ? SETS.SPECIAL_QUERY : SETS.QUERY);
  }
  record.fragment = fragment === undefined ? null : percentEncode(fragment, SETS.FRAGMENT);
  if (typeof record.path === 'string' && (query ?? fragment) !== undefined) {
    record.path = record.path.replace(/ $/, '%20');
  }
  return record;
}

function split(text: string, mark: string): [string, string | undefined] {
  const at = text.indexOf(mark);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

function blank(scheme: string): UrlRecord {
  const none = { host: null, port: null, query: null, fragment: null };
  return { scheme, username: '', password: '', path: [], ...none };
}

function absolute(
  scheme: string,
  rest: string,
  query: string | undefined,
  base: UrlRecord | undefined,
): UrlRecord | undefined {
  const record = blank(scheme);
  const same = base?.scheme === scheme ? base : undefined;
  if (scheme === 'file') return file(rest, query, same);
  if (isSpecial(scheme)) {
    if (same && !rest.startsWith('//')) return relative(rest, query, same, false);
    return authority(record, rest.replace(/^[/\\]+/, ''));
  }
  if (rest.startsWith('//')) return authority(record, rest.slice(2));
  record.path = rest.startsWith('/') ? [] : percentEncode(rest, SETS.CONTROL);
  return rest.startsWith('/') ? withPath(record, rest) : record;
}

function relative(
  rest: string,
  query: string | undefined,
  base: UrlRecord,
  hasFragment: boolean,
): UrlRecord | undefined {
  if (typeof base.path === 'string') {
    return rest === '' && query === undefined && hasFragment ? { ...base } : undefined;
  }
  if (base.scheme === 'file') return file(rest, query, base);
  const slash = isSpecial(base.scheme) ? /^[/\\]/ : /^\//;
  if (!slash.test(rest)) return onto(base, base.path, rest, query);
  const after = rest.slice(1);
  if (!slash.test(after)) return withPath({ ...base, path: [], query: null }, rest);
  const record = blank(base.scheme);
  return authority(record, isSpecial(base.scheme) ? after.replace(/^[/\\]+/, '') : after.slice(1));
}

/** A relative path on top of the base's; an empty one keeps the base's path, and its query too. */
function onto(
  base: UrlRecord,
  path: readonly string[],
  rest: string,
  query: string | undefined,
): UrlRecord {
  const record = { ...base, path: [...path], query: query === undefined ? base.query : null };
  if (rest === '') return record;
  record.query = null;
  shorten(record);
  return withPath(record, rest);
}

const DRIVE = /^[a-z][:|]$/i;
const STARTS_WITH_DRIVE = /^[a-z][:|](?:[/\\]|$)/i;

function file(
  rest: string,
  query: string | undefined,
  base: UrlRecord | undefined,
): UrlRecord | undefined {
  const record: UrlRecord = { ...blank('file'), host: '' };
  const path = Array.isArray(base?.path) ? base.path : [];
  if (/^[/\\]{2}/.test(rest)) {
    const [name = ''] = /^[^/\\]*/.exec(rest.slice(2)) ?? [];
    if (DRIVE.test(name)) return withPath(record, rest.slice(2));
    const host = name === '' ? '' : parseHost(name, true);
    if (host === undefined) return undefined;
    record.host = host === 'localhost' ? '' : host;
    return withPath(record, rest.slice(2 + name.length));
  }
  if (/^[/\\]/.test(rest)) {
    record.host = base?.host ?? '';
    const [drive = ''] = path;
    if (!STARTS_WITH_DRIVE.test(rest.slice(1)) && /^[a-z]:$/i.test(drive)) record.path = [drive];
    return withPath(record, rest);
  }
  if (base === undefined) return withPath(record, rest);
  if (STARTS_WITH_DRIVE.test(rest)) return withPath({ ...record, host: base.host }, rest);
  return onto(base, path, rest, query);
}

function authority(record: UrlRecord, rest: string): UrlRecord | undefined {
  const special = isSpecial(record.scheme);
  const end = rest.search(special ? /[/\\]/ : /\//);
  const whole = end < 0 ? rest : rest.slice(0, end);
  const at = whole.lastIndexOf('@');
  const place = whole.slice(at + 1);
  if (at >= 0) {
    const [username, password = ''] = split(whole.slice(0, at), ':');
    record.username = percentEncode(username, SETS.USERINFO);
    record.password = percentEncode(password, SETS.USERINFO);
    if (place === '') return undefined;
  }
  if (!setHostAndPort(record, place)) return undefined;
  return withPath(record, end < 0 ? '' : rest.slice(end));
}

/** `host` or `host:port`; false leaves the record as it was. */
export function setHostAndPort(record: UrlRecord, text: string): boolean {
  const special = isSpecial(record.scheme);
  const [, name = '', port] = /^((?:\[[^\]]*\]|[^:[])*)(?::(.*))?$/s.exec(text) ?? [];
  if (name === '' && (text !== '' || special)) return false;
  const host = name === '' ? '' : parseHost(name, special);
  const number = parsePort(record.scheme, port ?? '');
  if (host === undefined || number === undefined) return false;
  record.host = host;
  record.port = number;
  return true;
}

/** Null for none and for the scheme's own; undefined when it is no port. */
export function parsePort(scheme: string, text: string): number | null | undefined {
  if (text === '') return null;
  const port = Number(text);
  if (!/^\d+$/.test(text) || port > 65_535) return undefined;
  return port === SPECIAL[scheme] ? null : port;
}

/** Appends the segments of a path to the record's. */
export function withPath(record: UrlRecord, text: string): UrlRecord {
  const special = isSpecial(record.scheme);
  const path = Array.isArray(record.path) ? record.path : [];
  record.path = path;
  if (text === '' && !special) return record;
  const segments = text.replace(special ? /^[/\\]/ : /^\//, '').split(special ? /[/\\]/ : '/');
  for (const [index, segment] of segments.entries()) {
    const last = index === segments.length - 1;
    const dots = segment.replaceAll(/%2e/gi, '.');
    if (dots === '..') shorten(record);
    if (dots === '..' || dots === '.') {
      if (last) path.push('');
    } else if (record.scheme === 'file' && path.length === 0 && DRIVE.test(segment)) {
      path.push(`${segment.charAt(0)}:`);
    } else {
      path.push(percentEncode(segment, SETS.PATH));
    }
  }
  return record;
}

function shorten({ scheme, path }: UrlRecord): void {
  if (typeof path === 'string') return;
  if (scheme === 'file' && path.length === 1 && /^[a-z]:$/i.test(path[0] ?? '')) return;
  path.pop();
}
