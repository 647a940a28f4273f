/**
 * `model.json`: what a folder with a model holds and how it is to be used. Invariant: what is answered names
 * only plain files that lie in the folder itself; whether they hold what they should is checked at loading.
 */
import { lstat, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type CompiledSchema, type JsonSchema, NoaError, compileSchema } from '@noa/sdk/host';
import type { Task, TensorForm } from '../backend.ts';
import { DATATYPES } from '../capability.ts';
import { isLlama } from './llama.ts';
import type { ModelFiles } from './runner.ts';

export const MANIFEST = 'model.json';
const MAX_MANIFEST = 1 << 20;
/** ONNX files are protobuf messages, which end at 2 GiB; weights may lie beside them. */
const MAX_GRAPH = 2 ** 31 - 1;
const MAX_FILE = 64 * 2 ** 30;
/** Of a text, or of a prompt with its answer, where the manifest does not say. */
export const PRESET_TOKENS = 512;
const PRESET_LLAMA_TOKENS = 4096;

const fileName: JsonSchema = {
  type: 'string',
  pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$',
  description: 'must be the plain name of a file in the folder, without a path',
};
const form: JsonSchema = {
  type: 'object',
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 256 },
    shape: { type: 'array', items: { type: 'integer', minimum: -1 }, maxItems: 8 },
    datatype: { enum: DATATYPES },
  },
  required: ['name', 'shape', 'datatype'],
  additionalProperties: false,
};
const forms: JsonSchema = { type: 'array', items: form, minItems: 1, maxItems: 64 };

/** JSON Schema of `model.json`. */
export const MODEL_SCHEMA: JsonSchema = {
  type: 'object',
  properties: {
    $schema: { type: 'string', maxLength: 512 },
    id: {
      type: 'string',
      pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$',
      description: 'must be letters, digits, dots, underscores and hyphens, at most 64',
    },
    version: {
      type: 'string',
      pattern: '^(0|[1-9][0-9]{0,8})[.](0|[1-9][0-9]{0,8})[.](0|[1-9][0-9]{0,8})$',
      description: 'must be three numbers such as 1.0.0',
    },
    task: { enum: ['embedding', 'generation', 'classification', 'rerank', 'tensor'] },
    description: { type: 'string', maxLength: 1000 },
    licence: { type: 'string', minLength: 1, maxLength: 200 },
    files: {
      type: 'object',
      propertyNames: fileName,
      additionalProperties: {
        type: 'string',
        pattern: '^[0-9a-f]{64}$',
        description: 'must be the SHA-256 of the file in hexadecimal',
      },
      minProperties: 1,
      maxProperties: 256,
    },
    graph: fileName,
    weights: fileName,
    tokenizer: {
      type: 'object',
      properties: { kind: { enum: ['unigram', 'huggingface'] }, file: fileName },
      required: ['kind', 'file'],
      additionalProperties: false,
    },
    pooling: { enum: ['none', 'mean', 'cls'] },
    normalize: { type: 'boolean' },
    dimensions: { type: 'integer', minimum: 1, maximum: 16_384 },
    limits: {
      type: 'object',
      properties: { maxTokens: { type: 'integer', minimum: 1, maximum: 1_048_576 } },
      additionalProperties: false,
    },
    device: { enum: ['auto', 'cpu', 'cuda'] },
    keepAliveMs: { type: 'integer', minimum: 0, maximum: 2_147_483_647 },
    labels: {
      type: 'array',
      items: { type: 'string', minLength: 1, maxLength: 256 },
      minItems: 1,
      maxItems: 65_536,
    },
    inputs: forms,
    outputs: forms,
  },
  required: ['id', 'version', 'task', 'licence', 'files', 'graph'],
  additionalProperties: false,
};

/** A `model.json` that keeps to `MODEL_SCHEMA`. */
export interface ModelManifest {
  readonly id: string;
  readonly version: string;
  readonly task: Task;
  readonly description?: string;
  readonly licence: string;
  readonly files: { readonly [name: string]: string };
  readonly graph: string;
  /** SafeTensors that the graph names as its external data. */
  readonly weights?: string;
  readonly tokenizer?: NonNullable<ModelFiles['tokenizer']>;
  readonly pooling?: 'none' | 'mean' | 'cls';
  readonly normalize?: boolean;
  readonly dimensions?: number;
  readonly limits?: { readonly maxTokens?: number };
  readonly device?: 'auto' | 'cpu' | 'cuda';
  /** How long it stays loaded without use. */
  readonly keepAliveMs?: number;
  readonly labels?: readonly string[];
  readonly inputs?: readonly TensorForm[];
  readonly outputs?: readonly TensorForm[];
}

let check: CompiledSchema | undefined;

