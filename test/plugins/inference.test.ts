/** The plugin `inference` through a whole host, by the clients that people use: OpenAI's own, fetch, gRPC, WebSocket. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { packPlugin, writeBundle } from '@noa/sdk/author';
import { readBundle } from '@noa/sdk/host';
import OpenAI from 'openai';
import t from 'tap';
import { eventually, RunningHost } from '../e2e/running-host.ts';
import { Conformance, type OpenApiDocument } from '../transports/conformance.ts';
import { GrpcClient, headers } from '../transports/grpc-front.ts';
import { lint } from '../transports/lint.ts';
import { SseClient, until } from '../transports/sse.ts';
import { Client } from '../transports/websocket-client.ts';

t.setTimeout(240_000);

/** An upstream whose model does as its prompt says, and hears when a caller leaves. */
const upstream = { left: 0, asked: [] as unknown[] };
const server = createServer((request, response) => {
  response.setHeader('content-type', 'application/json');
  if (request.url === '/v1/models') {
    return void response.end(
      JSON.stringify({ object: 'list', data: [{ id: 'talker', object: 'model' }] }),
    );
  }
  response.on('close', () => (upstream.left += response.writableFinished ? 0 : 1));
  let text = '';
  request.setEncoding('utf8').on('data', (part: string) => (text += part));
  request.on('end', () => {
    const asked = JSON.parse(text) as { messages?: { content: string }[] };
    upstream.asked.push(asked);
    talk(asked.messages?.at(-1)?.content ?? '', response);
  });
  return undefined;
});
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => {
  server.closeAllConnections();
  server.close();
});

/** The host asks its upstreams for streams, whatever its own caller wants. */
function talk(wish: string, response: ServerResponse): void {
  if (wish === 'busy') {
    return void response
      .writeHead(429, { 'retry-after': '40' })
      .end('{"error":{"message":"busy"}}');
  }
  response.setHeader('content-type', 'text/event-stream');
  const send = (part: object) => response.write(`data: ${JSON.stringify(part)}\n\n`);
  const say = (delta: object, finish_reason: string | null = null) =>
    send({ choices: [{ index: 0, delta, finish_reason }] });
  say({ role: 'assistant', content: 'Hel' });
  if (wish === 'break') return void setTimeout(() => response.destroy(), 50);
  if (wish === 'wait') return;
  if (wish === 'tool') {
    const call = { index: 0, id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } };
    say({ tool_calls: [call] });
  }
  say({ content: 'lo' });
  say({}, wish === 'tool' ? 'tool_calls' : 'stop');
  send({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 1, total_tokens: 4 } });
  response.end('data: [DONE]\n\n');
}

const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
const host = await RunningHost.start({
  env: {
    NOA_PLUGINS__BUILTIN: 'inference',
    NOA_INFERENCE__TIMEOUT_MS: '30000',
    NOA_INFERENCE__UPSTREAMS: JSON.stringify([{ name: 'up', members: [{ url }] }]),
  },
});
t.teardown(() => host.dispose());

