/**
 * The HTTP front over the real kernel. Only the ends are doubles: the state is in memory, a bundle is its
 * manifest as JSON, and a plugin's exports are functions of the test.
 */
import { createHash, randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Driver, type Json, type Manifest, NoaError, parseManifest } from '@noa/sdk/host';
import { createStreamDriver } from '../../capabilities/stream/caller.ts';
import { stream } from '../../capabilities/stream/capability.ts';
import type { DenialRecord } from '../../host/gateway/denials.ts';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import { plugin as pluginCapability } from '../../capabilities/plugin/capability.ts';
import { createLocalDriver } from '../../capabilities/plugin/local.ts';
import { gateway as gatewayCapability } from '../../capabilities/gateway/capability.ts';
import { createGatewayDriver } from '../../capabilities/gateway/host.ts';
import { isOwnPath } from '../../host/config/routes.ts';
import { Hooks } from '../../host/gateway/hooks.ts';
import { UpstreamRoutes } from '../../host/gateway/upstream/routes.ts';
import type { CapabilityEntry } from '../../host/kernel/broker.ts';
import { DeadLetters } from '../../host/kernel/dead-letters.ts';
import { emitOf, streamsOf } from '../../host/kernel/emission.ts';
import type { DeliveryStore } from '../../host/kernel/events.ts';
import { isChain } from '../../host/kernel/chain.ts';
import { Kernel, type KernelPowers } from '../../host/kernel/kernel.ts';
import type { Loader, Runtime, RuntimeCall } from '../../host/kernel/loader.ts';
import type { AccessEntry, HttpObservation } from '../../host/transports/exchange.ts';
import { createHttpServer, type HttpServerOptions } from '../../host/transports/http.ts';
import { openApi } from '../../host/transports/openapi/document.ts';
import { Conformance, type OpenApiDocument } from './conformance.ts';
import { MemoryEvents } from './memory-events.ts';
import { MemoryCallerTokens, MemoryStore } from './memory-store.ts';

export const ADMIN = 'admin-token-of-at-least-32-characters';
export const READER = 'reader-token-of-at-least-32-character';

const MODEL = {
  id: 'm',
  version: '1.0.0',
  task: 'embedding',
  state: 'available',
  backend: 'local',
} as const;

type Export = (input: Json, call: RuntimeCall) => unknown;
export type Exports = { readonly [name: string]: Export };

/** What a plugin answers when it does not care for JSON. */
export class RawText {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  instance: string;
  traceId: string;
  errors?: { path: string; rule: string; message: string }[];
}

/** A manifest with what every manifest has. */
export function manifest(part: Partial<Manifest> & Pick<Manifest, 'name' | 'exports'>): Manifest {
  return { version: '1.0.0', runtime: { kind: 'wasm', file: 'p.wasm' }, ...part };
}

/** What the test's loader and bundle reader take for a bundle. */
export function bundle(content: Manifest): Buffer {
  return Buffer.from(JSON.stringify(content));
}

/** Nothing is ever delivered here, and so nothing fails. */
const noDeliveries: DeliveryStore = {
  lease: () => Promise.resolve({ waitMs: 1000 }),
  advance: () => Promise.resolve(false),
  release: () => Promise.resolve(false),
  bury: () => Promise.resolve(false),
  letters: () => Promise.resolve([]),
  letter: () => Promise.resolve(undefined),
  keepLetter: () => Promise.resolve(),
  dropLetters: () => Promise.resolve(0),
};

function loaderOf(exports: Map<string, Exports>): Loader {
  return {
    inspect: () => Promise.resolve(),
    close: () => Promise.resolve(),
    load: ({ plugin }): Promise<Runtime> => {
      const functions = exports.get(plugin);
      if (functions === undefined) throw new NoaError('INVALID_ARGUMENT', 'it does not start');
      return Promise.resolve({
        call: async (call) => {
          const output = await functions[call.export]?.(JSON.parse(call.input) as Json, call);
          return output instanceof RawText ? output.text : JSON.stringify(output ?? null);
        },
        stats: () => ({ instances: 1, memoryBytes: 65_536 }),
        stop: () => Promise.resolve(),
      });
    },
  };
}

