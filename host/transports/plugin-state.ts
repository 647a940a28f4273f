/**
 * What is kept beside an installed plugin, in the administration's REST form: how it fares, its
 * configuration, and the events that it failed to take.
 */
import { type Json, type JsonSchema, NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Configuration } from '../kernel/configuration.ts';
import type { DeadLetters } from '../kernel/dead-letters.ts';
import type { HealthView } from '../kernel/health.ts';
import { PLUGIN_PATH } from './admin-schemas.ts';
import { actorOf } from './identity.ts';
import { CONFIGURATION, DROPPED, LETTERS, PLUGIN_HEALTH, RETRIED } from './plugin-answers.ts';
import { resource } from './resource.ts';

export interface PluginStateOptions {
  readonly configuration: Configuration;
  readonly deadLetters: DeadLetters;
  /** Throws NOT_FOUND when no plugin has this name. */
  readonly health: (plugin: string) => HealthView;
}

/** What the settings may be, the plugin's schema judges. */
const SETTINGS: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    settings: { type: 'object' },
    version: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
  },
  required: ['settings'],
};

const LETTER: JsonSchema = { type: 'string', pattern: '^[0-9]{1,15}$', maxLength: 15 };

const LETTERS_QUERY: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    cursor: LETTER,
    limit: { type: 'integer', minimum: 1, maximum: 100, default: 100 },
  },
};

/** Without an id it is for all of them. */
const RETRY: JsonSchema = {
  type: ['object', 'null'],
  additionalProperties: false,
  properties: { id: LETTER },
};

const READ = { tag: 'Plugins', scope: 'plugins:read', path: PLUGIN_PATH } as const;
const WRITE = { tag: 'Plugins', scope: 'plugins:write', path: PLUGIN_PATH } as const;

/** The caller has seen to the credential and its scope. */
export function registerPluginState(
  scope: FastifyInstance,
  { configuration, deadLetters, health }: PluginStateOptions,
): void {
  resource(scope, '/v1/plugins/:name/health', {
    GET: {
      ...READ,
      summary: 'Show how a plugin fares in this host',
      answers: { 200: PLUGIN_HEALTH },
      run: (request) => health(pluginOf(request)),
    },
  });
  resource(scope, '/v1/plugins/:name/config', {
    GET: {
      ...READ,
      summary: "Show a plugin's configuration",
      answers: { 200: CONFIGURATION },
      run: (request) => configuration.view(pluginOf(request)),
    },
    PUT: {
      ...WRITE,
      summary: "Set a plugin's configuration",
      description:
        'As a whole; with a `version`, only while that is the present one. `{"$secret": "keep"}` keeps a secret value.',
      answers: { 200: CONFIGURATION },
      errors: ['CONFLICT'],
      body: SETTINGS,
      run: (request) => {
        const { settings, version } = request.body as { settings: Json; version?: number };
        return configuration.set(pluginOf(request), settings, version, actorOf(request));
      },
    },
  });
  resource(scope, '/v1/plugins/:name/dead-letters', {
    GET: {
      ...READ,
      summary: 'List the events that a plugin failed to take',
      description: 'Oldest first.',
      answers: { 200: LETTERS },
      query: LETTERS_QUERY,
      run: (request) => {
        const query = request.query as { cursor?: string; limit: number };
        return deadLetters.list(pluginOf(request), query);
      },
    },
    DELETE: {
      ...WRITE,
      summary: 'Drop all events that a plugin failed to take',
      answers: { 200: DROPPED },
      run: async (request) => {
        return { dropped: await deadLetters.drop(pluginOf(request), undefined, actorOf(request)) };
      },
    },
  });
  resource(scope, '/v1/plugins/:name/dead-letters/retry', {
    POST: {
      ...WRITE,
      summary: 'Deliver dead letters again',
      description: 'The one of this id, or all in order, at most 100 at once.',
      answers: { 200: RETRIED },
      errors: ['GRANT_PENDING', 'PLUGIN_DISABLED'],
      body: RETRY,
      run: (request) => {
        const { id } = (request.body ?? {}) as { id?: string };
        return deadLetters.retry(pluginOf(request), id, actorOf(request), request.exchange.signal);
      },
    },
  });
  resource(scope, '/v1/plugins/:name/dead-letters/:id', {
    DELETE: {
      ...WRITE,
      summary: 'Drop a dead letter',
      path: { ...PLUGIN_PATH, id: { ...LETTER, description: 'Id of the letter.' } },
      answers: { 200: DROPPED },
      run: async (request) => {
        const { id } = request.params as { id: string };
        if (!/^[0-9]{1,15}$/.test(id)) {
          throw new NoaError('INVALID_ARGUMENT', 'id: a dead letter has a whole number as its id');
        }
        return { dropped: await deadLetters.drop(pluginOf(request), id, actorOf(request)) };
      },
    },
  });
}

function pluginOf(request: FastifyRequest): string {
  return (request.params as { name: string }).name;
}
