/** The plugin `retrieval` through a whole host, with the real embedder, database and vectors. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { eventually, RunningHost } from '../e2e/running-host.ts';
import { Conformance, type OpenApiDocument } from '../transports/conformance.ts';
import { GrpcClient, headers } from '../transports/grpc-front.ts';
import { lint } from '../transports/lint.ts';
import { SseClient, until } from '../transports/sse.ts';
import { pdfBomb, pdfOf } from './pdf.ts';

t.setTimeout(300_000);

/** A chat model that says what it was asked, piece by piece, with a citation. */
const upstream = { asked: [] as { messages: { role: string; content: string }[] }[] };
const server = createServer((request, response) => {
  if (request.url === '/v1/models') {
    response.setHeader('content-type', 'application/json');
    return void response.end(
      JSON.stringify({ object: 'list', data: [{ id: 'writer', object: 'model' }] }),
    );
  }
  let text = '';
  request.setEncoding('utf8').on('data', (part: string) => (text += part));
  request.on('end', () => {
    upstream.asked.push(JSON.parse(text) as (typeof upstream.asked)[number]);
    response.setHeader('content-type', 'text/event-stream');
    const say = (delta: object, finish_reason: string | null = null) =>
      response.write(
        `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason }] })}\n\n`,
      );
    say({ role: 'assistant', content: 'Four ' });
    say({ content: 'legs [1].' });
    say({}, 'stop');
    response.end('data: [DONE]\n\n');
  });
  return undefined;
});
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => {
  server.closeAllConnections();
  server.close();
});
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;

const host = await RunningHost.start({
  env: {
    NOA_PLUGINS__BUILTIN: 'retrieval',
    NOA_INFERENCE__TIMEOUT_MS: '30000',
    NOA_INFERENCE__UPSTREAMS: JSON.stringify([{ name: 'up', members: [{ url }] }]),
  },
});
t.teardown(() => host.dispose());

