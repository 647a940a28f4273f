/**
 * The administration's REST form (spec section 4): each route is one call of `Administration`, in the
 * name of the principal. Invariant: nothing here is reached without the scope `admin`; the caller of
 * `registerAdmin` has seen to the credential.
 */
import { NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Administration } from '../kernel/administration.ts';
import type { Question } from '../kernel/advice.ts';
import type { GrantRequest } from '../kernel/grants.ts';
import type { Secrets } from '../kernel/secrets.ts';
import {
  APPROVAL,
  AUDIT_QUERY,
  BUNDLE_QUERY,
  EXPLAIN_QUERY,
  GRANT,
  GRANTS_QUERY,
  LOGS_QUERY,
  PIN,
  PLUGIN_QUERY,
  REMOVE_QUERY,
  SECRET,
} from './admin-schemas.ts';
import { type BodyLimit, bundleOf, takeBundles } from './body.ts';
import { principalOf } from './identity.ts';
import { type PluginStateOptions, registerPluginState } from './plugin-state.ts';
import { resource } from './resource.ts';

export interface LogLine {
  /** Rises by one with every line of a plugin. */
  readonly seq: number;
  /** ISO 8601. */
  readonly timestamp: string;
  readonly level: string;
  readonly message: string;
}

export interface LogPage {
  readonly lines: readonly LogLine[];
  /** What `since` is to be next. */
  readonly next: number;
}

/** The kept lines of a plugin after `since`, oldest first, at most `limit`. */
export type ReadLogs = (
  plugin: string,
  query: { since: number; limit: number },
) => LogPage | Promise<LogPage>;

export interface AdminOptions extends PluginStateOptions {
  readonly administration: Administration;
  readonly secrets: Secrets;
  readonly logs: ReadLogs;
  readonly bundleLimit: BodyLimit;
}

export function registerAdmin(scope: FastifyInstance, options: AdminOptions): void {
  takeBundles(scope, options.bundleLimit);
  plugins(scope, options);
  registerPluginState(scope, options);
  grants(scope, options.administration);
  secrets(scope, options.secrets);
  tokens(scope, options.administration);
  audit(scope, options.administration);
}

function plugins(scope: FastifyInstance, { administration, logs }: AdminOptions): void {
  resource(scope, '/v1/plugins', {
    GET: { run: () => ({ plugins: administration.plugins() }) },
    POST: {
      bundle: true,
      query: BUNDLE_QUERY,
      run: async (request, reply) => {
        const bundle = bundleOf(request);
        const view = await administration.install(bundle, actor(request), digestOf(request));
        return created(reply, `/v1/plugins/${view.name}`, view);
      },
    },
  });
  resource(scope, '/v1/plugins/:name', {
    GET: { run: (request) => administration.plugin(param(request, 'name')) },
    PUT: {
      bundle: true,
      query: BUNDLE_QUERY,
      run: (request) =>
        administration.upgrade(
          param(request, 'name'),
          bundleOf(request),
          actor(request),
          digestOf(request),
        ),
    },
    DELETE: {
      query: REMOVE_QUERY,
      run: async (request, reply) => {
        const { data } = request.query as { data: 'keep' | 'drop' };
        await administration.remove(param(request, 'name'), data === 'keep', actor(request));
        return reply.code(204).send();
      },
    },
  });
  resource(scope, '/v1/plugins/:name/enable', {
    POST: {
      run: (request) => administration.setEnabled(param(request, 'name'), true, actor(request)),
    },
  });
  resource(scope, '/v1/plugins/:name/disable', {
    POST: {
      run: (request) => administration.setEnabled(param(request, 'name'), false, actor(request)),
    },
  });
  resource(scope, '/v1/plugins/:name/rollback', {
    POST: { run: (request) => administration.rollback(param(request, 'name'), actor(request)) },
  });
  resource(scope, '/v1/plugins/:name/pin', {
    POST: {
      body: PIN,
      run: (request) => {
        const { version } = (request.body ?? {}) as { version?: string };
        return administration.pin(param(request, 'name'), version, actor(request));
      },
    },
  });
  resource(scope, '/v1/plugins/:name/unpin', {
    POST: { run: (request) => administration.unpin(param(request, 'name'), actor(request)) },
  });
  resource(scope, '/v1/plugins/:name/logs', {
    GET: {
      query: LOGS_QUERY,
      run: (request) => {
        const { name } = administration.plugin(param(request, 'name'));
        return logs(name, request.query as { since: number; limit: number });
      },
    },
  });
}

