/**
 * The kinds of configuration value. A key is data (rule, default, description) plus one function that
 * reads a value; whatever a source holds, `read` answers a value that keeps the rule, or undefined.
 */
import { isIP } from 'node:net';
import { resolve } from 'node:path';

export interface About {
  readonly description: string;
  /** Long command-line flag of `noa serve`, without the dashes. */
  readonly flag?: string;
  /** Never shown; may be given by reference (`env:NAME`, `file:PATH`). */
  readonly secret?: true;
  /** Texts inside it may be given by reference too; it is shown with the references. */
  readonly references?: true;
  /** Takes effect on SIGHUP; every other key needs a restart. */
  readonly reloadable?: true;
}

/** What a text that may be a reference stands for; throws an Error that says what is wrong with it. */
export type Resolve = (text: string) => string;

export interface Key<T> extends About {
  /** Completes "must be …". */
  readonly rule: string;
  /** As a file would write it; absent when the key has no default. */
  readonly default: string | number | boolean | undefined;
  /** How a value is written, for the file of defaults; `"…"` when absent. */
  readonly form?: string;
  /** A value that keeps the rule; undefined for one that does not. Relative paths start at `cwd`. */
  read(value: unknown, cwd: string, resolve?: Resolve): T | undefined;
  /** Of a value with parts that was not read: the part that is wrong and why. */
  fault?(value: unknown, resolve?: Resolve): string | undefined;
}

export function integer(
  minimum: number,
  maximum: number,
  fallback: number,
  about: About,
): Key<number> {
  return {
    ...about,
    rule: `a whole number from ${minimum} to ${maximum}`,
    default: fallback,
    read: (value) => {
      const number = typeof value === 'string' && /^-?\d{1,15}$/.test(value) ? +value : value;
      if (typeof number !== 'number' || !Number.isInteger(number)) return undefined;
      return number >= minimum && number <= maximum ? number : undefined;
    },
  };
}

/** A part of a whole. */
export function fraction(fallback: number, about: About): Key<number> {
  return {
    ...about,
    rule: 'a number from 0 to 1',
    default: fallback,
    read: (value) => {
      const number = typeof value === 'string' && /^[\d.]{1,15}$/.test(value) ? +value : value;
      return typeof number === 'number' && number >= 0 && number <= 1 ? number : undefined;
    },
  };
}

export function boolean(fallback: boolean, about: About): Key<boolean> {
  return {
    ...about,
    rule: 'true or false',
    default: fallback,
    read: (value) => [true, false].find((known) => value === known || value === String(known)),
  };
}

export function choice<const V extends string, F extends V | undefined>(
  values: readonly V[],
  fallback: F,
  about: About,
): Key<V | F> {
  return {
    ...about,
    rule: `one of ${values.join(', ')}`,
    default: fallback,
    read: (value) => values.find((known) => known === value),
  };
}

export function hostname(fallback: string, about: About): Key<string> {
  const name = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/i;
  return {
    ...about,
    rule: 'an IP address or a host name',
    default: fallback,
    read: (value) => {
      if (typeof value !== 'string') return undefined;
      return isIP(value) !== 0 || name.test(value) ? value : undefined;
    },
  };
}

/** A name for machines. */
export function label(fallback: string, about: About): Key<string> {
  return {
    ...about,
    rule: '1 to 128 letters, digits and . _ -',
    default: fallback,
    read: (value) =>
      typeof value === 'string' && /^[\w.-]{1,128}$/.test(value) ? value : undefined,
  };
}

/** Hosts: a list, or one text with commas between them. */
export function hosts(about: About): Key<readonly string[] | undefined> {
  const one = hostname('', about);
  return {
    ...about,
    rule: 'IP addresses or host names with commas between them',
    default: undefined,
    read: (value, cwd) => {
      const given: unknown = typeof value === 'string' ? value.split(/\s*,\s*/) : value;
      if (!Array.isArray(given)) return undefined;
      const read = given.map((each: unknown) => one.read(each, cwd));
      return read.every((host) => host !== undefined) ? Object.freeze(read) : undefined;
    },
  };
}

/** Origins of web pages (RFC 6454), as a browser writes them: a list, or one text with commas between them. */
export function origins(about: About): Key<readonly string[] | undefined> {
  const isOrigin = (text: unknown): text is string =>
    typeof text === 'string' && URL.canParse(text) && new URL(text).origin === text;
  return {
    ...about,
    rule: 'origins such as https://console.example.com, without a path, with commas between them',
    default: undefined,
    read: (value) => {
      const given: unknown = typeof value === 'string' ? value.split(/\s*,\s*/) : value;
      return Array.isArray(given) && given.every(isOrigin) ? Object.freeze([...given]) : undefined;
    },
  };
}

