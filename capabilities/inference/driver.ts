/**
 * The driver of `inference`: finds who has the model and hands the call on. Where a model has no head for what
 * is asked, likeness of embeddings answers, and says so.
 */
import { covers, type Driver, type DriverCall, type Json, NoaError } from '@noa/sdk/host';
import type {
  Backend,
  BackendCall,
  GenerateItem,
  GenerateRequest,
  ModelView,
  Priority,
} from './backend.ts';

/** By how much the likest label stands out. */
const SHARPNESS = 20;

export interface InferenceObservation {
  readonly model: string;
  readonly operation: string;
  readonly outcome: 'ok' | 'failed';
  readonly seconds: number;
}

export interface InferenceOptions {
  /** The first that has a model answers. */
  readonly backends: readonly Backend[];
  /** Longest time of a request; a generation goes on for as long as its call. */
  readonly timeoutMs: number;
  readonly observe: (observation: InferenceObservation) => void;
}

type WireTensor = { name: string; shape: number[]; datatype: string; base64: string };

/** Of all operations together; each has what its schema asks for. */
type Input = {
  model: string;
  version?: string;
  texts: string[];
  query: string;
  labels?: string[];
  dimensions?: number;
  truncate?: boolean;
  priority?: Priority;
  prompt?: string;
  messages?: { [name: string]: Json }[];
  parameters?: { [name: string]: Json };
  stream?: boolean;
  inputs: WireTensor[];
  outputs?: string[];
  action: 'load' | 'unload';
};

export function createInferenceDriver({ backends, timeoutMs, observe }: InferenceOptions): Driver {
  const all = async (): Promise<ModelView[]> =>
    (await Promise.all(backends.map((backend) => backend.models()))).flat();

  const find = async (
    { model, version }: Input,
    { resources }: DriverCall,
  ): Promise<{ backend: Backend; view: ModelView }> => {
    for (const backend of backends) {
      const view = await backend.find(model, version);
      if (view !== undefined) return { backend, view };
    }
    const known = (await all())
      .map(({ id }) => id)
      .filter((id) => resources.some((pattern) => covers(pattern, id)));
    const others = known.length === 0 ? 'there is none that the grant covers' : known.join(', ');
    const of = version === undefined ? '' : ` of version ${version}`;
    const text = `model: there is no ${JSON.stringify(model)}${of}; there is ${others.slice(0, 500)}`;
    throw new NoaError('NOT_FOUND', text);
  };

  const invoke = async (operation: string, input: Input, call: DriverCall): Promise<unknown> => {
    if (operation === 'models') {
      const models = (await all()).filter(({ id }) =>
        call.resources.some((pattern) => covers(pattern, id)),
      );
      return { models };
    }
    const { backend, view } = await find(input, call);
    const { plugin, span } = call;
    const isBounded = operation !== 'generate' && operation !== 'manage';
    const backendCall: BackendCall = {
      plugin,
      span,
      deadline: isBounded ? Math.min(call.deadline, Date.now() + timeoutMs) : call.deadline,
      signal: isBounded
        ? AbortSignal.any([call.signal, AbortSignal.timeout(timeoutMs)])
        : call.signal,
    };
    const run = OPERATIONS[operation];
    if (run === undefined) throw new TypeError(`inference has no operation ${operation}`);
    const started = performance.now();
    const observed = (outcome: 'ok' | 'failed'): void => {
      const seconds = (performance.now() - started) / 1000;
      observe({ model: view.id, operation, outcome, seconds });
    };
    try {
      const answer = await run(backend, view, input, backendCall);
      if (isStream(answer)) return watched(answer, observed);
      observed('ok');
      return answer;
    } catch (error) {
      observed('failed');
      throw error;
    }
  };

  return {
    invoke: (operation, input, call) => invoke(operation, input as Input, call), // as the door has judged it
    check: async () => {
      await Promise.all(backends.map((backend) => backend.check()));
    },
    close: async () => {
      await Promise.all(backends.map((backend) => backend.close()));
    },
  };
}

type Run = (
  backend: Backend,
  view: ModelView,
  input: Input,
  call: BackendCall,
) => Promise<unknown> | AsyncIterable<GenerateItem>;

