import { createHash } from 'node:crypto';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { ModelManifest } from '../../capabilities/inference/models/manifest.ts';
import { parseManifest } from '../../capabilities/inference/models/manifest.ts';
import { Graph } from '../../capabilities/inference/models/onnx.ts';
import { ModelRegistry } from '../../capabilities/inference/models/registry.ts';
import { openRunner } from '../../capabilities/inference/models/open.ts';
import type { Runner } from '../../capabilities/inference/models/runner.ts';
import { parseHeader, writeSafetensors } from '../../capabilities/inference/models/safetensors.ts';
import { MAX_TEXT, Unigram } from '../../capabilities/inference/models/unigram.ts';
import { describeDemo } from '../../capabilities/inference/training/graph.ts';

const DEMO = join(import.meta.dirname, '../../capabilities/inference/models/demo');
const sha256 = (content: string | Buffer): string =>
  createHash('sha256').update(content).digest('hex');
const invalid = (message: RegExp): { code: string; message: RegExp } => ({
  code: 'INVALID_ARGUMENT',
  message,
});

/** Writes a model's folder; `manifest` may correct what fits. */
async function folderOf(
  root: string,
  name: string,
  contents: { readonly [name: string]: Buffer },
  manifest: Omit<ModelManifest, 'files'>,
): Promise<void> {
  const folder = join(root, name);
  await mkdir(folder, { recursive: true });
  const files: Record<string, string> = {};
  for (const [file, content] of Object.entries(contents)) {
    await writeFile(join(folder, file), content);
    files[file] = sha256(content);
  }
  await writeFile(join(folder, 'model.json'), JSON.stringify({ ...manifest, files }));
}

const WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'good', 'bad', 'film', 'very'];
const TOKENIZER = Buffer.from(
  JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: WORDS.slice(0, 4).map((content, id) => ({
      id,
      content,
      special: true,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    })),
    normalizer: { type: 'Lowercase' },
    pre_tokenizer: { type: 'Whitespace' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: '[CLS]', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '[SEP]', type_id: 0 } },
      ],
      pair: [
        { SpecialToken: { id: '[CLS]', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '[SEP]', type_id: 0 } },
        { Sequence: { id: 'B', type_id: 1 } },
        { SpecialToken: { id: '[SEP]', type_id: 1 } },
      ],
      special_tokens: {
        '[CLS]': { id: '[CLS]', ids: [2], tokens: ['[CLS]'] },
        '[SEP]': { id: '[SEP]', ids: [3], tokens: ['[SEP]'] },
      },
    },
    decoder: null,
    model: {
      type: 'WordLevel',
      vocab: Object.fromEntries(WORDS.map((word, id) => [word, id])),
      unk_token: '[UNK]',
    },
  }),
);

/** Each word's value(s), `width` of them; the graph looks them up, and for scores adds them up over the words. */
function lookup(
  values: readonly number[],
  width: number,
  sum: boolean,
): { [name: string]: Buffer } {
  const weights = writeSafetensors([
    { name: 'words', dtype: 'F32', shape: [WORDS.length, width], data: new Float32Array(values) },
  ]);
  const g = new Graph('w.safetensors', parseHeader(weights, weights.length));
  const ids = g.input('input_ids', 'I64', ['batch', 'seq']);
  const mask = g.toFloat(g.input('attention_mask', 'I64', ['batch', 'seq']));
  const parts = g.toFloat(g.input('token_type_ids', 'I64', ['batch', 'seq']));
  const rows = g.op('Gather', [g.weight('words'), ids], { axis: 0 });
  if (sum) {
    // Words of the second part count twice.
    const times = g.op('Mul', [mask, g.op('Add', [parts, g.floats(1)])]);
    const counted = g.op('Mul', [rows, g.op('Unsqueeze', [times, g.ints([2])])]);
    const scores = g.op('ReduceSum', [counted, g.ints([1])], { keepdims: 0 });
    g.output('logits', scores, 'F32', ['batch', width]);
  } else {
    const kept = g.op('Add', [
      rows,
      g.op('Mul', [g.op('Unsqueeze', [g.op('Add', [parts, mask]), g.ints([2])]), g.floats(0)]),
    ]);
    g.output('hidden', kept, 'F32', ['batch', 'seq', width]);
  }
  return { 'model.onnx': g.build(), 'w.safetensors': weights, 'tokenizer.json': TOKENIZER };
}

