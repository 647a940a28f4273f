/**
 * Makes what runs follow what is recorded. `sync` reads the state; what it takes away from anyone holds
 * from that moment, and then each plugin is brought to where it belongs, in a turn of its own: one that
 * fails or is slow harms no other. Invariant: only a plugin in state `serving` takes calls.
 */
import { effectiveLimits, type Json, type Manifest, NoaError } from '@noa/sdk/host';
import type { CapabilityEntry } from './broker.ts';
import { Conduct } from './conduct.ts';
import { effectiveRights, undecided } from './grants.ts';
import type { Transition } from './lifecycle.ts';
import type { Harm, Loader, LogLevel } from './loader.ts';
import { type Plan, plansOf } from './plans.ts';
import { provision } from './provision.ts';
import { Serving } from './serving.ts';
import type { Unfit } from './requests.ts';
import type { Bundle, Snapshot, Store, StoredConfiguration } from './store.ts';
import type { CallerTokens } from './caller-tokens.ts';
import type { TokenService } from './tokens.ts';
import { Unit } from './unit.ts';

/** A failed start is tried again after 1, 2, 4 … seconds, this many times, then quarantined. */
const MAX_STARTS = 5;
const MAX_BACKOFF_MS = 30_000;

export interface SupervisorOptions {
  readonly store: Store;
  readonly loader: Loader;
  readonly capabilities: readonly CapabilityEntry[];
  readonly tokens: TokenService;
  readonly callers: Pick<CallerTokens, 'useKeys' | 'forgetRevoked'>;
  /** Takes a bundle apart; it has been judged at its installation. */
  readonly readBundle: (bytes: Uint8Array) => Promise<Bundle>;
  /** A plugin's configuration as it gets it. Throws NoaError when what is stored does not fit. */
  readonly configure: (manifest: Manifest, stored: StoredConfiguration | undefined) => Json;
  /** Why it does not fit. */
  readonly unfit: Unfit;
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

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #units = new Map<string, Unit>();
  #snapshot: Snapshot = {
    revision: -1,
    plugins: [],
    versions: [],
    grants: [],
    configurations: [],
    keys: [],
  };
  #approved = new Set<string>();
  #plans: ReadonlyMap<string, Plan> = new Map();
  #generation = 0;
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

  /** Of the plugins that serve, by name. */
  manifests(): Manifest[] {
    const serving = [...this.#units.values()].flatMap((unit) => unit.serving?.manifest ?? []);
    return serving.sort((a, b) => (a.name < b.name ? -1 : 1));
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
    return unit.running;
  }

  /**
   * Reads the recorded state and follows it. Resolves when every plugin is where it belongs, or failed;
   * with a name, when this plugin and those that need it are. A revocation holds before that.
   */
  async sync(name?: string): Promise<void> {
    if (this.#closed) return;
    await this.#refresh();
    this.#startTurns();
    const concerned = [...this.#units].filter(
      ([plugin]) => name === undefined || plugin === name || this.#needs(plugin).includes(name),
    );
    await Promise.all(concerned.map(([, unit]) => unit.turn));
  }

  /** Takes over the present state; what it takes away is gone when this resolves. */
  async #refresh(): Promise<void> {
    const snapshot = await this.#options.store.snapshot();
    // A read that began earlier may end later.
    if (snapshot.revision < this.#snapshot.revision) return;
    await this.#options.callers.forgetRevoked();
    if (snapshot.revision < this.#snapshot.revision) return;
    this.#snapshot = snapshot;
    this.#approved = new Set(
      snapshot.grants.filter(({ status }) => status === 'approved').map(({ id }) => id),
    );
    this.#options.tokens.useKeys(snapshot.keys);
    this.#options.callers.useKeys(snapshot.keys);
    this.#plans = plansOf(snapshot);
    for (const [name, { serving }] of this.#units) {
      const requests = serving?.manifest.capabilities ?? [];
      await serving?.setRights(effectiveRights(requests, this.#plans.get(name)?.grants ?? []));
    }
  }

  /** Gives each plugin whose part of the state changed a turn, after those that it needs. */
  #startTurns(): void {
    for (const name of new Set([...this.#plans.keys(), ...this.#units.keys()])) {
      const unit = this.#units.get(name) ?? new Unit(name, this.#options.onTransition);
      this.#units.set(name, unit);
      const before = this.#needs(name).map((need) => this.#units.get(need)?.turn);
      unit.turn = Promise.all([unit.turn, ...before]).then(() => this.#bring(name, unit));
    }
  }

  /** Why a version does not accept the plugin's present configuration; undefined when it does. */
  unfit(manifest: Manifest): string | undefined {
    const stored = this.#snapshot.configurations.find(({ plugin }) => plugin === manifest.name);
    return this.#options.unfit(manifest, stored);
  }

  #needs(name: string): string[] {
    return (this.#plans.get(name)?.manifest.needs ?? []).map(({ plugin }) => plugin);
  }

  /** Brings one plugin to where its plan says now; a failure stays its own. */
  async #bring(name: string, unit: Unit): Promise<void> {
    if (this.#closed) return;
    const plan = this.#plans.get(name);
    const goal = JSON.stringify(
      plan && [plan.record, plan.grants, plan.stored?.version, plan.problem],
    );
    if (unit.applied === goal) return;
    unit.endRetry();
    unit.applied = goal;
    try {
      if (plan === undefined) {
        await this.#stop(unit, 'removed');
        this.#units.delete(name);
        this.#options.onRemoved(name);
      } else await this.#apply(unit, plan);
      unit.failures = 0;
    } catch (error) {
      this.#fail(unit, error);
    }
  }

  async #apply(unit: Unit, plan: Plan): Promise<void> {
    const { record, manifest, grants, stored, problem } = plan;
    const { life } = unit;
    if (!record.enabled) return this.#stop(unit, 'disabled');
    if (problem !== undefined && unit.serving) await this.#stop(unit, problem);
    if (unit.serving === undefined && life.state !== 'pending') {
      if (life.state === 'failed') unit.restarts += 1;
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
        return life.to('pending', `${wanted.join(', ')}; noa grant approve ${life.plugin} --all`);
      }
      const unfit = this.unfit(manifest);
      if (unfit !== undefined) return life.to('pending', unfit);
      life.to('granted');
    }
    const rights = effectiveRights(requests, grants);
    const bundle = await this.#options.readBundle(await this.#options.store.bundle(record.active));
    await provision(this.#options.capabilities, life.plugin, rights, grants, bundle);
    const { serving } = unit;
    if (serving?.digest !== record.active || serving.configuration !== (stored?.version ?? 0)) {
      await this.#load(unit, plan, bundle);
    }
    // What kept it from starting before is past.
    life.to('serving');
  }

  /** Loads a version beside the one that serves, lets it take over, and drains the old one. */
  async #load(unit: Unit, plan: Plan, bundle: Bundle): Promise<void> {
    const { record, manifest, stored } = plan;
    const { loader, tokens, now, pluginLog, hostRun } = this.#options;
    const plugin = record.name;
    const limits = effectiveLimits(manifest);
    this.#generation += 1;
    const generation = this.#generation;
    const config = this.#options.configure(manifest, stored);
    const log = (level: LogLevel, message: string) => pluginLog(plugin, level, message);
    if (unit.digest !== record.active) unit.conduct = new Conduct();
    unit.digest = record.active;
    const runtime = await loader.load({
      plugin,
      generation,
      manifest,
      limits,
      wasm: bundle.wasm,
      config,
      log,
      harmed: (what) => this.#harmed(unit, generation, what),
    });
    const next = new Serving({
      manifest,
      limits,
      digest: record.active,
      configuration: stored?.version ?? 0,
      audience: { plugin, instance: `${hostRun}/${plugin}`, generation },
      runtime,
      // Not those of the plan: it may have changed since.
      rights: effectiveRights(manifest.capabilities ?? [], this.#plans.get(plugin)?.grants ?? []),
      tokens,
      now,
    });
    const old = unit.serving;
    unit.serving = next;
    if (old === undefined) {
      unit.life.to('loaded');
    } else {
      await this.#retire(old);
    }
  }

  async #retire(serving: Serving): Promise<void> {
    await serving.gate.idle(this.#options.drainMs);
    await serving.runtime.stop();
    await serving.revokeTokens();
  }

  async #stop(unit: Unit, reason: string): Promise<void> {
    unit.endRetry();
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
    this.#retryIn(unit, delay);
  }

  #retryIn(unit: Unit, ms: number): void {
    unit.retryIn(ms, () => {
      unit.applied = '';
      this.sync(unit.life.plugin).catch((cause: unknown) => {
        this.#options.onError('the state cannot be read', cause);
        this.#retryIn(unit, MAX_BACKOFF_MS);
      });
    });
  }

  /** Its code brought a worker down: tolerated now and then, else it pauses, or is given up. */
  #harmed(unit: Unit, generation: number, what: Harm): void {
    const { onError, now } = this.#options;
    const { plugin } = unit.life;
    if (unit.serving?.audience.generation !== generation) return;
    const verdict = unit.conduct.harmed(now());
    if (verdict.action === 'tolerate') return;
    const pauseMs = verdict.action === 'pause' ? verdict.ms : undefined;
    unit.turn = unit.turn
      .then(() => this.#suspend(unit, generation, pauseMs, what))
      .catch((error: unknown) => onError(`plugin ${plugin} cannot be stopped`, error));
  }

  /** Takes a plugin out of service at once, its calls included, for so long or until it is enabled. */
  async #suspend(
    unit: Unit,
    generation: number,
    pauseMs: number | undefined,
    what: Harm,
  ): Promise<void> {
    const { life, serving } = unit;
    if (this.#closed || serving?.audience.generation !== generation) return;
    unit.serving = undefined;
    const why = `its code ${what} and brought workers down too often`;
    if (pauseMs === undefined) {
      life.to('quarantined', `${why}; after the cause is mended: noa plugin enable ${life.plugin}`);
    } else {
      life.to('failed', `${why}; it starts again after ${pauseMs / 1000} s`);
      this.#retryIn(unit, pauseMs);
    }
    await serving.runtime.stop();
    await serving.revokeTokens();
  }

  /** Lets a quarantined or failed plugin start afresh at the next sync. */
  forgive(plugin: string): void {
    const unit = this.#units.get(plugin);
    if (unit === undefined) return;
    unit.failures = 0;
    unit.conduct = new Conduct();
    unit.applied = '';
  }

  /** Drains and stops every plugin; one in the middle of a move is waited for as long as a drain. */
  async close(): Promise<void> {
    this.#closed = true;
    const units = [...this.#units.values()];
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#options.drainMs);
    });
    await Promise.race([Promise.all(units.map((unit) => unit.turn)), late]);
    clearTimeout(timer);
    await Promise.all(units.map((unit) => this.#stop(unit, 'the host stops')));
  }
}
