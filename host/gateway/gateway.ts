/**
 * What happens to a call before it is routed, the same for every transport: who calls, and whether they
 * may. Invariant: every refusal is noted for the audit log, bounded in number.
 */
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../kernel/chain.ts';
import type { Arrival } from './arrival.ts';
import { type Denial, type DenialRecord, Denials } from './denials.ts';
import type { Authenticator } from './identity/authenticator.ts';
import type { LevelLimits, Limits, RateState } from './limits.ts';
import { Policy, PolicyError } from './policy.ts';
import type { PolicySettings } from './settings.ts';

const MAX_NOTED_PATH = 256;
/** Has no limit: it is the operator's way back in. */
const BOOTSTRAP = 'bootstrap';

/** PERMISSION_DENIED for want of a scope (RFC 6750 section 3.1). */
export class InsufficientScopeError extends NoaError {
  readonly scope: string;

  constructor(subject: string, scope: string) {
    super('PERMISSION_DENIED', `${subject} lacks the scope ${scope}: ask an administrator`);
    this.scope = scope;
  }
}

export interface GatewayOptions {
  readonly authenticator: Authenticator;
  /** Absent: nobody's rate is limited. */
  readonly limits?: Limits;
  /** Absent: what scopes allow. */
  readonly policy?: PolicySettings;
  /** For the audit log; bounded in number. */
  readonly denied: (denial: DenialRecord) => void;
}

/** What the configuration says. */
export interface GatewaySettings extends PolicySettings {
  readonly levels: LevelLimits;
}

export class Gateway {
  readonly #authenticator: Authenticator;
  readonly #limits: Limits | undefined;
  readonly #denials: Denials;
  #policy: Policy;

  constructor({ authenticator, limits, policy, denied }: GatewayOptions) {
    this.#authenticator = authenticator;
    this.#limits = limits;
    this.#policy = new Policy(policy ?? { default_policy: 'allow' }, Date.now);
    this.#denials = new Denials(denied);
  }

  /**
   * Who calls; a promise only for a credential that has to be looked up. Throws or rejects with
   * UNAUTHENTICATED, RATE_LIMITED after many failures from one address, or UNAVAILABLE.
   */
  identify(arrival: Arrival): Principal | Promise<Principal> {
    try {
      const principal = this.#authenticator.authenticate(arrival);
      if (!(principal instanceof Promise)) return principal;
      return principal.catch((error: unknown) => this.noteStranger(arrival, error));
    } catch (error) {
      return this.noteStranger(arrival, error);
    }
  }

  /** Notes for the audit log that someone was not let in, and throws the reason on. */
  noteStranger(arrival: Arrival, reason: unknown): never {
    const isJudged = !(reason instanceof NoaError) || reason.code !== 'UNAVAILABLE';
    if (isJudged) this.#note('authentication', arrival, undefined);
    throw reason;
  }

  /**
   * Whether this call may go on: policy, then rate limit. `operation` is how the call is named, such as
   * `GET /v1/plugins/:name` or `noa.api.v1.InferenceService/Invoke`, and holds no text of the caller's.
   * Answers what the caller is told of its rate (`rateFields`), undefined for one without a limit; a
   * promise only when it has to be waited for. Throws or rejects with PERMISSION_DENIED or RateLimitError.
   */
  admit(
    arrival: Arrival,
    principal: Principal,
    operation: string,
  ): RateState | undefined | Promise<RateState> {
    this.#enforce(arrival, principal, operation);
    const { subject, level } = principal;
    if (subject === BOOTSTRAP) return undefined;
    return this.#limits?.take(subject, level);
  }

  /**
   * Whether policy would let a call through, for one that is planned and not made: the names of the rules
   * that allow it, undefined where there is no policy. Throws PERMISSION_DENIED.
   */
  judge(arrival: Arrival, principal: Principal, operation: string): string[] | undefined {
    this.#enforce(arrival, principal, operation);
    if (!this.#policy.isEnforced) return undefined;
    return this.#policy.allowing(arrival, principal, operation);
  }

  /** Takes what may change while running. */
  reload(settings: GatewaySettings): void {
    this.#limits?.setLevels(settings.levels);
    this.#policy = new Policy(settings, Date.now);
  }

  /** Notes for the audit log that a plugin's hook has refused a call. */
  noteHook(arrival: Arrival, { subject }: Principal, plugin: string): void {
    this.#note('policy', arrival, subject, `hook of plugin ${plugin}`);
  }

  /** Throws PERMISSION_DENIED unless the principal has `scope`. */
  requireScope(arrival: Arrival, { scopes, subject }: Principal, scope: string): void {
    if (scopes.includes(scope) || scopes.includes('admin')) return;
    this.#note('authorization', arrival, subject);
    throw new InsufficientScopeError(subject, scope);
  }

  #enforce(arrival: Arrival, principal: Principal, operation: string): void {
    try {
      this.#policy.check(arrival, principal, operation);
    } catch (error) {
      const rule = error instanceof PolicyError ? error.rule : undefined;
      this.#note('policy', arrival, principal.subject, rule);
      throw error;
    }
  }

  #note(
    kind: Denial['kind'],
    arrival: Arrival,
    subject: string | undefined,
    policy?: string,
  ): void {
    const { requestId, traceId, method, path, remoteAddress } = arrival;
    this.#denials.note({
      kind,
      subject,
      requestId,
      traceId,
      method,
      path: path.slice(0, MAX_NOTED_PATH),
      remoteAddress,
      ...(policy === undefined ? {} : { policy }),
    });
  }
}
