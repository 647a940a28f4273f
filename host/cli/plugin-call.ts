/** `noa plugin call`: with an input that cannot be right it shows one that could. */
import type { Command } from 'commander';
import { type Json, type JsonSchema, NoaError } from '@noa/sdk/host';
import type { PluginDetail } from '../kernel/views.ts';
import { pluginPath } from './plugin-text.ts';
import type { Session } from './session.ts';

export function registerPluginCall(plugin: Command, session: Session): void {
  plugin
    .command('call')
    .description('call an export and print its output')
    .argument('<name>')
    .argument('<export>')
    .argument('[json]', 'the input; - reads it from standard input')
    .action(async (name: string, exported: string, text?: string) => {
      const input = text === '-' ? await session.stdin() : text;
      const json = input === undefined ? undefined : parseInput(input);
      const path = `${pluginPath(name)}/exports/${encodeURIComponent(exported)}`;
      const output = await session.request('POST', path, { json }).catch(async (error: unknown) => {
        throw input === undefined ? await withShape(error, name, exported, session) : error;
      });
      session.result(output, JSON.stringify(output, null, 2));
    });
}

function parseInput(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new NoaError('INVALID_ARGUMENT', `the input must be JSON: ${why}`, { cause });
  }
}

/** The refusal of a call without input, with an input of the right shape when the export takes one. */
async function withShape(
  error: unknown,
  name: string,
  exported: string,
  session: Session,
): Promise<unknown> {
  if (!(error instanceof NoaError) || error.code !== 'INVALID_ARGUMENT') return error;
  const { manifest } = await session.request<PluginDetail>('GET', pluginPath(name));
  const schema = manifest.exports[exported]?.input;
  if (schema === undefined) return error;
  const shape = JSON.stringify(sample(schema)).replaceAll("'", String.raw`'\''`);
  const message = `${exported} takes an input: noa plugin call ${name} ${exported} '${shape}'`;
  return new NoaError('INVALID_ARGUMENT', message, { cause: error });
}

/** A value of the shape that a schema describes, as far as that is plain: what a person fills in. */
function sample(schema: unknown, depth = 0): Json {
  if (typeof schema !== 'object' || schema === null || depth > 4) return null;
  const {
    type,
    properties,
    required,
    items,
    enum: options,
    default: preset,
  } = schema as JsonSchema;
  if (preset !== undefined) return preset as Json;
  if ('const' in schema) return schema.const as Json;
  if (Array.isArray(options)) return (options[0] ?? null) as Json;
  switch (Array.isArray(type) ? type[0] : type) {
    case 'object': {
      const all = (properties ?? {}) as { [key: string]: JsonSchema };
      const needed = Array.isArray(required) ? required.map(String) : [];
      const names = needed.length > 0 ? needed : Object.keys(all);
      const own = (key: string): unknown => (Object.hasOwn(all, key) ? all[key] : undefined);
      return Object.fromEntries(names.map((key) => [key, sample(own(key), depth + 1)]));
    }
    case 'array':
      return items === undefined ? [] : [sample(items, depth + 1)];
    case 'string':
      return '…';
    case 'integer':
    case 'number':
      return 0;
    case 'boolean':
      return false;
    default:
      return null;
  }
}