const BASE = {
  version: '1.0.0',
  licence: 'MIT',
  graph: 'model.onnx',
  weights: 'w.safetensors',
  tokenizer: { kind: 'huggingface', file: 'tokenizer.json' },
  limits: { maxTokens: 8 },
} as const;

async function opened(
  t: Test,
  contents: { readonly [name: string]: Buffer },
  manifest: Omit<ModelManifest, 'files'>,
): Promise<Runner> {
  const root = t.testdir({});
  await folderOf(root, manifest.id, contents, manifest);
  const registry = new ModelRegistry({ cache: join(root, '.cache'), paths: [root] });
  await registry.rescan();
  const entry = registry.find(manifest.id);
  if (entry === undefined) throw new Error('the model is not listed');
  const runner = await openRunner(await registry.files(entry), 'cpu');
  t.teardown(() => runner.close());
  return runner;
}

t.test('a SafeTensors header is believed only when its tensors fill the file', async (t) => {
  const file = writeSafetensors([
    { name: 'a', dtype: 'F32', shape: [2, 2], data: new Float32Array([1, 2, 3, 4]) },
    { name: 'b', dtype: 'I8', shape: [3], data: new Int8Array([1, 2, 3]) },
    { name: 'none', dtype: 'F16', shape: [0], data: new Uint16Array() },
  ]);
  const tensors = parseHeader(file, file.length);
  const a = tensors.get('a');
  t.equal(a && file.readFloatLE(a.offset + 4), 2);
  for (let cut = 0; cut < file.length; cut += 1) {
    t.throws(() => parseHeader(file.subarray(0, cut), cut), { code: 'INVALID_ARGUMENT' });
  }
  t.throws(
    () => parseHeader(Buffer.concat([file, Buffer.alloc(1)]), file.length + 1),
    invalid(/added/),
  );

  const header = (tensors: object, bytes: number): Buffer => {
    const text = Buffer.from(JSON.stringify(tensors));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([length, text, Buffer.alloc(bytes)]);
  };
  const one = (from: number, to: number, shape: unknown = [1], dtype: unknown = 'F32'): object => ({
    dtype,
    shape,
    data_offsets: [from, to],
  });
  for (const [what, tensors, bytes] of [
    ['overlap', { a: one(0, 4), b: one(2, 6) }, 8],
    ['the same place twice', { a: one(0, 4), b: one(0, 4) }, 4],
    ['gap', { a: one(0, 4), b: one(8, 12) }, 12],
    ['overrun', { a: one(0, 4), b: one(4, 8) }, 4],
    ['negative', { a: one(-4, 0) }, 4],
    ['backwards', { a: one(4, 0) }, 4],
    ['overflow', { a: one(0, 4, [2 ** 52, 2 ** 52]) }, 4],
    ['fraction', { a: one(0, 4, [0.5]) }, 4],
    ['no shape', { a: one(0, 4, '1') }, 4],
    ['dtype of a prototype', { a: one(0, 4, [1], 'constructor') }, 4],
    ['null', { a: null }, 0],
  ] as const) {
    const bad = header(tensors, bytes);
    t.throws(() => parseHeader(bad, bad.length), { code: 'INVALID_ARGUMENT' }, what);
  }
  const sound = (bytes: Buffer): boolean => {
    try {
      for (const { offset, length } of parseHeader(bytes, bytes.length).values()) {
        if (offset < 8 || offset + length > bytes.length) return false;
      }
      return true;
    } catch (error) {
      return error instanceof NoaError && error.code === 'INVALID_ARGUMENT';
    }
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => sound(Buffer.from(bytes))));
  fc.assert(fc.property(fc.json(), (json) => sound(header(JSON.parse(json) as object, 8))));
  fc.assert(
    fc.property(fc.nat(file.length - 1), fc.nat(255), (at, byte) => {
      const changed = Buffer.from(file);
      changed[at] = byte;
      return sound(changed);
    }),
  );
});

