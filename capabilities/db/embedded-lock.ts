/**
 * Who runs a PostgreSQL data folder now, by PostgreSQL's own lock file. Invariant: a folder is taken over
 * only when no server runs on it.
 */
import { readFile, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';

/** How long a server whose host has just died may take to go. */
const TAKE_OVER_MS = 5_000;

interface Lock {
  readonly pid: number;
  readonly sockets: string;
  readonly ready: boolean;
}

/** PostgreSQL's own lock file (its `miscinit.c` documents the lines); undefined when there is none. */
export async function readLock(cluster: string): Promise<Lock | undefined> {
  const text = await readFile(join(cluster, 'postmaster.pid'), 'utf8').catch(() => '');
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  if (!Number.isSafeInteger(pid) || pid <= 1) return undefined;
  return { pid, sockets: lines[4] ?? '', ready: lines[7]?.trim() === 'ready' };
}

/** A server of a host that has just died is on its way out; a lock file of a crash is only a file. */
export async function waitForPredecessor(
  cluster: string,
  onProgress: (step: string) => void,
): Promise<void> {
  const until = performance.now() + TAKE_OVER_MS;
  for (let told = false; ; told = true) {
    const lock = await readLock(cluster);
    if (!lock || !isAlive(lock.pid)) return;
    if (!(await isPostgres(lock.pid))) {
      // The number now belongs to a stranger (a container restarts its count), which PostgreSQL
      // itself cannot tell when that process has the same user.
      return rm(join(cluster, 'postmaster.pid'), { force: true });
    }
    if (!told) onProgress('waiting for the PostgreSQL of an earlier run to stop');
    if (performance.now() > until) {
      throw refused(
        `process ${lock.pid} already serves ${cluster}: another host uses this data folder, or left ` +
          `it behind; stop that host, or run "kill -INT ${lock.pid}"`,
      );
    }
    await sleep(50);
  }
}

export async function isPostgres(pid: number): Promise<boolean> {
  if (!isAlive(pid)) return false;
  if (process.platform !== 'linux') return true;
  const program = await readlink(`/proc/${pid}/exe`).catch(() => undefined);
  if (program === undefined) return isAlive(pid);
  return /\/postgres( \(deleted\))?$/.test(program);
}

export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** A refusal for the operator who starts the host. */
export function refused(why: string, cause?: unknown): NoaError {
  const code = cause instanceof Error && 'code' in cause ? ` (${String(cause.code)})` : '';
  return new NoaError('UNAVAILABLE', `embedded PostgreSQL: ${why}${code}`, { cause });
}
