/**
 * The one door. Whatever a plugin wants outside its own memory comes through `invoke`: verify the token
 * → find the right → take from the budget → validate → drive → audit and measure. Built-in and
 * third-party plugins differ in nothing here, because there is no other way in.
 */
import {
  type Capability,
  type CompiledSchema,
  compileSchema,
  covers,
  type Driver,
  type DriverCall,
  errorType,
  type Json,
  NoaError,
  type Operation,
  type Span,
  type Usage,
} from '@noa/sdk/host';
import type { AuditEvent } from './audit.ts';
import type { Budgets } from './budgets.ts';
import type { Chain } from './chain.ts';
import type { Right } from './grants.ts';
import type { CallCost } from './loader.ts';
import { RateLimiter } from './rate.ts';
import { Sampler } from './sampler.ts';
import type { Audience, Claims, TokenService } from './tokens.ts';

/**
 * Denials of one plugin at one capability that are recorded. Unlike uses they cost the plugin nothing and
 * need no grant, so nothing else would bound the log.
 */
const DENIALS = { burst: 100, perSecond: 1 };

export interface CapabilityEntry {
  readonly capability: Capability;
  readonly driver: Driver;
}

/** What one capability call costs and how it ended, for metrics. */
export interface CapabilityObservation {
  readonly plugin: string;
  readonly capability: string;
  readonly operation: string;
  readonly outcome: 'ok' | 'denied' | 'failed';
  readonly seconds: number;
}

export interface BrokerOptions {
  readonly capabilities: readonly CapabilityEntry[];
  readonly tokens: TokenService;
  readonly budgets: Budgets;
  /** True while this grant is approved; asked at every call, so that a revocation holds at once. */
  readonly isApproved: (grant: string) => boolean;
  readonly audit: { admit(): void; record(event: AuditEvent): void };
  readonly observe: (observation: CapabilityObservation) => void;
  /** Told of failures that are the host's own; the plugin only hears INTERNAL. */
  readonly onError: (message: string, error: unknown) => void;
  readonly now: () => number;
}

/** The frame that a call runs in; made by the dispatcher, never by the plugin. */
export interface CallFrame extends Chain {
  readonly audience: Audience;
  /** Of the call of the export, until its present capability call. */
  readonly spending: CallCost;
}

interface Entry {
  readonly spec: Operation;
  readonly driver: Driver;
  readonly limiter: RateLimiter | undefined;
  readonly check: CompiledSchema;
}

export class Broker {
  readonly #options: BrokerOptions;
  readonly #operations = new Map<string, Entry>();
  readonly #denials: Sampler;

  constructor(options: BrokerOptions) {
    this.#options = options;
    this.#denials = new Sampler(DENIALS, options.now);
    for (const { capability, driver } of options.capabilities) {
      const limiter =
        capability.always && new RateLimiter(capability.always.ratePerSecond, options.now);
      for (const [name, spec] of Object.entries(capability.operations)) {
        const check = compileSchema(spec.input);
        this.#operations.set(`${capability.name}.${name}`, { spec, driver, limiter, check });
      }
    }
  }