t.test('a manifest that breaks a rule is refused with the place and the fix', async (t) => {
  const good = {
    id: 'm',
    version: '1.0.0',
    task: 'tensor',
    licence: 'MIT',
    graph: 'm.onnx',
    files: { 'm.onnx': 'a'.repeat(64) },
  };
  t.equal(parseManifest(good).id, 'm');
  for (const [change, message] of [
    [{ lisence: 'MIT' }, /\/lisence is not a known key; known are .*licence/],
    [{ licence: undefined }, /\/licence is required/],
    [{ graph: '../m.onnx' }, /\/graph .*plain name of a file/],
    [{ graph: 'other.onnx' }, /\/files must list other\.onnx/],
    [{ files: { '../m.onnx': 'a'.repeat(64) } }, /files/],
    [{ files: { 'm.onnx': 'A' } }, /SHA-256/],
    [{ task: 'embedding' }, /\/tokenizer is required by the task embedding/],
    [{ version: 'v1' }, /\/version .*1\.0\.0/],
    [
      { tokenizer: { kind: 'unigram', file: 'm.onnx', more: 1 } },
      /\/tokenizer\/more is not a known key/,
    ],
  ] as const) {
    t.throws(
      () => parseManifest(JSON.parse(JSON.stringify({ ...good, ...change }))),
      invalid(message),
    );
  }
});

t.test('a broken folder is listed with its reason and hinders no other', async (t) => {
  const root = t.testdir({ empty: {}, broken: { 'model.json': '{' } });
  const manifest = {
    id: 'scores',
    task: 'classification',
    labels: ['one', 'two'],
    ...BASE,
  } as const;
  const contents = lookup(Array(16).fill(0), 2, true);
  await folderOf(root, 'old', contents, { ...manifest, version: '1.9.0' });
  await folderOf(root, 'new', contents, { ...manifest, version: '1.10.0' });
  await folderOf(root, 'linked', contents, { ...manifest, id: 'linked' });
  await writeFile(join(root, 'outside'), contents['model.onnx'] ?? '');
  await folderOf(
    root,
    'escape',
    { 'model.onnx': Buffer.from('x'), ...contents },
    { ...manifest, id: 'escape' },
  );
  await import('node:fs/promises').then(({ rm }) => rm(join(root, 'escape', 'model.onnx')));
  await symlink('../outside', join(root, 'escape', 'model.onnx'));
  await folderOf(root, 'impostor', contents, { ...manifest, id: 'use-lite', version: '1.0.0' });

  const paths = [join(root, 'nowhere'), root];
  const registry = new ModelRegistry({ cache: join(root, '.cache'), paths });
  await registry.rescan();
  t.match(registry.find('nowhere')?.reason, /inference\.model_path/);
  t.equal(registry.find('scores')?.version, '1.10.0');
  t.equal(registry.find('scores', '1.9.0')?.version, '1.9.0');
  t.equal(registry.find('scores', '2.0.0'), undefined);
  t.match(registry.find('broken')?.reason, /not JSON/);
  t.match(registry.find('empty')?.reason, /model\.json is missing/);
  t.match(registry.find('escape')?.reason, /plain file and no link/);
  t.equal(
    registry.find('use-lite')?.manifest?.licence,
    'Apache-2.0',
    'no folder takes a built-in place',
  );
  for (const id of ['use-lite', 'use-lite-q8', 'silero-vad', 'demo-generator']) {
    t.equal(registry.find(id)?.reason, undefined, id);
  }
  const escape = registry.find('escape');
  if (escape) await t.rejects(registry.files(escape), invalid(/no link/));

  const entry = registry.find('scores');
  if (entry === undefined) return t.fail('scores is not listed');
  const files = await registry.files(entry);
  const weights = join(files.folder, 'w.safetensors');
  const content = await readFile(weights);
  await writeFile(weights, content.subarray(0, content.length - 4));
  await t.rejects(openRunner(files, 'cpu'), invalid(/w\.safetensors has \d+ bytes now/));
  await writeFile(
    weights,
    content.map((byte, at) => (at === content.length - 1 ? byte ^ 1 : byte)),
  );
  await t.rejects(openRunner(files, 'cpu'), invalid(/SHA-256/));
  const garbage = Buffer.from('this is no graph');
  await folderOf(
    root,
    'garbage',
    { ...contents, 'model.onnx': garbage },
    { ...manifest, id: 'garbage' },
  );
  await registry.rescan();
  const bad = registry.find('garbage');
  if (bad === undefined) return t.fail('garbage is not listed');
  const refusal = await openRunner(await registry.files(bad), 'cpu').catch(
    (error: unknown) => error,
  );
  t.match(refusal, invalid(/model\.onnx of model garbage/));
  t.notMatch(String(refusal), root, 'no place of this machine is told');
});

