import { getCompileCacheDir } from 'node:module';

/**
 * The environment of a process or a thread of the host's own that is to know nothing of the host's: no more than
 * where compiled code is kept, which halves its start.
 */
export function bareEnvironment(): { readonly NODE_COMPILE_CACHE?: string } {
  const directory = getCompileCacheDir();
  return directory === undefined ? {} : { NODE_COMPILE_CACHE: directory };
}
