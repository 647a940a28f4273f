/** URL (WHATWG URL, section 6.1) over the parser in url-parse.ts. */
import {
  isSpecial,
  parsePort,
  parseUrl,
  setHostAndPort,
  type UrlRecord,
  withPath,
} from './url-parse.ts';
import { percentEncode, SETS } from './url-percent.ts';
import { URLSearchParams } from './url-search-params.ts';

export class URL {
  #record: UrlRecord;
  readonly searchParams: URLSearchParams;

  constructor(url: string | URL, base?: string | URL) {
    const record = parse(url, base);
    if (record === undefined) throw new TypeError(`Invalid URL: ${String(url)}`);
    this.#record = record;
    this.searchParams = URLSearchParams.of(record.query ?? '', (query) => {
      this.#record.query = query === '' ? null : query;
    });
  }

  static canParse(url: string | URL, base?: string | URL): boolean {
    return parse(url, base) !== undefined;
  }

  static parse(url: string | URL, base?: string | URL): URL | null {
    return URL.canParse(url, base) ? new URL(url, base) : null;
  }

  get href(): string {
    const { scheme, username, host, path, query, fragment } = this.#record;
    const password = this.#record.password && `:${this.#record.password}`;
    const user = username || password ? `${username}${password}@` : '';
    // Without a host, a path that begins with two slashes would read as one.
    const guard = host === null && Array.isArray(path) && path.length > 1 && path[0] === '';
    const authority = host === null ? '' : `//${user}${this.host}`;
    const after = `${query === null ? '' : `?${query}`}${fragment === null ? '' : `#${fragment}`}`;
    return `${scheme}:${authority}${guard ? '/.' : ''}${this.pathname}${after}`;
  }

  set href(value: string) {
    const record = parse(value);
    if (record === undefined) throw new TypeError(`Invalid URL: ${value}`);
    this.#record = record;
    URLSearchParams.reset(this.searchParams, record.query ?? '');
  }

  get origin(): string {
    const { scheme, path } = this.#record;
    if (scheme === 'blob' && typeof path === 'string') {
      const inner = parse(path);
      return inner && /^https?$/.test(inner.scheme) ? new URL(path).origin : 'null';
    }
    return isSpecial(scheme) && scheme !== 'file' ? `${scheme}://${this.host}` : 'null';
  }

  get protocol(): string {
    return `${this.#record.scheme}:`;
  }

  set protocol(value: string) {
    const [, scheme] = /^([a-z][a-z0-9+.-]*)(?::|$)/i.exec(value) ?? [];
    const record = this.#record;
    const next = scheme?.toLowerCase();
    if (next === undefined || isSpecial(next) !== isSpecial(record.scheme)) return;
    if (next === 'file' && (record.username || record.password || record.port !== null)) return;
    if (record.scheme === 'file' && record.host === '') return;
    record.scheme = next;
    record.port = parsePort(next, this.port) ?? null;
  }

  get username(): string {
    return this.#record.username;
  }

  set username(value: string) {
    if (this.#bare()) return;
    this.#record.username = percentEncode(value, SETS.USERINFO);
  }

  get password(): string {
    return this.#record.password;
  }

  set password(value: string) {
    if (this.#bare()) return;
    this.#record.password = percentEncode(value, SETS.USERINFO);
  }

  get host(): string {
    const { host, port } = this.#record;
    return `${host ?? ''}${port === null ? '' : `:${port}`}`;
  }

  set host(value: string) {
    const { scheme, path, port } = this.#record;
    const [place = ''] = (isSpecial(scheme) ? /^[^/\\?#]*/ : /^[^/?#]*/).exec(value) ?? [];
    const [, name = '', digits] = /^(\[[^\]]*\]|[^:]*)(?::(\d*))?/.exec(place) ?? [];
    if (typeof path === 'string' || (scheme === 'file' && digits !== undefined)) return;
    if (!setHostAndPort(this.#record, name)) return;
    const next = digits ? parsePort(scheme, digits) : port;
    this.#record.port = next === undefined ? port : next;
  }

  get hostname(): string {
    return this.#record.host ?? '';
  }

  set hostname(value: string) {
    if (!/^\[|^[^:]*$/.test(value)) return;
    const { port } = this.#record;
    this.host = value;
    this.#record.port = port;
  }

  get port(): string {
    return String(this.#record.port ?? '');
  }

  set port(value: string) {
    if (this.#bare()) return;
    const [digits = ''] = /^\d*/.exec(value) ?? [];
    const port = parsePort(this.#record.scheme, digits);
    if (port !== undefined && (digits !== '' || value === '')) this.#record.port = port;
  }

  get pathname(): string {
    const { path } = this.#record;
    return typeof path === 'string' ? path : path.map((segment) => `/${segment}`).join('');
  }

  set pathname(value: string) {
    if (typeof this.#record.path === 'string') return;
    this.#record.path = [];
    withPath(this.#record, value.replaceAll(/[\t\n\r]/g, ''));
    if (value === '' && this.#record.host === null) this.#record.path.push('');
  }

  get search(): string {
    return this.#record.query ? `?${this.#record.query}` : '';
  }

  set search(value: string) {
    const query = value.replace(/^\?/, '').replaceAll(/[\t\n\r]/g, '');
    const set = isSpecial(this.#record.scheme) ? SETS.SPECIAL_QUERY : SETS.QUERY;
    this.#record.query = value === '' ? null : percentEncode(query, set);
    URLSearchParams.reset(this.searchParams, query);
  }

  get hash(): string {
    return this.#record.fragment ? `#${this.#record.fragment}` : '';
  }

  set hash(value: string) {
    const fragment = value.replace(/^#/, '').replaceAll(/[\t\n\r]/g, '');
    this.#record.fragment = value === '' ? null : percentEncode(fragment, SETS.FRAGMENT);
  }

  toString(): string {
    return this.href;
  }

  toJSON(): string {
    return this.href;
  }

  /** No place for a user or a port. */
  #bare(): boolean {
    return !this.#record.host || this.#record.scheme === 'file';
  }
}

function parse(url: string | URL, base?: string | URL): UrlRecord | undefined {
  if (base === undefined) return parseUrl(String(url));
  const record = parseUrl(String(base));
  return record && parseUrl(String(url), record);
}
