/** Two hosts on one PostgreSQL, as they stand behind a load balancer. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { startPostgres } from '../../capabilities/db/embedded.ts';
import { RunningHost } from './running-host.ts';

export interface TwoHosts {
  readonly one: RunningHost;
  readonly two: RunningHost;
  /** Of their database, for its administrator. */
  readonly url: string;
}

/** Each part ends with the test as soon as it is there, so that a failed start leaves nothing. */
export async function twoHosts(
  t: Pick<Test, 'teardown'>,
  env: Readonly<Record<string, string>> = {},
): Promise<TwoHosts> {
  const dir = await mkdtemp(join(tmpdir(), 'noa-shared-'));
  t.teardown(() => rm(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
  const postgres = await startPostgres({ dataDir: dir, log: () => undefined });
  t.teardown(() => postgres.stop());
  const shared = { NOA_DATABASE__URL: postgres.url, NOA_AUTH__ROOT_KEY: 'q'.repeat(43) + '=' };
  const start = async (): Promise<RunningHost> => {
    const host = await RunningHost.start({ env: { ...shared, ...env } });
    t.teardown(() => host.dispose());
    return host;
  };
  const [one, two] = await Promise.all([start(), start()]);
  return { one, two, url: postgres.url };
}