t.test('the unigram tokenizer takes any text', async (t) => {
  const tokenizer = new Unigram({
    pieces: [
      ['<unk>', 0],
      ['▁', -3],
      ['▁the', -1],
      ['the', -2],
      ['t', -4],
      ['h', -4],
      ['e', -4],
      ['é', -4],
    ],
    reserved: 1,
    unknown: 0,
  });
  const { ids, starts, stops } = tokenizer.encode('the the');
  t.same([...ids], [2, 2]);
  t.same([...starts], [0, 4]);
  t.same([...stops], [3, 7]);
  t.same([...tokenizer.encode('').ids], []);
  t.same([...tokenizer.encode('e\u0301').ids], [1, 7], 'composed');
  t.equal(
    tokenizer.encode('x\0\ud800日本').ids.filter((id) => id === 0).length,
    1,
    'one for a run',
  );
  const began = performance.now();
  t.ok(tokenizer.encode('the '.repeat(MAX_TEXT / 4)).ids.length > 200_000);
  t.ok(performance.now() - began < 5000, 'a megabyte is read in linear time');
  t.throws(() => tokenizer.encode('t'.repeat(MAX_TEXT + 1)), invalid(/Split it/));
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' }), (a, b) => {
      const text = `${a}\ud801${b} the`;
      const tokens = tokenizer.encode(text);
      let last = 0;
      return tokens.ids.every((_, at) => {
        const start = tokens.starts[at] ?? -1;
        const stop = tokens.stops[at] ?? -1;
        const sound = start >= last && stop >= start && stop <= text.length;
        last = start;
        return sound;
      });
    }),
  );
});

