/** What the configuration says of who may do what. */
import type { Arrival } from './arrival.ts';

/** When a rule applies: all that is given must hold. */
export interface Times {
  /** `mon` to `sun`; of the day on which a span over midnight began. */
  readonly weekdays?: readonly string[];
  /** `HH:MM`, together with `until`, which is no longer in it; a span over midnight when it is later. */
  readonly from?: string;
  readonly until?: string;
  /** Of the IANA database; UTC when absent. */
  readonly zone?: string;
}

/** Callers: of any of the subjects (exact or ending in `*`), or with any of the roles or scopes. */
export interface Callers {
  readonly subjects?: readonly string[];
  readonly roles?: readonly string[];
  readonly scopes?: readonly string[];
}

/** All of them must hold. */
export interface Conditions extends Times {
  /** The caller's address is in one of these networks (CIDR). */
  readonly addresses?: readonly string[];
  /** It is in none of these. */
  readonly not_addresses?: readonly string[];
  readonly transports?: readonly Arrival['transport'][];
  /** Whether the connection has shown a client certificate that this host trusts. */
  readonly client_certificate?: boolean;
}

export interface PolicyRule extends Callers {
  readonly name: string;
  readonly effect: 'allow' | 'deny';
  /** Exact or ending in `*`; all when absent. */
  readonly operations?: readonly string[];
  /** Whom it is not for. */
  readonly not?: Callers;
  readonly when?: Conditions;
}

export interface PolicySettings {
  readonly policies?: readonly PolicyRule[] | undefined;
  /** What happens to a call that no rule speaks of. */
  readonly default_policy: 'allow' | 'deny';
}
