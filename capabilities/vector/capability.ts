/**
 * The operation table of `vector`: collections of points with vectors, searched by likeness. Each plugin
 * has a namespace of its own: a collection is named by its own name, and two plugins' `docs` never meet.
 */
import { type JsonSchema, NoaError, defineCapability } from '@noa/sdk/host';
import { filterSchema } from './filter.ts';

export const MAX_POINTS = 1000;
export const MAX_LIMIT = 1000;
export const MAX_DIMENSIONS = 4096;
export const MAX_ID_LENGTH = 128;
/** Of one point, as JSON. */
export const MAX_PAYLOAD_BYTES = 65_536;
const MAX_VECTORS = 8;
const MAX_SPARSE = 4096;
/** Of one request: 1,000 points of 1,024 dimensions. */
const MAX_VECTOR_BYTES = 4 << 20;

const NAME = '^[a-z][a-z0-9_-]{0,62}$';

const collection: JsonSchema = { type: 'string', pattern: NAME };
/** The vector of a collection that has one is called `default`. */
const vectorName: JsonSchema = { type: 'string', pattern: NAME };
const id: JsonSchema = { type: 'string', minLength: 1, maxLength: MAX_ID_LENGTH };
const count: JsonSchema = { type: 'integer', minimum: 0 };
const limit: JsonSchema = { type: 'integer', minimum: 1, maximum: MAX_LIMIT };
const payload: JsonSchema = { type: 'object' };
const base64: JsonSchema = {
  type: 'string',
  contentEncoding: 'base64',
  maxLength: Math.ceil(MAX_VECTOR_BYTES / 3) * 4,
  description: '32-bit floats, little-endian, row after row.',
};
const sparse: JsonSchema = object({
  indices: {
    type: 'array',
    items: { type: 'integer', minimum: 0, maximum: 4_294_967_295 },
    maxItems: MAX_SPARSE,
    uniqueItems: true,
  },
  values: { type: 'array', items: { type: 'number' }, maxItems: MAX_SPARSE },
});
const vectorsOut: JsonSchema = {
  type: 'array',
  items: object({ name: vectorName, base64: { type: 'string', contentEncoding: 'base64' } }),
};

const definition = {
  vectors: {
    type: 'object',
    propertyNames: { pattern: NAME },
    additionalProperties: object({
      dimensions: { type: 'integer', minimum: 1, maximum: MAX_DIMENSIONS },
      distance: { enum: ['cosine', 'dot', 'euclidean'] },
    }),
    maxProperties: MAX_VECTORS,
  },
  sparse: { type: 'array', items: vectorName, maxItems: MAX_VECTORS, uniqueItems: true },
} as const satisfies { [name: string]: JsonSchema };

const described: JsonSchema = object({
  collection,
  ...definition,
  points: count,
  aliases: { type: 'array', items: collection },
});

interface InCollection {
  readonly collection: string;
}

interface Managed {
  readonly action: string;
  readonly collection?: string;
  readonly alias?: string;
}

const resources = (input: InCollection): string[] => [input.collection];

