/** `gateway.routes`: paths of this host that lead to other servers. */
import type { JsonSchema } from '@noa/sdk/host';
import { FRAMING, type RouteSettings } from '../gateway/upstream/settings.ts';
import { tables } from './tables.ts';

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

/** First segments of the host's own paths, those of later versions among them. */
const OWN = [
  'v1',
  'v2',
  'plugins',
  'health',
  'healthz',
  'ready',
  'readyz',
  'metrics',
  'openapi.json',
  'docs',
  'mcp',
  'ws',
  'ui',
  'api',
  'console',
  'relocation',
  '.well-known',
];
const whole = (minimum: number, maximum: number, fallback: number): JsonSchema => ({
  type: 'integer',
  minimum,
  maximum,
  default: fallback,
});
const closed = (properties: { [name: string]: JsonSchema }): JsonSchema => ({
  type: 'object',
  additionalProperties: false,
  properties,
});
const HEADER_NAME = '^[a-z0-9][a-z0-9-]{0,63}$';
const RULES: JsonSchema = {
  ...closed({
    set: {
      type: 'object',
      maxProperties: 32,
      propertyNames: { pattern: HEADER_NAME },
      additionalProperties: { type: 'string', maxLength: 4096, pattern: '^[\\x20-\\x7e]*$' },
      default: {},
    },
    remove: {
      type: 'array',
      maxItems: 32,
      items: { type: 'string', pattern: HEADER_NAME },
      default: [],
    },
  }),
  default: {},
};
const ROUTE: JsonSchema = {
  ...closed({
    name: {
      type: 'string',
      pattern: '^[a-z][a-z0-9-]{0,47}$',
      description: 'lower-case letters, digits and hyphens, a letter first, at most 48',
    },
    path: {
      type: 'string',
      maxLength: 200,
      pattern: '^(/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)$',
      description:
        '/ or a path such as /shop/orders: no / at its end, letters, digits and . _ ~ - alone',
    },
    methods: {
      type: 'array',
      minItems: 1,
      uniqueItems: true,
      items: { enum: METHODS },
      default: METHODS,
    },
    upstreams: {
      type: 'array',
      minItems: 1,
      maxItems: 64,
      items: {
        ...closed({
          url: {
            type: 'string',
            maxLength: 512,
            pattern: '^https?://[^/?#@\\s\\\\]+(/[^?#\\s\\\\]*)?$',
            description:
              'a URL such as http://10.0.0.5:8080/base: http or https, no user, query or fragment',
          },
          weight: whole(1, 1000, 1),
        }),
        required: ['url'],
      },
    },
    strip_prefix: { type: 'boolean', default: false },
    scope: {
      type: 'string',
      pattern: '^[a-z][a-z0-9:._-]{0,63}$',
      description: 'a scope: lower-case letters, digits and : . _ -, a letter first, at most 64',
    },
    timeout_ms: whole(10, 3_600_000, 30_000),
    connect_timeout_ms: whole(10, 60_000, 2000),
    max_connections: whole(1, 4096, 64),
    max_body_bytes: whole(0, 2 ** 40, 8 << 20),
    retries: {
      ...closed({
        attempts: whole(1, 10, 1),
        on: {
          type: 'array',
          uniqueItems: true,
          items: { enum: ['connect', 'reset', '429', '500', '502', '503', '504', '5xx'] },
          default: ['connect', 'reset', '502', '503', '504'],
        },
        backoff_ms: whole(0, 60_000, 50),
      }),
      default: {},
    },
    breaker: {
      ...closed({
        failures: whole(1, 1000, 5),
        open_ms: whole(10, 3_600_000, 10_000),
        probes: whole(1, 100, 1),
      }),
      default: {},
    },
    headers: { ...closed({ request: RULES, response: RULES }), default: {} },
    forward_authorization: { type: 'boolean', default: false },
    forward_identity: { type: 'boolean', default: false },
  }),
  required: ['name', 'path', 'upstreams'],
};

export const routes = tables<RouteSettings>(
  ROUTE,
  {
    reloadable: true,
    references: true,
    description:
      'Paths that lead to other servers, by the longest that fits: `name`, `path` (a prefix of whole segments, not one of the host’s own), `upstreams` (`url`, `weight`); [the page of the HTTP API](../host/transports/README.md#upstream-routes) lists the other members.',
  },
  ['name', 'path'],
  broken,
);

/** What the schema cannot say; undefined when the route is sound. */
function broken({
  path,
  upstreams,
  headers,
}: RouteSettings): [path: string, rule: string] | undefined {
  if (isOwnPath(path)) {
    return ['/path', `would shadow the host's own /${firstSegment(path)}: choose another prefix`];
  }
  for (const [index, { url }] of upstreams.entries()) {
    if (!URL.canParse(url)) return [`/upstreams/${index}/url`, 'is not a URL'];
    if (upstreams.findIndex((other) => other.url === url) < index) {
      return [`/upstreams/${index}/url`, 'is there twice: give one of them a weight'];
    }
  }
  for (const [side, { set, remove }] of Object.entries(headers)) {
    const name = [...Object.keys(set), ...remove].find((each) => FRAMING.test(each));
    if (name !== undefined) return [`/headers/${side}`, `names ${name}, which the gateway writes`];
  }
  return undefined;
}

/** Whether a path is one that this host answers itself, whatever is configured. */
export function isOwnPath(path: string): boolean {
  const first = firstSegment(path);
  return OWN.includes(first) || /^(noa|grpc)\.[a-z0-9.]+$/i.test(first);
}

function firstSegment(path: string): string {
  return path.split('/', 2)[1] ?? '';
}
