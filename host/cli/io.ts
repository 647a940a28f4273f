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
  /** Calls `listener` at each SIGINT and SIGTERM, which then no longer end the process by themselves. */
  onInterrupt(listener: () => void): void;
}

export function processIo(): ProcessIo {
  const { stdin, stdout, stderr } = process;
  // Whoever read this output has seen enough of it: `noa audit list | head`.
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit();
  });
  return {
    stdin,
    stdout,
    stderr,
    env: environment(),
    cwd: process.cwd(),
    columns: stdout.isTTY ? stdout.columns : 80,
    onInterrupt: (listener) => {
      process.on('SIGINT', listener);
      process.on('SIGTERM', listener);
    },
  };
}
