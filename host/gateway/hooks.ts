/**
 * Plugins that take part in the requests of others, as far as administrators have granted it. Invariants:
 * what one of them cannot judge in time is refused, unless its manifest says otherwise; no hook stands
 * between an operator and the administration that removes it, nor before what a plugin does itself; and
 * where no hook is installed, a request costs one comparison.
 */
import { covers, isErrorCode, type Json, NoaError, type Span } from '@noa/sdk/host';
import type { Principal } from '../kernel/chain.ts';
import { type GrantedHook, grantedHooks } from '../kernel/hooks.ts';
import type { Invocation, Outcome } from '../kernel/invocation.ts';
import type { Snapshot } from '../kernel/store.ts';
import { headerChange, type HeaderTexts } from './hook-headers.ts';

/** Calls after answers that run at a time, and that wait; of more, the count is kept alone. */
const AFTER_RUNNING = 16;
const AFTER_QUEUED = 1000;
const MAX_MESSAGE = 500;
/** By which an operator finds and removes a hook, and gets the credential for it. */
const ADMINISTRATION =
  /^[A-Z]+ \/(metrics$|(v1\/(plugins(?!\/:name\/exports\/)|grants|secrets|tokens|audit|auth|hosts|inference\/models)|console)(\/|$))/;

export type HookOutcome = 'passed' | 'denied' | 'failed' | 'dropped';

export interface HooksPowers {
  /** The same value until the state changes. */
  readonly snapshot: () => Snapshot;
  readonly dispatch: (invocation: Invocation) => Promise<Outcome>;
  /** Longest call of a hook. */
  readonly timeoutMs: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly observe: (plugin: string, on: GrantedHook['on'], outcome: HookOutcome) => void;
  /** Hears once that a hook fails, with the reason, and once that it works again. */
  readonly onFailing: (hook: GrantedHook, reason: string | undefined) => void;
}

/** A request as its hooks are told of it, before and after. */
export interface HookedRequest {
  readonly operation: string;
  readonly method: string;
  readonly principal: Principal;
  readonly requestId: string;
  readonly traceId: string;
  /** When it is traced. */
  readonly span?: Span | undefined;
}

/** What is known of a request before its body; no credential is in it. */
export interface RequestFacts {
  readonly path: string;
  readonly query: HeaderTexts;
  readonly headers: HeaderTexts;
}

/** Headers that hooks have added. */
export interface HookHeaders {
  readonly request: HeaderTexts;
  readonly response: HeaderTexts;
}

/** A refusal by a plugin, for the audit log. */
export class HookDenial extends NoaError {
  readonly plugin: string;

  constructor(plugin: string, code: NoaError['code'], message: string) {
    super(code, message);
    this.plugin = plugin;
  }
}

const NONE: readonly GrantedHook[] = [];
const NO_SIGNAL = new AbortController().signal;

export class Hooks {
  readonly #powers: HooksPowers;
  #snapshot: Snapshot | undefined;
  #hooks: readonly GrantedHook[] = NONE;
  readonly #failing = new Set<string>();
  readonly #queue: (() => Promise<void>)[] = [];
  #running = 0;

  constructor(powers: HooksPowers) {
    this.#powers = powers;
  }

  /** Nobody has a hook now. */
  get isIdle(): boolean {
    const snapshot = this.#powers.snapshot();
    if (snapshot !== this.#snapshot) {
      this.#hooks = grantedHooks(snapshot);
      this.#snapshot = snapshot;
    }
    return this.#hooks.length === 0;
  }