const openai = new OpenAI({ baseURL: `${host.url}/v1`, apiKey: host.token, maxRetries: 0 });
const send = (path: string, body?: unknown, more: Record<string, string> = {}) =>
  fetch(new URL(path, host.url), {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      authorization: `Bearer ${host.token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...more,
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
const document = (await (
  await fetch(new URL('/openapi.json', host.url))
).json()) as OpenApiDocument;
const conformance = new Conformance(document);
/** What is answered is as the document says, errors included. */
const ask = async (path: string, body?: unknown) => {
  const answer = await send(path, body);
  const { status, headers } = answer;
  const text = await answer.text();
  const method = body === undefined ? 'GET' : 'POST';
  const fault = conformance.fault(method, path, { status, headers, text });
  if (fault !== undefined) throw new Error(`${method} ${path} ${status}: ${JSON.stringify(fault)}`);
  return { status, body: JSON.parse(text) as unknown };
};
const messages = [{ role: 'user' as const, content: 'hi' }];

t.test('a host that starts has the plugin, with its rights by configuration', async (t) => {
  const { body } = await host.get('/v1/plugins/inference');
  t.match(body, { name: 'inference', state: 'serving', isolation: 'builtin' });
  t.match(await host.get('/v1/grants?plugin=inference'), {
    body: { grants: [{ status: 'approved', decidedBy: 'host' }, { status: 'approved' }] },
  });
  const audit = await host.get('/v1/audit?plugin=inference&limit=100');
  const kinds = (audit.body['records'] as { kind: string }[]).map(({ kind }) => kind);
  t.ok(kinds.includes('plugin.install') && kinds.includes('grant.approve'), kinds.join(' '));
  const shown = await host.cli('plugin', 'show', 'inference');
  t.match(shown.stdout, /POST\s+\/v1\/chat\/completions/);
  t.match(shown.stdout, /part of the host/);
  t.equal(document.paths['/v1/embed']?.['post']?.['summary'], 'Embed texts');
  t.ok(document.paths['/v2/models/{model}/versions/{version}/infer']);
  t.strictSame(await lint(document), [], 'two linters of others find nothing in the reference');
});

t.test("OpenAI's client embeds, in base64 as it asks by itself and in numbers", async (t) => {
  const input = ['The cat sleeps.', 'A kitten is asleep.', 'Interest rates rose.'];
  const packed = await openai.embeddings.create({ model: 'use-lite', input });
  const plain = await openai.embeddings.create({
    model: 'use-lite',
    input,
    encoding_format: 'float',
  });
  t.equal(packed.data.length, 3);
  const [a = [], b = [], c = []] = packed.data.map(({ embedding }) => embedding);
  t.equal(a.length, 512);
  const dot = (x: number[], y: number[]) => x.reduce((sum, v, i) => sum + v * (y[i] ?? 0), 0);
  t.ok(dot(a, b) > dot(a, c) + 0.2, 'like is near to like');
  t.ok(dot(a, plain.data[0]?.embedding ?? []) > 0.99999, 'both say the same');
  t.ok(packed.usage.prompt_tokens > 5 && packed.usage.total_tokens === packed.usage.prompt_tokens);
  t.match(await openai.embeddings.create({ model: 'use-lite', input: 'one' }), {
    data: [{ index: 0 }],
  });
  const many = await openai.embeddings.create({ model: 'use-lite', input: Array(300).fill('a b') });
  t.equal(many.data.length, 300, 'more than one call of the capability takes');
});

t.test("OpenAI's client chats and completes, whole and piece by piece", async (t) => {
  const whole = await openai.chat.completions.create({
    model: 'demo-generator',
    messages,
    max_completion_tokens: 6,
    temperature: 0,
  });
  const text = whole.choices[0]?.message.content ?? '';
  t.ok(text.length > 0);
  t.match(whole, {
    object: 'chat.completion',
    id: /^chatcmpl-/,
    choices: [{ index: 0, message: { role: 'assistant' }, finish_reason: /stop|length/ }],
    usage: { completion_tokens: Number },
  });
  const stream = await openai.chat.completions.create({
    model: 'demo-generator',
    messages,
    max_completion_tokens: 6,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const parts = chunks.map(({ choices }) => choices[0]?.delta.content ?? '');
  t.equal(parts.join(''), text, 'the same text');
  t.equal(chunks[0]?.choices[0]?.delta.role, 'assistant');
  t.match(chunks.at(-1), {
    choices: [],
    usage: { completion_tokens: whole.usage?.completion_tokens },
  });
  t.ok(chunks.length > 4, `${chunks.length} chunks`);
  const completion = await openai.completions.create({
    model: 'demo-generator',
    prompt: ['the act of', 'a kind of'],
    max_tokens: 4,
  });
  t.match(completion, { object: 'text_completion', choices: [{ index: 0 }, { index: 1 }] });
  const pieces = [];
  const streamed = { model: 'demo-generator', prompt: 'a', max_tokens: 4, stream: true } as const;
  for await (const piece of await openai.completions.create(streamed)) pieces.push(piece);
  t.match(pieces.at(-1), { choices: [{ text: '', finish_reason: /stop|length/ }] });
});

t.test('models of an upstream are asked the same way, tools included', async (t) => {
  const whole = await openai.chat.completions.create({
    model: 'up/talker',
    messages,
    tools: [{ type: 'function', function: { name: 'f' } }],
  });
  t.match(whole, { choices: [{ message: { content: 'Hello' } }], usage: { total_tokens: 4 } });
  t.match(upstream.asked.at(-1), { model: 'talker', tools: [{ type: 'function' }] });
  const final = await openai.chat.completions
    .stream({ model: 'up/talker', messages: [{ role: 'user', content: 'tool' }] })
    .finalChatCompletion();
  t.match(final.choices[0], {
    finish_reason: 'tool_calls',
    message: { content: 'Hello', tool_calls: [{ id: 'c1', function: { name: 'f' } }] },
  });
});

t.test('a caller who leaves is heard of by the upstream', async (t) => {
  const before = upstream.left;
  const stream = await openai.chat.completions.create({
    model: 'up/talker',
    messages: [{ role: 'user', content: 'wait' }],
    stream: true,
  });
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
  await eventually('the upstream hears of it', async () => upstream.left > before);
  t.pass('by leaving the loop');
});

t.test("errors have the classes of OpenAI's client", async (t) => {
  const refusal = async (work: Promise<unknown>) => {
    try {
      await work;
    } catch (error) {
      return error as InstanceType<typeof OpenAI.APIError>;
    }
    throw new Error('it was answered');
  };
  const chat = (part: object, client = openai) =>
    refusal(
      client.chat.completions.create({ model: 'demo-generator', messages, ...part } as never),
    );
  const unknown = await chat({ model: 'gpt-4' });
  t.ok(unknown instanceof OpenAI.NotFoundError);
  t.match(unknown, { code: 'model_not_found', message: /there is no "gpt-4"; there is use-lite/ });
  const anonymous = new OpenAI({ baseURL: `${host.url}/v1`, apiKey: 'wrong', maxRetries: 0 });
  const stranger = await chat({}, anonymous);
  t.ok(stranger instanceof OpenAI.AuthenticationError);
  t.match(stranger, { code: 'invalid_api_key', type: 'authentication_error' });
  const wrong = await chat({ messages: [] });
  t.ok(wrong instanceof OpenAI.BadRequestError);
  t.match(wrong, { param: 'messages', type: 'invalid_request_error' });
  t.match(await chat({ messages: [{ content: 'x' }] }), { param: 'messages[0]' });
  t.match(await chat({ n: 2 }), { message: /n: one choice/, param: 'n' });
  t.match(await chat({ logprobs: true }), { status: 400, param: 'logprobs' });
  t.match(await chat({ max_tokens: 0 }), { param: 'max_tokens', message: /^400 max_tokens: must/ });
  const broken = await openai.chat.completions.create({
    model: 'up/talker',
    messages: [{ role: 'user', content: 'break' }],
    stream: true,
  });
  let heard = '';
  const ended = await refusal(
    (async () => {
      for await (const { choices } of broken) heard += choices[0]?.delta.content ?? '';
    })(),
  );
  t.equal(heard, 'Hel');
  t.ok(ended instanceof OpenAI.APIError, 'a stream that breaks off ends with an error');
  for (const input of [[[1, -2]], [3, 4]]) {
    const tokens = await refusal(openai.embeddings.create({ model: 'use-lite', input } as never));
    t.match(tokens, { status: 400, param: 'input', message: /token ids are not taken/ });
  }
  t.match(await refusal(openai.embeddings.create({ model: 'use-lite', input: [] })), {
    status: 400,
  });
  t.match(
    await refusal(openai.embeddings.create({ model: 'use-lite', input: 'a', dimensions: 7 })),
    {
      status: 400,
      message: /dimensions/,
    },
  );
  t.match(await refusal(openai.embeddings.create({ model: 'demo-generator', input: 'a' })), {
    status: 400,
  });
  // The last one: an upstream that is busy is left alone for a while.
  const busy = await chat({ model: 'up/talker', messages: [{ role: 'user', content: 'busy' }] });
  t.ok(busy instanceof OpenAI.RateLimitError, busy.message);
  t.ok(Number(busy.headers?.get('retry-after')) >= 1);
});

t.test('models are listed and read', async (t) => {
  const ids: string[] = [];
  for await (const model of openai.models.list()) ids.push(model.id);
  t.ok(
    ['use-lite', 'demo-generator', 'up/talker'].every((id) => ids.includes(id)),
    ids.join(' '),
  );
  t.match(await openai.models.retrieve('use-lite'), { id: 'use-lite', owned_by: 'local' });
  t.match(await openai.models.retrieve('up/talker'), { id: 'up/talker', owned_by: 'up' });
});

t.test("the host's own form: embed, rerank, tokenize, infer by the task of a model", async (t) => {
  const embed = await ask('/v1/embed', { input: ['one', 'two'] });
  t.match(embed, { status: 200, body: { model: 'use-lite', usage: { total_tokens: Number } } });
  const rows = (embed.body as { embeddings: number[][] }).embeddings;
  t.same(
    rows.map(({ length }) => length),
    [512, 512],
  );

  const texts = ['Interest rates rose.', 'A kitten is asleep.'];
  const ranked = await ask('/v1/rerank', { query: 'the cat sleeps', texts, return_text: true });
  t.match(ranked.body, [{ index: 1, text: 'A kitten is asleep.' }, { index: 0 }]);
  const [best] = ranked.body as { score: number }[];
  t.ok((best?.score ?? 0) > 0.5 && (best?.score ?? 2) <= 1);

  const tokens = await ask('/v1/tokenize', { inputs: 'Hello world' });
  t.match(tokens.body, [[{ start: 0, special: false, text: String, id: Number }]]);

  t.match(await ask('/v1/infer', { model: 'use-lite', inputs: 'one' }), {
    body: { task: 'embedding', outputs: [[Number]] },
  });
  t.match(
    await ask('/v1/inference', {
      model: 'use-lite',
      inputs: 'They scored a goal.',
      parameters: { labels: ['football', 'finance'] },
    }),
    { body: { task: 'classification', outputs: [[{ label: 'football' }]] } },
  );
  const generated = {
    model: 'demo-generator',
    prompt: 'the act of',
    parameters: { max_tokens: 4, temperature: 0 },
  };
  t.match(await ask('/v1/infer', generated), {
    body: { task: 'generation', outputs: String, usage: { completion_tokens: 4 } },
  });
  const silence = { name: 'input', shape: [1, 576], datatype: 'FP32', data: Array(576).fill(0) };
  const state = { name: 'state', shape: [2, 1, 128], datatype: 'FP32', data: Array(256).fill(0) };
  const rate = { name: 'sr', shape: [], datatype: 'INT64', data: [16_000] };
  const voice = await ask('/v1/infer', { model: 'silero-vad', inputs: [silence, state, rate] });
  t.match(voice.body, { task: 'tensor', outputs: [{ name: 'output', shape: [1, 1] }, {}] });

  const body = JSON.stringify({ ...generated, stream: true });
  const headers = { accept: '*/*' };
  const sse = await SseClient.open(`${host.url}/v1/infer`, host.token, { body, headers });
  await until('the result', () => sse.frames.some(({ event }) => event === 'result'));
  t.match(sse.frames.at(-1)?.data, /"finish_reason":"length"/);
  t.equal(sse.frames.filter(({ data }) => data?.includes('delta')).length, 4);
});

t.test('an answer comes from the cache only for who asks for that', async (t) => {
  const wish = { model: 'demo-generator', prompt: 'to move', parameters: { max_tokens: 12 } };
  const cache = { ttl_seconds: 60 };
  const say = async (body: object) =>
    ((await ask('/v1/infer', body)).body as { outputs: string }).outputs;
  const first = await say({ ...wish, cache });
  t.equal(await say({ ...wish, cache }), first, 'the same again, though it is drawn by chance');
  const fresh = await Promise.all(Array.from({ length: 5 }, () => say(wish)));
  t.ok(
    fresh.some((text) => text !== first),
    'without the wish it is computed',
  );
  t.not(await say({ ...wish, prompt: 'to stay', cache }), first);
});

t.test('the Open Inference Protocol: health, metadata, tensors and texts', async (t) => {
  t.match(await ask('/v2'), { status: 200, body: { name: 'noa' } });
  t.match(await ask('/v2/health/live'), { body: { live: true } });
  t.match(await ask('/v2/health/ready'), { body: { ready: true } });
  t.match(await ask('/v2/models/silero-vad'), {
    body: {
      name: 'silero-vad',
      versions: ['6.0.0'],
      inputs: [{ name: 'input', datatype: 'FP32' }],
    },
  });
  t.match(await ask('/v2/models/silero-vad/versions/6.0.0/ready'), { body: { ready: true } });
  const nested = (value: number) => Array.from({ length: 2 }, () => [Array(128).fill(value)]);
  const inputs = [
    { name: 'input', shape: [1, 576], datatype: 'FP32', data: [Array(576).fill(0)] },
    { name: 'state', shape: [2, 1, 128], datatype: 'FP32', data: nested(0) },
    { name: 'sr', shape: [], datatype: 'INT64', data: ['16000'] },
  ];
  const answer = await ask('/v2/models/silero-vad/versions/6.0.0/infer', {
    id: 'r1',
    inputs,
    outputs: [{ name: 'output' }],
  });
  t.match(answer.body, {
    model_name: 'silero-vad',
    model_version: '6.0.0',
    id: 'r1',
    outputs: [{ name: 'output', datatype: 'FP32', shape: [1, 1], data: [Number] }],
  });
  t.equal((answer.body as { outputs: unknown[] }).outputs.length, 1, 'what was asked for alone');
  const text = { name: 'text', shape: [2], datatype: 'BYTES', data: ['one', 'two'] };
  t.match(await ask('/v2/models/use-lite/infer', { inputs: [text] }), {
    body: { outputs: [{ name: 'embedding', shape: [2, 512] }] },
  });

  const infer = (part: object) => ask('/v2/models/silero-vad/infer', { inputs, ...part });
  const swapped = (part: object) =>
    infer({ inputs: [{ ...inputs[0], ...part }, ...inputs.slice(1)] });
  const refused = async (work: ReturnType<typeof ask>, words: RegExp) =>
    t.match(await work, { status: 400, body: { error: words } });
  await refused(
    swapped({ shape: [1, 575] }),
    /has 576 elements, and its shape \[1, 575\] says 575/,
  );
  await refused(swapped({ datatype: 'FP31' }), /datatype is one of/);
  await refused(swapped({ data: [Array(576).fill('x')] }), /element 0 is no FP32/);
  await refused(swapped({ datatype: 'UINT8', data: Array(576).fill(-1) }), /element 0 is no UINT8/);
  await refused(swapped({ name: 'other' }), /other|input/);
  await refused(infer({ outputs: [{ name: 'none' }] }), /none/);
  t.match(await ask('/v2/models/none/infer', { inputs }), {
    status: 404,
    body: { error: /there is no/ },
  });
  t.match(await ask('/v2/models/silero-vad/versions/1/ready'), { status: 404 });
});

t.test('gRPC answers and streams', async (t) => {
  const client = new GrpcClient(new URL(host.url).host);
  t.teardown(() => client.close());
  const metadata = headers(host.token);
  const service = 'noa.api.v1.InferenceService';
  const parameters = { max_tokens: 5, temperature: 0 };
  const request = {
    prompt: 'the act of',
    metadata_json: JSON.stringify({ model: 'demo-generator', parameters }),
  };
  const { message } = await client.call(`${service}/Invoke`, request, metadata);
  t.match(message, { status: 'ok', model: 'demo-generator', usage: { completion_tokens: 5 } });
  const { all, ended } = client.stream(`${service}/Stream`, request, metadata);
  t.equal((await ended).code, 0);
  t.equal(all.map((each) => each['text']).join(''), message['text'], 'the same text');
  t.match(all.at(-1), { finish_reason: 'length', usage: { total_tokens: Number } });
  const embed = { metadata_json: JSON.stringify({ model: 'use-lite', inputs: ['a', 'b'] }) };
  const vectors = await client.call(`${service}/Invoke`, embed, metadata);
  t.equal((JSON.parse(String(vectors.message['result_json'])) as unknown[]).length, 2);
  const unknown = client.call(`${service}/Invoke`, { metadata_json: '{"model":"no"}' }, metadata);
  await t.rejects(unknown, { code: 5, details: /there is no "no"/ });
  await t.rejects(client.call(`${service}/Invoke`, { metadata_json: '[]' }, metadata), { code: 3 });
});

t.test('/ws/stream chats frame by frame, with credit, and can be cancelled', async (t) => {
  const socket = await Client.open(`${host.url}/ws/stream`, host.token);
  t.teardown(() => socket.socket.terminate());
  const input = {
    model: 'demo-generator',
    messages,
    max_tokens: 40,
    temperature: 0,
    stream: true,
  };
  socket.send({ type: 'request', id: 'a', plugin: 'inference', export: 'chat', input, credit: 2 });
  await until('two chunks', () => socket.of('chunk').length === 2);
  socket.send({ type: 'cancel', id: 'a' });
  await until('its end', () => socket.of('error').length === 1);
  t.match(socket.of('error')[0], { id: 'a', code: 'CANCELLED' });
  t.equal(socket.of('chunk').length, 2, 'no more than the credit');
});

t.test('what is hostile, empty or too large is told so, and nothing is leaked', async (t) => {
  const large = 'x'.repeat(70_000);
  const cases: [string, unknown, number][] = [
    ['/v1/embed', { input: large }, 400],
    ['/v1/embed', { input: [] }, 400],
    ['/v1/embed', {}, 400],
    ['/v1/embed', { input: ['a'], model: '../../etc/passwd' }, 404],
    ['/v1/embed', { input: ['a'], extra: 1 }, 400],
    ['/v1/embed', '{"input":"\\ud800"}', 200],
    ['/v1/rerank', { query: '', texts: ['a'] }, 400],
    ['/v1/tokenize', { inputs: Array(65).fill('a') }, 400],
    ['/v1/infer', { model: 'use-lite' }, 400],
    ['/v1/infer', { model: 'use-lite', prompt: 'a', inputs: 'b' }, 400],
    ['/v1/infer', { model: 'use-lite', inputs: 'a', stream: true, parameters: {} }, 400],
    ['/v1/infer', { model: 'silero-vad', inputs: 'a' }, 400],
    ['/v1/chat/completions', { model: 'demo-generator', messages: 'hi' }, 400],
    ['/v1/chat/completions', 'not json', 400],
  ];
  for (const [path, body, status] of cases) {
    const answer = await ask(path, body);
    t.equal(answer.status, status, `${path} ${JSON.stringify(body).slice(0, 60)}`);
    const shown = JSON.stringify(answer.body);
    t.notMatch(shown, /node_modules|file:|\/work|\/tmp/, shown.slice(0, 200));
  }
  const bytes = await fetch(new URL('/v1/embed', host.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${host.token}`, 'content-type': 'application/json' },
    body: Buffer.from('7b22696e707574223a22ff227d', 'hex'),
  });
  t.equal(bytes.status, 400, 'bytes that are no UTF-8');
  t.equal((await send('/v1/embed', 'x', { 'content-type': 'application/pdf' })).status, 415);
  t.equal((await ask('/v1/embed', { input: 'still here' })).status, 200);
});