export const vector = defineCapability({
  name: 'vector',
  summary:
    'Collections of points with vectors, searched by likeness, in a namespace of the plugin’s own',
  resource: 'name of a collection or an alias in the plugin’s own namespace, such as docs',
  operations: {
    manage: {
      summary:
        'Makes, describes, lists and deletes collections, and gives one another name: an alias moves at once and whole',
      input: {
        oneOf: [
          object(
            { action: { const: 'create' }, collection, vectors: definition.vectors },
            {
              sparse: definition.sparse,
            },
          ),
          object({ action: { const: 'delete' }, collection }),
          object({ action: { const: 'describe' }, collection }),
          object({ action: { const: 'list' } }),
          object({ action: { const: 'alias' }, alias: collection, collection }),
          object({ action: { const: 'unalias' }, alias: collection }),
        ],
      },
      output: {
        type: 'object',
        properties: {
          created: { type: 'boolean', description: 'false: there was one of this form.' },
          deleted: { type: 'boolean' },
          collections: { type: 'array', items: described },
        },
        additionalProperties: false,
      },
      idempotent: true,
      resources: (input: Managed) =>
        [input.collection, input.alias].filter((name) => name !== undefined),
    },
    upsert: {
      summary: 'Writes points, each in place of the one with its id; durable when it answers',
      input: object(
        {
          collection,
          points: {
            type: 'array',
            items: object(
              { id },
              {
                payload,
                sparse: {
                  type: 'object',
                  propertyNames: { pattern: NAME },
                  additionalProperties: sparse,
                  maxProperties: MAX_VECTORS,
                },
              },
            ),
            minItems: 1,
            maxItems: MAX_POINTS,
          },
        },
        {
          vectors: {
            type: 'array',
            items: object({ base64 }, { name: vectorName }),
            maxItems: MAX_VECTORS,
            description: 'For each named vector a row for each point, in their order.',
          },
        },
      ),
      output: object({ upserted: count }),
      idempotent: true,
      resources,
      usage: (input: { readonly points: readonly object[] }) => ({ rows: input.points.length }),
    },
    search: {
      summary: 'The points likest to a vector, best first; a higher score is better',
      input: {
        ...object(
          { collection, limit },
          {
            vector: object({ base64 }, { name: vectorName }),
            sparse: { ...sparse, properties: { ...members(sparse), name: vectorName } },
            filter: filterSchema,
            offset: { type: 'integer', minimum: 0, maximum: 10_000 },
            withPayload: { type: 'boolean', description: 'true when absent.' },
            withVectors: {
              type: 'boolean',
              description: 'Of a cosine the direction; the length may have become 1.',
            },
            minScore: { type: 'number' },
          },
        ),
        oneOf: [{ required: ['vector'] }, { required: ['sparse'] }],
      },
      output: object(
        {
          hits: {
            type: 'array',
            items: object({ id, score: { type: 'number' } }, { payload }),
          },
        },
        { vectors: vectorsOut },
      ),
      idempotent: true,
      resources,
      usage: (_input: never, output: { readonly hits: readonly object[] }) => ({
        rows: output.hits.length,
      }),
    },
    scroll: {
      summary: 'All points that a filter lets through, page by page, in a fixed order',
      input: object(
        { collection, limit },
        {
          filter: filterSchema,
          after: { ...id, maxLength: 512, description: '`next` of the page before.' },
          withVectors: { type: 'boolean' },
        },
      ),
      output: object(
        {
          points: { type: 'array', items: object({ id, payload }) },
          next: { type: ['string', 'null'] },
        },
        { vectors: vectorsOut },
      ),
      idempotent: true,
      resources,
      usage: (_input: never, output: { readonly points: readonly object[] }) => ({
        rows: output.points.length,
      }),
    },
    delete: {
      summary: 'Deletes points by their ids or by a filter; says how many there were',
      input: {
        ...object(
          { collection },
          {
            ids: { type: 'array', items: id, minItems: 1, maxItems: MAX_POINTS },
            filter: filterSchema,
          },
        ),
        oneOf: [{ required: ['ids'] }, { required: ['filter'] }],
      },
      output: object({ deleted: count }),
      idempotent: true,
      resources,
    },
  },
  normalizeResource(pattern) {
    if (pattern === '*' || /^[a-z][a-z0-9_-]{0,62}\*?$/.test(pattern)) return pattern;
    throw new NoaError(
      'INVALID_ARGUMENT',
      `vector: the resource ${JSON.stringify(pattern.slice(0, 200))} must be the name of a collection: a letter, ` +
        'then letters, digits, _ or -, all of them small; or the beginning of one and *',
    );
  },
});

function members(schema: JsonSchema): { readonly [name: string]: JsonSchema } {
  return schema['properties'] as { readonly [name: string]: JsonSchema };
}

function object(
  required: { readonly [name: string]: JsonSchema },
  optional: { readonly [name: string]: JsonSchema } = {},
): JsonSchema {
  return {
    type: 'object',
    properties: { ...required, ...optional },
    required: Object.keys(required),
    additionalProperties: false,
  };
}
