/**
 * The routes that one version of a plugin contributes, compiled once. fastify cannot take a route back
 * while plugins come and go, so each version brings its own table. A fixed segment wins over a
 * parameter; of two routes that fit, the one fixed earlier.
 */
import {
  compileCoercion,
  type Json,
  type Manifest,
  NoaError,
  type RouteSpec,
  type TextParameters,
} from '@noa/sdk/host';

export interface Route {
  readonly export: string;
  /** Of a successful answer. */
  readonly status: number;
  /** The pattern, for metrics and logs. */
  readonly label: string;
  /** The export's input, from what the request holds. Throws INVALID_ARGUMENT. */
  input(query: TextParameters, segments: readonly string[], body: Json | undefined): Json;
}

/** A route, or the methods that the path does take; none when there is no such path. */
export type Match = { readonly route: Route } | { readonly allow: readonly string[] };

class Node {
  readonly fixed = new Map<string, Node>();
  readonly routes = new Map<string, Route>();
  parameter: Node | undefined;
}

export class RouteTable {
  readonly #root = new Node();

  constructor(manifest: Manifest) {
    for (const spec of manifest.contributes?.routes ?? []) {
      if (spec.at === 'root') continue;
      let node = this.#root;
      for (const segment of segmentsOf(spec.path)) {
        if (segment.startsWith(':')) node = node.parameter ??= new Node();
        else {
          const next = node.fixed.get(segment) ?? new Node();
          node.fixed.set(segment, next);
          node = next;
        }
      }
      node.routes.set(spec.method, compileRoute(manifest, spec));
    }
  }

  /** `segments` are decoded. HEAD is answered by the route for GET. */
  match(method: string, segments: readonly string[]): Match {
    const wanted = method === 'HEAD' ? 'GET' : method;
    const allow = new Set<string>();
    const walk = (node: Node, index: number): Route | undefined => {
      const segment = segments[index];
      if (segment === undefined) {
        const route = node.routes.get(wanted);
        if (route === undefined) for (const name of node.routes.keys()) allow.add(name);
        return route;
      }
      const next = node.fixed.get(segment);
      const route = next && walk(next, index + 1);
      if (route !== undefined || node.parameter === undefined || segment === '') return route;
      return walk(node.parameter, index + 1);
    };
    const route = walk(this.#root, 0);
    if (route !== undefined) return { route };
    if (allow.has('GET')) allow.add('HEAD');
    return { allow: [...allow] };
  }
}

/** Where the route is: at the root, or below its plugin. */
export function urlOf({ name }: Manifest, { at, path }: RouteSpec): string {
  return at === 'root' ? path : `/plugins/${name}${path}`;
}

/** The segments of a path below a plugin; `/` has none. */
export function segmentsOf(path: string): string[] {
  return path === '' || path === '/' ? [] : path.slice(1).split('/');
}

export function compileRoute(manifest: Manifest, spec: RouteSpec): Route {
  const coerce = compileCoercion(manifest.exports[spec.export]?.input ?? {});
  const parameters = segmentsOf(spec.path).flatMap((segment, index) =>
    segment.startsWith(':') ? [{ name: segment.slice(1), index }] : [],
  );
  return {
    export: spec.export,
    status: spec.status ?? 200,
    label: urlOf(manifest, spec),
    input(query, segments, body) {
      const asked = Object.keys(query).length > 0;
      if (!asked && parameters.length === 0) return body === undefined ? {} : body;
      // As in a body: it would reach the plugin as an own member, and there who knows what.
      if (Object.hasOwn(query, '__proto__')) {
        throw new NoaError('INVALID_ARGUMENT', 'the query may not have a parameter __proto__');
      }
      const values: { [name: string]: string | undefined } = {};
      for (const { name, index } of parameters) values[name] = segments[index];
      return { ...(asked && coerce(query)), ...members(body), ...coerce(values) };
    },
  };
}

function members(body: Json | undefined): { [key: string]: Json } {
  if (body === undefined) return {};
  if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body;
  throw new NoaError(
    'INVALID_ARGUMENT',
    'the body must be a JSON object: path and query parameters are added to it',
  );
}
