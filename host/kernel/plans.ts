/** Where each plugin belongs, computed from the recorded state alone. */
import type { Manifest } from '@noa/sdk/host';
import type { Grant } from './grants.ts';
import { resolve } from './resolver.ts';
import type { PluginRecord, Snapshot, StoredConfiguration } from './store.ts';

/** Where a plugin belongs. */
export interface Plan {
  readonly record: PluginRecord;
  readonly manifest: Manifest;
  readonly grants: readonly Grant[];
  readonly stored: StoredConfiguration | undefined;
  /** Why it cannot start beside the others. */
  readonly problem: string | undefined;
}

/** What the recorded state wants of each plugin. */
export function plansOf(snapshot: Snapshot): Map<string, Plan> {
  const manifests = new Map<string, Manifest>();
  for (const record of snapshot.plugins) {
    const version = snapshot.versions.find(({ digest }) => digest === record.active);
    if (version) manifests.set(record.name, version.manifest);
  }
  const enabled = snapshot.plugins.filter((record) => record.enabled);
  const { order, problems } = resolve(enabled.flatMap(({ name }) => manifests.get(name) ?? []));
  const records = new Map(snapshot.plugins.map((record) => [record.name, record]));
  const plans = new Map<string, Plan>();
  // In start order: turns are given in the order of the plans.
  for (const name of new Set([...order, ...records.keys()])) {
    const record = records.get(name);
    const manifest = manifests.get(name);
    if (record === undefined || manifest === undefined) continue;
    const grants = snapshot.grants.filter(({ plugin }) => plugin === name);
    const stored = snapshot.configurations.find(({ plugin }) => plugin === name);
    plans.set(name, { record, manifest, grants, stored, problem: problems.get(name) });
  }
  return plans;
}
