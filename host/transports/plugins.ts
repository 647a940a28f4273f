/**
 * Calls of plugins over HTTP: the routes that manifests contribute, below `/plugins/:name`, and any export
 * by name for administrators. A request is matched before its body is read. Invariant: what reaches the
 * dispatcher is exactly the value that its schema will judge, written as JSON anew: a body's own text
 * could say a name twice and mean one thing to the host's parser and another to a guest's.
 */
import { type ErrorCode, type Json, NoaError, type TextParameters } from '@noa/sdk/host';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Invocation, Outcome } from '../kernel/invocation.ts';
import type { Serving } from '../kernel/serving.ts';
import { PLUGIN_PATH } from './admin-schemas.ts';
import { principalOf } from './identity.ts';
import { pathOf } from './problem.ts';
import { refuseMethod, resource } from './resource.ts';
import { type Route, RouteTable, segmentsOf } from './route-table.ts';
import type { StreamedCalls } from './streams/calls.ts';

/** What a call of an export may end in, beside what any request may. */
export const CALL_ERRORS: readonly ErrorCode[] = [
  'CAPABILITY_DENIED',
  'NOT_FOUND',
  'CONFLICT',
  'GRANT_PENDING',
  'PLUGIN_DISABLED',
  'RESOURCE_EXHAUSTED',
  'PLUGIN_TRAP',
  'PLUGIN_OUTPUT_INVALID',
  'PLUGIN_QUARANTINED',
  'DEADLINE_EXCEEDED',
];

const JSON_TYPE = 'application/json; charset=utf-8';

export interface PluginsOptions {
  /** The running version of a plugin. Throws NoaError when there is none, saying why. */
  readonly serving: (plugin: string) => Serving;
  readonly dispatch: (invocation: Invocation) => Promise<Outcome>;
}

/** What a request for a plugin's route is for; known before its body. */
interface Target {
  readonly route: Route;
  /** Of the path below the plugin, decoded. */
  readonly segments: readonly string[];
}

/** Why it is for nothing: told once the gateway has admitted the request. */
type Miss = { readonly allow: readonly string[] } | { readonly error: unknown };

declare module 'fastify' {
  interface FastifyRequest {
    target: Target | Miss | undefined;
  }
}

/** ANY /plugins/:name/… */
export function registerPluginRoutes(
  scope: FastifyInstance,
  options: PluginsOptions,
  calls: StreamedCalls,
): void {
  const tables = new WeakMap<Serving, RouteTable>();
  const tableOf = (serving: Serving): RouteTable => {
    let table = tables.get(serving);
    if (table === undefined) tables.set(serving, (table = new RouteTable(serving.manifest)));
    return table;
  };

  const find = (request: FastifyRequest): Target | Miss => {
    const path = pathOf(request.raw.url);
    const start = path.indexOf('/', 1) + 1;
    const slash = path.indexOf('/', start);
    const end = slash < 0 ? path.length : slash;
    const name = decodeSegment(path.slice(start, end));
    const serving = options.serving(name);
    request.exchange.serving = serving;
    const segments = segmentsOf(path.slice(end)).map(decodeSegment);
    const match = tableOf(serving).match(request.method, segments);
    if ('route' in match) {
      request.exchange.route = match.route.label;
      return { route: match.route, segments };
    }
    if (match.allow.length > 0) return match;
    const advice = `noa plugin show ${name} lists its routes`;
    throw new NoaError('NOT_FOUND', `plugin ${name} has no route for this path; ${advice}`);
  };

  const operation = (request: FastifyRequest): string => {
    try {
      request.target = find(request);
    } catch (error) {
      request.target = { error };
    }
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    return `${method} ${request.exchange.route ?? '/plugins/:name/*'}`;
  };

  scope.decorateRequest('target');
  for (const url of ['/plugins/:name', '/plugins/:name/*']) {
    scope.route({
      method: scope.supportedMethods,
      url,
      config: { contract: null, operation }, // manifests say what is below
      preParsing: (request, reply, _payload, done) => {
        const target = request.target as Target | Miss; // set when the operation was asked for
        if ('error' in target) throw target.error;
        if ('allow' in target) refuseMethod(request, reply, target.allow);
        else done();
      },
      handler: async (request, reply) => {
        const { route, segments } = request.target as Target; // all else was refused
        const query = request.query as TextParameters;
        const input = route.input(query, segments, request.body as Json | undefined);
        const call = invocation(request, route.export, input);
        if (calls.takes(request, call)) {
          return calls.answer(request, reply, call);
        }
        const outcome = await options.dispatch(call);
        return answer(reply, route.status, outcome.text);
      },
    });
  }
}

/** POST /v1/plugins/:name/exports/:export: the body is the input, and none stands for null. */
export function registerExports(
  scope: FastifyInstance,
  options: PluginsOptions,
  calls: StreamedCalls,
): void {
  resource(scope, '/v1/plugins/:name/exports/:export', {
    POST: {
      summary: 'Call any export of a plugin',
      description:
        "The body is the input and the answer is the output, both by the export's schemas; no body stands for null.",
      tag: 'Plugins',
      scope: 'plugins:call',
      path: { ...PLUGIN_PATH, export: { type: 'string', description: 'Name of the export.' } },
      answers: { 200: { description: 'The output of the export.' } },
      frames:
        'Of an export with `stream: true`: `data` with an `id` for each value that it emits, then `event: result` with its output, or `event: error` with a problem.',
      errors: CALL_ERRORS,
      body: {},
      before: (request) => {
        request.exchange.serving = options.serving((request.params as { name: string }).name);
      },
      run: async (request, reply) => {
        const name = (request.params as { export: string }).export;
        const call = invocation(request, name, request.body as Json);
        if (calls.takes(request, call)) {
          return calls.answer(request, reply, call);
        }
        const outcome = await options.dispatch(call);
        return answer(reply, 200, outcome.text);
      },
    },
  });
}

export function invocation(request: FastifyRequest, name: string, input: Json): Invocation {
  const { exchange } = request;
  const { manifest } = exchange.serving as Serving; // set before the body was read
  return {
    id: exchange.id,
    plugin: manifest.name,
    export: name,
    input,
    text: write(input),
    principal: principalOf(request),
    signal: exchange.signal,
    traceId: exchange.trace.traceId,
    span: exchange.trace.span,
  };
}

/** The plugin's own text goes out as it is: the dispatcher has read and judged it. */
export function answer(reply: FastifyReply, status: number, json: string): FastifyReply {
  void reply.code(status);
  if (status === 204 || status === 205) return reply.send();
  return reply.header('content-type', JSON_TYPE).send(json);
}

function write(input: Json): string {
  try {
    return JSON.stringify(input);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new NoaError('INVALID_ARGUMENT', 'the input is nested too deeply', { cause: error });
  }
}

export function decodeSegment(segment: string): string {
  if (!segment.includes('%')) return segment;
  try {
    return decodeURIComponent(segment);
  } catch (error) {
    throw new NoaError('INVALID_ARGUMENT', 'the path is not valid percent-encoded UTF-8', {
      cause: error,
    });
  }
}
