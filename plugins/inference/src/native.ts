/** The host's own form: /v1/infer, /v1/embed, /v1/rerank and /v1/tokenize. */
import { type Json, NoaError } from '@noa/sdk';
import { cached } from './answer-cache.ts';
import { type Ctx, findModel, promptUsage, type StreamCtx, usageOf } from './context.ts';
import { embedAll, numbersOf } from './embedding.ts';
import { follow, type Parameters, type Prompt } from './generation.ts';
import type {
  EmbedInput,
  EmbedOutput,
  InferInput,
  InferOutput,
  RerankInput,
  RerankOutput,
  TokenizeInput,
  TokenizeOutput,
} from './noa.gen.ts';
import { fromTensors, toTensor } from './tensors.ts';

const FEWER = 'send fewer texts at a time, or ask for fewer dimensions';

/** Of one answer, whose JSON has six values for each; the host reads 200,000. */
const MAX_TOKENS = 30_000;

/** Emits `{delta}` of a generation that is asked for as a stream. */
export async function infer(input: InferInput, context: StreamCtx): Promise<InferOutput> {
  const { model, parameters = {}, stream = false } = input;
  if (!stream) return run(input, context);
  const request = { ...streamedPromptOf(input), parameters };
  const { finishReason, usage } = await follow(context, model, request, (delta) =>
    context.emit({ delta }),
  );
  return { model, task: 'generation', finish_reason: finishReason, usage };
}

/** Throws INVALID_ARGUMENT for what no generation goes on from. */
export function streamedPromptOf(input: InferInput): Prompt {
  const { inputs } = input;
  const prompt = promptOf(input);
  if (prompt !== undefined) return prompt;
  const [first] = Array.isArray(inputs) && inputs.length === 1 ? inputs : [inputs];
  if (typeof first === 'string') return { prompt: first };
  throw new NoaError(
    'INVALID_ARGUMENT',
    'stream: only generations, of one text, come piece by piece',
  );
}

export async function run(input: InferInput, context: Ctx): Promise<InferOutput> {
  const { model, parameters = {}, cache, inputs } = input;
  const prompt = promptOf(input);
  if (prompt !== undefined) return generate(model, prompt, parameters, context, cache);
  if (inputs === undefined) {
    throw new NoaError('INVALID_ARGUMENT', 'send one of inputs, prompt and messages');
  }
  const { task } = await findModel(context, model);
  if (task === 'generation') {
    const [prompt = '', ...others] = textsOf(inputs, task);
    if (others.length > 0) {
      throw new NoaError('INVALID_ARGUMENT', 'inputs: a generation goes on from one text');
    }
    return generate(model, { prompt }, parameters, context, cache);
  }
  return cached(context, cache, { model, inputs, parameters }, () =>
    WORK[task](context, model, inputs, parameters),
  );
}

type Inputs = NonNullable<InferInput['inputs']>;
type Work = (
  context: Ctx,
  model: string,
  inputs: Inputs,
  parameters: Parameters,
) => Promise<InferOutput>;

const WORK: { readonly [task in 'embedding' | 'classification' | 'rerank' | 'tensor']: Work } = {
  embedding: async (context, model, inputs, parameters) => {
    const texts = textsOf(inputs, 'embedding');
    if (parameters['labels'] !== undefined) return classify(context, model, texts, parameters);
    allowOnly(parameters, []);
    const { vectors, tokens } = await embedAll(context, model, texts, {});
    const outputs = numbersOf(vectors, FEWER);
    return { model, task: 'embedding', outputs, usage: promptUsage(tokens) };
  },
  classification: (context, model, inputs, parameters) =>
    classify(context, model, textsOf(inputs, 'classification'), parameters),
  rerank: async ({ inference }, model, inputs, parameters) => {
    allowOnly(parameters, []);
    if (typeof inputs === 'string' || Array.isArray(inputs)) {
      throw new NoaError('INVALID_ARGUMENT', 'inputs: a rerank model takes {query, texts}');
    }
    const { scores, tokens } = await inference.rerank(model, inputs.query, inputs.texts);
    return { model, task: 'rerank', outputs: scores, usage: promptUsage(tokens) };
  },
  tensor: async ({ inference }, model, inputs, parameters) => {
    allowOnly(parameters, []);
    const tensors = Array.isArray(inputs) ? inputs.filter((each) => typeof each === 'object') : [];
    if (tensors.length === 0) {
      throw new NoaError('INVALID_ARGUMENT', 'inputs: this model takes tensors, as in /v2');
    }
    const { outputs } = await inference.run(model, tensors.map(toTensor));
    return { model, task: 'tensor', outputs: fromTensors(outputs) };
  },
};

