/**
 * The administration's REST form (spec section 4): each route is one call of the kernel, in the name of
 * the principal. Invariant: nothing here is reached without its scope; the caller of `registerAdmin` has
 * seen to the credential.
 */
import type { FastifyInstance } from 'fastify';
import type { Administration } from '../kernel/administration.ts';
import type { Hosts } from '../kernel/hosts.ts';
import type { Models } from '../kernel/models.ts';
import type { Secrets } from '../kernel/secrets.ts';
import {
  AUDIT_PAGE,
  SECRET_VIEW,
  SECRETS,
  TOKEN_KEY,
  TOKEN_KEYS,
  VERIFICATION,
} from './admin-answers.ts';
import { registerGrants } from './admin-grants.ts';
import { type PluginAdminOptions, registerPlugins } from './admin-plugins.ts';
import { AUDIT_QUERY, SECRET, SECRET_NAME } from './admin-schemas.ts';
import { type BodyLimit, takeBundles } from './body.ts';
import { registerHosts } from './hosts.ts';
import { actorOf, nameIn } from './identity.ts';
import { registerModels } from './models.ts';
import { PAGE_QUERY, pageOf, type PageQuery } from './paging.ts';
import { type PluginStateOptions, registerPluginState } from './plugin-state.ts';
import { resource } from './resource.ts';

export interface AdminOptions extends PluginStateOptions, PluginAdminOptions {
  readonly secrets: Secrets;
  readonly hosts: Hosts;
  readonly models: Models;
  readonly bundleLimit: BodyLimit;
}

export function registerAdmin(scope: FastifyInstance, options: AdminOptions): void {
  takeBundles(scope, options.bundleLimit);
  registerPlugins(scope, options);
  registerPluginState(scope, options);
  registerGrants(scope, options.administration);
  secrets(scope, options.secrets);
  tokens(scope, options.administration);
  audit(scope, options.administration);
  registerHosts(scope, options.hosts);
  registerModels(scope, options.models);
}

function secrets(scope: FastifyInstance, kept: Secrets): void {
  const tag = 'Secrets';
  resource(scope, '/v1/secrets', {
    GET: {
      summary: 'List the secrets',
      description: 'Their names and times, by name. A value is never shown again.',
      tag,
      scope: 'secrets:read',
      query: PAGE_QUERY,
      answers: { 200: SECRETS },
      run: async (request) => {
        const all = await kept.list();
        const { items, next } = pageOf(all, ({ name }) => name, request.query as PageQuery);
        return { secrets: items, next };
      },
    },
  });
  const path = { name: SECRET_NAME };
  resource(scope, '/v1/secrets/:name', {
    PUT: {
      summary: 'Set a secret',
      description: 'It is in force on every host within a second.',
      tag,
      scope: 'secrets:write',
      path,
      body: SECRET,
      answers: { 200: SECRET_VIEW },
      run: (request) => {
        const { value } = request.body as { value: string };
        return kept.set(nameIn(request, 'name'), value, actorOf(request));
      },
    },
    DELETE: {
      summary: 'Delete a secret',
      tag,
      scope: 'secrets:write',
      path,
      answers: { 204: null },
      run: async (request, reply) => {
        await kept.remove(nameIn(request, 'name'), actorOf(request));
        return reply.code(204).send();
      },
    },
  });
}

function tokens(scope: FastifyInstance, { keys }: Administration): void {
  const tag = 'Token keys';
  resource(scope, '/v1/tokens/keys', {
    GET: {
      summary: 'List the keys that sign capability tokens',
      description: 'Newest first; the one that is not retired signs.',
      tag,
      scope: 'tokens:read',
      query: PAGE_QUERY,
      answers: { 200: TOKEN_KEYS },
      run: (request) => {
        const { items, next } = pageOf(
          keys.list(),
          ({ createdAt, kid }) => `${createdAt} ${kid}`,
          request.query as PageQuery,
          'falling',
        );
        return { keys: items, next };
      },
    },
  });
  resource(scope, '/v1/tokens/rotate', {
    POST: {
      summary: 'Make a new key that signs from now on',
      description:
        'What the others signed is good until it expires, at most 300 seconds; no call fails by it.',
      tag,
      scope: 'tokens:write',
      answers: { 200: TOKEN_KEY },
      run: (request) => keys.rotate(actorOf(request)),
    },
  });
}

function audit(scope: FastifyInstance, administration: Administration): void {
  const tag = 'Audit';
  resource(scope, '/v1/audit', {
    GET: {
      summary: 'Read the audit log',
      description: 'Newest first.',
      tag,
      scope: 'audit:read',
      query: AUDIT_QUERY,
      answers: { 200: AUDIT_PAGE },
      run: (request) => {
        const query = request.query as { cursor?: string; limit: number; plugin?: string };
        return administration.auditPage(query);
      },
    },
  });
  resource(scope, '/v1/audit/verify', {
    POST: {
      summary: 'Verify the audit log',
      description: 'Checks every chain of hashes from its first record on.',
      tag,
      scope: 'audit:read',
      answers: { 200: VERIFICATION },
      run: () => administration.verifyAudit(),
    },
  });
}