const OPERATIONS: { readonly [operation: string]: Run } = {
  embed: async (backend, view, { model, texts, dimensions, truncate = true, priority }, call) => {
    if (backend.embed === undefined) throw cannot(view, 'embed texts');
    if (view.backend === 'local' && view.task !== 'embedding') throw cannot(view, 'embed texts');
    const request = { model, texts, dimensions, truncate, priority };
    const { vectors, tokens, dimensions: width } = await backend.embed(request, call);
    const bytes = Buffer.from(vectors.buffer, vectors.byteOffset, vectors.byteLength);
    return {
      model,
      dimensions: width,
      count: texts.length,
      base64: bytes.toString('base64'),
      tokens,
    };
  },
  rerank: async (backend, view, { model, query, texts }, call) => {
    if (view.task === 'rerank' && backend.rerank !== undefined) {
      const { scores, tokens } = await backend.rerank({ model, query, texts }, call);
      return { model, scores, tokens, method: 'cross-encoder' };
    }
    const { rows, tokens } = await embedded(backend, view, [query, ...texts], call, 'rank texts');
    const [asked = new Float32Array(), ...answers] = rows;
    return { model, scores: answers.map((row) => dot(asked, row)), tokens, method: 'cosine' };
  },
  classify: async (backend, view, { model, texts, labels }, call) => {
    if (labels === undefined) {
      if (view.task !== 'classification' || backend.classify === undefined) {
        throw cannot(
          view,
          'classify texts by itself: name labels, or take a model with labels of its own',
        );
      }
      const { results, tokens } = await backend.classify({ model, texts }, call);
      return { model, results, tokens, method: 'classifier' };
    }
    const all = [...labels, ...texts];
    const { rows, tokens } = await embedded(backend, view, all, call, 'compare texts with labels');
    const named = rows.slice(0, labels.length);
    const results = rows.slice(labels.length).map((row) => likeliest(row, named, labels));
    return { model, results, tokens, method: 'likeness' };
  },
  generate: (backend, view, input, call) => {
    const { model, prompt, messages, parameters = {}, stream = false } = input;
    if (backend.generate === undefined || view.task !== 'generation') {
      throw cannot(view, 'generate text');
    }
    const request: GenerateRequest = {
      model,
      parameters,
      ...(prompt !== undefined && { prompt }),
      ...(messages && { messages }),
    };
    const items = backend.generate(request, call);
    return stream ? charged(items, request) : collected(items, model, messages !== undefined);
  },
  run: async (backend, view, { model, version, inputs, outputs }, call) => {
    if (backend.run === undefined) throw cannot(view, 'take tensors');
    const tensors = inputs.map(({ base64, ...form }) => ({
      ...form,
      data: new Uint8Array(Buffer.from(base64, 'base64')),
    }));
    const answer = await backend.run({ model, version, inputs: tensors, outputs }, call);
    return {
      model,
      version: answer.version,
      outputs: answer.outputs.map(({ data, ...form }) => ({
        ...form,
        base64: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'),
      })),
    };
  },
  tokenize: async (backend, view, { model, texts }, call) => {
    if (backend.tokenize === undefined)
      throw cannot(view, 'show its tokens', { lacks: 'tokenize' });
    return { tokens: await backend.tokenize(model, texts, call) };
  },
  manage: (backend, view, { model, version, action }, call) => {
    if (backend.load === undefined || backend.unload === undefined) {
      throw cannot(view, 'be loaded and unloaded: it runs on another server');
    }
    return action === 'load' ? backend.load(model, version, call) : backend.unload(model, version);
  },
};

/** `details` are for callers that can do without. */
function cannot({ id }: ModelView, what: string, details?: { readonly lacks: string }): NoaError {
  return new NoaError('INVALID_ARGUMENT', `model: ${id} cannot ${what}`, { details });
}

async function embedded(
  backend: Backend,
  view: ModelView,
  texts: readonly string[],
  call: BackendCall,
  what: string,
): Promise<{ rows: Float32Array[]; tokens: number }> {
  if (backend.embed === undefined || view.task !== 'embedding') throw cannot(view, what);
  const request = { model: view.id, texts, truncate: true };
  const { vectors, dimensions, tokens } = await backend.embed(request, call);
  const rows = texts.map((_text, at) => vectors.subarray(at * dimensions, (at + 1) * dimensions));
  return { rows, tokens };
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, at) => sum + value * (b[at] ?? 0), 0);
}

