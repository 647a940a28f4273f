/** What is kept beside an installed plugin, in the administration's REST form: its configuration. */
import type { Json, JsonSchema } from '@noa/sdk/host';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Configuration } from '../kernel/configuration.ts';
import { principalOf } from './identity.ts';
import { resource } from './resource.ts';

export interface PluginStateOptions {
  readonly configuration: Configuration;
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

/** The caller has seen to the scope `admin`. */
export function registerPluginState(
  scope: FastifyInstance,
  { configuration }: PluginStateOptions,
): void {
  resource(scope, '/v1/plugins/:name/config', {
    GET: { run: (request) => configuration.view(pluginOf(request)) },
    PUT: {
      body: SETTINGS,
      run: (request) => {
        const { settings, version } = request.body as { settings: Json; version?: number };
        return configuration.set(pluginOf(request), settings, version, actorOf(request));
      },
    },
  });
}

function pluginOf(request: FastifyRequest): string {
  return (request.params as { name: string }).name;
}

function actorOf(request: FastifyRequest): string {
  return principalOf(request).subject;
}
