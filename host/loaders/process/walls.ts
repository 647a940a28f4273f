/**
 * What the operating system puts around the process of an untrusted plugin, decided once for each host:
 * a user or a covered data folder, a network and an IPC namespace of its own, no privileges, no files to
 * write, a bound on memory, and death with the host. As root these are refused rather than left out; elsewhere what this machine
 * does not offer is named in `missing`, for the operator.
 */
import { execFile } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { access, constants } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Limits, NoaError } from '@noa/sdk/host';

/** Users that systemd keeps for services that need one for as long as they run; no files are theirs. */
const USERS = [61_184, 65_520] as const;
/** Beside what V8 reserves for code in each of its threads (512 MiB, several at a time). */
const DATA_BYTES = 6 * 2 ** 30;
const DESCRIPTORS = 256;
const TASKS = 128;
/** The flag overrides what the sandbox's threads are given, so it says the same as they do. */
const HEAP_MIB = 256;
/** No memory of a module grows past 1 GiB, the most that a manifest may ask for. */
const MEMORY_PAGES = 16_384;
const PROGRAM_MS = 10_000;

const SCRIPT = fileURLToPath(new URL('./child.ts', import.meta.url));
const ROOT = resolve(import.meta.dirname, '../../..');
/** The code that runs in the process, and nothing else of the machine. */
const READABLE = ['host', 'sdk', 'node_modules', 'package.json'].map((name) => join(ROOT, name));
const FOLDERS = ['/usr/bin', '/bin', '/usr/local/bin', '/run/current-system/sw/bin'];

export interface Walls {
  /** Walls that are not there, in words. */
  readonly missing: readonly string[];
  /** The command of one process, which gets these arguments: each has another user. */
  command(args: readonly string[], limits: Limits): readonly [string, ...string[]];
}

/**
 * For `child.ts`. What lies in the folders `hidden` is not to be seen: as root that follows from the
 * user, otherwise they are covered. Rejects with UNAVAILABLE and words for the operator where the host
 * runs as root and cannot leave it.
 */
export async function planWalls(hidden: readonly string[]): Promise<Walls> {
  const [setpriv, prlimit] = await Promise.all(['setpriv', 'prlimit'].map(which));
  const root = process.getuid?.() === 0;
  const missing: string[] = [];
  const { apart, covered } = await planNamespaces(!root && setpriv !== undefined, root, hidden);
  if (apart.length === 0) {
    missing.push('a network of its own (user namespaces, and unshare of util-linux)');
  }
  if (!root && !covered) missing.push('the data folder out of its sight (user namespaces)');
  if (prlimit === undefined) missing.push('limits of memory and files (prlimit of util-linux)');
  if (setpriv === undefined) {
    if (root) throw refused('there is no setpriv (package util-linux) to change the user');
    missing.push('an end to privileges (setpriv of util-linux)');
  }

  const leave = (user: number): string[] => [
    ...(root ? ['--reuid', `${user}`, '--regid', `${user}`, '--clear-groups'] : []),
    ...(root || covered ? NO_CAPABILITIES : []),
    '--no-new-privs',
    '--pdeathsig',
    'KILL',
  ];
  const prefix = (user: number): string[] => [
    ...apart,
    ...(setpriv === undefined ? [] : [setpriv, ...leave(user)]),
    ...(prlimit === undefined ? [] : [prlimit, ...LIMITS, ...(root ? [`--nproc=${TASKS}`] : [])]),
  ];
  const probe = prefix(USERS[0]);
  if (root && !(await runs([...probe, process.execPath, '--check', SCRIPT]))) {
    throw refused(`user ${USERS[0]} cannot read ${ROOT}; put it where every user may`);
  }
  const [lowest, end] = USERS;
  let user = randomInt(lowest, end);
  return {
    missing,
    command: (args) => {
      user = user + 1 < end ? user + 1 : lowest;
      const node: string[] = [process.execPath, ...NODE_FLAGS, SCRIPT, ...args];
      const [program = process.execPath, ...rest] = [...prefix(user), ...node];
      return [program, ...rest];
    },
  };
}

const LIMITS = ['--core=0', '--fsize=0', `--data=${DATA_BYTES}`, `--nofile=${DESCRIPTORS}`];
const NO_CAPABILITIES = ['--inh-caps=-all', '--ambient-caps=-all', '--bounding-set=-all'];

/** The namespaces that this machine gives us, as the start of a command; `covered`: folders are hidden. */
async function planNamespaces(
  coverable: boolean,
  root: boolean,
  hidden: readonly string[],
): Promise<{ apart: readonly string[]; covered: boolean }> {
  const unshare = await which('unshare');
  if (unshare === undefined) return { apart: [], covered: false };
  const own = ['--net', '--ipc'];
  const code = [...READABLE, process.execPath];
  const folders = hidden.filter((folder) => !code.some((path) => path.startsWith(`${folder}/`)));
  const covers = [unshare, '--user', '--map-root-user', '--mount', ...own];
  const cover = [...covers, '/bin/sh', '-c', COVER, 'sh', ...folders, '--'];
  if (coverable && (await runs([...cover, '/bin/true']))) return { apart: cover, covered: true };
  const apart = [unshare, ...(root ? [] : ['--user']), ...own];
  return { apart: (await runs([...apart, '/bin/true'])) ? apart : [], covered: false };
}

/** An empty folder over each; then what follows `--`. */
const COVER =
  'while [ "$1" != -- ]; do [ ! -d "$1" ] || mount -t tmpfs -o size=4k,mode=0 none "$1" || exit; shift; done; shift; exec env -i "$@"';

/** Node's own walls. They bind its scripts; what runs as machine code meets those of the system. */
const NODE_FLAGS = [
  '--permission',
  '--allow-worker',
  ...READABLE.map((path) => `--allow-fs-read=${path}`),
  // Where the process finds what descriptors it was left.
  '--allow-fs-read=/proc/self/fdinfo',
  '--disable-warning=SecurityWarning',
  `--max-old-space-size=${HEAP_MIB}`,
  `--wasm-max-mem-pages=${MEMORY_PAGES}`,
];

function refused(why: string): NoaError {
  return new NoaError(
    'UNAVAILABLE',
    `plugins.untrusted: as root, such a plugin runs as a user without rights, and ${why}; or run the host as another user`,
  );
}

/** Its path; undefined where there is none. */
export async function which(program: string): Promise<string | undefined> {
  if (process.platform !== 'linux') return undefined;
  for (const folder of FOLDERS) {
    const path = join(folder, program);
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return path;
  }
  return undefined;
}

function runs([program = '', ...args]: readonly string[]): Promise<boolean> {
  return new Promise((done) => {
    const options = { cwd: '/', env: {}, timeout: PROGRAM_MS };
    execFile(program, args, options, (error) => done(error === null));
  });
}
