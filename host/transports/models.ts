/** The models of a host, for administrators. */
import type { JsonSchema } from '@noa/sdk/host';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Models, ModelView } from '../kernel/models.ts';
import { count, object, oneOf, page, text } from './answer-schema.ts';
import { PAGE_QUERY, pageOf, type PageQuery } from './paging.ts';
import { resource } from './resource.ts';

const tag = 'Models';
const MODEL = object<ModelView>(
  {
    id: text('Of an upstream, `group/model`.'),
    version: text(),
    task: oneOf(['embedding', 'generation', 'classification', 'rerank', 'tensor']),
    state: oneOf(['available', 'loading', 'ready', 'failed'], 'In the process that answers.'),
    backend: text('`local`, or the group of an upstream.'),
    description: text(),
    dimensions: count(),
    maxTokens: count('Of one text.'),
    licence: text(),
    device: text(),
    bytes: count('Memory that it takes when it is loaded.'),
    reason: text('Why it is `failed`.'),
  },
  {
    title: 'Model',
    optional: ['description', 'dimensions', 'maxTokens', 'licence', 'device', 'bytes', 'reason'],
  },
);
const NAMED: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['model'],
  properties: {
    model: { type: 'string', minLength: 1, maxLength: 128 },
    version: { type: 'string', minLength: 1, maxLength: 64 },
  },
};

interface Named {
  readonly model: string;
  readonly version?: string;
}

export function registerModels(scope: FastifyInstance, models: Models): void {
  resource(scope, '/v1/inference/models', {
    GET: {
      summary: 'List the models that plugins can be granted',
      description: 'By id: those of this host and those of its upstreams.',
      tag,
      scope: 'models:read',
      query: PAGE_QUERY,
      answers: { 200: page('models', MODEL) },
      run: async (request) => {
        const all = await models.list();
        const keyOf = ({ id, version }: ModelView): string => `${id}@${version}`;
        const sorted = all.toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
        const { items, next } = pageOf(sorted, keyOf, request.query as PageQuery);
        return { models: items, next };
      },
    },
  });
  const change = (
    summary: string,
    description: string,
    run: (named: Named, request: FastifyRequest) => Promise<ModelView>,
  ) => ({
    POST: {
      summary,
      description,
      tag,
      scope: 'models:write',
      body: NAMED,
      answers: { 200: MODEL },
      errors: ['NOT_FOUND', 'CONFLICT', 'RESOURCE_EXHAUSTED', 'UNAVAILABLE'] as const,
      run: (request: FastifyRequest) => run(request.body as Named, request),
    } as const,
  });
  resource(
    scope,
    '/v1/inference/models/load',
    change(
      'Load a model',
      'Before its first use, or once what was wrong with it is mended.',
      ({ model, version }, { exchange }) => models.load(model, version, exchange.signal),
    ),
  );
  resource(
    scope,
    '/v1/inference/models/unload',
    change('Give the memory of a model back', 'It is loaded again when it is asked for.', (named) =>
      models.unload(named.model, named.version),
    ),
  );
}
