/**
 * Where settings come from, lowest first: TOML files, environment, command-line flags. A source answers
 * raw values with their origin; names that no key has are findings, never ignored.
 */
import { nearest } from '@noa/sdk/host';
import { parse, TomlError } from 'smol-toml';
import { isKey, KEY_LIST, KEYS, type Tree } from './keys.ts';

/** One fault, complete enough to mend it. */
export interface Finding {
  /** The key (`server.port`), the variable or the file that is at fault. */
  readonly path: string;
  /** Completes the sentence that starts with `path`. */
  readonly message: string;
  /** `config/default.toml:7`, `environment`, `--port` … */
  readonly source: string;
  readonly fix: string;
}

export interface Setting {
  readonly value: unknown;
  readonly source: string;
}

/** Later sources overwrite earlier ones, key by key. */
export type Settings = Map<string, Setting>;

export type Environment = Readonly<Record<string, string | undefined>>;

/** Variables that the command line reads itself. */
const CLI_VARIABLES = ['NOA_URL', 'NOA_TOKEN', 'NOA_CLIENT_SECRET', 'NOA_PROFILE', 'NOA_CONFIG'];

/** What Kubernetes sets in every pod beside a service named `noa` or `noa-…`. */
const SERVICE_LINK = /^NOA(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP))/;

export function readToml(text: string, file: string, settings: Settings): Finding[] {
  try {
    const table = parse(text, { integersAsBigInt: 'asNeeded', unsafeKeyBehaviour: 'throw' });
    return [...walk(table, KEYS, [], (path) => at(file, text, path), settings)];
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [reason] = error.message.split('\n');
    const source = `${file}:${error.line}:${error.column}`;
    return [{ path: file, message: `is not TOML: ${reason}`, source, fix: 'Correct this line.' }];
  }
}

function* walk(
  table: object,
  tree: Tree,
  above: readonly string[],
  source: (path: readonly string[]) => string,
  settings: Settings,
): Generator<Finding> {
  for (const [name, value] of Object.entries(table) as [string, unknown][]) {
    const names = [...above, name];
    const path = names.map(bare).join('.');
    const node = Object.hasOwn(tree, name) ? tree[name] : undefined;
    if (node === undefined) {
      const meant = resembling(name, above, tree);
      const fix = meant === undefined ? 'Remove it.' : `Write ${meant}, or remove it.`;
      yield { path, message: 'is not a known key', source: source(names), fix };
    } else if (isKey(node)) {
      settings.set(path, { value, source: source(names) });
    } else if (isTable(value)) {
      yield* walk(value, node, names, source, settings);
    } else {
      const fix = `Write a table: [${path}].`;
      yield { path, message: 'is a section, not a value', source: source(names), fix };
    }
  }
}

/** A key as TOML writes it: in quotes when it is empty or holds other than letters, digits, _ and -. */
function bare(name: string): string {
  return /^[\w-]+$/.test(name) ? name : JSON.stringify(name);
}

/** The key that was probably meant: one like it in this section, or the same name in another. */
function resembling(name: string, above: readonly string[], tree: Tree): string | undefined {
  const sibling = nearest(name, Object.keys(tree));
  if (sibling !== undefined) return [...above, sibling].join('.');
  return KEY_LIST.find(({ path }) => path.endsWith(`.${name}`))?.path;
}

function isTable(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false;
  return !Array.isArray(value) && !(value instanceof Date);
}

/** `file:line` of a key or section; only the file when the key stands in an inline table. */
function at(file: string, text: string, path: readonly string[]): string {
  const names = (dotted: string) =>
    dotted.split('.').map((name) => name.trim().replaceAll(/["']/g, ''));
  let section: string[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const header = /^\s*\[\[?([^[\]]+)\]/.exec(line)?.[1];
    if (header !== undefined) section = names(header);
    const key = header === undefined ? /^\s*([^=#]+)=/.exec(line)?.[1] : undefined;
    const here = key === undefined ? section : [...section, ...names(key)];
    if ((header ?? key) !== undefined && here.join('.') === path.join('.')) {
      return `${file}:${index + 1}`;
    }
  }
  return file;
}

export function readEnvironment(env: Environment, settings: Settings): Finding[] {
  const findings: Finding[] = [];
  const byVariable = new Map(KEY_LIST.map((named) => [named.variable, named]));
  for (const [variable, value] of Object.entries(env)) {
    if (!variable.startsWith('NOA_') || value === undefined) continue;
    const named = byVariable.get(variable);
    if (named !== undefined) {
      // An empty variable is how a compose file leaves one unset.
      if (value !== '') settings.set(named.path, { value, source: `environment ${variable}` });
    } else if (!isOthers(variable, value)) {
      const near =
        nearest(variable, [...byVariable.keys(), ...CLI_VARIABLES]) ??
        KEY_LIST.find((key) => key.variable.endsWith(variable.replace('NOA_', '__')))?.variable;
      const fix = near === undefined ? 'Unset it.' : `Write ${near}, or unset it.`;
      findings.push({
        path: variable,
        message: 'is not a known variable',
        source: 'environment',
        fix,
      });
    }
  }
  return findings;
}

function isOthers(variable: string, value: string): boolean {
  return (
    CLI_VARIABLES.includes(variable) ||
    variable.startsWith('NOA_TEST_') ||
    SERVICE_LINK.test(variable) ||
    (/^NOA(_[A-Z0-9_]+)?_PORT$/.test(variable) && value.startsWith('tcp://'))
  );
}
