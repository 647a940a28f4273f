/** GGUF files run by llama.cpp, where its package is installed: text, chats, embeddings, and what is refused. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import OpenAI from 'openai';
import t from 'tap';
import { Engine } from '../../capabilities/inference/engine/engine.ts';
import { parseManifest } from '../../capabilities/inference/models/manifest.ts';
import { ModelRegistry } from '../../capabilities/inference/models/registry.ts';
import { RunningHost } from '../e2e/running-host.ts';
import { ggufOf } from './gguf.ts';

t.setTimeout(180_000);

const PACKAGE: string = 'node-llama-cpp';
const isInstalled = await import(PACKAGE).then(
  () => true,
  () => false,
);
const needed = isInstalled ? {} : { skip: 'node-llama-cpp is not installed' };

const told = ggufOf({
  '▁once': '▁upon',
  '▁upon': '▁a',
  '▁a': '▁time',
  '▁time': '</s>',
  '<0x0A>': '▁Hello',
  '▁Hello': '▁you',
  '▁you': '<|end|>',
  '▁round': '▁and',
  '▁and': '▁round',
  '▁snow': '<0xE2>',
  '<0xE2>': '<0x98>',
  '<0x98>': '<0x83>',
  '<0x83>': '</s>',
});

const root = t.testdir({ cache: {}, models: {} });
const models = join(root, 'models');
async function model(id: string, more: object = {}, file: Buffer = told.file): Promise<void> {
  const folder = join(models, id);
  await mkdir(folder);
  await writeFile(join(folder, 'model.gguf'), file);
  const manifest = {
    id,
    version: '1.0.0',
    task: 'generation',
    licence: 'MIT',
    graph: 'model.gguf',
    files: { 'model.gguf': createHash('sha256').update(file).digest('hex') },
    limits: { maxTokens: 128 },
    ...more,
  };
  await writeFile(join(folder, 'model.json'), JSON.stringify(manifest));
}
await model('told');
await model('told-vectors', { task: 'embedding', dimensions: told.dimensions });
await model('wrong-vectors', { task: 'embedding', dimensions: 7 });
await model('cut', {}, told.file.subarray(0, told.file.length / 2));
await model('noise', {}, Buffer.from('GGUF and nothing that is one'));

const registry = new ModelRegistry({ cache: join(root, 'cache'), paths: [models] });
const engine = new Engine({
  registry,
  workers: 2,
  maxBatch: 32,
  maxQueued: 4096,
  limitMs: 60_000,
  memoryBytes: 1 << 30,
  device: 'auto',
  untrusted: [],
  observeBatch: () => undefined,
  onNotice: () => undefined,
  now: Date.now,
});
const alive = setInterval(() => undefined, 1000); // workers alone keep no process alive
t.teardown(() => {
  clearInterval(alive);
  return engine.close();
});
const call = (signal: AbortSignal = AbortSignal.timeout(60_000)) => ({
  plugin: 'p',
  signal,
  deadline: Date.now() + 60_000,
});
async function say(request: object, name = 'told') {
  let text = '';
  let parts = 0;
  let finishReason: string | undefined;
  let usage: unknown;
  const parameters = { temperature: 0 };
  const wish = { model: name, parameters, ...request };
  for await (const item of engine.generate(wish, call())) {
    const content = item.delta?.['content'];
    if (typeof content === 'string') text += content;
    parts += item.delta === undefined ? 0 : 1;
    finishReason ??= item.finishReason;
    usage ??= item.usage;
  }
  return { text, parts, finishReason, usage };
}

t.test(
  'a manifest of a GGUF file names neither tokenizer nor weights, and two tasks',
  async (t) => {
    const manifest = {
      id: 'a',
      version: '1.0.0',
      task: 'generation',
      licence: 'MIT',
      graph: 'a.gguf',
      files: { 'a.gguf': 'a'.repeat(64) },
    };
    t.match(parseManifest(manifest), { graph: 'a.gguf' });
    const tokenizer = { kind: 'unigram', file: 'a.gguf' };
    t.throws(() => parseManifest({ ...manifest, tokenizer }), { message: /tokenizer lies in/ });
    t.throws(() => parseManifest({ ...manifest, task: 'rerank' }), { message: /task must be/ });
    t.throws(() => parseManifest({ ...manifest, task: 'embedding' }), { message: /dimensions/ });
  },
);

const away = isInstalled ? { skip: 'node-llama-cpp is installed' } : {};
t.test('without the package a model says what to install', away, async (t) => {
  await t.rejects(say({ prompt: 'once' }), { code: 'UNAVAILABLE', message: /npm install/ });
});

t.test(
  'text goes on to its end, in whole characters, to a stop and to a limit',
  needed,
  async (t) => {
    t.match(await say({ prompt: 'once' }), {
      text: ' upon a time',
      parts: 4,
      finishReason: 'stop',
      usage: { completionTokens: 4 },
    });
    t.match(await say({ prompt: 'once', parameters: { temperature: 0, stop: [' a t'] } }), {
      text: ' upon',
      finishReason: 'stop',
    });
    t.match(await say({ prompt: 'once', parameters: { temperature: 0, max_tokens: 2 } }), {
      text: ' upon a',
      finishReason: 'length',
    });
    t.match(await say({ prompt: 'snow' }), { text: '☃', finishReason: 'stop' });
    const full = await say({ prompt: 'round', parameters: { temperature: 0, max_tokens: 128 } });
    t.equal(full.finishReason, 'length', 'where the context is full');
    await t.rejects(say({ prompt: 'once '.repeat(200) }), { message: /takes 128 with its answer/ });
    await t.rejects(say({ prompt: '' }), { code: 'INVALID_ARGUMENT' });
  },
);

t.test('a conversation has the form that the model was taught', needed, async (t) => {
  const asked = [
    { role: 'developer', content: 'be kind' },
    { role: 'user', content: 'hi' },
  ];
  t.match(await say({ messages: asked }), { text: /^ ?Hello you$/, finishReason: 'stop' });
  const begun = [...asked, { role: 'assistant', content: 'x once' }];
  t.match(await say({ messages: begun }), { text: ' upon a time' }, 'an answer that was begun');
  await t.rejects(say({ messages: [{ role: 'tool', content: 'x' }] }), { message: /0\/role/ });
  const tokensOf = async (content: string): Promise<number> =>
    ((await say({ messages: [{ role: 'user', content }] })).usage as { promptTokens: number })
      .promptTokens;
  t.ok(
    (await tokensOf('<|end|>')) > (await tokensOf('.')) + 3,
    'what a user writes is never read as a mark of the form',
  );
});

t.test('four at once run together, and who leaves gives the place back', needed, async (t) => {
  const said = await Promise.all(Array.from({ length: 9 }, () => say({ prompt: 'once' })));
  t.ok(said.every(({ text }) => text === ' upon a time'));
  for (let round = 0; round < 6; round += 1) {
    const leaving = new AbortController();
    const endless = { model: 'told', prompt: 'round', parameters: { max_tokens: 128 } };
    const items = engine.generate(endless, call(leaving.signal))[Symbol.asyncIterator]();
    await items.next();
    leaving.abort();
    await t.rejects(
      (async () => {
        for (;;) if ((await items.next()).done === true) return;
      })(),
      { code: 'CANCELLED' },
    );
  }
  t.match(await say({ prompt: 'once' }), { text: ' upon a time' });
});

t.test('texts become vectors of unit length, and tokens with their places', needed, async (t) => {
  const request = { model: 'told-vectors', texts: ['once', 'upon', 'once'], truncate: true };
  const { vectors, dimensions } = await engine.embed(request, call());
  const [one = [], other = [], again = []] = [0, 1, 2].map((row) =>
    vectors.subarray(row * dimensions, (row + 1) * dimensions),
  );
  const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
    Array.from(a).reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0);
  t.ok(Math.abs(dot(one, again) - 1) < 1e-5);
  t.ok(dot(one, other) < 0.99);
  const wrong = { ...request, model: 'wrong-vectors' };
  await t.rejects(engine.embed(wrong, call()), { message: /320 dimensions|not 7/ });
  const [tokens = []] = await engine.tokenize('told', ['once upon a ☃ time'], call());
  const text = 'once upon a ☃ time';
  const pieces = tokens.map(({ start, stop }) => text.slice(start, stop).trim()).filter(Boolean);
  t.strictSame(pieces, ['once', 'upon', 'a', 'time']);
});

t.test('a file that is cut or no model says so, and harms no other', needed, async (t) => {
  for (const name of ['cut', 'noise']) {
    const refusal = (await say({ prompt: 'once' }, name).catch((error: unknown) => error)) as Error;
    t.match(refusal, { code: 'INVALID_ARGUMENT', message: /model\.gguf/ });
    t.notMatch(refusal.message, models, 'no place of this machine is told');
  }
  t.match(await say({ prompt: 'once' }), { text: ' upon a time' });
});

t.test("OpenAI's client chats with it through a host", needed, async (t) => {
  const host = await RunningHost.start({
    env: {
      NOA_PLUGINS__BUILTIN: 'inference',
      NOA_INFERENCE__MODEL_PATH: models,
      NOA_INFERENCE__TIMEOUT_MS: '30000',
    },
  });
  t.teardown(() => host.dispose());
  const openai = new OpenAI({ baseURL: `${host.url}/v1`, apiKey: host.token, maxRetries: 0 });
  const question = {
    model: 'told',
    messages: [{ role: 'user' as const, content: 'hi' }],
    temperature: 0,
  };
  const { choices } = await openai.chat.completions.create(question);
  t.match(choices[0], { message: { content: /Hello you/ }, finish_reason: 'stop' });
  let streamed = '';
  for await (const part of await openai.chat.completions.create({ ...question, stream: true })) {
    streamed += part.choices[0]?.delta.content ?? '';
  }
  t.equal(streamed, choices[0]?.message.content);
  t.match((await host.cli('model', 'list')).stdout, /told +1\.0\.0 +generation +ready/);
});