t.test('models of operators with a tokenizer.json embed, classify and rank', async (t) => {
  // Vectors: good (1,0), bad (0,1), film (1,1); special tokens lie on the first axis.
  const vectors = [9, 9, 0, 0, 1, 0, 1, 0, 3, 0, 0, 3, 3, 3, 0, 0];
  const embedder = await opened(t, lookup(vectors, 2, false), {
    id: 'embedder',
    task: 'embedding',
    dimensions: 2,
    pooling: 'mean',
    ...BASE,
  });
  const ids = (runner: Runner, text: string): Int32Array =>
    runner.tokenize?.(text).ids ?? new Int32Array();
  const tokens = embedder.tokenize?.('Good  film');
  t.same(tokens && [[...tokens.ids], [...tokens.starts], [...tokens.stops]], [
    [2, 4, 6, 3],
    [0, 0, 6, 10],
    [0, 4, 10, 10],
  ]);
  const rows =
    (await embedder.embed?.([ids(embedder, 'bad'), ids(embedder, 'good film bad')])) ?? [];
  const unit = (x: number, y: number): number[] => [x / Math.hypot(x, y), y / Math.hypot(x, y)];
  // Mean over [CLS] bad [SEP] = (2,3)/3; over five tokens (8,6)/5. Padding counts for nothing.
  for (const [at, expected] of [...unit(2, 3), ...unit(8, 6)].entries()) {
    t.ok(Math.abs((rows[at] ?? 0) - expected) < 1e-6, `${rows[at]} is ${expected}`);
  }
  const long = ids(embedder, 'bad '.repeat(50));
  const [x = 0, y = 0] = (await embedder.embed?.([long])) ?? [];
  t.ok(Math.abs(y / x - 18 / 2) < 1e-4, 'cut to eight tokens, of which the last is [SEP]');

  const classifier = await opened(
    t,
    lookup([0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 0], 2, true),
    {
      id: 'classifier',
      task: 'classification',
      labels: ['praise', 'blame'],
      ...BASE,
    },
  );
  const scores =
    (await classifier.classify?.([ids(classifier, 'good film'), ids(classifier, 'bad')])) ?? [];
  const high = Math.exp(2) / (Math.exp(2) + 1);
  for (const [at, expected] of [high, 1 - high, 1 - high, high].entries()) {
    t.ok(Math.abs((scores[at] ?? 0) - expected) < 1e-6);
  }

  const ranker = await opened(t, lookup([0, 0, 0, 0, 1, -1, 0, 0], 1, true), {
    id: 'ranker',
    task: 'rerank',
    ...BASE,
  });
  const ranked = await ranker.rerank?.('good', ['bad', 'good', 'film', 'very '.repeat(60)]);
  const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));
  for (const [at, expected] of [sigmoid(-1), sigmoid(3), sigmoid(1), sigmoid(1)].entries()) {
    t.ok(Math.abs((ranked?.scores[at] ?? 0) - expected) < 1e-6, 'the second part counts twice');
  }
  t.equal(ranked?.tokens, 5 + 5 + 5 + 8, 'a text is cut, its query is not');
  await t.rejects(async () => ranker.rerank?.('good '.repeat(9), ['bad']), invalid(/shorten it/));
});

t.test('raw tensors are checked before they reach the runtime', async (t) => {
  const registry = new ModelRegistry({ cache: t.testdir({}), paths: [] });
  await registry.rescan();
  const entry = registry.find('silero-vad');
  if (entry === undefined) return t.fail('silero-vad is not listed');
  const vad = await openRunner(await registry.files(entry), 'cpu');
  t.teardown(() => vad.close());
  const run: NonNullable<Runner['run']> = async (inputs, outputs) =>
    (await vad.run?.(inputs, outputs)) ?? [];
  const tensor = (name: string, shape: number[], datatype: string, data: ArrayBufferView) => ({
    name,
    shape,
    datatype,
    data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  });
  const input = tensor('input', [1, 576], 'FP32', new Float32Array(576));
  const state = tensor('state', [2, 1, 128], 'FP32', new Float32Array(256));
  const sr = tensor('sr', [], 'INT64', new BigInt64Array([16_000n]));
  const [speech, next] = await run([input, state, sr]);
  t.same(speech?.shape, [1, 1]);
  t.ok(Buffer.from(speech?.data ?? []).readFloatLE() < 0.1, 'silence is no speech');
  t.same([next?.name, next?.shape, next?.data.length], ['stateN', [2, 1, 128], 1024]);
  t.same(
    (await run([input, state, sr], ['stateN'])).map(({ name }) => name),
    ['stateN'],
  );
  for (const [inputs, message] of [
    [[input, state], /"sr" is missing/],
    [[input, state, sr, sr], /"sr" is given twice/],
    [[input, state, sr, { ...sr, name: 'rate' }], /"rate" is no input; there are input, state, sr/],
    [[{ ...input, datatype: 'FP64' }, state, sr], /is FP64 and must be FP32/],
    [[{ ...input, shape: [1, 577] }, state, sr], /2304 bytes where \[1,577\] needs 2308/],
    [[{ ...input, shape: [576] }, state, sr], /has the shape \[576\] and must have/],
    [[{ ...input, shape: [-1, -576] }, state, sr], /no count/],
    [[{ ...input, shape: [2 ** 40, 2 ** 40] }, state, sr], /elements/],
    [[{ ...input, data: input.data.subarray(3) }, state, sr], /bytes/],
    [[input, { ...state, shape: [2, 2, 64] }, sr], /shape/],
  ] as const) {
    await t.rejects(run(inputs), invalid(message));
  }
  await t.rejects(
    run([input, state, sr], ['what']),
    invalid(/no output "what"; it has output, stateN/),
  );
});

