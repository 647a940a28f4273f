/**
 * The loader of native plugins: JavaScript of the operator's own, without a sandbox, in a process for each.
 * Invariants: nothing of a plugin runs unless the operator allowed native plugins, listed the SHA-256 of
 * this very module, and the file that was listed still has it; and what runs are the bytes that were
 * hashed. They come from the installed bundle, stay in memory and go to the process through its channel:
 * there is no file between check and use that could be exchanged. The listed file is read only to see that
 * the operator still has it there. At installation nothing runs: grants are not decided yet.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type Limits, type Manifest, NoaError } from '@noa/sdk/host';
import type { Loader, Runtime } from '../../kernel/loader.ts';
import { createProcessLoader, type ProcessLoaderOptions, type Tier } from '../process/loader.ts';
import { type Walls, which } from '../process/walls.ts';

export interface NativeLoad {
  readonly plugin: string;
  readonly version: string;
  /** Of the module. */
  readonly sha256: string;
}

export interface NativeLoaderOptions extends Omit<ProcessLoaderOptions, 'tier' | 'hidden'> {
  /** `plugins.allow_native` */
  readonly allowed: boolean;
  /** `plugins.native`: PATH@sha256:HEX each. */
  readonly listed: readonly string[];
  /** Before anything of the plugin runs. */
  readonly onLoad: (load: NativeLoad) => void;
}

const SCRIPT = fileURLToPath(new URL('./child.ts', import.meta.url));
const NATIVE: Tier = {
  isolation: 'native',
  plugins: 'native plugins',
  plan: planProcess,
  mayRunMs: ({ timeoutMs }) => timeoutMs,
};

export function createNativeLoader(options: NativeLoaderOptions): Loader {
  const { allowed, listed, onLoad, ...rest } = options;
  const processes = createProcessLoader({ ...rest, tier: NATIVE });

  /** The SHA-256 of a module that may run here. Throws INVALID_ARGUMENT with what to set. */
  const admit = async (manifest: Manifest, module: Uint8Array): Promise<string> => {
    const sha256 = createHash('sha256').update(module).digest('hex');
    const what = `runtime.kind: ${manifest.name} ${manifest.version} is a native plugin, a program with all rights of the host's user,`;
    const entry = `PATH@sha256:${sha256}`;
    if (!allowed) {
      const fix = `If you trust its author with this machine, set plugins.allow_native = true and list the file in plugins.native as ${entry}`;
      throw refused(`${what} and this host runs none. ${fix}`);
    }
    const paths = listed.map(readListed).filter((each) => each.sha256 === sha256);
    if (paths.length === 0) {
      throw refused(`${what} and its module is not listed: add ${entry} to plugins.native`);
    }
    const there = await Promise.all(paths.map(({ path }) => holds(path, sha256, module.length)));
    if (there.includes(true)) return sha256;
    const problem = `and the file that plugins.native lists with sha256:${sha256} is not there or has another content`;
    throw refused(`${what} ${problem}: put it back, or correct the list`);
  };

  return {
    async inspect(manifest: Manifest, _limits: Limits, module: Uint8Array): Promise<void> {
      await admit(manifest, module);
    },
    async load(request): Promise<Runtime> {
      // The caller's buffer cannot change between the hash and the process.
      const wasm = Uint8Array.from(request.wasm);
      const sha256 = await admit(request.manifest, wasm);
      onLoad({ plugin: request.plugin, version: request.manifest.version, sha256 });
      return processes.load({ ...request, wasm });
    },
    close: () => processes.close(),
  };
}

export interface Listed {
  readonly path: string;
  readonly sha256: string;
}

/** An entry of `plugins.native`, whose form its key has checked. */
export function readListed(entry: string): Listed {
  const at = entry.lastIndexOf('@sha256:');
  return { path: entry.slice(0, at), sha256: entry.slice(at + '@sha256:'.length) };
}

/** Whether a file of this path is there with this content. */
export async function holds(path: string, sha256: string, length?: number): Promise<boolean> {
  try {
    const file = await stat(path);
    if (!file.isFile() || (length !== undefined && file.size !== length)) return false;
    return (
      createHash('sha256')
        .update(await readFile(path))
        .digest('hex') === sha256
    );
  } catch {
    return false; // Not there, or not to be read: said by who asked.
  }
}

/** No walls: the bound on the heap and the death with the host, also in the middle of a loop. */
async function planProcess(): Promise<Walls> {
  const setpriv = await which('setpriv');
  const death = setpriv === undefined ? [] : [setpriv, '--pdeathsig', 'KILL'];
  const missing = 'an end with a host that is killed while they are in a loop (setpriv)';
  return {
    missing: setpriv === undefined ? [missing] : [],
    command: (args, { memoryMiB }) => {
      const node = [process.execPath, `--max-old-space-size=${memoryMiB}`, SCRIPT, ...args];
      const [program = process.execPath, ...others] = [...death, ...node];
      return [program, ...others];
    },
  };
}

function refused(words: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', words);
}
