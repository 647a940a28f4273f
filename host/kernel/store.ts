/**
 * The port to durable state. The database is the truth, memory follows it: every change happens in one
 * transaction that raises `revision`, and a host that sees a new revision reads the snapshot again.
 */
import type { Json, Manifest } from '@noa/sdk/host';
import type { AuditRecord, AuditSink } from './audit.ts';
import type { Subscription } from './events.ts';
import type { Grant } from './grants.ts';
import type { Sealed } from './seal.ts';
import type { TokenKey } from './key-ring.ts';

export interface PluginVersion {
  readonly plugin: string;
  readonly version: string;
  /** SHA-256 of the bundle, in hex. */
  readonly digest: string;
  readonly manifest: Manifest;
  /** ISO 8601. */
  readonly installedAt: string;
}

export interface PluginRecord {
  readonly name: string;
  readonly enabled: boolean;
  /** Digest of the bundle that serves, or will once it may. */
  readonly active: string;
  /** Digest of an upgrade that waits for grants while `active` serves. */
  readonly candidate: string | null;
  /** Digest to which `rollback` returns. */
  readonly previous: string | null;
  /** No upgrade, rollback or approved candidate replaces the active version. */
  readonly pinned: boolean;
}

export interface Snapshot {
  readonly revision: number;
  readonly plugins: readonly PluginRecord[];
  readonly versions: readonly PluginVersion[];
  readonly grants: readonly Grant[];
  readonly configurations: readonly StoredConfiguration[];
  readonly keys: readonly TokenKey[];
}

/** What an administrator set of a plugin's configuration; what is not here has the manifest's default. */
export interface StoredConfiguration extends Sealed {
  readonly plugin: string;
  /** Rises by one with every change. */
  readonly version: number;
  /** Null where a value is secret. */
  readonly settings: Json;
  /** JSON Pointers of the secret values; what is sealed is the JSON list of them in this order. */
  readonly secrets: readonly string[];
  /** ISO 8601. */
  readonly updatedAt: string;
}

/** What may be shown of a secret. */
export interface SecretView {
  readonly name: string;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface SealedSecret extends SecretView, Sealed {
  /** Rises by one with every new value. */
  readonly version: number;
}

/** Reads and writes inside one change; all reads see the state that the change will be made to. */
export interface StoreTx {
  plugin(name: string): Promise<PluginRecord | undefined>;
  versions(plugin: string): Promise<PluginVersion[]>;
  /** The active and candidate versions of all enabled plugins that contribute gRPC methods. */
  grpcVersions(): Promise<PluginVersion[]>;
  grants(plugin: string): Promise<Grant[]>;
  grant(id: string): Promise<Grant | undefined>;
  keys(): Promise<TokenKey[]>;
  configuration(plugin: string): Promise<StoredConfiguration | undefined>;
  putPlugin(record: PluginRecord): Promise<void>;
  /** Keeps a bundle; the same digest twice is one bundle. */
  putVersion(version: PluginVersion, bundle: Uint8Array): Promise<void>;
  /** Deletes the versions of a plugin that are not named. */
  keepVersions(plugin: string, digests: readonly string[]): Promise<void>;
  /** Deletes the plugin with its versions, grants and configuration. */
  deletePlugin(name: string): Promise<void>;
  /** Notes that a removed plugin's data is still to be deleted. */
  putLeftover(plugin: string): Promise<void>;
  deleteLeftover(plugin: string): Promise<void>;
  putGrant(grant: Grant): Promise<void>;
  deleteGrant(id: string): Promise<void>;
  /**
   * Has a plugin's subscriptions be these: one that is new begins with the next event, one that is not
   * named any more is forgotten.
   */
  keepSubscriptions(plugin: string, wanted: readonly Omit<Subscription, 'plugin'>[]): Promise<void>;
  /** Forgets the schedules of a plugin that are not named. */
  keepSchedules(plugin: string, names: readonly string[]): Promise<void>;
  putConfiguration(configuration: StoredConfiguration): Promise<void>;
  putKey(key: TokenKey): Promise<void>;
  secret(name: string): Promise<SealedSecret | undefined>;
  countSecrets(): Promise<number>;
  putSecret(secret: SealedSecret): Promise<void>;
  deleteSecret(name: string): Promise<void>;
}

export interface AuditPage {
  readonly records: readonly AuditRecord[];
  /** Cursor of the next page, null after the last. */
  readonly next: string | null;
}

export interface Store extends AuditSink<StoreTx> {
  revision(): Promise<number>;
  snapshot(): Promise<Snapshot>;
  /** The bundle's bytes. Rejects with NOT_FOUND when no version has this digest. */
  bundle(digest: string): Promise<Uint8Array>;
  /** Removed plugins whose data is still to be deleted. */
  leftovers(): Promise<string[]>;
  secret(name: string): Promise<SealedSecret | undefined>;
  /** In order of name. */
  secrets(): Promise<SecretView[]>;
  /** Newest first. `limit` at most 1000. */
  auditPage(query: { cursor?: string; limit: number; plugin?: string }): Promise<AuditPage>;
  /** Every record, chain by chain, in order. */
  auditAll(): AsyncIterable<AuditRecord>;
}

/** A bundle taken apart. */
export interface Bundle {
  readonly manifest: Manifest;
  readonly wasm: Uint8Array;
  readonly migrations: readonly { readonly name: string; readonly sql: string }[];
}
