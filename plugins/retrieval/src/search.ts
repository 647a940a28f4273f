/**
 * Search: by meaning, by words, or by both, with what was found told from its place in its document. Invariant:
 * a hit is a chunk that is there now, whatever the vectors still know.
 */
import { NoaError } from '@noa/sdk';
import {
  type Collection,
  type Ctx,
  findCollection,
  type Place,
  placeOf,
  pointOf,
  type Row,
  withVectors,
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
  const hits = await hitsOf(context, collection, ranked.slice(0, wanted));
  const best = input.rerank === undefined ? hits : await rerank(context, collection, input, hits);
  return { collection: collection.name, mode, hits: best.slice(0, limit) };
}

type Ranking = (
  context: Ctx,
  collection: Collection,
  input: SearchInput,
  limit: number,
) => Promise<Ranked[]>;

const dense: Ranking = async (context, collection, input, limit) => {
  const { name, model, dimensions } = collection;
  const { inference, vector } = context;
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
  const asked = {
    vector: wanted ?? [],
    limit,
    withPayload: false,
    ...(input.filter && { filter: input.filter }),
  };
  const { hits } = await withVectors(context, collection, (vectors) =>
    vector.search(vectors, asked),
  );
  return hits;
};

const sparse: Ranking = async (context, collection, { query = '', filter }, limit) => {
  const { index_id } = collection;
  const { db, vector } = context;
  const terms = queryTerms(query);
  if (terms.length === 0) return [];
  const [counts, [total]] = await Promise.all([
    db.query<{ term: number; chunks: number }>(
      'select term, chunks from terms where index_id = $1 and term = any($2::bigint[])',
      [index_id, `{${terms.join(',')}}`],
    ),
    db.query<{ chunks: number }>(
      "select coalesce(sum(chunks), 0)::int as chunks from documents where index_id = $1 and state <> 'deleting'",
      [index_id],
    ),
  ]);
  const chunksWith = new Map(counts.map(({ term, chunks }) => [term, chunks]));
  const wanted = queryVector(terms, chunksWith, total?.chunks ?? 0);
  if (wanted.indices.length === 0) return [];
  const asked = {
    sparse: { ...wanted, name: WORDS },
    limit,
    withPayload: false,
    ...(filter && { filter }),
  };
  const { hits } = await withVectors(context, collection, (vectors) =>
    vector.search(vectors, asked),
  );
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

async function hitsOf(
  { db }: Ctx,
  { index_id }: Collection,
  ranked: readonly Ranked[],
): Promise<Hit[]> {
  if (ranked.length === 0) return [];
  const places = ranked.map(({ id }) => placeOf(id));
  const rows = await db.query<Row & Place>(
    `select c.document, d.seq as version, c.seq, c.text, c.start_at, c.end_at, c.page, c.line, c.end_line, c.headings, d.title, d.source, d.metadata
       from jsonb_to_recordset($2::jsonb) as p (document text, version bigint, seq int)
       join chunks c on c.index_id = $1 and c.document = p.document and c.seq = p.seq
       join documents d on d.index_id = $1 and d.id = c.document and d.seq = p.version and d.state <> 'deleting'`,
    [index_id, JSON.stringify(places)],
  );
  const byPlace = new Map(rows.map((row) => [pointOf(row), row]));
  return ranked.flatMap(({ id, score }) => {
    const row = byPlace.get(id);
    return row === undefined ? [] : [hitOf(score, row)];
  });
}

function hitOf(score: number, row: Row & Place): Hit {
  const { document, seq, text, title, source, start_at, end_at, page, headings, metadata } = row;
  const { line, end_line } = row;
  const position = {
    start: start_at,
    end: end_at,
    headings,
    ...(page !== null && { page }),
    ...(line !== null && { lines: { from: line, to: end_line } }),
  };
  const id = `${document}#${seq}`;
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
