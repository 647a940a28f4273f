/**
 * Users, clients, roles and keys in the administration's REST form: each route is one call of the identity
 * service, in the name of the principal.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ApiKeyInput } from '../gateway/identity/api-keys.ts';
import type { IdentityInput } from '../gateway/identity/directory.ts';
import type { IdentityService } from '../gateway/identity/identity.ts';
import type { RoleInput } from '../gateway/identity/roles.ts';
import type { IdentityKind } from '../gateway/identity/store.ts';
import {
  CLIENT,
  CLIENT_PATH,
  CLIENT_SECRET,
  CLIENTS,
  IDENTITY_DETAIL,
  IDENTITY_VIEW,
  KEY_MADE,
  KEY_PATH,
  KEYS,
  KEYS_QUERY,
  NEW_CLIENT,
  NEW_KEY,
  NEW_ROLE,
  NEW_USER,
  ROLE,
  ROLE_PATH,
  ROLE_VIEW,
  ROLES,
  SELF,
  SIGNING_KEY,
  SIGNING_KEYS,
  USER,
  USER_PATH,
  USERS,
} from './auth-schemas.ts';
import { actorOf, nameIn, principalOf } from './identity.ts';
import { type Page, PAGE_QUERY, pageOf, type PageQuery, placeOf, wrongCursor } from './paging.ts';
import { created, resource } from './resource.ts';

const READ = { tag: 'Authentication', scope: 'auth:read' } as const;
const WRITE = { tag: 'Authentication', scope: 'auth:write' } as const;

/** Of each kind its words and schemas. */
const KINDS = {
  client: {
    path: '/v1/auth/clients',
    parameters: CLIENT_PATH,
    fresh: NEW_CLIENT,
    changed: CLIENT,
    made: CLIENT_SECRET,
    list: CLIENTS,
  },
  user: {
    path: '/v1/auth/users',
    parameters: USER_PATH,
    fresh: NEW_USER,
    changed: USER,
    made: IDENTITY_VIEW,
    list: USERS,
  },
} as const;

export function registerAuth(scope: FastifyInstance, identity: IdentityService): void {
  identities(scope, identity, 'client');
  identities(scope, identity, 'user');
  resource(scope, '/v1/auth/clients/:id/secret', {
    POST: {
      ...WRITE,
      summary: 'Give a client a new secret',
      description: 'The one before, and every token that it opened, is worth nothing from now on.',
      path: CLIENT_PATH,
      answers: { 200: CLIENT_SECRET },
      run: (request, reply) => {
        void reply.header('cache-control', 'no-store');
        return identity.directory.rotateSecret(nameIn(request, 'id'), principalOf(request));
      },
    },
  });
  roles(scope, identity);
  apiKeys(scope, identity);
  signingKeys(scope, identity);
}

/** For whoever has a credential, whatever it may do. */
export function registerSelf(scope: FastifyInstance): void {
  resource(scope, '/v1/auth/me', {
    GET: {
      tag: 'Authentication',
      summary: 'Tell who the caller is',
      answers: { 200: SELF },
      run: (request) => {
        const { subject, scopes, roles: held = [], level = 'L5' } = principalOf(request);
        return { subject, scopes, roles: held, level };
      },
    },
  });
}

function identities(
  scope: FastifyInstance,
  { directory }: IdentityService,
  kind: IdentityKind,
): void {
  const { path, parameters, fresh, changed, made, list } = KINDS[kind];
  resource(scope, path, {
    GET: {
      ...READ,
      summary: `List the ${kind}s`,
      query: PAGE_QUERY,
      answers: { 200: list },
      run: async (request) => {
        const { items, next } = await pageFrom(
          request,
          (slice) => directory.list(kind, slice),
          ({ id }) => id,
        );
        return { [`${kind}s`]: items, next };
      },
    },
    POST: {
      ...WRITE,
      summary: `Make a ${kind}`,
      description:
        kind === 'client'
          ? 'The answer holds its secret, once. Nobody gives what they do not have.'
          : 'Nobody gives what they do not have.',
      body: fresh,
      answers: { 201: made },
      errors: ['CONFLICT', 'RESOURCE_EXHAUSTED'],
      run: async (request, reply) => {
        const { id, ...input } = request.body as IdentityInput & { id: string };
        const view = await directory.create(kind, id, input, principalOf(request));
        void reply.header('cache-control', 'no-store');
        return created(reply, `${path}/${id}`, view);
      },
    },
  });
  resource(scope, `${path}/:id`, {
    GET: {
      ...READ,
      summary: `Show a ${kind}`,
      path: parameters,
      answers: { 200: IDENTITY_DETAIL },
      run: (request) => directory.show(kind, nameIn(request, 'id')),
    },
    PATCH: {
      ...WRITE,
      summary: `Change a ${kind}`,
      description:
        'Members that are given replace what was; `disabled` shuts it out with all its tokens.',
      path: parameters,
      body: changed,
      answers: { 200: IDENTITY_VIEW },
      errors: ['CONFLICT'],
      run: (request) => {
        const input = request.body as IdentityInput;
        return directory.update(kind, nameIn(request, 'id'), input, principalOf(request));
      },
    },
    DELETE: {
      ...WRITE,
      summary: `Delete a ${kind}`,
      description: 'With its tokens and API keys.',
      path: parameters,
      answers: { 204: null },
      run: async (request, reply) => {
        await directory.remove(kind, nameIn(request, 'id'), principalOf(request));
        return reply.code(204).send();
      },
    },
  });
}

