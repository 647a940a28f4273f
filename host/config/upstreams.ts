/** `inference.upstreams`: groups of OpenAI-compatible servers whose models this host offers. */
import type { JsonSchema } from '@noa/sdk/host';
import type { GroupSettings } from '../../capabilities/inference/upstreams/settings.ts';
import type { Key } from './kinds.ts';
import { tables } from './tables.ts';

const whole = (minimum: number, maximum: number, fallback?: number): JsonSchema => ({
  type: 'integer',
  minimum,
  maximum,
  ...(fallback !== undefined && { default: fallback }),
});
const text = (maxLength: number): JsonSchema => ({ type: 'string', minLength: 1, maxLength });
const closed = (properties: { [name: string]: JsonSchema }): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  properties,
});
const MODEL_ID: JsonSchema = {
  type: 'string',
  pattern: '^[A-Za-z0-9._:/@-]{1,95}$',
  description: 'letters, digits and . _ : / @ -, at most 95',
};

const MEMBER: JsonSchema = {
  ...closed({
    url: {
      type: 'string',
      maxLength: 512,
      pattern: '^https?://[^/?#@\\s\\\\]+(/[^?#\\s\\\\]*)?$',
      description:
        'a URL such as https://models.example.com/v1: http or https, no user, query or fragment',
    },
    key: {
      type: 'string',
      maxLength: 4096,
      pattern: '^[\\x21-\\x7e]+$',
      description: 'a key without spaces, at most 4096 characters',
    },
    models: {
      type: 'object',
      minProperties: 1,
      maxProperties: 256,
      propertyNames: MODEL_ID,
      additionalProperties: text(256),
    },
    order: whole(0, 1000, 0),
    weight: whole(1, 1000, 1),
  }),
  required: ['url'],
};
const MODEL: JsonSchema = {
  ...closed({
    id: MODEL_ID,
    task: { enum: ['embedding', 'generation', 'rerank'] },
    description: text(300),
    dimensions: whole(1, 16_384),
    max_tokens: whole(1, 100_000_000),
    licence: text(100),
  }),
  required: ['id'],
};
const GROUP: JsonSchema = {
  ...closed({
    name: {
      type: 'string',
      pattern: '^[a-z][a-z0-9-]{0,31}$',
      not: { const: 'local' },
      description: 'lower-case letters, digits and hyphens, a letter first, at most 32; not local',
    },
    members: { type: 'array', minItems: 1, maxItems: 32, items: MEMBER },
    models: { type: 'array', minItems: 1, maxItems: 256, items: MODEL },
    rerank: { type: 'boolean', default: false },
    stream: { type: 'boolean', default: true },
    stream_usage: { type: 'boolean', default: true },
    embed_batch: whole(1, 256, 64),
    embed_encoding: { enum: ['base64', 'float'], default: 'base64' },
    attempts: whole(1, 10, 3),
    retry_for_ms: whole(0, 600_000, 60_000),
    connect_timeout_ms: whole(10, 60_000, 5000),
    first_byte_ms: whole(10, 3_600_000, 30_000),
    idle_ms: whole(10, 3_600_000, 30_000),
    max_requests: whole(1, 4096, 64),
  }),
  required: ['name', 'members'],
};

const groups = tables<GroupSettings>(
  GROUP,
  {
    references: true,
    description:
      'Groups of OpenAI-compatible servers, whose models plugins name `group/model`: `name`, `members` (`url`, `key` as `env:NAME` or `file:PATH`, and if wanted `models`, `order`, `weight`), `models` (asked of the members when absent); [the page of upstreams](../capabilities/inference/upstreams/README.md) lists the other members.',
  },
  ['name'],
  broken,
);

/** Values are shown as they were written, so a key may stand in no configuration itself. */
export const upstreams: Key<readonly GroupSettings[] | undefined> = {
  ...groups,
  read: (value, cwd, resolve) =>
    writtenKey(value) === undefined ? groups.read(value, cwd, resolve) : undefined,
  fault: (value, resolve) => writtenKey(value) ?? groups.fault?.(value, resolve),
};

/** What the schema cannot say; undefined when the group is sound. */
function broken({
  members,
  models,
  rerank,
}: GroupSettings): [path: string, rule: string] | undefined {
  const ids = models?.map(({ id }) => id);
  for (const [index, { url, models: own = {} }] of members.entries()) {
    const at = `/members/${index}`;
    if (!URL.canParse(url)) return [`${at}/url`, 'is not a URL'];
    const stray = Object.keys(own).find((id) => ids?.includes(id) === false);
    if (stray !== undefined) return [`${at}/models`, `names ${stray}, which is not in models`];
  }
  for (const [index, { id, task }] of (models ?? []).entries()) {
    if (ids?.indexOf(id) !== index) return [`/models/${index}/id`, 'is that of another model'];
    if (task === 'rerank' && !rerank) {
      return [`/models/${index}/task`, 'is rerank: set rerank = true, if the members have /rerank'];
    }
  }
  return undefined;
}

function writtenKey(value: unknown): string | undefined {
  const list: unknown = typeof value === 'string' ? parse(value) : value;
  for (const [index, group] of entries(list)) {
    for (const [place, member] of entries(inner(group, 'members'))) {
      const key = inner(member, 'key');
      if (typeof key === 'string' && !/^(env|file):/.test(key)) {
        return `/${index}/members/${place}/key must be a reference: env:NAME or file:PATH`;
      }
    }
  }
  return undefined;
}

/** What is no JSON is a fault that the tables find. */
function parse(value: string): unknown {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

function entries(value: unknown): [number, unknown][] {
  return Array.isArray(value) ? [...value.entries()] : [];
}

function inner(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}
