/** Runs the compilers of other languages. */
import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';

export interface Ran {
  /** Undefined when the program is not there. */
  readonly code: number | null | undefined;
  readonly out: string;
  readonly err: string;
}

/** A module and what its compiler had to say about it. */
export interface Compiled {
  readonly wasm: Uint8Array;
  readonly warnings: readonly string[];
}

/** Runs a program in a folder to its end. */
export async function run(program: string, args: readonly string[], cwd: string): Promise<Ran> {
  const child = spawn(program, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<number | null | undefined>((resolve, reject) => {
    child.on('error', (error) => {
      if ('code' in error && error.code === 'ENOENT') resolve(undefined);
      else reject(error);
    });
    child.on('close', resolve);
  });
  const [code, out, err] = await Promise.all([ended, text(child.stdout), text(child.stderr)]);
  return { code, out, err };
}
