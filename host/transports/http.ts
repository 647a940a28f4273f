/**
 * The HTTP front: puts limits, identity, routes and observation together on one fastify instance. There
 * are two scopes: health, open to anyone, and all the rest, unknown paths included, which asks for a
 * credential before anything else is looked at. Invariant: every answer carries the request's ids, and
 * every failure is a problem document.
 */
import type { IncomingMessage } from 'node:http';
import { ERROR_KINDS, type Manifest, NoaError } from '@noa/sdk/host';
import { fastify, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Gateway } from '../gateway/gateway.ts';
import type { Hooks } from '../gateway/hooks.ts';
import type { IdentityService } from '../gateway/identity/identity.ts';
import type { Idempotency } from '../gateway/idempotency.ts';
import type { CallerTokens } from '../kernel/caller-tokens.ts';
import type { Tracer } from '../kernel/tracing.ts';
import { type AdminOptions, registerAdmin } from './admin.ts';
import { registerAuth, registerSelf } from './auth.ts';
import { registerTokens } from './auth-token.ts';
import { admitAll } from './admission.ts';
import { type BodyLimit, takeJson } from './body.ts';
import { registerCallerTokens, registerOwnTokens } from './caller-tokens.ts';
import { collectRoutes, type MountedRoute } from './contract.ts';
import { dialectOf } from './dialect.ts';
import { type AccessEntry, Exchanges, type HttpObservation } from './exchange.ts';
import { registerDocs } from './docs/routes.ts';
import { type HealthOptions, registerHealth } from './health.ts';
import { keepAnswers } from './idempotency.ts';
import { arrivalOf, principalOf } from './identity.ts';
import {
  type Address,
  CONNECTION_LIMITS,
  type ConnectionLimits,
  type Flags,
  type Listening,
  refuseConnection,
} from './listener.ts';
import type { Metrics } from './metrics.ts';
import { type ReferenceOptions, registerReference } from './openapi/routes.ts';
import { type PluginsOptions, registerExports, registerPluginRoutes } from './plugins.ts';
import { Port, type PortOptions } from './port/port.ts';
import { asNoaError, pathOf, sendProblem } from './problem.ts';
import { refuseMethod, resource } from './resource.ts';
import { meantDialect, registerRootRoutes } from './root-routes.ts';
import { hookAll } from './route-hooks.ts';
import { registerRoutePlan } from './route-plan.ts';
import { registerUpstreams, type UpstreamOptions } from './route-upstream.ts';
import { Streams, type StreamsOptions } from './streams/streams.ts';
import { readRequestId } from './trace.ts';

export const HTTP_FLAGS: Flags = { host: '--host', port: '--port' };

/** Longest segment of a path that names something of the host. */
const MAX_PARAMETER = 256;

export interface HttpServerOptions
  extends
    PluginsOptions,
    ReferenceOptions,
    Pick<StreamsOptions, 'events' | 'streams' | 'allowedOrigins'>,
    Omit<AdminOptions, 'bundleLimit'>,
    Pick<PortOptions, 'tls' | 'grpc'>,
    Pick<HealthOptions, 'version' | 'checks' | 'now'> {
  readonly gateway: Gateway;
  readonly callers: CallerTokens;
  /** Without it, only the credentials that the gateway was given are known. */
  readonly identity?: IdentityService;
  /** Absent: Idempotency-Key has no effect. */
  readonly idempotency?: Idempotency;
  /** Manifests of the plugins that are parts of this host. */
  readonly builtins?: readonly Manifest[];
  readonly upstreams: UpstreamOptions['upstreams'];
  readonly hooks: Hooks;
  readonly metrics: () => Promise<Metrics>;
  /** Longest body of a request; a plugin's own `limits.maxInputBytes` counts where it is larger. */
  readonly maxBodyBytes: number;
  readonly maxBundleBytes: number;
  readonly limits?: Partial<ConnectionLimits>;
  readonly tracer?: Tracer | undefined;
  readonly observe: (observation: HttpObservation) => void;
  readonly access: (entry: AccessEntry) => void;
  /** For the log: what the callers are not told. */
  readonly onError: (message: string, error: unknown) => void;
}

export interface HttpServer {
  /** Rejects with NoaError in words for an operator when it cannot. */
  listen(address: Address): Promise<Listening>;
  /** Takes the certificate that the files of `tls` hold now. */
  rotate(): Promise<void>;
  /** Finishes what runs, for at most `graceMs`; answers during that end their connections. */
  close(options: { readonly graceMs: number }): Promise<void>;
  readonly app: FastifyInstance;
  /** All that is mounted, once it listens. */
  readonly routes: readonly MountedRoute[];
}

