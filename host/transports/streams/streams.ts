/** All that stays open on the HTTP front: put together here, so that the front begins and ends it as one. */
import type { FastifyInstance } from 'fastify';
import type { Gateway } from '../../gateway/gateway.ts';
import type { EventReader } from '../../kernel/events.ts';
import { Connections, type ConnectionsOptions, STREAM_LIMITS } from './connections.ts';
import { registerEvents } from './events.ts';
import { EventFeed } from './feed.ts';

export interface StreamsOptions {
  readonly gateway: Gateway;
  readonly events: EventReader;
  readonly streams?: Partial<ConnectionsOptions>;
  readonly onError: (message: string, error: unknown) => void;
}

export class Streams {
  readonly connections: Connections;
  readonly feed: EventFeed;
  readonly #options: StreamsOptions;

  constructor(options: StreamsOptions) {
    this.#options = options;
    this.connections = new Connections({ ...STREAM_LIMITS, ...options.streams });
    this.feed = new EventFeed(options);
  }

  /** In a scope that asks each route's caller for its scope. */
  register(scope: FastifyInstance): void {
    const { feed, connections } = this;
    const { gateway, onError } = this.#options;
    registerEvents(scope, { gateway, feed, connections, onError });
  }

  /** Takes no more and tells those that are there. */
  drain(): void {
    this.connections.drain();
  }
}
