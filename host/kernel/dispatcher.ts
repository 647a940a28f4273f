/**
 * Runs one Invocation: find the plugin → check the input → wait for a place → call the runtime with a
 * way to the door → check the output. The same path for a client and for a plugin that calls another.
 */
import {
  type CompiledSchema,
  type ErrorCode,
  errorType,
  type Json,
  NoaError,
  parseJson,
  type SchemaViolation,
  type Span,
} from '@noa/sdk/host';
import type { Broker, CallFrame } from './broker.ts';
import type { CallerTokens } from './caller-tokens.ts';
import type { Chain } from './chain.ts';
import { Emission } from './emission.ts';
import type { Invocation, Outcome } from './invocation.ts';
import type { CallCost, RuntimeCall } from './loader.ts';
import type { ServedExport, Serving } from './serving.ts';
import { HeldStreams } from './held-streams.ts';
import { Spending } from './spending.ts';
import type { Budget, Token } from './tokens.ts';

/** Plugins in one chain of calls. */
const MAX_DEPTH = 8;

/** Codes with which a plugin itself fails, rather than its caller or what it depends on. */
export const FAULTS: ReadonlySet<ErrorCode> = new Set([
  'PLUGIN_TRAP',
  'PLUGIN_OUTPUT_INVALID',
  'DEADLINE_EXCEEDED',
]);

/** How a call of an export ended, for metrics. */
export interface CallObservation {
  readonly plugin: string;
  readonly export: string;
  readonly code: ErrorCode | 'OK';
  readonly seconds: number;
}

/** Processor time that a plugin has used since it was last told. */
export interface CostObservation extends CallCost {
  readonly plugin: string;
}

type Caller = ReturnType<CallerTokens['enter']>;

export interface DispatcherOptions {
  /** The running version of a plugin. Throws NoaError when there is none, saying why. */
  readonly serving: (plugin: string) => Serving;
  readonly broker: Broker;
  readonly callers: Pick<CallerTokens, 'enter'>;
  readonly observe: (observation: CallObservation) => void;
  /** May be told of a call a moment after its answer. */
  readonly observeCost: (observation: CostObservation) => void;
  /** Told of calls that ended by the plugin's own fault. */
  readonly onFailure: (invocation: Invocation, error: NoaError) => void;
  readonly now: () => number;
  readonly newId: () => string;
}

export class Dispatcher {
  readonly #options: DispatcherOptions;

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  /** Rejects with NoaError; `budget` narrows what the called plugin may spend of its caller's. */
  async dispatch(invocation: Invocation, budget?: Budget): Promise<Outcome> {
    const { token } = invocation.principal;
    if (token === undefined || invocation.chain !== undefined) {
      return this.#dispatch(invocation, budget, undefined);
    }
    const caller = this.#options.callers.enter(token, invocation);
    try {
      return await this.#dispatch(invocation, budget, caller);
    } finally {
      caller.leave();
    }
  }

  async #dispatch(
    invocation: Invocation,
    budget: Budget | undefined,
    caller: Caller | undefined,
  ): Promise<Outcome> {
    const started = this.#options.now();
    const serving = this.#options.serving(invocation.plugin);
    const target = serving.exports.get(invocation.export);
    if (target === undefined) {
      const known = [...serving.exports.keys()].join(', ');
      throw new NoaError(
        'NOT_FOUND',
        `plugin ${invocation.plugin} has no export ${JSON.stringify(invocation.export.slice(0, 64))}; it has ${known}`,
      );
    }
    let code: ErrorCode | 'OK' = 'OK';
    const span = invocation.span && beginCall(invocation.span, invocation);
    try {
      return await this.#run(invocation, serving, target, started, budget, span, caller);
    } catch (error) {
      const failure = asFailure(error, invocation.signal);
      code = failure.code;
      if (FAULTS.has(code)) this.#options.onFailure(invocation, failure);
      // Its stack is for the plugin's author, who finds it in the plugin's log.
      if (code === 'PLUGIN_TRAP') throw new NoaError(code, failure.message);
      throw failure;
    } finally {
      const seconds = (this.#options.now() - started) / 1000;
      this.#options.observe({
        plugin: invocation.plugin,
        export: invocation.export,
        code,
        seconds,
      });
      span?.end(code === 'OK' ? undefined : code);
    }
  }

  async #run(
    invocation: Invocation,
    serving: Serving,
    target: ServedExport,
    started: number,
    budget: Budget | undefined,
    span: Span | undefined,
    caller: Caller | undefined,
  ): Promise<Outcome> {
    const { chain, signal } = invocation;
    if (chain?.plugins.includes(invocation.plugin)) {
      const path = [...chain.plugins, invocation.plugin].join(' → ');
      throw new NoaError(
        'CONFLICT',
        `a plugin cannot be called again from within its own call: ${path}`,
      );
    }
    if (chain !== undefined && chain.plugins.length >= MAX_DEPTH) {
      throw new NoaError(
        'RESOURCE_EXHAUSTED',
        `calls between plugins go ${MAX_DEPTH} deep at most`,
      );
    }
    if (invocation.input === null) assertMayLack(target);
    check(target.checkInput, invocation.input, 'INVALID_ARGUMENT', 'the input breaks the schema');
    const deadline = Math.min(
      started + target.timeoutMs,
      invocation.deadline ?? Infinity,
      chain?.deadline ?? Infinity,
    );
    if (!serving.gate.tryEnter()) await waitForPlace(serving, deadline, signal, span);
    const perCall = chain !== undefined && (chain.perCall || budget !== undefined);
    const token = perCall ? onlyToken(serving, chain, budget) : undefined;
    const { stream = false, idempotent = false } = target.spec;
    const emission = stream
      ? new Emission(invocation.emit, serving.limits.maxOutputBytes)
      : undefined;
    const streams = new HeldStreams(this.#options.newId);
    const spending = new Spending((more) =>
      this.#options.observeCost({ plugin: invocation.plugin, ...more }),
    );
    try {
      const frame: CallFrame = {
        spending,
        audience: serving.audience,
        token: token ?? presentToken(serving, chain, caller),
        perCall,
        plugins: [...(chain?.plugins ?? []), invocation.plugin],
        principal: invocation.principal,
        requestId: invocation.id,
        traceId: invocation.traceId,
        deadline,
        span,
        emit: emission?.emit,
        streams,
      };
      const call: RuntimeCall = {
        export: invocation.export,
        input: invocation.text ?? JSON.stringify(invocation.input),
        deadline,
        // Begun again, it would emit again what its caller has.
        idempotent: idempotent && !stream,
        signal,
        invoke: (capability, operation, input, callSignal) =>
          this.#options.broker.invoke(frame, capability, operation, input, callSignal),
        spent: (cost) => spending.note(cost),
      };
      const text = await serving.runtime.call(call);
      const value = parse(text);
      check(
        target.checkOutput,
        value,
        'PLUGIN_OUTPUT_INVALID',
        'the plugin broke its output schema',
      );
      return emission?.answer({ value, text }) ?? { value, text };
    } finally {
      emission?.end();
      streams.end();
      token?.end();
      serving.gate.leave();
      const { fuel, executionMs } = spending;
      const isolation = serving.runtime.isolation ?? 'thread';
      span?.set({ 'noa.isolation': isolation, 'noa.fuel': fuel, 'noa.execution_ms': executionMs });
    }
  }
}

