/**
 * The one list of built-in plugins: parts of the host that are plugins like any other, with a manifest,
 * grants and the one door. A new one is a folder in plugins/ and a line here.
 */
import { fileURLToPath } from 'node:url';
import { type Manifest, NoaError, readBundle } from '@noa/sdk/host';
import { packPlugin } from '@noa/sdk/author';
import { builtinContracts } from './builtin.ts';
import { judgeManifest } from './kernel/judge.ts';
import type { BuiltinPlugin } from './loaders/builtin/loader.ts';

export type BuiltinName = keyof typeof MODULES;

/** Imported when the plugin is first loaded. */
const MODULES = {
  inference: (): Promise<unknown> => import('../plugins/inference/src/index.ts'),
  retrieval: (): Promise<unknown> => import('../plugins/retrieval/src/index.ts'),
};

export interface Builtin extends BuiltinPlugin {
  /** As it is installed. */
  readonly bundle: Uint8Array;
}

/** Reads those that are named. Rejects with NoaError when one of their files is damaged. */
export function openBuiltins(names: readonly BuiltinName[]): Promise<Builtin[]> {
  return Promise.all(names.map((name) => openBuiltin(name)));
}

async function openBuiltin(name: BuiltinName): Promise<Builtin> {
  const folder = fileURLToPath(new URL(`../plugins/${name}`, import.meta.url));
  const { bytes } = await packPlugin(folder);
  const { manifest } = await readBundle(bytes);
  return { bundle: bytes, manifest: judged(name, manifest), module: MODULES[name] };
}

function judged(name: string, given: Manifest): Manifest {
  const { manifest } = judgeManifest(given, builtinContracts);
  if (manifest.name === name && manifest.runtime.kind === 'builtin') return manifest;
  throw new NoaError('INTERNAL', `plugins/${name}/plugin.json is not that of the built-in plugin`);
}
