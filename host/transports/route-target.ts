/**
 * Where a call would go: the same tables that answer calls are asked, and nothing is executed. Invariant:
 * a target that is answered is one that takes the call now; why there is none is told in the words in which
 * the call itself would be refused.
 */
import { type Json, type Manifest, NoaError } from '@noa/sdk/host';
import type { UpstreamRoutes } from '../gateway/upstream/routes.ts';
import { targetBelow } from '../gateway/upstream/target.ts';
import type { Serving } from '../kernel/serving.ts';
import type { PluginView } from '../kernel/views.ts';
import type { MountedRoute } from './contract.ts';
import { pathOf } from './problem.ts';
import { rootRoutesOf } from './root-routes.ts';
import { RouteTable, segmentsOf } from './route-table.ts';

export interface TargetOptions {
  readonly upstreams: UpstreamRoutes;
  readonly routes: () => readonly MountedRoute[];
  /** Of the plugins that are parts of this host. */
  readonly builtins?: readonly Manifest[];
  readonly plugins: () => readonly PluginView[];
  /** Throws NoaError when it does not run, saying why. */
  readonly serving: (plugin: string) => Serving;
}

/** What a protocol and its payload ask for. */
export interface Asked {
  readonly transport: 'http' | 'grpc';
  readonly method: string;
  readonly path: string;
}

export type Target =
  | {
      readonly kind: 'plugin';
      readonly plugin: string;
      readonly version: string;
      readonly export: string;
    }
  | { readonly kind: 'upstream'; readonly route: string; readonly servers: number }
  | { readonly kind: 'host' };

export interface Found {
  /** As policies and metrics name it. */
  readonly operation: string;
  /** The scope that it needs. */
  readonly permission: string | null;
  /** Throws why there is none; only for whom policy lets know. */
  readonly target: () => Target;
  /** Of one call; null when it has none of its own. */
  readonly deadlineMs: () => number | null;
}

/** The gRPC method that each kind of work is asked for by. */
const KINDS: { readonly [protocol: string]: string } = {
  inference: 'noa.api.v1.InferenceService/Invoke',
  retrieval: 'noa.api.v1.RetrievalService/Retrieve',
  orchestration: 'noa.api.v1.OrchestrationService/Execute',
};
export const PROTOCOLS = ['rest', 'grpc', 'plugin', ...Object.keys(KINDS)];

/** The call that is meant. Throws INVALID_ARGUMENT for a payload that is not one of its protocol. */
export function readPayload(protocol: string, payload: { readonly [name: string]: Json }): Asked {
  const text = (name: string, form: RegExp, rule: string): string => {
    const value = payload[name];
    if (typeof value === 'string' && form.test(value)) return value;
    const message = `/payload/${name} must be ${rule} with the protocol ${protocol}`;
    throw new NoaError('INVALID_ARGUMENT', message);
  };
  const rpc = (name: string): Asked => ({ transport: 'grpc', method: 'POST', path: `/${name}` });
  const kind = KINDS[protocol];
  if (kind !== undefined) return rpc(kind);
  if (protocol === 'grpc') {
    const method = text('method', /^[A-Za-z]\w{0,63}$/, 'the name of a method');
    return rpc(
      `${text('service', /^[A-Za-z][\w.]{0,127}$/, 'the full name of a service')}/${method}`,
    );
  }
  if (protocol === 'plugin') {
    const plugin = text('plugin', /^[a-z][a-z0-9-]{0,47}$/, 'the name of a plugin');
    const name = text('export', /^[A-Za-z]\w{0,63}$/, 'the name of an export');
    return { transport: 'http', method: 'POST', path: `/v1/plugins/${plugin}/exports/${name}` };
  }
  const path = text('path', /^\/[!-~]{0,4095}$/, 'a path that starts with /');
  const method =
    payload['method'] === undefined
      ? 'GET'
      : text('method', /^[A-Z]{1,16}$/, 'a method in capitals');
  return { transport: 'http', method, path };
}

export function findTarget(options: TargetOptions, asked: Asked): Found {
  if (asked.transport === 'grpc') return rpcTarget(options, asked.path.slice(1));
  const method = asked.method === 'HEAD' ? 'GET' : asked.method;
  const path = pathOf(asked.path);
  if (/^\/plugins\/[^/]/.test(path)) return pluginRoute(options, method, path);
  const own = rootRoute(options, method, path);
  if (own !== undefined) return own;
  const mounted = mountedAt(options.routes(), method, path);
  if (mounted !== undefined) return hostRoute(options, mounted, method, path);
  const route = options.upstreams.match(path);
  if (route === undefined) return nothing(`${method} unmatched`, path, method);
  const { name, methods, scope = null, timeout_ms, strip_prefix, path: prefix } = route.config;
  return {
    operation: `${method} ${prefix === '/' ? '' : prefix}/*`,
    permission: scope,
    target: () => {
      if (!methods.includes(method)) throw notTaken(method, methods);
      targetBelow(path, prefix, strip_prefix);
      return { kind: 'upstream', route: name, servers: route.upstreams.length };
    },
    deadlineMs: () => timeout_ms,
  };
}

