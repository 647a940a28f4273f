/** Tells when a plugin's own files change: not what a build writes, and not what npm installs. */
import { existsSync, type FSWatcher, watch } from 'node:fs';
import path from 'node:path';

const FOLDERS = ['src', 'test', 'migrations'];
/** Editors save in several steps; a build starts when they have been silent for this long. */
const QUIET_MS = 80;

/**
 * Yields after each burst of changes until the signal aborts. Changes while the consumer works are one
 * burst that is yielded next.
 */
export async function* changes(dir: string, signal: AbortSignal): AsyncGenerator<void> {
  const watchers = new Map<string, FSWatcher>();
  let timer: NodeJS.Timeout | undefined;
  let changed = Promise.withResolvers<void>();
  const notice = (file: string): void => {
    if (file.endsWith('noa.gen.ts') || /(~|\.new|\.swp|\.tmp)$/.test(file)) return;
    clearTimeout(timer);
    timer = setTimeout(() => changed.resolve(), QUIET_MS);
  };
  const watchFolders = (): void => {
    for (const folder of FOLDERS) {
      const at = path.join(dir, folder);
      if (watchers.has(folder) || !existsSync(at)) continue;
      const watcher = watch(at, { recursive: true }, (_event, file) => notice(file ?? folder));
      // A folder that went away is watched again when it is back.
      watcher.on('error', () => watchers.delete(folder));
      watchers.set(folder, watcher);
    }
  };
  const root = watch(dir, (_event, file) => {
    watchFolders();
    if (file !== null && (FOLDERS.includes(file) || /\.(json|md)$/.test(file))) notice(file);
  });
  watchFolders();
  const stop = (): void => changed.resolve();
  signal.addEventListener('abort', stop, { once: true });
  try {
    while (!signal.aborted) {
      await changed.promise;
      changed = Promise.withResolvers<void>();
      if (!signal.aborted) yield;
    }
  } finally {
    signal.removeEventListener('abort', stop);
    clearTimeout(timer);
    for (const watcher of [root, ...watchers.values()]) watcher.close();
  }
}
