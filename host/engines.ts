/**
 * What one machine has once, however many processes serve on it: the data folder with its secrets, the
 * database, the cache, the blobs, the vectors. Engines that no URL names run inside this process.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Driver } from '@noa/sdk/host';
import { openBlobFolder } from '../capabilities/blob/folder.ts';
import { openEmbeddedCache } from '../capabilities/cache/embedded.ts';
import type { RedisEndpoint } from '../capabilities/cache/redis.ts';
import { startPostgres } from '../capabilities/db/embedded.ts';
import { createVectorDriver } from '../capabilities/vector/driver.ts';
import { openEmbeddedStore } from '../capabilities/vector/embedded/store.ts';
import { openQdrantStore } from '../capabilities/vector/qdrant/store.ts';
import type { Config } from './config.ts';
import { openDataFolder } from './data-folder.ts';
import type { Logs } from './telemetry/logs.ts';
import { HTTP_FLAGS } from './transports/http.ts';
import { assertFree } from './transports/listener.ts';
import { METRICS_FLAGS } from './transports/metrics.ts';

export interface Engines {
  /** The data folder. */
  readonly path: string;
  readonly hostId: string;
  /** `made` when this start made it: it is shown once. */
  readonly bootstrap: { readonly token: string; readonly made: boolean };
  readonly rootKey: Uint8Array;
  readonly databaseUrl: string;
  readonly cache: RedisEndpoint;
  /** Where the host's other processes find the cache. */
  readonly shareCache: () => Promise<RedisEndpoint>;
  readonly blob: Driver;
  readonly vector: Driver;
  /** What runs inside this process instead of a service. */
  readonly embedded: readonly string[];
}

/**
 * Takes the data folder and starts what no URL names. `onExit` hears when an engine ends by itself. Rejects
 * with NoaError for the operator, with nothing left open.
 */
export async function openEngines(
  config: Config,
  logger: Logs['logger'],
  onProgress: (step: string) => void,
  onExit: (error: Error) => void,
): Promise<Engines & AsyncDisposable> {
  await using parts = new AsyncDisposableStack();
  const warn = (message: string): void => logger('host').warn(message);
  const folder = await openDataFolder(config.data.path, onProgress);
  parts.defer(() => folder.release());
  // Before anything that takes seconds; what takes a port after this is told of all the same.
  await assertFree(config.server, HTTP_FLAGS);
  const { metrics_bind: host, metrics_port: port } = config.observability;
  await assertFree({ host, port }, METRICS_FLAGS);
  const bootstrap = await folder.bootstrapToken(config.auth.bootstrap_token);
  const rootKey = await folder.rootKey(config.auth.root_key);

  const embedded: string[] = [];
  const share = parts.use(new AsyncDisposableStack());
  let databaseUrl = config.database.url;
  if (databaseUrl === undefined) {
    const lines = logger('postgres');
    const postgres = await startPostgres({
      dataDir: join(folder.path, 'postgres'),
      log: (level, message) => lines[level](message),
      onProgress,
      onExit,
    });
    parts.defer(() => postgres.stop());
    databaseUrl = postgres.url;
    embedded.push('PostgreSQL');
  }
  let cache: RedisEndpoint;
  let shareCache: Engines['shareCache'];
  if (config.cache.url === undefined) {
    const server = await openEmbeddedCache({ dataDir: join(folder.path, 'cache'), warn });
    parts.defer(() => server.close());
    cache = server;
    shareCache = async () => {
      // Not in the data folder: the path of a socket may have 100 characters, and no more.
      const runtime = await mkdtemp(join(tmpdir(), 'noa-cache-'));
      share.defer(() => rm(runtime, { recursive: true, force: true }));
      const path = join(runtime, 'socket');
      await server.listen(path);
      return { path };
    };
    embedded.push('cache');
  } else {
    const endpoint = { url: config.cache.url };
    cache = endpoint;
    shareCache = () => Promise.resolve(endpoint);
  }
  const blob = await openBlobFolder({
    folder: join(folder.path, 'blobs'),
    maxBytes: config.plugins.blob_max_bytes,
    maxCount: config.plugins.blob_max_count,
    warn,
  });

  const { url, api_key: apiKey } = config.qdrant;
  const vector = createVectorDriver(
    url === undefined
      ? openEmbeddedStore({
          folder: join(folder.path, 'vectors'),
          maxPoints: config.plugins.vector_max_points,
          warn,
        })
      : openQdrantStore({ url, apiKey }),
  );
  parts.defer(() => vector.close());
  if (url === undefined) embedded.push('vectors');

  const open = parts.move();
  return {
    path: folder.path,
    hostId: folder.hostId,
    bootstrap,
    rootKey,
    databaseUrl,
    cache,
    shareCache,
    blob,
    vector,
    embedded,
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  };
}
