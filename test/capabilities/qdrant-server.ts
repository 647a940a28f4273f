/**
 * A Qdrant for tests: judges every request and each of its own answers by Qdrant's types, and answers from the
 * embedded store. It is strict where Qdrant can be: an unknown member, a filter without an index and an id that
 * is no UUID are refused.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { type Json, NoaError, type SchemaViolation } from '@noa/sdk/host';
import { openEmbeddedStore } from '../../capabilities/vector/embedded/store.ts';
import { answering, invalid } from './qdrant-answers.ts';
import { qdrantOperations } from './qdrant-types.ts';

const MAX_BODY = 32 << 20;
const STATUS: { readonly [code: string]: number } = {
  INVALID_ARGUMENT: 400,
  NOT_FOUND: 404,
  CONFLICT: 409,
};

export interface QdrantServer {
  readonly url: string;
  /** Names of the operations that were asked for. */
  readonly asked: string[];
  /** How the next requests end: with a status, or with nothing. */
  readonly faults: (number | 'reset' | 'silence')[];
  stop(): Promise<void>;
}

export async function qdrantServer(folder: string, apiKey?: string): Promise<QdrantServer> {
  const warn = (text: string): void => {
    throw new Error(text);
  };
  const store = openEmbeddedStore({ folder, maxPoints: 1_000_000, warn });
  const answers = answering(store);
  const operations = qdrantOperations(Object.keys(answers));
  const asked: string[] = [];
  const faults: QdrantServer['faults'] = [];

  const answer = async (request: IncomingMessage): Promise<unknown> => {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://test');
    const operation = operations.find(
      ({ method, pattern }) => method === request.method && pattern.test(pathname),
    );
    const bytes = await buffer(request);
    if (operation === undefined) throw new TypeError(`${request.method} ${pathname}`);
    if (bytes.length > MAX_BODY) throw new TypeError(`a body of ${bytes.length} bytes`);
    asked.push(operation.name);
    const unknown = [...searchParams.keys()].find((key) => !operation.query.has(key));
    if (unknown !== undefined) throw invalid(`query: ${unknown} is not known`);
    const body = bytes.length === 0 ? null : (JSON.parse(bytes.toString()) as Json);
    const [broken] = operation.judgeRequest(body);
    if (broken !== undefined) throw invalid(`Format error in JSON body: ${told(broken)}`);
    const name = operation.pattern.exec(pathname)?.groups?.['collection_name'] ?? '';
    const result = await answers[operation.name]?.(decodeURIComponent(name), body as never);
    const [wrong] = operation.judgeAnswer(result);
    if (wrong !== undefined) throw new TypeError(`${operation.name}: ${told(wrong)}`);
    return result;
  };

  const server = createServer((request, response) => {
    const fault = faults.shift();
    if (fault === 'silence') return;
    if (fault === 'reset') return void request.socket.destroy();
    if (fault !== undefined) return send(response, fault, { status: { error: 'Service error' } });
    if (apiKey !== undefined && request.headers['api-key'] !== apiKey) {
      response.writeHead(401, { 'content-type': 'text/plain' }).end('Invalid API key or JWT');
      return;
    }
    answer(request).then(
      (result) => send(response, 200, { result, status: 'ok', time: 0.001 }),
      (error: unknown) => {
        const status = error instanceof NoaError ? (STATUS[error.code] ?? 500) : 500;
        send(response, status, { status: { error: String(error) }, time: 0.001 });
      },
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}`,
    asked,
    faults,
    async stop() {
      server.closeAllConnections();
      server.close();
      await store.close();
    },
  };
}

function told({ path, message }: SchemaViolation): string {
  return `${path} ${message}`;
}

function send(response: ServerResponse, status: number, body: object): void {
  const headers = {
    'content-type': 'application/json',
    ...(status === 429 && { 'retry-after': '1' }),
  };
  response.writeHead(status, headers).end(JSON.stringify(body));
}
