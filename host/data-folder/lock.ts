/**
 * One host to a data folder. The lock is the file `lock.N` with the highest N, and it holds who has it.
 * Invariant: a number is taken once, by link(2), and the highest number is never deleted. So a stale
 * lock is taken over by making N+1, which only one of many starters can do, and a starter that looked
 * long ago finds a higher number and gives way.
 */
import { execFile } from 'node:child_process';
import {
  link,
  open,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  truncate,
  utimes,
} from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { NoaError } from '@noa/sdk/host';

/** The holder touches its lock this often, in milliseconds. */
const BEAT_MS = 5_000;
/** A holder that this process cannot look at is gone when its lock was not touched for so long. */
const PATIENCE_MS = 15_000;

interface Holder {
  readonly pid: number;
  /** When the process began: a process id alone may belong to another process by now. */
  readonly started: string;
  /** The boot and process-id namespace in which `pid` means something. */
  readonly space: string;
}

export interface Lock {
  /** Idempotent. */
  release(): Promise<void>;
}

/**
 * Rejects with CONFLICT that names the holder. `onNotice` hears of a wait (up to 15 seconds, for a
 * holder in another container or machine) and of a lock that can no longer be kept.
 */
export async function takeLock(folder: string, onNotice: (text: string) => void): Promise<Lock> {
  const self: Holder = {
    pid: process.pid,
    started: (await startOf(process.pid)) ?? '',
    space: await processSpace(),
  };
  for (;;) {
    const last = await highest(folder);
    if (last > 0) await requireFree(folder, last, self.space, onNotice);
    const path = lockFile(folder, last + 1);
    if (!(await createWhole(path, JSON.stringify(self)))) continue;
    if ((await highest(folder)) === last + 1) {
      await removeBelow(folder, last + 1);
      return keep(path, onNotice);
    }
    await rm(path);
  }
}

function lockFile(folder: string, number: number): string {
  return join(folder, `lock.${number}`);
}

async function lockNumbers(folder: string): Promise<number[]> {
  const names = await readdir(folder);
  return names.map((name) => Number(/^lock\.(\d+)$/.exec(name)?.[1] ?? 0)).filter((n) => n > 0);
}

async function highest(folder: string): Promise<number> {
  return Math.max(0, ...(await lockNumbers(folder)));
}

async function removeBelow(folder: string, number: number): Promise<void> {
  for (const old of await lockNumbers(folder)) {
    if (old < number) await rm(lockFile(folder, old), { force: true });
  }
}

/** A file that appears with its whole content or not at all; false when the name is taken. */
async function createWhole(path: string, content: string): Promise<boolean> {
  const draft = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  const file = await open(draft, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
    await link(draft, path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw error;
  } finally {
    await file.close();
    await rm(draft);
  }
}

/** Who has the folder now, in words; undefined when nobody does. Waits for what it cannot look at. */
export async function lockHolder(
  folder: string,
  onNotice: (text: string) => void,
): Promise<string | undefined> {
  return holderOf(folder, await highest(folder), await processSpace(), onNotice);
}

async function requireFree(
  folder: string,
  number: number,
  space: string,
  onNotice: (text: string) => void,
): Promise<void> {
  const holder = await holderOf(folder, number, space, onNotice);
  if (holder === undefined) return;
  throw new NoaError(
    'CONFLICT',
    `the data folder ${folder} is in use by ${holder}; stop it, or set data.path to another folder`,
  );
}

async function holderOf(
  folder: string,
  number: number,
  space: string,
  onNotice: (text: string) => void,
): Promise<string | undefined> {
  const path = lockFile(folder, number);
  const content = await readFile(path, 'utf8').catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return ''; // none, or overtaken by a newer one meanwhile
    throw error;
  });
  if (content === '') return undefined; // released
  const holder = parseHolder(content, path);
  if (holder.space === space) {
    const runs = (await startOf(holder.pid)) === holder.started;
    return runs ? `the host with process id ${holder.pid}` : undefined;
  }
  onNotice(`waiting up to ${PATIENCE_MS / 1000} s to see whether another host uses ${folder}`);
  return (await isTouched(path)) ? 'a host in another container or machine' : undefined;
}

function parseHolder(content: string, path: string): Holder {
  try {
    const { pid, started, space } = JSON.parse(content) as Partial<Holder>;
    if (pid !== undefined && started !== undefined && space !== undefined) {
      return { pid, started, space };
    }
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new NoaError('CONFLICT', `${path} is damaged; delete it when no host uses its folder`);
}

async function isTouched(path: string): Promise<boolean> {
  const touched = async () => (await stat(path).catch(() => undefined))?.mtimeMs;
  const before = await touched();
  for (let waited = 0; waited < PATIENCE_MS; waited += 500) {
    await sleep(500);
    if ((await touched()) !== before) return true;
  }
  return false;
}

function keep(path: string, onNotice: (text: string) => void): Lock {
  const beat = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch((error: unknown) => {
      onNotice(`the data folder's lock cannot be kept: ${String(codeOf(error))}`);
    });
  }, BEAT_MS);
  beat.unref();
  let released = false;
  return {
    release: async () => {
      if (released) return;
      released = true;
      clearInterval(beat);
      // Emptied and not deleted: the highest number must stay.
      await truncate(path).catch((error: unknown) => {
        if (codeOf(error) !== 'ENOENT') throw error; // the whole folder was deleted
      });
    },
  };
}

/** When a process of this space began, in a form to compare; undefined when it does not run. */
async function startOf(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') {
    const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
    // proc(5): the name, in parentheses, may hold anything; the start is the 20th field after it.
    const fields = status?.slice(status.lastIndexOf(')') + 2).split(' ');
    const zombie = fields?.[0] === 'Z' || fields?.[0] === 'X';
    return zombie ? undefined : fields?.[19];
  }
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return undefined;
  }
  if (process.platform === 'win32') return 'running';
  const { stdout } = await promisify(execFile)('ps', ['-o', 'lstart=', '-p', String(pid)]);
  return stdout.trim();
}

async function processSpace(): Promise<string> {
  if (process.platform !== 'linux') return hostname();
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'utf8');
  return `${boot.trim()} ${await readlink('/proc/self/ns/pid')}`;
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}
