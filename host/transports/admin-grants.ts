/** Grants in the administration's REST form: read, add, decide, and what there is to know before deciding. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Administration } from '../kernel/administration.ts';
import type { Question } from '../kernel/advice.ts';
import type { GrantRequest } from '../kernel/grants.ts';
import { DIFFERENCES, EXPLANATION, GRANT_VIEW, GRANTS, SUGGESTION } from './admin-answers.ts';
import {
  APPROVAL,
  EXPLAIN_QUERY,
  GRANT,
  GRANT_PATH as path,
  GRANTS_QUERY,
  PLUGIN_QUERY,
} from './admin-schemas.ts';
import { actorOf, nameIn } from './identity.ts';
import { pageOf, type PageQuery } from './paging.ts';
import { created, resource } from './resource.ts';

const READ = { tag: 'Grants', scope: 'grants:read' } as const;
const WRITE = { tag: 'Grants', scope: 'grants:write' } as const;

export function registerGrants(scope: FastifyInstance, administration: Administration): void {
  resource(scope, '/v1/grants', {
    GET: {
      ...READ,
      summary: 'List the grants',
      description: 'By plugin, the oldest first.',
      query: GRANTS_QUERY,
      answers: { 200: GRANTS },
      run: (request) => {
        const query = request.query as PageQuery & { plugin?: string };
        const { items, next } = pageOf(
          administration.grants(query.plugin),
          ({ plugin, createdAt, id }) => `${plugin} ${createdAt} ${id}`,
          query,
        );
        return { grants: items, next };
      },
    },
    POST: {
      ...WRITE,
      summary: 'Grant something ahead of a request',
      description: 'It has effect where a request of the plugin meets it.',
      body: GRANT,
      answers: { 201: GRANT_VIEW },
      errors: ['NOT_FOUND'],
      run: async (request, reply) => {
        const grant = await administration.addGrant(request.body as GrantRequest, actorOf(request));
        return created(reply, `/v1/grants/${grant.id}`, grant);
      },
    },
  });
  registerAdvice(scope, administration);
  resource(scope, '/v1/grants/:id', {
    GET: {
      ...READ,
      summary: 'Show a grant',
      path,
      answers: { 200: GRANT_VIEW },
      run: (request) => administration.grant(nameIn(request, 'id')),
    },
    DELETE: {
      ...WRITE,
      summary: 'Revoke a grant',
      description: "It holds at the plugin's next capability call.",
      path,
      answers: { 200: GRANT_VIEW },
      run: (request) => administration.revoke(nameIn(request, 'id'), actorOf(request)),
    },
  });
  resource(scope, '/v1/grants/:id/approve', {
    POST: {
      ...WRITE,
      summary: 'Approve a grant',
      description: 'As it was asked for, or narrower where the body says so.',
      path,
      body: APPROVAL,
      answers: { 200: GRANT_VIEW },
      run: (request) => {
        const to = (request.body ?? {}) as { operations?: string[]; resources?: string[] };
        return administration.approve(nameIn(request, 'id'), to, actorOf(request));
      },
    },
  });
}

function registerAdvice(scope: FastifyInstance, { advice }: Administration): void {
  const common = { ...READ, errors: ['NOT_FOUND'] as const };
  resource(scope, '/v1/grants/explain', {
    GET: {
      ...common,
      summary: 'Explain whether a plugin may do something',
      description:
        "Of the plugin's own rights, which a chain of calls can only narrow: the rule that decides, and what would allow it.",
      query: EXPLAIN_QUERY,
      answers: { 200: EXPLANATION },
      run: (request) => advice.explain(request.query as Question),
    },
  });
  resource(scope, '/v1/grants/suggest', {
    GET: {
      ...common,
      summary: 'Suggest the least grants for what a plugin did',
      description: "By the uses among the plugin's 20,000 newest audit records.",
      query: PLUGIN_QUERY,
      answers: { 200: SUGGESTION },
      run: (request) => advice.suggest(pluginOf(request)),
    },
  });
  resource(scope, '/v1/grants/diff', {
    GET: {
      ...common,
      summary: 'Compare what a plugin asks for with what it is given',
      query: PLUGIN_QUERY,
      answers: { 200: DIFFERENCES },
      run: (request) => ({ differences: advice.diff(pluginOf(request)) }),
    },
  });
}

function pluginOf(request: FastifyRequest): string {
  return (request.query as { plugin: string }).plugin;
}
