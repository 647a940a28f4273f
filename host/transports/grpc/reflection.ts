/**
 * Server reflection v1 and v1alpha: tells what is in `proto/`, itself and health among it. Invariant: of a
 * caller that asks and does not read, no more is kept than of any other stream, and none may stay.
 */
import type { Server, ServerDuplexStream, ServiceDefinition } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { NoaError } from '@noa/sdk/host';
import type { GrpcExchange } from './exchange.ts';
import type { Protos } from './protos.ts';

const MAX_STREAMS = 64;
const LIFE_MS = 60_000;

type Reflect = (call: ServerDuplexStream<object, object>) => void;

/** `exchangeOf` a call; `fail` ends one. */
export function addReflection(
  server: Server,
  { definitions }: Protos,
  exchangeOf: (call: ServerDuplexStream<object, object>) => GrpcExchange,
  fail: (call: ServerDuplexStream<object, object>, error: NoaError) => void,
): void {
  let streams = 0;
  const bounded =
    (reflect: Reflect): Reflect =>
    (call) => {
      if (streams === MAX_STREAMS) {
        const rule = `${MAX_STREAMS} reflection streams are open already; try again later`;
        return fail(call, new NoaError('RESOURCE_EXHAUSTED', rule, { retryAfterMs: 1000 }));
      }
      streams += 1;
      const { signal } = exchangeOf(call);
      const timer = setTimeout(() => {
        fail(call, new NoaError('DEADLINE_EXCEEDED', `reflection streams end after ${LIFE_MS} ms`));
      }, LIFE_MS).unref();
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        streams -= 1;
      });
      const write = call.write.bind(call);
      call.write = (message: object) => {
        const hasRoom = write(message);
        if (!hasRoom) call.pause().once('drain', () => call.resume());
        return hasRoom;
      };
      reflect(call);
    };
  new ReflectionService(definitions).addToServer({
    addService(service: ServiceDefinition, implementation) {
      const wrapped = Object.entries(implementation).map(
        ([name, reflect]) => [name, bounded(reflect as Reflect)] as const,
      );
      server.addService(service, Object.fromEntries(wrapped));
    },
  });
}
