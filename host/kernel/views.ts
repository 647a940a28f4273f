/** Plugins as administrators see them: the record, what runs in this host, what was asked and decided. */
import { type CapabilityRequest, type Manifest, NoaError } from '@noa/sdk/host';
import { compare } from 'semver';
import { type Grant, grantOf, type GrantStatus } from './grants.ts';
import { type HookView, viewHooks } from './hooks.ts';
import type { State } from './lifecycle.ts';
import type { Isolation } from './loader.ts';
import type { PluginRecord, PluginVersion } from './store.ts';
import { type SubscriptionView, viewSubscriptions } from './subscriptions.ts';
import type { Supervisor } from './supervisor.ts';

export interface RequestView {
  readonly grant: string | null;
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
  readonly optional: boolean;
  readonly reason: string;
  readonly status: GrantStatus;
}

export interface PluginView {
  readonly name: string;
  readonly version: string;
  readonly digest: string;
  readonly state: State;
  readonly enabled: boolean;
  /** It keeps its version until it is unpinned. */
  readonly pinned: boolean;
  /** Why it stands where it stands. */
  readonly reason: string | null;
  /** An upgrade that waits for grants or for a configuration that it accepts. */
  readonly candidate: {
    readonly version: string;
    readonly digest: string;
    /** Why it waits. */
    readonly reason: string;
  } | null;
  readonly requested: readonly RequestView[];
}

export interface PluginDetail extends PluginView {
  readonly manifest: Manifest;
  readonly routes: readonly string[];
  /** Methods that it answers. */
  readonly grpc: readonly string[];
  readonly subscriptions: readonly SubscriptionView[];
  readonly hooks: readonly HookView[];
  readonly versions: readonly {
    readonly version: string;
    readonly digest: string;
    readonly installedAt: string;
  }[];
  readonly instances: number;
  readonly memoryBytes: number;
  /** Where its code runs in this host; null while it does not. */
  readonly isolation: Isolation | null;
  /** Starts after a failure, since the host began. */
  readonly restarts: number;
}

type World = Pick<Supervisor, 'snapshot' | 'units' | 'unfit'>;

export function noPlugin(name: string): NoaError {
  return new NoaError('NOT_FOUND', `no plugin ${JSON.stringify(name.slice(0, 64))} is installed`);
}

export function viewPlugins(world: World): PluginView[] {
  return world.snapshot.plugins.map((record) => view(world, record));
}

/** Throws NOT_FOUND. */
export function viewPlugin(world: World, name: string): PluginView {
  return view(world, recordOf(world, name));
}

/** Throws NOT_FOUND. */
export function viewDetail(world: World, name: string): PluginDetail {
  const record = recordOf(world, name);
  const unit = world.units.get(name);
  const manifest = unit?.serving?.manifest ?? versionOf(world, record.active).manifest;
  const stats = unit?.serving?.runtime.stats();
  return {
    ...view(world, record),
    manifest,
    routes: (manifest.contributes?.routes ?? []).map(
      ({ method, path, at }) => `${method} ${at === 'root' ? '' : `/plugins/${name}`}${path}`,
    ),
    grpc: (manifest.contributes?.grpc ?? []).map(({ method }) => method),
    subscriptions: viewSubscriptions(manifest, grantsOf(world, name)),
    hooks: viewHooks(manifest, grantsOf(world, name)),
    versions: world.snapshot.versions
      .filter(({ plugin }) => plugin === name)
      .toSorted((a, b) => compare(b.version, a.version))
      .map(({ version, digest, installedAt }) => ({ version, digest, installedAt })),
    instances: stats?.instances ?? 0,
    memoryBytes: stats?.memoryBytes ?? 0,
    isolation: unit?.serving ? (unit.serving.runtime.isolation ?? 'thread') : null,
    restarts: unit?.restarts ?? 0,
  };
}

function grantsOf({ snapshot }: World, name: string): Grant[] {
  return snapshot.grants.filter(({ plugin }) => plugin === name);
}

function recordOf({ snapshot }: World, name: string): PluginRecord {
  const record = snapshot.plugins.find((plugin) => plugin.name === name);
  if (record === undefined) throw noPlugin(name);
  return record;
}

function versionOf({ snapshot }: World, digest: string): PluginVersion {
  const version = snapshot.versions.find((item) => item.digest === digest);
  if (version === undefined)
    throw new NoaError('INTERNAL', 'a plugin names a version that is gone');
  return version;
}

function view(world: World, record: PluginRecord): PluginView {
  const unit = world.units.get(record.name);
  const active = versionOf(world, record.active);
  const candidate = record.candidate === null ? null : versionOf(world, record.candidate);
  const grants = grantsOf(world, record.name);
  // After an upgrade that cannot start, the version that serves is not the one that should.
  const { serving } = unit ?? {};
  return {
    name: record.name,
    version: serving?.manifest.version ?? active.version,
    digest: serving?.digest ?? active.digest,
    state: unit?.life.state ?? 'discovered',
    enabled: record.enabled,
    pinned: record.pinned,
    reason: unit?.life.reason ?? null,
    candidate: candidate && {
      version: candidate.version,
      digest: candidate.digest,
      reason: record.pinned
        ? `the plugin is pinned; noa plugin unpin ${record.name}`
        : (world.unfit(candidate.manifest) ?? 'it asks for grants that are not decided'),
    },
    requested: ((candidate ?? active).manifest.capabilities ?? []).map((request) =>
      requestView(request, grants),
    ),
  };
}

function requestView(request: CapabilityRequest, grants: readonly Grant[]): RequestView {
  const grant = grantOf(request, grants);
  const { capability, operations, resources, optional, reason } = request;
  const status = grant?.status ?? 'pending';
  return {
    grant: grant?.id ?? null,
    capability,
    operations,
    resources,
    optional: optional ?? false,
    reason,
    status,
  };
}
