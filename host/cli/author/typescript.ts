/** The TypeScript check of a plugin: the compiler that the plugin has installed, else the one of this host. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { PORTS } from '@noa/sdk/author';
import { noNode } from '@noa/sdk/build';
import { NoaError } from '@noa/sdk/host';

/**
 * Checks the sources by the plugin's `tsconfig.json`, and with `tests` its tests by theirs. Throws NoaError
 * INVALID_ARGUMENT with the compiler's own lines.
 */
export async function checkTypes(dir: string, options: { tests: boolean }): Promise<void> {
  const projects = [dir];
  if (options.tests && existsSync(path.join(dir, 'test/tsconfig.json'))) {
    projects.push(path.join(dir, 'test'));
  }
  if (!existsSync(path.join(dir, 'tsconfig.json'))) {
    const fix = 'Add one (noa plugin new writes one), or build with --no-check';
    throw new NoaError('INVALID_ARGUMENT', `There is no tsconfig.json in ${dir}. ${fix}.`);
  }
  const found = await Promise.all(projects.map((project) => run(dir, project)));
  const texts = found.filter((text) => text !== '');
  if (texts.length === 0) return;
  // Both projects hold the sources.
  const lines = new Set(texts.flatMap((text) => text.split('\n')).map(inOurWords));
  const report = [...lines].join('\n');
  const alone = /Cannot find (type definition file for|module) '@noa\/sdk/.test(report);
  const fix = alone
    ? `\nThe SDK is not installed for ${path.basename(dir)}: run npm install in it`
    : '';
  throw new NoaError('INVALID_ARGUMENT', `The TypeScript check found:\n${report}${fix}`);
}

/** What to do about it, where the compiler knows a remedy that does not lead to a plugin, or none. */
function inOurWords(line: string): string {
  const node = /^(.*error TS2\d+: )Cannot find name '([^']+)'.*@types\/node/.exec(line);
  const [, place, name] = node ?? [];
  if (place !== undefined && name !== undefined) return place + noNode(name);
  const port = /Property '(\w+)' does not exist on type '(Context<|StreamContext<|Pick<)/.exec(
    line,
  );
  const isPort = port?.[2] === 'Pick<' || Object.hasOwn(PORTS, port?.[1] ?? '');
  return isPort ? `${line} Ask for it in plugin.json → capabilities.` : line;
}

/** What the compiler has to say about a project; empty when it has nothing. */
async function run(dir: string, project: string): Promise<string> {
  const [program, ...first] = compiler(dir);
  const args = [...first, '--project', project, '--noEmit', '--pretty', 'false'];
  const child = spawn(program, args, { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', resolve);
  });
  const [code, out, err] = await Promise.all([exited, text(child.stdout), text(child.stderr)]);
  return code === 0 ? '' : `${out}${err}`.trim() || `the compiler ended with ${String(code)}`;
}

/** The command line of the compiler. */
function compiler(dir: string): [string, ...string[]] {
  for (const from of [path.join(dir, 'plugin.json'), import.meta.filename]) {
    const installed = resolve('typescript/package.json', from);
    if (installed === undefined) continue;
    // From version 7 on it is a native program; starting it by itself saves the start of another Node.
    const platform = `@typescript/typescript-${process.platform}-${process.arch}/package.json`;
    const native = resolve(platform, installed);
    if (native === undefined)
      return [process.execPath, path.join(path.dirname(installed), 'bin/tsc')];
    const suffix = process.platform === 'win32' ? '.exe' : '';
    return [path.join(path.dirname(native), `lib/tsc${suffix}`)];
  }
  const fix = 'Run npm install --save-dev typescript, or build with --no-check';
  throw new NoaError('NOT_FOUND', `TypeScript is not installed. ${fix}.`);
}

function resolve(name: string, from: string): string | undefined {
  try {
    return createRequire(from).resolve(name);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}
