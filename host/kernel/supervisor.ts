/**
 * Makes what runs follow what is recorded. `sync` reads the state and brings each plugin whose part of
 * it changed to where it belongs, one change at a time; a plugin that fails harms no other. Invariant:
 * only a plugin in state `serving` has a runtime that takes calls.
 */
import {
  type DriverGrant,
  compileSchema,
  effectiveLimits,
  type Json,
  type Manifest,
  NoaError,
} from '@noa/sdk/host';
import type { CapabilityEntry } from './broker.ts';
import { effectiveRights, type Grant, undecided } from './grants.ts';
import { Life, notServing, type Transition } from './lifecycle.ts';
import type { Loader, LogLevel } from './loader.ts';
import { resolve } from './resolver.ts';
import { Serving } from './serving.ts';
import type { Bundle, PluginRecord, Snapshot, Store } from './store.ts';
import type { TokenService } from './tokens.ts';

/** A failed start is tried again after 1, 2, 4 … seconds, this many times, then quarantined. */
const MAX_STARTS = 5;
const MAX_BACKOFF_MS = 30_000;

export interface SupervisorOptions {
  readonly store: Store;
  readonly loader: Loader;
  readonly capabilities: readonly CapabilityEntry[];
  readonly tokens: TokenService;
  /** Takes a bundle apart; it has been judged at its installation. */
  readonly readBundle: (bytes: Uint8Array) => Promise<Bundle>;
  /** Names this run of this host; part of every token's audience. */
  readonly hostRun: string;
  /** Longest wait for running calls when a version is replaced or stopped. */
  readonly drainMs: number;
  readonly now: () => number;
  readonly onTransition: (transition: Transition) => void;
  /** The plugin is gone: what others keep of it can be forgotten. */
  readonly onRemoved: (plugin: string) => void;
  readonly onError: (message: string, error: unknown) => void;
  readonly pluginLog: (plugin: string, level: LogLevel, message: string) => void;
}

/** One plugin in this host. */
export class Unit {
  readonly life: Life;
  serving: Serving | undefined;
  /** What the unit was last brought to; nothing is done while that is unchanged. */
  applied = '';
  failures = 0;
  retry: NodeJS.Timeout | undefined;
  restarts = 0;

