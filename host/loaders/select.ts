/** Chooses for each plugin the loader that the operator's configuration asks for. */
import type { Loader } from '../kernel/loader.ts';

export interface Tiers {
  /** Threads of the host, for all that no other tier is for. */
  readonly shared: Loader;
  /** A process for each plugin. */
  readonly isolated: Loader;
  /** Names of the plugins that get a process; `*` is every plugin. */
  readonly untrusted: readonly string[];
}

export function createTieredLoader({ shared, isolated, untrusted }: Tiers): Loader {
  const every = untrusted.includes('*');
  const names = new Set(untrusted);
  const tierOf = (plugin: string): Loader => (every || names.has(plugin) ? isolated : shared);
  return {
    inspect: (manifest, limits, wasm) => tierOf(manifest.name).inspect(manifest, limits, wasm),
    load: (request) => tierOf(request.plugin).load(request),
    async close() {
      await Promise.all([shared.close(), isolated.close()]);
    },
  };
}
