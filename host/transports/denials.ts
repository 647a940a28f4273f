/**
 * Tells the audit log who was refused. Invariant: however many are refused, the log gets at most
 * `PER_SECOND` records a second; the next one says how many were left out.
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
  /** Denials before this one that were not recorded. */
  readonly suppressed: number;
};

export class Denials {
  readonly #record: (denial: DenialRecord) => void;
  #window = 0;
  #count = 0;
  #suppressed = 0;

  constructor(record: (denial: DenialRecord) => void) {
    this.#record = record;
  }

  note(denial: Denial): void {
    const window = Math.floor(performance.now() / 1000);
    if (window !== this.#window) this.#count = 0;
    this.#window = window;
    this.#count += 1;
    if (this.#count > PER_SECOND) {
      this.#suppressed += 1;
      return;
    }
    this.#record({ ...denial, suppressed: this.#suppressed });
    this.#suppressed = 0;
  }
}
