/**
 * Decides which plugins can run beside each other and in which order they start: a plugin after all
 * that it needs. Pure; what is wrong is said for each plugin and blocks only that one and its dependants.
 */
import { ABI_VERSION, type Manifest } from '@noa/sdk/host';
import { satisfies } from 'semver';

export interface Resolution {
  /** Names in start order; only those without a problem. */
  readonly order: readonly string[];
  /** Why each of the others cannot start. */
  readonly problems: ReadonlyMap<string, string>;
}

interface Needs {
  /** Plugins that must start before this one. */
  readonly required: string[];
  /** Plugins that start before this one where that closes no cycle. */
  readonly optional: string[];
}

/** Resolves enabled plugins. Deterministic: the order follows names where dependencies leave it open. */
export function resolve(manifests: readonly Manifest[]): Resolution {
  const sorted = manifests.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  const problems = new Map<string, string>();
  const needs = new Map(
    sorted.map((manifest) => [manifest.name, link(manifest, sorted, problems)]),
  );
  nameCycles(needs, problems);
  spread(needs, problems);
  return { order: startOrder(needs, problems), problems };
}

/** Finds a provider for each need; what has none is a problem when it is required. */
function link(manifest: Manifest, all: readonly Manifest[], problems: Map<string, string>): Needs {
  const needs: Needs = { required: [], optional: [] };
  if (manifest.noa !== undefined && !satisfies(ABI_VERSION, manifest.noa)) {
    problems.set(
      manifest.name,
      `needs plugin ABI ${manifest.noa}, this host speaks ${ABI_VERSION}`,
    );
  }
  for (const { plugin: name, version: range = '*', optional } of manifest.needs ?? []) {
    const providers = all.flatMap((other) => {
      const version = other.name === name ? other.version : other.provides?.[name];
      return version === undefined ? [] : [{ plugin: other.name, version }];
    });
    const fit = providers.find(({ version }) => satisfies(version, range));
    if (fit !== undefined) (optional ? needs.optional : needs.required).push(fit.plugin);
    else if (!optional && !problems.has(manifest.name)) {
      const found = providers.map(({ version }) => version).join(', ');
      const text = found
        ? `but the installed version is ${found}`
        : 'which no enabled plugin provides: install or enable it';
      problems.set(manifest.name, `needs ${range === '*' ? name : `${name} ${range}`}, ${text}`);
    }
  }
  return needs;
}

/** Every plugin on a cycle of required needs gets the cycle's name. */
function nameCycles(needs: ReadonlyMap<string, Needs>, problems: Map<string, string>): void {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (name: string): void => {
    const start = path.indexOf(name);
    if (start >= 0) {
      const members = path.slice(start);
      const text = `dependency cycle: ${[...members, name].join(' → ')}; make one of them optional`;
      for (const member of members) problems.set(member, text);
    } else if (!done.has(name)) {
      path.push(name);
      for (const next of needs.get(name)?.required ?? []) visit(next);
      path.pop();
      done.add(name);
    }
  };
  for (const name of needs.keys()) visit(name);
}

/** A plugin that needs one with a problem has a problem. */
function spread(needs: ReadonlyMap<string, Needs>, problems: Map<string, string>): void {
  for (let before = -1; before !== problems.size;) {
    before = problems.size;
    for (const [name, { required }] of needs) {
      const broken = required.find((need) => problems.has(need));
      if (broken === undefined || problems.has(name)) continue;
      problems.set(name, `needs ${broken}, which cannot start: ${problems.get(broken)}`);
    }
  }
}

/** Takes, again and again, the first plugin whose needs are met: the optional ones too where one can. */
function startOrder(
  needs: ReadonlyMap<string, Needs>,
  problems: ReadonlyMap<string, string>,
): string[] {
  const order: string[] = [];
  const left = new Set([...needs.keys()].filter((name) => !problems.has(name)));
  while (left.size > 0) {
    const ready = [...left].filter(
      (name) => !needs.get(name)?.required.some((need) => left.has(need)),
    );
    const next =
      ready.find((name) => !needs.get(name)?.optional.some((need) => left.has(need))) ?? ready[0];
    if (next === undefined) break;
    order.push(next);
    left.delete(next);
  }
  return order;
}
