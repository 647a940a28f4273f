/** URLSearchParams (WHATWG URL, section 6.2). */
import { percentDecode, percentEncode, SETS } from './url-percent.ts';

const encodeForm = (text: string): string => percentEncode(text, SETS.FORM).replaceAll(' ', '+');
const decodeForm = (text: string): string =>
  percentDecode(text.replaceAll('+', ' ')).toWellFormed();

type Pairs = Iterable<readonly [string, string]>;

export class URLSearchParams {
  #pairs: [string, string][] = [];
  #changed: ((text: string) => void) | undefined;

  constructor(init: string | Pairs | Record<string, string> = '') {
    if (typeof init === 'string') this.#parse(init.replace(/^\?/, ''));
    else {
      const pairs = Symbol.iterator in init ? init : Object.entries(init);
      for (const pair of pairs) {
        if ([...pair].length !== 2) {
          throw new TypeError('URLSearchParams: a pair has a name and a value');
        }
        this.#pairs.push([text(pair[0]), text(pair[1])]);
      }
    }
  }

  /** The parameters of a URL: they write their changes back into its query. */
  static of(query: string, changed: (text: string) => void): URLSearchParams {
    const params = new URLSearchParams(query);
    params.#changed = changed;
    return params;
  }

  /** The URL's query was set. */
  static reset(params: URLSearchParams, query: string): void {
    params.#parse(query);
  }

  #parse(query: string): void {
    this.#pairs = query
      .split('&')
      .filter((part) => part !== '')
      .map((part) => {
        const at = part.indexOf('=');
        if (at < 0) return [decodeForm(part), ''];
        return [decodeForm(part.slice(0, at)), decodeForm(part.slice(at + 1))];
      });
  }

  #update(pairs: [string, string][]): void {
    this.#pairs = pairs;
    this.#changed?.(this.toString());
  }

  get size(): number {
    return this.#pairs.length;
  }

  append(name: string, value: string): void {
    this.#update([...this.#pairs, [text(name), text(value)]]);
  }

  delete(name: string, value?: string): void {
    this.#update(this.#pairs.filter((pair) => !matches(pair, name, value)));
  }

  get(name: string): string | null {
    return this.#pairs.find((pair) => matches(pair, name))?.[1] ?? null;
  }

  getAll(name: string): string[] {
    return this.#pairs.filter((pair) => matches(pair, name)).map(([, value]) => value);
  }

  has(name: string, value?: string): boolean {
    return this.#pairs.some((pair) => matches(pair, name, value));
  }

  set(name: string, value: string): void {
    const first = this.#pairs.findIndex((pair) => matches(pair, name));
    if (first < 0) return this.append(name, value);
    const kept = this.#pairs.filter((pair, index) => index <= first || !matches(pair, name));
    this.#update(kept.with(first, [text(name), text(value)]));
  }

  sort(): void {
    this.#update(this.#pairs.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  }

  forEach(
    callback: (value: string, name: string, params: URLSearchParams) => void,
    receiver?: unknown,
  ): void {
    for (const [name, value] of this.#pairs) callback.call(receiver, value, name, this);
  }

  *entries(): IterableIterator<[string, string]> {
    for (let index = 0; index < this.#pairs.length; index += 1) {
      const [name = '', value = ''] = this.#pairs[index] ?? [];
      yield [name, value];
    }
  }

  *keys(): IterableIterator<string> {
    for (const [name] of this.entries()) yield name;
  }

  *values(): IterableIterator<string> {
    for (const [, value] of this.entries()) yield value;
  }

  [Symbol.iterator](): IterableIterator<[string, string]> {
    return this.entries();
  }

  toString(): string {
    return this.#pairs.map((pair) => pair.map(encodeForm).join('=')).join('&');
  }
}

const text = (value: unknown): string => String(value).toWellFormed();

function matches(pair: readonly [string, string], name: string, value?: string): boolean {
  return pair[0] === text(name) && (value === undefined || pair[1] === text(value));
}
