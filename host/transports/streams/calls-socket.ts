/**
 * /ws/stream: calls of exports over WebSocket, several at a time on one connection. A client sends
 * `{id, plugin, export, input?, credit?}`, and `credit` or `cancel` with the id of a call; it gets `chunk`
 * for each value that the export emits, then `result` or `error`. Invariants: a call obeys the same policy
 * and costs the same rate as one over HTTP; an export emits no faster than the client takes, or than the
 * credit that it gives; when the client leaves, its calls are cancelled.
 */
import { type CompiledSchema, type Json, NoaError } from '@noa/sdk/host';
import type { FastifyRequest } from 'fastify';
import type { Gateway } from '../../gateway/gateway.ts';
import type { Hooks } from '../../gateway/hooks.ts';
import type { Invocation, Outcome } from '../../kernel/invocation.ts';
import { judge } from './judged.ts';
import { message, type Message, readMessage } from './messages.ts';
import type { Receiver, WebSocketConnection } from './websocket-connection.ts';
import type { WebSocketRoute } from './websocket.ts';

const MAX_CALLS = 16;
const MAX_PAYLOAD = 1 << 20;
const MAX_CREDIT = 1_000_000;
const SCOPE = 'plugins:call';
/** As policies name the same call over HTTP. */
const OPERATION = 'POST /v1/plugins/:name/exports/:export';

const id = { type: 'string', pattern: '^[A-Za-z0-9._:-]{1,64}$' };
const name = { type: 'string', pattern: '^[\\w-]{1,128}$' };
const credit = { type: 'integer', minimum: 0, maximum: MAX_CREDIT };
const MESSAGES: { readonly [type: string]: CompiledSchema } = {
  request: message({ id, plugin: name, export: name, input: {}, credit }, [
    'id',
    'plugin',
    'export',
  ]),
  credit: message({ id, count: { ...credit, minimum: 1 } }, ['id', 'count']),
  cancel: message({ id }, ['id']),
};

type Request = {
  readonly id: string;
  readonly plugin: string;
  readonly export: string;
  readonly input?: Json;
  /** Values that the client takes until it gives more; without it all. */
  readonly credit?: number;
};
type Received =
  | ({ readonly type: 'request' } & Request)
  | { readonly type: 'credit'; readonly id: string; readonly count: number }
  | { readonly type: 'cancel'; readonly id: string };

export interface CallSocketOptions {
  readonly gateway: Gateway;
  readonly hooks: Hooks;
  readonly dispatch: (invocation: Invocation) => Promise<Outcome>;
}

export function callsRoute(options: CallSocketOptions): WebSocketRoute {
  return {
    url: '/ws/stream',
    protocol: 'noa.stream.v1',
    scope: SCOPE,
    maxPayload: MAX_PAYLOAD,
    open: (connection, request) => new CallSocket(options, connection, request),
  };
}

class Call {
  readonly abort = new AbortController();
  #credit: number;
  #more: PromiseWithResolvers<void> | undefined;

  constructor(given = Infinity) {
    this.#credit = given;
    this.abort.signal.addEventListener('abort', () => this.#more?.resolve());
  }

  give(count: number): void {
    this.#credit = Math.min(this.#credit + count, Math.max(this.#credit, MAX_CREDIT));
    this.#more?.resolve();
    this.#more = undefined;
  }

  /** Takes one value's credit, when there is some. Rejects with CANCELLED. */
  async take(): Promise<void> {
    while (this.#credit === 0 && !this.abort.signal.aborted) {
      this.#more ??= Promise.withResolvers<void>();
      await this.#more.promise;
    }
    if (this.abort.signal.aborted) throw new NoaError('CANCELLED', 'the caller wants no more');
    this.#credit -= 1;
  }
}

class CallSocket implements Receiver {
  readonly #options: CallSocketOptions;
  readonly #connection: WebSocketConnection;
  readonly #request: FastifyRequest;
  readonly #calls = new Map<string, Call>();

  constructor(
    options: CallSocketOptions,
    connection: WebSocketConnection,
    request: FastifyRequest,
  ) {
    this.#options = options;
    this.#connection = connection;
    this.#request = request;
  }

  receive(given: Message): void {
    const received = readMessage<Received>(MESSAGES, { type: 'request', ...given });
    switch (received.type) {
      case 'request':
        return this.#begin(received);
      case 'credit':
        return this.#calls.get(received.id)?.give(received.count); // it may be over by now
      case 'cancel':
        this.#calls.get(received.id)?.abort.abort();
    }
  }

  #begin(request: Request): void {
    const refuse = (error: NoaError) => void this.#connection.sendError(error, request.id);
    if (this.#calls.has(request.id)) {
      return refuse(new NoaError('CONFLICT', 'id: names a call that runs on this connection'));
    }
    if (this.#calls.size === MAX_CALLS) {
      const text = `a connection runs ${MAX_CALLS} calls at one time: wait for one to end`;
      return refuse(new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 100 }));
    }
    const call = new Call(request.credit);
    this.#calls.set(request.id, call);
    void this.#run(request, call);
  }

  async #run(request: Request, call: Call): Promise<void> {
    try {
      const value = await this.#call(request, call);
      this.#calls.delete(request.id);
      await this.#send(request.id, 'result', value);
    } catch (error) {
      this.#calls.delete(request.id);
      void this.#connection.sendError(error, request.id);
    }
  }

  async #call({ id: own, plugin, export: target, input = null }: Request, call: Call) {
    const { exchange } = this.#request;
    const requestId = `${exchange.id}/${own}`;
    const { signal } = call.abort;
    const { principal, end } = await judge(this.#options, this.#request, {
      operation: OPERATION,
      path: `/v1/plugins/${plugin}/exports/${target}`,
      scope: SCOPE,
      requestId,
      signal,
    });
    try {
      const { value } = await this.#options.dispatch({
        id: requestId,
        plugin,
        export: target,
        input,
        principal,
        signal,
        traceId: exchange.trace.traceId,
        span: exchange.trace.span,
        emit: async (emitted) => {
          await call.take();
          await this.#send(own, 'chunk', emitted);
        },
      });
      end('OK');
      return value;
    } catch (error) {
      end(error instanceof NoaError ? error.code : 'INTERNAL');
      throw error;
    }
  }

  #send(own: string, type: string, value: Json): Promise<void> | undefined {
    return this.#connection.send(JSON.stringify({ id: own, type, value }));
  }

  closed(): void {
    for (const { abort } of this.#calls.values()) abort.abort();
  }
}
