/**
 * One group: the only loop in which a request to upstreams is tried again. Invariant: a try follows another
 * only while nothing of an answer has come, within the number and the time that the group allows, and to a
 * member that does not rest; a wait is never longer than the caller's deadline.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Json, type SpanAttributes, errorType, parseJson, stopped } from '@noa/sdk/host';
import type {
  BackendCall,
  EmbedRequest,
  Embedded,
  GenerateItem,
  GenerateRequest,
  RerankRequest,
} from '../backend.ts';
import { Generation, embedded, reranked } from './answers.ts';
import { Catalogue, type Entry } from './catalogue.ts';
import { Exchange, MAX_STREAM_BYTES, type Question, toCaller } from './exchange.ts';
import { Failed, said, unusable } from './failure.ts';
import { Member, inTurn } from './member.ts';
import type { GroupSettings } from './settings.ts';
import { lengthOf, questionOf } from './question.ts';
import { SseDecoder } from './sse.ts';

/** Longest wait for a member that rests. */
const MAX_WAIT_MS = 10_000;
/** Part of the requests under way that is kept for plugins that have none. */
const KEPT = 0.25;
/** The same notice of the same member is told once in this time. */
const NOTICE_MS = 60_000;

export interface GroupOptions {
  /** Of what only the operator can mend; without keys and texts. */
  readonly warn: (message: string) => void;
  /** PEM certificates to trust in place of those that Node.js trusts. */
  readonly authorities?: readonly string[] | undefined;
}

type Work<T> = (member: Member, name: string, traceparent?: string) => Promise<T>;

export class Group {
  readonly settings: GroupSettings;
  readonly catalogue: Catalogue;
  readonly members: readonly Member[];
  readonly #warn: (message: string) => void;
  readonly #running = new Map<string, number>();
  readonly #notices = new Map<string, number>();

  constructor(settings: GroupSettings, { warn, authorities }: GroupOptions) {
    this.settings = settings;
    this.members = settings.members.map((each) => new Member(settings, each, authorities));
    this.catalogue = new Catalogue(settings, this.members);
    this.#warn = warn;
  }