/** Softmax of the likeness to each label. */
function likeliest(
  row: Float32Array,
  named: readonly Float32Array[],
  labels: readonly string[],
): { label: string; score: number }[] {
  const weights = named.map((label) => Math.exp(SHARPNESS * dot(row, label)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return labels
    .map((label, at) => ({ label, score: (weights[at] ?? 0) / sum }))
    .toSorted((a, b) => b.score - a.score);
}

/** The whole of it as one answer. */
async function collected(
  items: AsyncIterable<GenerateItem>,
  model: string,
  isChat: boolean,
): Promise<unknown> {
  let text = '';
  const message: Members = { role: 'assistant' };
  const calls: Members[] = [];
  let last: GenerateItem = {};
  for await (const { delta = {}, ...rest } of items) {
    const { content, tool_calls: tools, ...others } = delta;
    if (typeof content === 'string') text += content;
    if (Array.isArray(tools)) for (const tool of tools) addToolCall(calls, tool);
    for (const [name, value] of Object.entries(others)) addPiece(message, name, value);
    last = { ...last, ...rest };
  }
  const { finishReason = 'stop', usage = { promptTokens: 0, completionTokens: 0 } } = last;
  if (!isChat) return { model, text, finishReason, usage };
  const content = text === '' && calls.length > 0 ? null : text;
  // Some upstreams count from 1.
  const made = calls.filter((each) => each !== undefined);
  const whole = { ...message, content, ...(made.length > 0 && { tool_calls: made }) };
  return { model, message: whole, finishReason, usage };
}

type Members = { [name: string]: Json };

/** Of these each piece repeats the whole. */
const WHOLE = ['role', 'id', 'type'];

/** Texts and lists come bit by bit; what is empty or null says nothing against what came before. */
function addPiece(whole: Members, name: string, value: Json): void {
  if (value === null || value === '' || name === '__proto__') return;
  const before = Object.hasOwn(whole, name) ? whole[name] : undefined;
  if (isMembers(before) && isMembers(value)) {
    for (const [inner, piece] of Object.entries(value)) addPiece(before, inner, piece);
  } else if (typeof before === 'string' && typeof value === 'string' && !WHOLE.includes(name)) {
    whole[name] = before + value;
  } else if (Array.isArray(before) && Array.isArray(value)) {
    before.push(...value);
  } else {
    whole[name] = value;
  }
}

function isMembers(value: Json | undefined): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Pieces of one call have its `index`. */
function addToolCall(calls: Members[], piece: Json): void {
  if (!isMembers(piece)) return;
  const { index = calls.length, ...rest } = piece;
  const at = Number(index);
  if (!Number.isInteger(at) || at < 0 || at > 127) return;
  const call = (calls[at] ??= { type: 'function', function: { name: '', arguments: '' } });
  for (const [name, value] of Object.entries(rest)) addPiece(call, name, value);
}

function isStream(value: unknown): value is AsyncIterable<GenerateItem> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
}

/** Characters of a long token: guesses stay below the usage that comes last, which takes nothing back. */
const LONG = 16;

/** Each item with the `tokens` that it costs: who leaves before the usage comes has paid for what came. */
async function* charged(
  items: AsyncIterable<GenerateItem>,
  { prompt, messages = [] }: GenerateRequest,
): AsyncGenerator<GenerateItem & { readonly tokens: number }> {
  const asked = prompt === undefined ? messages.map(({ content }) => content) : [prompt];
  const characters = asked.reduce<number>((sum, text) => sum + lengthOf(text), 0);
  let told = 0;
  let tokens = Math.floor(characters / LONG);
  for await (const item of items) {
    const { delta, usage } = item;
    if (delta !== undefined) tokens += 1 + Math.floor(lengthOf(delta['content']) / LONG);
    if (usage !== undefined) {
      tokens = Math.max(0, usage.promptTokens + usage.completionTokens - told);
    }
    yield { ...item, tokens };
    told += tokens;
    tokens = 0;
  }
}

function lengthOf(content: Json | undefined): number {
  return typeof content === 'string' ? content.length : 0;
}

async function* watched(
  items: AsyncIterable<GenerateItem>,
  observed: (outcome: 'ok' | 'failed') => void,
): AsyncGenerator<GenerateItem> {
  let outcome: 'ok' | 'failed' = 'failed';
  try {
    yield* items;
    outcome = 'ok';
  } finally {
    observed(outcome);
  }
}
