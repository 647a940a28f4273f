/** Words as sparse vectors: their product is BM25, and both rankings together are one. */
import fc from 'fast-check';
import t from 'tap';
import {
  chunkVector,
  fuse,
  indexOf,
  queryTerms,
  queryVector,
  termsOf,
} from '../../plugins/retrieval/src/lexical.ts';

const word = fc.constantFrom('cat', 'dog', 'fish', 'bird', 'Über', 'naïve', '2024', 'x');
const text = fc.array(word, { minLength: 1, maxLength: 40 }).map((words) => words.join(' '));

t.test('terms are runs of letters and digits, case and form aside', (t) => {
  t.same(termsOf('The cat-5 cable: ÜBER ﬁne, naïve_x 日本'), [
    'the',
    'cat',
    '5',
    'cable',
    'über',
    'fine',
    'naïve',
    'x',
    '日本',
  ]);
  t.same(termsOf(' -- !? '), []);
  t.same(
    queryTerms('b a B a'),
    [indexOf('a'), indexOf('b')].toSorted((a, b) => a - b),
  );
  t.end();
});

t.test('an index is 32 bits, and few of many terms share one', (t) => {
  const terms = Array.from({ length: 50_000 }, (_, n) => `term${n}`);
  const indices = terms.map(indexOf);
  t.ok(indices.every((index) => Number.isInteger(index) && index >= 0 && index < 2 ** 32));
  t.ok(terms.length - new Set(indices).size <= 5);
  t.end();
});

t.test('the product of a chunk and a query is BM25 with k1 1.2 and b 0.75', (t) => {
  fc.assert(
    fc.property(fc.array(text, { minLength: 2, maxLength: 8 }), text, (chunks, query) => {
      const chunksWith = new Map<number, number>();
      const vectors = chunks.map((each) => chunkVector(each));
      for (const { indices } of vectors) {
        for (const index of indices) chunksWith.set(index, (chunksWith.get(index) ?? 0) + 1);
      }
      const asked = queryVector(queryTerms(query), chunksWith, chunks.length);
      for (const [i, { indices, values }] of vectors.entries()) {
        const own = new Map(indices.map((index, at) => [index, values[at] ?? 0]));
        const product = asked.indices.reduce(
          (sum, index, at) => sum + (own.get(index) ?? 0) * (asked.values[at] ?? 0),
          0,
        );
        const terms = termsOf(chunks[i] ?? '');
        let expected = 0;
        for (const term of new Set(termsOf(query))) {
          const having = chunks.filter((each) => termsOf(each).includes(term)).length;
          const count = terms.filter((each) => each === term).length;
          const idf = Math.log(1 + (chunks.length - having + 0.5) / (having + 0.5));
          const part = count + 1.2 * (0.25 + (0.75 * terms.length) / 120);
          expected += having === 0 ? 0 : (idf * count * 2.2) / part;
        }
        if (Math.abs(product - expected) > 1e-9) throw new Error(`${product} is not ${expected}`);
      }
    }),
  );
  t.end();
});

t.test('vectors have rising indices, each once, and words of headings count', (t) => {
  fc.assert(
    fc.property(text, (given) => {
      const { indices, values } = chunkVector(given);
      const rises = indices.every((index, i) => i === 0 || index > (indices[i - 1] ?? 0));
      if (!rises || values.some((value) => !(value > 0 && value < 2.2))) throw new Error(given);
    }),
  );
  t.ok(chunkVector('body', ['Heading']).indices.includes(indexOf('heading')));
  t.same(queryVector([indexOf('nowhere')], new Map(), 10), { indices: [], values: [] });
  t.end();
});

t.test('both rankings are one: the best words and the cosine, whoever found it', (t) => {
  const dense = [
    { id: 'a', score: 0.9 },
    { id: 'b', score: 0.5 },
  ];
  const sparse = [
    { id: 'b', score: 12 },
    { id: 'c', score: 6 },
  ];
  const ranked = fuse(dense, sparse);
  t.same(
    ranked.map(({ id }) => id),
    ['b', 'a', 'c'],
  );
  const score = (id: string) => ranked.find((each) => each.id === id)?.score ?? 0;
  t.ok(Math.abs(score('b') - (1 + 1.5 * 0.5) / 2.5) < 1e-9);
  t.ok(Math.abs(score('a') - (1.5 * 0.9) / 2.5) < 1e-9);
  t.ok(Math.abs(score('c') - (0.5 + 1.5 * 0.5) / 2.5) < 1e-9, 'the least cosine that was found');
  t.same(fuse([], []), []);
  t.same(
    fuse([], sparse).map(({ id }) => id),
    ['b', 'c'],
  );
  t.end();
});
