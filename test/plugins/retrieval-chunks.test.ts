/** How documents are cut: what holds for every document, and where cuts are made. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { type Chunk, chunk, type CountTokens } from '../../plugins/retrieval/src/chunks.ts';
import { type ParsedDocument, Writer } from '../../plugins/retrieval/src/documents/document.ts';
import { parseMarkdown, parsePlain } from '../../plugins/retrieval/src/documents/plain.ts';
import { estimate } from '../../plugins/retrieval/src/tokens.ts';
import { ownText, partsOf, Restorer } from '../../plugins/retrieval/src/parts.ts';

t.setTimeout(120_000);

const countWith =
  (tokensOf: (text: string) => number): CountTokens =>
  async (texts) =>
    texts.map(tokensOf);
const wordsOf = (text: string): number => text.match(/\S+/g)?.length ?? 0;
const words = countWith(wordsOf);
const markdown = (source: string, tokens: number, overlap = 0): Promise<Chunk[]> =>
  chunk(parseMarkdown(source), words, { tokens, overlap });
const textsOf = (chunks: readonly Chunk[]): string[] => chunks.map(({ text }) => text);
const sentences = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, i) => `Sentence ${from + i} is here.`).join(' ');

/** Paged documents of all kinds of blocks. */
const documents: fc.Arbitrary<ParsedDocument> = fc
  .array(
    fc.record({
      kind: fc.constantFrom('heading', 'paragraph', 'code', 'list', 'table'),
      content: fc
        .array(
          fc.oneof(
            fc.string({ unit: 'grapheme', maxLength: 40 }),
            fc.constantFrom('A short sentence. ', 'word ', '\n', '\n  ', '😀😀😀', '。', 'e\u0301'),
          ),
          { maxLength: 40 },
        )
        .map((parts) => parts.join('')),
      level: fc.integer({ min: 1, max: 6 }),
      turns: fc.boolean(),
      line: fc.nat(500),
      far: fc.boolean(),
    }),
    { maxLength: 12 },
  )
  .map((blocks) => {
    const writer = new Writer();
    let page = 1;
    for (const { kind, content, level, turns, line, far } of blocks) {
      page += turns ? 1 : 0;
      writer.page(page);
      writer.block(kind, content, {
        level,
        ...(line > 0 && { line }),
        ...(far && { endLine: line + 99 }),
      });
    }
    return writer.done();
  });
const sizes = fc
  .record({ tokens: fc.integer({ min: 16, max: 200 }), overlap: fc.nat(100) })
  .filter(({ tokens, overlap }) => overlap < tokens);
/** Models whose tokens are words, single characters, and something between. */
const counters = fc.constantFrom<(text: string) => number>(
  wordsOf,
  (text) => text.length,
  (text) => Math.ceil(text.length / 4),
);

t.test('whatever the document: chunks cover it, tell their places, and are bounded', async () => {
  await fc.assert(
    fc.asyncProperty(documents, sizes, counters, async (document, size, tokensOf) => {
      const chunks = await chunk(document, countWith(tokensOf), size);
      let covered = 0;
      for (const [i, { text, start, end, headings, page }] of chunks.entries()) {
        const before = chunks[i - 1];
        if (text !== document.text.slice(start, end) || text !== text.trim() || text === '')
          throw new Error(`chunk ${i} is not its place in the text`);
        if (!text.isWellFormed()) throw new Error(`chunk ${i} begins or ends in a character`);
        if (before !== undefined && (start < before.start || end <= before.end))
          throw new Error(`chunk ${i} goes back`);
        if (document.text.slice(covered, start).trim() !== '') throw new Error('a gap');
        const common = document.text.slice(start, covered);
        if (tokensOf(common.trim()) > size.overlap)
          throw new Error(`too much in common: ${common}`);
        if (tokensOf(text) > size.tokens) throw new Error(`${tokensOf(text)} tokens`);
        const fresh = Math.max(covered, start);
        const at = fresh + document.text.slice(fresh).search(/\S/);
        const block = document.blocks.find((each) => each.start <= at && at < each.end);
        if (page !== block?.page || headings !== block?.headings)
          throw new Error(`chunk ${i} is not where it says`);
        covered = end;
      }
      return document.text.slice(covered).trim() === '';
    }),
    { numRuns: 1000 },
  );
});

