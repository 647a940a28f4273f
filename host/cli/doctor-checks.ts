/** What `noa doctor` looks at, in the order in which a start needs it. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { access, constants, stat, statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { connectRedis } from '../../capabilities/cache/redis.ts';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { findBinaries, planLaunch } from '../../capabilities/db/embedded-cluster.ts';
import { type Config, ConfigError, loadConfig } from '../config.ts';
import { lockHolder } from '../data-folder/lock.ts';
import { holds, readListed } from '../loaders/native/loader.ts';
import { planWalls } from '../loaders/process/walls.ts';
import { AdminClient } from './client.ts';
import { type ConfigFlags, loadOptions } from './config-options.ts';
import type { Session } from './session.ts';

const MIN_FREE_BYTES = 512 * 2 ** 20;
const MIN_POSTGRES = 14;
const PROGRAM_MS = 10_000;

export interface Check {
  readonly name: string;
  /** null: worth knowing, neither right nor wrong. */
  readonly ok: boolean | null;
  readonly message: string;
  readonly fix?: string;
}

/** What a check found: a message when all is well, else a Fault. */
class Fault extends Error {
  readonly fix: string;
  constructor(message: string, fix: string) {
    super(message);
    this.fix = fix;
  }
}

export async function examine(flags: ConfigFlags, session: Session): Promise<Check[]> {
  const checks = [await check('Node', () => node())];
  let config: Config;
  try {
    config = loadConfig(loadOptions(flags, session.io));
    checks.push({ name: 'configuration', ok: true, message: 'right' });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const fix = 'run `noa config check` for all of it';
    return [...checks, { name: 'configuration', ok: false, message: error.message, fix }];
  }
  const { server, observability } = config;
  return [
    ...checks,
    await check('data folder', () => dataFolder(config.data.path, (text) => session.note(text))),
    await check('database', () => database(config)),
    await check('cache', () => cache(config)),
    await check('port', () => port(server.host, server.port, '--port', isHost)),
    await check('metrics port', () =>
      port(observability.metrics_bind, observability.metrics_port, '--metrics-port', hasMetrics),
    ),
    await untrustedPlugins(config),
    await nativePlugins(config),
    await redisServer(session.io.env['PATH'] ?? ''),
  ];
}

async function check(name: string, run: () => string | Promise<string>): Promise<Check> {
  try {
    return { name, ok: true, message: await run() };
  } catch (error) {
    if (error instanceof Fault) return { name, ok: false, message: error.message, fix: error.fix };
    return { name, ok: false, message: error instanceof Error ? error.message : String(error) };
  }
}

function node(): string {
  if ('Suspending' in WebAssembly) return `${process.version}, with WebAssembly.Suspending`;
  throw new Fault(`${process.version} lacks WebAssembly.Suspending`, 'install Node 24 or later');
}

async function dataFolder(path: string, onNotice: (text: string) => void): Promise<string> {
  const there = await stat(path).catch(() => undefined);
  if (there !== undefined && !there.isDirectory()) {
    throw new Fault(`${path} is not a folder`, 'remove that file, or set data.path');
  }
  const place = there === undefined ? await nearestFolder(path) : path;
  await access(place, constants.W_OK | constants.X_OK).catch(() => {
    throw new Fault(`${place} cannot be written`, 'give this user the right, or set data.path');
  });
  const { bavail, bsize } = await statfs(place);
  if (bavail * bsize < MIN_FREE_BYTES) {
    throw new Fault(`${place} has less than 512 MiB free`, 'free some room, or set data.path');
  }
  if (there === undefined) return `${path} will be made`;
  const holder = await lockHolder(path, onNotice);
  return holder === undefined ? `${path} is writable and free` : `${path} is in use by ${holder}`;
}

async function nearestFolder(path: string): Promise<string> {
  const above = dirname(path);
  const there = await stat(above).catch(() => undefined);
  return there === undefined && above !== path ? nearestFolder(above) : above;
}

async function database({ database: { url } }: Config): Promise<string> {
  if (url !== undefined) return remoteDatabase(url);
  const binaries = await findBinaries();
  const { prefix } = await planLaunch([binaries.postgres]);
  const [program, ...args] = [...prefix, binaries.postgres, '--version'];
  const { stdout } = await promisify(execFile)(program, args, { timeout: PROGRAM_MS }).catch(() => {
    throw new Fault(
      `the embedded PostgreSQL (${binaries.postgres}) cannot be run by the user it runs as`,
      'put this package where every user may read it (not below /root), or set database.url',
    );
  });
  return `embedded ${stdout.trim()}`;
}

