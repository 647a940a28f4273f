/**
 * Puts the kernel's parts together. Everything that they need from outside comes in here, clock and ids
 * included; there is one kernel in a host.
 */
import type { Json, NoaError, Span } from '@noa/sdk/host';
import { Administration } from './administration.ts';
import { Audit } from './audit.ts';
import { Broker, type CapabilityEntry, type CapabilityObservation } from './broker.ts';
import { Budgets } from './budgets.ts';
import { type Builtins, keepBuiltins } from './builtins.ts';
import type { CallerTokenStore } from './caller-token-records.ts';
import { CallerTokens } from './caller-tokens.ts';
import { Configuration, configure, unfit } from './configuration.ts';
import { type CallObservation, type CostObservation, Dispatcher, FAULTS } from './dispatcher.ts';
import type { Chain } from './chain.ts';
import { Health } from './health.ts';
import type { Invocation } from './invocation.ts';
import { Judge } from './judge.ts';
import type { Transition } from './lifecycle.ts';
import type { Loader, LogLevel } from './loader.ts';
import type { Bundle, Store, StoreTx } from './store.ts';
import type { Unfit } from './requests.ts';
import { Seal } from './seal.ts';
import { Secrets } from './secrets.ts';
import { Supervisor } from './supervisor.ts';
import { type Budget, TokenService } from './tokens.ts';
import type { Trigger } from './trigger.ts';

/** A plugin that takes longer than this to come up does not keep the host from serving the others. */
const START_MS = 10_000;
/** How often expired tokens and budgets are forgotten. */
const SWEEP_MS = 30_000;
/**
 * How often other hosts' changes are looked for: the bound within which a revocation holds on every
 * host. On the host that it is sent to it holds before it is answered.
 */
export const CONVERGENCE_MS = 1000;

/** A call that one plugin makes into another. */
export interface PluginCall {
  readonly plugin: string;
  readonly export: string;
  readonly input: Json;
  readonly budget: Budget | undefined;
  readonly chain: Chain;
  readonly signal: AbortSignal;
  readonly deadline: number;
  /** Of the operation that calls, when it is traced. */
  readonly span?: Span | undefined;
}

export interface KernelPowers {
  readonly store: Store;
  readonly callerTokens: CallerTokenStore;
  readonly loader: Loader;
  /** The plugins that are parts of this host. */
  readonly builtins?: Builtins;
  /** Given the way back in for calls between plugins, answers every capability of this host. */
  readonly capabilities: (call: (call: PluginCall) => Promise<Json>) => readonly CapabilityEntry[];
  readonly readBundle: (bytes: Uint8Array) => Promise<Bundle>;
  readonly rootKey: Uint8Array;
  /** Survives restarts; names this host's audit chain. */
  readonly hostId: string;
  readonly tokenLifeSeconds: number;
  readonly drainMs: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly newId: () => string;
  readonly onTransition: (transition: Transition) => void;
  readonly onRemoved: (plugin: string) => void;
  readonly onError: (message: string, error: unknown) => void;
  readonly observeCall: (observation: CallObservation) => void;
  readonly observeCapability: (observation: CapabilityObservation) => void;
  readonly observeCost: (observation: CostObservation) => void;
  /**
   * Has the other processes of this host take over a change of the recorded state, so that they answer
   * alike as soon as it is answered. May not reject, and takes a bounded time.
   */
  readonly converge?: () => Promise<void>;
  readonly pluginLog: (plugin: string, level: LogLevel, message: string) => void;
}

export class Kernel {
  readonly administration: Administration;
  readonly callers: CallerTokens;
  readonly dispatcher: Dispatcher;
  readonly supervisor: Supervisor;
  readonly audit: Audit<StoreTx>;
  readonly configuration: Configuration;
  readonly health: Health;
  readonly secrets: Secrets;
  readonly capabilities: readonly CapabilityEntry[];
  readonly #powers: KernelPowers;
  readonly #judge: Judge;
  readonly #tokens: TokenService;
  readonly #budgets = new Budgets();
  readonly #timers: NodeJS.Timeout[] = [];

