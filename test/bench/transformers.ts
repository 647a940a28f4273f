/**
 * The same embedder under transformers.js (`@huggingface/transformers`), as its users run one: tokenizer and
 * model with their defaults, text by text. No dependency of this repository, for its size: the bench is told
 * the folder in which it was installed.
 */
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

type Embed = (text: string) => Promise<unknown>;
type Tokens = { readonly input_ids: unknown; readonly attention_mask: unknown };

/** What is used of it; the package has no types that this repository knows. */
interface Transformers {
  readonly env: { allowRemoteModels: boolean; localModelPath: string };
  readonly AutoTokenizer: {
    from_pretrained(id: string): Promise<(text: string, how: object) => Tokens>;
  };
  readonly AutoModel: {
    from_pretrained(id: string, how: object): Promise<(tokens: Tokens) => Promise<unknown>>;
  };
}

/** `cache` holds the model that the host has made; `folder` has `node_modules` with the package. */
export async function openTransformers(folder: string, cache: string): Promise<Embed> {
  const [made = ''] = await readdir(cache);
  const from = join(cache, made);
  const models = join(cache, '.transformers');
  const onnx = join(models, 'use-lite/onnx');
  await mkdir(onnx, { recursive: true });
  for (const name of ['model.onnx', 'model.safetensors']) {
    await copyFile(join(from, name), join(onnx, name));
  }
  const { pieces } = JSON.parse(await readFile(join(from, 'vocabulary.json'), 'utf8')) as {
    pieces: [string, number][];
  };
  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true };
  const files = {
    'tokenizer.json': {
      version: '1.0',
      added_tokens: [],
      normalizer: { type: 'NFKC' },
      pre_tokenizer: metaspace,
      post_processor: null,
      decoder: metaspace,
      model: { type: 'Unigram', unk_id: 0, vocab: pieces },
    },
    'tokenizer_config.json': { model_max_length: 128, pad_token: pieces[0]?.[0] },
    'config.json': { model_type: 'bert', architectures: ['BertModel'] },
  };
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(models, 'use-lite', name), JSON.stringify(content));
  }
  const resolved = createRequire(join(folder, 'package.json')).resolve('@huggingface/transformers');
  const { env, AutoModel, AutoTokenizer } = (await import(
    pathToFileURL(resolved).href
  )) as Transformers;
  env.allowRemoteModels = false;
  env.localModelPath = models;
  const tokenize = await AutoTokenizer.from_pretrained('use-lite');
  const model = await AutoModel.from_pretrained('use-lite', { dtype: 'fp32' });
  return (text) => {
    const { input_ids, attention_mask } = tokenize(text, { padding: true, truncation: true });
    return model({ input_ids, attention_mask });
  };
}