  constructor(name: string, onTransition: (transition: Transition) => void) {
    this.life = new Life(name, onTransition);
  }
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #units = new Map<string, Unit>();
  #snapshot: Snapshot = { revision: -1, plugins: [], versions: [], grants: [], keys: [] };
  #approved = new Set<string>();
  #generation = 0;
  #turn: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  get units(): ReadonlyMap<string, Unit> {
    return this.#units;
  }

  /** Asked by the door at every call. */
  isApproved(grant: string): boolean {
    return this.#approved.has(grant);
  }

  /** The running version of a plugin. Throws NOT_FOUND, GRANT_PENDING, PLUGIN_DISABLED … when there is none. */
  serving(plugin: string): Serving {
    const unit = this.#units.get(plugin);
    if (unit === undefined) {
      throw new NoaError(
        'NOT_FOUND',
        `no plugin ${JSON.stringify(plugin.slice(0, 64))} is installed`,
      );
    }
    if (unit.serving === undefined) throw notServing(plugin, unit.life.state, unit.life.reason);
    return unit.serving;
  }

  /** Reads the recorded state and follows it. Resolves when every plugin is where it belongs, or failed. */
  sync(): Promise<void> {
    const result = this.#turn.then(() => this.#follow());
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #follow(): Promise<void> {
    if (this.#closed) return;
    const snapshot = await this.#options.store.snapshot();
    this.#snapshot = snapshot;
    this.#approved = new Set(
      snapshot.grants.filter(({ status }) => status === 'approved').map(({ id }) => id),
    );
    this.#options.tokens.useKeys(snapshot.keys);
    const manifests = new Map<string, Manifest>();
    for (const record of snapshot.plugins) {
      const version = snapshot.versions.find(({ digest }) => digest === record.active);
      if (version) manifests.set(record.name, version.manifest);
    }
    const enabled = snapshot.plugins.filter((record) => record.enabled);
    const resolution = resolve(enabled.flatMap(({ name }) => manifests.get(name) ?? []));
    const records = new Map(snapshot.plugins.map((record) => [record.name, record]));
    for (const [name, unit] of this.#units) {
      if (records.has(name)) continue;
      await this.#stop(unit, 'removed');
      this.#units.delete(name);
      this.#options.onRemoved(name);
    }
    const rest = snapshot.plugins.map(({ name }) => name);
    for (const name of new Set([...resolution.order, ...rest])) {
      const record = records.get(name);
      const manifest = manifests.get(name);
      if (record === undefined || manifest === undefined) continue;
      const grants = snapshot.grants.filter(({ plugin }) => plugin === name);
      await this.#bring(record, manifest, grants, resolution.problems.get(name));
    }
  }

  /** Brings one plugin to where its record says; a failure stays its own. */
  async #bring(
    record: PluginRecord,
    manifest: Manifest,
    grants: readonly Grant[],
    problem: string | undefined,
  ): Promise<void> {
    const { name } = record;
    let unit = this.#units.get(name);
    if (unit === undefined) {
      unit = new Unit(name, this.#options.onTransition);
      this.#units.set(name, unit);
    }
    const goal = JSON.stringify([record.enabled, record.active, grants, problem]);
    if (unit.applied === goal) return;
    clearTimeout(unit.retry);
    unit.applied = goal;
    try {
      await this.#apply(unit, record, manifest, grants, problem);
      unit.failures = 0;
    } catch (error) {
      this.#fail(unit, error);
    }
  }

  async #apply(
    unit: Unit,
    record: PluginRecord,
    manifest: Manifest,
    grants: readonly Grant[],
    problem: string | undefined,
  ): Promise<void> {
    const { life } = unit;
    if (!record.enabled) return this.#stop(unit, 'disabled');
    if (problem !== undefined && unit.serving) await this.#stop(unit, problem);
    if (unit.serving === undefined && life.state !== 'pending') {
      if (life.state !== 'discovered' && life.state !== 'validated') life.to('discovered');
      life.to('validated', problem);
    }
    if (problem !== undefined) return life.to('validated', problem);
    const requests = manifest.capabilities ?? [];
    const waiting = undecided(requests, grants);
    if (unit.serving === undefined) {
      if (life.state === 'validated') life.to('resolved');
      if (waiting.length > 0) {
        const wanted = waiting.map(
          ({ capability, operations }) => `${capability}.${operations.join('+')}`,
        );
        return life.to('pending', `${wanted.join(', ')}; noa grant approve ${life.plugin}`);
      }
      life.to('granted');
    }
    const rights = effectiveRights(requests, grants);
    const bundle = await this.#options.readBundle(await this.#options.store.bundle(record.active));
    const same = unit.serving?.digest === record.active ? unit.serving : undefined;
    // The door first: what is taken away holds even when an engine is away and cannot follow yet.
    await same?.setRights(rights);
    await this.#provision(life.plugin, rights, bundle);
    if (same === undefined) await this.#load(unit, record, manifest, bundle, grants);
  }

  /** Loads a version beside the one that serves, lets it take over, and drains the old one. */
  async #load(
    unit: Unit,
    record: PluginRecord,
    manifest: Manifest,
    bundle: Bundle,
    grants: readonly Grant[],
  ): Promise<void> {
    const { loader, tokens, now, pluginLog, hostRun } = this.#options;
    const plugin = record.name;
    const limits = effectiveLimits(manifest);
    this.#generation += 1;
    const generation = this.#generation;
    const config = defaultConfig(manifest);
    const log = (level: LogLevel, message: string) => pluginLog(plugin, level, message);
    const runtime = await loader.load({
      plugin,
      generation,
      manifest,
      limits,
      wasm: bundle.wasm,
      config,
      log,
    });
    const next = new Serving({
      manifest,
      limits,
      digest: record.active,
      audience: { plugin, instance: `${hostRun}/${plugin}`, generation },
      runtime,
      rights: effectiveRights(manifest.capabilities ?? [], grants),
      tokens,
      now,
    });
    const old = unit.serving;
    unit.serving = next;
    if (old === undefined) {
      unit.life.to('loaded');
      unit.life.to('serving');
    } else {
      unit.restarts += 1;
      await this.#retire(old);
    }
  }

  /** Has each driver prepare the plugin's own area, so that the engine itself enforces the rights. */
  async #provision(
    plugin: string,
    rights: ReturnType<typeof effectiveRights>,
    bundle: Bundle,
  ): Promise<void> {
    for (const { capability, driver } of this.#options.capabilities) {
      if (driver.provision === undefined) continue;
      const asked = bundle.manifest.capabilities?.some(
        (request) => request.capability === capability.name,
      );
      if (!asked) continue;
      const grants: DriverGrant[] = rights.filter((right) => right.capability === capability.name);
      await driver.provision({ plugin, grants, migrations: bundle.migrations });
    }
  }

  async #retire(serving: Serving): Promise<void> {
    await serving.gate.idle(this.#options.drainMs);
    await serving.runtime.stop();
    await serving.revokeTokens();
  }

  async #stop(unit: Unit, reason: string): Promise<void> {
    clearTimeout(unit.retry);
    const { life, serving } = unit;
    unit.serving = undefined;
    if (serving !== undefined) {
      life.to('draining', reason);
      await this.#retire(serving);
    }
    life.to('stopped', reason);
  }

  /** Notes the failure and tries again later: for good while an engine is away, a few times otherwise. */
  #fail(unit: Unit, error: unknown): void {
    const { life } = unit;
    const reason =
      error instanceof NoaError ? error.message : 'the host failed to start it; see its log';
    this.#options.onError(`plugin ${life.plugin} cannot start: ${reason}`, error);
    const away = error instanceof NoaError && error.code === 'UNAVAILABLE';
    if (!away) unit.failures += 1;
    // A version that serves goes on serving when its successor cannot be brought up.
    if (unit.serving !== undefined) life.to('serving', `the new version cannot start: ${reason}`);
    else if (life.state !== 'failed') life.to('failed', reason);
    if (unit.failures >= MAX_STARTS) {
      if (unit.serving !== undefined) return;
      const advice = `${reason}; after the cause is mended: noa plugin enable ${life.plugin}`;
      return life.to('quarantined', advice);
    }
    const delay = Math.min(MAX_BACKOFF_MS, 1000 * 2 ** Math.max(0, unit.failures - 1));
    unit.retry = setTimeout(() => {
      unit.applied = '';
      this.sync().catch((cause: unknown) =>
        this.#options.onError('the state cannot be read', cause),
      );
    }, delay);
    unit.retry.unref();
  }

  /** Lets a quarantined or failed plugin start afresh at the next sync. */
  forgive(plugin: string): void {
    const unit = this.#units.get(plugin);
    if (unit === undefined) return;
    unit.failures = 0;
    unit.applied = '';
  }

  /** Drains and stops every plugin. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#turn;
    await Promise.all([...this.#units.values()].map((unit) => this.#stop(unit, 'the host stops')));
  }
}

/** The configuration that the manifest's defaults make. Throws INVALID_ARGUMENT when they leave a gap. */
function defaultConfig(manifest: Manifest): Json {
  const config: Json = {};
  const broken = manifest.config ? compileSchema(manifest.config, { defaults: true })(config) : [];
  if (broken.length === 0) return config;
  const text = broken.map(({ path, message }) => `${path} ${message}`).join('; ');
  throw new NoaError('INVALID_ARGUMENT', `its configuration is incomplete: ${text}; add a default`);
}