function beginCall(above: Span, { plugin, export: name }: Invocation): Span {
  const attributes = { 'noa.plugin': plugin, 'noa.export': name };
  return above.child(`call ${plugin}/${name}`, 'internal', attributes);
}

async function waitForPlace(
  { gate }: Serving,
  deadline: number,
  signal: AbortSignal,
  above: Span | undefined,
): Promise<void> {
  const span = above?.child('wait for a place', 'internal', {});
  try {
    await gate.wait(deadline, signal);
    span?.end();
  } catch (error) {
    span?.end(errorType(error));
    throw error;
  }
}

function asFailure(error: unknown, { aborted }: AbortSignal): NoaError {
  if (!(error instanceof NoaError)) {
    return new NoaError('INTERNAL', 'the call failed in the host', { cause: error });
  }
  // What code makes of a value that nobody takes any more is no fault of it.
  const isAbandoned = aborted && error.code === 'PLUGIN_TRAP';
  return isAbandoned ? new NoaError('CANCELLED', 'the caller went away', { cause: error }) : error;
}

/**
 * The token of a client's call is the plugin's own; that of a plugin's call has what both have, and so has
 * that of a caller who came with a capability token.
 */
function presentToken(
  serving: Serving,
  chain: Chain | undefined,
  caller: Caller | undefined,
): () => Promise<Token> {
  if (chain !== undefined) return async () => serving.childToken(await chain.token());
  if (caller === undefined) return () => serving.token();
  return () => serving.childToken(caller.above(serving.rights));
}

/**
 * A budget belongs to one token, so a call with a budget on it keeps the first token it gets; `end` voids
 * it, so that many such calls leave nothing behind.
 */
function onlyToken(
  serving: Serving,
  chain: Chain,
  budget: Budget | undefined,
): (() => Promise<Token>) & { end(): void } {
  let only: Promise<Token> | undefined;
  const source = async (): Promise<Token> => {
    only ??= chain.token().then((parent) => serving.tokenForCall(parent, budget));
    return only;
  };
  return Object.assign(source, {
    end: (): void => {
      // A token that could not be made leaves nothing to void; its call has heard why.
      only?.then(
        (token) => serving.endToken(token),
        () => undefined,
      );
    },
  });
}

/** A body that was forgotten is told as that, with what the export wants of it. */
function assertMayLack({ checkInput, spec: { input = {} } }: ServedExport): void {
  const [broken] = checkInput?.(null) ?? [];
  if (broken === undefined) return;
  const { required } = input;
  const names =
    Array.isArray(required) && required.length > 0 ? ` with ${required.join(', ')}` : '';
  const text = `there is no input: send ${kindOf(input['type'])}${names}`;
  throw new NoaError('INVALID_ARGUMENT', text, { details: [broken] });
}

function kindOf(type: unknown): string {
  return typeof type === 'string' ? `JSON of the type ${type}` : 'JSON that the schema takes';
}

function parse(text: string): Json {
  try {
    return parseJson(text);
  } catch (error) {
    const what =
      error instanceof RangeError
        ? `a value that is too much at once: ${error.message}; answer less at a time`
        : 'something that is not JSON';
    throw new NoaError('PLUGIN_OUTPUT_INVALID', `the plugin answered ${what}`, { cause: error });
  }
}

function check(
  schema: CompiledSchema | undefined,
  value: Json,
  code: 'INVALID_ARGUMENT' | 'PLUGIN_OUTPUT_INVALID',
  title: string,
): void {
  const broken: readonly SchemaViolation[] = schema?.(value) ?? [];
  if (broken.length === 0) return;
  const text = broken.map(({ path, message }) => `${path || '(root)'} ${message}`).join('; ');
  throw new NoaError(code, `${title}: ${text}`, { details: broken });
}
