/**
 * Everything that an administrator does: install, govern, decide grants, read the audit. Each change is
 * one transaction with its audit record, so a crash leaves either both or neither; then the supervisor
 * follows. Who may call this is decided by the transport that calls it.
 */
import { type Manifest, NoaError } from '@noa/sdk/host';
import { Advice } from './advice.ts';
import { type Audit, type AuditEvent, type Verification, verifyRecords } from './audit.ts';
import type { CapabilityEntry } from './broker.ts';
import { type Grant, type GrantRequest, undecided } from './grants.ts';
import type { Judge } from './judge.ts';
import { event, grantEvent, mustHave, mustMove, noGrant, unclaimed, versionOf } from './records.ts';
import { activate, keepTriggers, openRequests, promote, type Unfit } from './requests.ts';
import type { AuditPage, Store, StoreTx } from './store.ts';
import type { Supervisor } from './supervisor.ts';
import { TokenKeys } from './token-keys.ts';
import {
  type PluginDetail,
  type PluginView,
  viewDetail,
  viewPlugin,
  viewPlugins,
} from './views.ts';

export interface AdministrationOptions {
  readonly store: Store;
  readonly audit: Audit<StoreTx>;
  readonly supervisor: Supervisor;
  readonly judge: Judge;
  readonly unfit: Unfit;
  readonly capabilities: readonly CapabilityEntry[];
  readonly now: () => number;
  readonly newId: () => string;
  readonly onError: (message: string, error: unknown) => void;
}

export class Administration {
  readonly advice: Advice;
  readonly keys: TokenKeys;
  readonly #options: AdministrationOptions;

  constructor(options: AdministrationOptions) {
    this.#options = options;
    this.advice = new Advice(options);
    this.keys = new TokenKeys(options);
  }

