/**
 * The gRPC front: the services of `proto/` on a server that somebody else gives connections to. Invariant:
 * every call comes through the gateway but health (and reflection, where the operator leaves it open), and
 * every failure ends with a code of the SDK's one table.
 */
import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import type {
  sendUnaryData,
  Server,
  ServerOptions,
  ServerUnaryCall,
  ServerWritableStream,
} from '@grpc/grpc-js';
import { NoaError } from '@noa/sdk/host';
import type { EventReader } from '../../kernel/events.ts';
import { EventFeed } from '../streams/feed.ts';
import { Admission, type AdmissionOptions } from './admission.ts';
import { boundTimeout, noteUnknown } from './entry.ts';
import { streamUiEvents, subscribe } from './events.ts';
import { type GrpcExchange, statusOf } from './exchange.ts';
import { type Answer, type Handler, sender, type Streaming } from './handler.ts';
import { check, type IsServing, watch } from './health.ts';
import { PluginMethods, type PluginMethodsOptions } from './methods.ts';
import { loadProtos, type Method, type Protos } from './protos.ts';
import { addReflection } from './reflection.ts';
import { OpenStreams, type StreamSettings } from './streams.ts';

const HEALTH = 'grpc.health.v1.Health';
const SUBSCRIBE = 'noa.api.v1.EventService/Subscribe';
const STREAM_EVENTS = 'noa.ui.UiSchemaService/StreamEvents';
/** Longest time in which a reader takes nothing of a stream. */
const STALL_MS = 30_000;

export interface GrpcOptions
  extends PluginMethodsOptions, Omit<AdmissionOptions, 'open' | 'scopes'> {
  readonly events: EventReader;
  readonly settings: {
    /** Of a message, both ways. */
    readonly max_body_bytes: number;
    /** Who may ask what there is: anyone, whoever has a credential, or nobody. */
    readonly grpc_reflection: 'open' | 'authenticated' | 'off';
  };
  readonly streams: StreamSettings;
  readonly stallMs?: number;
}

export interface GrpcFront {
  /** What the server is to be made with. */
  readonly serverOptions: ServerOptions;
  /** Sees each call before the server does. */
  enter(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void;
  /** Once, before it takes connections. */
  addTo(server: Server): void;
  /** Ends the streams that would go on for ever; health tells that the host stops. */
  drain(): void;
}

export function createGrpc(options: GrpcOptions): GrpcFront {
  const protos = loadProtos();
  const calls = new Calls(options, protos);
  return {
    serverOptions: {
      interceptors: [calls.admission.interceptor],
      'grpc.enable_channelz': 0,
      'grpc.max_receive_message_length': options.settings.max_body_bytes,
      'grpc.max_send_message_length': options.settings.max_body_bytes,
    },
    enter: (stream, headers) => {
      boundTimeout(headers);
      if (!calls.knows(headers[':path'])) noteUnknown(stream, headers, options);
    },
    addTo: (server) => calls.addTo(server),
    drain: () => calls.drain(),
  };
}

/** What a message that cannot be read is handed over as. */
const UNREADABLE = {};

class Calls {
  readonly admission: Admission;
  readonly #options: GrpcOptions;
  readonly #protos: Protos;
  readonly #handlers = new Map<Method, Handler>();
  readonly #streams: OpenStreams;

  constructor(options: GrpcOptions, protos: Protos) {
    this.#options = options;
    this.#protos = protos;
    const open = new Set<Method>();
    const scopes = new Map<Method, string>();
    for (const method of protos.methods.values()) {
      const isReflection = method.service.startsWith('grpc.reflection.');
      if (
        method.service === HEALTH ||
        (isReflection && options.settings.grpc_reflection === 'open')
      ) {
        open.add(method);
      }
      if (method.name === SUBSCRIBE || method.name === STREAM_EVENTS) {
        scopes.set(method, 'events:read');
      }
    }
    this.admission = new Admission({ ...options, open, scopes }, protos.methods.values());
    this.#streams = new OpenStreams(options.streams, (exchange) => this.admission.verify(exchange));
    this.#answerAll();
  }

