/** The operation table of `db`: SQL in the plugin's own schema, under rights that PostgreSQL enforces. */
import { type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';

/** Most rows of one answer. */
export const MAX_ROWS = 10_000;
/** Most bytes of one answer: as PostgreSQL sends it, and the names of its columns in each row. */
export const MAX_BYTES = 4 << 20;
/** Most statements of one transaction. */
export const MAX_STATEMENTS = 100;
const MAX_SQL_LENGTH = 256 << 10;
const MAX_PARAMS = 10_000;

const sql: JsonSchema = {
  type: 'string',
  minLength: 1,
  maxLength: MAX_SQL_LENGTH,
  description: 'One SQL statement; values belong in params as $1, $2 …',
};
const params: JsonSchema = {
  type: 'array',
  maxItems: MAX_PARAMS,
  description:
    'Values of $1, $2 …. Objects are sent as JSON text; an array as JSON when the parameter is json ' +
    'or jsonb, else as a PostgreSQL array; bytea as text: decode($1, base64).',
};
const statement: JsonSchema = {
  type: 'object',
  properties: { sql, params },
  required: ['sql'],
  additionalProperties: false,
};
const rows: JsonSchema = {
  type: 'array',
  items: { type: 'object' },
  description:
    'int8 and numeric are numbers when exact, else strings; dates ISO 8601; bytea base64; NaN and ' +
    'infinities strings.',
};
const result: JsonSchema = {
  type: 'object',
  properties: { rows, rowCount: { type: 'integer', minimum: 0 } },
  required: ['rows', 'rowCount'],
};

interface Rows {
  readonly rows: readonly unknown[];
}

/**
 * A grant on another plugin's table is trust in that plugin: PostgreSQL runs a table's triggers and
 * defaults, and a view's functions, with the rights of whoever uses the table.
 */
export const db = defineCapability({
  name: 'db',
  summary: 'PostgreSQL: the plugin’s own schema, and tables of others that were granted',
  resource: 'schema.table or schema.*; the schema of plugin my-notes is my_notes',
  operations: {
    query: {
      summary: 'Reads with one statement; nothing that it does is kept',
      input: statement,
      output: { type: 'object', properties: { rows }, required: ['rows'] },
      idempotent: true,
      usage: (_input: never, output: Rows) => ({ rows: output.rows.length }),
    },
    execute: {
      summary: 'Runs one statement in a transaction of its own',
      input: statement,
      output: result,
      idempotent: false,
      usage: (_input: never, output: Rows & { rowCount: number }) => ({
        rows: Math.max(output.rowCount, output.rows.length),
      }),
    },
    transaction: {
      summary: 'Runs statements in order: all of them take effect, or none',
      input: {
        type: 'object',
        properties: {
          statements: {
            type: 'array',
            items: statement,
            minItems: 1,
            maxItems: MAX_STATEMENTS,
          },
        },
        required: ['statements'],
        additionalProperties: false,
      },
      output: {
        type: 'object',
        properties: { results: { type: 'array', items: result } },
        required: ['results'],
      },
      idempotent: false,
      usage: (_input: never, output: { results: readonly (Rows & { rowCount: number })[] }) => ({
        rows: output.results.reduce((sum, { rowCount }) => sum + rowCount, 0),
      }),
    },
  },
  normalizeResource(pattern) {
    const match = /^([a-z][a-z0-9_]{0,62})\.(\*|[a-z_][a-z0-9_]{0,62})$/.exec(pattern);
    if (match) return pattern;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `db: the resource ${JSON.stringify(pattern.slice(0, 200))} must be written schema.table or ` +
        'schema.*, in lower case; the schema of plugin my-notes is my_notes',
    );
  },
});