  /**
   * Installs a new plugin from its bundle; it asks for grants and gets none. CONFLICT when the name is
   * taken, INVALID_ARGUMENT when the bundle is not the one of `digest` (SHA-256 in hex).
   */
  async install(bundle: Uint8Array, actor: string, digest?: string): Promise<PluginView> {
    const { version, requests } = await this.#judge('plugin.install', bundle, null, actor, digest);
    const { plugin } = version;
    await this.dropLeftovers(plugin);
    await this.#change(plugin, async (tx, note) => {
      if (await tx.plugin(plugin)) {
        throw new NoaError(
          'CONFLICT',
          `plugin ${plugin} is installed: upgrade or remove it instead`,
        );
      }
      await tx.putPlugin({
        name: plugin,
        enabled: true,
        active: version.digest,
        candidate: null,
        previous: null,
        pinned: false,
      });
      await tx.putVersion(version, bundle);
      await openRequests(tx, plugin, requests, this.#options);
      await keepTriggers(tx, plugin);
      const details = { version: version.version, digest: version.digest };
      note(event('plugin.install', actor, plugin, details));
    });
    return this.#shown(plugin);
  }

  /**
   * Installs another version of a plugin. It takes over at once when all that it requires is granted;
   * otherwise it waits as the candidate while the present version serves. CONFLICT when it is pinned.
   */
  async upgrade(
    name: string,
    bundle: Uint8Array,
    actor: string,
    digest?: string,
  ): Promise<PluginView> {
    const { version, requests } = await this.#judge('plugin.upgrade', bundle, name, actor, digest);
    await this.#change(name, async (tx, note) => {
      const record = await mustMove(tx, name);
      await tx.putVersion(version, bundle);
      await openRequests(tx, name, requests, this.#options);
      const waits =
        undecided(requests, await tx.grants(name)).length > 0 ||
        (await this.#unfit(tx, version.manifest)) !== undefined;
      // A version that never got its grants serves nobody: its successor replaces it at once.
      const served = this.#options.supervisor.units.get(name)?.serving?.digest;
      const next =
        waits && served !== undefined
          ? { ...record, candidate: version.digest }
          : activate(record, version.digest, served);
      await tx.putPlugin(next);
      // Two versions back is as far as an operator can go: the rest would only grow.
      const kept = [next.active, next.candidate, next.previous].filter((digest) => digest !== null);
      await tx.keepVersions(name, kept);
      await keepTriggers(tx, name);
      const details = { version: version.version, digest: version.digest, waits };
      note(event('plugin.upgrade', actor, name, details));
    });
    return this.#shown(name);
  }

  /** What the bundle holds; a refusal is recorded. */
  async #judge(
    kind: string,
    bundle: Uint8Array,
    name: string | null,
    actor: string,
    digest: string | undefined,
  ): Promise<Awaited<ReturnType<Judge['bundle']>>> {
    try {
      const judged = await this.#options.judge.bundle(bundle, digest);
      const { plugin } = judged.version;
      if (name === null || plugin === name) return judged;
      throw new NoaError(
        'INVALID_ARGUMENT',
        `the bundle is plugin ${plugin}, not ${name}: send it under its own name`,
      );
    } catch (error) {
      if (error instanceof NoaError) {
        const details = { bytes: bundle.length, refusal: error.message.slice(0, 500) };
        const refused = { ...event(kind, actor, name, details), code: error.code };
        this.#options.audit.record({ ...refused, outcome: 'failed' });
      }
      throw error;
    }
  }

  /** Returns to the version that served before. CONFLICT when there is none. */
  async rollback(name: string, actor: string): Promise<PluginView> {
    await this.#change(name, async (tx, note) => {
      const record = await mustMove(tx, name);
      if (record.previous === null) {
        throw new NoaError('CONFLICT', `plugin ${name} has no earlier version to return to`);
      }
      const versions = await tx.versions(name);
      const manifest = versions.find(({ digest }) => digest === record.previous)?.manifest;
      const problem = manifest && (await this.#unfit(tx, manifest));
      if (problem !== undefined) {
        throw new NoaError('CONFLICT', `the earlier version does not accept ${problem}`);
      }
      await tx.putPlugin({ ...activate(record, record.previous), candidate: null });
      await openRequests(tx, name, manifest?.capabilities ?? [], this.#options);
      note(event('plugin.rollback', actor, name, { digest: record.previous }));
    });
    return this.#shown(name);
  }

  async setEnabled(name: string, enabled: boolean, actor: string): Promise<PluginView> {
    await this.#change(name, async (tx, note) => {
      await tx.putPlugin({ ...(await mustHave(tx, name)), enabled });
      note(event(enabled ? 'plugin.enable' : 'plugin.disable', actor, name, {}));
      if (enabled) this.#options.supervisor.forgive(name);
    });
    return this.#shown(name);
  }

  /**
   * Keeps the plugin at the version that serves; until `unpin` nothing replaces it. CONFLICT when
   * `version` is given and is another one.
   */
  async pin(name: string, version: string | undefined, actor: string): Promise<PluginView> {
    await this.#change(name, async (tx, note) => {
      const record = await mustHave(tx, name);
      const active = await versionOf(tx, record);
      if (version !== undefined && version !== active) {
        throw new NoaError(
          'CONFLICT',
          `plugin ${name} is at ${active}, not ${version}: upgrade or roll back first, then pin`,
        );
      }
      await tx.putPlugin({ ...record, pinned: true });
      note(event('plugin.pin', actor, name, { version: active, digest: record.active }));
    });
    return this.#shown(name);
  }

  /** Lets the plugin change its version again; a candidate that may serve takes over. */
  async unpin(name: string, actor: string): Promise<PluginView> {
    await this.#change(name, async (tx, note) => {
      await tx.putPlugin({ ...(await mustHave(tx, name)), pinned: false });
      await this.#promote(tx, name);
      note(event('plugin.unpin', actor, name, {}));
    });
    return this.#shown(name);
  }

  /** Removes a plugin with its grants, and its data unless `keepData`. */
  async remove(name: string, keepData: boolean, actor: string): Promise<void> {
    await this.#change(name, async (tx, note) => {
      await mustHave(tx, name);
      await tx.deletePlugin(name);
      if (!keepData) await tx.putLeftover(name);
      note(event('plugin.remove', actor, name, { keepData }));
    });
    // The plugin is gone whatever comes of its data now: what is left is tried again.
    await this.dropLeftovers(name).catch((error: unknown) =>
      this.#options.onError(`the data of plugin ${name} cannot be deleted yet`, error),
    );
  }

  /**
   * Deletes the data of removed plugins, or of this one; what failed or a crash interrupted is tried again
   * from time to time.
   */
  async dropLeftovers(only?: string): Promise<void> {
    for (const name of await this.#options.store.leftovers()) {
      if (only !== undefined && name !== only) continue;
      for (const { driver } of this.#options.capabilities) await driver.drop?.(name);
      await this.#options.store.transaction((tx) => tx.deleteLeftover(name));
    }
  }

  plugins(): PluginView[] {
    return viewPlugins(this.#options.supervisor);
  }

  plugin(name: string): PluginDetail {
    return viewDetail(this.#options.supervisor, name);
  }

  #shown(name: string): PluginView {
    return viewPlugin(this.#options.supervisor, name);
  }

  grants(plugin?: string): readonly Grant[] {
    const all = this.#options.supervisor.snapshot.grants;
    return plugin === undefined ? all : all.filter((grant) => grant.plugin === plugin);
  }

  grant(id: string): Grant {
    const grant = this.#options.supervisor.snapshot.grants.find((item) => item.id === id);
    if (grant === undefined) throw noGrant(id);
    return grant;
  }

  /** Grants something beyond or ahead of what a manifest asks; it has effect only where both meet. */
  async addGrant(request: GrantRequest, actor: string): Promise<Grant> {
    const reach = this.#options.judge.reach(
      request.capability,
      request.operations,
      request.resources,
    );
    const at = this.#timestamp();
    const grant: Grant = {
      id: this.#options.newId(),
      plugin: request.plugin,
      capability: request.capability,
      ...reach,
      requested: null,
      optional: false,
      reason: request.reason ?? 'added by an administrator',
      status: 'approved',
      createdAt: at,
      decidedAt: at,
      decidedBy: actor,
    };
    await this.#change(request.plugin, async (tx, note) => {
      await mustHave(tx, request.plugin);
      await tx.putGrant(grant);
      await this.#promote(tx, request.plugin);
      note(grantEvent('grant.add', actor, grant));
    });
    return grant;
  }

  /** Approves a grant as it was asked for, or narrower when `to` says so. */
  async approve(
    id: string,
    to: { readonly operations?: readonly string[]; readonly resources?: readonly string[] },
    actor: string,
  ): Promise<Grant> {
    return this.#decide(id, actor, 'grant.approve', (grant) => {
      const asked = grant.requested ?? grant;
      const reach = this.#options.judge.reach(
        grant.capability,
        to.operations ?? asked.operations,
        to.resources ?? asked.resources,
      );
      if (grant.requested !== null) this.#options.judge.narrower(reach, grant.requested);
      return { ...grant, ...reach, status: 'approved' };
    });
  }

  /** Takes a grant back; it holds at the plugin's next capability call. */
  async revoke(id: string, actor: string): Promise<Grant> {
    return this.#decide(id, actor, 'grant.revoke', (grant) => ({ ...grant, status: 'revoked' }));
  }

  async #decide(
    id: string,
    actor: string,
    kind: string,
    decision: (grant: Grant) => Grant,
  ): Promise<Grant> {
    return this.#change(this.grant(id).plugin, async (tx, note) => {
      const grant = await tx.grant(id);
      if (grant === undefined) throw noGrant(id);
      const decided = { ...decision(grant), decidedAt: this.#timestamp(), decidedBy: actor };
      await tx.putGrant(decided);
      await this.#promote(tx, grant.plugin);
      note(grantEvent(kind, actor, decided));
      return decided;
    });
  }

  auditPage(query: { cursor?: string; limit: number; plugin?: string }): Promise<AuditPage> {
    return this.#options.store.auditPage(query);
  }

  /** Checks every chain from its first record on, after writing what waits. */
  async verifyAudit(): Promise<Verification> {
    await this.#options.audit.flush();
    return verifyRecords(this.#options.store.auditAll());
  }

  async #promote(tx: StoreTx, plugin: string): Promise<void> {
    const stored = await tx.configuration(plugin);
    await promote(tx, plugin, (manifest) => this.#options.unfit(manifest, stored));
  }

  async #unfit(tx: StoreTx, manifest: Manifest): Promise<string | undefined> {
    return this.#options.unfit(manifest, await tx.configuration(manifest.name));
  }

  async #change<T>(
    plugin: string,
    work: (tx: StoreTx, note: (event: AuditEvent) => void) => Promise<T>,
  ): Promise<T> {
    const result = await this.#options.audit.change(unclaimed(plugin, work));
    await this.#options.supervisor.sync(plugin);
    return result;
  }

  #timestamp(): string {
    return new Date(this.#options.now()).toISOString();
  }
}
