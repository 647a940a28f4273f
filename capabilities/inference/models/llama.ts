/**
 * Runs GGUF files by llama.cpp, through the package `node-llama-cpp` where that is installed: text and chats with
 * the model's own template, and embeddings. Invariant: what people write is never read as a special token, so
 * nobody speaks with the voice of the system.
 */
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { NoaError } from '@noa/sdk/host';
import { Outgoing } from './generator.ts';
import type { Device, GeneratedPart, ModelFiles, Runner, Tokens, Turn } from './runner.ts';
import { reason } from './session.ts';
import { toUnitLength } from './text-model.ts';

/** A variable, for the package is no dependency: it weighs more than the host. */
const PACKAGE: string = 'node-llama-cpp';
/** Generations at one time; each has a cache of keys and values. */
const SEQUENCES = 4;
/** Tokens that tell how the next one joins them. */
const BEFORE = 8;
const MAX_SEED = 2 ** 32 - 1;

/** What is used of the package. */
interface LlamaPackage {
  readonly getLlama: (options: object) => Promise<{
    loadModel(options: { modelPath: string; gpuLayers?: 'max' }): Promise<LlamaModel>;
    dispose(): Promise<void>;
  }>;
  readonly resolveChatWrapper: (model: LlamaModel) => {
    generateContextState(state: { chatHistory: object[] }): {
      contextText: { tokenize(tokenizer: unknown): number[] };
    };
  };
  readonly LlamaLogLevel: { readonly disabled: string };
}

interface LlamaModel {
  readonly tokenizer: unknown;
  readonly trainContextSize: number;
  readonly memoryUsage: { readonly ram: number; readonly vram: number };
  tokenize(text: string): number[];
  detokenize(ids: readonly number[], special?: boolean, before?: readonly number[]): string;
  isEogToken(id: number): boolean;
  createContext(options: object): Promise<LlamaContext>;
  createEmbeddingContext(options: object): Promise<{
    getEmbeddingFor(ids: number[]): Promise<{ readonly vector: readonly number[] }>;
  }>;
}

interface LlamaContext {
  readonly memoryUsage: { readonly ram: number; readonly vram: number };
  getSequence(): {
    evaluate(ids: number[], options: object): AsyncGenerator<number>;
    dispose(): Promise<void>;
  };
}

export function isLlama({ graph }: Pick<ModelFiles, 'graph'>): boolean {
  return graph.endsWith('.gguf');
}

/** Rejects with NoaError UNAVAILABLE without the package or the device, INVALID_ARGUMENT when the file is no such model. */
export async function openLlama(
  model: ModelFiles,
  device: Device,
  threads: number,
): Promise<Runner> {
  const library = await installed();
  const { llama, loaded } = await load(library, model, device, threads);
  try {
    const tokenize = (text: string): Tokens => placesOf(loaded, text);
    const common = {
      device,
      tokenize,
      textOf: (id: number) => loaded.detokenize([id], true),
      close: () => llama.dispose(),
    };
    const size = Math.min(model.maxTokens, loaded.trainContextSize);
    if (model.task === 'embedding') {
      const embed = await embedder(model, loaded, size, threads);
      return { ...common, memoryBytes: bytesOf(loaded), embed };
    }
    const options = { contextSize: size, sequences: SEQUENCES, threads };
    const context = await loaded.createContext(options);
    return {
      ...common,
      memoryBytes: bytesOf(loaded) + bytesOf(context),
      chat: chat(library, loaded),
      generate: generator(model, loaded, context, size),
    };
  } catch (error) {
    await llama.dispose();
    throw unfit(model, error);
  }
}

async function installed(): Promise<LlamaPackage> {
  try {
    return (await import(PACKAGE)) as LlamaPackage;
  } catch (error) {
    throw new NoaError(
      'UNAVAILABLE',
      'GGUF files are run by the package node-llama-cpp, which is not installed: npm install --no-save node-llama-cpp',
      { cause: error },
    );
  }
}

async function load(
  { getLlama, LlamaLogLevel }: LlamaPackage,
  model: ModelFiles,
  device: Device,
  threads: number,
): Promise<{
  llama: Awaited<ReturnType<LlamaPackage['getLlama']>>;
  loaded: LlamaModel;
}> {
  let llama;
  try {
    llama = await getLlama({
      build: 'never',
      skipDownload: true,
      progressLogs: false,
      logLevel: LlamaLogLevel.disabled,
      gpu: device === 'cuda' ? 'cuda' : false,
      maxThreads: threads,
    });
  } catch (error) {
    throw new NoaError('UNAVAILABLE', `llama.cpp does not run on the device ${device} here.`, {
      cause: error,
    });
  }
  try {
    return { llama, loaded: await llama.loadModel({ modelPath: join(model.folder, model.graph) }) };
  } catch (error) {
    await llama.dispose();
    throw unfit(model, error);
  }
}