  /**
   * Runs one operation for the plugin in whose name the frame speaks. Rejects with NoaError: NOT_FOUND
   * (no such operation), CAPABILITY_DENIED (no right, or a token that holds no more), RESOURCE_EXHAUSTED
   * (budget), RATE_LIMITED, DEADLINE_EXCEEDED, INVALID_ARGUMENT (schema), or what the driver says.
   */
  async invoke(
    frame: CallFrame,
    capability: string,
    operation: string,
    input: Json,
    signal: AbortSignal,
  ): Promise<unknown> {
    const started = this.#options.now();
    const { plugin } = frame.audience;
    let resources: readonly string[] = [];
    let admitted = false;
    const entry = this.#operations.get(`${capability}.${operation}`);
    // What is open to every plugin would drown a trace.
    const span =
      entry && entry.limiter === undefined ? beginUse(frame, capability, operation) : undefined;
    try {
      if (entry === undefined) {
        throw new NoaError(
          'NOT_FOUND',
          `this host has no operation ${name(capability, operation)}`,
        );
      }
      const token = await frame.token();
      const claims = await this.#verify(token.text, frame.audience);
      const broken = entry.check(input);
      if (broken.length > 0) {
        const text = broken
          .map(({ path, message }) => `${path || 'arguments'} ${message}`)
          .join('; ');
        throw new NoaError('INVALID_ARGUMENT', `${name(capability, operation)}: ${text}`, {
          details: broken,
        });
      }
      let allowed: readonly string[] = [];
      if (entry.limiter === undefined) {
        this.#options.audit.admit();
        admitted = true;
        resources =
          (entry.spec.resources as ((input: Json) => string[]) | undefined)?.(input) ?? [];
        allowed = this.#authorize(claims, capability, operation, resources);
        // Where only the driver can tell what is touched, the log says what may be.
        if (resources.length === 0) resources = allowed;
      } else {
        entry.limiter.take(plugin, name(capability, operation));
      }
      if (frame.deadline <= started) {
        throw new NoaError('DEADLINE_EXCEEDED', 'the call has no time left');
      }
      // What a streamed answer is taken by belongs to the call that asked for it.
      if (entry.limiter === undefined) this.#options.budgets.begin(claims);
      const { driver, spec } = entry;
      const usageOf = spec.usage as ((input: Json, output: unknown) => Usage) | undefined;
      const call: DriverCall = {
        plugin,
        resources: allowed,
        also: async (resource) => {
          resources = [...resources, resource];
          const { text } = await frame.token();
          const present = await this.#verify(text, frame.audience);
          this.#authorize(present, capability, operation, [resource]);
        },
        signal,
        deadline: frame.deadline,
        chain: frame satisfies Chain,
        span,
      };
      const output =
        spec.items === undefined
          ? await driver.invoke(operation, input, call)
          : await frame.streams.hold(
              (ended) =>
                driver.invoke(operation, input, {
                  ...call,
                  signal: AbortSignal.any([signal, ended]),
                }),
              (item) => this.#options.budgets.end(claims, usageOf?.(input, item) ?? {}, 0),
              () => void this.#authorize(claims, capability, operation, resources),
            );
      this.#options.budgets.end(
        claims,
        usageOf?.(input, output) ?? {},
        this.#options.now() - started,
      );
      this.#finish(frame, capability, operation, resources, started, undefined, entry, admitted);
      span?.end();
      return output;
    } catch (error) {
      span?.end(errorType(error));
      this.#finish(frame, capability, operation, resources, started, error, entry, admitted);
      if (error instanceof NoaError) throw error;
      this.#options.onError(`${name(capability, operation)} failed for plugin ${plugin}`, error);
      throw new NoaError('INTERNAL', `${name(capability, operation)} failed in the host`, {
        cause: error,
      });
    }
  }

  /** The guest cannot mend its token: to it, one that holds no more is a right that is gone. */
  async #verify(text: string, audience: Audience): Promise<Claims> {
    try {
      return await this.#options.tokens.verify(text, audience);
    } catch (cause) {
      if (!(cause instanceof NoaError) || cause.code !== 'UNAUTHENTICATED') throw cause;
      const message = 'the rights of this call were withdrawn while it ran: call again';
      throw new NoaError('CAPABILITY_DENIED', message, { cause });
    }
  }

  /** The patterns that cover these resources, or CAPABILITY_DENIED with what is missing. */
  #authorize(
    claims: Claims,
    capability: string,
    operation: string,
    resources: readonly string[],
  ): readonly string[] {
    const rights = claims.rights.filter(
      (right) =>
        right.capability === capability &&
        right.operations.includes(operation) &&
        right.grants.every((grant) => this.#options.isApproved(grant)),
    );
    const patterns = rights.flatMap((right) => right.resources);
    const lacking = resources.find(
      (resource) => !patterns.some((pattern) => covers(pattern, resource)),
    );
    if (patterns.length === 0 || lacking !== undefined) {
      const on = lacking === undefined ? '' : ` on ${JSON.stringify(lacking.slice(0, 200))}`;
      throw new NoaError(
        'CAPABILITY_DENIED',
        `plugin ${claims.plugin} has no grant for ${capability}.${operation}${on}` +
          `${whyNot(claims.rights, capability, operation)}; an administrator can change that: noa grant list ${claims.plugin}`,
      );
    }
    return patterns;
  }

  #finish(
    frame: CallFrame,
    capability: string,
    operation: string,
    resources: readonly string[],
    started: number,
    error: unknown,
    entry: Entry | undefined,
    admitted: boolean,
  ): void {
    const { plugin } = frame.audience;
    const code = error === undefined ? null : error instanceof NoaError ? error.code : 'INTERNAL';
    const denied = code === 'CAPABILITY_DENIED';
    const outcome = code === null ? 'ok' : denied ? 'denied' : 'failed';
    if (entry !== undefined) {
      const seconds = (this.#options.now() - started) / 1000;
      this.#options.observe({ plugin, capability, operation, outcome, seconds });
    }
    // What is open to every plugin would drown the log; what the log refused it has counted.
    if (!admitted && !denied) return;
    const suppressed = denied ? this.#denials.take(`${plugin} ${capability}`) : 0;
    if (suppressed === undefined) return;
    this.#options.audit.record({
      kind: denied ? 'capability.denial' : 'capability.use',
      actor: `plugin:${plugin}`,
      plugin,
      capability: capability.slice(0, 64),
      operation: operation.slice(0, 64),
      resources: resources.slice(0, 16).map((resource) => resource.slice(0, 256)),
      outcome,
      code,
      details: {
        principal: frame.principal.subject,
        request: frame.requestId,
        chain: [...frame.plugins],
        fuel: frame.spending.fuel,
        executionMs: Math.round(frame.spending.executionMs * 1000) / 1000,
        ...(suppressed > 0 ? { suppressed } : {}),
      },
    });
  }
}

function beginUse(frame: CallFrame, capability: string, operation: string): Span | undefined {
  return frame.span?.child(name(capability, operation), 'internal', {
    'noa.plugin': frame.audience.plugin,
    'noa.capability': capability,
    'noa.operation': operation,
  });
}

function name(capability: string, operation: string): string {
  return `${capability.slice(0, 64)}.${operation.slice(0, 64)}`;
}

/** Says which part of the right is missing, as far as the token shows it. */
function whyNot(rights: readonly Right[], capability: string, operation: string): string {
  const lines = rights.filter((right) => right.capability === capability);
  if (lines.length === 0) return ` (nothing of ${capability} is granted)`;
  const allowed = lines.filter((right) => right.operations.includes(operation));
  if (allowed.length === 0) {
    return ` (granted: ${[...new Set(lines.flatMap((right) => right.operations))].join(', ')})`;
  }
  return ` (granted on: ${[...new Set(allowed.flatMap((right) => right.resources))].join(', ')})`;
}