  async embed(
    entry: Entry,
    { texts, dimensions }: EmbedRequest,
    call: BackendCall,
  ): Promise<Embedded> {
    const { name, embed_batch: size, embed_encoding: encoding } = this.settings;
    const parts: Embedded[] = [];
    for (let start = 0; start < texts.length; start += size) {
      const input = texts.slice(start, start + size);
      const wanted = { input: [...input], encoding_format: encoding };
      const body = { ...wanted, ...(dimensions !== undefined && { dimensions }) };
      const width = parts[0]?.dimensions ?? dimensions;
      parts.push(
        await this.#ask(entry, 'embeddings', body, call, (answer) =>
          embedded(name, answer, input, width),
        ),
      );
    }
    const [first] = parts;
    if (first === undefined || parts.length === 1) return first ?? none();
    const vectors = new Float32Array(texts.length * first.dimensions);
    let at = 0;
    for (const part of parts) {
      vectors.set(part.vectors, at);
      at += part.vectors.length;
    }
    const tokens = parts.reduce((sum, part) => sum + part.tokens, 0);
    return { dimensions: first.dimensions, vectors, tokens };
  }

  rerank(
    entry: Entry,
    { query, texts }: RerankRequest,
    call: BackendCall,
  ): Promise<{ scores: number[]; tokens: number }> {
    const documents = { documents: [...texts], top_n: texts.length, return_documents: false };
    return this.#ask(entry, 'rerank', { query, ...documents }, call, (answer) =>
      reranked(this.settings.name, answer, texts, query),
    );
  }

  async *generate(
    entry: Entry,
    request: GenerateRequest,
    call: BackendCall,
  ): AsyncGenerator<GenerateItem> {
    const { name, stream } = this.settings;
    const [operation, path, body] = questionOf(request, this.settings);
    const leave = this.#enter(call.plugin);
    let under: Exchange | undefined;
    try {
      const began = Date.now();
      const [member, exchange] = await this.#try(entry, operation, call, async (...to) => {
        const [asked, model, traceparent] = to;
        const accept = stream ? 'text/event-stream, application/json' : 'application/json';
        const question: Question = {
          method: 'POST',
          path,
          body: { ...body, model },
          accept,
          traceparent,
        };
        const opened = await Exchange.begin(asked.line, question, call.signal);
        if (opened.isStream || opened.isJson) return [asked, opened] as const;
        await opened.close();
        throw unusable(name, 'answered with neither events nor JSON');
      });
      under = exchange;
      const generation = new Generation(name, member.settings.key);
      try {
        yield* items(name, exchange, generation);
      } catch (error) {
        if (error instanceof Failed) this.#failed(member, error, began);
        throw error;
      }
      yield generation.last(lengthOf(request));
    } catch (error) {
      throw call.signal.aborted ? stopped('inference', call) : toCaller(error);
    } finally {
      leave();
      await under?.close();
    }
  }

  async close(): Promise<void> {
    this.catalogue.close();
    await Promise.all(this.members.map((member) => member.close()));
  }

  /** A request whose answer is one JSON value, and may be asked for again until it has been read. */
  async #ask<T>(
    entry: Entry,
    operation: string,
    body: { readonly [name: string]: Json },
    call: BackendCall,
    read: (answer: Json) => T,
  ): Promise<T> {
    const leave = this.#enter(call.plugin);
    try {
      return await this.#try(entry, operation, call, async (member, model, traceparent) => {
        const exchange = await Exchange.begin(
          member.line,
          {
            method: 'POST',
            path: `/${operation}`,
            body: { ...body, model },
            accept: 'application/json',
            traceparent,
          },
          call.signal,
        );
        return read(await exchange.json());
      });
    } catch (error) {
      throw call.signal.aborted ? stopped('inference', call) : toCaller(error);
    } finally {
      leave();
    }
  }

  async #try<T>(entry: Entry, operation: string, call: BackendCall, work: Work<T>): Promise<T> {
    const { attempts, retry_for_ms: retryForMs } = this.settings;
    const until = Math.min(Date.now() + retryForMs, call.deadline);
    const able = new Map(entry.members);
    for (let tries = 1; ;) {
      call.signal.throwIfAborted();
      const now = Date.now();
      const [member] = inTurn([...able.keys()], now);
      if (member === undefined) {
        await this.#rest([...able.keys()], until, call.signal);
        continue;
      }
      try {
        const name = able.get(member) ?? entry.id;
        const value = await traced(operation, name, member, call, work);
        member.succeeded();
        return value;
      } catch (error) {
        if (!(error instanceof Failed)) throw error;
        this.#failed(member, error, now);
        if (error.next === 'other') able.delete(member);
        const isOver = tries >= attempts || Date.now() >= until || able.size === 0;
        if (isOver || error.next === 'none') throw error;
        tries += 1;
      }
    }
  }

  /** Waits until one of them may be asked; rejects at once when that would be too late. */
  async #rest(members: readonly Member[], until: number, signal: AbortSignal): Promise<void> {
    const now = Date.now();
    const waitMs = Math.ceil(Math.min(...members.map((member) => member.restMs(now))));
    if (waitMs <= MAX_WAIT_MS && now + waitMs < until) {
      await sleep(waitMs, undefined, { signal });
      return;
    }
    const { last } = members.find((member) => Math.ceil(member.restMs(now)) <= waitMs) ?? {};
    const code = last?.code === 'RATE_LIMITED' ? 'RATE_LIMITED' : 'UNAVAILABLE';
    throw said(code, this.settings.name, 'failed a moment ago and is left alone for a while', {
      retryAfterMs: waitMs,
      cause: last,
    });
  }

  #failed(member: Member, failed: Failed, began: number): void {
    const now = Date.now();
    if (failed.next === 'rest' || failed.restMs !== undefined) member.failed(failed, began, now);
    if (failed.notice === undefined) return;
    const message = `the upstream group ${this.settings.name} at ${member.origin} ${failed.notice}`;
    if (now - (this.#notices.get(message) ?? -Infinity) < NOTICE_MS) return;
    this.#notices.set(message, now);
    this.#warn(message);
  }

  #enter(plugin: string): () => void {
    const { max_requests: max, name } = this.settings;
    const own = this.#running.get(plugin) ?? 0;
    const all = this.#running.values().reduce((sum, count) => sum + count, 0);
    if (all >= (own === 0 ? max : Math.max(1, max * (1 - KEPT)))) {
      const why = 'has as many requests under way as it may; try again';
      throw said('RESOURCE_EXHAUSTED', name, why, { retryAfterMs: 1000 });
    }
    this.#running.set(plugin, own + 1);
    return () => {
      const left = (this.#running.get(plugin) ?? 1) - 1;
      if (left > 0) this.#running.set(plugin, left);
      else this.#running.delete(plugin);
    };
  }
}

async function* items(
  group: string,
  exchange: Exchange,
  generation: Generation,
): AsyncGenerator<GenerateItem> {
  if (!exchange.isStream) {
    const item = generation.item(await exchange.json());
    if (item !== undefined) yield item;
    return;
  }
  const decoder = new SseDecoder();
  for (;;) {
    const chunk = await exchange.next(MAX_STREAM_BYTES);
    for (const data of events(group, () => (chunk ? decoder.push(chunk) : decoder.end()))) {
      if (data === '[DONE]') return;
      if (data === '') continue;
      const item = generation.item(parsed(group, data));
      if (item !== undefined) yield item;
    }
    if (chunk !== undefined) continue;
    if (generation.isFinished) return;
    throw unusable(group, 'broke off in the middle of its answer');
  }
}

function events(group: string, take: () => string[]): string[] {
  try {
    return take();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw unusable(group, `sent too much at once: ${error.message}`, 'none', error);
  }
}

function parsed(group: string, data: string): Json {
  try {
    return parseJson(data);
  } catch (error) {
    throw unusable(group, 'sent an event that is no JSON, or too much of it', 'none', error);
  }
}

/** One try as a part of the call's trace. */
async function traced<T>(
  operation: string,
  name: string,
  member: Member,
  { span: above }: BackendCall,
  work: Work<T>,
): Promise<T> {
  if (above === undefined) return work(member, name);
  const { hostname, port, protocol } = new URL(member.origin);
  const attributes: SpanAttributes = {
    'gen_ai.operation.name': operation,
    'gen_ai.request.model': name,
    'server.address': hostname,
    'server.port': Number(port) || (protocol === 'https:' ? 443 : 80),
  };
  const span = above.child(operation, 'client', attributes);
  try {
    const value = await work(member, name, span.traceparent);
    span.end();
    return value;
  } catch (error) {
    span.end(errorType(toCaller(error)));
    throw error;
  }
}

function none(): Embedded {
  return { dimensions: 0, vectors: new Float32Array(), tokens: 0 };
}
