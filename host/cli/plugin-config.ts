/** `noa plugin config`. A secret value never stands on a command line, where others can read it. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Argument, type Command } from 'commander';
import { type Json, type JsonSchema, NoaError, secretPointers } from '@noa/sdk/host';
import type { ConfigurationView } from '../kernel/configuration.ts';
import type { Session } from './session.ts';
import { table } from './table.ts';

type Settings = { [key: string]: Json };

const ACTIONS = ['get', 'set', 'unset'] as const;

export function registerPluginConfig(plugin: Command, session: Session): void {
  plugin
    .command('config')
    .description(
      'show or change what a plugin is set to; a change restarts it without a failed call',
    )
    .argument('<name>')
    .addArgument(new Argument('[action]', 'get when absent').choices(ACTIONS))
    .argument(
      '[keys...]',
      'set: key=value, JSON or text; key=@FILE reads a file, key=- standard input. unset: keys',
    )
    .option('--file <file>', 'set: take all settings from this JSON file')
    .action(
      (
        name: string,
        action: (typeof ACTIONS)[number] = 'get',
        keys: string[],
        { file }: { file?: string },
      ) => run(name, action, keys, file, session),
    );
}

async function run(
  name: string,
  action: (typeof ACTIONS)[number],
  keys: readonly string[],
  file: string | undefined,
  session: Session,
): Promise<void> {
  const path = `/v1/plugins/${encodeURIComponent(name)}/config`;
  const present = await session.request<ConfigurationView>('GET', path);
  if (action === 'get') {
    session.result(present, describe(present, session.io.columns));
    return;
  }
  if ((keys.length === 0) === (file === undefined) || (action === 'unset' && file !== undefined)) {
    const text = action === 'set' ? 'name key=value, or --file FILE' : 'name the keys to unset';
    throw new NoaError('INVALID_ARGUMENT', `${action}: ${text}`);
  }
  let settings = { ...(present.settings as Settings) };
  if (file !== undefined) settings = parsed(await textOf(`@${file}`, session), `--file ${file}`);
  else if (action === 'unset') for (const key of keys) unset(settings, key);
  else for (const item of keys) await assign(settings, item, schemasOf(present), session);
  const json = { settings, version: present.version };
  const next = await session.request<ConfigurationView>('PUT', path, { json });
  session.result(
    next,
    `${describe(next, session.io.columns)}\n\nit holds on every host within a second`,
  );
}

function unset(settings: Settings, key: string): void {
  if (!Object.hasOwn(settings, key)) {
    throw new NoaError('NOT_FOUND', `unset: ${JSON.stringify(key)} is not set`);
  }
  delete settings[key];
}

async function assign(
  settings: Settings,
  item: string,
  schemas: readonly JsonSchema[],
  session: Session,
): Promise<void> {
  const at = item.indexOf('=');
  if (at < 1)
    throw new NoaError('INVALID_ARGUMENT', `set: ${JSON.stringify(item)} is not key=value`);
  const [key, given] = [item.slice(0, at), item.slice(at + 1)];
  const secret = schemas.some((schema) => secretPointers(schema, { [key]: '' }).length > 0);
  if (secret && given !== '-' && !given.startsWith('@')) {
    const text = `set: ${key} is secret: write ${key}=- and give it on standard input, or ${key}=@FILE`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
  const value = await textOf(given, session);
  settings[key] = takesText(schemas, key) ? value : jsonOr(value);
}

async function textOf(given: string, session: Session): Promise<string> {
  if (given === '-') return (await session.stdin()).replace(/\r?\n$/, '');
  if (!given.startsWith('@')) return given;
  const file = given.slice(1);
  try {
    const text = await readFile(resolve(session.io.cwd, file), 'utf8');
    return text.replace(/\r?\n$/, '');
  } catch (cause) {
    const why = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
    throw new NoaError('INVALID_ARGUMENT', `${file} cannot be read (${why})`, { cause });
  }
}

function parsed(text: string, what: string): Settings {
  const value = jsonOr(text);
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw new NoaError('INVALID_ARGUMENT', `${what}: write one JSON object`);
}

function jsonOr(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return text; // a value that is no JSON is text
  }
}

/** True when the setting is text alone, so that 1.0 or true are words. */
function takesText(schemas: readonly JsonSchema[], key: string): boolean {
  return property(schemas, key)?.['type'] === 'string';
}

/** Of the version that waits, then of the one that serves: settings are for the one to come. */
function schemasOf({ schema, candidate }: ConfigurationView): JsonSchema[] {
  return [candidate?.schema, schema].filter((each) => each !== null && each !== undefined);
}

function property(schemas: readonly JsonSchema[], key: string): JsonSchema | undefined {
  const found = schemas.map(
    ({ properties }) => properties as { [key: string]: JsonSchema } | undefined,
  );
  return found.find((each) => each !== undefined && Object.hasOwn(each, key))?.[key];
}

function describe(view: ConfigurationView, columns: number): string {
  const { plugin, candidate } = view;
  const schemas = schemasOf(view);
  const set = view.settings as Settings;
  if (schemas.length === 0) {
    const kept = Object.keys(set).length > 0 ? '; what another version was set to is kept' : '';
    return `${plugin} takes no configuration${kept}`;
  }
  const note = candidate === null ? '' : `\n\nwith the keys of ${candidate.version}, which waits`;
  const known = schemas.flatMap(({ properties }) => Object.keys(properties ?? {}));
  const rows = [...new Set([...known, ...Object.keys(set)])].map((key) => {
    const { default: preset, description = '' } = property(schemas, key) ?? {};
    const value = Object.hasOwn(set, key) ? shown(set[key]) : '';
    return [key, value, preset === undefined ? '' : JSON.stringify(preset), String(description)];
  });
  return table(['KEY', 'VALUE', 'DEFAULT', ''], rows, columns) + note;
}

function shown(value: Json | undefined): string {
  const text = JSON.stringify(value ?? null);
  return text === '{"$secret":"set"}' ? '(secret, set)' : text;
}