t.test('the demonstration generates: seeds, stop strings, lengths and aborts', async (t) => {
  const { graph, manifest } = await describeDemo(DEMO);
  t.equal(
    sha256(await readFile(join(DEMO, 'model.onnx'))),
    sha256(graph),
    'the graph is the script’s',
  );
  t.same(JSON.parse(await readFile(join(DEMO, 'model.json'), 'utf8')), manifest);

  const registry = new ModelRegistry({ cache: t.testdir({}), paths: [] });
  await registry.rescan();
  const entry = registry.find('demo-generator');
  if (entry === undefined) return t.fail('demo-generator is not listed');
  t.match(entry.manifest?.description, /Demonstration only/);
  const runner = await openRunner(await registry.files(entry), 'cpu');
  t.teardown(() => runner.close());
  const signal = new AbortController().signal;
  const all = async (prompt: string, change: object = {}, until = signal) => {
    const parameters = {
      maxTokens: 30,
      temperature: 0.8,
      topP: 0.95,
      seed: 1,
      stop: [],
      ...change,
    };
    const parts: string[] = [];
    let reason: string | undefined;
    let tokens = 0;
    for await (const part of runner.generate?.(
      runner.tokenize?.(prompt).ids ?? new Int32Array(),
      parameters,
      until,
    ) ?? []) {
      parts.push(part.text);
      tokens += part.tokens;
      reason = part.finishReason;
    }
    return { text: parts.join(''), parts, reason, tokens };
  };
  const first = await all('River (noun):');
  t.ok(first.parts.length > 1, 'it comes in parts');
  t.same(await all('River (noun):'), first, 'the same seed, the same text');
  const texts = await Promise.all(
    [2, 3, 4].map(async (seed) => (await all('River (noun):', { seed })).text),
  );
  t.ok(new Set([first.text, ...texts]).size > 1, 'another seed, another text');
  t.equal(
    (await all('river (noun):', { temperature: 0, seed: 1 })).text,
    (await all('river (noun):', { temperature: 0, seed: 2 })).text,
  );
  const short = await all('river (noun):', { maxTokens: 3 });
  t.same([short.reason, short.tokens], ['length', 3]);
  for (let size = 1; size < first.text.length - 1; size += 3) {
    const stop = first.text.slice(size, size + 3);
    const stopped = await all('River (noun):', { stop: [stop] });
    t.equal(stopped.text, first.text.slice(0, first.text.indexOf(stop)), `stops before ${stop}`);
    t.equal(stopped.reason, 'stop');
  }
  await t.rejects(all('word '.repeat(200)), invalid(/takes 128/));
  const controller = new AbortController();
  controller.abort(new NoaError('CANCELLED', 'The caller went away.'));
  await t.rejects(all('river (noun):', {}, controller.signal), { code: 'CANCELLED' });
  await t.rejects(
    openRunner(await registry.files(entry), 'cuda').then((it) => it.close()),
    { code: 'UNAVAILABLE', message: /cuda/ },
  );
});
