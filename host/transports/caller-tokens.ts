/** Capability tokens of machine callers in the administration's REST form. A token's text is in a body, never in a URL. */
import { type JsonSchema, NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyReply } from 'fastify';
import type { Principal } from '../kernel/chain.ts';
import type { CallerTokenInput, CallerTokenView, Reach } from '../kernel/caller-token-records.ts';
import type { CallerTokens } from '../kernel/caller-tokens.ts';
import { list, object, oneOf, orNull, page, text, time } from './answer-schema.ts';
import { actorOf, nameIn, principalOf } from './identity.ts';
import { PAGE_QUERY, pageOf, type PageQuery, placeOf } from './paging.ts';
import { created, resource } from './resource.ts';

const tag = 'Capability tokens';
const LEVELS = ['L1', 'L2', 'L3', 'L4', 'L5'];
const MAX_TOKEN = 16_384;

const budget: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: Object.fromEntries(
    ['calls', 'rows', 'tokens', 'bytes', 'ms'].map((name) => [
      name,
      { type: 'number', minimum: 0 },
    ]),
  ),
  description:
    'What all calls together may use; what other hosts spend of it counts a second later.',
};
const pattern: JsonSchema = { type: 'string', minLength: 1, maxLength: 256 };
const patterns: JsonSchema = { type: 'array', items: pattern, minItems: 1, maxItems: 64 };
const name: JsonSchema = { type: 'string', minLength: 1, maxLength: 48 };
const right: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['capability', 'operations', 'resources'],
  properties: {
    capability: name,
    operations: { type: 'array', items: name, minItems: 1, maxItems: 32 },
    resources: patterns,
  },
};
const INPUT = {
  calls: {
    ...patterns,
    description: 'Exports that may be called: `plugin/export`, or a prefix and `*`.',
  },
  rights: {
    type: 'array',
    items: right,
    maxItems: 64,
    description:
      'What the called plugins may use, as far as they have it; all that they have when absent.',
  },
  budget,
  lifeSeconds: { type: 'integer', minimum: 60, maximum: 300, default: 300 },
} satisfies { [member: string]: JsonSchema };
const NEW_TOKEN: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['caller', 'calls'],
  properties: {
    caller: {
      type: 'string',
      pattern: '^[a-z0-9][a-z0-9._-]{0,63}$',
      description: 'Whose token it is: small letters, digits, dots, underscores and hyphens.',
    },
    level: { type: 'string', enum: LEVELS },
    ...INPUT,
  },
};
const CHILD: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['calls'],
  properties: INPUT,
};
const GIVEN: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['token'],
  properties: { token: { type: 'string', minLength: 1, maxLength: MAX_TOKEN } },
};

const VIEW = {
  id: text('`jti` of the token.'),
  parent: orNull(text('Id of the token that it descends from.')),
  subject: text('`caller:<name>`.'),
  calls: list(text(), 'Exports that may be called.'),
  rights: orNull(
    list(object<Reach>({ capability: text(), operations: list(text()), resources: list(text()) })),
  ),
  budget: orNull(budget),
  level: orNull(oneOf(LEVELS, 'Of its rate limit; null counts as L5.')),
  createdBy: text(),
  createdAt: time(),
  expiresAt: time(),
};
const TOKEN = object<CallerTokenView>(VIEW, { title: 'CallerToken' });
const MADE = object<CallerTokenView & { token: string }>(
  { ...VIEW, token: text('The credential; it is shown this once.') },
  { title: 'CallerTokenMade' },
);
const INSPECTED = object<{ active: boolean; token: CallerTokenView | null }>({
  active: { type: 'boolean', description: 'Whether it is good now, on this host.' },
  token: orNull(TOKEN),
});

/** For administrators. */
export function registerCallerTokens(scope: FastifyInstance, tokens: CallerTokens): void {
  resource(scope, '/v1/tokens', {
    GET: {
      summary: 'List the living capability tokens of callers',
      tag,
      scope: 'tokens:read',
      query: PAGE_QUERY,
      answers: { 200: page('tokens', TOKEN) },
      run: async (request) => {
        const query = request.query as PageQuery;
        const items = [...(await tokens.list(placeOf(query.cursor), query.limit + 1))];
        const { items: shown, next } = pageOf(items, ({ id }) => id, query);
        return { tokens: shown, next };
      },
    },
    POST: {
      summary: 'Mint a capability token for a machine caller',
      description:
        'The answer holds the token, once. It is a bearer credential for the exports that `calls` covers and for nothing else.',
      tag,
      scope: 'tokens:write',
      body: NEW_TOKEN,
      answers: { 201: MADE },
      errors: ['RESOURCE_EXHAUSTED'],
      run: async (request, reply) => {
        const actor = principalOf(request);
        assertMayCall(actor);
        const input = request.body as CallerTokenInput & { caller: string; level?: string };
        return made(reply, await tokens.mint(input, actor));
      },
    },
  });
  resource(scope, '/v1/tokens/:id', {
    DELETE: {
      summary: 'Revoke a capability token',
      description: 'With all that descend from it, on every host within a second.',
      tag,
      scope: 'tokens:write',
      path: { id: text('`jti` of the token.') },
      answers: { 204: null },
      run: async (request, reply) => {
        await tokens.revoke(nameIn(request, 'id'), actorOf(request));
        return reply.code(204).send();
      },
    },
  });
}

/** For whoever has a credential. */
export function registerOwnTokens(scope: FastifyInstance, tokens: CallerTokens): void {
  resource(scope, '/v1/tokens/attenuate', {
    POST: {
      summary: 'Make a narrower token of the one that asks',
      description:
        'It holds no more than the token in `Authorization`, ends no later, and is worth nothing once that is revoked.',
      tag,
      body: CHILD,
      answers: { 201: MADE },
      errors: ['RESOURCE_EXHAUSTED'],
      run: async (request, reply) => {
        const { token } = principalOf(request);
        if (token === undefined) {
          const advice = 'send the capability token that the new one is to descend from';
          throw new NoaError(
            'PERMISSION_DENIED',
            `authorization: is no capability token; ${advice}`,
          );
        }
        return made(reply, await tokens.attenuate(request.body as CallerTokenInput, token));
      },
    },
  });
  resource(scope, '/v1/tokens/inspect', {
    POST: {
      summary: 'Tell what a capability token holds, and whether it is good',
      tag,
      body: GIVEN,
      answers: { 200: INSPECTED },
      run: async (request) => {
        const { token } = request.body as { token: string };
        const view = await tokens.inspect(token);
        return { active: view !== undefined, token: view ?? null };
      },
    },
  });
}

/** Nobody hands out what they may not do. */
function assertMayCall({ subject, scopes }: Principal): void {
  if (scopes.includes('plugins:call') || scopes.includes('admin')) return;
  const text = `${subject} lacks the scope plugins:call and so may not give it: ask an administrator`;
  throw new NoaError('PERMISSION_DENIED', text);
}

function made(
  reply: FastifyReply,
  { view, token }: { view: CallerTokenView; token: string },
): CallerTokenView & { token: string } {
  void reply.header('cache-control', 'no-store');
  return created(reply, `/v1/tokens/${view.id}`, { ...view, token });
}
