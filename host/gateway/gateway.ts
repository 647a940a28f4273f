/**
 * What happens to a call before it is routed, the same for every transport: who calls, and whether they
 * may. Invariant: every refusal is noted for the audit log, bounded in number.
 */
import { NoaError } from '@noa/sdk/host';
import type { Principal } from '../kernel/chain.ts';
import type { Arrival } from './arrival.ts';
import { type Denial, type DenialRecord, Denials } from './denials.ts';
import type { Authenticator } from './identity/authenticator.ts';

const MAX_NOTED_PATH = 256;

export interface GatewayOptions {
  readonly authenticator: Authenticator;
  /** For the audit log; bounded in number. */
  readonly denied: (denial: DenialRecord) => void;
}

export class Gateway {
  readonly #authenticator: Authenticator;
  readonly #denials: Denials;

  constructor({ authenticator, denied }: GatewayOptions) {
    this.#authenticator = authenticator;
    this.#denials = new Denials(denied);
  }

  /** Who calls. Throws UNAUTHENTICATED, or RATE_LIMITED after many failures from one address. */
  identify(arrival: Arrival): Principal {
    try {
      return this.#authenticator.authenticate(arrival);
    } catch (error) {
      this.#note('authentication', arrival, undefined);
      throw error;
    }
  }

  /** Throws PERMISSION_DENIED unless the principal has `scope`. */
  requireScope(arrival: Arrival, { scopes, subject }: Principal, scope: string): void {
    if (scopes.includes(scope) || scopes.includes('admin')) return;
    this.#note('authorization', arrival, subject);
    throw new NoaError(
      'PERMISSION_DENIED',
      `${subject} lacks the scope ${scope}: ask an administrator`,
    );
  }

  #note(kind: Denial['kind'], arrival: Arrival, subject: string | undefined): void {
    const { requestId, traceId, method, path, remoteAddress } = arrival;
    this.#denials.note({
      kind,
      subject,
      requestId,
      traceId,
      method,
      path: path.slice(0, MAX_NOTED_PATH),
      remoteAddress,
    });
  }
}
