/** The process around a command: what it reads and writes, so that nothing else touches `process`. */
import type { Readable, Writable } from 'node:stream';
import { type Environment, environment } from '../config.ts';

export interface ProcessIo {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
  readonly env: Environment;
  readonly cwd: string;
  /** Width of the terminal; 80 where there is none. */
  readonly columns: number;
  /** From now on nobody reading the output is no reason to end. */
  outliveReaders(): void;
  /** Calls `listener` at each SIGINT and SIGTERM, which then no longer end the process by themselves. */
  onInterrupt(listener: () => void): void;
}

export function processIo(): ProcessIo {
  const { stdin, stdout, stderr } = process;
  let outlives = false;
  // Whoever read this output has seen enough of it: `noa audit list | head`.
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    if (!outlives) process.exit();
  });
  // Notes that nobody reads change nothing of what a command does.
  stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
  return {
    stdin,
    stdout,
    stderr,
    env: environment(),
    cwd: process.cwd(),
    columns: stdout.isTTY ? stdout.columns : 80,
    outliveReaders: () => {
      outlives = true;
    },
    onInterrupt: (listener) => {
      process.on('SIGINT', listener);
      process.on('SIGTERM', listener);
    },
  };
}
