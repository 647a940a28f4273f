/**
 * The host's configuration: read from its sources, checked, frozen. This is the only file that reads
 * process.env. Invariant: a Config that exists is right; every fault of every source is reported at once.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { type Config, isKey, KEY_LIST, KEYS, type NamedKey, type Tree } from './config/keys.ts';
import {
  type Environment,
  type Finding,
  readEnvironment,
  readToml,
  type Setting,
  type Settings,
} from './config/sources.ts';

export type { Config, Environment, Finding };

export interface LoadOptions {
  readonly env: Environment;
  /** Where relative paths and `config/` start. */
  readonly cwd: string;
  /** `--config`: one more file, above the profile. */
  readonly file?: string | undefined;
  /** `--profile`: the name of `config/{profile}.toml`. */
  readonly profile?: string | undefined;
  /** Values of command-line flags by key (`server.port`). */
  readonly flags?: Readonly<Record<string, string>>;
}

export interface Entry {
  readonly path: string;
  /** As read; undefined when unset; `[redacted]` for a secret that is set. */
  readonly value: unknown;
  /** The source that won, `default` when none has it. */
  readonly source: string;
}

/** INVALID_ARGUMENT; `details` are all findings. */
export class ConfigError extends NoaError {
  constructor(findings: readonly Finding[]) {
    const [first] = findings;
    const message =
      findings.length === 1 && first !== undefined
        ? `${first.path} ${first.message} (${first.source}). ${first.fix}`
        : `the configuration has ${findings.length} faults`;
    super('INVALID_ARGUMENT', message, { details: findings });
    this.name = 'ConfigError';
  }
}

const PACKAGE = resolve(import.meta.dirname, '..');

/** The environment of this process, for whoever needs more of it than its configuration. */
export function environment(): Environment {
  return { ...process.env };
}

/** Throws ConfigError. */
export function loadConfig(options: LoadOptions): Config {
  return inspectConfig(options).config;
}

/** The configuration with the source of every value. Throws ConfigError. */
export function inspectConfig(options: LoadOptions): { config: Config; entries: Entry[] } {
  const findings: Finding[] = [];
  const settings: Settings = new Map();
  for (const { path, label } of files(options, findings)) {
    findings.push(...readFile(path, label, settings));
  }
  const { env, flags = {} } = options;
  const strays = readEnvironment(env, settings);
  for (const { path, key } of KEY_LIST) {
    const value = flags[path];
    if (value !== undefined) settings.set(path, { value, source: `--${key.flag}` });
  }

  const values = new Map<string, unknown>();
  const entries: Entry[] = [];
  for (const named of KEY_LIST) {
    const setting = settings.get(named.path) ?? { value: named.key.default, source: 'default' };
    const outcome = readSetting(named, setting, options);
    if ('finding' in outcome) findings.push(outcome.finding);
    else values.set(named.path, outcome.value);
    const secret = named.key.secret === true && setting.value !== undefined;
    const shown = named.key.references ? setting.value : values.get(named.path);
    const value = secret ? '[redacted]' : shown;
    entries.push({ path: named.path, value, source: setting.source });
  }
  // A variable that a secret refers to may have any name.
  const referred = new Set([...settings.values()].map(({ value }) => referredVariable(value)));
  findings.push(...strays.filter(({ path }) => !referred.has(path)));
  const config = frozen(KEYS, '', values) as Config; // Config is derived from KEYS
  if (findings.length === 0) findings.push(...together(config, settings));
  if (findings.length > 0) throw new ConfigError(findings);
  return { config, entries };
}

/** What changed between two configurations, by key, and whether a running host can take it. */
export function configChanges(
  before: Config,
  after: Config,
): { reloadable: string[]; needRestart: string[] } {
  // As text: a list that was read again is another list.
  const text = (config: Config, path: string) => JSON.stringify(valueAt(config, path));
  const changed = KEY_LIST.filter(({ path }) => text(before, path) !== text(after, path));
  const paths = (wanted: boolean) =>
    changed.filter(({ key }) => (key.reloadable === true) === wanted).map(({ path }) => path);
  return { reloadable: paths(true), needRestart: paths(false) };
}

function* files(
  { cwd, env, file, profile }: LoadOptions,
  findings: Finding[],
): Generator<{ path: string; label: string }> {
  yield* named('default', cwd, 'default', findings);
  const chosen = profile ?? nonEmpty(env['NOA_PROFILE']);
  const profileSource = profile === undefined ? 'environment NOA_PROFILE' : '--profile';
  if (chosen !== undefined) yield* named(chosen, cwd, profileSource, findings);
  const extra = file ?? nonEmpty(env['NOA_CONFIG']);
  if (extra !== undefined) yield { path: resolve(cwd, extra), label: extra };
}

/** `config/NAME.toml` of the working folder, else the one that comes with the package. */
function* named(
  name: string,
  cwd: string,
  source: string,
  findings: Finding[],
): Generator<{ path: string; label: string }> {
  const label = `config/${name}.toml`;
  const places = /^[\w-]{1,64}$/.test(name) ? [cwd, PACKAGE] : [];
  const path = places.map((folder) => join(folder, label)).find((place) => existsSync(place));
  if (path !== undefined) {
    yield { path, label };
  } else {
    const message = `is not a profile: there is no ${label} in the working folder`;
    findings.push({
      path: name,
      message,
      source,
      fix: 'Write that file, or name another profile.',
    });
  }
}

