/**
 * Graph and manifest of `demo-generator` from the weights and the vocabulary that train.py made.
 * Usage: node graph.ts FOLDER
 */
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MANIFEST, type ModelManifest } from '../models/manifest.ts';
import { readHeader } from '../models/safetensors.ts';
import { buildDecoder } from './decoder.ts';

const BESIDE = ['weights.safetensors', 'vocabulary.unigram', 'NOTICE.txt'];

/** What the folder's `model.onnx` and `model.json` must be. */
export async function describeDemo(
  folder: string,
): Promise<{ graph: Buffer; manifest: ModelManifest }> {
  const weights = await readHeader(join(folder, 'weights.safetensors'));
  const graph = buildDecoder('weights.safetensors', weights);
  const files: Record<string, string> = { 'model.onnx': sha256(graph) };
  for (const name of BESIDE) files[name] = sha256(await readFile(join(folder, name)));
  const manifest: ModelManifest = {
    id: 'demo-generator',
    version: '1.0.0',
    task: 'generation',
    description:
      'Demonstration only: a tiny model (1.3 million parameters) that makes up English definitions, to try streaming with. It knows nothing. Begin with a word and its kind: river (noun):',
    licence: 'MIT; trained on WordNet 3.0 (WordNet licence, see NOTICE.txt)',
    graph: 'model.onnx',
    weights: 'weights.safetensors',
    tokenizer: { kind: 'unigram', file: 'vocabulary.unigram' },
    limits: { maxTokens: 128 },
    files,
  };
  return { graph, manifest };
}

function sha256(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

if (import.meta.main) {
  const folder = process.argv[2];
  if (folder === undefined) throw new Error('usage: node graph.ts FOLDER');
  const { graph, manifest } = await describeDemo(folder);
  await writeFile(join(folder, 'model.onnx'), graph);
  await writeFile(join(folder, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
}
