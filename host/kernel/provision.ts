/** Readies the engines behind the capabilities for one plugin. */
import type { DriverGrant } from '@noa/sdk/host';
import type { CapabilityEntry } from './broker.ts';
import type { Grant, Right } from './grants.ts';
import type { Bundle } from './store.ts';

/**
 * Has each driver that a decided grant concerns prepare the plugin's own area, so that the engine itself
 * enforces the rights. Without any, nothing of the plugin's runs there: not its migrations either.
 */
export async function provision(
  capabilities: readonly CapabilityEntry[],
  plugin: string,
  rights: readonly Right[],
  decided: readonly Grant[],
  bundle: Bundle,
): Promise<void> {
  for (const { capability, driver } of capabilities) {
    const concerns = decided.some((grant) => grant.capability === capability.name);
    if (driver.provision === undefined || !concerns) continue;
    const grants: DriverGrant[] = rights.filter((right) => right.capability === capability.name);
    const migrations = grants.length > 0 ? bundle.migrations : [];
    await driver.provision({ plugin, grants, migrations });
  }
}