/** Any of these words, or `none`: a list, or one text with commas between them. */
export function choices<const Word extends string>(
  words: readonly Word[],
  fallback: readonly Word[],
  about: About,
): Key<readonly Word[]> {
  return {
    ...about,
    rule: `any of ${words.join(', ')} with commas between them, or none`,
    default: fallback.join(','),
    read: (value) => {
      if (value === 'none') return [];
      const given: unknown = typeof value === 'string' ? value.split(/\s*,\s*/) : value;
      if (!Array.isArray(given)) return undefined;
      const read = words.filter((word) => given.includes(word));
      return read.length === new Set(given).size ? Object.freeze(read) : undefined;
    },
  };
}

/** Names of plugins, or `*` for every plugin: a list, or one text with commas between them. */
export function plugins(about: About): Key<readonly string[] | undefined> {
  const name = /^(\*|[a-z][a-z0-9]*(-[a-z0-9]+)*)$/;
  return {
    ...about,
    rule: 'names of plugins with commas between them, or *',
    default: undefined,
    read: (value) => {
      const given: unknown = typeof value === 'string' ? value.split(/\s*,\s*/) : value;
      if (!Array.isArray(given)) return undefined;
      const read = given.filter((each) => typeof each === 'string' && name.test(each)) as string[];
      return read.length === given.length ? Object.freeze(read) : undefined;
    },
  };
}

/** Ids of models, or beginnings and `*`: a list, or one text with commas between them. */
export function modelIds(about: About): Key<readonly string[] | undefined> {
  const id = /^[A-Za-z0-9._:/@-]*[A-Za-z0-9._:/@*-]$/;
  return {
    ...about,
    rule: 'ids of models, or beginnings and *, with commas between them',
    default: undefined,
    read: (value) => {
      const given: unknown = typeof value === 'string' ? value.split(/\s*,\s*/) : value;
      if (!Array.isArray(given)) return undefined;
      const read = given.filter((each) => typeof each === 'string' && id.test(each)) as string[];
      return read.length === given.length ? Object.freeze(read) : undefined;
    },
  };
}

/** Files with their digests, PATH@sha256:HEX, paths in absolute form: a list, or one text with commas. */
export function digests(about: About): Key<readonly string[] | undefined> {
  const form = /^([^\0,]+)(@sha256:[0-9a-f]{64})$/;
  return {
    ...about,
    rule: 'PATH@sha256: with 64 lower-case hex digits, with commas between them',
    default: undefined,
    read: (value, cwd) => {
      const given: unknown = typeof value === 'string' ? value.split(/\s*,\s*/) : value;
      if (!Array.isArray(given)) return undefined;
      const read = given.map((each: unknown) => {
        const [, file, digest] = (typeof each === 'string' ? form.exec(each) : null) ?? [];
        return file === undefined ? undefined : `${resolve(cwd, file)}${digest}`;
      });
      return read.every((entry) => entry !== undefined) ? Object.freeze(read) : undefined;
    },
  };
}

/** A path in the file system, answered in absolute form. */
export function path<D extends string | undefined>(
  fallback: D,
  about: About,
): Key<D extends string ? string : string | undefined> {
  return {
    ...about,
    rule: 'a path, not empty and without NUL',
    default: fallback,
    read: (value, cwd) =>
      typeof value === 'string' && value !== '' && !value.includes('\0')
        ? resolve(cwd, value)
        : undefined,
  };
}

/** An address with one of these schemes, such as `https`; host required, text kept as given. */
export function url(schemes: readonly string[], about: About): Key<string | undefined> {
  return {
    ...about,
    rule: `a URL that starts with ${schemes.map((scheme) => `${scheme}://`).join(' or ')}`,
    default: undefined,
    read: (value) => {
      if (typeof value !== 'string' || !URL.canParse(value)) return undefined;
      const { protocol, hostname: host, search } = new URL(value);
      // PostgreSQL's own form names a unix socket's folder in the query: postgres:///db?host=/run/…
      const placed = host !== '' || search.includes('host=');
      return placed && schemes.includes(protocol.slice(0, -1)) ? value : undefined;
    },
  };
}

export function secretText(
  rule: string,
  accepts: (text: string) => boolean,
  about: About,
): Key<string | undefined> {
  return {
    ...about,
    rule,
    default: undefined,
    secret: true,
    read: (value) => (typeof value === 'string' && accepts(value) ? value : undefined),
  };
}