  /** The hooks for a request, in order. */
  of(on: GrantedHook['on'], operation: string, { subject }: Principal): readonly GrantedHook[] {
    if (this.isIdle || ADMINISTRATION.test(operation)) return NONE;
    return this.#hooks.filter(
      (hook) =>
        hook.on === on &&
        subject !== `plugin:${hook.plugin}` &&
        hook.operations.some((pattern) => covers(pattern, operation)),
    );
  }

  /** Asks them one after the other. Rejects with HookDenial, or UNAVAILABLE for one that failed. */
  async before(
    hooks: readonly GrantedHook[],
    request: HookedRequest,
    facts: RequestFacts,
    signal: AbortSignal,
  ): Promise<HookHeaders> {
    const input = { ...inputOf(request), ...facts };
    const headers = { request: {}, response: {} };
    for (const hook of hooks) {
      const verdict = await this.#judge(hook, request, input, signal);
      if (verdict === undefined) continue;
      if ('deny' in verdict) throw verdict.deny;
      Object.assign(headers.request, verdict.headers.request);
      Object.assign(headers.response, verdict.headers.response);
    }
    return headers;
  }

  /** Tells them of an answer, some time later. */
  after(
    hooks: readonly GrantedHook[],
    request: HookedRequest,
    answer: { readonly status: number; readonly durationMs: number },
  ): void {
    const input = { ...inputOf(request), ...answer };
    for (const hook of hooks) {
      if (this.#queue.length >= AFTER_QUEUED) this.#observe(hook, 'dropped');
      else this.#queue.push(() => this.#tell(hook, request, input));
    }
    this.#work();
  }

  #work(): void {
    while (this.#running < AFTER_RUNNING) {
      const next = this.#queue.shift();
      if (next === undefined) return;
      this.#running += 1;
      void next().finally(() => {
        this.#running -= 1;
        this.#work();
      });
    }
  }

  async #judge(hook: GrantedHook, request: HookedRequest, input: Json, signal: AbortSignal) {
    try {
      const verdict = verdictOf(hook.plugin, await this.#call(hook, request, input, signal));
      this.#observe(hook, 'deny' in verdict ? 'denied' : 'passed');
      return verdict;
    } catch (cause) {
      if (signal.aborted) throw cause;
      this.#observe(hook, 'failed', cause);
      if (hook.failOpen) return undefined;
      const text =
        'what has to judge this request cannot do so now; an operator finds the reason in the log';
      throw new NoaError('UNAVAILABLE', text, { retryAfterMs: 1000 });
    }
  }

  async #tell(hook: GrantedHook, request: HookedRequest, input: Json): Promise<void> {
    try {
      await this.#call(hook, request, input, NO_SIGNAL);
      this.#observe(hook, 'passed');
    } catch (error) {
      this.#observe(hook, 'failed', error);
    }
  }

  async #call(
    { plugin, export: name }: GrantedHook,
    { principal: caller, requestId, traceId, span }: HookedRequest,
    input: Json,
    signal: AbortSignal,
  ): Promise<Json> {
    // The operator has it called, not the bearer: their capability token neither allows it nor pays.
    const { token, ...others } = caller;
    const principal = token === undefined ? caller : others;
    const { dispatch, now, timeoutMs } = this.#powers;
    const deadline = now() + timeoutMs;
    const call = {
      id: requestId,
      plugin,
      export: name,
      input,
      principal,
      deadline,
      signal,
      traceId,
      span,
    };
    return (await dispatch(call)).value;
  }

  #observe(hook: GrantedHook, outcome: HookOutcome, reason?: unknown): void {
    const { observe, onFailing } = this.#powers;
    observe(hook.plugin, hook.on, outcome);
    if (outcome === 'dropped') return;
    const key = `${hook.plugin}/${hook.on}/${hook.export}`;
    const isFailing = outcome === 'failed';
    if (isFailing === this.#failing.has(key)) return;
    if (isFailing) this.#failing.add(key);
    else this.#failing.delete(key);
    onFailing(hook, isFailing ? wordsOf(reason) : undefined);
  }
}

type Verdict = { readonly deny: HookDenial } | { readonly headers: HookHeaders };

/** Throws PLUGIN_OUTPUT_INVALID for what is no answer of a hook. */
function verdictOf(plugin: string, answer: Json): Verdict {
  const { deny, setHeaders = {}, ...rest } = objectOf(answer);
  if (Object.keys(rest).length > 0) throw malformed(`has the member ${Object.keys(rest)[0]}`);
  if (deny === undefined) {
    const { request = {}, response = {}, ...more } = objectOf(setHeaders);
    if (Object.keys(more).length > 0) throw malformed('setHeaders has request and response alone');
    return { headers: { request: headerChange(request), response: headerChange(response) } };
  }
  const { code, message } = objectOf(deny);
  if (!isErrorCode(code) || typeof message !== 'string') {
    throw malformed('deny holds a code of the table of errors and a message');
  }
  return { deny: new HookDenial(plugin, code, message.slice(0, MAX_MESSAGE)) };
}

function objectOf(value: Json): { readonly [name: string]: Json } {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw malformed('it is an object');
}

function malformed(rule: string): NoaError {
  return new NoaError('PLUGIN_OUTPUT_INVALID', `the answer of a hook: ${rule}`);
}

function inputOf({ operation, method, requestId, principal }: HookedRequest) {
  const { subject, roles = [] } = principal;
  return { operation, method, requestId, subject, roles: [...roles] };
}

function wordsOf(error: unknown): string {
  return error instanceof NoaError ? `${error.code}: ${error.message}` : String(error);
}
