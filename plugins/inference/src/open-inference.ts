/**
 * The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol). A model that
 * takes texts has the input `text` of BYTES, so that every model can be asked through it.
 */
import { type ModelInfo, NoaError, type TensorData } from '@noa/sdk';
import { type Ctx, findModel } from './context.ts';
import { embedAll } from './embedding.ts';
import type {
  ModelInferInput,
  ModelInferOutput,
  ModelMetadataInput,
  ModelMetadataOutput,
  ModelReadyInput,
  ModelReadyOutput,
  ServerLiveInput,
  ServerLiveOutput,
  ServerOutput,
  ServerReadyOutput,
} from './noa.gen.ts';
import { flatten, fromTensors, toTensor } from './tensors.ts';

type Form = ModelMetadataOutput['inputs'][number];
type Task = ModelInfo['task'];

/** Of one request, as in OpenAI's API. */
const MAX_TEXTS = 2048;

export async function server(): Promise<ServerOutput> {
  return { name: 'noa', version: '2', extensions: [] };
}

export async function serverLive(_input: ServerLiveInput): Promise<ServerLiveOutput> {
  return { live: true };
}

/** Rejects as long as models cannot be listed. */
export async function serverReady(
  _input: ServerLiveInput,
  { inference }: Ctx,
): Promise<ServerReadyOutput> {
  await inference.models();
  return { ready: true };
}

export async function modelMetadata(
  { model: id, version }: ModelMetadataInput,
  context: Ctx,
): Promise<ModelMetadataOutput> {
  const model = await findModel(context, id, version);
  const { inputs, outputs } = formsOf(model);
  const all = (await context.inference.models()).filter((each) => each.id === id);
  const versions = version === undefined ? all.map((each) => each.version) : [version];
  const platform = model.backend === 'local' ? 'onnxruntime' : model.backend;
  return { name: id, versions, platform, inputs, outputs };
}

/** Loads the model when it is not there yet; rejects when it cannot be. */
export async function modelReady(
  { model: id, version }: ModelReadyInput,
  context: Ctx,
): Promise<ModelReadyOutput> {
  const { state, backend } = await findModel(context, id, version);
  if (state !== 'ready' && backend === 'local') {
    await context.inference.manage(id, 'load', version === undefined ? {} : { version });
  }
  return { name: id, ready: true };
}

export async function modelInfer(input: ModelInferInput, context: Ctx): Promise<ModelInferOutput> {
  const { model: id, version, id: request, inputs, outputs: wanted } = input;
  const model = await findModel(context, id, version);
  if (model.task !== 'tensor' && version !== undefined) await assertNewest(context, model);
  const names = wanted?.map(({ name }) => name);
  const answer =
    model.task === 'tensor'
      ? await context.inference.run(id, inputs.map(toTensor), {
          ...(version !== undefined && { version }),
          ...(names !== undefined && { outputs: names }),
        })
      : { version: model.version, outputs: await runTexts(model, inputs, context) };
  return {
    model_name: id,
    model_version: answer.version,
    ...(request !== undefined && { id: request }),
    outputs: fromTensors(chosen(answer.outputs, names)),
  };
}

/** The capability has texts answered by the newest version; another may not pass for it. */
async function assertNewest(context: Ctx, { id, version }: ModelInfo): Promise<void> {
  const newest = await findModel(context, id);
  if (newest.version === version) return;
  const text = `version: texts are answered by the newest, ${newest.version}, and not by ${version}`;
  throw new NoaError('INVALID_ARGUMENT', text);
}

function chosen(
  outputs: readonly TensorData[],
  names: readonly string[] | undefined,
): TensorData[] {
  if (names === undefined) return [...outputs];
  return names.map((name) => {
    const found = outputs.find((each) => each.name === name);
    if (found !== undefined) return found;
    const has = outputs.map((each) => each.name).join(', ');
    throw new NoaError(
      'INVALID_ARGUMENT',
      `outputs: there is no ${JSON.stringify(name)}; there is ${has}`,
    );
  });
}

const TEXT: Form = { name: 'text', datatype: 'BYTES', shape: [-1] };

/** Of tasks whose models take texts. */
function formsOf({ task, dimensions = -1, inputs = [], outputs = [] }: ModelInfo): {
  inputs: Form[];
  outputs: Form[];
} {
  const answers: { readonly [task in Exclude<Task, 'tensor'>]: Form[] } = {
    embedding: [{ name: 'embedding', datatype: 'FP32', shape: [-1, dimensions] }],
    generation: [{ name: 'generated', datatype: 'BYTES', shape: [-1] }],
    classification: [
      { name: 'label', datatype: 'BYTES', shape: [-1] },
      { name: 'score', datatype: 'FP32', shape: [-1] },
    ],
    rerank: [{ name: 'score', datatype: 'FP32', shape: [-1] }],
  };
  if (task === 'tensor') return { inputs, outputs };
  const query: Form = { name: 'query', datatype: 'BYTES', shape: [1] };
  return { inputs: task === 'rerank' ? [query, TEXT] : [TEXT], outputs: answers[task] };
}

async function runTexts(
  { id, task }: ModelInfo,
  inputs: ModelInferInput['inputs'],
  context: Ctx,
): Promise<TensorData[]> {
  const { inference } = context;
  const texts = inputTexts(inputs, 'text');
  if (task === 'embedding') {
    const { vectors } = await embedAll(context, id, texts, {});
    const width = vectors[0]?.length ?? 0;
    const data = Float32Array.from(vectors.flatMap((vector) => [...vector]));
    return [floats('embedding', [vectors.length, width], data)];
  }
  if (task === 'generation') {
    const written = [];
    for (const prompt of texts) written.push((await inference.generate(id, { prompt })).text ?? '');
    return [texted('generated', written)];
  }
  if (task === 'rerank') {
    const [query = ''] = inputTexts(inputs, 'query');
    const { scores } = await inference.rerank(id, query, texts);
    return [floats('score', [scores.length], Float32Array.from(scores))];
  }
  const { results } = await inference.classify(id, texts);
  const best = results.map(([first]) => first ?? { label: '', score: 0 });
  return [
    texted(
      'label',
      best.map(({ label }) => label),
    ),
    floats(
      'score',
      [best.length],
      Float32Array.from(best, ({ score }) => score),
    ),
  ];
}

function inputTexts(inputs: ModelInferInput['inputs'], name: string): string[] {
  const found = inputs.find((each) => each.name === name);
  if (found?.datatype !== 'BYTES') {
    const text = `inputs: this model takes the tensor ${name} of the datatype BYTES`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
  toTensor(found); // its form, judged as that of any tensor
  const texts = flatten(found.data).map(String);
  if (texts.length <= MAX_TEXTS) return texts;
  const text = `inputs: ${name} has ${texts.length} elements; send at most ${MAX_TEXTS} texts at a time`;
  throw new NoaError('INVALID_ARGUMENT', text);
}

function floats(name: string, shape: number[], data: Float32Array): TensorData {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { name, shape, datatype: 'FP32', data: bytes };
}

function texted(name: string, texts: readonly string[]): TensorData {
  return toTensor({ name, shape: [texts.length], datatype: 'BYTES', data: [...texts] });
}
