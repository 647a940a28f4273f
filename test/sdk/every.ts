/** The fixture `every`, built once for each test file that looks at it. */
import { buildPlugin, type BuildOptions, type BuildResult } from '@noa/sdk/build';
import { join } from 'node:path';
import { GuestInstance, type Ending, type GuestOptions } from './guest-instance.ts';

export const FIXTURE = join(import.meta.dirname, '../fixtures/guest/every');
export const EXPORTS =
  'echo greet fail ports hang timers overflow allocate chance language url parameters decode encode web state stray'.split(
    ' ',
  );

export const build = (options: Partial<BuildOptions> = {}): Promise<BuildResult> =>
  buildPlugin({ dir: FIXTURE, exports: EXPORTS, memoryMiB: 32, ...options });

export const built: BuildResult = await build();

export const guest = (options?: GuestOptions): GuestInstance =>
  new GuestInstance(built.wasm, options);

/** The value of a call that must succeed. */
export async function value(ending: Promise<Ending>): Promise<unknown> {
  const ended = await ending;
  if ('output' in ended) return ended.output;
  throw new Error(`${ended.code}: ${ended.message}`);
}
