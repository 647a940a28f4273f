/** Plugins in the administration's REST form: install, upgrade, govern, read their logs. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Administration } from '../kernel/administration.ts';
import {
  BUNDLE_QUERY,
  LOGS_QUERY,
  PIN,
  PLUGIN_PATH as path,
  REMOVE_QUERY,
} from './admin-schemas.ts';
import { bundleOf } from './body.ts';
import { actorOf, nameIn } from './identity.ts';
import { PAGE_QUERY, pageOf, type PageQuery } from './paging.ts';
import { LOGS, PLUGIN, PLUGIN_DETAIL, PLUGINS } from './plugin-answers.ts';
import { created, resource } from './resource.ts';

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

export interface PluginAdminOptions {
  readonly administration: Administration;
  readonly logs: ReadLogs;
}

const READ = { tag: 'Plugins', scope: 'plugins:read' } as const;
const WRITE = { tag: 'Plugins', scope: 'plugins:write' } as const;

export function registerPlugins(scope: FastifyInstance, options: PluginAdminOptions): void {
  const { administration, logs } = options;
  resource(scope, '/v1/plugins', {
    GET: {
      ...READ,
      summary: 'List the plugins',
      description: 'By name.',
      query: PAGE_QUERY,
      answers: { 200: PLUGINS },
      run: (request) => {
        const all = administration.plugins();
        const { items, next } = pageOf(all, ({ name }) => name, request.query as PageQuery);
        return { plugins: items, next };
      },
    },
    POST: {
      ...WRITE,
      summary: 'Install a plugin',
      description: 'It asks for grants and gets none: they are decided under Grants.',
      bundle: true,
      query: BUNDLE_QUERY,
      answers: { 201: PLUGIN },
      errors: ['CONFLICT'],
      run: async (request, reply) => {
        const bundle = bundleOf(request);
        const view = await administration.install(bundle, actorOf(request), digestOf(request));
        return created(reply, `/v1/plugins/${view.name}`, view);
      },
    },
  });
  resource(scope, '/v1/plugins/:name', {
    GET: {
      ...READ,
      summary: 'Show a plugin',
      path,
      answers: { 200: PLUGIN_DETAIL },
      run: (request) => administration.plugin(nameIn(request, 'name')),
    },
    PUT: {
      ...WRITE,
      summary: 'Upgrade a plugin',
      description:
        'A version that asks for more than is granted waits as the candidate while the present one serves.',
      path,
      bundle: true,
      query: BUNDLE_QUERY,
      answers: { 200: PLUGIN },
      errors: ['CONFLICT'],
      run: (request) =>
        administration.upgrade(
          nameIn(request, 'name'),
          bundleOf(request),
          actorOf(request),
          digestOf(request),
        ),
    },
    DELETE: {
      ...WRITE,
      summary: 'Remove a plugin',
      path,
      query: REMOVE_QUERY,
      answers: { 204: null },
      run: async (request, reply) => {
        const { data } = request.query as { data: 'keep' | 'drop' };
        await administration.remove(nameIn(request, 'name'), data === 'keep', actorOf(request));
        return reply.code(204).send();
      },
    },
  });
  registerGovernance(scope, administration);
  resource(scope, '/v1/plugins/:name/logs', {
    GET: {
      ...READ,
      summary: "Read a plugin's log",
      description: 'The kept lines after `since`, oldest first.',
      path,
      query: LOGS_QUERY,
      answers: { 200: LOGS },
      run: (request) => {
        const { name } = administration.plugin(nameIn(request, 'name'));
        return logs(name, request.query as { since: number; limit: number });
      },
    },
  });
}

/** What changes the state or the version of an installed plugin. */
function registerGovernance(scope: FastifyInstance, administration: Administration): void {
  const common = { ...WRITE, path, answers: { 200: PLUGIN } };
  resource(scope, '/v1/plugins/:name/enable', {
    POST: {
      ...common,
      summary: 'Enable a plugin',
      run: (request) => administration.setEnabled(nameIn(request, 'name'), true, actorOf(request)),
    },
  });
  resource(scope, '/v1/plugins/:name/disable', {
    POST: {
      ...common,
      summary: 'Disable a plugin',
      run: (request) => administration.setEnabled(nameIn(request, 'name'), false, actorOf(request)),
    },
  });
  resource(scope, '/v1/plugins/:name/rollback', {
    POST: {
      ...common,
      summary: 'Return a plugin to the version before',
      errors: ['CONFLICT'],
      run: (request) => administration.rollback(nameIn(request, 'name'), actorOf(request)),
    },
  });
  resource(scope, '/v1/plugins/:name/pin', {
    POST: {
      ...common,
      summary: 'Pin a plugin to the version that serves',
      description: 'Until it is unpinned no upgrade, rollback or approval changes its version.',
      body: PIN,
      errors: ['CONFLICT'],
      run: (request) => {
        const { version } = (request.body ?? {}) as { version?: string };
        return administration.pin(nameIn(request, 'name'), version, actorOf(request));
      },
    },
  });
  resource(scope, '/v1/plugins/:name/unpin', {
    POST: {
      ...common,
      summary: 'Unpin a plugin',
      run: (request) => administration.unpin(nameIn(request, 'name'), actorOf(request)),
    },
  });
}

/** The SHA-256, in hex, of the bundle that is meant. */
function digestOf(request: FastifyRequest): string | undefined {
  return (request.query as { digest?: string }).digest?.slice('sha256:'.length);
}
