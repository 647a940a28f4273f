/** Chooses for each plugin the loader that its manifest and the operator's configuration ask for. */
import { type Manifest, NoaError } from '@noa/sdk/host';
import type { Loader } from '../kernel/loader.ts';

export interface Tiers {
  /** Threads of the host, for all that no other tier is for. */
  readonly shared: Loader;
  /** A process for each plugin. */
  readonly isolated: Loader;
  /** A process without a sandbox, for what the operator has listed. */
  readonly native: Loader;
  /** The host's own process, for parts of the host. */
  readonly builtin: Loader;
  /** Names of the plugins that get a process; `*` is every plugin. */
  readonly untrusted: readonly string[];
}

export function createTieredLoader(tiers: Tiers): Loader {
  const { shared, isolated, native, builtin, untrusted } = tiers;
  const every = untrusted.includes('*');
  const names = new Set(untrusted);
  const tierOf = ({ name, runtime }: Manifest): Loader => {
    if (runtime.kind === 'builtin') return builtin;
    const mistrusted = every || names.has(name);
    if (runtime.kind !== 'native') return mistrusted ? isolated : shared;
    if (!mistrusted) return native;
    const words = `runtime.kind: ${name} is a native plugin, and plugins.untrusted names it: what is not trusted runs as "wasm" only`;
    throw new NoaError('INVALID_ARGUMENT', words);
  };
  return {
    inspect: async (manifest, limits, wasm) => tierOf(manifest).inspect(manifest, limits, wasm),
    load: async (request) => tierOf(request.manifest).load(request),
    async close() {
      await Promise.all([shared, isolated, native, builtin].map((each) => each.close()));
    },
  };
}
