/**
 * Loads a model for use: checks its files, opens the session and the tokenizer, and runs it once so that the
 * first caller does not wait for what the runtime does late.
 */
import { NoaError } from '@noa/sdk/host';
import type { InferenceSession, Tensor as RuntimeTensor } from 'onnxruntime-node';
import { generatorOf } from './generator.ts';
import { isLlama, openLlama } from './llama.ts';
import { type Device, type ModelFiles, OVERHEAD_BYTES, type Runner } from './runner.ts';
import { openSession, reason, runtime, verifyFiles } from './session.ts';
import { formsOf, fromRuntime, toRuntime } from './tensors.ts';
import { TextModel } from './text-model.ts';
import { type Tokenizer, openTokenizer } from './tokenizer.ts';

/**
 * Rejects with NoaError INVALID_ARGUMENT when the files are not what the manifest says or do not fit together,
 * UNAVAILABLE when this machine lacks the device or what runs such files. ONNX takes one thread whatever `threads`
 * says, and blocks it while the model runs.
 */
export async function openRunner(model: ModelFiles, device: Device, threads = 1): Promise<Runner> {
  await verifyFiles(model);
  const runner = isLlama(model)
    ? await openLlama(model, device, threads)
    : await openOnnx(model, device);
  try {
    await warmUp(runner);
    return runner;
  } catch (error) {
    await runner.close();
    throw unfit(model, error);
  }
}

async function openOnnx(model: ModelFiles, device: Device): Promise<Runner> {
  const tokenizer = model.tokenizer === undefined ? undefined : await openTokenizer(model);
  const session = await openSession(model, device);
  try {
    return {
      memoryBytes: model.files.reduce((sum, { bytes }) => sum + bytes, OVERHEAD_BYTES),
      device,
      ...(tokenizer !== undefined && {
        tokenize: (text) => tokenizer.encode(text),
        textOf: (id) => tokenizer.textOf(id),
      }),
      ...(await abilities(model, session, tokenizer)),
      close: async () => session.release(),
    };
  } catch (error) {
    await session.release();
    throw unfit(model, error);
  }
}

function unfit(model: ModelFiles, error: unknown): NoaError {
  if (error instanceof NoaError) return error;
  const why = reason(error, model.folder);
  return new NoaError('INVALID_ARGUMENT', `Model ${model.id} does not run: ${why}`, {
    cause: error,
  });
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
