/**
 * Tells the audit log who was refused. Invariant: however many are refused, the log gets at most
 * `PER_SECOND` records of each kind a second, and the next one of that kind says how many were left out;
 * strangers at the door cannot crowd out the record of an insider who goes too far.
 */
const PER_SECOND = 10;

/** Someone without a valid credential, or with one that lacks the right. */
export interface Denial {
  readonly kind: 'authentication' | 'authorization';
  /** Known only when the credential was valid. */
  readonly subject: string | undefined;
  readonly requestId: string;
  readonly traceId: string;
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly remoteAddress: string | undefined;
}

export type DenialRecord = Denial & {
  /** Denials of this kind before this one that were not recorded. */
  readonly suppressed: number;
};

export class Denials {
  readonly #record: (denial: DenialRecord) => void;
  readonly #kinds = {
    authentication: { second: 0, count: 0, suppressed: 0 },
    authorization: { second: 0, count: 0, suppressed: 0 },
  };

  constructor(record: (denial: DenialRecord) => void) {
    this.#record = record;
  }

  note(denial: Denial): void {
    const kind = this.#kinds[denial.kind];
    const second = Math.floor(performance.now() / 1000);
    kind.count = second === kind.second ? kind.count + 1 : 1;
    kind.second = second;
    if (kind.count > PER_SECOND) {
      kind.suppressed += 1;
      return;
    }
    this.#record({ ...denial, suppressed: kind.suppressed });
    kind.suppressed = 0;
  }
}