  /** Whether there is a method at this path. */
  knows(path = ''): boolean {
    const method = this.#protos.methods.get(path.slice(1));
    const isReflection = method?.definition.requestStream === true;
    return (
      method !== undefined && !(isReflection && this.#options.settings.grpc_reflection === 'off')
    );
  }

  #answerAll(): void {
    const feed = new EventFeed(this.#options);
    const plugins = new PluginMethods(this.#options);
    const isServing = this.#health(plugins);
    const { definitions, methods } = this.#protos;
    const own = new Map<string, Handler>([
      [SUBSCRIBE, subscribe(feed)],
      [STREAM_EVENTS, streamUiEvents(feed)],
      [`${HEALTH}/Check`, check(isServing)],
      [`${HEALTH}/Watch`, watch(isServing)],
    ]);
    for (const method of methods.values()) {
      if (method.definition.requestStream) continue; // reflection
      const { responseStream } = method.definition;
      const handler =
        own.get(method.name) ??
        (responseStream
          ? plugins.stream(method, definitions)
          : plugins.answer(method, definitions));
      this.#handlers.set(method, handler);
    }
  }

  /** A service of which plugins answer any method serves when one of them does. */
  #health(plugins: PluginMethods): IsServing {
    const { methods, services } = this.#protos;
    const own = [HEALTH, SUBSCRIBE.split('/', 1)[0]];
    return (service) => {
      if (service !== '' && !services.has(service)) return undefined;
      if (this.#streams.isDraining) return false;
      if (service === '' || own.includes(service) || service.startsWith('grpc.')) return true;
      return [...methods.values()].some(
        (method) => method.service === service && plugins.isServed(method.name),
      );
    };
  }

  addTo(server: Server): void {
    for (const [method, handler] of this.#handlers) {
      const { path, responseSerialize, requestDeserialize } = method.definition;
      const deserialize = (bytes: Buffer): object => {
        try {
          return requestDeserialize(bytes);
        } catch {
          return UNREADABLE; // whose handler says so, in words of ours
        }
      };
      if (typeof handler === 'function') {
        const unary = (call: ServerUnaryCall<object, object>, done: sendUnaryData<object>) =>
          void this.#unary(handler, call, done);
        server.register(path, unary, responseSerialize, deserialize, 'unary');
      } else {
        const stream = (call: ServerWritableStream<object, object>) =>
          void this.#stream(handler, call);
        server.register(path, stream, responseSerialize, deserialize, 'serverStream');
      }
    }
    if (this.#options.settings.grpc_reflection === 'off') return;
    addReflection(
      server,
      this.#protos,
      (call) => this.admission.exchange(call.metadata),
      (call, error) => void call.emit('error', statusOf(error)),
    );
  }

  drain(): void {
    this.#streams.drain();
  }

  async #unary(
    answer: Answer,
    { metadata, request }: ServerUnaryCall<object, object>,
    callback: sendUnaryData<object>,
  ): Promise<void> {
    const exchange = this.admission.exchange(metadata);
    try {
      if (request === UNREADABLE) throw unreadable(exchange);
      const message = await answer(exchange, request);
      exchange.settle();
      callback(null, message);
    } catch (error) {
      exchange.settle();
      callback(statusOf(this.admission.failure(exchange, error)));
    }
  }

  async #stream(
    { isEndless, run }: Streaming,
    call: ServerWritableStream<object, object>,
  ): Promise<void> {
    const { metadata, request } = call;
    const exchange = this.admission.exchange(metadata);
    try {
      if (request === UNREADABLE) throw unreadable(exchange);
      const send = sender(call, exchange, this.#options.stallMs ?? STALL_MS);
      await this.#streams.hold(exchange, isEndless, () => run(exchange, request, send));
      exchange.settle();
      call.end();
    } catch (error) {
      exchange.settle();
      call.emit('error', statusOf(this.admission.failure(exchange, error)));
    }
  }
}

function unreadable({ method }: GrpcExchange): NoaError {
  const rule = `the message is no ${method.request} in the encoding of protobuf`;
  return new NoaError('INVALID_ARGUMENT', rule);
}