function grants(scope: FastifyInstance, administration: Administration): void {
  resource(scope, '/v1/grants', {
    GET: {
      query: GRANTS_QUERY,
      run: (request) => {
        const { plugin } = request.query as { plugin?: string };
        return { grants: administration.grants(plugin) };
      },
    },
    POST: {
      body: GRANT,
      run: async (request, reply) => {
        const grant = await administration.addGrant(request.body as GrantRequest, actor(request));
        return created(reply, `/v1/grants/${grant.id}`, grant);
      },
    },
  });
  const { advice } = administration;
  resource(scope, '/v1/grants/explain', {
    GET: {
      query: EXPLAIN_QUERY,
      run: (request) => advice.explain(request.query as Question),
    },
  });
  resource(scope, '/v1/grants/suggest', {
    GET: { query: PLUGIN_QUERY, run: (request) => advice.suggest(pluginOf(request)) },
  });
  resource(scope, '/v1/grants/diff', {
    GET: {
      query: PLUGIN_QUERY,
      run: (request) => ({ differences: advice.diff(pluginOf(request)) }),
    },
  });
  resource(scope, '/v1/grants/:id', {
    GET: { run: (request) => administration.grant(param(request, 'id')) },
    DELETE: { run: (request) => administration.revoke(param(request, 'id'), actor(request)) },
  });
  resource(scope, '/v1/grants/:id/approve', {
    POST: {
      body: APPROVAL,
      run: (request) => {
        const to = (request.body ?? {}) as { operations?: string[]; resources?: string[] };
        return administration.approve(param(request, 'id'), to, actor(request));
      },
    },
  });
}

function secrets(scope: FastifyInstance, kept: Secrets): void {
  resource(scope, '/v1/secrets', {
    GET: { run: async () => ({ secrets: await kept.list() }) },
  });
  resource(scope, '/v1/secrets/:name', {
    PUT: {
      body: SECRET,
      run: (request) => {
        const { value } = request.body as { value: string };
        return kept.set(param(request, 'name'), value, actor(request));
      },
    },
    DELETE: {
      run: async (request, reply) => {
        await kept.remove(param(request, 'name'), actor(request));
        return reply.code(204).send();
      },
    },
  });
}

function tokens(scope: FastifyInstance, { keys }: Administration): void {
  resource(scope, '/v1/tokens/keys', { GET: { run: () => ({ keys: keys.list() }) } });
  resource(scope, '/v1/tokens/rotate', { POST: { run: (request) => keys.rotate(actor(request)) } });
}

function audit(scope: FastifyInstance, administration: Administration): void {
  resource(scope, '/v1/audit', {
    GET: {
      query: AUDIT_QUERY,
      run: (request) => {
        const query = request.query as { cursor?: string; limit: number; plugin?: string };
        return administration.auditPage(query);
      },
    },
  });
  resource(scope, '/v1/audit/verify', { POST: { run: () => administration.verifyAudit() } });
}

function actor(request: FastifyRequest): string {
  return principalOf(request).subject;
}

function pluginOf(request: FastifyRequest): string {
  return (request.query as { plugin: string }).plugin;
}

/** The SHA-256, in hex, of the bundle that is meant. */
function digestOf(request: FastifyRequest): string | undefined {
  return (request.query as { digest?: string }).digest?.slice('sha256:'.length);
}

/** Part of the path. Throws INVALID_ARGUMENT for what nothing here is ever called. */
function param(request: FastifyRequest, name: 'name' | 'id'): string {
  const value = (request.params as { name: string; id: string })[name];
  if (/^[\w.-]+$/.test(value)) return value;
  const rule = `the path: ${name} holds letters, digits and . _ - alone`;
  throw new NoaError('INVALID_ARGUMENT', rule);
}

function created(reply: FastifyReply, location: string, value: object): object {
  void reply.code(201).header('location', location);
  return value;
}
