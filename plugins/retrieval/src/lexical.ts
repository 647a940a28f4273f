/**
 * Words as sparse vectors, and their ranking by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
 * Framework", 2009). A chunk's vector holds the part of the score that is its own, a query's the weight of each
 * term in the collection, so that their product is the score. Terms are named by 32 bits of a hash: of 100,000
 * terms about one in 40,000 shares its name with another, which costs that term some precision and nothing else.
 */
export interface SparseVector {
  readonly indices: number[];
  readonly values: number[];
}

const K1 = 1.2;
const B = 0.75;
/**
 * The length that counts as usual, in words. A mean of what is there would change with each document, and every
 * vector with it.
 */
const USUAL_WORDS = 120;

/** Runs of letters and digits, in small letters. */
export function termsOf(text: string): string[] {
  return (
    text
      .normalize('NFKC')
      .toLowerCase()
      .match(/[\p{L}\p{N}]+/gu) ?? []
  );
}

/** FNV-1a, 32 bits, of the UTF-16 units. */
export function indexOf(term: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < term.length; i += 1) {
    hash = Math.imul(hash ^ term.charCodeAt(i), 0x01000193);
  }
  return hash >>> 0;
}

/** A chunk's part of BM25, for each of its terms; those of the headings above it count as its own. */
export function chunkVector(text: string, headings: readonly string[] = []): SparseVector {
  const terms = [...headings, text].flatMap(termsOf);
  const counts = new Map<number, number>();
  for (const term of terms) {
    const index = indexOf(term);
    counts.set(index, (counts.get(index) ?? 0) + 1);
  }
  const length = K1 * (1 - B + (B * terms.length) / USUAL_WORDS);
  const entries = [...counts].toSorted(([a], [b]) => a - b);
  return {
    indices: entries.map(([index]) => index),
    values: entries.map(([, count]) => (count * (K1 + 1)) / (count + length)),
  };
}

/** A query's part: how much each of its terms tells, by the number of chunks in which it stands. */
export function queryVector(
  indices: readonly number[],
  chunksWith: ReadonlyMap<number, number>,
  chunks: number,
): SparseVector {
  const known = indices.filter((index) => (chunksWith.get(index) ?? 0) > 0);
  return {
    indices: known,
    values: known.map((index) => {
      const having = Math.min(chunks, chunksWith.get(index) ?? 0);
      return Math.log(1 + (chunks - having + 0.5) / (having + 0.5));
    }),
  };
}

/** The terms of a query, each once. */
export function queryTerms(query: string): number[] {
  return [...new Set(termsOf(query).map(indexOf))].toSorted((a, b) => a - b);
}

export interface Ranked {
  readonly id: string;
  readonly score: number;
}

/** How much the cosine counts beside BM25, whose best is 1; measured by test/bench/retrieval.bench.ts. */
const COSINE_WEIGHT = 1.5;

/**
 * Both rankings as one, best first: BM25 as a part of its best, and the cosine. A point that one of them did
 * not find has nothing of BM25, and the least cosine that was found, which is the most that it can have.
 */
export function fuse(dense: readonly Ranked[], sparse: readonly Ranked[]): Ranked[] {
  const best = Math.max(0, ...sparse.map(({ score }) => score)) || 1;
  const least = Math.min(1, ...dense.map(({ score }) => score));
  const cosines = new Map(dense.map(({ id, score }) => [id, score]));
  const words = new Map(sparse.map(({ id, score }) => [id, score / best]));
  return [...new Set([...cosines.keys(), ...words.keys()])]
    .map((id) => {
      const score = (words.get(id) ?? 0) + COSINE_WEIGHT * (cosines.get(id) ?? least);
      return { id, score: score / (1 + COSINE_WEIGHT) };
    })
    .toSorted((a, b) => b.score - a.score);
}