t.test('whatever the document: from its chunks it is put together again', async (t) => {
  await fc.assert(
    fc.asyncProperty(documents, sizes, counters, async (document, size, tokensOf) => {
      const chunks = await chunk(document, countWith(tokensOf), size);
      const parts = [...partsOf(document, chunks)];
      const restorer = new Restorer();
      let text = '';
      for (const part of parts) {
        text += ownText(part, text.length);
        // As a database gives it back.
        restorer.add(JSON.parse(JSON.stringify(part)) as (typeof parts)[number]);
      }
      const { text: whole, blocks } = restorer.done();
      assert.equal(text, document.text);
      assert.deepEqual({ text: whole, blocks }, { text: document.text, blocks: document.blocks });
    }),
    { numRuns: 500 },
  );
  t.pass();
});

t.test('chunks tell their lines in what was sent', async (t) => {
  const source = [
    '---',
    'title: x',
    '---',
    '# Top',
    '',
    'One is here. Two is',
    'here now. Three is',
    'here.',
    '',
    '',
    '- item one',
    '- item two',
    '',
    '```',
    'code a',
    'code b',
    '```',
    '',
    'Under',
    '=====',
    'last',
  ];
  const lines = async (parse: typeof parsePlain, text: string) =>
    (await chunk(parse(text), words, { tokens: 4, overlap: 0 })).map((each) => [
      each.text,
      each.lines?.from,
      each.lines?.to,
    ]);
  t.same(await lines(parseMarkdown, source.join('\n')), [
    ['Top\n\nOne is here.', 4, 6],
    ['Two is\nhere now.', 6, 7],
    ['Three is\nhere.', 7, 8],
    ['- item one', 11, 11],
    ['- item two', 12, 12],
    ['```\ncode a', 14, 15],
    ['code b\n```', 16, 17],
    ['Under\n\nlast', 19, 21],
  ]);
  t.same(await lines(parsePlain, '\n\n\n a b\nc d\n \n\ne'), [
    ['a b\nc d', 4, 5],
    ['e', 8, 8],
  ]);
});

t.test('the same document is cut the same way', async () => {
  await fc.assert(
    fc.asyncProperty(documents, sizes, async (document, size) => {
      const [one, other] = [await chunk(document, words, size), await chunk(document, words, size)];
      return JSON.stringify(one) === JSON.stringify(other);
    }),
  );
});

t.test('sentences are kept whole, and the overlap is of whole sentences', async (t) => {
  t.same(textsOf(await markdown(sentences(0, 10), 16, 5)), [
    sentences(0, 4),
    sentences(3, 7),
    sentences(6, 10),
  ]);
  t.same(textsOf(await markdown(sentences(0, 8), 18)), [sentences(0, 4), sentences(4, 8)]);
});

t.test('a section begins a chunk, and small sections share one', async (t) => {
  const source = `# A\n\n${sentences(0, 3)}\n\n# B\n\n${sentences(3, 6)}`;
  t.same(textsOf(await markdown(source, 20, 10)), [
    `A\n\n${sentences(0, 3)}`,
    `B\n\n${sentences(3, 6)}`,
  ]);
  t.same(textsOf(await markdown('# A\n\nOne.\n\n## B\n\nTwo.\n\n## C\n\nThree.', 40)), [
    'A\n\nOne.\n\nB\n\nTwo.\n\nC\n\nThree.',
  ]);
});

t.test('a heading goes with what is below it, and both with their path', async (t) => {
  const chunks = await markdown(
    `# A\n\n${sentences(0, 1)}\n\n## B\n\n### C\n\n${sentences(1, 5)}`,
    20,
  );
  t.same(
    chunks.map(({ text, headings }) => [text, headings.join(' > ')]),
    [
      [`A\n\n${sentences(0, 1)}`, 'A'],
      [`B\n\nC\n\n${sentences(1, 5)}`, 'A > B'],
    ],
  );
});

