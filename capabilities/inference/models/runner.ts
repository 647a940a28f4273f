/**
 * One loaded model, inside a worker: texts or tensors in, numbers or text out. Whoever calls it decides
 * what runs together and when; a runner does one thing at a time and knows nothing of queues.
 */
import { NoaError } from '@noa/sdk/host';
import type { InferenceSession, Tensor as RuntimeTensor } from 'onnxruntime-node';
import type { FinishReason, Task, Tensor, TensorForm } from '../backend.ts';
import { generatorOf } from './generator.ts';
import { openSession, reason, runtime, verifyFiles } from './session.ts';
import { formsOf, fromRuntime, toRuntime } from './tensors.ts';
import { TextModel } from './text-model.ts';
import { type Tokenizer, openTokenizer } from './tokenizer.ts';

/** Where the parts of a model lie and what they are; every path was judged to be inside its folder. */
export interface ModelFiles {
  readonly id: string;
  readonly version: string;
  readonly task: Task;
  readonly folder: string;
  /** Names in the folder, with what they must hash to. */
  readonly files: readonly {
    readonly name: string;
    readonly sha256: string;
    readonly bytes: number;
  }[];
  /** Name of the ONNX file. */
  readonly graph: string;
  /** Name of the SafeTensors file that the graph takes its external data from. */
  readonly weights?: string;
  readonly tokenizer?: { readonly kind: 'unigram' | 'huggingface'; readonly file: string };
  readonly pooling?: 'none' | 'mean' | 'cls';
  readonly normalize: boolean;
  readonly dimensions?: number;
  readonly maxTokens: number;
  readonly labels?: readonly string[];
  readonly inputs?: readonly TensorForm[];
  readonly outputs?: readonly TensorForm[];
}

export type Device = 'cpu' | 'cuda';

/** Places are in UTF-16 units of the text; special tokens have none: `starts` equals `stops`. */
export interface Tokens {
  readonly ids: Int32Array;
  readonly starts: Int32Array;
  readonly stops: Int32Array;
}

export interface GenerateParameters {
  readonly maxTokens: number;
  /** 0 takes the likeliest. */
  readonly temperature: number;
  readonly topP: number;
  /** The same seed gives the same text. */
  readonly seed?: number | undefined;
  readonly stop: readonly string[];
}

/** The last has a reason; text ends at whole characters. */
export interface GeneratedPart {
  readonly text: string;
  /** Tokens that this part stands for. */
  readonly tokens: number;
  readonly finishReason?: FinishReason;
}

/** All throw or reject with NoaError INVALID_ARGUMENT for what the model cannot take. */
export interface Runner {
  /** What it takes beside the runtime itself, about. */
  readonly memoryBytes: number;
  readonly device: Device;
  tokenize?(text: string): Tokens;
  /** What a token reads as. */
  textOf?(id: number): string;
  /** One row of `dimensions` for each; shorter ones are padded, so alike lengths belong together. */
  embed?(batch: readonly Int32Array[]): Promise<Float32Array>;
  /** One row of as many scores as there are labels. */
  classify?(batch: readonly Int32Array[]): Promise<Float32Array>;
  /** A score for each pair of query and text. */
  rerank?(
    query: string,
    texts: readonly string[],
  ): Promise<{ scores: Float32Array; tokens: number }>;
  generate?(
    prompt: Int32Array,
    parameters: GenerateParameters,
    signal: AbortSignal,
  ): AsyncIterable<GeneratedPart>;
  run?(inputs: readonly Tensor[], outputs?: readonly string[]): Promise<Tensor[]>;
  close(): Promise<void>;
}

/** A session holds its weights and, while it runs, about as much again of the graph's own. */
const OVERHEAD_BYTES = 16 << 20;

/**
 * Rejects with NoaError INVALID_ARGUMENT when the files are not what the manifest says or do not fit together,
 * UNAVAILABLE when this machine lacks the device. Blocks its thread while the model runs: for worker threads.
 */
export async function openRunner(model: ModelFiles, device: Device): Promise<Runner> {
  await verifyFiles(model);
  const tokenizer = model.tokenizer === undefined ? undefined : await openTokenizer(model);
  const session = await openSession(model, device);
  try {
    const runner: Runner = {
      memoryBytes: model.files.reduce((sum, { bytes }) => sum + bytes, OVERHEAD_BYTES),
      device,
      ...(tokenizer !== undefined && {
        tokenize: (text) => tokenizer.encode(text),
        textOf: (id) => tokenizer.textOf(id),
      }),
      ...(await abilities(model, session, tokenizer)),
      close: async () => session.release(),
    };
    await warmUp(runner);
    return runner;
  } catch (error) {
    await session.release();
    if (error instanceof NoaError) throw error;
    const why = reason(error, model.folder);
    throw new NoaError('INVALID_ARGUMENT', `Model ${model.id} does not run: ${why}`, {
      cause: error,
    });
  }
}

async function abilities(
  model: ModelFiles,
  session: InferenceSession,
  tokenizer: Tokenizer | undefined,
): Promise<Partial<Runner>> {
  const { Tensor } = await runtime();
  const run = rawRun(model, session, Tensor);
  if (tokenizer === undefined || model.task === 'tensor') return { run };
  if (model.task === 'generation') return generatorOf(model, session, tokenizer, Tensor);
  const texts = new TextModel(model, session, tokenizer, Tensor);
  switch (model.task) {
    case 'embedding':
      return { run, embed: async (batch) => texts.embed(batch) };
    case 'classification':
      return { run, classify: async (batch) => texts.classify(batch) };
    case 'rerank':
      return { run, rerank: async (query, all) => texts.rerank(query, all) };
  }
}

function rawRun(
  model: ModelFiles,
  session: InferenceSession,
  Tensor: typeof RuntimeTensor,
): NonNullable<Runner['run']> {
  const forms = formsOf(session.inputMetadata);
  return async (inputs, wanted) => {
    const names = wanted === undefined || wanted.length === 0 ? session.outputNames : wanted;
    const unknown = names.find((name) => !session.outputNames.includes(name));
    if (unknown !== undefined) {
      throw new NoaError(
        'INVALID_ARGUMENT',
        `Model ${model.id} has no output ${JSON.stringify(unknown.slice(0, 100))}; it has ${session.outputNames.join(', ')}.`,
      );
    }
    const feeds = toRuntime(inputs, forms, Tensor);
    let results;
    try {
      results = await session.run(feeds, [...names]);
    } catch (error) {
      const why = reason(error, model.folder);
      throw new NoaError('INVALID_ARGUMENT', `Model ${model.id} cannot take these inputs: ${why}`, {
        cause: error,
      });
    }
    return names.map((name) => {
      const tensor = results[name];
      if (tensor === undefined) throw new Error(`the runtime gave no output ${name}`);
      return fromRuntime(name, tensor);
    });
  };
}

async function warmUp(runner: Runner): Promise<void> {
  const ids = runner.tokenize?.('a').ids ?? new Int32Array();
  await runner.embed?.([ids]);
  await runner.classify?.([ids]);
  await runner.rerank?.('a', ['a']);
  const parameters = { maxTokens: 1, temperature: 0, topP: 1, stop: [] };
  const parts = runner.generate?.(ids, parameters, new AbortController().signal) ?? [];
  for await (const _part of parts);
}
