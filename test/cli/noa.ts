/** `noa` as a person runs it: a real child process, with an environment of its own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { dirname, join } from 'node:path';

export const NOA = join(import.meta.dirname, '../../host/noa.js');

export interface Run {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
}

export async function noa(args: readonly string[], options: RunOptions): Promise<Run> {
  const child = spawn(process.execPath, [NOA, ...args], {
    cwd: options.cwd,
    // Nothing of the caller's: a NOA_ variable there would be read here.
    env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, ...options.env },
  });
  child.stdin.end(options.input ?? '');
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ]);
  return { code, stdout, stderr };
}