async function remoteDatabase(url: string): Promise<string> {
  const client = new pg.Client(connectionConfig(url));
  try {
    await client.connect();
    const { rows } = await client.query<{ version: string }>(
      `select current_setting('server_version') as version`,
    );
    const version = rows[0]?.version ?? '';
    if (Number.parseInt(version, 10) >= MIN_POSTGRES) return `PostgreSQL ${version} answers`;
    throw new Fault(`PostgreSQL ${version} is too old`, `use PostgreSQL ${MIN_POSTGRES} or later`);
  } catch (error) {
    if (error instanceof Fault) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new Fault(
      `database.url does not answer: ${why}`,
      'start that server, or correct database.url',
    );
  } finally {
    await client.end().catch(() => undefined); // a client that never connected
  }
}

async function cache({ cache: { url } }: Config): Promise<string> {
  if (url === undefined) return 'embedded';
  const redis = connectRedis({ url });
  let why = '';
  redis.on('error', (error: Error) => (why = `: ${error.message}`));
  try {
    await once(redis, 'ready', { signal: AbortSignal.timeout(3000) });
    return `Redis answers ${await redis.ping()}`;
  } catch {
    throw new Fault(`cache.url does not answer${why}`, 'start that server, or correct cache.url');
  } finally {
    redis.disconnect();
  }
}

/** `isOurs` tells whether what answers at a URL is a running host's. */
async function port(
  host: string,
  number: number,
  flag: string,
  isOurs: (url: string) => Promise<boolean>,
): Promise<string> {
  if (number === 0) return 'any free one';
  const probe = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      probe.once('error', reject).listen(number, host, resolve);
    });
    return `${host}:${number} is free`;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    const url = `http://${host.includes(':') ? `[${host}]` : host}:${number}`;
    if (code === 'EADDRINUSE' && (await isOurs(url))) {
      return `${host}:${number} is used by a running host`;
    }
    throw new Fault(`cannot listen on ${host}:${number} (${code})`, `choose another with ${flag}`);
  } finally {
    probe.close();
  }
}

function isHost(url: string): Promise<boolean> {
  return new AdminClient(url, '').answers();
}

async function hasMetrics(url: string): Promise<boolean> {
  const signal = AbortSignal.timeout(2000);
  const response = await fetch(`${url}/metrics`, { signal }).catch(() => undefined); // not ours
  return response?.ok === true && (await response.text()).includes('noa_build_info');
}

async function untrustedPlugins({ data, plugins: { untrusted } }: Config): Promise<Check> {
  const name = 'untrusted plugins';
  if (untrusted === undefined) {
    return { name, ok: null, message: 'none: plugins.untrusted gives plugins their own process' };
  }
  const list = untrusted.join(', ');
  return check(name, async () => {
    const { missing } = await planWalls([data.path, tmpdir()]);
    if (missing.length === 0) return `${list}: within all walls that this version knows`;
    throw new Fault(
      `${list}: without ${missing.join('; without ')}`,
      'install util-linux and allow user namespaces, or run the host as root',
    );
  });
}

async function nativePlugins({ plugins: { allow_native, native = [] } }: Config): Promise<Check> {
  const name = 'native plugins';
  if (!allow_native) return { name, ok: null, message: 'none: plugins.allow_native is false' };
  const listed = native.map(readListed);
  const checked = await Promise.all(
    listed.map(async ({ path, sha256 }) => ((await holds(path, sha256)) ? undefined : path)),
  );
  const changed = checked.filter((path) => path !== undefined);
  return check(name, () => {
    if (changed.length === 0) {
      const list = listed.map(({ path }) => path).join(', ') || 'none is listed';
      return `ALLOWED, without a sandbox and with all rights of the host's user: ${list}`;
    }
    throw new Fault(
      `${changed.join(', ')}: not there, or not with the listed digest; it will not be loaded`,
      'put the file back, or correct plugins.native',
    );
  });
}

async function redisServer(path: string): Promise<Check> {
  const name = 'redis-server';
  for (const folder of path.split(delimiter)) {
    const found = await access(join(folder, name), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return { name, ok: null, message: `${join(folder, name)} (only tests use it)` };
  }
  return { name, ok: null, message: 'absent; only tests use it' };
}
