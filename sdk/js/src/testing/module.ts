/** The built module, run by the host's real loader over the fakes. */
import { readPluginFolder } from '../author/folder.ts';
import { NoaError } from '../errors.ts';
import type { Json } from '../json.ts';
import { effectiveLimits, moduleOf } from '../manifest.ts';
import type { FakeDoor } from './door.ts';
import { providedLoader } from './loader.ts';
import type { Runner } from './native.ts';

export async function moduleRunner(folder: string, config: Json, door: FakeDoor): Promise<Runner> {
  const { manifest, files } = await readPluginFolder(folder);
  const wasm = files.get(moduleOf(manifest)?.file ?? '');
  if (wasm === undefined) throw new NoaError('NOT_FOUND', `There is no module in ${folder}.`);
  const limits = effectiveLimits(manifest);
  const loader = await providedLoader();
  try {
    await loader.inspect(manifest, limits, wasm);
    const runtime = await loader.load({
      plugin: manifest.name,
      generation: 1,
      manifest,
      limits,
      wasm,
      config,
      log: (level, message) => door.write({ level, message }),
    });
    return {
      run: async (exportName, input, timeoutMs) => {
        const output = await runtime.call({
          export: exportName,
          input: JSON.stringify(input),
          deadline: Date.now() + timeoutMs,
          signal: new AbortController().signal,
          invoke: (capability, operation, args) => door.invoke(capability, operation, args),
        });
        return JSON.parse(output) as Json;
      },
      close: async () => {
        await runtime.stop();
        await loader.close();
      },
    };
  } catch (error) {
    await loader.close();
    throw error;
  }
}
