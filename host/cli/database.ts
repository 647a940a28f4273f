/** The database of a host that is not necessarily running, for commands that need it by themselves. */
import { join } from 'node:path';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { attachPostgres, startPostgres } from '../../capabilities/db/embedded.ts';
import type { Config } from '../config.ts';
import { openDataFolder } from '../data-folder.ts';
import type { Database } from '../store/migrate.ts';

export interface FoundDatabase {
  readonly database: Database;
  /** A host of this data folder is running on it. */
  readonly inUse: boolean;
}

/**
 * Runs `use` on the configured server, on the embedded one of the running host, or on the embedded one
 * started for this purpose; that one holds the data folder meanwhile and is stopped afterwards.
 */
export async function withDatabase<T>(
  config: Config,
  onNotice: (text: string) => void,
  use: (found: FoundDatabase) => Promise<T>,
): Promise<T> {
  if (config.database.url !== undefined) {
    return use({ database: connectionConfig(config.database.url), inUse: false });
  }
  const dataDir = join(config.data.path, 'postgres');
  const running = await attachPostgres(dataDir);
  if (running !== undefined) return use({ database: connectionConfig(running), inUse: true });
  const folder = await openDataFolder(config.data.path, onNotice);
  try {
    const log = (level: 'debug' | 'warn' | 'error', message: string): void => {
      if (level === 'error') onNotice(message);
    };
    const postgres = await startPostgres({ dataDir, log, onProgress: onNotice });
    try {
      return await use({ database: connectionConfig(postgres.url), inUse: false });
    } finally {
      await postgres.stop();
    }
  } finally {
    await folder.release();
  }
}