function roles(scope: FastifyInstance, { roles: kept }: IdentityService): void {
  resource(scope, '/v1/auth/roles', {
    GET: {
      ...READ,
      summary: 'List the roles',
      query: PAGE_QUERY,
      answers: { 200: ROLES },
      run: async (request) => {
        const { items, next } = await pageFrom(
          request,
          (slice) => kept.list(slice),
          ({ name }) => name,
        );
        return { roles: items, next };
      },
    },
    POST: {
      ...WRITE,
      summary: 'Make a role',
      body: NEW_ROLE,
      answers: { 201: ROLE_VIEW },
      errors: ['CONFLICT', 'RESOURCE_EXHAUSTED'],
      run: async (request, reply) => {
        const { name, ...input } = request.body as RoleInput & { name: string };
        const role = await kept.create(name, input, principalOf(request));
        return created(reply, `/v1/auth/roles/${name}`, role);
      },
    },
  });
  resource(scope, '/v1/auth/roles/:name', {
    GET: {
      ...READ,
      summary: 'Show a role',
      path: ROLE_PATH,
      answers: { 200: ROLE_VIEW },
      run: (request) => kept.show(nameIn(request, 'name')),
    },
    PATCH: {
      ...WRITE,
      summary: 'Change a role',
      description: 'Whoever has it has what it gives now.',
      path: ROLE_PATH,
      body: ROLE,
      answers: { 200: ROLE_VIEW },
      run: (request) =>
        kept.update(nameIn(request, 'name'), request.body as RoleInput, principalOf(request)),
    },
    DELETE: {
      ...WRITE,
      summary: 'Delete a role',
      path: ROLE_PATH,
      answers: { 204: null },
      errors: ['CONFLICT'],
      run: async (request, reply) => {
        await kept.remove(nameIn(request, 'name'), principalOf(request));
        return reply.code(204).send();
      },
    },
  });
}

function apiKeys(scope: FastifyInstance, { apiKeys: kept }: IdentityService): void {
  resource(scope, '/v1/auth/keys', {
    GET: {
      ...READ,
      summary: 'List the API keys',
      query: KEYS_QUERY,
      answers: { 200: KEYS },
      run: async (request) => {
        const { owner } = request.query as { owner?: string };
        const { items, next } = await pageFrom(
          request,
          (slice) => kept.list(slice, owner),
          ({ id }) => id,
        );
        return { keys: items, next };
      },
    },
    POST: {
      ...WRITE,
      summary: 'Make an API key',
      description:
        'The answer holds the key, once. It has the scopes that are named, or all that its owner has now.',
      body: NEW_KEY,
      answers: { 201: KEY_MADE },
      errors: ['NOT_FOUND', 'RESOURCE_EXHAUSTED'],
      run: async (request, reply) => {
        const key = await kept.create(request.body as ApiKeyInput, principalOf(request));
        void reply.header('cache-control', 'no-store');
        return created(reply, `/v1/auth/keys/${key.id}`, key);
      },
    },
  });
  resource(scope, '/v1/auth/keys/:id', {
    DELETE: {
      ...WRITE,
      summary: 'Revoke an API key',
      path: KEY_PATH,
      answers: { 204: null },
      run: async (request, reply) => {
        await kept.revoke(nameIn(request, 'id'), principalOf(request));
        return reply.code(204).send();
      },
    },
  });
}

function signingKeys(scope: FastifyInstance, { signingKeys: kept }: IdentityService): void {
  resource(scope, '/v1/auth/signing-keys', {
    GET: {
      ...READ,
      summary: 'List the keys that sign access tokens',
      description: 'Newest first; the one that is not retired signs.',
      query: PAGE_QUERY,
      answers: { 200: SIGNING_KEYS },
      run: async (request) => {
        const { items, next } = pageOf(
          await kept.list(),
          ({ createdAt, kid }) => `${createdAt} ${kid}`,
          request.query as PageQuery,
          'falling',
        );
        return { keys: items, next };
      },
    },
  });
  resource(scope, '/v1/auth/signing-keys/rotate', {
    POST: {
      ...WRITE,
      summary: 'Sign access tokens with a new key from now on',
      description: 'What the others signed is good until it expires.',
      answers: { 200: SIGNING_KEY },
      run: (request) => kept.rotate(actorOf(request)),
    },
  });
}

/** A page of a list that does not stand in memory. */
async function pageFrom<T>(
  request: FastifyRequest,
  read: (slice: { after: string | undefined; limit: number }) => Promise<T[]>,
  keyOf: (item: NoInfer<T>) => string,
): Promise<Page<T>> {
  const query = request.query as PageQuery;
  const after = placeOf(query.cursor);
  if (after?.includes('\0')) throw wrongCursor(); // PostgreSQL has no such text
  const items = await read({ after, limit: query.limit + 1 });
  return pageOf(items, keyOf, query);
}
