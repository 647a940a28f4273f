/**
 * What a route promises its callers, and the list of the routes that are mounted. The OpenAPI document is
 * made from this list alone. Invariant: the list is fastify's own, taken as routes are added, so nothing
 * that answers can be missing from it and nothing that does not can be in it.
 */
import type { ErrorCode, JsonSchema } from '@noa/sdk/host';
import type { FastifyInstance, RouteOptions } from 'fastify';

/** The groups of the reference. */
export const TAGS = {
  Plugins: 'Install, govern, configure and call plugins.',
  Grants: 'Decide what plugins may do.',
  Secrets: 'Values for plugins, such as keys of other services.',
  'Capability tokens': 'Short-lived credentials of machines, for exports of plugins.',
  'Token keys': 'The keys that sign the capability tokens of plugins.',
  Audit: 'The record of every grant, denial and use, chained by hashes.',
  Authentication: 'Who may call this host, and with what credentials.',
  Gateway: 'What happens to calls on their way.',
  Events: 'The event log.',
  Models: 'The models that plugins can be granted.',
  Hosts: 'The hosts that share one database.',
  Health: 'How the host fares.',
  Reference: 'This reference.',
};

/** How a route is described. What of it is absent, test/transports/openapi.test.ts asks for. */
export interface Contract {
  /** One line that says what a call does, as an imperative: `Install a plugin`. */
  readonly summary?: string;
  /** More than one line of it, in Markdown. */
  readonly description?: string;
  /** The group in the reference. */
  readonly tag?: keyof typeof TAGS;
  /** The bodies of the answers that are no errors, by status; null stands for no body. */
  readonly answers?: { readonly [status: number]: JsonSchema | null };
  /** What the frames hold, where the answer 200 may be a stream of server-sent events as well. */
  readonly frames?: string;
  /** Of these bodies; `application/json` when absent. */
  readonly mediaType?: string;
  /** The request's body may come as `application/x-www-form-urlencoded` too. */
  readonly forms?: true;
  /** Parameters of the path by name; of one that is not named, no more is said than that it is text. */
  readonly path?: { readonly [name: string]: JsonSchema };
  /** Beside those that follow from the form of the route: 401, 403, 404 with a parameter, 413 with a body … */
  readonly errors?: readonly ErrorCode[];
  /** What the caller's credential must have. */
  readonly scope?: string;
  /** No credential is asked for. */
  readonly open?: true;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Null for what is not described as a route of its own: refusals, and what manifests describe. */
    contract?: Contract | null;
  }
}

/** A mounted route, as the document is made from it. */
export interface MountedRoute {
  readonly method: string;
  /** fastify's pattern: `/v1/plugins/:name`. */
  readonly url: string;
  /** Absent when nobody has described it. */
  readonly contract: Contract | undefined;
  readonly query: JsonSchema | undefined;
  readonly body: JsonSchema | undefined;
  /** Media type of the request's body. */
  readonly takes: string;
}

/** Follows what is mounted on `app` and all its scopes from now on; the array grows as routes are added. */
export function collectRoutes(app: FastifyInstance): readonly MountedRoute[] {
  const routes: MountedRoute[] = [];
  app.addHook('onRoute', (options) => {
    const { contract, takes = 'application/json' } = options.config ?? {};
    if (contract === null) return;
    for (const method of [options.method].flat()) {
      if (method === 'HEAD') continue; // GET without its body
      routes.push({ method, url: options.url, contract, takes, ...schemasOf(options) });
    }
  });
  return routes;
}

function schemasOf({ schema }: RouteOptions): Pick<MountedRoute, 'query' | 'body'> {
  return {
    query: schema?.querystring as JsonSchema | undefined,
    body: schema?.body as JsonSchema | undefined,
  };
}
