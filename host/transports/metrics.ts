/**
 * The metrics listener: GET /metrics for a scraper, on an address of its own that is loopback unless the
 * operator chose another. It asks for no credential, which is why it is not the public listener.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  type Address,
  closeListener,
  CONNECTION_LIMITS,
  createListener,
  type Flags,
  listen,
  type Listening,
  refuseConnection,
} from './listener.ts';
import { pathOf } from './problem.ts';

export interface Metrics {
  readonly contentType: string;
  readonly text: string;
}

export interface MetricsListenerOptions {
  readonly metrics: () => Promise<Metrics>;
  readonly onError: (message: string, error: unknown) => void;
}

export interface MetricsListener {
  /** Rejects with NoaError in words for an operator. */
  listen(address: Address): Promise<Listening>;
  close(): Promise<void>;
}

export const METRICS_FLAGS: Flags = { host: '--metrics-bind', port: '--metrics-port' };
const MAX_CONNECTIONS = 64;
const CLOSE_MS = 1000;

export function createMetricsListener(options: MetricsListenerOptions): MetricsListener {
  const open = new Set<ServerResponse>();
  const limits = { ...CONNECTION_LIMITS, maxConnections: MAX_CONNECTIONS };
  const server = createListener(
    (request, response) => {
      open.add(response);
      response.on('close', () => open.delete(response));
      answer(request, response, options);
    },
    limits,
    () => open,
  );
  server.on('clientError', (error, socket) => refuseConnection(error, socket, () => open));
  return {
    listen: (address) => listen(server, address, METRICS_FLAGS),
    close: () => closeListener(server, () => open, CLOSE_MS),
  };
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { metrics, onError }: MetricsListenerOptions,
): void {
  const send = (status: number, text: string, type = 'text/plain; charset=utf-8'): void => {
    const length = Buffer.byteLength(text);
    response.writeHead(status, { 'content-type': type, 'content-length': length }).end(text);
  };
  if (pathOf(request.url) !== '/metrics') return send(404, 'here is /metrics and nothing else\n');
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return send(405, '/metrics is read with GET\n');
  }
  metrics().then(
    ({ contentType, text }) => send(200, text, contentType),
    (error: unknown) => {
      onError('the metrics cannot be collected', error);
      send(500, 'the metrics cannot be collected; the host log tells why\n');
    },
  );
}
