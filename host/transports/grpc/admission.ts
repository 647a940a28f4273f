/**
 * Puts the gateway between a caller's metadata and its message: identify, admit and scope, as for any other
 * transport. Invariant: of a call that is not admitted no message is read.
 */
import {
  type Metadata,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
  ServerInterceptingCall,
} from '@grpc/grpc-js';
import { NoaError } from '@noa/sdk/host';
import type { Gateway } from '../../gateway/gateway.ts';
import type { Hooks } from '../../gateway/hooks.ts';
import type { RateState } from '../../gateway/limits.ts';
import type { Principal } from '../../kernel/chain.ts';
import { asNoaError, type ExchangeOptions, GrpcExchange, statusOf } from './exchange.ts';
import { runHooks } from './hooked.ts';
import type { Method } from './protos.ts';

/** Where a call's metadata, which is all that the library hands on, leads to its exchange. */
const EXCHANGE = Symbol('exchange');

export interface AdmissionOptions extends ExchangeOptions {
  readonly gateway: Gateway;
  /** Methods that ask for no credential. */
  readonly open: ReadonlySet<Method>;
  /** Scopes that methods ask for; of others policies alone decide. */
  readonly scopes: ReadonlyMap<Method, string>;
  readonly hooks: Hooks;
  readonly onError: (message: string, error: unknown) => void;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #methods = new Map<string, Method>();

  constructor(options: AdmissionOptions, methods: Iterable<Method>) {
    this.#options = options;
    for (const method of methods) this.#methods.set(method.definition.path, method);
  }

  /** The exchange of a call that was admitted, by the metadata that its handler is given. */
  exchange(metadata: Metadata): GrpcExchange {
    const exchange: unknown = Reflect.get(metadata, EXCHANGE);
    if (exchange instanceof GrpcExchange) return exchange;
    throw new TypeError('the call has not come through the gateway');
  }

  readonly interceptor: ServerInterceptor = ({ path }, call) => {
    const method = this.#methods.get(path);
    if (method === undefined) throw new TypeError(`${path} is not in proto/`);
    let exchange: GrpcExchange | undefined;
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, pass) => {
            const entered = new GrpcExchange(call, method, metadata, this.#options);
            exchange = entered;
            Reflect.set(metadata, EXCHANGE, entered);
            this.#admit(call, entered, () => pass(metadata));
          },
          onCancel: () => exchange?.cancelled(),
        }),
    });
  };

  #admit(call: ServerInterceptingCallInterface, exchange: GrpcExchange, pass: () => void): void {
    const refuse = (error: unknown): void =>
      call.sendStatus(statusOf(this.failure(exchange, error)));
    try {
      if (this.#options.open.has(exchange.method)) return pass();
      const waiting = this.#identify(exchange);
      if (waiting === undefined) return pass();
      waiting.then(pass).catch(refuse);
    } catch (error) {
      refuse(error);
    }
  }

  /** What the caller is told; what it is not told goes to the log. */
  failure(exchange: GrpcExchange, error: unknown): NoaError {
    const shown = asNoaError(error);
    if (shown.code === 'INTERNAL' && shown.cause !== undefined) {
      this.#options.onError(`request ${exchange.id}: ${shown.message}`, shown.cause);
    }
    return shown;
  }

  /** Rejects when the caller of a call would not be let in any more. */
  async verify({ arrival, method }: GrpcExchange): Promise<void> {
    const { gateway, scopes } = this.#options;
    const principal = await gateway.identify(arrival);
    const scope = scopes.get(method);
    if (scope !== undefined) gateway.requireScope(arrival, principal, scope);
  }

  #identify(exchange: GrpcExchange): Promise<void> | undefined {
    if (Date.now() >= (exchange.deadline ?? Infinity)) {
      throw new NoaError('DEADLINE_EXCEEDED', 'grpc-timeout: the deadline has passed already');
    }
    const principal: Principal | Promise<Principal> = this.#options.gateway.identify(
      exchange.arrival,
    );
    return principal instanceof Promise
      ? principal.then((known) => this.#limit(exchange, known))
      : this.#limit(exchange, principal);
  }

  #limit(exchange: GrpcExchange, principal: Principal): Promise<void> | undefined {
    const { gateway, scopes, hooks } = this.#options;
    const { method, arrival } = exchange;
    exchange.principal = principal;
    const enter = (rate: RateState | undefined): Promise<void> | undefined => {
      exchange.rate = rate;
      const scope = scopes.get(method);
      if (scope !== undefined) gateway.requireScope(arrival, principal, scope);
      return runHooks(hooks, gateway, exchange, principal);
    };
    const rate = gateway.admit(arrival, principal, method.name);
    return rate instanceof Promise ? rate.then(enter) : enter(rate);
  }
}
