/**
 * A collection indexed anew while it is used, through a whole host: one model is the host's own, the other is of an
 * upstream that holds its answers back, so that what happens in the middle does happen there.
 */
import { createServer } from 'node:http';
import { readdir } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { type Answer, eventually, RunningHost } from '../e2e/running-host.ts';

t.setTimeout(300_000);

/** Eight numbers that tell of a text's letters. What holds "poison" cannot be embedded. */
const upstream = { open: true, waiting: [] as (() => void)[], texts: 0 };
const vectorOf = (text: string): number[] => {
  const letters = [...text.toLowerCase()].map((letter) => letter.charCodeAt(0) % 8);
  return Array.from({ length: 8 }, (_, i) => 0.01 + letters.filter((each) => each === i).length);
};
const server = createServer((request, response) => {
  let sent = '';
  request.setEncoding('utf8').on('data', (part: string) => (sent += part));
  request.on('end', () => {
    const say = (status: number, body: object) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    if (request.url === '/v1/models') {
      return say(200, { object: 'list', data: [{ id: 'eight', object: 'model' }] });
    }
    const { input } = JSON.parse(sent) as { input: string | string[] };
    const texts = [input].flat();
    const isAboutSize = texts.some((text) => text.startsWith('How long are'));
    const answer = (): void => {
      upstream.texts += texts.length;
      if (texts.some((text) => text.includes('poison'))) {
        return say(400, {
          error: { message: 'this text is not taken', type: 'invalid_request_error' },
        });
      }
      const data = texts.map((text, index) => ({
        object: 'embedding',
        index,
        embedding: vectorOf(text),
      }));
      return say(200, {
        object: 'list',
        model: 'eight',
        data,
        usage: { prompt_tokens: 1, total_tokens: 1 },
      });
    };
    if (upstream.open || isAboutSize) return answer();
    return void upstream.waiting.push(answer);
  });
});
const letGo = (): void => {
  upstream.open = true;
  for (const answer of upstream.waiting.splice(0)) answer();
};
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;

const host = await RunningHost.start({
  env: {
    NOA_PLUGINS__BUILTIN: 'retrieval',
    NOA_INFERENCE__UPSTREAMS: JSON.stringify([{ name: 'up', members: [{ url }] }]),
  },
});
t.teardown(async () => {
  letGo();
  await host.dispose();
  server.closeAllConnections();
  server.close();
});

const add = (collection: string, id: string, text: string) =>
  host.post('/v1/documents', { collection, id, text, source: `${id}.txt` });
const remove = (collection: string, id: string) =>
  host.request('DELETE', `/v1/documents/${id}?collection=${collection}`);
const read = (collection: string) => host.get(`/v1/collections/${collection}`);
const search = (collection: string, query: string, more: object = {}) =>
  host.post('/v1/search', { collection, query, limit: 100, ...more });
const hits = ({ body }: Answer) =>
  body['hits'] as {
    document: string;
    text: string;
    position: { start: number; end: number; lines: { from: number; to: number } };
  }[];
const documentsOf = (answer: Answer) =>
  [...new Set(hits(answer).map(({ document }) => document))].toSorted();
/** What the host does now and then by itself. */
const goOn = () => host.call('retrieval', 'resume', {});
const isDone = async (collection: string): Promise<boolean> => {
  await goOn();
  return (await read(collection)).body['reindex'] === null;
};
const about = (what: string): string =>
  Array.from(
    { length: 6 },
    (_, i) => `The ${what} number ${i} was seen on day ${i} by its keeper.`,
  ).join('\n\n');
const chunking = { tokens: 24, overlap: 4 };