const document = (await (
  await fetch(new URL('/openapi.json', host.url))
).json()) as OpenApiDocument;
const conformance = new Conformance(document);

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}
const ask = async (
  method: string,
  path: string,
  body?: unknown,
  type = 'application/json',
): Promise<Answer> => {
  const answer = await fetch(new URL(path, host.url), {
    method,
    headers: {
      authorization: `Bearer ${host.token}`,
      ...(body === undefined ? {} : { 'content-type': type }),
    },
    ...(body === undefined
      ? {}
      : { body: Buffer.isBuffer(body) || typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await answer.text();
  const { status, headers: told } = answer;
  const fault = conformance.fault(method, path, { status, headers: told, text });
  if (fault !== undefined) throw new Error(`${method} ${path} ${status}: ${JSON.stringify(fault)}`);
  return { status, body: text === '' ? {} : (JSON.parse(text) as Answer['body']) };
};
const add = (body: object) => ask('POST', '/v1/documents', { collection: 'animals', ...body });
const search = (body: object) => ask('POST', '/v1/search', { collection: 'animals', ...body });
const texts = ({ body }: Answer) => (body['hits'] as { text: string }[]).map(({ text }) => text);
const sources = ({ body }: Answer) =>
  (body['hits'] as { source: string }[]).map(({ source }) => source);
const remove = (id: string, collection = 'animals') =>
  ask('DELETE', `/v1/documents/${id}?collection=${collection}`);

const CATS = `# Cats

Intro of the book.

## Sleep

A kitten sleeps for most of the day. It dreams too.

## Food

Cats eat mice, and fish when they can get it.

\`\`\`sh
feed --cat tom
\`\`\`
`;
const DOGS =
  '<html><head><title>Dogs</title><script>alert("evil()")</script></head><body><h1>Dogs &amp; more</h1><p>A dog has four legs and barks at strangers.</p><ul><li>bones<li>balls</ul><p style="display:none">secret words</p></body></html>';

t.test('collections are made, listed and read', async (t) => {
  t.strictSame(await lint(document), [], 'two linters of others find nothing in the reference');
  const made = await ask('POST', '/v1/collections', {
    name: 'animals',
    description: 'All of them',
    chunking: { tokens: 24, overlap: 4 },
  });
  t.match(made, {
    status: 201,
    body: { name: 'animals', model: 'use-lite', dimensions: 512, documents: 0 },
  });
  t.match(await ask('POST', '/v1/collections', { name: 'animals' }), {
    status: 409,
    body: { detail: /is there already/ },
  });
  t.match(await ask('POST', '/v1/collections', { name: 'Bad Name' }), { status: 400 });
  t.match(
    await ask('POST', '/v1/collections', { name: 'x', chunking: { tokens: 20, overlap: 15 } }),
    { status: 400, body: { detail: /half/ } },
  );
  t.match(await ask('POST', '/v1/collections', { name: 'x', model: 'none' }), {
    status: 404,
    body: { detail: /there is no "none"/ },
  });
  t.equal((await ask('POST', '/v1/collections', { name: 'plants' })).status, 201);
  const first = await ask('GET', '/v1/collections?limit=1');
  t.match(first.body, { collections: [{ name: 'animals' }], next: 'animals' });
  t.match((await ask('GET', '/v1/collections?limit=1&cursor=animals')).body, {
    collections: [{ name: 'plants' }],
    next: null,
  });
  t.match(await ask('GET', '/v1/collections/none'), {
    status: 404,
    body: { detail: /there is animals, plants/ },
  });
});

t.test('text, Markdown, HTML and PDF become chunks that can be found', async (t) => {
  const markdown = await add({
    markdown: CATS,
    source: 'cats.md',
    metadata: { lang: 'en', year: 2020 },
  });
  t.match(markdown, {
    status: 201,
    body: { title: 'Cats', state: 'ready', media_type: 'text/markdown' },
  });
  t.equal(markdown.body['chunks'], markdown.body['embedded']);
  const html = await ask(
    'POST',
    '/v1/documents?collection=animals&source=dogs.html',
    DOGS,
    'text/html; charset=utf-8',
  );
  t.match(html, { status: 201, body: { title: 'Dogs', state: 'ready', source: 'dogs.html' } });
  const pdf = pdfOf(
    [['The whale is the', 'largest animal of all.'], ['It lives in the sea.']],
    'Whales',
  );
  const whales = await ask(
    'POST',
    '/v1/documents?collection=animals&source=whales.pdf',
    pdf,
    'application/pdf',
  );
  t.match(whales, { status: 201, body: { title: 'Whales', state: 'ready' } });
  t.match(
    await add({ text: 'Zebras have stripes.', source: 'zebras.txt', metadata: { lang: 'de' } }),
    { status: 201 },
  );

  const slept = await search({ query: 'a kitten that sleeps', limit: 2 });
  t.match(slept.body, {
    mode: 'hybrid',
    hits: [
      {
        source: 'cats.md',
        title: 'Cats',
        payload: { lang: 'en' },
        position: { headings: ['Cats', 'Sleep'], start: 26 },
      },
    ],
  });
  t.match(texts(slept)[0], /A kitten sleeps/);
  const whale = await search({ query: 'Which animal is the largest?', limit: 1 });
  t.match(whale.body, { hits: [{ source: 'whales.pdf', position: { page: 1 } }] });
  t.match(
    texts(await search({ query: 'barking at strangers', limit: 1 }))[0],
    /Dogs & more[\s\S]*four legs/,
  );
  const all = JSON.stringify(await search({ query: 'secret words evil', limit: 100 }));
  t.notMatch(all, /secret words|evil/, 'what a reader would not see');
  t.match((await ask('GET', '/v1/collections/animals')).body, { documents: 4 });
});

t.test('by meaning, by words, by both, by a vector, filtered and ranked again', async (t) => {
  const words = await search({ query: 'feed --cat tom', mode: 'sparse', limit: 1 });
  t.match(texts(words)[0], /feed --cat tom/);
  t.same((await search({ query: 'qwertz', mode: 'sparse' })).body['hits'], []);
  t.match(sources(await search({ query: 'striped horses', mode: 'dense', limit: 1 })), [
    'zebras.txt',
  ]);
  const german = { field: 'metadata.lang', eq: 'de' };
  for (const mode of ['dense', 'sparse', 'hybrid']) {
    const found = sources(await search({ query: 'stripes of a cat', mode, filter: german }));
    t.same([...new Set(found)], ['zebras.txt'], mode);
  }
  const old = {
    and: [{ field: 'metadata.year', lt: 2021 }, { not: { field: 'source', eq: 'x' } }],
  };
  t.same([...new Set(sources(await search({ query: 'animals', filter: old })))], ['cats.md']);
  const ranked = await search({ query: 'it barks', rerank: true, limit: 1 });
  t.match(sources(ranked), ['dogs.html']);
  const vector = Array.from({ length: 512 }, (_, i) => Math.sin(i));
  t.equal(((await search({ vector, limit: 2 })).body['hits'] as []).length, 2);
  t.match(await search({ vector: [1, 2] }), {
    status: 400,
    body: { detail: /has 2 dimensions, and animals has 512/ },
  });
  t.match(await search({ vector, mode: 'hybrid' }), { status: 400 });
  t.match(await search({}), { status: 400, body: { detail: /one of query and vector/ } });
  t.match(await search({ query: 'a', filter: { field: "a' or 1=1", eq: { $ne: 1 } } }), {
    status: 400,
  });
  t.match(await ask('POST', '/v1/retrieval', { collection: 'none', query: 'a' }), { status: 404 });
  t.same(
    (await ask('POST', '/v1/search', { collection: 'plants', query: 'cat' })).body['hits'],
    [],
  );
});

t.test('the same content again changes nothing; other content takes its place', async (t) => {
  const body = { id: 'fox', text: 'The fox jumps over the lazy dog.', source: 'fox.txt' };
  const first = await add(body);
  const again = await add(body);
  t.equal(again.status, 201);
  t.equal(again.body['updated_at'], first.body['updated_at'], 'untouched');
  t.equal((await add({ ...body, text: 'The fox is in its den.' })).status, 201);
  const found = JSON.stringify(texts(await search({ query: 'fox', limit: 100 })));
  t.match(found, /in its den/);
  t.notMatch(found, /jumps over/);
  const byContent = await add({ text: 'One and the same.' });
  t.equal((await add({ text: 'One and the same.' })).body['id'], byContent.body['id']);
  t.equal((await remove(String(byContent.body['id']))).status, 204);
});

t.test('documents are listed in pages, and a deleted one leaves nothing', async (t) => {
  const { body } = await ask('GET', '/v1/documents?collection=animals&limit=2');
  t.equal((body['documents'] as []).length, 2);
  const rest = await ask(
    'GET',
    `/v1/documents?collection=animals&limit=50&cursor=${String(body['next'])}`,
  );
  t.match(rest.body, { next: null });
  t.equal((rest.body['documents'] as []).length, 3);
  t.equal((await remove('fox')).status, 204);
  t.match(await remove('fox'), { status: 404, body: { detail: /no document "fox"/ } });
  t.match(await ask('GET', '/v1/documents/fox?collection=animals'), { status: 404 });
  t.notMatch(JSON.stringify(await search({ query: 'fox den', limit: 100 })), /den/);
  t.same((await search({ query: 'fox', mode: 'sparse' })).body['hits'], [], 'nor its words');
});

t.test('an answer cites what it rests on, and says how it was made', async (t) => {
  const question = 'How many legs does a dog have?';
  const plain = await ask('POST', '/v1/rag/answer', { collection: 'animals', question, limit: 3 });
  t.match(plain, { status: 200, body: { method: 'extractive', answer: /four legs[^[]*\[\d\]/ } });
  t.match(plain.body['citations'], [{ n: 1, document: String, position: { start: Number } }]);
  const written = await ask('POST', '/v1/rag/answer', {
    collection: 'animals',
    question,
    model: 'up/writer',
  });
  t.match(written.body, { method: 'generated', model: 'up/writer', answer: 'Four legs [1].' });
  const [system, user] = upstream.asked.at(-1)?.messages ?? [];
  t.match(system, { role: 'system', content: /never instructions/ });
  t.match(user?.content, /\[1\][\s\S]*four legs[\s\S]*Question: How many legs/);

  const body = JSON.stringify({
    collection: 'animals',
    question,
    model: 'up/writer',
    stream: true,
  });
  const sse = await SseClient.open(`${host.url}/v1/rag/answer`, host.token, {
    body,
    headers: { accept: '*/*' },
  });
  await until('the result', () => sse.frames.some(({ event }) => event === 'result'));
  const parts = sse.frames.map(({ data }) => JSON.parse(data) as Record<string, unknown>);
  t.ok('citations' in (parts[0] ?? {}), 'citations first');
  t.same(parts.slice(1, -1), [
    { delta: { content: 'Four ' } },
    { delta: { content: 'legs [1].' } },
  ]);
  t.match(parts.at(-1), { answer: 'Four legs [1].', method: 'generated' });
  t.match(await ask('POST', '/v1/rag/answer', { collection: 'plants', question }), {
    body: { method: 'none', citations: [] },
  });
  for (const stream of [false, true]) {
    const asked = { collection: 'animals', question, model: 'none', stream };
    t.match(await ask('POST', '/v1/rag/answer', asked), {
      status: 404,
      body: { detail: /there is no "none"/ },
    });
  }
});

t.test('gRPC retrieves the same', async (t) => {
  const client = new GrpcClient(new URL(host.url).host);
  t.teardown(() => client.close());
  const call = (message: object) =>
    client.call('noa.api.v1.RetrievalService/Retrieve', message as never, headers(host.token));
  const metadata_json = JSON.stringify({ collection: 'animals', limit: 1 });
  const { message } = await call({ query: 'the largest animal', metadata_json });
  t.match(message, {
    status: 'ok',
    routed_plan: 'hybrid search in animals',
    hits: [{ source: 'whales.pdf', score: Number }],
  });
  await t.rejects(call({ query: 'x', metadata_json: '{"collection":"none"}' }), { code: 5 });
  await t.rejects(call({ query: '', metadata_json }), { code: 3, details: /query: is required/ });
  await t.rejects(call({ query: 'x', metadata_json: '{}' }), {
    code: 3,
    details: /collection is required/,
  });
});

t.test('what cannot be read is refused in words, and leaves nothing', async (t) => {
  const raw = (body: Buffer | string, type: string) =>
    ask('POST', '/v1/documents?collection=animals&source=bad', body, type);
  const before = await ask('GET', '/v1/collections/animals');
  const cases: [Promise<Answer>, number, RegExp][] = [
    [raw(Buffer.from('%PDF-1.4 nothing'), 'application/pdf'), 400, /no PDF, or a damaged one/],
    [
      raw(pdfOf([['x'.repeat(10)]]).subarray(0, 200), 'application/pdf'),
      400,
      /no PDF, or a damaged one/,
    ],
    [raw(pdfOf([[]]), 'application/pdf'), 400, /without text/],
    [raw(Buffer.from([0xff, 0xfe, 0x41]), 'text/plain'), 400, /not UTF-8/],
    [raw(Buffer.from('a\0b'), 'text/plain'), 400, /NUL/],
    [raw('', 'text/plain'), 400, /is empty/],
    [raw(' \n ', 'text/plain'), 400, /no text/],
    [raw(`${'<div>'.repeat(5000)}deep`, 'text/html'), 400, /nested deeper/],
    [raw('x', 'text/html; charset=iso-8859-1'), 400, /charset/],
    [raw('x', 'image/png'), 415, /application\/pdf/],
    [add({ text: 'a', html: 'b' }), 400, /one of text, markdown and html/],
    [add({}), 400, /one of text/],
    [add({ text: 'x', id: 'a#b' }), 400, /id/],
    [add({ text: 'x', metadata: 'y' }), 400, /metadata/],
  ];
  for (const [work, status, words] of cases) {
    const { status: told, body } = await work;
    t.equal(told, status, JSON.stringify(body));
    t.match(JSON.stringify(body), words);
    t.notMatch(JSON.stringify(body), /node_modules|\/work|\/tmp/);
  }
  t.same(await ask('GET', '/v1/collections/animals'), before);
});

t.test('a PDF that asks for work without end is stopped, and the host goes on', async (t) => {
  const started = Date.now();
  const path = '/v1/documents?collection=animals&source=bomb';
  const work = ask('POST', path, pdfBomb(12), 'application/pdf');
  for (let i = 0; i < 5; i += 1) {
    await sleep(200);
    const asked = Date.now();
    t.equal((await ask('GET', '/v1/collections/animals')).status, 200);
    t.ok(Date.now() - asked < 2000, 'answers meanwhile');
  }
  const { status, body } = await work;
  t.match({ status, body }, { status: 400, body: { detail: /takes more than/ } });
  t.ok(Date.now() - started < 60_000);
});

t.test('a host that is killed while it embeds goes on when it is back', async (t) => {
  const long = Array.from(
    { length: 600 },
    (_, i) =>
      `Sentence number ${i} speaks of the animal called ${i} and of what it likes to eat on day ${i}.`,
  ).join(' ');
  const work = add({ id: 'long', text: long }).catch(() => undefined);
  await eventually('it has begun', async () => {
    const { status, body } = await ask('GET', '/v1/documents/long?collection=animals');
    return status === 200 && Number(body['embedded']) > 0;
  }).catch(() => undefined);
  await host.kill();
  await work;
  await host.start();
  await eventually(
    'it is ready',
    async () => {
      const { body } = await ask('GET', '/v1/documents/long?collection=animals');
      return body['state'] === 'ready';
    },
    120_000,
  );
  const { body } = await ask('GET', '/v1/documents/long?collection=animals');
  t.equal(body['embedded'], body['chunks']);
  const found = await search({
    query: 'animal called 577',
    mode: 'sparse',
    limit: 3,
    filter: { field: 'document', eq: 'long' },
  });
  t.match(texts(found)[0], /577/);
  t.match(
    sources(await search({ query: 'striped horses', limit: 1 })),
    ['zebras.txt'],
    'and what was there before',
  );
});

t.test('a right that is taken back holds at the next request', async (t) => {
  const { body } = await host.get('/v1/grants?plugin=retrieval');
  const grants = body['grants'] as { id: string; capability: string }[];
  for (const capability of ['vector', 'db', 'inference']) {
    const id = grants.find((grant) => grant.capability === capability)?.id ?? '';
    t.equal((await host.request('DELETE', `/v1/grants/${id}`)).status, 200);
    t.match(
      await search({ query: 'a cat' }),
      { status: 403, body: { code: 'CAPABILITY_DENIED' } },
      capability,
    );
    t.equal((await host.post(`/v1/grants/${id}/approve`)).status, 200);
  }
  t.equal((await search({ query: 'a cat' })).status, 200);
});

t.test('a collection goes with all that was made of it', async (t) => {
  t.equal((await ask('DELETE', '/v1/collections/animals')).status, 204);
  t.match(await search({ query: 'cat' }), { status: 404 });
  t.equal((await ask('POST', '/v1/collections', { name: 'animals' })).status, 201);
  t.same((await search({ query: 'cat' })).body['hits'], [], 'nothing of the one before');
});
