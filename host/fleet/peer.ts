/**
 * Questions and answers between the processes of one host. Invariants: every question is answered once,
 * with a value, a NoaError, or UNAVAILABLE when the other process is gone; how many are open is bounded.
 */
import { NoaError, isErrorCode } from '@noa/sdk/host';

/** Open questions in one direction; a further one is refused. */
const MAX_OPEN = 10_000;

/** What a process and its parent have in common; messages are structured clones. */
export interface Wire {
  send(message: Message): void;
  onMessage(listener: (message: unknown) => void): void;
}

type Message =
  | { readonly kind: 'ask'; readonly id: number; readonly method: string; readonly input: unknown }
  | { readonly kind: 'tell'; readonly method: string; readonly input: unknown }
  | { readonly kind: 'value'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failure'; readonly id: number; readonly error: Failure }
  | { readonly kind: 'cancel'; readonly id: number };

interface Failure {
  readonly code: string;
  readonly message: string;
  readonly details: unknown;
  readonly retryAfterMs: number | undefined;
}

/** What the other process may ask. The processes are of one host and trust each other's inputs. */
export type Methods = {
  readonly [method: string]: (input: never, signal: AbortSignal) => unknown;
};

interface Question {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class Peer {
  readonly #wire: Wire;
  readonly #methods: Methods;
  readonly #onError: (message: string, error: unknown) => void;
  readonly #asked = new Map<number, Question>();
  readonly #running = new Map<number, AbortController>();
  #last = 0;
  #gone: Error | undefined;

  constructor(wire: Wire, methods: Methods, onError: (message: string, error: unknown) => void) {
    this.#wire = wire;
    this.#methods = methods;
    this.#onError = onError;
    wire.onMessage((message) => {
      if (isMessage(message)) this.#take(message);
    });
  }

  /** Rejects with the NoaError of the other side; `signal` tells it that nobody waits any more. */
  ask<T>(method: string, input: unknown, signal?: AbortSignal): Promise<T> {
    if (this.#gone !== undefined) return Promise.reject(this.#gone);
    if (this.#asked.size >= MAX_OPEN) {
      const text = `${MAX_OPEN} questions to another process of this host are open; try again`;
      return Promise.reject(new NoaError('RESOURCE_EXHAUSTED', text, { retryAfterMs: 1000 }));
    }
    const id = ++this.#last;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const cancel = (): void => this.#wire.send({ kind: 'cancel', id });
    this.#asked.set(id, { resolve, reject });
    signal?.addEventListener('abort', cancel, { once: true });
    this.#wire.send({ kind: 'ask', id, method, input });
    const over = promise.finally(() => signal?.removeEventListener('abort', cancel));
    return over as Promise<T>; // the other side is of the same version
  }

  /** Expects no answer. */
  tell(method: string, input: unknown): void {
    if (this.#gone === undefined) this.#wire.send({ kind: 'tell', method, input });
  }

  /** The other process has ended: what is open fails, and what it asked for is stopped. */
  end(): void {
    this.#gone = new NoaError('UNAVAILABLE', 'another process of this host has ended; try again');
    for (const { reject } of this.#asked.values()) reject(this.#gone);
    for (const controller of this.#running.values()) controller.abort();
    this.#asked.clear();
    this.#running.clear();
  }

  #take(message: Message): void {
    switch (message.kind) {
      case 'ask':
        void this.#answer(message.id, message.method, message.input);
        return;
      case 'tell':
        void this.#run(message.method, message.input, new AbortController().signal).catch(
          (error: unknown) => this.#onError(`${message.method} failed`, error),
        );
        return;
      case 'cancel':
        this.#running.get(message.id)?.abort();
        return;
      default: {
        const question = this.#asked.get(message.id);
        this.#asked.delete(message.id);
        if (message.kind === 'value') question?.resolve(message.value);
        else question?.reject(revive(message.error));
      }
    }
  }

  async #answer(id: number, method: string, input: unknown): Promise<void> {
    const controller = new AbortController();
    this.#running.set(id, controller);
    try {
      const value = await this.#run(method, input, controller.signal);
      if (this.#gone === undefined) this.#wire.send({ kind: 'value', id, value });
    } catch (error) {
      if (this.#gone === undefined)
        this.#wire.send({ kind: 'failure', id, error: this.#write(method, error) });
    } finally {
      this.#running.delete(id);
    }
  }

  async #run(method: string, input: unknown, signal: AbortSignal): Promise<unknown> {
    const run = this.#methods[method];
    if (run === undefined) throw new TypeError(`no process of this host answers ${method}`);
    return run(input as never, signal);
  }

  #write(method: string, error: unknown): Failure {
    if (error instanceof NoaError) {
      const { code, message, details, retryAfterMs, cause } = error;
      if (cause !== undefined) this.#onError(`${method}: ${message}`, cause);
      return { code, message, details, retryAfterMs };
    }
    this.#onError(`${method} failed`, error);
    const message = 'another process of this host failed; its log tells why';
    return { code: 'INTERNAL', message, details: undefined, retryAfterMs: undefined };
  }
}

function revive({ code, message, details, retryAfterMs }: Failure): NoaError {
  return new NoaError(isErrorCode(code) ? code : 'INTERNAL', message, {
    ...(details === undefined ? {} : { details }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

/** The channel of a process carries messages of Node's own and of libraries too. */
function isMessage(message: unknown): message is Message {
  return (
    typeof message === 'object' &&
    message !== null &&
    'kind' in message &&
    ['ask', 'tell', 'value', 'failure', 'cancel'].includes(String(message.kind))
  );
}
