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

/** Resolves enabled plugins. Deterministic: the order follows names where dependencies leave it open. */
export function resolve(manifests: readonly Manifest[]): Resolution {
  const byName = new Map(manifests.map((manifest) => [manifest.name, manifest]));
  const problems = new Map<string, string>();
  const order: string[] = [];
  const path: string[] = [];
  const done = new Set<string>();

  const providersOf = (name: string) =>
    manifests.flatMap(({ name: plugin, version, provides }) => {
      const provided = plugin === name ? version : provides?.[name];
      return provided === undefined ? [] : [{ plugin, version: provided }];
    });

  /** Visits depth first; a plugin met again on the present path closes a cycle. */
  const visit = (name: string): void => {
    if (done.has(name)) return;
    const start = path.indexOf(name);
    if (start >= 0) {
      const members = path.slice(start);
      const text = `dependency cycle: ${[...members, name].join(' → ')}; make one of them optional`;
      for (const member of members) problems.set(member, text);
      return;
    }
    const manifest = byName.get(name);
    if (manifest === undefined) return;
    path.push(name);
    const range = manifest.noa;
    if (range !== undefined && !satisfies(ABI_VERSION, range)) {
      problems.set(name, `needs plugin ABI ${range}, this host speaks ${ABI_VERSION}`);
    }
    for (const need of manifest.needs ?? []) {
      const providers = providersOf(need.plugin);
      const fit = providers.find(({ version }) => satisfies(version, need.version ?? '*'));
      // An optional dependency orders the start when it can, and never more than that.
      if (need.optional) {
        if (fit !== undefined && !path.includes(fit.plugin)) visit(fit.plugin);
        continue;
      }
      const wanted = `${need.plugin}${need.version === undefined ? '' : ` ${need.version}`}`;
      if (providers.length === 0) {
        problems.set(
          name,
          `needs ${wanted}, which no enabled plugin provides: install or enable it`,
        );
      } else if (fit === undefined) {
        const found = providers.map(({ version }) => version).join(', ');
        problems.set(name, `needs ${wanted}, but the installed version is ${found}`);
      } else {
        visit(fit.plugin);
        if (problems.has(fit.plugin) && !problems.has(name)) {
          problems.set(name, `needs ${wanted}, which cannot start: ${problems.get(fit.plugin)}`);
        }
      }
    }
    path.pop();
    done.add(name);
    if (!problems.has(name)) order.push(name);
  };

  for (const name of [...byName.keys()].sort()) visit(name);
  return { order, problems };
}
