/** Real servers behind routes of a real front, each with a behaviour of the test's own. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { isOwnPath, routes as key } from '../../host/config/routes.ts';
import type { RouteSettings } from '../../host/gateway/upstream/settings.ts';
import { UpstreamRoutes } from '../../host/gateway/upstream/routes.ts';
import type { BreakerChange } from '../../host/gateway/upstream/upstream.ts';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import type { HttpServerOptions } from '../../host/transports/http.ts';
import { ADMIN, startFront } from '../transports/front.ts';

export const CALLER = 'caller-token-of-at-least-32-character';

type Behaviour = (request: IncomingMessage, response: ServerResponse) => void;

export class Backend {
  readonly server: Server;
  readonly seen: IncomingMessage[] = [];
  behaviour: Behaviour;
  #port = 0;

  constructor(behaviour: Behaviour) {
    this.behaviour = behaviour;
    this.server = createServer((request, response) => {
      this.seen.push(request);
      this.behaviour(request, response);
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** On the port that it had before, if any. */
  async listen(): Promise<this> {
    this.server.listen(this.#port, '127.0.0.1');
    await once(this.server, 'listening');
    this.#port = (this.server.address() as AddressInfo).port;
    return this;
  }

  /** As a crash: connections are cut. */
  async close(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }
}

/** Routes as a configuration file would have them. */
export function routesOf(tables: readonly object[]): readonly RouteSettings[] {
  const read = key.read(tables, '/');
  if (read === undefined) throw new Error(key.fault?.(tables));
  return read;
}

export async function startGateway(
  tables: readonly object[],
  options: Partial<HttpServerOptions> = {},
) {
  const changes: BreakerChange[] = [];
  const upstreams = new UpstreamRoutes(
    { now: () => performance.now(), isOwnPath, onBreaker: (change) => changes.push(change) },
    routesOf(tables),
  );
  const principal = { subject: 'user:anna ü', scopes: ['orders:read'], roles: ['clerk', 'a,b'] };
  const gateway = new Gateway({
    authenticator: new Authenticator({
      credentials: [
        { token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } },
        { token: CALLER, principal },
      ],
      now: Date.now,
    }),
    denied: () => undefined,
  });
  const front = await startFront({ gateway, upstreams, ...options });
  return {
    ...front,
    upstreams,
    changes,
    close: async () => {
      await front.close();
      await upstreams.close();
    },
  };
}

export async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request.setEncoding('utf8')) text += String(chunk);
  return text;
}

/** Waits until `probe` is true; the test's own time-out ends it. */
export async function until(probe: () => boolean): Promise<void> {
  while (!probe()) await new Promise((resolve) => setTimeout(resolve, 5));
}
