/**
 * Entry of a worker process: loads models and runs one piece of work after the other, with generations in between,
 * token by token. Invariant: what goes wrong in one piece of work is that one's failure.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import type { TokenPlace } from '../backend.ts';
import { openRunner } from '../models/open.ts';
import type { Runner, Tokens } from '../models/runner.ts';
import {
  type EmbedAnswer,
  type FromWorker,
  type Key,
  MAX_AHEAD,
  type ScoresAnswer,
  toFailure,
  type ToWorker,
  type Work,
} from './protocol.ts';

const models = new Map<Key, Loaded>();
const generations = new Map<number, Generation>();
/** Pieces of work other than generations run one after the other. */
let queue: Promise<unknown> = Promise.resolve();

interface Loaded {
  readonly runner: Runner;
  /** Of one text. */
  readonly maxTokens: number;
}

class Generation {
  readonly abort = new AbortController();
  #ahead = 0;
  #room: (() => void) | undefined;

  /** Resolves when another part may be sent. */
  async wait(): Promise<void> {
    this.#ahead += 1;
    if (this.#ahead < MAX_AHEAD) return;
    await new Promise<void>((resolve) => (this.#room = resolve));
  }

  taken(count: number): void {
    this.#ahead -= count;
    if (this.#ahead < MAX_AHEAD) this.#room?.();
  }

  cancel(): void {
    this.abort.abort();
    this.#room?.();
  }
}

function send(message: FromWorker): void {
  process.send?.(message);
}

function receive(message: ToWorker): void {
  switch (message.type) {
    case 'load':
      return start(message.id, async () => {
        await close(message.key);
        const runner = await openRunner(message.files, message.device, message.threads);
        models.set(message.key, { runner, maxTokens: message.files.maxTokens });
        return { memoryBytes: runner.memoryBytes };
      });
    case 'unload':
      queue = queue.then(() => close(message.key));
      return undefined;
    case 'work':
      return begin(message.id, message.key, message.work);
    case 'taken':
      return generations.get(message.id)?.taken(message.count);
    case 'cancel':
      return generations.get(message.id)?.cancel();
  }
}

function begin(id: number, key: Key, work: Work): void {
  if (work.kind === 'generate') void generate(id, key, work);
  else start(id, () => run(loadedOf(key), work));
}

async function close(key: Key): Promise<void> {
  const loaded = models.get(key);
  models.delete(key);
  await loaded?.runner.close().catch(() => undefined); // what is closed badly is gone all the same
}

function start(id: number, work: () => Promise<unknown>): void {
  queue = queue.then(async () => {
    try {
      const value = await work();
      send({ type: 'answer', id, value });
    } catch (error) {
      send({ type: 'failure', id, error: toFailure(error) });
    }
  });
}

function loadedOf(key: Key): Loaded {
  const loaded = models.get(key);
  if (loaded === undefined) throw new Error(`${key} is not loaded`);
  return loaded;
}

async function run(
  { runner, maxTokens }: Loaded,
  work: Exclude<Work, { kind: 'generate' }>,
): Promise<unknown> {
  switch (work.kind) {
    case 'embed':
      return embed(runner, maxTokens, work.texts, work.truncate);
    case 'classify':
      return classify(runner, maxTokens, work.texts);
    case 'rerank': {
      if (runner.rerank === undefined) throw cannot('rank texts');
      return runner.rerank(work.query, work.texts);
    }
    case 'tokenize':
      return work.texts.map((text) => places(runner, text));
    case 'run': {
      if (runner.run === undefined) throw cannot('take tensors');
      return runner.run(work.inputs, work.outputs);
    }
  }
}

function cannot(what: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `model: this one cannot ${what}`);
}

/** In buckets of alike length: what a shorter one is padded with costs as much as text. */
async function embed(
  runner: Runner,
  maxTokens: number,
  texts: readonly string[],
  truncate: boolean,
): Promise<EmbedAnswer> {
  if (runner.embed === undefined || runner.tokenize === undefined) throw cannot('embed texts');
  const inputs = texts.map((text, at) => {
    const { ids } = tokenized(runner, text);
    if (ids.length > maxTokens && !truncate) {
      const words = `has ${ids.length} tokens, and the model takes ${maxTokens}; shorten it, or let it be cut`;
      throw new NoaError('INVALID_ARGUMENT', `texts/${at}: ${words}`);
    }
    return { at, ids: ids.length > maxTokens ? ids.subarray(0, maxTokens) : ids };
  });
  let vectors: Float32Array<ArrayBuffer> | undefined;
  const order = inputs.toSorted((a, b) => a.ids.length - b.ids.length);
  for (const bucket of buckets(order, ({ ids }) => ids.length)) {
    const rows = await runner.embed(bucket.map(({ ids }) => ids));
    const width = rows.length / bucket.length;
    vectors ??= new Float32Array(texts.length * width);
    for (const [row, { at }] of bucket.entries()) {
      vectors.set(rows.subarray(row * width, (row + 1) * width), at * width);
    }
  }
  return {
    vectors: vectors ?? new Float32Array(),
    tokens: inputs.map(({ ids }) => ids.length),
  };
}

/** Splits what is in order of length: the longest of a bucket has at most a quarter or four more than the shortest. */
export function* buckets<T>(order: readonly T[], lengthOf: (item: T) => number): Generator<T[]> {
  let bucket: T[] = [];
  let longest = 0;
  for (const item of order) {
    const length = lengthOf(item);
    if (bucket.length > 0 && length > longest) {
      yield bucket;
      bucket = [];
    }
    if (bucket.length === 0) longest = Math.max(length * 1.25, length + 4);
    bucket.push(item);
  }
  if (bucket.length > 0) yield bucket;
}

async function classify(
  runner: Runner,
  maxTokens: number,
  texts: readonly string[],
): Promise<ScoresAnswer> {
  if (runner.classify === undefined || runner.tokenize === undefined)
    throw cannot('classify texts');
  const inputs = texts.map((text) => tokenized(runner, text).ids.subarray(0, maxTokens));
  const rows = await runner.classify(inputs);
  const tokens = inputs.reduce((sum, { length }) => sum + length, 0);
  return { scores: Float32Array.from(rows), tokens };
}

function tokenized(runner: Runner, text: string): Tokens {
  if (runner.tokenize === undefined) throw cannot('take texts');
  return runner.tokenize(text);
}

function places(runner: Runner, text: string): TokenPlace[] {
  const { ids, starts, stops } = tokenized(runner, text);
  return [...ids].map((id, at) => {
    const [start = 0, stop = 0] = [starts[at], stops[at]];
    return { id, text: runner.textOf?.(id) ?? text.slice(start, stop), start, stop };
  });
}

async function generate(
  id: number,
  key: Key,
  { prompt, turns, parameters }: Extract<Work, { kind: 'generate' }>,
): Promise<void> {
  const generation = new Generation();
  generations.set(id, generation);
  try {
    const { runner } = loadedOf(key);
    if (runner.generate === undefined) throw cannot('generate text');
    const ids = (turns && runner.chat?.(turns)) ?? tokenized(runner, prompt).ids;
    let tokens = 0;
    for await (const part of runner.generate(ids, parameters, generation.abort.signal)) {
      tokens += part.tokens;
      send({ type: 'part', id, value: part });
      // Lets messages in, and gives other work its turn.
      await Promise.all([turn(), generation.wait()]);
      if (generation.abort.signal.aborted) break;
    }
    send({ type: 'answer', id, value: { promptTokens: ids.length, completionTokens: tokens } });
  } catch (error) {
    send({ type: 'failure', id, error: toFailure(error) });
  } finally {
    generations.delete(id);
  }
}

process.on('message', (message) => receive(message as ToWorker));
process.once('disconnect', () => process.exit());
send({ type: 'ready' });
