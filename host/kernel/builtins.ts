/**
 * Keeps the plugins that are parts of this host at the version that it brings. Invariants: it happens before
 * anything starts, in one change for each with its audit records; a decision that an administrator has taken
 * stays, and so does a plugin that somebody else brought under the same name.
 */
import { type CapabilityRequest, NoaError } from '@noa/sdk/host';
import { gt } from 'semver';
import type { Audit, AuditEvent } from './audit.ts';
import type { Judge } from './judge.ts';
import { event, grantEvent, unclaimed } from './records.ts';
import { keepTriggers, openRequests } from './requests.ts';
import type { PluginVersion, StoreTx } from './store.ts';

export interface BuiltinsOptions {
  readonly audit: Audit<StoreTx>;
  readonly judge: Judge;
  readonly now: () => number;
  readonly newId: () => string;
}

export interface Builtins {
  /** Bundles of plugins whose runtime is `builtin`. */
  readonly bundles: readonly Uint8Array[];
  /** The configuration stands for the administrator who approves what they ask for. */
  readonly isApproved: boolean;
}

/** Who the audit says has done it. */
const ACTOR = 'host';

/** Answers why a plugin could not be kept, for each of which that is so. */
export async function keepBuiltins(
  options: BuiltinsOptions,
  { bundles, isApproved }: Builtins,
): Promise<string[]> {
  const problems: string[] = [];
  for (const bundle of bundles) {
    const { version, requests } = await options.judge.bundle(bundle);
    const { plugin } = version;
    const keep = async (tx: StoreTx, note: (event: AuditEvent) => void): Promise<void> => {
      await keepVersion(tx, note, version, bundle, requests, options);
      if (isApproved) await approvePending(tx, note, plugin, options);
    };
    try {
      await options.audit.change(unclaimed(plugin, keep));
    } catch (error) {
      if (!(error instanceof NoaError) || error.code !== 'CONFLICT') throw error;
      problems.push(`built-in plugin ${plugin} does not serve: ${error.message}`);
    }
  }
  return problems;
}

async function keepVersion(
  tx: StoreTx,
  note: (event: AuditEvent) => void,
  version: PluginVersion,
  bundle: Uint8Array,
  requests: readonly CapabilityRequest[],
  options: BuiltinsOptions,
): Promise<void> {
  const { plugin, digest } = version;
  const record = await tx.plugin(plugin);
  if (record?.active === digest) return;
  const present = (await tx.versions(plugin)).find((each) => each.digest === record?.active);
  if (present !== undefined && present.manifest.runtime.kind !== 'builtin') {
    const fix = 'remove it, and the one of the host takes its place at the next start';
    throw new NoaError(
      'CONFLICT',
      `a plugin of this name that is no part of the host is installed; ${fix}`,
    );
  }
  if (present !== undefined && gt(present.version, version.version)) {
    const words = `a newer host has recorded ${present.version}, and this one brings ${version.version}`;
    throw new NoaError('CONFLICT', words);
  }
  // Of the version before nothing is left to which a rollback could return.
  await tx.putPlugin({
    name: plugin,
    enabled: record?.enabled ?? true,
    active: digest,
    candidate: null,
    previous: null,
    pinned: record?.pinned ?? false,
  });
  await tx.putVersion(version, bundle);
  await tx.keepVersions(plugin, [digest]);
  await openRequests(tx, plugin, requests, options);
  await keepTriggers(tx, plugin);
  const kind = record === undefined ? 'plugin.install' : 'plugin.upgrade';
  note(event(kind, ACTOR, plugin, { version: version.version, digest }));
}

/** What nobody has decided yet: a right that was revoked stays so. */
async function approvePending(
  tx: StoreTx,
  note: (event: AuditEvent) => void,
  plugin: string,
  { now }: BuiltinsOptions,
): Promise<void> {
  const decidedAt = new Date(now()).toISOString();
  for (const grant of await tx.grants(plugin)) {
    if (grant.status !== 'pending') continue;
    const decided = { ...grant, status: 'approved' as const, decidedAt, decidedBy: ACTOR };
    await tx.putGrant(decided);
    note(grantEvent('grant.approve', ACTOR, decided));
  }
}
