/**
 * Search: by meaning, by words, or by both, with what was found told from its place in its document. Invariant:
 * a hit is a chunk that is there now, whatever the vectors still know.
 */
import { NoaError } from '@noa/sdk';
import {
  type Collection,
  type Ctx,
  findCollection,
  placeOf,
  pointOf,
  type Row,
  vectorsOf,
  WORDS,
} from './context.ts';
import { fuse, queryTerms, queryVector, type Ranked } from './lexical.ts';
import type { SearchInput, SearchOutput } from './noa.gen.ts';

/** Found by each of the two rankings, for each hit that is wanted, and at least. */
const CANDIDATES_PER_HIT = 4;
const MIN_CANDIDATES = 200;
const MAX_CANDIDATES = 1000;
/** Of the best, so many are ranked again. */
const RERANKED = 50;

export type Hit = SearchOutput['hits'][number];

export async function search(input: SearchInput, context: Ctx): Promise<SearchOutput> {
  const { query, vector, limit = 10, mode = vector === undefined ? 'hybrid' : 'dense' } = input;
  if ((query === undefined) === (vector === undefined)) {
    throw new NoaError('INVALID_ARGUMENT', 'send one of query and vector');
  }
  if (vector !== undefined && (mode !== 'dense' || input.rerank !== undefined)) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      'mode: a vector is searched for by "dense", and without rerank',
    );
  }
  const collection = await findCollection(context, input.collection);
  const wanted = input.rerank === undefined ? limit : Math.max(limit, RERANKED);
  const ranked = await RANKINGS[mode](context, collection, input, wanted);
  const hits = await hitsOf(context, collection.name, ranked.slice(0, wanted));
  const best = input.rerank === undefined ? hits : await rerank(context, collection, input, hits);
  return { collection: collection.name, mode, hits: best.slice(0, limit) };
}

type Ranking = (
  context: Ctx,
  collection: Collection,
  input: SearchInput,
  limit: number,
) => Promise<Ranked[]>;

const dense: Ranking = async ({ inference, vector }, { name, model, dimensions }, input, limit) => {
  let wanted: Float32Array | undefined;
  if (input.vector !== undefined) {
    if (input.vector.length !== dimensions) {
      const text = `vector: has ${input.vector.length} dimensions, and ${name} has ${dimensions}`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    wanted = Float32Array.from(input.vector);
  } else {
    const { vectors } = await inference.embed(model, [input.query ?? '']);
    [wanted] = vectors;
  }
  const { hits } = await vector.search(vectorsOf(name), {
    vector: wanted ?? [],
    limit,
    withPayload: false,
    ...(input.filter && { filter: input.filter }),
  });
  return hits;
};

const sparse: Ranking = async ({ db, vector }, { name }, { query = '', filter }, limit) => {
  const terms = queryTerms(query);
  if (terms.length === 0) return [];
  const [counts, [total]] = await Promise.all([
    db.query<{ term: number; chunks: number }>(
      'select term, chunks from terms where collection = $1 and term = any($2::bigint[])',
      [name, `{${terms.join(',')}}`],
    ),
    db.query<{ chunks: number }>(
      'select coalesce(sum(chunks), 0)::int as chunks from documents where collection = $1',
      [name],
    ),
  ]);
  const chunksWith = new Map(counts.map(({ term, chunks }) => [term, chunks]));
  const wanted = queryVector(terms, chunksWith, total?.chunks ?? 0);
  if (wanted.indices.length === 0) return [];
  const { hits } = await vector.search(vectorsOf(name), {
    sparse: { ...wanted, name: WORDS },
    limit,
    withPayload: false,
    ...(filter && { filter }),
  });
  return hits;
};

const RANKINGS: { readonly [mode in NonNullable<SearchInput['mode']>]: Ranking } = {
  dense,
  sparse,
  async hybrid(context, collection, input, limit) {
    const most = Math.min(MAX_CANDIDATES, Math.max(MIN_CANDIDATES, limit * CANDIDATES_PER_HIT));
    const [meant, said] = await Promise.all([
      dense(context, collection, input, most),
      sparse(context, collection, input, most),
    ]);
    return fuse(meant, said).slice(0, limit);
  },
};

async function hitsOf({ db }: Ctx, collection: string, ranked: readonly Ranked[]): Promise<Hit[]> {
  if (ranked.length === 0) return [];
  const places = ranked.map(({ id }) => placeOf(id));
  const rows = await db.query<Row & { document: string; seq: number }>(
    `select c.document, c.seq, c.text, c.start_at, c.end_at, c.page, c.headings, d.title, d.source, d.metadata
       from jsonb_to_recordset($2::jsonb) as p (document text, seq int)
       join chunks c on c.collection = $1 and c.document = p.document and c.seq = p.seq
       join documents d on d.collection = $1 and d.id = c.document and d.state <> 'deleting'`,
    [collection, JSON.stringify(places)],
  );
  const byPlace = new Map(rows.map((row) => [pointOf(row.document, row.seq), row]));
  return ranked.flatMap(({ id, score }) => {
    const row = byPlace.get(id);
    return row === undefined ? [] : [hitOf(id, score, row)];
  });
}

function hitOf(id: string, score: number, row: Row): Hit {
  const { document, text, title, source, start_at, end_at, page, headings, metadata } = row;
  const position = { start: start_at, end: end_at, headings, ...(page !== null && { page }) };
  return { id, score, text, document, title, source, position, payload: metadata } as Hit;
}

async function rerank(
  { inference }: Ctx,
  { model: own }: Collection,
  { query = '', rerank: wish }: SearchInput,
  hits: readonly Hit[],
): Promise<Hit[]> {
  if (hits.length === 0 || wish === false) return [...hits];
  const model = typeof wish === 'string' ? wish : own;
  const { scores } = await inference.rerank(
    model,
    query,
    hits.map(({ text }) => text),
  );
  return hits
    .map((hit, i) => ({ ...hit, score: scores[i] ?? 0 }))
    .toSorted((a, b) => b.score - a.score);
}
