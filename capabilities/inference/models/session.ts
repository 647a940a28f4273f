/**
 * Opens models with ONNX Runtime, which is loaded only when the first model is. Invariant: nothing reaches the
 * runtime before each file was seen to be plain and to hash to what its manifest says.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import type * as Onnx from 'onnxruntime-node';
import type { InferenceSession } from 'onnxruntime-node';
import type { Device, ModelFiles } from './runner.ts';
import { readHeader } from './safetensors.ts';

/** Throws NoaError INVALID_ARGUMENT naming the first file that is not what the manifest says. */
export async function verifyFiles(model: ModelFiles): Promise<void> {
  for (const { name, sha256, bytes } of model.files) {
    const found = await digestOf(join(model.folder, name), name, bytes);
    if (found !== sha256) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `${name} of model ${model.id} has the SHA-256 ${found}, not ${sha256}; fetch it again or correct its manifest.`,
      );
    }
  }
  if (model.weights !== undefined) await readHeader(join(model.folder, model.weights));
}

async function digestOf(path: string, name: string, bytes: number): Promise<string> {
  let file;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    throw new NoaError('INVALID_ARGUMENT', `The file ${name} cannot be read, or is a link.`, {
      cause: error,
    });
  }
  try {
    const { size } = await file.stat();
    if (size !== bytes) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `${name} has ${size} bytes now, not ${bytes}; scan the models again.`,
      );
    }
    const hash = createHash('sha256');
    for await (const chunk of file.createReadStream({ autoClose: false, highWaterMark: 1 << 20 })) {
      if (chunk instanceof Uint8Array) hash.update(chunk);
    }
    return hash.digest('hex');
  } finally {
    await file.close();
  }
}

/**
 * A session of one thread. Rejects with NoaError INVALID_ARGUMENT when the graph is none, UNAVAILABLE when this
 * machine lacks the device or the runtime.
 */
export async function openSession(model: ModelFiles, device: Device): Promise<InferenceSession> {
  const { InferenceSession } = await runtime();
  const create = async (): Promise<InferenceSession> =>
    InferenceSession.create(join(model.folder, model.graph), {
      executionProviders: [device],
      intraOpNumThreads: 1,
      interOpNumThreads: 1,
      executionMode: 'sequential',
      logSeverityLevel: 4,
    });
  try {
    return await create();
  } catch (error) {
    const why = reason(error, model.folder);
    if (device !== 'cpu') {
      throw new NoaError('UNAVAILABLE', `The device ${device} cannot run ${model.id}: ${why}`, {
        cause: error,
      });
    }
    throw new NoaError('INVALID_ARGUMENT', `${model.graph} of model ${model.id}: ${why}`, {
      cause: error,
    });
  }
}

/** ONNX Runtime; rejects with NoaError UNAVAILABLE where it cannot be loaded. */
export async function runtime(): Promise<typeof Onnx> {
  try {
    const loaded = await import('onnxruntime-node');
    loaded.env.logLevel = 'fatal'; // what goes wrong is thrown; its log would tell of places of this machine
    return loaded;
  } catch (error) {
    throw new NoaError(
      'UNAVAILABLE',
      'ONNX Runtime cannot be loaded on this machine; use a platform it is built for, or an upstream.',
      { cause: error },
    );
  }
}

/** What the runtime says, without places of this machine. */
export function reason(error: unknown, folder: string): string {
  const text = error instanceof Error ? error.message : String(error);
  return text
    .replaceAll(`${folder}/`, '')
    .replaceAll(folder, '')
    .replaceAll(/\/[^\s"']+\//g, '')
    .slice(0, 500);
}