/** Throws NoaError INVALID_ARGUMENT with the first rule that `value` breaks. */
export function parseManifest(value: unknown): ModelManifest {
  check ??= compileSchema(MODEL_SCHEMA, { described: true });
  const [violation] = check(value);
  if (violation !== undefined) {
    const { path, rule, message } = violation;
    const where = path === '' ? 'The manifest' : path;
    throw invalid(
      `${where} ${message}${rule === 'additionalProperties' ? `; ${knownKeys(path)}` : ''}`,
    );
  }
  const manifest = value as ModelManifest;
  for (const name of [manifest.graph, manifest.weights, manifest.tokenizer?.file]) {
    if (name !== undefined && !Object.hasOwn(manifest.files, name)) {
      throw invalid(`/files must list ${name} with its SHA-256, since the manifest names it`);
    }
  }
  requirePieces(manifest);
  return manifest;
}

/** The manifest of the model in `folder`, and its files. Throws NoaError INVALID_ARGUMENT. */
export async function readModel(
  folder: string,
): Promise<{ manifest: ModelManifest; files: ModelFiles }> {
  await sizeOf(folder, MANIFEST, MAX_MANIFEST);
  let value: unknown;
  try {
    value = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8'));
  } catch (error) {
    throw invalid('it is not JSON', error);
  }
  const manifest = parseManifest(value);
  return { manifest, files: await filesOf(folder, manifest) };
}

/** Finds the files of `manifest` in `folder`. Throws NoaError INVALID_ARGUMENT. */
export async function filesOf(folder: string, manifest: ModelManifest): Promise<ModelFiles> {
  const { id, version, task, graph, weights, tokenizer, pooling, dimensions, labels } = manifest;
  const { inputs, outputs } = manifest;
  const files = await Promise.all(
    Object.entries(manifest.files).map(async ([name, sha256]) => {
      const bytes = await sizeOf(
        folder,
        name,
        name === graph && !isLlama(manifest) ? MAX_GRAPH : MAX_FILE,
      );
      return { name, sha256, bytes };
    }),
  );
  return {
    id,
    version,
    task,
    folder,
    files,
    graph,
    ...(weights !== undefined && { weights }),
    ...(tokenizer !== undefined && { tokenizer }),
    ...(pooling !== undefined && { pooling }),
    normalize: manifest.normalize ?? task === 'embedding',
    ...(dimensions !== undefined && { dimensions }),
    maxTokens: maxTokensOf(manifest),
    ...(labels !== undefined && { labels }),
    ...(inputs !== undefined && { inputs }),
    ...(outputs !== undefined && { outputs }),
  };
}

/** Of one text, or of a prompt with its answer. */
export function maxTokensOf(manifest: Pick<ModelManifest, 'graph' | 'limits'>): number {
  const preset = isLlama(manifest) ? PRESET_LLAMA_TOKENS : PRESET_TOKENS;
  return manifest.limits?.maxTokens ?? preset;
}

function requirePieces(manifest: ModelManifest): void {
  const { task, tokenizer, dimensions, labels } = manifest;
  if (isLlama(manifest)) {
    if (task !== 'generation' && task !== 'embedding') {
      throw invalid('/task must be generation or embedding for a GGUF file');
    }
    for (const name of ['weights', 'tokenizer'] as const) {
      if (manifest[name] !== undefined)
        throw invalid(`/${name} lies in the GGUF file; leave it out`);
    }
  } else if (task !== 'tensor' && tokenizer === undefined) {
    throw invalid(`/tokenizer is required by the task ${task}`);
  }
  if (task === 'embedding' && dimensions === undefined) {
    throw invalid('/dimensions is required by the task embedding');
  }
  if (task === 'classification' && labels === undefined) {
    throw invalid('/labels is required by the task classification');
  }
  if (task === 'rerank' && tokenizer?.kind !== 'huggingface') {
    throw invalid('/tokenizer/kind must be huggingface for the task rerank, which joins two texts');
  }
}

async function sizeOf(folder: string, name: string, most: number): Promise<number> {
  let stats;
  try {
    stats = await lstat(join(folder, name));
  } catch (error) {
    throw new NoaError('INVALID_ARGUMENT', `The file ${name} is missing; put it into the folder.`, {
      cause: error,
    });
  }
  if (!stats.isFile()) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${name} must be a plain file and no link; copy it there.`,
    );
  }
  if (stats.size === 0 || stats.size > most) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `${name} has ${stats.size} bytes; 1 to ${most} are taken.`,
    );
  }
  return stats.size;
}

function knownKeys(path: string): string {
  const parent = path.slice(1, path.lastIndexOf('/'));
  const { properties } = MODEL_SCHEMA;
  if (parent === '') return `known are ${Object.keys(properties ?? {}).join(', ')}`;
  return `remove it or correct its name`;
}

function invalid(message: string, cause?: unknown): NoaError {
  return new NoaError('INVALID_ARGUMENT', `${MANIFEST}: ${message}.`, { cause });
}
