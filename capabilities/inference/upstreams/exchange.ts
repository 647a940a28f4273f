/**
 * One request to one member and its answer (undici, HTTP/1.1). Invariant: what the other side decides is
 * bounded: time to the first byte and between two parts, bytes of all of it; nothing is unpacked, no
 * redirect is followed; an answer that is not read to its end has its connection closed. Only what a reader
 * asks for is read, so that a slow one slows the member down.
 */
import { type Json, NoaError, parseJson } from '@noa/sdk/host';
import type { Dispatcher, Pool } from 'undici';
import { Failed, refusal, retryAfterMs, unusable } from './failure.ts';
import type { GroupSettings } from './settings.ts';

/** Of an answer that is one JSON value. */
const MAX_JSON_BYTES = 8 << 20;
/** Of an answer that is a stream of events. */
export const MAX_STREAM_BYTES = 64 << 20;
const MAX_ERROR_BYTES = 16 << 10;

export interface Question {
  readonly method: 'GET' | 'POST';
  /** Below the member's url. */
  readonly path: string;
  readonly body?: { readonly [name: string]: Json };
  readonly accept: string;
  readonly traceparent?: string | undefined;
}

/** Where it goes and how long it may take. */
export interface Line {
  readonly group: Pick<GroupSettings, 'name' | 'first_byte_ms' | 'idle_ms'>;
  readonly pool: Pool;
  /** Path of the member's url, without a slash at its end. */
  readonly base: string;
  readonly key: string | undefined;
}

const SLOW = 'was too slow to answer';
const PAUSED = 'stopped in the middle of its answer';

export class Exchange {
  readonly isStream: boolean;
  readonly #line: Line;
  readonly #signal: AbortSignal;
  readonly #patience: AbortController;
  readonly #chunks: AsyncIterator<Buffer, undefined>;
  #first: IteratorResult<Buffer, undefined> | undefined;
  #size = 0;

  /**
   * Resolves with an answer of status 200 whose body has begun. Rejects with Failed; with the signal's
   * reason when it aborts.
   */
  static async begin(line: Line, question: Question, signal: AbortSignal): Promise<Exchange> {
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(new Error(SLOW)), line.group.first_byte_ms);
    try {
      const answer = await line.pool.request({
        method: question.method,
        path: `${line.base}${question.path}`,
        headers: headersOf(line, question),
        body: question.body === undefined ? null : JSON.stringify(question.body),
        signal: AbortSignal.any([signal, patience.signal]),
      });
      const exchange = new Exchange(line, answer, signal, patience);
      if (answer.statusCode !== 200) throw await exchange.#refused(answer);
      const coding = answer.headers['content-encoding'] ?? 'identity';
      if (coding !== 'identity') {
        await exchange.close();
        throw unusable(line.group.name, 'packed its answer, which it was asked not to do');
      }
      exchange.#first = await exchange.#chunks.next();
      return exchange;
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof Failed) throw error;
      const why = patience.signal.aborted ? SLOW : 'cannot be reached, or broke off the connection';
      throw unusable(line.group.name, why, 'rest', error);
    } finally {
      clearTimeout(timer);
    }
  }

  private constructor(
    line: Line,
    answer: Dispatcher.ResponseData,
    signal: AbortSignal,
    patience: AbortController,
  ) {
    this.#line = line;
    this.#signal = signal;
    this.#patience = patience;
    this.#chunks = answer.body[Symbol.asyncIterator]() as AsyncIterator<Buffer, undefined>;
    this.isStream = /^text\/event-stream\b/i.test(typeOf(answer));
    this.isJson = /^application\/([\w.+-]+\+)?json\b/i.test(typeOf(answer));
  }

  readonly isJson: boolean;

  /** The next part; undefined at the end. Rejects with NoaError, with the signal's reason when it aborts. */
  async next(maxBytes: number): Promise<Buffer | undefined> {
    const { name, idle_ms: idleMs } = this.#line.group;
    const timer = setTimeout(() => this.#patience.abort(new Error(PAUSED)), idleMs);
    try {
      const { done, value } = this.#first ?? (await this.#chunks.next());
      this.#first = undefined;
      if (done) return undefined;
      this.#size += value.length;
      if (this.#size <= maxBytes) return value;
    } catch (error) {
      this.#signal.throwIfAborted();
      const why = this.#patience.signal.aborted ? PAUSED : 'broke off in the middle of its answer';
      throw unusable(name, why, 'rest', error);
    } finally {
      clearTimeout(timer);
    }
    throw unusable(name, `answered with more than ${maxBytes} bytes`, 'none');
  }

  /** The whole answer as a JSON value. Rejects as `next`. */
  async json(): Promise<Json> {
    const { name } = this.#line.group;
    if (!this.isJson) {
      await this.close();
      throw unusable(name, 'answered with what is not JSON');
    }
    const text = await this.#text(MAX_JSON_BYTES);
    try {
      return parseJson(text);
    } catch (error) {
      const over = error instanceof RangeError;
      const why = over ? `answered with too much: ${error.message}` : 'answered with broken JSON';
      throw unusable(name, why, over ? 'none' : 'rest');
    }
  }

  /** Hangs up, unless the answer has been read to its end. */
  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #text(maxBytes: number): Promise<string> {
    const chunks: Buffer[] = [];
    try {
      for (let chunk = await this.next(maxBytes); chunk; chunk = await this.next(maxBytes)) {
        chunks.push(chunk);
      }
    } finally {
      await this.close();
    }
    return Buffer.concat(chunks).toString();
  }

  async #refused({ statusCode, headers }: Dispatcher.ResponseData): Promise<Failed> {
    const { group, key } = this.#line;
    let body = '';
    try {
      if (statusCode >= 400 && this.isJson) body = await this.#text(MAX_ERROR_BYTES);
    } catch (error) {
      // The status says enough; but a caller that left is not asked again.
      this.#signal.throwIfAborted();
      if (!(error instanceof Failed)) throw error;
    } finally {
      await this.close();
    }
    return refusal(group.name, statusCode, body, {
      restMs: retryAfterMs(headers, Date.now()),
      key,
    });
  }
}

function headersOf({ key }: Line, { body, accept, traceparent }: Question): Record<string, string> {
  return {
    'user-agent': 'NOA',
    accept,
    'accept-encoding': 'identity',
    ...(body && { 'content-type': 'application/json' }),
    ...(key !== undefined && { authorization: `Bearer ${key}` }),
    ...(traceparent !== undefined && { traceparent }),
  };
}

function typeOf({ headers }: Dispatcher.ResponseData): string {
  const type = headers['content-type'];
  return typeof type === 'string' ? type.trim() : '';
}

/** The error that a failure of one try has for a caller. */
export function toCaller(error: unknown): unknown {
  if (error instanceof NoaError || !(error instanceof Failed)) return error;
  return error.error;
}
