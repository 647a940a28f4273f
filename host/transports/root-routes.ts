/**
 * The paths of the host that its built-in plugins answer. They are mounted for as long as the host runs,
 * since its version alone decides which there are; whether the plugin serves is told by each answer.
 */
import {
  type Dialect,
  effectiveLimits,
  type Json,
  type Manifest,
  type RouteSpec,
  type TextParameters,
} from '@noa/sdk/host';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type BodyLimit, takeBytes } from './body.ts';
import { OPENAI_FRAMES } from './dialect.ts';
import { answer, decodeSegment, invocation, type PluginsOptions } from './plugins.ts';
import { pathOf } from './problem.ts';
import { refuseMethod } from './resource.ts';
import { compileRoute, segmentsOf } from './route-table.ts';
import { NATIVE_FRAMES, type StreamedCalls } from './streams/calls.ts';

const FRAMES = { openai: OPENAI_FRAMES, oip: NATIVE_FRAMES };

export function registerRootRoutes(
  parent: FastifyInstance,
  manifests: readonly Manifest[],
  options: PluginsOptions,
  calls: StreamedCalls,
): void {
  for (const manifest of manifests) {
    const routes = rootRoutesOf(manifest);
    const types = new Set(routes.flatMap(({ takes = [] }) => takes));
    parent.register((scope, _none, done) => {
      takeBytes(scope, [...types], () => limitOf(manifest));
      const byPath = Map.groupBy(routes, ({ path }) => path);
      for (const [url, specs] of byPath) {
        for (const spec of specs) mount(scope, manifest, spec, options, calls);
        refuseOthers(scope, url, specs);
      }
      done();
    });
  }
}

export function rootRoutesOf({ contributes }: Manifest): RouteSpec[] {
  return (contributes?.routes ?? []).filter(({ at }) => at === 'root');
}

/** Of the route that a path was meant for, when what stands for a parameter in it kept it from being found. */
export function meantDialect(manifests: readonly Manifest[], path: string): Dialect | undefined {
  const asked = segmentsOf(path);
  const meant = manifests.flatMap(rootRoutesOf).find((spec) => {
    const own = segmentsOf(spec.path);
    const fits = own.every((segment, at) => segment.startsWith(':') || segment === asked[at]);
    return fits && own.length === asked.length;
  });
  return meant?.dialect;
}

function mount(
  scope: FastifyInstance,
  manifest: Manifest,
  spec: RouteSpec,
  options: PluginsOptions,
  calls: StreamedCalls,
): void {
  const route = compileRoute(manifest, spec);
  const { dialect, takes, streams } = spec;
  scope.route({
    method: spec.method,
    url: spec.path,
    config: { contract: null, ...(dialect && { dialect }), ...(takes && { bytes: takes }) },
    // Before its body is read: whoever sends learns first that nobody takes it.
    preParsing: (request, _reply, _payload, done) => {
      request.exchange.serving = options.serving(manifest.name);
      done();
    },
    handler: async (request, reply) => {
      const segments = segmentsOf(pathOf(request.raw.url)).map(decodeSegment);
      const query = request.query as TextParameters;
      const input = route.input(query, segments, request.body as Json | undefined);
      const call = invocation(request, route.export, input);
      const isStream = manifest.exports[route.export]?.stream === true;
      if (isStream && (streams === 'body' ? wantsStream(input) : calls.takes(request, call))) {
        return calls.answer(request, reply, call, framesOf(dialect));
      }
      const outcome = await options.dispatch(call);
      const isWhole = !isStream || streams !== 'body';
      return answer(reply, route.status, isWhole ? outcome.text : resultOf(outcome.value));
    },
  });
}

function framesOf(dialect: Dialect | undefined) {
  return dialect === undefined ? NATIVE_FRAMES : FRAMES[dialect];
}

function wantsStream(input: Json): boolean {
  return memberOf(input, 'stream') === true;
}

/** Of `{items, result}`, in which a stream that nobody takes comes: who asked for no stream is given no items. */
function resultOf(value: Json): string {
  return JSON.stringify(memberOf(value, 'result') ?? null);
}

function memberOf(value: Json, name: string): Json | undefined {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject && Object.hasOwn(value, name) ? value[name] : undefined;
}

function refuseOthers(scope: FastifyInstance, url: string, specs: readonly RouteSpec[]): void {
  const [{ dialect } = {}] = specs;
  const taken = specs.flatMap(({ method }) => (method === 'GET' ? [method, 'HEAD'] : [method]));
  scope.route({
    method: scope.supportedMethods.filter((method) => !taken.includes(method)),
    url,
    config: { contract: null, ...(dialect && { dialect }) },
    preParsing: (request: FastifyRequest, reply, _payload, _done) =>
      refuseMethod(request, reply, taken),
    handler: () => undefined,
  });
}

/** Of bytes, which the export is given as base64 with a few words beside them. */
function limitOf(manifest: Manifest): BodyLimit {
  const { name } = manifest;
  const bytes = Math.floor(((effectiveLimits(manifest).maxInputBytes - 4096) / 4) * 3);
  return { bytes, name: `three quarters of limits.maxInputBytes of plugin ${name}` };
}
