/** The gRPC front over the real kernel of `front.ts`, on a port of its own, with real clients. */
import { execFile } from 'node:child_process';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import {
  Client,
  credentials,
  type CallOptions,
  type ClientReadableStream,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import type { DenialRecord } from '../../host/gateway/denials.ts';
import { Gateway, type GatewayOptions } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import type { AccessEntry } from '../../host/transports/exchange.ts';
import type { GrpcObservation } from '../../host/transports/grpc/exchange.ts';
import { loadProtos } from '../../host/transports/grpc/protos.ts';
import { createGrpc, type GrpcOptions } from '../../host/transports/grpc/server.ts';
import { HTTP_FLAGS } from '../../host/transports/http.ts';
import { CONNECTION_LIMITS, type ConnectionLimits } from '../../host/transports/listener.ts';
import { Port } from '../../host/transports/port/port.ts';
import { ADMIN, READER, startFront } from './front.ts';
import { MemoryEvents } from './memory-events.ts';

const ROOT = resolve(import.meta.dirname, '../..');
export const BUF = join(ROOT, 'node_modules/.bin/buf');
const protos = loadProtos();

export type Message = Record<string, unknown>;

/** The end of a call as its client sees it. */
export interface Ended {
  readonly code: number;
  readonly details: string;
  readonly metadata: Metadata;
}

export async function startGrpc(
  options: Partial<GrpcOptions> = {},
  gatewayOptions: Partial<GatewayOptions> = {},
  limits: Partial<ConnectionLimits> = {},
) {
  const front = await startFront();
  const observed: GrpcObservation[] = [];
  const logged: AccessEntry[] = [];
  const denied: DenialRecord[] = [];
  const errors: unknown[] = [];
  const events = new MemoryEvents();
  const { kernel } = front;
  const grpc = createGrpc({
    gateway: new Gateway({
      authenticator: new Authenticator({
        credentials: [
          { token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } },
          { token: READER, principal: { subject: 'reader', scopes: [] } },
        ],
        now: Date.now,
      }),
      denied: (denial) => denied.push(denial),
      ...gatewayOptions,
    }),
    kernel,
    hooks: front.hooks,
    events,
    streams: { max_connections: 1000, max_per_identity: 500, heartbeat_ms: 50 },
    settings: { max_body_bytes: 64 << 10, grpc_reflection: 'open' },
    observe: (observation) => observed.push(observation),
    access: (entry) => logged.push(entry),
    onError: (_message, error) => errors.push(error),
    ...options,
  });
  const listener = new Port((_request, response) => response.writeHead(404).end(), {
    limits: { ...CONNECTION_LIMITS, ...limits },
    open: () => [],
    grpc,
    onError: (_message, error) => errors.push(error),
  });
  const { port } = await listener.listen({ host: '127.0.0.1', port: 0 }, HTTP_FLAGS);
  const client = new GrpcClient(`127.0.0.1:${port}`);
  return {
    ...client.bound(),
    port,
    front,
    grpc,
    listener,
    kernel,
    events,
    observed,
    logged,
    denied,
    errors,
    install: front.install,
    close: async (): Promise<void> => {
      client.close();
      await listener.close(0);
      await front.close();
    },
  };
}

export function headers(token: string | null = ADMIN, more: Record<string, string> = {}): Metadata {
  const metadata = new Metadata();
  if (token !== null) metadata.set('authorization', `Bearer ${token}`);
  for (const [name, value] of Object.entries(more)) metadata.set(name, value);
  return metadata;
}

export class GrpcClient {
  readonly #client: Client;
  readonly #calls = new Set<{ cancel(): void }>();

  constructor(address: string, channel = credentials.createInsecure()) {
    // Else two clients of one address have one connection.
    this.#client = new Client(address, channel, { 'grpc.use_local_subchannel_pool': 1 });
  }

  bound() {
    return {
      call: (...args: Parameters<GrpcClient['call']>) => this.call(...args),
      stream: (...args: Parameters<GrpcClient['stream']>) => this.stream(...args),
      client: this.#client,
    };
  }

  /** A unary call; `cancel` is handed the way to cancel it. */
  call(
    method: string,
    message: Message,
    metadata: Metadata = headers(),
    options: CallOptions & { readonly cancel?: (cancel: () => void) => void } = {},
  ): Promise<{ message: Message; metadata: Metadata; ended: Ended }> {
    const definition = definitionOf(method);
    return new Promise((done, fail) => {
      let initial = new Metadata();
      let ended: Ended | undefined;
      let answer: Message | undefined;
      const finish = (): void => {
        if (ended !== undefined && answer !== undefined) {
          done({ message: answer, metadata: initial, ended });
        }
      };
      const call = this.#client.makeUnaryRequest(
        definition.path,
        definition.requestSerialize,
        definition.responseDeserialize,
        message,
        metadata,
        options,
        (error: ServiceError | null, value?: object) => {
          if (error !== null) return fail(error);
          answer = value as Message;
          finish();
        },
      );
      call.on('metadata', (value: Metadata) => (initial = value));
      call.on('status', (status: Ended) => {
        ended = status;
        finish();
      });
      options.cancel?.(() => call.cancel());
      this.#calls.add(call);
    });
  }

  stream(
    method: string,
    message: Message,
    metadata: Metadata = headers(),
    options: CallOptions = {},
  ): Messages {
    const definition = definitionOf(method);
    const call = this.#client.makeServerStreamRequest(
      definition.path,
      definition.requestSerialize,
      definition.responseDeserialize,
      message,
      metadata,
      options,
    );
    this.#calls.add(call);
    return new Messages(call);
  }

  /** Neither library ends calls that run when it is closed. */
  close(): void {
    for (const call of this.#calls) call.cancel();
    this.#client.close();
  }
}

function definitionOf(method: string) {
  const found = protos.methods.get(method);
  if (found === undefined) throw new TypeError(method);
  return found.definition;
}

/** The messages of a stream, one after the other, and how it ended. */
export class Messages {
  readonly call: ClientReadableStream<object>;
  readonly ended: Promise<Ended>;
  readonly all: Message[] = [];
  readonly #waiting: (() => void)[] = [];
  /** The metadata, which comes before the first message. */
  readonly begun: Promise<Metadata>;
  metadata: Metadata | undefined;

  constructor(call: ClientReadableStream<object>) {
    this.call = call;
    this.begun = new Promise((done) => call.on('metadata', (value: Metadata) => done(value)));
    void this.begun.then((value) => (this.metadata = value));
    call.on('data', (message: Message) => {
      this.all.push(message);
      for (const wake of this.#waiting.splice(0)) wake();
    });
    call.on('error', () => undefined); // the status tells
    this.ended = new Promise((done) => call.on('status', (status: Ended) => done(status)));
  }

  /** Resolves when so many have come. */
  async count(wanted: number): Promise<Message[]> {
    while (this.all.length < wanted) {
      const more = new Promise<void>((wake) => this.#waiting.push(wake));
      const ended = await Promise.race([more, this.ended]);
      if (ended !== undefined && this.all.length < wanted) throw new Error(ended.details);
    }
    return this.all;
  }
}

/** `buf curl` over HTTP/2 in cleartext; rejects with what it wrote. */
export async function buf(port: number, path: string, ...args: string[]): Promise<string> {
  const url = `http://127.0.0.1:${port}${path}`;
  const all = ['curl', '--http2-prior-knowledge', '--protocol', 'grpc', ...args, url];
  const { stdout } = await promisify(execFile)(BUF, all, { cwd: ROOT });
  return stdout;
}
