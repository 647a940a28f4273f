/**
 * Runs a real PostgreSQL as a child of the host, on a Unix socket in a private folder, with its data
 * below the host's data folder. Invariant: it never outlives the host (the kernel, or a watching
 * shell, interrupts it when the host dies), so the next start is always clean.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstat, mkdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NoaError } from '@noa/sdk/host';
import pg from 'pg';
import {
  ADMIN,
  DATABASE,
  type Launch,
  ensureCluster,
  explain,
  findBinaries,
  makeDataFolder,
  planLaunch,
  privateFolder,
} from './embedded-cluster.ts';
import { isPostgres, readLock, refused, waitForPredecessor } from './embedded-lock.ts';

const PORT = 5432;
/** Longest path of a Unix socket on every platform we run on (macOS; Linux allows 107). */
const SOCKET_PATH_MAX = 103;
/** Bound of one server process's address space: a statement that wants more fails, and only it. */
const ADDRESS_SPACE_KIB = 2 * 1024 * 1024;
/** How long crash recovery may take before the start is given up. */
const READY_MS = 120_000;
const RESTART_DELAYS_MS = [100, 250, 500, 1_000, 2_000];
/** A server that ran this long has earned a full set of restarts again. */
const STABLE_MS = 60_000;
const FAST_SHUTDOWN_MS = 10_000;
const IMMEDIATE_SHUTDOWN_MS = 3_000;

/** Small memory, one machine, no replicas; durable: fsync and full_page_writes keep their defaults. */
const SETTINGS = {
  listen_addresses: '',
  port: PORT,
  unix_socket_permissions: '0700',
  max_connections: 100,
  shared_buffers: '64MB',
  work_mem: '4MB',
  maintenance_work_mem: '32MB',
  max_wal_size: '256MB',
  min_wal_size: '32MB',
  wal_level: 'minimal',
  max_wal_senders: 0,
  max_replication_slots: 0,
  max_logical_replication_workers: 0,
  max_worker_processes: 4,
  max_parallel_workers: 0,
  max_parallel_workers_per_gather: 0,
  max_parallel_maintenance_workers: 0,
  io_method: 'sync',
  jit: 'off',
  huge_pages: 'off',
  password_encryption: 'scram-sha-256',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_line_prefix: '',
  log_min_messages: 'log',
  log_checkpoints: 'off',
} as const;

export interface EmbeddedPostgresOptions {
  /** Folder for PostgreSQL alone; below the host's data folder. Made when absent. */
  readonly dataDir: string;
  /** Lines of the server and of its supervision. */
  readonly log: (level: 'debug' | 'warn' | 'error', message: string) => void;
  /** One short sentence when something takes seconds (creation, crash recovery). */
  readonly onProgress?: (step: string) => void;
  /** The server went away and every restart failed; nothing more is tried. */
  readonly onExit?: (reason: NoaError) => void;
}

export interface EmbeddedPostgres {
  /** Where `pg` connects as administrator (a superuser of this server). Stays the same over restarts. */
  readonly url: string;
  /** Process id of the running server; undefined between a crash and the restart. */
  readonly pid: number | undefined;
  /** Fast shutdown, then immediate, then SIGKILL; each after a bound. Idempotent. */
  stop(): Promise<void>;
}

/**
 * Starts the server and resolves when it answers. Rejects with NoaError UNAVAILABLE and a message for
 * the operator (it names paths): package missing, folder closed or full, data of another version,
 * another live server on the same folder.
 */
export async function startPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { log, onProgress = () => {} } = options;
  const dataDir = resolve(options.dataDir);
  const binaries = await findBinaries();
  await makeDataFolder(dataDir);
  const launch = await planLaunch([binaries.postgres, dataDir]);
  const cluster = await ensureCluster(dataDir, binaries, launch, onProgress);
  const sockets = await socketFolder(dataDir, launch);
  const server = new Server(binaries.postgres, cluster, sockets, launch, options);
  await waitForPredecessor(cluster, onProgress);
  try {
    await server.start();
    await ensureDatabase(sockets);
  } catch (error) {
    await server.stop();
    throw error;
  }
  log('debug', `embedded PostgreSQL serves as process ${server.pid}`);
  return server;
}

/** The url of the embedded server that runs on this folder now, started by another process. */
export async function attachPostgres(dataDir: string): Promise<string | undefined> {
  const lock = await readLock(join(resolve(dataDir), 'cluster'));
  if (!lock?.ready || !(await isPostgres(lock.pid))) return undefined;
  return urlOf(lock.sockets, DATABASE);
}

class Server implements EmbeddedPostgres {
  readonly url: string;
  readonly #command: readonly string[];
  readonly #watched: boolean;
  readonly #cluster: string;
  readonly #sockets: string;
  readonly #options: EmbeddedPostgresOptions;
  #child: ChildProcess | undefined;
  #failures = 0;
  #stopping = new AbortController();
  #restarting: Promise<void> | undefined;