async function classify(
  { inference }: Ctx,
  model: string,
  texts: readonly string[],
  parameters: Parameters,
): Promise<InferOutput> {
  allowOnly(parameters, ['labels']);
  const { labels } = parameters;
  const options = labels === undefined ? {} : { labels: labelsOf(labels) };
  const { results, tokens } = await inference.classify(model, texts, options);
  return { model, task: 'classification', outputs: results, usage: promptUsage(tokens) };
}

function labelsOf(labels: Json): string[] {
  const list = Array.isArray(labels) ? labels : [labels];
  const texts = list.filter((each) => typeof each === 'string');
  if (Array.isArray(labels) && texts.length === list.length) return texts;
  throw new NoaError('INVALID_ARGUMENT', 'parameters/labels: must be a list of texts');
}

/** Nothing is left out in silence: of a generation, whoever runs the model judges. */
function allowOnly(parameters: Parameters, names: readonly string[]): void {
  const other = Object.keys(parameters).find((name) => !names.includes(name));
  if (other === undefined) return;
  const text = `parameters/${other.slice(0, 64)}: is nothing that this model can do; leave it out`;
  throw new NoaError('INVALID_ARGUMENT', text);
}

async function generate(
  model: string,
  prompt: Prompt,
  parameters: Parameters,
  context: Ctx,
  cache: InferInput['cache'],
): Promise<InferOutput> {
  const request = { ...prompt, parameters };
  return cached(context, cache, { model, ...request }, async () => {
    const { text, message, finishReason, usage } = await context.inference.generate(model, request);
    return {
      model,
      task: 'generation',
      outputs: text ?? message,
      ...(finishReason && { finish_reason: finishReason }),
      ...(usage && { usage: usageOf(usage) }),
    };
  });
}

function promptOf({ inputs, prompt, messages }: InferInput): Prompt | undefined {
  if ([inputs, prompt, messages].filter((each) => each !== undefined).length > 1) {
    throw new NoaError('INVALID_ARGUMENT', 'send one of inputs, prompt and messages');
  }
  if (prompt !== undefined) return { prompt };
  return messages === undefined ? undefined : { messages };
}

function textsOf(inputs: Inputs, task: string): string[] {
  const list: unknown[] = Array.isArray(inputs) ? inputs : [inputs];
  const texts = list.filter((each) => typeof each === 'string');
  if (texts.length === list.length) return texts;
  throw new NoaError('INVALID_ARGUMENT', `inputs: a model of the task ${task} takes texts`);
}

export async function embed(input: EmbedInput, context: Ctx): Promise<EmbedOutput> {
  const { model = context.config.embedding_model, input: given, cache, ...options } = input;
  const texts = typeof given === 'string' ? [given] : given;
  return cached(context, cache, { model, texts, ...options }, async () => {
    const { vectors, tokens } = await embedAll(context, model, texts, options);
    return { model, embeddings: numbersOf(vectors, FEWER), usage: promptUsage(tokens) };
  });
}

/** Scores between 0 and 1 unless `raw_scores`: of a cross-encoder by the logistic function. */
export async function rerank(input: RerankInput, context: Ctx): Promise<RerankOutput> {
  const { model = context.config.embedding_model, query, texts, truncate, ...wishes } = input;
  if (truncate === false) await assertUncut(context, model, [query, ...texts]);
  const { scores, method } = await context.inference.rerank(model, query, texts);
  const share = (score: number): number => {
    if (wishes.raw_scores) return score;
    return method === 'cosine' ? (score + 1) / 2 : 1 / (1 + Math.exp(-score));
  };
  return scores
    .map((score, index) => ({
      index,
      score: share(score),
      ...(wishes.return_text && { text: texts[index] ?? '' }),
    }))
    .toSorted((a, b) => b.score - a.score);
}

/** The capability ranks what is left of long texts; what judges their length is the making of vectors. */
async function assertUncut(context: Ctx, model: string, texts: readonly string[]): Promise<void> {
  const { task } = await findModel(context, model);
  if (task === 'embedding') await embedAll(context, model, texts, { truncate: false });
  else if (task === 'rerank') {
    const text = `truncate: ${model} cuts texts that are too long for it, so false is not taken`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
}

export async function tokenize(input: TokenizeInput, context: Ctx): Promise<TokenizeOutput> {
  const { model = context.config.embedding_model, inputs } = input;
  const texts = typeof inputs === 'string' ? [inputs] : inputs;
  const tokens = await context.inference.tokenize(model, texts);
  const count = tokens.reduce((sum, each) => sum + each.length, 0);
  if (count > MAX_TOKENS) {
    const text = `inputs: they have ${count} tokens, and an answer holds ${MAX_TOKENS}; send less at a time`;
    throw new NoaError('INVALID_ARGUMENT', text);
  }
  // What stands for nothing in the text was added by the tokenizer.
  return tokens.map((each) =>
    each.map(({ id, text, start, stop }) => ({ id, text, special: start === stop, start, stop })),
  );
}