t.test(
  'a collection answers while it is indexed anew, and what changes meanwhile is not lost',
  async (t) => {
    await host.post('/v1/collections', { name: 'zoo', chunking });
    const animals = ['ant', 'bee', 'cow', 'dog', 'elk', 'fox', 'gnu', 'hen', 'ibis', 'jay'];
    for (const each of animals) t.equal((await add('zoo', each, about(each))).status, 201);
    const made = (await host.get('/v1/documents/elk?collection=zoo')).body;

    upstream.open = false;
    const wish = { model: 'up/eight', chunking: { tokens: 64, overlap: 8 } };
    t.match(await host.post('/v1/collections/zoo/reindex', wish), {
      status: 202,
      body: {
        model: 'use-lite',
        reindex: { state: 'building', model: 'up/eight', dimensions: 8, documents: 0 },
      },
    });
    t.match(await host.post('/v1/collections/zoo/reindex', wish), {
      status: 409,
      body: { code: 'CONFLICT', detail: /is indexed anew already/ },
    });
    let isOver = false;
    const failures: unknown[] = [];
    const searching = (async () => {
      while (!isOver) {
        for (const mode of ['dense', 'sparse', 'hybrid']) {
          const answer = await search('zoo', 'the elk and its keeper', { mode });
          if (answer.status !== 200 || !documentsOf(answer).includes('elk')) failures.push(answer);
        }
        await sleep(5);
      }
    })();
    const working = goOn();
    await eventually('the first are being embedded', async () => upstream.waiting.length > 0);
    // In the middle: one more, one anew, one gone, one gone and there again.
    t.equal((await add('zoo', 'yak', about('yak'))).status, 201);
    t.equal((await add('zoo', 'bee', about('wasp'))).status, 201);
    t.equal((await remove('zoo', 'cow')).status, 204);
    t.equal((await remove('zoo', 'ant')).status, 204);
    t.equal((await add('zoo', 'ant', about('termite'))).status, 201);
    t.match((await read('zoo')).body, { documents: 10, reindex: { state: 'building' } });
    letGo();
    // And while it goes on.
    const more = Array.from({ length: 12 }, (_, i) => `late${i}`);
    const adding = (async () => {
      for (const each of more) {
        t.equal((await add('zoo', each, about(each))).status, 201);
        if (each === 'late5') t.equal((await remove('zoo', 'late2')).status, 204);
      }
    })();
    await working;
    await adding;
    await eventually('it is done', () => isDone('zoo'));
    isOver = true;
    await searching;
    t.same(failures, [], 'each search was answered from the one or the other');

    const all = [...animals, 'yak', ...more]
      .filter((each) => !['cow', 'late2'].includes(each))
      .toSorted();
    const after = await read('zoo');
    t.match(after.body, {
      model: 'up/eight',
      dimensions: 8,
      chunking: { tokens: 64, overlap: 8 },
      documents: all.length,
      reindex: null,
    });
    for (const mode of ['dense', 'sparse', 'hybrid']) {
      t.same(documentsOf(await search('zoo', 'keeper', { mode })), all, mode);
    }
    t.match(
      hits(await search('zoo', 'wasp', { mode: 'sparse' })).map(({ document }) => document),
      ['bee'],
    );
    t.match(
      hits(await search('zoo', 'termite', { mode: 'sparse' })).map(({ document }) => document),
      ['ant'],
    );
    for (const gone of ['cow', 'late2']) {
      t.same(hits(await search('zoo', gone, { mode: 'sparse' })), []);
    }
    t.ok(
      hits(await search('zoo', 'keeper')).some(({ text }) => text.length > 120),
      'chunks are larger',
    );
    const { source, created_at } = made;
    t.match((await host.get('/v1/documents/elk?collection=zoo')).body, { source, created_at });

    const embedded = upstream.texts;
    t.match(await add('zoo', 'fox', about('fox')), { status: 201, body: { state: 'ready' } });
    t.equal(upstream.texts, embedded, 'what was sent before the change is still known');
  },
);

t.test('an attempt that cannot succeed is given up, and what answers goes on', async (t) => {
  await host.post('/v1/collections', { name: 'pharmacy', chunking });
  await add('pharmacy', 'good', about('herb'));
  await add('pharmacy', 'bad', 'Beware of the poison in this one.');
  t.equal((await host.post('/v1/collections/pharmacy/reindex', { model: 'up/eight' })).status, 202);
  await goOn();
  const { body } = await read('pharmacy');
  t.match(body, {
    model: 'use-lite',
    documents: 2,
    reindex: { state: 'failed', error: /not taken/ },
  });
  t.same(documentsOf(await search('pharmacy', 'poison herb')), ['bad', 'good']);
  await remove('pharmacy', 'bad');
  t.equal((await host.post('/v1/collections/pharmacy/reindex', { model: 'up/eight' })).status, 202);
  await eventually('it is done', () => isDone('pharmacy'));
  t.match((await read('pharmacy')).body, { model: 'up/eight', documents: 1 });

  t.match(await host.post('/v1/collections/pharmacy/reindex', { model: 'none' }), { status: 404 });
  t.match(await host.post('/v1/collections/none/reindex', {}), { status: 404 });
  t.match(
    await host.post('/v1/collections/pharmacy/reindex', { chunking: { tokens: 20, overlap: 15 } }),
    {
      status: 400,
      body: { detail: /half/ },
    },
  );
});

t.test('one that is ended leaves nothing', async (t) => {
  const folders = async () =>
    (await readdir(join(host.dataPath, 'vectors'), { recursive: true })).length;
  await host.post('/v1/collections', { name: 'ended', chunking });
  await add('ended', 'a', about('ape'));
  await goOn();
  const before = await folders();
  upstream.open = false;
  t.equal((await host.post('/v1/collections/ended/reindex', { model: 'up/eight' })).status, 202);
  const working = goOn();
  await eventually('it has begun', async () => upstream.waiting.length > 0);
  t.equal((await host.request('DELETE', '/v1/collections/ended/reindex')).status, 204);
  letGo();
  await working;
  t.match((await read('ended')).body, { model: 'use-lite', reindex: null });
  t.same(documentsOf(await search('ended', 'ape')), ['a']);
  await eventually('its vectors are gone', async () => (await folders()) <= before);
  t.pass('its vectors are gone');
});

