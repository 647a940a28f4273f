/**
 * Tells the audit log who was refused. Invariant: however many are refused, the log gets at most
 * `RATE` records of each kind, and the next one of that kind says how many were left out; strangers at
 * the door cannot crowd out the record of an insider who goes too far.
 */
import type { AuditEvent } from '../kernel/audit.ts';
import { Sampler } from '../kernel/sampler.ts';

const RATE = { burst: 10, perSecond: 10 };

/** Someone without a valid credential, with one that lacks the right, or refused by a policy. */
export interface Denial {
  readonly kind: 'authentication' | 'authorization' | 'policy';
  /** Known only when the credential was valid. */
  readonly subject: string | undefined;
  readonly requestId: string;
  readonly traceId: string;
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly remoteAddress: string | undefined;
  /** The rule that refused. */
  readonly policy?: string;
}

export type DenialRecord = Denial & {
  /** Denials of this kind before this one that were not recorded. */
  readonly suppressed: number;
};

/** As the audit log keeps it. */
export function denialEvent(denial: DenialRecord): AuditEvent {
  const { kind, subject, requestId, method, path, suppressed, policy } = denial;
  return {
    kind: `${kind}.denial`,
    actor: subject ?? 'anonymous',
    plugin: null,
    capability: null,
    operation: `${method} ${path}`.slice(0, 256),
    resources: [],
    outcome: 'denied',
    code: kind === 'authentication' ? 'UNAUTHENTICATED' : 'PERMISSION_DENIED',
    details: {
      request: requestId,
      suppressed,
      address: denial.remoteAddress ?? null,
      ...(policy === undefined ? {} : { policy }),
    },
  };
}

export class Denials {
  readonly #record: (denial: DenialRecord) => void;
  readonly #sampler = new Sampler(RATE, () => performance.now());

  constructor(record: (denial: DenialRecord) => void) {
    this.#record = record;
  }

  note(denial: Denial): void {
    const suppressed = this.#sampler.take(denial.kind);
    if (suppressed !== undefined) this.#record({ ...denial, suppressed });
  }
}