export function createHttpServer(options: HttpServerOptions): HttpServer {
  const exchanges = new Exchanges(options);
  const streams = new Streams(options);
  const open = () => exchanges.open();
  const limits = { ...CONNECTION_LIMITS, ...options.limits };
  const { builtins = [] } = options;
  const fail = (error: unknown, request: FastifyRequest, reply: FastifyReply): void => {
    const shown = asNoaError(error, request);
    // A plugin's fault is in the plugin's log, and must not fill that of the host.
    const own = ERROR_KINDS[shown.code].status >= 500 && !shown.code.startsWith('PLUGIN_');
    if (own && shown.cause !== undefined) {
      options.onError(`request ${request.exchange.id}: ${shown.message}`, shown.cause);
    }
    const meant = dialectOf(request) ?? meantDialect(builtins, pathOf(request.raw.url));
    sendProblem(request, reply, shown, meant);
  };
  const { tls, grpc, onError } = options;
  const port = new Port((request, response) => app.routing(request, response), {
    limits,
    open,
    tls,
    grpc,
    onError,
  });
  const app: FastifyInstance = fastify({
    serverFactory: () => port.server,
    clientErrorHandler: (error, socket) => refuseConnection(error, socket, open),
    // Before routing no hook has run.
    frameworkErrors: (error, request, reply) => {
      exchanges.begin(request, reply);
      fail(error, request, reply);
    },
    genReqId: (raw) => readRequestId(raw.headers['x-request-id']),
    routerOptions: { maxParamLength: MAX_PARAMETER },
    return503OnClosing: false,
  });
  const routes = collectRoutes(app);
  app.decorateRequest('exchange');
  app.addHook('onRequest', (request, reply, done) => {
    exchanges.begin(request, reply);
    assertHost(request.raw);
    done();
  });
  app.setErrorHandler((error, request, reply) => fail(error, request, reply));

  const { administration, gateway, identity } = options;
  const plugins = () => administration.plugins();
  app.register((scope, _none, done) => {
    registerHealth(scope, { ...options, plugins, draining: () => exchanges.draining });
    registerDocs(scope);
    if (!options.guardReference) registerReference(scope, routes, options);
    done();
  });
  app.register((scope, _none, done) => {
    if (identity !== undefined) registerTokens(scope, { gateway, identity, onError });
    done();
  });
  app.register((scope, _none, done) => {
    registerPrivate(scope, options, streams);
    const { advice } = administration;
    registerRoutePlan(scope, { ...options, routes: () => routes, plugins, advice });
    streams.registerSockets(app, scope);
    if (options.guardReference) registerReference(scope, routes, options);
    done();
  });

  return {
    app,
    routes,
    listen: async (address) => {
      await app.ready();
      return port.listen(address, HTTP_FLAGS);
    },
    rotate: () => port.rotate(),
    close: async ({ graceMs }) => {
      exchanges.drain();
      streams.drain(graceMs);
      await port.close(graceMs);
      await app.close();
    },
  };
}

/** RFC 9112 section 3.2; HTTP/2 says it as `:authority`, and may say it twice (RFC 9113 section 8.3.1). */
function assertHost({ headers, httpVersion }: IncomingMessage): void {
  const { host, ':authority': authority = host } = headers;
  if (host === undefined && httpVersion !== '1.0') {
    throw new NoaError('INVALID_ARGUMENT', 'host: is required');
  }
  if (host !== authority) {
    throw new NoaError('INVALID_ARGUMENT', 'host: is not what :authority says; send one of them');
  }
}

/** All that asks for a credential. */
function registerPrivate(
  scope: FastifyInstance,
  options: HttpServerOptions,
  streams: Streams,
): void {
  const { gateway } = options;
  scope.addHook('onRequest', (request, _reply, proceed) => {
    const principal = gateway.identify(arrivalOf(request));
    if (!(principal instanceof Promise)) {
      request.exchange.principal = principal;
      return proceed();
    }
    principal.then((found) => {
      request.exchange.principal = found;
      proceed();
    }, proceed);
  });
  admitAll(scope, gateway);
  hookAll(scope, gateway, options.hooks);
  if (options.idempotency !== undefined) keepAnswers(scope, options.idempotency);
  takeJson(scope, (request) => bodyLimit(request, options.maxBodyBytes));
  scope.setNotFoundHandler(notFound);
  registerPluginRoutes(scope, options, streams.calls);
  registerRootRoutes(scope, options.builtins ?? [], options, streams.calls);
  const { upstreams } = options;
  const { stallTimeoutMs: stallMs } = { ...CONNECTION_LIMITS, ...options.limits };
  registerUpstreams(scope, { gateway, upstreams, stallMs, maxParameter: MAX_PARAMETER });
  registerSelf(scope);
  registerOwnTokens(scope, options.callers);
  scope.register((admin, _none, done) => {
    admin.addHook('preParsing', (request, _reply, _payload, next) => {
      const { scope: needed = 'admin' } = request.exchange.matched.config.contract ?? {};
      gateway.requireScope(arrivalOf(request), principalOf(request), needed);
      next();
    });
    const bundleLimit = { bytes: options.maxBundleBytes, name: 'plugins.max_bundle_bytes' };
    resource(admin, '/metrics', {
      GET: {
        summary: 'Read the metrics of the host',
        tag: 'Health',
        scope: 'metrics:read',
        answers: { 200: { type: 'string' } },
        mediaType: 'text/plain',
        run: async (_request, reply) => {
          const { contentType, text } = await options.metrics();
          return reply.header('content-type', contentType).send(text);
        },
      },
    });
    registerAdmin(admin, { ...options, bundleLimit });
    registerCallerTokens(admin, options.callers);
    if (options.identity !== undefined) registerAuth(admin, options.identity);
    registerExports(admin, options, streams.calls);
    streams.register(admin);
    done();
  });
}

function bodyLimit(request: FastifyRequest, maxBodyBytes: number): BodyLimit {
  const { limits, manifest } = request.exchange.serving ?? {};
  return limits !== undefined && limits.maxInputBytes > maxBodyBytes
    ? { bytes: limits.maxInputBytes, name: `limits.maxInputBytes of plugin ${manifest?.name}` }
    : { bytes: maxBodyBytes, name: 'server.max_body_bytes' };
}

/** Methods that no path knows have not come through any route. */
function notFound(request: FastifyRequest, reply: FastifyReply): void {
  const { supportedMethods } = request.server;
  if (!supportedMethods.includes(request.method)) {
    return refuseMethod(request, reply, supportedMethods);
  }
  throw new NoaError('NOT_FOUND', `there is nothing at this path for ${request.method}`);
}