function rpcTarget({ plugins, serving }: TargetOptions, name: string): Found {
  const find = (): Call => {
    for (const { name: plugin, enabled, state } of plugins()) {
      if (!enabled || state !== 'serving') continue;
      const running = serving(plugin);
      const spec = running.manifest.contributes?.grpc?.find(({ method }) => method === name);
      if (spec !== undefined) return { running, export: spec.export };
    }
    throw new NoaError('METHOD_NOT_ALLOWED', `no plugin that serves answers ${name.slice(0, 200)}`);
  };
  return callOf(name, null, find);
}

function pluginRoute({ serving }: TargetOptions, method: string, path: string): Found {
  const [, , plugin = '', ...segments] = path.split('/');
  const below = segments.length === 0 ? [] : segmentsOf(`/${segments.join('/')}`);
  let running: Serving;
  try {
    running = serving(plugin);
  } catch (error) {
    return failing(`${method} /plugins/:name/*`, error);
  }
  const match = new RouteTable(running.manifest).match(method, below);
  if ('route' in match) {
    const { label, export: name } = match.route;
    return callOf(`${method} ${label}`, null, () => ({ running, export: name }));
  }
  const { allow } = match;
  if (allow.length === 0) return nothing(`${method} /plugins/:name/*`, path, method);
  return failing(`${method} /plugins/:name/*`, notTaken(method, allow));
}

/** Of a built-in plugin. */
function rootRoute({ builtins = [], serving }: TargetOptions, method: string, path: string) {
  const routes = builtins.flatMap((manifest) =>
    rootRoutesOf(manifest).map((spec) => ({ url: spec.path, manifest, ...spec })),
  );
  const found = mountedAt(routes, method, path);
  if (found === undefined) return undefined;
  const call = () => ({ running: serving(found.manifest.name), export: found.export });
  return callOf(`${method} ${found.url}`, null, call);
}

function hostRoute(
  { serving }: TargetOptions,
  { url, contract }: MountedRoute,
  method: string,
  path: string,
): Found {
  const operation = `${method} ${url}`;
  const permission = contract?.scope ?? null;
  if (url === '/v1/plugins/:name/exports/:export') {
    const [, , , plugin = '', , name = ''] = path.split('/');
    return callOf(operation, permission, () => ({ running: serving(plugin), export: name }));
  }
  return { operation, permission, target: () => ({ kind: 'host' }), deadlineMs: () => null };
}

interface Call {
  readonly running: Serving;
  readonly export: string;
}

function callOf(operation: string, permission: string | null, find: () => Call): Found {
  const served = ({ running, export: name }: Call) => {
    const target = running.exports.get(name);
    if (target !== undefined) return target;
    const text = `plugin ${running.manifest.name} has no export ${JSON.stringify(name.slice(0, 64))}`;
    throw new NoaError('NOT_FOUND', text);
  };
  return {
    operation,
    permission,
    target: () => {
      const call = find();
      served(call);
      const { name: plugin, version } = call.running.manifest;
      return { kind: 'plugin', plugin, version, export: call.export };
    },
    deadlineMs: () => served(find()).timeoutMs,
  };
}

/** The pattern that fits; a fixed segment wins over a parameter. */
function mountedAt<Route extends Pick<MountedRoute, 'method' | 'url'>>(
  routes: readonly Route[],
  method: string,
  path: string,
): Route | undefined {
  const segments = segmentsOf(path);
  const isParameter = (segment: string) => segment.startsWith(':');
  const fitting = routes.filter((route) => {
    const pattern = segmentsOf(route.url);
    if (route.method !== method || pattern.length !== segments.length) return false;
    return pattern.every((each, i) => isParameter(each) || each === segments[i]);
  });
  const parameters = ({ url }: Route) => segmentsOf(url).filter(isParameter).length;
  return fitting.toSorted((a, b) => parameters(a) - parameters(b))[0];
}

function nothing(operation: string, path: string, method: string): Found {
  const text = `there is nothing at ${JSON.stringify(path.slice(0, 200))} for ${method}`;
  return failing(operation, new NoaError('NOT_FOUND', text));
}

function failing(operation: string, error: unknown): Found {
  const fail = (): never => {
    throw error;
  };
  return { operation, permission: null, target: fail, deadlineMs: fail };
}

function notTaken(method: string, allow: readonly string[]): NoaError {
  return new NoaError(
    'METHOD_NOT_ALLOWED',
    `${method} is not for this path: use ${allow.join(', ')}`,
  );
}