  constructor(powers: KernelPowers) {
    const { store, loader, readBundle, now, newId, onError } = powers;
    this.#powers = powers;
    this.#tokens = new TokenService({
      issuer: 'noa',
      rootKey: powers.rootKey,
      lifeSeconds: powers.tokenLifeSeconds,
      now,
      newId,
    });
    this.audit = new Audit<StoreTx>({
      chain: powers.hostId,
      sink: store,
      now,
      flushMs: 100,
      capacity: 10_000,
      ...(powers.converge && { onChange: powers.converge }),
      onError: (error) => onError('the audit log cannot be written; it will be tried again', error),
    });
    this.capabilities = powers.capabilities((call) => this.#callPlugin(call));
    const judge = new Judge({ capabilities: this.capabilities, loader, readBundle, now });
    this.#judge = judge;
    this.callers = new CallerTokens({
      store: powers.callerTokens,
      audit: this.audit,
      rootKey: powers.rootKey,
      tokens: this.#tokens,
      budgets: this.#budgets,
      sync: () => this.supervisor.sync(),
      judge: ({ capability, operations, resources }) => ({
        capability,
        ...judge.reach(capability, operations, resources),
      }),
      now,
      newId,
    });
    const seal = new Seal(powers.rootKey);
    const why: Unfit = (manifest, stored) => unfit(seal, manifest, stored);
    this.health = new Health(now);
    this.supervisor = new Supervisor({
      ...powers,
      onTransition: (transition) => this.#noteTransition(transition),
      configure: (manifest, stored) => configure(seal, manifest, stored),
      unfit: why,
      onRemoved: (plugin) => {
        this.health.forget(plugin);
        powers.onRemoved(plugin);
      },
      capabilities: this.capabilities,
      tokens: this.#tokens,
      callers: this.callers,
      hostRun: `${powers.hostId}/${newId()}`,
    });
    this.secrets = new Secrets({
      store,
      audit: this.audit,
      seal,
      revision: () => this.supervisor.snapshot.revision,
      now,
    });
    const { audit, supervisor } = this;
    this.configuration = new Configuration({ audit, supervisor, seal, now });
    const broker = new Broker({
      capabilities: this.capabilities,
      tokens: this.#tokens,
      budgets: this.#budgets,
      isApproved: (grant) => this.supervisor.isApproved(grant),
      audit: this.audit,
      observe: powers.observeCapability,
      onError,
      now,
    });
    this.dispatcher = new Dispatcher({
      serving: (plugin) => this.supervisor.serving(plugin),
      broker,
      callers: this.callers,
      observe: (observation) => {
        this.health.call(observation);
        powers.observeCall(observation);
      },
      observeCost: powers.observeCost,
      onFailure: (invocation, error) => this.#noteFailure(invocation, error),
      now,
      newId,
    });
    this.administration = new Administration({
      store,
      audit: this.audit,
      supervisor: this.supervisor,
      judge,
      unfit: why,
      capabilities: this.capabilities,
      now,
      newId,
      onError,
    });
  }

  /** Capability tokens that may still be used. */
  get liveTokens(): number {
    return this.#tokens.live;
  }

  async #callPlugin(call: PluginCall): Promise<Json> {
    const { principal, requestId, traceId } = call.chain;
    const invocation = { ...call, id: requestId, principal, traceId };
    return (await this.dispatcher.dispatch(invocation, call.budget)).value;
  }

  /**
   * A call that the host made of itself has failed: its author and an administrator are told also when
   * that is not the plugin's own fault, which has been noted before.
   */
  noteTriggered({ plugin, export: name, subject }: Trigger, failure: NoaError): void {
    const { code, message } = failure;
    // What meets a plugin that does not serve tells nothing of the plugin.
    if (FAULTS.has(code) || this.supervisor.units.get(plugin)?.serving === undefined) return;
    this.health.fault(plugin, name, failure);
    this.#powers.pluginLog(plugin, 'error', `${name}, called by ${subject}: ${code} ${message}`);
  }

  /** The plugin's own fault: its author reads it in the plugin's log, an administrator in the audit. */
  #noteFailure({ plugin, export: name, id, principal, chain }: Invocation, error: NoaError): void {
    const { code, message, details } = error;
    this.health.fault(plugin, name, error);
    const stack = isObject(details) ? details['guestStack'] : undefined;
    const lines = typeof stack === 'string' ? stack.split('\n').slice(0, 20) : [];
    for (const line of [`${name}: ${code} ${message}`, ...lines]) {
      this.#powers.pluginLog(plugin, 'error', line);
    }
    this.audit.record({
      kind: 'plugin.failure',
      actor: `plugin:${plugin}`,
      plugin,
      capability: null,
      operation: name,
      resources: [],
      outcome: 'failed',
      code,
      details: {
        principal: principal.subject,
        request: id,
        chain: [...(chain?.plugins ?? []), plugin],
        message: message.slice(0, 500),
      },
    });
  }

  /** A plugin that the host itself takes out of service while it serves is a matter for the audit. */
  #noteTransition(transition: Transition): void {
    this.#powers.onTransition(transition);
    const { plugin, from, to, reason = '' } = transition;
    const isQuarantine = to === 'quarantined';
    if (!isQuarantine && !(from === 'serving' && to === 'failed')) return;
    this.audit.record({
      kind: isQuarantine ? 'plugin.quarantine' : 'plugin.pause',
      actor: 'host',
      plugin,
      capability: null,
      operation: null,
      resources: [],
      outcome: 'failed',
      code: isQuarantine ? 'PLUGIN_QUARANTINED' : 'UNAVAILABLE',
      details: { reason: reason.slice(0, 500) },
    });
  }

  /** Brings up every plugin that may run; one that cannot does not keep the host from starting. */
  async start(): Promise<void> {
    const { store, now, onError } = this.#powers;
    await this.#firstKey();
    await this.#dropLeftovers();
    await this.#keepBuiltins();
    await withinReason(this.supervisor.sync());
    await this.#tellOfAnotherRootKey();
    const follow = async (): Promise<void> => {
      if ((await store.revision()) !== this.supervisor.snapshot.revision)
        await this.supervisor.sync();
    };
    let following = false;
    let away = false;
    this.#every(CONVERGENCE_MS, () => {
      if (following) return;
      following = true;
      follow()
        .then(() => this.callers.shareBudgets())
        .then(() => (away = false))
        .catch((error: unknown) => {
          // Said once for each time that the database goes away, not every second.
          if (!away) onError('the recorded state cannot be read; it will be tried again', error);
          away = true;
        })
        .finally(() => (following = false));
    });
    this.#every(SWEEP_MS, () => {
      void this.#dropLeftovers();
      this.#tokens.sweep();
      this.#budgets.sweep(now());
      this.callers
        .sweep()
        .catch((error: unknown) => onError('old tokens cannot be deleted now', error));
    });
  }

  async #keepBuiltins(): Promise<void> {
    const { builtins, now, newId, onError } = this.#powers;
    if (builtins === undefined) return;
    const options = { audit: this.audit, judge: this.#judge, now, newId };
    for (const problem of await keepBuiltins(options, builtins)) onError(problem, undefined);
  }

  async #dropLeftovers(): Promise<void> {
    const { onError } = this.#powers;
    await this.administration
      .dropLeftovers()
      .catch((error: unknown) =>
        onError('the data of removed plugins cannot be deleted yet', error),
      );
  }

  /** A host with the wrong root key runs, and says what it cannot open before a plugin finds out. */
  async #tellOfAnotherRootKey(): Promise<void> {
    const lost = [
      ...(await this.secrets.foreign()).map((name) => `secret ${name}`),
      ...this.configuration.foreign().map((plugin) => `configuration of ${plugin}`),
    ];
    if (lost.length === 0) return;
    const more = lost.length > 10 ? ` and ${lost.length - 10} more` : '';
    this.#powers.onError(
      `auth.root_key is not the one that sealed ${lost.slice(0, 10).join(', ')}${more}: ` +
        'nothing opens them here; start with that key, or set them again',
      undefined,
    );
  }

  /** The very first host makes the first signing key. */
  async #firstKey(): Promise<void> {
    const { keys } = await this.#powers.store.snapshot();
    if (keys.some(({ retiredAt }) => retiredAt === null)) return;
    await this.audit.change(async (tx, note) => {
      if ((await tx.keys()).some(({ retiredAt }) => retiredAt === null)) return;
      const kid = `k-${this.#powers.newId().slice(0, 8)}`;
      await tx.putKey({
        kid,
        createdAt: new Date(this.#powers.now()).toISOString(),
        retiredAt: null,
      });
      const none = { plugin: null, capability: null, operation: null, resources: [], code: null };
      note({ kind: 'key.create', actor: 'host', ...none, outcome: 'ok', details: { kid } });
    });
  }

  #every(ms: number, work: () => void): void {
    this.#timers.push(setInterval(work, ms).unref());
  }

  /** Drains and stops every plugin and makes the audit durable. The store stays open. */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.supervisor.close();
    await this.audit.close();
  }
}

function isObject(value: unknown): value is { [name: string]: unknown } {
  return typeof value === 'object' && value !== null;
}

/** Waits for the work, but not for ever: it goes on by itself. */
async function withinReason(work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, START_MS);
  });
  await Promise.race([work, late]).finally(() => clearTimeout(timer));
}
