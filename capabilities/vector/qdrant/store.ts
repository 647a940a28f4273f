/**
 * Points in Qdrant (https://qdrant.tech). Invariant: what a caller gets is what the embedded store answers,
 * but that a vector of a cosine comes back with the length of one, as Qdrant keeps it.
 */
import type { Schemas } from '@qdrant/js-client-rest';
import {
  assertAnswers,
  assertFits,
  type Form,
  type NewPoint,
  type Rows,
  type VectorStore,
} from '../store.ts';
import { QdrantCollections } from './collections.ts';
import { conditionsOf } from './conditions.ts';
import { QdrantConnection, type QdrantEndpoint } from './connection.ts';
import { foundOf, keptOf, pointOf, rowsOf, uuidOf, WITH_PAYLOAD } from './points.ts';

/** Of one request: making its JSON stops all else for as long as it takes. */
const MAX_FLOATS = 65_536;
const MAX_TEXT = 1 << 20;
/** Candidates of a search in the graph: recall over speed. */
const MIN_EF = 128;

export function openQdrantStore(endpoint: QdrantEndpoint): VectorStore {
  const server = new QdrantConnection(endpoint);
  const collections = new QdrantCollections(server);
  return {
    system: 'qdrant',
    list: (space) => collections.list(space),
    describe: (space, name) => collections.describe(space, name),
    create: (space, name, form) => collections.create(space, name, form),
    drop: (space, name) => collections.drop(space, name),
    alias: (space, alias, name) => collections.alias(space, alias, name),
    unalias: (space, alias) => collections.unalias(space, alias),
    dropSpace: (space) => collections.dropSpace(space),

    upsert: (space, name, points, rows) =>
      collections.use(space, name, async (collection_name, form) => {
        assertFits(form, points, rows);
        for (const batch of batchesOf(form, points, rows)) {
          await server.ask((api, init) =>
            api.upsertPoints({ collection_name, wait: true, points: batch }, init),
          );
        }
      }),

    search: (space, name, query) =>
      collections.use(space, name, async (collection_name, form) => {
        assertAnswers(form, query);
        const { vector, sparse, filter, limit, offset, withVectors, minScore = -Infinity } = query;
        if (sparse?.indices.length === 0)
          return { points: [], ...(withVectors && rowsOf(form, [])) };
        const using = vector?.name ?? sparse?.name ?? '';
        const { points } = await server.ask((api, init) =>
          api.queryPoints(
            {
              collection_name,
              query:
                vector === undefined
                  ? { indices: [...(sparse?.indices ?? [])], values: [...(sparse?.values ?? [])] }
                  : Array.from(vector.values),
              using,
              limit,
              offset,
              with_payload: WITH_PAYLOAD,
              with_vector: withVectors ? Object.keys(form.vectors) : false,
              ...(vector && { params: { hnsw_ef: Math.max(MIN_EF, limit + offset) } }),
              ...(filter && { filter: conditionsOf(filter) }),
            },
            init,
          ),
        );
        const isApart = form.vectors[using]?.distance === 'euclidean'; // there, less is better
        const scored = points.map((point) => ({
          point,
          score: isApart ? 0 - point.score : point.score,
        }));
        const good = scored.filter(
          ({ score }) => score >= minScore && (vector !== undefined || score !== 0),
        );
        const hits = good.map(({ point, score }) => ({ ...foundOf(point), score }));
        return {
          points: hits,
          ...(withVectors &&
            rowsOf(
              form,
              good.map(({ point }) => point),
            )),
        };
      }),

    scroll: (space, name, { filter, limit, after, withVectors }) =>
      collections.use(space, name, async (collection_name, form) => {
        // From the last point on, which may be gone by now, and with one more to see whether there is one.
        const { points: read } = await server.ask((api, init) =>
          api.scrollPoints(
            {
              collection_name,
              limit: after === undefined ? limit + 1 : limit + 2,
              with_payload: WITH_PAYLOAD,
              with_vector: withVectors ? Object.keys(form.vectors) : false,
              ...(after !== undefined && { offset: uuidOf(after) }),
              ...(filter && { filter: conditionsOf(filter) }),
            },
            init,
          ),
        );
        const found = read.map((point) => ({ point, found: foundOf(point) }));
        const rest = found[0]?.found.id === after ? found.slice(1) : found;
        const page = rest.slice(0, limit);
        return {
          points: page.map((each) => each.found),
          next: rest.length > limit ? (page.at(-1)?.found.id ?? null) : null,
          ...(withVectors &&
            rowsOf(
              form,
              page.map(({ point }) => point),
            )),
        };
      }),

    delete: (space, name, which) =>
      collections.use(space, name, async (collection_name) => {
        if ('filter' in which) {
          const filter = conditionsOf(which.filter);
          const { count } = await server.ask((api, init) =>
            api.countPoints({ collection_name, filter, exact: true }, init),
          );
          await server.ask((api, init) =>
            api.deletePoints({ collection_name, wait: true, filter }, init),
          );
          return count;
        }
        const ids = which.ids.map(uuidOf);
        const there = await server.ask((api, init) =>
          api.getPoints({ collection_name, ids, with_payload: false, with_vector: false }, init),
        );
        await server.ask((api, init) =>
          api.deletePoints({ collection_name, wait: true, points: ids }, init),
        );
        return there.length;
      }),

    check: () => server.check(),
    close: () => {
      server.close();
      return Promise.resolve();
    },
  };
}

/** Points in requests of a size that is quick to make. */
function* batchesOf(
  form: Form,
  points: readonly NewPoint[],
  rows: Rows,
): Generator<Schemas['PointStruct'][]> {
  const width = Object.values(form.vectors).reduce((sum, { dimensions }) => sum + dimensions, 0);
  const most = Math.max(1, Math.floor(MAX_FLOATS / Math.max(1, width)));
  let batch: Schemas['PointStruct'][] = [];
  let text = 0;
  for (const [i, point] of points.entries()) {
    const kept = keptOf(point.id, point.payload);
    text += kept.payload.length;
    const row = (name: string, dimensions: number): Float32Array =>
      rows[name]?.subarray(i * dimensions, (i + 1) * dimensions) ?? new Float32Array();
    batch.push(pointOf(form, point, kept, row));
    if (batch.length < most && text < MAX_TEXT) continue;
    yield batch;
    batch = [];
    text = 0;
  }
  if (batch.length > 0) yield batch;
}
