/** Builds a plugin in C: all of `src/`, together with the SDK's sources, by clang and the linker of LLVM. */
import { globSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { type Compiled, run } from './tool.ts';

export const C_SDK = path.resolve(import.meta.dirname, '../../../sdk/c');
/** Of versions that have their own names, the newest first. */
const CLANGS = ['clang', ...[22, 21, 20, 19, 18, 17, 16, 15, 14].map((n) => `clang-${n}`)];

/** The SDK counts on bulk memory operations; a stack before the data traps when it overflows. */
const COMPILE =
  '--target=wasm32 -std=c11 -O2 -mbulk-memory -ffreestanding -fvisibility=hidden -ffunction-sections -fdata-sections -Wall';
const LINK = '--no-entry --stack-first -z stack-size=262144 --gc-sections --strip-all';

interface Toolchain {
  readonly clang: string;
  readonly linker: string;
}

/** Rejects with NoaError NOT_FOUND when none can build for the sandbox. */
export async function cToolchain(dir: string): Promise<Toolchain> {
  for (const clang of CLANGS) {
    const targets = await run(clang, ['--print-targets'], dir);
    if (targets.code !== 0 || !targets.out.includes('wasm32')) continue;
    const linker = (await run(clang, ['--print-prog-name=wasm-ld'], dir)).out.trim();
    if (path.isAbsolute(linker)) return { clang, linker };
  }
  const fix =
    'Install both: apt-get install clang lld on Debian and Ubuntu, brew install llvm lld on macOS (and put its bin folder on PATH)';
  throw new NoaError(
    'NOT_FOUND',
    `There is no clang with the target wasm32 and its linker wasm-ld. ${fix}.`,
  );
}

/** Paths do not become part of the module. */
export async function compileC(dir: string): Promise<Compiled> {
  const { clang, linker } = await cToolchain(dir);
  const own = globSync('src/**/*.c', { cwd: dir }).toSorted();
  const sources = [
    ...own.map((file) => path.join(dir, file)),
    ...globSync('*.c', { cwd: C_SDK })
      .toSorted()
      .map((file) => path.join(C_SDK, file)),
  ];
  const made = await mkdtemp(path.join(tmpdir(), 'noa-c-'));
  try {
    const flags = [...COMPILE.split(' '), `-ffile-prefix-map=${dir}=.`, '-I', C_SDK];
    const objects = sources.map((_source, index) => path.join(made, `${index}.o`));
    const ran = await Promise.all(
      sources.map((source, index) =>
        run(clang, [...flags, '-c', source, '-o', String(objects[index])], dir),
      ),
    );
    const said = ran.map(({ err }) => err.trim()).filter((text) => text !== '');
    if (ran.some(({ code }) => code !== 0)) throw refused(clang, said);
    const file = path.join(made, 'module.wasm');
    const linked = await run(linker, [...LINK.split(' '), ...objects, '-o', file], dir);
    if (linked.code !== 0) throw refused('wasm-ld', [linked.err.trim()]);
    return { wasm: await readFile(file), warnings: said };
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}

function refused(tool: string, said: readonly string[]): NoaError {
  return new NoaError('INVALID_ARGUMENT', `${tool} found:\n${said.join('\n')}`);
}
