/** The life of a plugin in one host (spec section 2.2): its states, and the one table of what may follow what. */
import { NoaError } from '@noa/sdk/host';

export type State =
  | 'discovered'
  | 'validated'
  | 'resolved'
  | 'pending'
  | 'granted'
  | 'loaded'
  | 'serving'
  | 'draining'
  | 'stopped'
  | 'failed'
  | 'quarantined';

/** From each state, the states that may follow. */
export const TRANSITIONS: { readonly [state in State]: readonly State[] } = {
  discovered: ['validated', 'stopped', 'failed'],
  validated: ['resolved', 'stopped', 'failed'],
  resolved: ['pending', 'granted', 'validated', 'stopped'],
  pending: ['granted', 'validated', 'stopped'],
  granted: ['loaded', 'pending', 'validated', 'stopped', 'failed'],
  loaded: ['serving', 'stopped', 'failed'],
  serving: ['draining', 'failed', 'quarantined'],
  draining: ['stopped', 'failed'],
  stopped: ['discovered'],
  failed: ['discovered', 'stopped', 'quarantined'],
  quarantined: ['discovered', 'stopped'],
};

export interface Transition {
  readonly plugin: string;
  readonly from: State;
  readonly to: State;
  readonly reason: string | undefined;
}

/** Where one plugin stands, and why. */
export class Life {
  readonly plugin: string;
  #state: State = 'discovered';
  #reason: string | undefined;
  readonly #onTransition: (transition: Transition) => void;

  constructor(plugin: string, onTransition: (transition: Transition) => void) {
    this.plugin = plugin;
    this.#onTransition = onTransition;
  }

  get state(): State {
    return this.#state;
  }

  /** Why it stands there, in words for an operator; undefined when there is nothing to explain. */
  get reason(): string | undefined {
    return this.#reason;
  }

  /** Moves on. A move that the table does not have is a bug in the host and throws INTERNAL. */
  to(state: State, reason?: string): void {
    const from = this.#state;
    this.#reason = reason;
    if (from === state) return;
    if (!TRANSITIONS[from].includes(state)) {
      throw new NoaError('INTERNAL', `plugin ${this.plugin} cannot go from ${from} to ${state}`);
    }
    this.#state = state;
    this.#onTransition({ plugin: this.plugin, from, to: state, reason });
  }
}

/** The error that a caller gets from a plugin that is not serving, and may be in so many ms. */
export function notServing(
  plugin: string,
  state: State,
  reason: string | undefined,
  retryAfterMs: number,
): NoaError {
  const why = reason === undefined ? '' : `: ${reason}`;
  switch (state) {
    case 'pending':
      return new NoaError('GRANT_PENDING', `plugin ${plugin} is pending${why}`);
    case 'stopped':
      return new NoaError(
        'PLUGIN_DISABLED',
        `plugin ${plugin} is disabled; noa plugin enable ${plugin}`,
      );
    case 'quarantined':
      return new NoaError('PLUGIN_QUARANTINED', `plugin ${plugin} is in quarantine${why}`);
    default:
      return new NoaError('UNAVAILABLE', `plugin ${plugin} is ${state}${why}`, {
        retryAfterMs,
      });
  }
}
