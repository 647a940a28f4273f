/** Headers (WHATWG Fetch, section 5.1). The host refuses what a plugin may not send. */

export type Pairs = Iterable<readonly [string, string]> | Readonly<Record<string, string>>;

export class Headers {
  readonly #values = new Map<string, string[]>();

  constructor(init: Pairs = {}) {
    const pairs =
      Symbol.iterator in init
        ? (init as Iterable<readonly [string, string]>)
        : Object.entries(init);
    for (const [name, value] of Array.from(pairs)) this.append(name, value);
  }

  append(name: string, value: string): void {
    const values = this.#values.get(nameOf(name)) ?? [];
    this.#values.set(nameOf(name), [...values, valueOf(value)]);
  }

  set(name: string, value: string): void {
    this.#values.set(nameOf(name), [valueOf(value)]);
  }

  get(name: string): string | null {
    return this.#values.get(nameOf(name))?.join(', ') ?? null;
  }

  has(name: string): boolean {
    return this.#values.has(nameOf(name));
  }

  delete(name: string): void {
    this.#values.delete(nameOf(name));
  }

  getSetCookie(): string[] {
    return [...(this.#values.get('set-cookie') ?? [])];
  }

  forEach(
    callback: (value: string, name: string, headers: Headers) => void,
    receiver?: unknown,
  ): void {
    for (const [name, value] of Array.from(this.entries())) {
      Reflect.apply(callback, receiver, [value, name, this]);
    }
  }

  /** Sorted by name; each Set-Cookie is an entry of its own. */
  *entries(): IterableIterator<[string, string]> {
    for (const [name, values] of Array.from(this.#values).sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (name !== 'set-cookie') yield [name, values.join(', ')];
      else for (const value of values) yield [name, value];
    }
  }

  *keys(): IterableIterator<string> {
    for (const [name] of Array.from(this.entries())) yield name;
  }

  *values(): IterableIterator<string> {
    for (const [, value] of Array.from(this.entries())) yield value;
  }

  [Symbol.iterator](): IterableIterator<[string, string]> {
    return this.entries();
  }
}

function nameOf(given: string): string {
  const name = String(given).toLowerCase();
  if (/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name)) return name;
  throw new TypeError(`Headers: ${JSON.stringify(given)} is not the name of a header`);
}

function valueOf(given: string): string {
  const value = String(given).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, '');
  if (!/[\0\n\r]|[^\0-\xff]/.test(value)) return value;
  throw new TypeError('Headers: a value is one line of Latin-1 text');
}
