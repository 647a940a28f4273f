/** What hostile and hasty callers do to the plugin `retrieval`, through a whole host with its real parts. */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { type Answer, eventually, RunningHost } from '../e2e/running-host.ts';

t.setTimeout(300_000);

const host = await RunningHost.start({ env: { NOA_PLUGINS__BUILTIN: 'retrieval' } });
t.teardown(() => host.dispose());

const chunking = { tokens: 24, overlap: 4 };
const make = (name: string) => host.post('/v1/collections', { name, chunking });
const add = (body: object) => host.post('/v1/documents', body);
const search = (body: object) => host.post('/v1/search', body);
const read = (collection: string, id: string) =>
  host.get(`/v1/documents/${encodeURIComponent(id)}?collection=${collection}`);
const remove = (collection: string, id: string) =>
  host.request('DELETE', `/v1/documents/${encodeURIComponent(id)}?collection=${collection}`);
const hits = ({ body }: Answer) => body['hits'] as { id: string; document: string; text: string }[];

/** One chunk a sentence. */
const about = (what: string, sentences: number): string =>
  Array.from(
    { length: sentences },
    (_, i) => `The ${what} number ${i} was seen on day ${i} by the ${what} keeper.`,
  ).join('\n\n');

const begun = (collection: string, id: string) =>
  eventually('it has begun', async () => {
    const { status, body } = await read(collection, id);
    return status === 200 && Number(body['embedded']) > 0;
  });

/** No rule of the database, no name of ours for vectors, no path, no stack. */
const INNER = /sqlstate|constraint|_pkey|db:|points:|"i\d+"|\/tmp\/|node_modules|\n\s+at /;

t.test('what one engine would keep and another not find again is refused by name', async (t) => {
  await make('names');
  t.equal(
    (await add({ collection: 'names', id: 'good', text: 'hello to all of you' })).status,
    201,
  );
  const text = 'hello there';
  for (const [body, detail] of [
    [{ id: 'x\uD800' }, /^id: holds half of a character/],
    [{ id: 'x\0' }, /^id: holds a NUL/],
    [{ id: '..' }, /^id: /],
    [{ title: '\0' }, /^title: holds a NUL/],
    [{ source: 'a\uDC00' }, /^source: holds half/],
    [{ metadata: { a: [{ b: 'x\0' }] } }, /^metadata\/a\/0\/b: holds a NUL/],
    [{ metadata: { 'a\uD83D': 1 } }, /^metadata: a name: holds half/],
  ] as const) {
    const answer = await add({ collection: 'names', text, ...body });
    t.match(answer, { status: 400, body: { detail } });
    t.notMatch(JSON.stringify(answer.body), INNER);
  }
  const content = { mediaType: 'text/plain', base64: 'aGVs*bG8=' };
  t.match(await add({ collection: 'names', content }), { status: 400, body: { detail: /base64/ } });
  for (const path of [
    '/v1/collections?cursor=%00',
    '/v1/collections/a%00b',
    '/v1/documents/%00?collection=names',
    '/v1/documents?collection=%00',
  ]) {
    const answer = await host.get(path);
    t.ok([400, 404].includes(answer.status), path);
    t.notMatch(JSON.stringify(answer.body), INNER, path);
  }
  const found = await search({ collection: 'names', query: 'hello' });
  t.match(found.status, 200, 'and the collection can be searched');
  t.same(
    hits(found).map(({ document }) => document),
    ['good'],
  );
});

t.test('metadata that no point can carry are refused before anything is kept', async (t) => {
  await make('heavy');
  t.equal((await add({ collection: 'heavy', id: 'a', text: 'the first version' })).status, 201);
  const metadata = { a: 'x'.repeat(100_000) };
  const answer = await add({ collection: 'heavy', id: 'a', text: 'the second version', metadata });
  t.match(answer, { status: 400, body: { detail: /^metadata: has 100008 bytes/ } });
  t.match((await read('heavy', 'a')).body, { state: 'ready' });
  t.match(hits(await search({ collection: 'heavy', query: 'version' })), [{ text: /first/ }]);
});

t.test('the same document many times at once is one document', async (t) => {
  await make('same');
  const body = { collection: 'same', id: 'one', text: about('fox', 30) };
  const answers = await Promise.all(Array.from({ length: 8 }, () => add(body)));
  t.same([...new Set(answers.map(({ status }) => status))], [201], 'and nobody is refused');
  await eventually(
    'it is ready',
    async () => (await read('same', 'one')).body['state'] === 'ready',
  );
  const found = await search({ collection: 'same', query: 'fox', limit: 100, mode: 'dense' });
  t.equal(hits(found).length, 30);
});

