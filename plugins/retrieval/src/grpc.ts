/** noa.api.v1.RetrievalService: a query, and in `metadata_json` whatever else /v1/search takes. */
import { NoaError } from '@noa/sdk';
import type { Ctx } from './context.ts';
import type { RetrieveInput, SearchInput } from './noa.gen.ts';
import { search } from './search.ts';

const MODES = ['dense', 'sparse', 'hybrid'] as const;

export async function retrieve(
  input: RetrieveInput,
  context: Ctx,
): Promise<{ [name: string]: unknown }> {
  const { query, protocol = '', metadata = {} } = input;
  if (typeof metadata !== 'object' || metadata === null || Array.isArray(metadata)) {
    throw wrong('metadata_json: must be the text of a JSON object');
  }
  const {
    collection,
    limit = 10,
    filter,
    rerank,
    mode = protocol === '' ? undefined : protocol,
  } = metadata;
  if (typeof collection !== 'string') throw wrong('metadata_json: collection is required');
  if (typeof query !== 'string' || query === '') throw wrong('query: is required');
  const known = MODES.find((each) => each === mode);
  if (mode !== undefined && known === undefined)
    throw wrong('protocol: is dense, sparse or hybrid');
  if (typeof limit !== 'number' || !Number.isInteger(limit) || limit < 1 || limit > 100) {
    throw wrong('metadata_json: limit is a whole number from 1 to 100');
  }
  const isObject = typeof filter === 'object' && filter !== null && !Array.isArray(filter);
  if (filter !== undefined && !isObject) throw wrong('metadata_json: filter is an object');
  if (rerank !== undefined && typeof rerank !== 'boolean' && typeof rerank !== 'string') {
    throw wrong('metadata_json: rerank is true or the id of a model');
  }
  const asked: SearchInput = {
    collection,
    query,
    limit,
    ...(known && { mode: known }),
    ...(isObject && { filter }),
    ...(rerank !== undefined && { rerank }),
  };
  const found = await search(asked, context);
  return {
    status: 'ok',
    routed_plan: `${found.mode} search in ${collection}`,
    hits: found.hits.map(({ id, score, text, source, document, title, position, payload }) => ({
      id,
      score,
      text,
      source: source ?? '',
      payload: { ...payload, document, title, position },
    })),
  };
}

function wrong(text: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', text);
}