  constructor(
    postgres: string,
    cluster: string,
    sockets: string,
    launch: Launch,
    options: EmbeddedPostgresOptions,
  ) {
    this.url = urlOf(sockets, DATABASE);
    this.#cluster = cluster;
    this.#sockets = sockets;
    this.#options = options;
    const settings = Object.entries({ ...SETTINGS, unix_socket_directories: sockets });
    const flags = settings.flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    this.#watched = launch.prefix.length === 0;
    // Where the kernel does not signal a parent's death, a shell waits for the end of our pipe.
    const watch =
      'me=$$; exec 3<&0; ( (cat <&3; kill -INT $me) >/dev/null 2>&1 & ); exec 3<&- </dev/null; ';
    const script = `ulimit -c 0; ulimit -v ${ADDRESS_SPACE_KIB} 2>/dev/null; ${this.#watched ? watch : ''}exec "$@"`;
    this.#command = ['-c', script, 'sh', ...launch.prefix, postgres, '-D', cluster, ...flags];
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Spawns the server and waits until it takes connections. */
  async start(): Promise<void> {
    const child = spawn('/bin/sh', this.#command, {
      cwd: '/',
      env: { LC_ALL: 'C', PATH: '/usr/bin:/bin' },
      // A process group of its own: Ctrl-C in a terminal goes to the host, which needs it to the end.
      detached: true,
      stdio: [this.#watched ? 'pipe' : 'ignore', 'ignore', 'pipe'],
    });
    this.#child = child;
    const startedAt = performance.now();
    let said = '';
    if (child.stderr) {
      createInterface({ input: child.stderr }).on('line', (line) => {
        said = `${said}${line}\n`.slice(-8_000);
        this.#log(line);
      });
    }
    const ended = new Promise<string>((done) => {
      child.once('error', (error) => done(error.message));
      child.once('exit', () => child.stdin?.destroy());
      child.once('close', (code, signal) => {
        if (this.#child === child) this.#child = undefined;
        done(`it ended ${signal ? `by ${signal}` : `with status ${code}`}`);
      });
    });
    const how = await Promise.race([ended, this.#ready(child)]);
    if (how !== undefined) throw refused(`the server did not start: ${explain(said) || how}`);
    void ended.then((why) => {
      if (performance.now() - startedAt > STABLE_MS) this.#failures = 0;
      if (!this.#stopping.signal.aborted) this.#restarting = this.#restart(why);
    });
  }

  async #ready(child: ChildProcess): Promise<undefined> {
    const until = performance.now() + READY_MS;
    let told = false;
    while (performance.now() < until && this.#child === child) {
      const lock = await readLock(this.#cluster);
      if (lock?.ready && lock.pid === child.pid) return;
      if (!told && until - performance.now() < READY_MS - 2_000) {
        told = true;
        this.#options.onProgress?.('waiting for PostgreSQL to recover from a crash');
      }
      await sleep(15);
    }
    throw refused(`the server did not take connections within ${READY_MS / 1000} seconds`);
  }

  async #restart(reason: string): Promise<void> {
    const { log, onExit } = this.#options;
    let why = reason;
    for (;;) {
      const delay = RESTART_DELAYS_MS[this.#failures];
      if (delay === undefined) break;
      this.#failures += 1;
      log('error', `embedded PostgreSQL: ${why}; restart ${this.#failures} in ${delay} ms`);
      try {
        await sleep(delay, undefined, { signal: this.#stopping.signal });
        return await this.start();
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        await this.#end();
        why = error instanceof Error ? error.message : String(error);
      }
    }
    onExit?.(refused(`given up after ${this.#failures} restarts: ${why}`));
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#end();
    await this.#restarting;
    // A restart may have got its process going in between.
    await this.#end();
    if (!this.#sockets.startsWith(resolve(this.#cluster, '..'))) {
      await rm(this.#sockets, { recursive: true, force: true });
    }
  }

  async #end(): Promise<void> {
    const child = this.#child;
    if (!child) return;
    const closed = new Promise<true>((done) => child.once('close', () => done(true)));
    for (const [signal, bound] of [
      ['SIGINT', FAST_SHUTDOWN_MS],
      ['SIGQUIT', IMMEDIATE_SHUTDOWN_MS],
      ['SIGKILL', IMMEDIATE_SHUTDOWN_MS],
    ] as const) {
      if (!child.kill(signal)) break;
      if (await Promise.race([closed, sleep(bound, false, { ref: false })])) break;
    }
  }

  #log(line: string): void {
    const level = /^PANIC|terminated by signal/.test(line)
      ? 'error'
      : line.startsWith('FATAL')
        ? 'warn'
        : 'debug';
    this.#options.log(level, `postgres: ${line}`);
  }
}

function urlOf(sockets: string, database: string): string {
  const query = new URLSearchParams({
    host: sockets,
    port: String(PORT),
    user: ADMIN,
    sslmode: 'disable',
  });
  return `postgresql:///${database}?${query.toString()}`;
}

async function ensureDatabase(sockets: string): Promise<void> {
  const client = new pg.Client({ connectionString: urlOf(sockets, 'postgres') });
  await client.connect();
  try {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [
      DATABASE,
    ]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${pg.escapeIdentifier(DATABASE)}`);
  } finally {
    await client.end();
  }
}

/** `dataDir/run`, or a private folder below the temporary one when that path is too long for a socket. */
async function socketFolder(dataDir: string, launch: Launch): Promise<string> {
  const fits = (folder: string) =>
    Buffer.byteLength(join(folder, `.s.PGSQL.${PORT}`)) <= SOCKET_PATH_MAX;
  const near = join(dataDir, 'run');
  const key = createHash('sha256')
    .update(await realpath(dataDir))
    .digest('hex')
    .slice(0, 16);
  const folder = [near, join(tmpdir(), `noa-${key}`), `/tmp/noa-${key}`].find(fits) ?? near;
  if (!fits(folder)) throw refused(`the path ${near} is too long for a socket; use a shorter one`);
  await mkdir(folder, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw refused(`the folder ${folder} cannot be made`, error);
  });
  const found = await lstat(folder);
  const own = [process.getuid?.(), launch.owner?.uid];
  if (!found.isDirectory() || !own.includes(found.uid)) {
    throw refused(`${folder} is not a folder of this user; remove it, or use a shorter data path`);
  }
  await privateFolder(folder, launch);
  return folder;
}
