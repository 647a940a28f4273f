/** What a plugin's versions ask for, kept as grants, and the version that may serve by them. */
import type { CapabilityRequest, Manifest } from '@noa/sdk/host';
import { grantOf, undecided } from './grants.ts';
import type { PluginRecord, StoredConfiguration, StoreTx } from './store.ts';

/** Why a version does not accept what is stored as its plugin's configuration; undefined when it does. */
export type Unfit = (
  manifest: Manifest,
  stored: StoredConfiguration | undefined,
) => string | undefined;

/**
 * The record once the version of `digest` is the active one. `served` is the version that served until
 * now: what a rollback returns to, also when the active one could never start.
 */
export function activate(record: PluginRecord, digest: string, served?: string): PluginRecord {
  const before = served ?? record.active;
  const previous = before === digest ? record.previous : before;
  return { ...record, active: digest, candidate: null, previous };
}

/**
 * Makes the candidate the active version once nothing that it requires is undecided, it accepts the
 * configuration (`unfit` says why it does not) and the plugin is not pinned.
 */
export async function promote(
  tx: StoreTx,
  name: string,
  unfit: (manifest: Manifest) => string | undefined,
): Promise<void> {
  const record = await tx.plugin(name);
  if (record?.candidate == null || record.pinned) return;
  const versions = await tx.versions(name);
  const candidate = versions.find(({ digest }) => digest === record.candidate);
  if (candidate === undefined) return;
  const waits = undecided(candidate.manifest.capabilities ?? [], await tx.grants(name));
  if (waits.length > 0 || unfit(candidate.manifest) !== undefined) return;
  await tx.putPlugin(activate(record, candidate.digest));
}

/** Opens a pending grant for each request that has none, and drops pending ones nobody asks for now. */
export async function openRequests(
  tx: StoreTx,
  plugin: string,
  requests: readonly CapabilityRequest[],
  make: { readonly newId: () => string; readonly now: () => number },
): Promise<void> {
  const grants = await tx.grants(plugin);
  const wanted = new Set<string>();
  for (const request of requests) {
    const known = grantOf(request, grants);
    const { capability, operations, resources, reason } = request;
    const optional = request.optional ?? false;
    if (known) {
      wanted.add(known.id);
      if (known.reason !== reason || known.optional !== optional) {
        await tx.putGrant({ ...known, reason, optional });
      }
      continue;
    }
    await tx.putGrant({
      id: make.newId(),
      plugin,
      capability,
      operations,
      resources,
      requested: { operations, resources },
      optional,
      reason,
      status: 'pending',
      createdAt: new Date(make.now()).toISOString(),
      decidedAt: null,
      decidedBy: null,
    });
  }
  for (const grant of grants) {
    if (grant.status === 'pending' && !wanted.has(grant.id)) await tx.deleteGrant(grant.id);
  }
}

/** Keeps what any of the plugin's versions subscribes to and is called at: one of them may serve next. */
export async function keepTriggers(tx: StoreTx, plugin: string): Promise<void> {
  const all = (await tx.versions(plugin)).map(({ manifest }) => manifest.contributes ?? {});
  await tx.keepSubscriptions(
    plugin,
    all.flatMap(({ subscriptions }) => subscriptions ?? []),
  );
  await tx.keepSchedules(
    plugin,
    all.flatMap(({ schedules }) => (schedules ?? []).map(({ name }) => name)),
  );
}