const storage: CapabilityEntry = {
  capability: {
    name: 'store',
    summary: 'for tests',
    resource: 'a name',
    operations: {
      get: { summary: 'get', input: { type: 'object' }, output: {}, idempotent: true },
    },
    normalizeResource: (pattern) => pattern,
  },
  driver: {
    invoke: () => Promise.resolve({}),
    check: () => Promise.resolve(),
    close: () => Promise.resolve(),
  },
};

function pluginDriver(call: Parameters<KernelPowers['capabilities']>[0]): Driver {
  return createLocalDriver((target, { chain, signal, deadline }) => {
    if (!isChain(chain)) throw new TypeError('the call carries no chain');
    const { plugin, export: name, input = null, budget } = target;
    return call({ plugin, export: name, input, budget, chain, signal, deadline });
  });
}

export interface Answer<T = Record<string, unknown>> {
  status: number;
  headers: Headers;
  body: T;
  text: string;
}

export async function startFront(
  options: Partial<HttpServerOptions> = {},
  address = { host: '127.0.0.1', port: 0 },
) {
  const observed: HttpObservation[] = [];
  const logged: AccessEntry[] = [];
  const denied: DenialRecord[] = [];
  const hooked: string[] = [];
  const failing: string[] = [];
  const errors: { message: string; error: unknown }[] = [];
  const exports = new Map<string, Exports>();
  const kernel = new Kernel({
    store: new MemoryStore(),
    callerTokens: new MemoryCallerTokens(),
    loader: loaderOf(exports),
    capabilities: (call) => [
      storage,
      { capability: pluginCapability, driver: pluginDriver(call) },
      { capability: stream, driver: createStreamDriver({ consumer: emitOf, streams: streamsOf }) },
      { capability: gatewayCapability, driver: createGatewayDriver() },
    ],
    readBundle: (bytes) =>
      Promise.resolve().then(() => ({
        manifest: parseManifest(Buffer.from(bytes).toString()),
        wasm: bytes,
        migrations: [],
      })),
    rootKey: createHash('sha256').update('root').digest(),
    hostId: 'test',
    tokenLifeSeconds: 120,
    drainMs: 100,
    now: Date.now,
    newId: randomUUID,
    onTransition: () => undefined,
    onRemoved: () => undefined,
    onError: (message, error) => errors.push({ message, error }),
    observeCall: () => undefined,
    observeCapability: () => undefined,
    observeCost: () => undefined,
    pluginLog: () => undefined,
  });
  await kernel.start();
  const hooks = new Hooks({
    snapshot: () => kernel.supervisor.snapshot,
    dispatch: (invocation) => kernel.dispatcher.dispatch(invocation),
    timeoutMs: 500,
    now: Date.now,
    observe: (plugin, on, outcome) => hooked.push(`${plugin} ${on} ${outcome}`),
    onFailing: ({ plugin }, reason) => failing.push(`${plugin} ${reason ?? 'works'}`),
  });
  const server = createHttpServer({
    version: '9.9.9',
    administration: kernel.administration,
    callers: kernel.callers,
    secrets: kernel.secrets,
    models: {
      list: () => Promise.resolve([MODEL]),
      load: () => Promise.resolve({ ...MODEL, state: 'ready' }),
      unload: () => Promise.resolve(MODEL),
    },
    hosts: {
      list: () =>
        Promise.resolve([
          {
            id: 'test',
            version: '9.9.9',
            url: 'http://127.0.0.1',
            state: 'present',
            startedAt: '2026-01-01T00:00:00.000Z',
            seenAt: '2026-01-01T00:00:00.000Z',
          },
        ]),
    },
    configuration: kernel.configuration,
    health: (name) => kernel.health.view(kernel.administration.plugin(name), 0),
    deadLetters: new DeadLetters({
      store: noDeliveries,
      dispatch: (invocation) => kernel.dispatcher.dispatch(invocation),
      audit: kernel.audit,
      noteFailure: (trigger, failure) => kernel.noteTriggered(trigger, failure),
      newId: randomUUID,
      assertPlugin: (name) => void kernel.administration.plugin(name),
      assertServing: (name) => void kernel.supervisor.serving(name),
    }),
    serving: (plugin) => kernel.supervisor.serving(plugin),
    dispatch: (invocation) => kernel.dispatcher.dispatch(invocation),
    manifests: () => kernel.supervisor.manifests(),
    guardReference: false,
    logs: (plugin, { since, limit }) => ({
      lines: [
        { seq: since + 1, timestamp: '2026-01-01T00:00:00Z', level: 'info', message: plugin },
      ],
      next: since + limit,
    }),
    events: new MemoryEvents(),
    hooks,
    upstreams: new UpstreamRoutes({ now: () => 0, isOwnPath, onBreaker: () => undefined }),
    gateway: new Gateway({
      authenticator: new Authenticator({
        credentials: [
          { token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } },
          { token: READER, principal: { subject: 'reader', scopes: [] } },
        ],
        now: Date.now,
      }),
      denied: (denial) => denied.push(denial),
    }),
    checks: {},
    metrics: () => Promise.resolve({ contentType: 'text/plain; version=0.0.4', text: 'up 1\n' }),
    maxBodyBytes: 64 << 10,
    maxBundleBytes: 256 << 10,
    now: Date.now,
    observe: (observation) => observed.push(observation),
    access: (entry) => logged.push(entry),
    onError: (message, error) => errors.push({ message, error }),
    ...options,
  });
  const { url, port } = await server.listen(address);

  const described = openApi({ version: '9.9.9', routes: server.routes, manifests: [] });
  const document = JSON.parse(JSON.stringify(described)) as OpenApiDocument;
  const conformance = new Conformance(document);

  /** `token` null sends none. Rejects when the answer is not as the OpenAPI document says. */
  async function request<T = Record<string, unknown>>(
    method: string,
    path: string,
    { token = ADMIN, ...init }: RequestInit & { token?: string | null } = {},
  ): Promise<Answer<T>> {
    const headers = new Headers(init.headers);
    if (token !== null) headers.set('authorization', `Bearer ${token}`);
    const response = await fetch(url + path, { ...init, method, headers });
    const text = await response.text();
    const { status } = response;
    const fault = conformance.fault(method, path, { status, headers: response.headers, text });
    if (fault !== undefined) throw new Error(`not as the OpenAPI document says: ${fault}`);
    const isJson = /json/.test(response.headers.get('content-type') ?? '');
    const body = (isJson && text !== '' ? JSON.parse(text) : {}) as T;
    return { status, headers: response.headers, body, text };
  }

  return {
    url,
    port,
    kernel,
    server,
    observed,
    logged,
    denied,
    hooks,
    hooked,
    failing,
    errors,
    request,
    get: <T = Record<string, unknown>>(path: string) => request<T>('GET', path),
    post: <T = Record<string, unknown>>(path: string, body?: Json) =>
      request<T>(
        'POST',
        path,
        body === undefined
          ? {}
          : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } },
      ),
    /** Installs a plugin whose exports are these functions; it needs no grant. */
    install: async (content: Manifest, functions: Exports): Promise<void> => {
      exports.set(content.name, functions);
      await kernel.administration.install(bundle(content), 'test');
    },
    raw: (text: string, options?: RawOptions) => raw(port, text, options),
    close: async (graceMs = 0): Promise<void> => {
      await server.close({ graceMs });
      await kernel.close();
    },
  };
}

interface RawOptions {
  /** Sent one after the other with a pause between, for clients that are slow on purpose. */
  readonly later?: readonly string[];
  readonly pauseMs?: number;
}

/** Writes bytes as they are and answers all that comes back until the server ends the connection. */
async function raw(port: number, first: string, { later = [], pauseMs = 50 }: RawOptions = {}) {
  const socket = connect(port, '127.0.0.1');
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.on('error', () => undefined); // a reset is an end too
  socket.write(first);
  for (const part of later) {
    await sleep(pauseMs);
    socket.write(part);
  }
  await closed;
  return text;
}
