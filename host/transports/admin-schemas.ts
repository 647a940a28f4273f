/** What administrators may send, as JSON Schemas; unknown members are refused. */
import { type JsonSchema, PLAIN_TEXT } from '@noa/sdk/host';
import { PAGE_PARAMETERS } from './paging.ts';

const text = (maxLength: number): JsonSchema => ({
  type: 'string',
  minLength: 1,
  maxLength,
  pattern: PLAIN_TEXT,
});

const list = (maxItems: number, items: JsonSchema): JsonSchema => ({
  type: 'array',
  minItems: 1,
  maxItems,
  items,
});

const object = (
  properties: { [name: string]: JsonSchema },
  required: string[] = [],
): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  properties,
  required,
});

const plugin = text(64);
const operations = list(32, text(48));
const resources = list(64, text(256));
const limit = (preset: number): JsonSchema => ({
  type: 'integer',
  minimum: 1,
  maximum: 1000,
  default: preset,
});

export const GRANT = object(
  { plugin, capability: text(48), operations, resources, reason: text(500) },
  ['plugin', 'capability', 'operations', 'resources'],
);

/** Without a body the grant is approved as it was asked for. */
export const APPROVAL: JsonSchema = {
  ...object({ operations, resources }),
  type: ['object', 'null'],
};

/** What the value may be, the kernel judges: an error here could show it. */
export const SECRET = object({ value: { type: 'string' } }, ['value']);

export const GRANTS_QUERY = object({ ...PAGE_PARAMETERS, plugin });

export const PLUGIN_QUERY = object({ plugin }, ['plugin']);

export const EXPLAIN_QUERY = object(
  { plugin, capability: text(48), operation: text(48), resource: text(256) },
  ['plugin', 'capability', 'operation'],
);

/** The bundle that is meant: any other is refused. */
export const BUNDLE_QUERY = object({
  digest: { type: 'string', pattern: '^sha256:[0-9a-f]{64}$' },
});

/** Without a body, or a version in it, the plugin is pinned to what serves. */
export const PIN: JsonSchema = { ...object({ version: text(64) }), type: ['object', 'null'] };

export const REMOVE_QUERY = object({
  data: { type: 'string', enum: ['keep', 'drop'], default: 'drop' },
});

export const LOGS_QUERY = object({
  since: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER, default: 0 },
  limit: limit(200),
});

export const AUDIT_QUERY = object({
  cursor: { type: 'string', pattern: '^[0-9]{1,18}$' },
  limit: limit(100),
  plugin,
});

const name: JsonSchema = { type: 'string', pattern: '^[\\w.-]+$', maxLength: 256 };

export const PLUGIN_PATH = { name: { ...name, description: 'Name of the plugin.' } };
export const GRANT_PATH = { id: { ...name, description: 'Id of the grant.' } };
export const SECRET_NAME: JsonSchema = { ...name, description: 'Name of the secret.' };
