/**
 * Generates text with a decoder that keeps its keys and values: input_ids INT64 [1, n], past_kv FP32
 * [2 × layers, 1, heads, past, width] → logits [1, pieces], present_kv. Text is handed over only when it is made
 * of whole characters and cannot be the beginning of a stop string.
 */
import { NoaError } from '@noa/sdk/host';
import type { InferenceSession, Tensor as RuntimeTensor } from 'onnxruntime-node';
import type { GeneratedPart, ModelFiles, Runner } from './runner.ts';
import { Sampler } from './sampler.ts';
import type { Tokenizer } from './tokenizer.ts';

type TensorClass = typeof RuntimeTensor;

/** Throws NoaError INVALID_ARGUMENT when the graph is no such decoder. */
export function generatorOf(
  model: ModelFiles,
  session: InferenceSession,
  tokenizer: Tokenizer,
  Tensor: TensorClass,
): Pick<Runner, 'generate'> {
  const shape = cacheShape(model, session);
  return {
    async *generate(prompt, parameters, signal): AsyncGenerator<GeneratedPart> {
      let ids = tokenizer.begin === undefined ? [...prompt] : [tokenizer.begin, ...prompt];
      if (ids.length === 0) throw invalid('The prompt is empty; write its beginning.');
      const room = model.maxTokens - ids.length;
      if (room < 1) {
        throw invalid(
          `The prompt has ${ids.length} tokens; ${model.id} takes ${model.maxTokens} with its answer. Shorten it.`,
        );
      }
      const sampler = new Sampler(parameters);
      const text = new Outgoing(tokenizer, parameters.stop);
      const most = Math.min(room, parameters.maxTokens);
      let past: RuntimeTensor = new Tensor('float32', new Float32Array(), shape);
      for (let count = 1; count <= most; count += 1) {
        signal.throwIfAborted();
        const input = new Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]);
        const { logits, present_kv: present } = await session.run({
          input_ids: input,
          past_kv: past,
        });
        if (present === undefined || !(logits?.data instanceof Float32Array)) {
          throw new NoaError('INTERNAL', `Model ${model.id} answered no FP32 logits.`);
        }
        past = present;
        const id = sampler.next(logits.data);
        ids = [id];
        const part = text.part(id, tokenizer.ends.has(id), count === most);
        yield part;
        if (part.finishReason !== undefined) return;
        // A stream of many tokens must let an abort through.
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
  };
}

/** What was generated and not yet handed over. */
export class Outgoing {
  readonly #tokenizer: Pick<Tokenizer, 'decode'>;
  readonly #stops: readonly string[];
  readonly #ids: number[] = [];
  #text = '';
  #sent = 0;
  #stopped = false;

  constructor(tokenizer: Pick<Tokenizer, 'decode'>, stops: readonly string[]) {
    this.#tokenizer = tokenizer;
    this.#stops = stops.filter((stop) => stop !== '');
  }

  /** What goes out now that `id` came, which ends the text or is the last that it may have. */
  part(id: number, isEnd: boolean, isLast: boolean): GeneratedPart {
    if (isEnd) return { text: this.#rest(), tokens: 1, finishReason: 'stop' };
    const text = this.#add(id);
    if (this.#stopped) return { text, tokens: 1, finishReason: 'stop' };
    if (isLast) return { text: text + this.#rest(), tokens: 1, finishReason: 'length' };
    return { text, tokens: 1 };
  }

  #add(id: number): string {
    this.#ids.push(id);
    this.#text = this.#tokenizer.decode(this.#ids);
    const places = this.#stops.map((stop) => this.#text.indexOf(stop, this.#sent));
    const found = places.filter((at) => at >= 0);
    if (found.length > 0) {
      this.#stopped = true;
      return this.#take(Math.min(...found));
    }
    const whole = this.#text.endsWith('\ufffd') ? this.#text.replace(/\ufffd+$/, '') : this.#text;
    return this.#take(whole.length - this.#heldBack(whole));
  }

  /** All that was held back. */
  #rest(): string {
    return this.#take(this.#text.length);
  }

  /** Length of the longest end of `text` that a stop string begins with. */
  #heldBack(text: string): number {
    let most = 0;
    for (const stop of this.#stops) {
      for (let size = Math.min(stop.length - 1, text.length); size > most; size -= 1) {
        if (text.endsWith(stop.slice(0, size))) most = size;
      }
    }
    return most;
  }

  #take(to: number): string {
    const part = this.#text.slice(this.#sent, Math.max(to, this.#sent));
    this.#sent += part.length;
    return part;
  }
}

function cacheShape(model: ModelFiles, session: InferenceSession): number[] {
  const past = session.inputMetadata.find(({ name }) => name === 'past_kv');
  const names = [...session.inputNames, ...session.outputNames].toSorted().join(' ');
  if (past?.isTensor === true && names === 'input_ids logits past_kv present_kv') {
    const [layers, , heads, , width] = past.shape;
    if (typeof layers === 'number' && typeof heads === 'number' && typeof width === 'number') {
      return [layers, 1, heads, 0, width];
    }
  }
  throw invalid(
    `Model ${model.id} must take input_ids and past_kv [2 × layers, batch, heads, past, width] and answer logits and present_kv; export it so.`,
  );
}

function invalid(message: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', message);
}
