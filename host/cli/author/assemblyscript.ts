/** Builds a plugin in AssemblyScript: its own compiler, or the one of this host. */
import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { type Compiled, run } from './tool.ts';

export const ASSEMBLYSCRIPT_SDK = path.resolve(import.meta.dirname, '../../../sdk/assemblyscript');

/** Rejects with NoaError NOT_FOUND when neither has one. */
export function assemblyScriptCompiler(dir: string): string {
  for (const from of [path.join(dir, 'plugin.json'), import.meta.filename]) {
    try {
      return createRequire(from).resolve('assemblyscript/bin/asc.js');
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      if (code !== 'MODULE_NOT_FOUND') throw error;
    }
  }
  const fix = 'Run npm install --save-dev assemblyscript in the folder of the plugin';
  throw new NoaError('NOT_FOUND', `AssemblyScript is not installed. ${fix}.`);
}

export async function compileAssemblyScript(dir: string): Promise<Compiled> {
  const compiler = assemblyScriptCompiler(dir);
  const source = 'src/index.ts';
  if (!existsSync(path.join(dir, source))) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `There is no ${source} in ${dir}. It holds the exports.`,
    );
  }
  const made = await mkdtemp(path.join(tmpdir(), 'noa-as-'));
  try {
    // The plugin's own copy of the SDK, if it has one, goes first.
    const packages = path.join(made, 'packages');
    await mkdir(path.join(packages, '@noa'), { recursive: true });
    await symlink(ASSEMBLYSCRIPT_SDK, path.join(packages, '@noa/assemblyscript'), 'dir');
    const file = path.join(made, 'module.wasm');
    const args = [compiler, source, '--config', 'asconfig.json', '--path', packages];
    args.push('--outFile', file, '--noColors');
    const { code, out, err } = await run(process.execPath, args, dir);
    const said = `${out}${err}`.trim();
    if (code !== 0) throw new NoaError('INVALID_ARGUMENT', `asc found:\n${said}`);
    return { wasm: await readFile(file), warnings: said === '' ? [] : [said] };
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}
