/** Which plugins take part in the requests of others: what their hooks ask for, and what they are given. Pure. */
import { type CapabilityRequest, covers, type HookSpec, type Manifest } from '@noa/sdk/host';
import { effectiveRights, type Grant, overlap } from './grants.ts';
import type { Snapshot } from './store.ts';

const CAPABILITY = 'gateway';

export interface HookView extends HookSpec {
  /** Why it is not called for all its operations, and what changes that; null when it is. */
  readonly inactive: string | null;
}

/** A hook as far as it is granted. */
export interface GrantedHook {
  readonly plugin: string;
  readonly on: HookSpec['on'];
  readonly export: string;
  /** Names of operations, or prefixes that end in `*`. */
  readonly operations: readonly string[];
  readonly order: number;
  readonly failOpen: boolean;
}

/** What the hooks ask for beyond what is requested anyway. */
export function hookRequests(
  { contributes }: Manifest,
  requests: readonly CapabilityRequest[],
): CapabilityRequest[] {
  return (contributes?.hooks ?? []).flatMap((hook) => {
    const resources = hook.operations.filter(
      (operation) => !requests.some((request) => gives(request, hook.on, operation)),
    );
    if (resources.length === 0) return [];
    return [{ capability: CAPABILITY, operations: [hook.on], resources, reason: reasonOf(hook) }];
  });
}

/** The administrator who decides must see what becomes of requests when the plugin fails. */
function reasonOf({ on, export: target, failOpen }: HookSpec): string {
  if (on === 'afterResponse') return `Its export ${target} is told of answers to these requests.`;
  const failing = failOpen ? 'go on unjudged' : 'are refused';
  return `Its export ${target} judges these requests; while it fails, they ${failing}.`;
}

/** The hooks of an installed version, against the plugin's grants. */
export function viewHooks(
  { name, capabilities = [], contributes }: Manifest,
  grants: readonly Grant[],
): HookView[] {
  const rights = effectiveRights(capabilities, grants);
  return (contributes?.hooks ?? []).map((hook) => {
    const missing = hook.operations.filter(
      (operation) => !rights.some((right) => gives(right, hook.on, operation)),
    );
    if (missing.length === 0) return { ...hook, inactive: null };
    const remedy = `noa grant approve ${name} --all`;
    return { ...hook, inactive: `not granted for ${missing.join(', ')}; ${remedy}` };
  });
}

/** The hooks of all plugins that are enabled, in the order in which they run. */
export function grantedHooks({ plugins, versions, grants }: Snapshot): GrantedHook[] {
  const found: GrantedHook[] = [];
  for (const { name: plugin, active, enabled } of plugins) {
    const version = versions.find((item) => item.plugin === plugin && item.digest === active);
    const { capabilities = [], contributes } = version?.manifest ?? {};
    if (!enabled || contributes?.hooks === undefined) continue;
    const own = grants.filter((grant) => grant.plugin === plugin);
    const rights = effectiveRights(capabilities, own).filter(isHookRight);
    for (const {
      on,
      export: target,
      operations,
      order = 0,
      failOpen = false,
    } of contributes.hooks) {
      const given = rights
        .filter((right) => right.operations.includes(on))
        .flatMap(({ resources }) => resources)
        .flatMap((pattern) => operations.flatMap((each) => overlap(pattern, each) ?? []));
      if (given.length === 0) continue;
      found.push({ plugin, on, export: target, operations: given, order, failOpen });
    }
  }
  return found.sort((a, b) => a.order - b.order || (a.plugin < b.plugin ? -1 : 1));
}

type Reach = Pick<CapabilityRequest, 'capability'> & {
  readonly operations: readonly string[];
  readonly resources: readonly string[];
};

function isHookRight({ capability }: Reach): boolean {
  return capability === CAPABILITY;
}

function gives(reach: Reach, on: string, operation: string): boolean {
  if (!isHookRight(reach) || !reach.operations.includes(on)) return false;
  return reach.resources.some((pattern) => covers(pattern, operation));
}