t.test('a plan says who would answer, and a disabled plugin is told as such', async (t) => {
  const payload = { method: 'POST', path: '/v1/chat/completions' };
  const plan = await ask('/v1/route', { protocol: 'rest', payload });
  t.match(JSON.stringify(plan.body), /"plugin":"inference"/);
  t.equal((await host.post('/v1/plugins/inference/disable')).status, 200);
  t.match(await ask('/v1/embed', { input: 'a' }), {
    status: 409,
    body: { code: 'PLUGIN_DISABLED' },
  });
  t.match(await ask('/v1/models'), { status: 409, body: { error: { code: 'plugin_disabled' } } });
  t.match(await ask('/v2/health/ready'), { status: 409, body: { error: String } });
  t.equal((await host.post('/v1/plugins/inference/enable')).status, 200);
  t.equal((await ask('/v1/embed', { input: 'a' })).status, 200);
});

t.test(
  'a right that is taken back is gone in every dialect, and a restart does not give it back',
  async (t) => {
    const { body } = await host.get('/v1/grants?plugin=inference');
    const grants = body['grants'] as { id: string; capability: string }[];
    const id = grants.find(({ capability }) => capability === 'inference')?.id ?? '';
    const refused = async () => {
      t.match(await ask('/v1/embed', { input: 'a' }), { status: 403 });
      t.match(await ask('/v1/models'), {
        status: 403,
        body: { error: { type: 'permission_error' } },
      });
      t.match(await ask('/v2/models/use-lite'), { status: 403, body: { error: String } });
    };
    t.equal((await host.request('DELETE', `/v1/grants/${id}`)).status, 200);
    await refused();
    await host.kill();
    await host.start();
    await refused();
    t.equal((await host.post(`/v1/grants/${id}/approve`)).status, 200);
    t.equal((await ask('/v1/embed', { input: 'a' })).status, 200);
  },
);

t.test('nobody installs a part of the host under its name or another', async (t) => {
  const { bytes } = await packPlugin(`${import.meta.dirname}/../../plugins/inference`);
  const { manifest, files } = await readBundle(bytes);
  const changed = (part: object) =>
    writeBundle(
      new Map([...files, ['plugin.json', Buffer.from(JSON.stringify({ ...manifest, ...part }))]]),
    );
  const contributes = { routes: [] };
  const other = await host.post('/v1/plugins', changed({ name: 'other', contributes }));
  t.match(other, { status: 400, body: { detail: /is none of this one's/ } });
  const wider = await host.request('PUT', '/v1/plugins/inference', changed({ version: '0.1.1' }));
  t.match(wider, {
    status: 400,
    body: { detail: /this host brings inference 0\.1\.0, not 0\.1\.1/ },
  });
  const altered = changed({ description: 'altered' });
  t.match(await host.request('PUT', '/v1/plugins/inference', altered), {
    status: 400,
    body: { detail: /not the one that this host brings/ },
  });
});
