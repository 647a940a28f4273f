/** In which language a plugin is written, seen from its folder, and what compiles it. */
import { existsSync, globSync } from 'node:fs';
import path from 'node:path';
import type { Manifest } from '@noa/sdk/host';
import { compileAssemblyScript } from './assemblyscript.ts';
import { compileC } from './c.ts';
import { compileRust } from './rust.ts';
import type { Compiled } from './tool.ts';

export const LANGUAGES = ['ts', 'rust', 'c', 'as'] as const;
export type Language = (typeof LANGUAGES)[number];

/**
 * Compiles the sources in a folder. The same sources and tools give the same bytes in any folder; in Rust,
 * with the SDK at the same path, which cargo makes part of its hashes. Rejects with
 * NoaError NOT_FOUND when a tool is missing, naming what to install, and INVALID_ARGUMENT with the
 * compiler's own lines.
 */
export type Compile = (dir: string, manifest: Manifest) => Promise<Compiled>;

export const COMPILERS: { readonly [language in Exclude<Language, 'ts'>]: Compile } = {
  rust: compileRust,
  c: compileC,
  as: compileAssemblyScript,
};

export function languageOf(dir: string): Language {
  if (existsSync(path.join(dir, 'Cargo.toml'))) return 'rust';
  if (existsSync(path.join(dir, 'asconfig.json'))) return 'as';
  return globSync('src/**/*.c', { cwd: dir }).length > 0 ? 'c' : 'ts';
}