async function embedder(
  { id, dimensions = 0, normalize }: ModelFiles,
  model: LlamaModel,
  contextSize: number,
  threads: number,
): Promise<NonNullable<Runner['embed']>> {
  const context = await model.createEmbeddingContext({ contextSize, threads });
  return async (batch) => {
    const rows = new Float32Array(batch.length * dimensions);
    for (const [row, ids] of batch.entries()) {
      // Room for the tokens that begin and end a text.
      const { vector } = await context.getEmbeddingFor([...ids.subarray(0, contextSize - 2)]);
      if (vector.length !== dimensions) {
        throw new NoaError(
          'INVALID_ARGUMENT',
          `Model ${id} answers ${vector.length} dimensions, not ${dimensions}; correct its manifest.`,
        );
      }
      rows.set(vector, row * dimensions);
    }
    if (normalize) toUnitLength(rows, dimensions);
    return rows;
  };
}

function generator(
  { id }: ModelFiles,
  model: LlamaModel,
  context: LlamaContext,
  size: number,
): NonNullable<Runner['generate']> {
  return async function* generate(prompt, parameters, signal): AsyncGenerator<GeneratedPart> {
    const ids = [...prompt];
    if (ids.length === 0) throw invalid('The prompt is empty; write its beginning.');
    if (ids.length >= size) {
      throw invalid(
        `The prompt has ${ids.length} tokens; ${id} takes ${size} with its answer. Shorten it.`,
      );
    }
    const most = Math.min(size - ids.length, parameters.maxTokens);
    const { temperature, topP, seed = randomInt(MAX_SEED), stop } = parameters;
    const before = ids.slice(-BEFORE);
    const decode = (answer: readonly number[]): string => model.detokenize(answer, false, before);
    const text = new Outgoing({ decode }, stop);
    const sequence = context.getSequence();
    try {
      const sampling = { temperature, topP, topK: 0, minP: 0, seed: seed % MAX_SEED };
      const evaluated = sequence.evaluate(ids, { ...sampling, yieldEogToken: true });
      let count = 0;
      for await (const token of evaluated) {
        signal.throwIfAborted();
        count += 1;
        const part = text.part(token, model.isEogToken(token), count === most);
        yield part;
        if (part.finishReason !== undefined) return;
      }
    } finally {
      await sequence.dispose();
    }
  };
}

/** What was said, as the model was taught to read it, up to where its own answer begins. */
function chat(
  { resolveChatWrapper }: LlamaPackage,
  model: LlamaModel,
): (turns: readonly Turn[]) => Int32Array {
  const form = resolveChatWrapper(model);
  return (turns) => {
    const chatHistory: object[] = turns.map(({ role, text }) =>
      role === 'assistant' ? { type: 'model', response: [text] } : { type: role, text },
    );
    if (turns.at(-1)?.role !== 'assistant') chatHistory.push({ type: 'model', response: [] });
    const { contextText } = form.generateContextState({ chatHistory });
    return Int32Array.from(contextText.tokenize(model.tokenizer));
  };
}

/** A token that is a part of a character, or a mark of the model's, has no extent. */
function placesOf(model: LlamaModel, text: string): Tokens {
  const ids = model.tokenize(text);
  const starts = new Int32Array(ids.length);
  const stops = new Int32Array(ids.length);
  let at = 0;
  for (const [index, id] of ids.entries()) {
    const piece = model.detokenize([id], false, ids.slice(Math.max(0, index - BEFORE), index));
    const word = text.startsWith(piece, at) ? piece : piece.trim();
    // Behind what has no extent.
    const start = word === '' ? -1 : text.slice(at, at + word.length + BEFORE).indexOf(word);
    starts[index] = at + Math.max(start, 0);
    if (start >= 0) at += start + word.length;
    stops[index] = at;
  }
  return { ids: Int32Array.from(ids), starts, stops };
}

function bytesOf({ memoryUsage }: Pick<LlamaModel, 'memoryUsage'>): number {
  return memoryUsage.ram + memoryUsage.vram;
}

function unfit(model: ModelFiles, error: unknown): NoaError {
  if (error instanceof NoaError) return error;
  const why = reason(error, model.folder);
  return new NoaError('INVALID_ARGUMENT', `${model.graph} of model ${model.id}: ${why}`, {
    cause: error,
  });
}

function invalid(message: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', message);
}