t.test(
  'whatever is written and deleted while it goes on, the collection has in the end',
  async (t) => {
    await host.post('/v1/collections', { name: 'busy', chunking });
    const ids = ['a', 'b', 'c', 'd', 'e', 'f'];
    const kept = new Map<string, string>();
    let isOver = false;
    const writing = ids.map(async (id, place) => {
      for (let n = 0; !isOver; n += 1) {
        // Each in a rhythm of its own.
        if (n % (place + 2) === place) {
          const { status } = await remove('busy', id);
          t.ok(status === 204 || (status === 404 && !kept.has(id)));
          kept.delete(id);
        } else {
          const text = `Word${place}x${n} is what ${id} says.`;
          t.equal((await add('busy', id, text)).status, 201);
          kept.set(id, text);
        }
        await sleep(place);
      }
    });
    for (const model of ['up/eight', 'use-lite', 'up/eight']) {
      t.equal((await host.post('/v1/collections/busy/reindex', { model })).status, 202);
      await eventually('it is done', () => isDone('busy'));
      t.match((await read('busy')).body, { model });
    }
    isOver = true;
    await Promise.all(writing);
    await eventually('all are ready', async () => {
      await goOn();
      const { body } = await host.get('/v1/documents?collection=busy');
      return (body['documents'] as { state: string }[]).every(({ state }) => state === 'ready');
    });
    for (const mode of ['dense', 'sparse']) {
      const found = hits(await search('busy', 'says', { mode }));
      t.same(new Map(found.map(({ document, text }) => [document, text])), kept, mode);
      t.equal(found.length, kept.size, mode);
    }
  },
);

t.test('a host that is killed in the middle goes on when it is back', async (t) => {
  await host.post('/v1/collections', { name: 'killed', chunking });
  const ids = Array.from({ length: 9 }, (_, i) => `animal${i}`);
  for (const id of ids) await add('killed', id, about(id));
  upstream.open = false;
  t.equal((await host.post('/v1/collections/killed/reindex', { model: 'up/eight' })).status, 202);
  const working = goOn().catch(() => undefined); // its host is killed
  await eventually('it has begun', async () => upstream.waiting.length > 0);
  letGo();
  await eventually('some are there', async () => {
    const { reindex } = (await read('killed')).body as { reindex: { documents: number } | null };
    return reindex === null || reindex.documents > 0;
  });
  await host.kill();
  await working;
  await host.start();
  t.same(
    documentsOf(await search('killed', 'keeper', { mode: 'sparse' })),
    ids,
    'it answers at once',
  );
  await eventually('it is done', () => isDone('killed'), 120_000);
  t.match((await read('killed')).body, { model: 'up/eight', documents: 9 });
  t.same(documentsOf(await search('killed', 'keeper', { mode: 'dense' })), ids);
});

t.test('the text of a document can be read, and places of hits are places in it', async (t) => {
  const large = { model: 'up/eight', chunking: { tokens: 512, overlap: 64 } };
  await host.post('/v1/collections', { name: 'texts', ...large });
  const markdown = Array.from(
    { length: 4000 },
    (_, i) => `## Part ${i}\n\nOf *animal* ${i} 😀 it is said  that it\nsleeps on day ${i}.`,
  ).join('\n\n');
  t.equal(
    (await host.post('/v1/documents', { collection: 'texts', id: 'long', markdown })).status,
    201,
  );
  let whole = '';
  let pages = 0;
  for (let next: string | null = '0'; next !== null; pages += 1) {
    const { status, body } = await host.get(
      `/v1/documents/long/text?collection=texts&cursor=${next}`,
    );
    t.match({ status, start: body['start'] }, { status: 200, start: whole.length });
    whole += body['text'] as string;
    next = body['next'] as string | null;
  }
  t.ok(pages > 1);
  t.match(
    whole,
    /^Part 0\n\nOf \*animal\* 0 😀 it is said {2}that it\nsleeps on day 0\.\n\nPart 1\n\n/,
  );
  t.match(whole, /sleeps on day 3999\.$/);
  const found = hits(await search('texts', 'animal 577', { mode: 'sparse', limit: 5 }));
  t.match(found[0]?.text, /animal\* 577 /);
  const source = markdown.split('\n');
  for (const { text, position } of found) {
    t.equal(whole.slice(position.start, position.end), text);
    const lines = text.split('\n');
    t.match(source[position.lines.from - 1], lines[0]);
    t.match(source[position.lines.to - 1], lines.at(-1));
  }
  t.match(await host.get('/v1/documents/none/text?collection=texts'), { status: 404 });
  t.match(await host.get('/v1/documents/long/text?collection=texts&cursor=x'), { status: 400 });
});
