/** All that stays open on the HTTP front: put together here, so that the front begins and ends it as one. */
import type { FastifyInstance } from 'fastify';
import type { Gateway } from '../../gateway/gateway.ts';
import type { Hooks } from '../../gateway/hooks.ts';
import type { EventReader } from '../../kernel/events.ts';
import { callsRoute } from './calls-socket.ts';
import { StreamedCalls, type StreamedCallsOptions } from './calls.ts';
import { Connections, type ConnectionsOptions, STREAM_LIMITS } from './connections.ts';
import { registerEvents } from './events.ts';
import { eventsRoute } from './events-socket.ts';
import { EventFeed } from './feed.ts';
import { WebSockets } from './websocket.ts';

export interface StreamsOptions {
  readonly gateway: Gateway;
  readonly hooks: Hooks;
  readonly events: EventReader;
  readonly dispatch: StreamedCallsOptions['dispatch'];
  readonly streams?: Partial<ConnectionsOptions>;
  /** Of web pages that may open WebSockets, beside the host's own. */
  readonly allowedOrigins?: readonly string[] | undefined;
  readonly onError: (message: string, error: unknown) => void;
}

export class Streams {
  readonly connections: Connections;
  readonly feed: EventFeed;
  readonly calls: StreamedCalls;
  readonly #options: StreamsOptions;
  readonly #sockets: WebSockets;

  constructor(options: StreamsOptions) {
    this.#options = options;
    this.connections = new Connections({ ...STREAM_LIMITS, ...options.streams });
    this.feed = new EventFeed(options);
    const { gateway, dispatch, allowedOrigins = [], onError } = options;
    const { connections } = this;
    this.calls = new StreamedCalls({ gateway, connections, dispatch });
    this.#sockets = new WebSockets({ gateway, connections, allowedOrigins, onError });
  }

  /** The WebSockets, in a scope that asks for a credential. */
  registerSockets(app: FastifyInstance, scope: FastifyInstance): void {
    const { feed } = this;
    const { gateway, hooks, dispatch, onError } = this.#options;
    this.#sockets.attach(app);
    this.#sockets.route(scope, callsRoute({ gateway, hooks, dispatch }));
    this.#sockets.route(scope, eventsRoute({ feed, onError }));
  }

  /** In a scope that asks each route's caller for its scope. */
  register(scope: FastifyInstance): void {
    const { feed, connections } = this;
    const { gateway, onError } = this.#options;
    registerEvents(scope, { gateway, feed, connections, onError });
  }

  /** Takes no more and tells those that are there, for at most this time. */
  drain(graceMs: number): void {
    this.connections.drain(graceMs);
  }
}
