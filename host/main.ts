/**
 * The composition root of a process that serves: opens everything in order, hands each part what it needs,
 * and closes in reverse, also when the start fails half-way. Beside the engines of the machine, nothing
 * else in the host creates a driver, a pool or a server.
 */
import { hkdfSync, randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { BUNDLE_LIMITS, type Driver, type Json, readBundle } from '@noa/sdk/host';
import { createRedisDriver } from '../capabilities/cache/redis.ts';
import { createClockDriver } from '../capabilities/clock/system.ts';
import { connectionConfig } from '../capabilities/db/connection.ts';
import { createPostgresDriver } from '../capabilities/db/postgres.ts';
import { createEventsDriver } from '../capabilities/events/log.ts';
import { readAuthorities } from '../capabilities/http/authorities.ts';
import { createGatewayDriver } from '../capabilities/gateway/host.ts';
import { createHttpDriver } from '../capabilities/http/fetch.ts';
import { createInferenceDriver } from '../capabilities/inference/driver.ts';
import { createLogDriver } from '../capabilities/log/host.ts';
import { createLocalDriver } from '../capabilities/plugin/local.ts';
import { createRandomDriver } from '../capabilities/random/system.ts';
import { createSecretsDriver } from '../capabilities/secrets/host.ts';
import { createStreamDriver } from '../capabilities/stream/caller.ts';
import { builtinBytes, builtinCapabilities } from './builtin.ts';
import type { Config } from './config.ts';
import type { AuditEvent } from './kernel/audit.ts';
import type { Engines } from './engines.ts';
import { openEventLog, startDelivery } from './events.ts';
import { denialEvent } from './gateway/denials.ts';
import { Gateway } from './gateway/gateway.ts';
import { createIdentity } from './gateway/identity/identity.ts';
import { openLimits } from './gateway/shared-counters.ts';
import { isChain } from './kernel/chain.ts';
import { emitOf, streamsOf } from './kernel/emission.ts';
import { Kernel, type PluginCall } from './kernel/kernel.ts';
import { RateLimiter } from './kernel/rate.ts';
import { Seal } from './kernel/seal.ts';
import type { Bundle } from './kernel/store.ts';
import type { Supervisor } from './kernel/supervisor.ts';
import { createBuiltinLoader } from './loaders/builtin/loader.ts';
import { createNativeLoader, type NativeLoad } from './loaders/native/loader.ts';
import { createProcessLoader } from './loaders/process/loader.ts';
import { createTieredLoader } from './loaders/select.ts';
import { createWasmLoader } from './loaders/wasm/loader.ts';
import { PostgresCallerTokens } from './store/caller-tokens.ts';
import { openIdempotency } from './store/idempotency.ts';
import { PostgresIdentities } from './store/identities.ts';
import { HostRegister } from './store/hosts.ts';
import { runMigrations } from './store/migrate.ts';
import { openStatePool } from './store/pool.ts';
import { PostgresStore } from './store/postgres.ts';
import type { Logs, PluginLines } from './telemetry/logs.ts';
import { createMetrics, type Metrics } from './telemetry/metrics.ts';
import { Traces } from './telemetry/traces.ts';
import { createGrpc } from './transports/grpc/server.ts';
import { createHttpServer } from './transports/http.ts';
import type { Metrics as Exposition } from './transports/metrics.ts';
import { openHooks } from './hooks.ts';
import { openTls } from './tls.ts';
import { openModels } from './models.ts';
import { openBuiltins } from './plugins.ts';
import { openUpstreams } from './upstreams.ts';
import { VERSION } from './version.ts';

/** Connections of the host's own state, beside those of the plugins' SQL. */
const STATE_CONNECTIONS = 5;

/** What a process that serves is given: it may be one of several on the engines of one machine. */
export interface Base {
  readonly engines: Engines;
  readonly logs: Logs;
  /** The lines of plugins, for administrators; of all processes together. */
  readonly pluginLines: PluginLines;
  /** What GET /metrics answers when it is more than this process's own. */
  readonly exposeAll?: () => Promise<Exposition>;
  /** Has the other processes take over what this one has changed; see `KernelPowers.converge`. */
  readonly converge?: () => Promise<void>;
}

/** One process's kernel with its front, open to callers. */
export interface Front {
  readonly url: string;
  readonly metrics: Metrics;
  /** Takes over what another process has changed. */
  sync(): Promise<void>;
  /** Takes what may change while running. */
  reload(config: Config): void;
  /** Finishes what runs, then closes everything but the base. Idempotent. */
  stop(): Promise<void>;
}

/** Starts to serve. `onProgress` hears of steps that take seconds. Rejects with NoaError for the operator. */
export async function startFront(
  config: Config,
  base: Base,
  onProgress: (step: string) => void,
): Promise<Front> {
  await using parts = new AsyncDisposableStack();
  const { engines, logs, pluginLines } = base;
  const log = logs.logger('host');
  const onError = (message: string, error: unknown) => log.error({ error }, message);
  const onNotice = (message: string) => log.warn(message);
  const { rootKey, databaseUrl, hostId } = engines;
  const tls = await openTls(config.server.tls, engines.path, log);
  await runMigrations(connectionConfig(databaseUrl), 'up');
  const { pool } = parts.use(
    openStatePool({ ...connectionConfig(databaseUrl), max: STATE_CONNECTIONS }, (error) =>
      onError('a connection to the database was lost', error),
    ),
  );
  const { events } = parts.use(
    openEventLog(pool, connectionConfig(databaseUrl), config.events, onError),
  );
  const db = createPostgresDriver({
    url: databaseUrl,
    rolePassword: (role) => derive(rootKey, `noa/db-role/${role}`),
    warn: onNotice,
    maxConnections: config.database.max_connections,
    quota: { bytes: config.plugins.db_max_bytes },
  });
  parts.defer(() => db.close());

  const cache = createRedisDriver(engines.cache);
  parts.defer(() => cache.close());

  const { http_private_hosts: privateHosts = [], http_ca_path: authorities } = config.plugins;
  const egress = createHttpDriver({
    privateHosts,
    authorities: authorities === undefined ? [] : readAuthorities(authorities),
  });
  parts.defer(() => egress.close());

  const { threads, max_queued_calls, max_bundle_bytes, max_processes, untrusted } = config.plugins;
  const builtins = await openBuiltins(config.plugins.builtin);
  const { allow_native, native = [] } = config.plugins;
  if (allow_native) {
    const words = `plugins.allow_native: ${native.length} listed modules may run without a sandbox, with all rights of this host's user`;
    log.warn({ native }, words);
  }
  const sandbox = {
    callsPerThread: max_queued_calls,
    maxModuleBytes: max_bundle_bytes,
    bytes: builtinBytes,
  };
  const loader = createTieredLoader({
    shared: createWasmLoader({ ...sandbox, ...(threads === 0 ? {} : { threads }) }),
    isolated: createProcessLoader({
      ...sandbox,
      processes: max_processes,
      hidden: [engines.path, tmpdir()],
      onNotice: (message, about) => log.warn(about, message),
    }),
    native: createNativeLoader({
      ...sandbox,
      processes: max_processes,
      allowed: allow_native,
      listed: native,
      onLoad: (load) => {
        log.warn(load, `native plugin ${load.plugin} runs without a sandbox`);
        kernel.audit.record(nativeEvent(load));
      },
      onNotice: (message, about) => log.warn(about, message),
    }),
    builtin: createBuiltinLoader(builtins),
    untrusted: untrusted ?? [],
  });
  parts.defer(() => loader.close());

  const upstreams = openUpstreams(config.gateway, log);
  parts.defer(() => upstreams.close());
  const metrics = createMetrics({
    version: VERSION,
    databaseConnections: () => pool.totalCount - pool.idleCount + db.busy,
    pluginMemory: () => memoryOf(kernel.supervisor),
    upstreams: () => upstreams.stats(),
  });
  parts.defer(() => metrics.close());
  const tracer = await Traces.open(config.observability, {
    version: VERSION,
    instance: hostId,
    observe: metrics.spans,
    log: logs.logger('traces'),
  });
  parts.defer(() => tracer?.close());
  const { backends, models } = openModels(config.inference, {
    dataPath: engines.path,
    authorities: config.plugins.http_ca_path,
    metrics,
    warn: onNotice,
  });
  const inference = createInferenceDriver({
    backends,
    timeoutMs: config.inference.timeout_ms,
    observe: metrics.inference,
  });
  parts.defer(() => inference.close());
  const eventRate = new RateLimiter(config.events.max_per_second, Date.now);
  const kernel: Kernel = new Kernel({
    store: new PostgresStore(pool),
    callerTokens: new PostgresCallerTokens(pool),
    loader,
    builtins: {
      bundles: builtins.map(({ bundle }) => bundle),
      isApproved: config.plugins.approve_builtin,
    },
    capabilities: (call) =>
      builtinCapabilities({
        db,
        cache: countLookups(cache, metrics.cacheLookup),
        blob: engines.blob,
        secrets: createSecretsDriver((name) => kernel.secrets.read(name)),
        http: egress,
        events: createEventsDriver({
          log: events,
          admit: (plugin, count) => eventRate.take(plugin, 'events.publish of a plugin', count),
        }),
        inference,
        vector: engines.vector,
        gateway: createGatewayDriver(),
        plugin: pluginDriver(call),
        log: createLogDriver({
          write: (plugin, level, text, fields) =>
            logs.plugin(plugin, level, withFields(text, fields)),
        }),
        clock: createClockDriver(),
        random: createRandomDriver(),
        stream: createStreamDriver({ consumer: emitOf, streams: streamsOf }),
      }),
    readBundle: (bytes) => takeApart(bytes, config.plugins.max_bundle_bytes),
    rootKey,
    hostId,
    tokenLifeSeconds: config.auth.token_life_seconds,
    drainMs: config.plugins.drain_ms,
    now: Date.now,
    newId: randomUUID,
    onTransition: ({ plugin, from, to, reason }) => {
      log.info({ plugin, from, to, reason }, `plugin ${plugin} is ${to}`);
      if (from === 'failed' && to === 'discovered') metrics.restart(plugin);
    },
    onRemoved: (plugin) => {
      metrics.forget(plugin);
      pluginLines.forget(plugin);
    },
    onError,
    observeCall: metrics.call,
    observeCapability: metrics.capability,
    observeCost: metrics.cost,
    pluginLog: logs.plugin,
    ...(base.converge && { converge: base.converge }),
  });
  parts.defer(() => kernel.close());
  onProgress('starting plugins');
  await kernel.start();
  const { deadLetters } = parts.use(
    startDelivery({
      kernel,
      events,
      pool,
      config: config.events,
      host: hostId,
      drainMs: config.plugins.drain_ms,
      tracer,
      onError,
    }),
  );

  const { limits } = parts.use(
    openLimits(createRedisDriver(engines.cache), config.gateway.levels, {
      refused: metrics.rateLimited,
      warn: onNotice,
    }),
  );
  const identity = parts.use(
    createIdentity({
      store: new PostgresIdentities(pool),
      audit: kernel.audit,
      callers: kernel.callers,
      rootKey,
      bootstrapToken: engines.bootstrap.token,
      auth: config.auth,
      revision: () => kernel.supervisor.snapshot.revision,
      now: Date.now,
      newId: randomUUID,
      onError,
    }),
  );
  const gateway = new Gateway({
    limits,
    policy: config.gateway,
    authenticator: identity.authenticator,
    denied: (denial) => kernel.audit.record(denialEvent(denial)),
  });
  const { idempotency } = parts.use(
    openIdempotency(pool, new Seal(rootKey), config.gateway.idempotency, onError),
  );
  const hosts = parts.use(new HostRegister(pool, { id: hostId, version: VERSION, onError }));
  const hooks = openHooks({ kernel, config: config.gateway, observe: metrics.hook, log });
  const shared = { gateway, hooks, events, tracer, onError, access: logs.access };
  const http = createHttpServer({
    ...shared,
    identity,
    idempotency,
    upstreams,
    builtins: builtins.map(({ manifest }) => manifest),
    tls,
    grpc: createGrpc({
      ...shared,
      kernel,
      settings: config.server,
      streams: config.streams,
      observe: metrics.grpc,
    }),
    streams: {
      max: config.streams.max_connections,
      maxPerIdentity: config.streams.max_per_identity,
      beatMs: config.streams.heartbeat_ms,
    },
    allowedOrigins: config.server.allowed_origins,
    administration: kernel.administration,
    models,
    callers: kernel.callers,
    secrets: kernel.secrets,
    hosts,
    configuration: kernel.configuration,
    deadLetters,
    health: (name) =>
      kernel.health.view(kernel.administration.plugin(name), pluginLines.dropped(name)),
    logs: (plugin, query) => pluginLines.read(plugin, query),
    serving: (plugin) => kernel.supervisor.serving(plugin),
    dispatch: (invocation) => kernel.dispatcher.dispatch(invocation),
    manifests: () => kernel.supervisor.manifests(),
    guardReference: config.server.openapi === 'authenticated',
    version: VERSION,
    checks: {
      database: () => db.check(),
      cache: () => cache.check(),
      blob: () => engines.blob.check(),
      inference: () => inference.check(),
      vector: () => engines.vector.check(),
    },
    metrics: base.exposeAll ?? metrics.expose,
    maxBodyBytes: config.server.max_body_bytes,
    maxBundleBytes: config.plugins.max_bundle_bytes,
    observe: metrics.http,
    now: Date.now,
  });
  const { url } = await http.listen(config.server);
  parts.defer(() => http.close({ graceMs: config.server.drain_ms }));
  hosts.enter(url);

  const running = parts.move();
  let stopping: Promise<void> | undefined;
  return {
    url,
    metrics,
    sync: () => kernel.supervisor.sync(),
    reload: (next) => {
      logs.setLevel(next.observability.log_level);
      gateway.reload(next.gateway);
      upstreams.configure(next.gateway.routes);
      void http.rotate();
    },
    stop: () => (stopping ??= running.disposeAsync()),
  };
}

/** HKDF-SHA256 (RFC 5869) of the root key, as text. */
function derive(rootKey: Uint8Array, info: string): string {
  return Buffer.from(hkdfSync('sha256', rootKey, '', info, 32)).toString('base64url');
}

function* memoryOf(supervisor: Supervisor): Generator<{ plugin: string; bytes: number }> {
  for (const [plugin, { serving }] of supervisor.units) {
    if (serving) yield { plugin, bytes: serving.runtime.stats().memoryBytes };
  }
}

/** The cache driver, with its hits and misses counted. */
function countLookups(driver: Driver, count: (hit: boolean) => void): Driver {
  const invoke: Driver['invoke'] = async (operation, input, call) => {
    const output = await driver.invoke(operation, input, call);
    if (operation === 'get' && typeof output === 'object' && output !== null && 'value' in output) {
      count(output.value !== null);
    }
    return output;
  };
  return { invoke, check: () => driver.check(), close: () => driver.close() };
}

/** A plugin's log line with its fields as JSON behind it. */
function withFields(message: string, fields: { readonly [name: string]: Json }): string {
  return Object.keys(fields).length === 0 ? message : `${message} ${JSON.stringify(fields)}`;
}

async function takeApart(bytes: Uint8Array, maxBytes: number): Promise<Bundle> {
  const { manifest, files } = await readBundle(bytes, { ...BUNDLE_LIMITS, maxBytes });
  const wasm = files.get(manifest.runtime.file ?? '') ?? new Uint8Array(); // a built-in plugin has none
  const migrations = [...files]
    .filter(([name]) => name.startsWith('migrations/'))
    .map(([name, content]) => ({ name, sql: new TextDecoder().decode(content) }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  return { manifest, wasm, migrations };
}

/** The way back in for a plugin that calls another: the broker has put its chain beside the call. */
function pluginDriver(callPlugin: (call: PluginCall) => Promise<Json>): Driver {
  return createLocalDriver((target, { chain, signal, deadline, span }) => {
    if (!isChain(chain)) throw new TypeError('the call carries no chain');
    const { plugin, export: name, input = null, budget } = target;
    return callPlugin({ plugin, export: name, input, budget, chain, signal, deadline, span });
  });
}

function nativeEvent({ plugin, version, sha256 }: NativeLoad): AuditEvent {
  return {
    kind: 'plugin.native',
    actor: 'host',
    plugin,
    capability: null,
    operation: null,
    resources: [],
    outcome: 'ok',
    code: null,
    details: { version, module: `sha256:${sha256}` },
  };
}
