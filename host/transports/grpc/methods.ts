/**
 * The methods that plugins answer. The recorded state says which plugin a method leads to, the version
 * that runs which export; the message goes there as an Invocation and the output comes back as a message.
 */
import { type Json, NoaError } from '@noa/sdk/host';
import type { PackageDefinition } from '@grpc/proto-loader';
import type { Invocation } from '../../kernel/invocation.ts';
import type { Kernel } from '../../kernel/kernel.ts';
import type { Snapshot } from '../../kernel/store.ts';
import { type Shape, shapeOf, toInput, toMessage } from './codec.ts';
import type { GrpcExchange } from './exchange.ts';
import type { Answer, Streaming } from './handler.ts';
import type { Method } from './protos.ts';

export interface PluginMethodsOptions {
  readonly kernel: Pick<Kernel, 'dispatcher' | 'supervisor'>;
}

interface Target {
  readonly plugin: string;
  readonly export: string;
  /** It emits messages before it answers. */
  readonly isStream: boolean;
}

export class PluginMethods {
  readonly #kernel: PluginMethodsOptions['kernel'];
  #known: Snapshot | undefined;
  #plugins: ReadonlyMap<string, string> = new Map();

  constructor({ kernel }: PluginMethodsOptions) {
    this.#kernel = kernel;
  }

  /** Whether some plugin that serves answers a method. */
  isServed(method: string): boolean {
    try {
      return this.#target(method) !== undefined;
    } catch (error) {
      if (error instanceof NoaError) return false;
      throw error;
    }
  }

  /** The answer of a method to one message. */
  answer(method: Method, definitions: PackageDefinition): Answer {
    const [request, response] = [method.request, method.response].map((name) =>
      shapeOf(definitions, name),
    ) as [Shape, Shape];
    return async (exchange, message) => {
      const target = this.#enter(exchange);
      const outcome = await this.#kernel.dispatcher.dispatch(
        invocation(exchange, target, toInput(request, message)),
      );
      return labelled(response, exchange, outcome.value);
    };
  }

  /** Its messages are what the export emits and then what it answers, but null. */
  stream(method: Method, definitions: PackageDefinition): Streaming {
    const request = shapeOf(definitions, method.request);
    const response = shapeOf(definitions, method.response);
    return {
      isEndless: false,
      run: async (exchange, message, send) => {
        const target = this.#enter(exchange);
        const emit = (value: Json): Promise<void> => send(labelled(response, exchange, value));
        const outcome = await this.#kernel.dispatcher.dispatch({
          ...invocation(exchange, target, toInput(request, message)),
          emit,
        });
        if (!target.isStream || outcome.value !== null) await emit(outcome.value);
      },
    };
  }

  #enter(exchange: GrpcExchange): Target {
    const target = this.#target(exchange.method.name);
    exchange.plugin = target.plugin;
    return target;
  }

  /** Throws METHOD_NOT_ALLOWED (UNIMPLEMENTED) when no plugin claims the method, or why it does not serve. */
  #target(method: string): Target {
    const plugin = this.#claimed().get(method);
    if (plugin === undefined) {
      const entry = JSON.stringify({ method, export: '…' });
      const text = `no plugin answers ${method}: install one whose manifest has contributes.grpc ${entry}`;
      throw new NoaError('METHOD_NOT_ALLOWED', text);
    }
    const { manifest } = this.#kernel.supervisor.serving(plugin);
    const spec = manifest.contributes?.grpc?.find((each) => each.method === method);
    if (spec === undefined) {
      const text = `version ${manifest.version} of plugin ${plugin} does not answer ${method}, and its successor does not serve yet`;
      throw new NoaError('UNAVAILABLE', text, { retryAfterMs: 1000 });
    }
    const isStream = manifest.exports[spec.export]?.stream === true;
    return { plugin, export: spec.export, isStream };
  }

  /** The plugin that each method leads to; the snapshot is the same value until it changes. */
  #claimed(): ReadonlyMap<string, string> {
    const snapshot = this.#kernel.supervisor.snapshot;
    if (snapshot !== this.#known) {
      this.#known = snapshot;
      this.#plugins = claims(snapshot);
    }
    return this.#plugins;
  }
}

/** Of enabled plugins no two claim one method: administration refuses it. */
function claims({ plugins, versions }: Snapshot): Map<string, string> {
  const found = new Map<string, string>();
  const enabledLast = plugins.toSorted((a, b) => Number(a.enabled) - Number(b.enabled));
  for (const { name, active } of enabledLast) {
    const version = versions.find(({ plugin, digest }) => plugin === name && digest === active);
    for (const { method } of version?.manifest.contributes?.grpc ?? []) found.set(method, name);
  }
  return found;
}

function invocation(exchange: GrpcExchange, target: Target, input: Json): Invocation {
  const { id, principal, deadline, signal, trace } = exchange;
  if (principal === undefined) throw new TypeError('the method asks for no credential');
  return {
    id,
    plugin: target.plugin,
    export: target.export,
    input,
    principal,
    ...(deadline === undefined ? {} : { deadline }),
    signal,
    traceId: trace.traceId,
    span: trace.span,
  };
}

/** The output as a message, with the call's id where the message has room for one and it says none. */
function labelled(shape: Shape, exchange: GrpcExchange, output: Json): object {
  const message = toMessage(shape, output);
  if (shape.members.has('request_id')) message['request_id'] ??= exchange.id;
  return message;
}
