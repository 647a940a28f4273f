/**
 * The paths of the document. Invariants: paths that differ in the names of their parameters alone are one
 * path (OpenAPI 3.1 section 4.8.8.2), named as the first of them; and each operation has an id of its own.
 */
import type { JsonSchema } from '@noa/sdk/host';

export type Node = { readonly [key: string]: unknown };

export interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required: boolean;
  readonly schema: JsonSchema;
}

/** An operation without its parameters in the path and its id. */
export interface Operation {
  /** Begins the id; empty for the host's own. */
  readonly prefix: string;
  readonly method: string;
  /** `/v1/plugins/:name`. */
  readonly url: string;
  /** The schemas of the parameters in the path by name; text when absent. */
  readonly path: { readonly [name: string]: JsonSchema };
  readonly parameters: readonly Parameter[];
  readonly rest: Node;
}

export class Paths {
  /** By the path without the names of its parameters. */
  readonly #items = new Map<
    string,
    { url: string; names: string[]; operations: Map<string, Node> }
  >();
  readonly #ids = new Set<string>();

  add({ prefix, method, url, path, parameters, rest }: Operation): void {
    const own = namesIn(url);
    const shape = url.replaceAll(PARAMETER, '{}');
    const item = this.#items.get(shape) ?? { url, names: own, operations: new Map() };
    this.#items.set(shape, item);
    const inPath = item.names.map((name, index) => {
      const schema = path[own[index] ?? name] ?? { type: 'string' };
      return parameter(name, 'path', true, schema);
    });
    item.operations.set(method.toLowerCase(), {
      operationId: this.#id(prefix, method, url),
      ...rest,
      ...(inPath.length + parameters.length > 0 ? { parameters: [...inPath, ...parameters] } : {}),
    });
  }

  #id(prefix: string, method: string, url: string): string {
    const words = url.split('/').map((word) => (word.startsWith(':') ? `by-${word}` : word));
    const id = prefix + method.toLowerCase() + pascal(words.join('-'));
    let free = id;
    for (let number = 2; this.#ids.has(free); number += 1) free = `${id}${number}`;
    this.#ids.add(free);
    return free;
  }

  toJson(): Node {
    const entries = [...this.#items.values()]
      .map(({ url, operations }) => [template(url), Object.fromEntries(operations)] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1));
    return Object.fromEntries(entries);
  }
}

/** `description` stands beside the schema, where readers look for it. */
export function parameter(
  name: string,
  place: Parameter['in'],
  required: boolean,
  given: JsonSchema,
): Parameter {
  const { description, ...schema } = given;
  const words = typeof description === 'string' ? { description } : {};
  return { name, in: place, required, ...words, schema };
}

/** A segment that is a parameter. */
const PARAMETER = /(?<=\/):([A-Za-z0-9_]+)/g;

export function namesIn(url: string): string[] {
  return [...url.matchAll(PARAMETER)].map(([, name = '']) => name);
}

function template(url: string): string {
  return url.replaceAll(PARAMETER, '{$1}');
}

function pascal(text: string): string {
  const words = text.split(/[^A-Za-z0-9]+/).filter((word) => word !== '');
  return words.map((word) => word.slice(0, 1).toUpperCase() + word.slice(1)).join('');
}