t.test(
  'of many versions of a document at once one is there whole, and nothing of others',
  async (t) => {
    await make('versions');
    const words = ['cat', 'dog', 'cow', 'hen', 'owl', 'elk'];
    for (let round = 0; round < 3; round += 1) {
      const answers = await Promise.all(
        words.map((word, i) =>
          add({
            collection: 'versions',
            id: 'v',
            text: about(`${word}${round}`, 90 - 10 * i),
            metadata: { word },
          }),
        ),
      );
      t.same([...new Set(answers.map(({ status }) => status))], [201]);
      await eventually(
        'ready',
        async () => (await read('versions', 'v')).body['state'] === 'ready',
      );
      const { body } = await read('versions', 'v');
      const kept = (body['metadata'] as { word: string }).word;
      for (const mode of ['dense', 'sparse']) {
        for (const word of words) {
          const filter = { field: 'metadata.word', eq: word };
          const asked = { collection: 'versions', query: 'keeper', mode, filter, limit: 100 };
          const found = hits(await search(asked));
          t.equal(found.length, word === kept ? body['chunks'] : 0, `${mode} ${word} of ${kept}`);
          t.ok(
            found.every(({ text }) => text.includes(kept + round)),
            'each hit is of its words',
          );
        }
      }
    }
    // Words are counted right: what is deleted leaves nothing to weigh by.
    t.equal((await remove('versions', 'v')).status, 204);
    await add({ collection: 'versions', id: 'w', text: about('yak', 3) });
    t.equal(
      hits(await search({ collection: 'versions', query: 'keeper', mode: 'sparse' })).length,
      3,
    );
  },
);

t.test(
  'what is deleted while it is embedded leaves nothing that takes the place of hits',
  async (t) => {
    await make('deleted');
    await add({ collection: 'deleted', id: 'stays', text: about('emu', 12) });
    for (let round = 0; round < 3; round += 1) {
      const adding = add({ collection: 'deleted', id: 'goes', text: about('yak', 900) });
      await begun('deleted', 'goes');
      t.equal((await remove('deleted', 'goes')).status, 204);
      t.match(await search({ collection: 'deleted', query: 'yak', limit: 10 }), { status: 200 });
      t.match(await adding, { status: 409, body: { detail: /was deleted meanwhile/ } });
      for (const mode of ['dense', 'sparse', 'hybrid']) {
        const asked = { collection: 'deleted', query: 'yak keeper day', limit: 10, mode };
        const found = hits(await search(asked));
        t.equal(found.length, 10, mode);
        t.ok(
          found.every(({ document }) => document === 'stays'),
          mode,
        );
      }
    }
    t.match((await host.get('/v1/collections/deleted')).body, { documents: 1, chunks: 12 });
    const again = await add({ collection: 'deleted', id: 'goes', text: about('ibis', 5) });
    t.match(again, { status: 201, body: { state: 'ready', chunks: 5 } });
    const ibises = await search({ collection: 'deleted', query: 'ibis', mode: 'sparse' });
    t.equal(hits(ibises).length, 5, 'the same id can be added again at once');
  },
);

t.test(
  'a collection that goes in the middle is told of by its name, and can be made anew',
  async (t) => {
    await make('gone');
    const adding = add({ collection: 'gone', id: 'a', text: about('gnu', 900) });
    await begun('gone', 'a');
    const searching = Array.from({ length: 8 }, () => search({ collection: 'gone', query: 'gnu' }));
    t.equal((await host.request('DELETE', '/v1/collections/gone')).status, 204);
    for (const answer of [await adding, ...(await Promise.all(searching))]) {
      if (answer.status === 200) continue;
      // The one when it is gone, the other while it goes.
      t.ok([404, 503].includes(answer.status));
      t.match(answer.body['detail'], /there is no "gone"|the vectors of gone are not here/);
      t.notMatch(JSON.stringify(answer.body), INNER);
    }
    t.equal((await make('gone')).status, 201);
    await sleep(500);
    t.match((await host.get('/v1/collections/gone')).body, { documents: 0, chunks: 0 });
    await add({ collection: 'gone', id: 'b', text: about('emu', 12) });
    t.equal(hits(await search({ collection: 'gone', query: 'emu', limit: 10 })).length, 10);
  },
);

t.test(
  're-ingest of many documents with the same words at once ends, and loses none',
  async (t) => {
    await make('crowd');
    const answers = await Promise.all(
      Array.from({ length: 48 }, (_, i) =>
        add({ collection: 'crowd', id: `d${i % 12}`, text: about(`ant${i}`, 20) }),
      ),
    );
    t.same([...new Set(answers.map(({ status }) => status))], [201]);
    for (let i = 0; i < 12; i += 1) {
      await eventually(
        'ready',
        async () => (await read('crowd', `d${i}`)).body['state'] === 'ready',
      );
      const filter = { field: 'document', eq: `d${i}` };
      const asked = { collection: 'crowd', query: 'keeper', limit: 100, filter };
      t.equal(hits(await search({ ...asked, mode: 'dense' })).length, 20);
      t.equal(hits(await search({ ...asked, mode: 'sparse' })).length, 20);
    }
  },
);

t.test('an answer from short lines, or from one long, has something in it', async (t) => {
  await make('short');
  await add({ collection: 'short', id: 'a', text: 'Tea: hot.' });
  const { body } = await host.post('/v1/rag/answer', { collection: 'short', question: 'tea?' });
  t.match(body, { method: 'extractive', answer: 'Tea: hot. [1]' });
});
