/** The plugin `inference` against callers and upstreams that mean no good, or no good care, through a whole host. */
import { cp, readFile, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import OpenAI from 'openai';
import t from 'tap';
import { RunningHost } from '../e2e/running-host.ts';
import { GrpcClient, headers } from '../transports/grpc-front.ts';
import { hostileUpstream as server } from './hostile-upstream.ts';

t.setTimeout(240_000);

await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => {
  server.closeAllConnections();
  server.close();
});

// Two more versions of a model that is there.
const folder = t.testdir();
for (const version of ['0.0.1', '99.0.0']) {
  const copy = join(folder, version);
  await cp(join(import.meta.dirname, '../../capabilities/inference/models/demo'), copy, {
    recursive: true,
  });
  const path = join(copy, 'model.json');
  const manifest = JSON.parse(await readFile(path, 'utf8')) as object;
  await writeFile(path, JSON.stringify({ ...manifest, version }));
}

const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
const host = await RunningHost.start({
  env: {
    NOA_PLUGINS__BUILTIN: 'inference',
    NOA_INFERENCE__TIMEOUT_MS: '30000',
    NOA_INFERENCE__MODEL_PATH: folder,
    NOA_INFERENCE__UPSTREAMS: JSON.stringify([{ name: 'up', members: [{ url }] }]),
  },
});
t.teardown(() => host.dispose());

