/** Builds a plugin in Rust: cargo, with the first toolchain found that has the target wasm32. */
import { existsSync } from 'node:fs';
import { readFile, realpath } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { type Compiled, run } from './tool.ts';

const TARGET = 'wasm32-unknown-unknown';
export const RUST_SDK = path.resolve(import.meta.dirname, '../../../sdk/rust');

interface Toolchain {
  readonly cargo: string;
  readonly rustc: string;
}

/** The author's own, as the folder selects it, before the system's. */
const TOOLCHAINS: readonly Toolchain[] = [
  { cargo: 'cargo', rustc: 'rustc' },
  { cargo: '/usr/bin/cargo', rustc: '/usr/bin/rustc' },
];

/** Rejects with NoaError NOT_FOUND when none can build for the sandbox. */
export async function rustToolchain(dir: string): Promise<Toolchain> {
  for (const toolchain of TOOLCHAINS) {
    const { code, out } = await run(toolchain.rustc, ['--print', 'sysroot'], dir);
    if (code !== 0 || !existsSync(path.join(out.trim(), 'lib/rustlib', TARGET))) continue;
    if ((await run(toolchain.cargo, ['--version'], dir)).code === 0) return toolchain;
  }
  const fix = `Run: rustup target add ${TARGET} (or, on Debian and Ubuntu: apt-get install cargo rustc libstd-rust-dev-wasm32 lld)`;
  throw new NoaError('NOT_FOUND', `There is no Rust with cargo and the target ${TARGET}. ${fix}.`);
}

/** Paths do not become part of the module: those of the plugin, the SDK and fetched crates are renamed. */
export async function compileRust(dir: string): Promise<Compiled> {
  const { cargo, rustc } = await rustToolchain(dir);
  const renamed = [
    [path.join(homedir(), '.cargo'), '/cargo'],
    [await realpath(RUST_SDK), '/noa-sdk'],
    [await realpath(dir), '/plugin'],
  ];
  const flags = renamed.map(([from, to]) => `--remap-path-prefix=${from}=${to}`);
  const args = ['build', '--lib', '--release', '--quiet', '--target', TARGET];
  args.push('--config', `build.rustc=${JSON.stringify(rustc)}`);
  args.push('--config', `target.${TARGET}.rustflags=${JSON.stringify(flags)}`);
  args.push('--message-format', 'json-render-diagnostics');
  const { code, out, err } = await run(cargo, args, dir);
  if (code !== 0) throw new NoaError('INVALID_ARGUMENT', `cargo build found:\n${err.trim()}`);
  const module = moduleOf(out);
  if (module === undefined) {
    const fix = 'Write crate-type = ["cdylib"] under [lib] in Cargo.toml';
    throw new NoaError('INVALID_ARGUMENT', `cargo build made no .wasm. ${fix}.`);
  }
  const warnings = err.trim() === '' ? [] : [err.trim()];
  return { wasm: await readFile(module), warnings };
}

/** The module among cargo's messages, one JSON object a line: the last, for dependencies come first. */
function moduleOf(messages: string): string | undefined {
  let found: string | undefined;
  for (const line of messages.split('\n')) {
    if (!line.includes('"compiler-artifact"')) continue;
    const { filenames } = JSON.parse(line) as { filenames: string[] };
    found = filenames.find((file) => file.endsWith('.wasm')) ?? found;
  }
  return found;
}