t.test('code and tables are kept whole where they fit, and else cut between lines', async (t) => {
  const code = (lines: number): string =>
    ['```js', ...Array.from({ length: lines }, (_, i) => `call number ${i};`), '```'].join('\n');
  const [before, small, after] = await markdown(
    `${sentences(0, 3)}\n\n${code(5)}\n\n${sentences(3, 6)}`,
    20,
  );
  t.same(
    [before, small, after].map((each) => each?.text),
    [sentences(0, 3), code(5), sentences(3, 6)],
  );
  const cut = await markdown(code(40), 20);
  t.ok(cut.length > 4 && cut.length < 12, `${cut.length} chunks`);
  for (const { text } of cut) t.match(text, /^(```js\n)?(call number \d+;\n?)+(```)?$/);
  const rows = Array.from({ length: 20 }, (_, i) => `| row ${i} | value |`);
  for (const { text } of await markdown(rows.join('\n'), 24)) t.match(text, /^(\| row .*\|\n?)+$/);
});

t.test('a sentence that is too long is cut at spaces, a word in itself', async (t) => {
  const long = Array.from({ length: 100 }, (_, i) => `word${i}`).join(' ');
  const parts = textsOf(await markdown(long, 16));
  t.equal(parts.join(' '), long);
  const word = '😀'.repeat(500);
  const letters = await chunk(
    parsePlain(word),
    countWith((text) => text.length),
    { tokens: 17, overlap: 0 },
  );
  t.equal(textsOf(letters).join(''), word);
  t.ok(textsOf(letters).every((text) => text.isWellFormed()));
});

t.test(
  'no text is longer than a model is asked about, and hostile ones take no time',
  async (t) => {
    const n = 2_000_000;
    const sources: { readonly [what: string]: string } = {
      'one word': 'x'.repeat(n),
      'one sentence': 'word '.repeat(n / 5),
      'spaces between two words': `a${' '.repeat(n)}b`,
      'spaces after each word': `a.${' '.repeat(2000)}`.repeat(n / 2000),
      'one line of code': `\`\`\`\n${'f(x);'.repeat(n / 5)}\n\`\`\``,
      'empty lines of code': `\`\`\`\n${'\n'.repeat(n)}a\n\`\`\``,
      'many lines': '- a\n'.repeat(n / 4),
      'many headings': '# a\n'.repeat(n / 20),
    };
    for (const [what, source] of Object.entries(sources)) {
      let longest = 0;
      const count: CountTokens = async (texts) =>
        texts.map((text) => {
          longest = Math.max(longest, text.length);
          return Math.ceil(text.length / 5);
        });
      const document = parseMarkdown(source);
      const began = performance.now();
      const chunks = await chunk(document, count, { tokens: 2048, overlap: 1024 });
      const took = performance.now() - began;
      longest = Math.max(longest, ...chunks.map(({ text }) => text.length));
      t.ok(longest <= 65_536, `${what}: a text of ${longest} characters`);
      t.ok(took < 10_000, `${what}: ${Math.round(took)} ms`);
    }
  },
);

t.test('a large text is cut in slices: others have the thread in between', async (t) => {
  const document = parsePlain('A sentence that is one of very many. '.repeat(200_000));
  let turns = 0;
  const others = setInterval(() => (turns += 1), 1);
  await chunk(document, words, { tokens: 120, overlap: 20 });
  clearInterval(others);
  t.ok(turns >= 4, `${turns} turns`);
});

t.test('where a model does not tell its tokens they are estimated, rather too many', (t) => {
  t.equal(estimate('The quick, brown fox.'), 8);
  t.equal(estimate('  \n '), 0);
  t.equal(estimate('知识 привет 12345'), 2 + 3 + 2);
  t.end();
});

t.test('what has no text has no chunks', async (t) => {
  t.same(await markdown(' \n\n\t', 16), []);
});