const openai = new OpenAI({ baseURL: `${host.url}/v1`, apiKey: host.token, maxRetries: 0 });
const send = (path: string, body?: unknown, token = host.token) =>
  fetch(new URL(path, host.url), {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
const ask = async (path: string, body?: unknown, token?: string) => {
  const answered = await send(path, body, token);
  return { status: answered.status, body: (await answered.json()) as Record<string, unknown> };
};
const talk = (wish: string) => ({
  model: 'up/talker',
  messages: [{ role: 'user' as const, content: wish }],
});
const texts = (data: unknown, count: number) => ({
  inputs: [{ name: 'text', shape: [count], datatype: 'BYTES', data }],
});

t.test(
  'what an upstream says in pieces is whole when it was asked for as one answer',
  async (t) => {
    const messageOf = async (wish: string) => {
      const { choices } = await openai.chat.completions.create(talk(wish));
      return choices[0]?.message;
    };
    t.match(await messageOf('reason'), { content: '42', reasoning_content: 'let me think' });
    t.match(await messageOf('refuse'), { refusal: 'I cannot' });
    t.strictSame((await messageOf('tools'))?.tool_calls, [
      { id: 'c1', type: 'function', function: { name: 'f', arguments: '{"a":1}' } },
    ]);
  },
);

t.test('tool calls of an upstream that answers as a whole are numbered in a stream', async (t) => {
  const stream = openai.chat.completions.stream(talk('whole'));
  const whole = await stream.finalChatCompletion();
  t.match(whole.choices[0]?.message.tool_calls, [{ id: 'c1', function: { name: 'f' } }]);
});

t.test('what an upstream counts beyond belief is not believed', async (t) => {
  const { usage } = await openai.chat.completions.create(talk('astronomic'));
  t.ok(usage && usage.total_tokens < 100, JSON.stringify(usage));
});

t.test('log probabilities, which no answer carries, are refused and not left out', async (t) => {
  for (const parameters of [{ logprobs: true }, { top_logprobs: 2 }, { logprobs: 0 }]) {
    const { status, body } = await ask('/v1/chat/completions', {
      ...talk('refuse'),
      ...parameters,
    });
    t.match({ status, body }, { status: 400, body: { error: { message: /logprobs/ } } });
  }
  const none = { ...talk('refuse'), logprobs: false };
  t.match(await ask('/v1/chat/completions', none), { status: 200 });
});

t.test('no tensor without rows ends the process of a model', async (t) => {
  const tensor = (name: string, shape: number[]) => {
    const data = Array<number>(shape.reduce((count, size) => count * size, 1)).fill(0);
    return { name, shape, datatype: 'FP32', data };
  };
  const rate = { name: 'sr', shape: [], datatype: 'INT64', data: [16_000] };
  const infer = (rows: number) =>
    ask('/v2/models/silero-vad/infer', {
      inputs: [tensor('input', [rows, 512]), tensor('state', [2, rows, 128]), rate],
    });
  t.match(await infer(0), { status: 400, body: { error: /"input" .* no rows/ } });
  t.match(await infer(1), { status: 200 });
  t.notMatch(host.output, /SIGABRT/);
});

t.test('metadata of a gRPC call is judged as the body of /v1/infer is', async (t) => {
  const client = new GrpcClient(new URL(host.url).host);
  t.teardown(() => client.close());
  const metadata = headers(host.token);
  const service = 'noa.api.v1.InferenceService';
  const vad = 'silero-vad';
  const cases: [string, unknown, RegExp, string?][] = [
    ['broken JSON', '{', /metadata_json/],
    ['a number as metadata', '5', /metadata_json/],
    ['inputs of null', { model: vad, inputs: [null] }, /inputs/],
    ['inputs that are empty', { model: vad, inputs: [{}] }, /inputs/],
    ['a shape that is none', { model: vad, inputs: [{ ...tensorOf(), shape: 'abc' }] }, /inputs/],
    ['a shape of texts', { model: vad, inputs: [{ ...tensorOf(), shape: ['2'] }] }, /inputs/],
    ['a name that is none', { model: vad, inputs: [{ ...tensorOf(), name: 5 }] }, /inputs/],
    ['no data', { model: vad, inputs: [{ ...tensorOf(), data: null }] }, /inputs/],
    ['a number as inputs', { model: 'use-lite', inputs: 5 }, /inputs/],
    ['parameters of null', { model: 'use-lite', inputs: 'a', parameters: null }, /parameters/],
    ['parameters in a list', { model: 'use-lite', inputs: 'a', parameters: [1] }, /parameters/],
    ['a cache that is none', { model: 'use-lite', inputs: 'a', cache: 'x' }, /cache/],
    ['a time below 0', { inputs: 'a', cache: { ttl_seconds: -1 } }, /ttl_seconds/],
    ['a time of ages', { inputs: 'a', cache: { ttl_seconds: 1e300 } }, /ttl_seconds/],
    ['two things to do', { inputs: 'a' }, /send one of/, 'b'],
    ['a long model', { model: 'x'.repeat(5000), inputs: 'a' }, /model/],
  ];
  for (const [what, given, details, prompt = ''] of cases) {
    const metadata_json = typeof given === 'string' ? given : JSON.stringify(given);
    const request = { prompt, metadata_json };
    const invoked = client.call(`${service}/Invoke`, request, metadata);
    await t.rejects(invoked, { code: 3, details }, `Invoke: ${what}`);
    const { ended } = client.stream(`${service}/Stream`, request, metadata);
    t.match(await ended, { code: 3, details }, `Stream: ${what}`);
  }
  const parameters = { max_tokens: 4, temperature: 0 };
  const asPrompt = { prompt: 'the act of', metadata_json: JSON.stringify({ parameters }) };
  const asInputs = { metadata_json: JSON.stringify({ parameters, inputs: 'the act of' }) };
  const said = async (request: Record<string, unknown>) => {
    const { all, ended } = client.stream(`${service}/Stream`, request, metadata);
    t.equal((await ended).code, 0);
    return all.map(({ text }) => text).join('');
  };
  t.equal(await said(asInputs), await said(asPrompt), 'inputs are a prompt, streamed as well');
});

function tensorOf() {
  return { name: 'input', shape: [1], datatype: 'FP32', data: [1] };
}

t.test('nothing that was sent is left out in silence', async (t) => {
  const generator = { model: 'demo-generator', parameters: { max_tokens: 4, temperature: 0 } };
  const two = await ask('/v1/infer', { ...generator, inputs: ['the act of', 'a kind of'] });
  t.match(two, { status: 400, body: { detail: /inputs: .*one text/ } });
  const one = await ask('/v1/infer', { ...generator, inputs: ['the act of'] });
  t.match(one, { status: 200, body: { task: 'generation' } });
  const streamed = await send('/v1/infer', { ...generator, inputs: ['the act of'], stream: true });
  t.match(await streamed.text(), /"delta"/, 'one text in a list is a prompt, streamed as well');
  const embedder = (parameters: object) =>
    ask('/v1/infer', { model: 'use-lite', inputs: 'a cat', parameters });
  for (const labels of ['cat', ['cat', 1, 'dog'], null, { 0: 'cat' }]) {
    t.match(await embedder({ labels }), { status: 400, body: { detail: /labels/ } });
  }
  t.match(await embedder({ dimensions: 7 }), { status: 400, body: { detail: /dimensions/ } });
  t.match(await embedder({ labels: ['cat', 'dog'] }), { status: 200 });
});

t.test('nested texts of a tensor are those that its shape counts', async (t) => {
  let nested: unknown = ['one', 'two'];
  for (let depth = 0; depth < 12; depth += 1) nested = [nested];
  const path = '/v2/models/use-lite/infer';
  const flat = await ask(path, texts(['one', 'two'], 2));
  t.match(flat, { status: 200, body: { outputs: [{ shape: [2, 512] }] } });
  t.strictSame((await ask(path, texts(nested, 2))).body, flat.body);
});

t.test('an answer that would be too large is a mistake of the question', async (t) => {
  const path = '/v2/models/use-lite/infer';
  t.match(await ask(path, texts(Array(400).fill('a'), 400)), {
    status: 400,
    body: { error: /190000/ },
  });
  t.match(await ask(path, texts(Array(20_000).fill('a'), 20_000)), {
    status: 400,
    body: { error: /2048 texts/ },
  });
  const tokens = await ask('/v1/tokenize', { inputs: Array(64).fill('a b '.repeat(1000)) });
  t.match(tokens, { status: 400, body: { detail: /inputs/ } });
});

t.test('paths that cannot be read are told so in the form of their API', async (t) => {
  const long = 'x'.repeat(300);
  t.match(await ask(`/v1/models/${long}`), { status: 400, body: { error: { type: String } } });
  t.match(await ask('/v1/models/%ff'), { status: 400, body: { error: { type: String } } });
  t.match(await ask('/v2/models/%ff/ready'), { status: 400, body: { error: String } });
  t.match(await ask('/v1/%ff'), { status: 400, body: { code: 'INVALID_ARGUMENT' } });
});

t.test('who leaves a stream early has paid for what came of it', async (t) => {
  const body = { caller: 'reader', calls: ['inference/*'], budget: { tokens: 60 } };
  const minted = await ask('/v1/tokens', body);
  t.equal(minted.status, 201);
  const apiKey = String(minted.body['token']);
  const client = new OpenAI({ baseURL: `${host.url}/v1`, maxRetries: 0, apiKey });
  const words = async () => {
    let heard = 0;
    const stream = await client.chat.completions.create({ ...talk('long'), stream: true });
    for await (const { choices } of stream) {
      heard += choices[0]?.delta.content ? 1 : 0;
      if (heard === 90) break; // which ends the request
    }
    return heard;
  };
  t.equal(await words(), 90);
  await t.rejects(words(), { status: 429, message: /budget of tokens is spent/ });
});

t.test('a stream that is heard to its end costs what its usage says', async (t) => {
  const body = { caller: 'listener', calls: ['inference/*'], budget: { tokens: 9 } };
  const { body: minted } = await ask('/v1/tokens', body);
  const stream = async () => {
    const request = { ...talk('refuse'), stream: true };
    const answered = await send('/v1/chat/completions', request, String(minted['token']));
    await answered.text();
    return answered.status;
  };
  // Five tokens each: after two of them more than nine are spent.
  t.strictSame([await stream(), await stream(), await stream()], [200, 200, 429]);
});

t.test('a streamed answer is as many calls as a whole one', async (t) => {
  const body = { caller: 'counter', calls: ['inference/*'], budget: { calls: 2 } };
  const { body: minted } = await ask('/v1/tokens', body);
  const request = { ...talk('reason'), stream: true };
  const answered = await send('/v1/chat/completions', request, String(minted['token']));
  t.match(await answered.text(), /"content":"42".*\[DONE\]/s);
  const spent = await send('/v1/chat/completions', request, String(minted['token']));
  t.equal(spent.status, 429);
  await spent.body?.cancel();
});

t.test('the version that answers is the one that is named', async (t) => {
  const path = '/v2/models/demo-generator';
  const { body } = await ask(path);
  t.match(body['versions'], ['99.0.0', '1.0.0', '0.0.1'], 'the newest first');
  t.match(await ask(`${path}/infer`, texts(['a kind of'], 1)), {
    status: 200,
    body: { model_version: '99.0.0' },
  });
  t.match(await ask(`${path}/versions/99.0.0/infer`, texts(['a kind of'], 1)), { status: 200 });
  t.match(await ask(`${path}/versions/0.0.1/infer`, texts(['a kind of'], 1)), {
    status: 400,
    body: { error: /newest, 99.0.0/ },
  });
  const ids: string[] = [];
  for await (const { id } of openai.models.list()) ids.push(id);
  t.equal(ids.filter((id) => id === 'demo-generator').length, 1);
});

t.test('a ranking that may cut no text refuses one that is too long', async (t) => {
  const query = 'Which animal says meow?';
  const short = { query, texts: ['A dog barks.', 'A cat meows.'], truncate: false };
  t.match(await ask('/v1/rerank', short), { status: 200, body: [{ index: 1 }] });
  const long = { query, texts: ['word '.repeat(5000)] };
  t.match(await ask('/v1/rerank', { ...long, truncate: false }), {
    status: 400,
    body: { detail: /tokens/ },
  });
  t.match(await ask('/v1/rerank', long), { status: 200 });
});

t.test('a grant that is revoked ends the streams that it opened', async (t) => {
  const { body } = await ask('/v1/grants?plugin=inference');
  const grants = body['grants'] as { id: string; capability: string }[];
  const grant = grants.find(({ capability }) => capability === 'inference');
  const stream = await openai.chat.completions.create({ ...talk('endless'), stream: true });
  let heard = 0;
  const listening = (async () => {
    for await (const { choices } of stream) {
      heard += 1;
      if (heard === 5) await host.request('DELETE', `/v1/grants/${grant?.id}`);
      if (heard > 100) return choices.length;
    }
    return 0;
  })();
  await t.rejects(listening, { code: 'capability_denied' });
  t.ok(heard < 50, `${heard} pieces`);
  await host.cli('grant', 'approve', 'inference', '--all');
  t.match(await ask('/v1/embed', { input: 'again' }), { status: 200 });
});
