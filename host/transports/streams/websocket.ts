/**
 * WebSocket (RFC 6455) on the port of HTTP. Invariants: an upgrade goes through the same hooks as any
 * request, so nothing is accepted from a stranger, from a page of another origin, or over a bound; a
 * credential is in no URL, no log and no answer; what waits for a slow reader is bounded.
 */
import { type IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { NoaError } from '@noa/sdk/host';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Gateway } from '../../gateway/gateway.ts';
import { arrivalOf, principalOf } from '../identity.ts';
import { refuseMethod } from '../resource.ts';
import { type Connections, holderOf } from './connections.ts';
import { assertOrigin, liftCredential, takeProtocol } from './handshake.ts';
import { type Receiver, WebSocketConnection } from './websocket-connection.ts';

const GET = ['GET', 'HEAD'];

/** One path that speaks WebSocket. */
export interface WebSocketRoute {
  readonly url: string;
  /** Offered by clients that name a subprotocol at all. */
  readonly protocol: string;
  readonly scope: string;
  /** Longest message of a client, in bytes. */
  readonly maxPayload: number;
  /** A connection that was accepted; what comes on it goes to the receiver. */
  readonly open: (connection: WebSocketConnection, request: FastifyRequest) => Receiver;
}

export interface WebSocketOptions {
  readonly gateway: Gateway;
  readonly connections: Connections;
  /** Beside the host's own. */
  readonly allowedOrigins: readonly string[];
  readonly onError: (message: string, error: unknown) => void;
}

interface Upgrade {
  readonly socket: Duplex;
  readonly head: Buffer;
  /** The credential came as a subprotocol. */
  readonly lifted: boolean;
}

export class WebSockets {
  readonly #options: WebSocketOptions;
  readonly #upgrades = new WeakMap<IncomingMessage, Upgrade>();

  constructor(options: WebSocketOptions) {
    this.#options = options;
  }

  /** Leads the upgrades of this server, of GET below /ws/ alone, to its routes. */
  attach(app: FastifyInstance): void {
    app.server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      socket.on('error', () => socket.destroy());
      this.#upgrades.set(request, { socket, head, lifted: liftCredential(request) });
      const response = new ServerResponse(request);
      response.assignSocket(socket as Parameters<ServerResponse['assignSocket']>[0]);
      response.shouldKeepAlive = false;
      response.on('finish', () => socket.end()); // a refusal: nothing is read after it
      app.routing(request, response);
    });
  }

  route(scope: FastifyInstance, route: WebSocketRoute): void {
    const { url, protocol, maxPayload } = route;
    const server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      autoPong: false, // pongs are bounded too
      maxPayload,
      handleProtocols: () => protocol,
    });
    scope.route({
      method: 'GET',
      url,
      config: { contract: null }, // OpenAPI has no words for it
      handler: (request, reply) => this.#accept(server, route, request, reply),
    });
    scope.route({
      method: scope.supportedMethods.filter((method) => !GET.includes(method)),
      url,
      config: { contract: null },
      preParsing: (request, reply, _payload, _done) => refuseMethod(request, reply, GET),
      handler: () => undefined,
    });
  }

  #accept(
    server: WebSocketServer,
    route: WebSocketRoute,
    request: FastifyRequest,
    reply: FastifyReply,
  ): void {
    const { gateway, connections, allowedOrigins, onError } = this.#options;
    const { raw, exchange } = request;
    gateway.requireScope(arrivalOf(request), principalOf(request), route.scope);
    const upgrade = this.#upgrades.get(raw);
    if (upgrade === undefined) {
      const text = `${route.url} speaks WebSocket over HTTP/1.1: send "Upgrade: websocket"`;
      throw new NoaError('INVALID_ARGUMENT', text);
    }
    assertOrigin(raw, allowedOrigins);
    takeProtocol(raw, route.protocol, upgrade.lifted);
    const holder = holderOf(gateway, request, route.scope);
    connections.assertRoom(holder.subject);
    this.#upgrades.delete(raw);
    reply.hijack();
    server.handleUpgrade(raw, upgrade.socket, upgrade.head, (socket: WebSocket) => {
      exchange.upgraded = true;
      exchange.response.statusCode = 101;
      const connection = new WebSocketConnection(socket, connections, onError);
      connections.add(connection, holder);
      connection.listen(route.open(connection, request));
    });
  }
}
