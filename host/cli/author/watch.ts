/**
 * Tells when a plugin's own files change: not what a build writes, and not what npm installs. Folders are
 * watched, never files: an editor that saves by renaming a new file into place leaves no file to watch.
 */
import { type FSWatcher, readdirSync, watch } from 'node:fs';
import path from 'node:path';

const FOLDERS = ['src', 'test', 'migrations'];
/** Editors save in several steps; a build starts when they have been silent for this long. */
const QUIET_MS = 80;
/** Folders watched below a plugin's; what lies deeper or beyond is not seen. */
const MAX_FOLDERS = 500;

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
  const unwatch = (folder: string): void => {
    watchers.get(folder)?.close();
    watchers.delete(folder);
  };
  /** Watches a folder and those in it. What came while it was not watched is one change. */
  const follow = (folder: string): void => {
    const below = foldersIn(folder);
    if (below === undefined) return unwatch(folder);
    if (!watchers.has(folder) && watchers.size < MAX_FOLDERS) {
      const watcher = watch(folder, (event, file) => {
        if (event === 'rename') follow(folder);
        notice(file ?? folder);
      });
      // A folder that went away is watched again when it is back.
      watcher.on('error', () => unwatch(folder));
      watchers.set(folder, watcher);
    }
    for (const name of below) follow(path.join(folder, name));
  };
  const root = watch(dir, (event, file) => {
    if (file === null || !FOLDERS.includes(file)) {
      if (file === null || /\.(json|md)$/.test(file)) notice(file ?? dir);
      return;
    }
    // It may be another folder of the same name now.
    if (event === 'rename') {
      for (const folder of watchers.keys()) {
        if (`${folder}/`.startsWith(`${path.join(dir, file)}/`)) unwatch(folder);
      }
    }
    follow(path.join(dir, file));
    notice(file);
  });
  for (const folder of FOLDERS) follow(path.join(dir, folder));
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

/** Names of the folders in a folder; undefined when it is not there. */
function foldersIn(folder: string): string[] | undefined {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}
