/**
 * /ws/events: the event log over WebSocket, several subscriptions on one connection. A client sends
 * `subscribe`, `unsubscribe` and `ping`; it gets `subscribed`, `event`, `gap`, `unsubscribed`, `pong`
 * and `error`, each with the `id` of the subscription when it gave it one.
 */
import { type CompiledSchema, NoaError } from '@noa/sdk/host';
import type { EventFeed } from './feed.ts';
import { EVENTS_SCOPE, shown } from './events.ts';
import { message, type Message, readMessage } from './messages.ts';
import {
  type EventFrames,
  MAX_SUBJECTS,
  readId,
  readSubjects,
  Subscription,
} from './subscription.ts';
import type { Receiver, WebSocketConnection } from './websocket-connection.ts';
import type { WebSocketRoute } from './websocket.ts';

const MAX_SUBSCRIPTIONS = 16;
const MAX_PAYLOAD = 64 << 10;

const id = { type: 'string', minLength: 1, maxLength: 64 };
const MESSAGES: { readonly [type: string]: CompiledSchema } = {
  subscribe: message({
    id,
    subjects: {
      type: ['array', 'string'],
      items: { type: 'string', maxLength: 201 },
      maxItems: MAX_SUBJECTS,
    },
    since: { type: 'string', maxLength: 15 },
  }),
  unsubscribe: message({ id }),
  ping: message({}),
};

type Received = {
  readonly type: string;
  readonly id?: string;
  readonly subjects?: string | readonly string[];
  readonly since?: string;
};

export interface EventSocketOptions {
  readonly feed: EventFeed;
  readonly onError: (message: string, error: unknown) => void;
}

export function eventsRoute(options: EventSocketOptions): WebSocketRoute {
  return {
    url: '/ws/events',
    protocol: 'noa.events.v1',
    scope: EVENTS_SCOPE,
    maxPayload: MAX_PAYLOAD,
    open: (connection) => new EventSocket(options, connection),
  };
}

class EventSocket implements Receiver {
  readonly #options: EventSocketOptions;
  readonly #connection: WebSocketConnection;
  readonly #subscriptions = new Map<string | undefined, Subscription>();

  constructor(options: EventSocketOptions, connection: WebSocketConnection) {
    this.#options = options;
    this.#connection = connection;
  }

  receive(given: Message): void | Promise<void> {
    const received = readMessage<Received>(MESSAGES, given);
    switch (received.type) {
      case 'subscribe':
        return this.#subscribe(received);
      case 'unsubscribe':
        return this.#unsubscribe(received);
      default:
        void this.#connection.send('{"type":"pong"}');
    }
  }

  async #subscribe({ id: name, subjects: given = [], since }: Received): Promise<void> {
    try {
      this.#assertFree(name);
      const { feed } = this.#options;
      const subjects = readSubjects([given].flat());
      const from = since === undefined ? undefined : readId('since', since);
      const subscription = new Subscription({ feed, subjects, since: from });
      this.#subscriptions.set(name, subscription);
      const after = await subscription.open().catch((error: unknown) => {
        this.#subscriptions.delete(name);
        throw error;
      });
      const begun = { type: 'subscribed', id: name, subjects, after: String(after) };
      await this.#connection.send(JSON.stringify(begun));
      void this.#run(name, subscription);
    } catch (error) {
      void this.#connection.sendError(error, name);
    }
  }

  async #run(name: string | undefined, subscription: Subscription): Promise<void> {
    try {
      await subscription.run({ connection: this.#connection, frames: framesOf(name) });
    } catch (error) {
      this.#options.onError('a subscription to events was ended', error);
      subscription.end();
      this.#subscriptions.delete(name);
      const text = 'the event log cannot be read now: subscribe again';
      void this.#connection.sendError(new NoaError('UNAVAILABLE', text), name);
    }
  }

  #assertFree(name: string | undefined): void {
    if (this.#subscriptions.has(name)) {
      throw new NoaError('CONFLICT', 'id: names a subscription of this connection already');
    }
    if (this.#subscriptions.size < MAX_SUBSCRIPTIONS) return;
    const text = `a connection has ${MAX_SUBSCRIPTIONS} subscriptions at most: name more subjects in one`;
    throw new NoaError('RESOURCE_EXHAUSTED', text);
  }

  #unsubscribe({ id: name }: Received): void {
    const subscription = this.#subscriptions.get(name);
    if (subscription === undefined) {
      const text = 'id: names no subscription of this connection';
      return void this.#connection.sendError(new NoaError('NOT_FOUND', text), name);
    }
    subscription.end();
    this.#subscriptions.delete(name);
    void this.#connection.send(JSON.stringify({ type: 'unsubscribed', id: name }));
  }

  closed(): void {
    for (const subscription of this.#subscriptions.values()) subscription.end();
    this.#subscriptions.clear();
  }
}

function framesOf(name: string | undefined): EventFrames {
  const begin = `{"type":"event",${name === undefined ? '' : `"id":${JSON.stringify(name)},`}"event":`;
  return {
    event: ({ json }) => `${begin}${json}}`,
    gap: (gap) => JSON.stringify({ type: 'gap', id: name, ...shown(gap) }),
  };
}