function readFile(path: string, label: string, settings: Settings): Finding[] {
  try {
    return readToml(readFileSync(path, 'utf8'), label, settings);
  } catch (error) {
    const fix = 'Name a file that this user may read.';
    return [{ path: label, message: `cannot be read: ${reason(error)}`, source: label, fix }];
  }
}

function readSetting(
  { path, key }: NamedKey,
  setting: Setting,
  { env, cwd }: LoadOptions,
): { value: unknown } | { finding: Finding } {
  if (setting.value === undefined) return { value: undefined };
  const { source } = setting;
  const resolved = key.secret === true ? dereference(setting.value, env, cwd) : setting;
  if ('problem' in resolved) {
    const fix = 'Correct the reference, or set the value itself.';
    return { finding: { path, message: resolved.problem, source, fix } };
  }
  const resolve = (text: string): string => {
    const found = dereference(text, env, cwd);
    if ('problem' in found) throw new Error(found.problem);
    return String(found.value);
  };
  const value = key.read(resolved.value, cwd, resolve);
  if (value !== undefined) return { value };
  const fault = key.fault?.(resolved.value, resolve);
  const given = key.secret === true ? '' : `, not ${display(setting.value)}`;
  const without = key.default === undefined ? '' : `, which gives ${key.default}`;
  const verb = fault === undefined ? 'Give such a value' : 'Correct it';
  const fix = `${verb}, or leave it out${without}.`;
  const message = fault === undefined ? `must be ${key.rule}${given}` : `is wrong: ${fault}`;
  return { finding: { path, message, source, fix } };
}

function referredVariable(value: unknown): string | undefined {
  return typeof value === 'string' && value.startsWith('env:') ? value.slice(4) : undefined;
}

/** The value of a secret given as `env:NAME` or `file:PATH`; any other value stands for itself. */
function dereference(
  value: unknown,
  env: Environment,
  cwd: string,
): { value: unknown } | { problem: string } {
  const variable = referredVariable(value);
  if (variable !== undefined) {
    const found = env[variable];
    if (!found) return { problem: `refers to the variable ${variable}, which is not set` };
    return { value: found };
  }
  if (typeof value !== 'string' || !value.startsWith('file:')) return { value };
  const file = value.slice('file:'.length);
  try {
    return { value: readFileSync(resolve(cwd, file), 'utf8').trimEnd() };
  } catch (error) {
    return { problem: `refers to the file ${file}, which cannot be read: ${reason(error)}` };
  }
}

function reason(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error);
}

/** A wrong value as an error shows it: one line, bounded. */
function display(value: unknown): string {
  const text = typeof value === 'bigint' ? `${value}` : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

/** Rules over more than one key, and keys that this version must refuse rather than ignore. */
function* together(
  { server, observability }: Config,
  settings: ReadonlyMap<string, Setting>,
): Generator<Finding> {
  const sourceOf = (path: string) => settings.get(path)?.source ?? 'default';
  for (const fault of tlsFaults(server.tls)) yield { ...fault, source: sourceOf(fault.path) };
  if (server.port !== 0 && server.port === observability.metrics_port) {
    const message = `is ${server.port}, the same as server.port`;
    const fix = 'Give the metrics listener a port of its own.';
    const path = 'observability.metrics_port';
    yield { path, message, source: sourceOf(path), fix };
  }
}

function* tlsFaults(tls: Config['server']['tls']): Generator<Omit<Finding, 'source'>> {
  const { cert_path: cert, key_path: key, client_ca_path: clientCa, development } = tls;
  if (development && (cert !== undefined || key !== undefined)) {
    const path = 'server.tls.development';
    const message = 'is true beside a certificate of your own';
    yield { path, message, fix: 'Remove it, or server.tls.cert_path and server.tls.key_path.' };
    return;
  }
  if (cert !== undefined && key === undefined) {
    const path = 'server.tls.cert_path';
    const message = 'is set without server.tls.key_path';
    yield { path, message, fix: 'Set server.tls.key_path to the PEM private key beside it.' };
  }
  if (key !== undefined && cert === undefined) {
    const path = 'server.tls.key_path';
    const message = 'is set without server.tls.cert_path';
    yield { path, message, fix: 'Set server.tls.cert_path to the PEM certificate of that key.' };
  }
  if (clientCa !== undefined && cert === undefined && key === undefined && !development) {
    const path = 'server.tls.client_ca_path';
    const message = 'is set, but the listener speaks cleartext, in which there are no certificates';
    const fix = 'Set server.tls.cert_path and server.tls.key_path too, or remove it.';
    yield { path, message, fix };
  }
}

function frozen(tree: Tree, above: string, values: ReadonlyMap<string, unknown>): object {
  const members: { [name: string]: unknown } = {};
  for (const [name, node] of Object.entries(tree)) {
    const path = above === '' ? name : `${above}.${name}`;
    members[name] = isKey(node) ? values.get(path) : frozen(node, path, values);
  }
  return Object.freeze(members);
}

function valueAt(config: object, path: string): unknown {
  let value: unknown = config;
  for (const name of path.split('.')) {
    value = typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
  }
  return value;
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}
