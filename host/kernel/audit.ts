/**
 * The audit log: every grant, denial and use, each record chained to the one before by SHA-256. One
 * chain a host, so that hosts need not wait for each other. Invariants: a record's `seq` follows its
 * predecessor's without a gap; administration is durable before it is answered; uses and denials are
 * written in batches, and a crash loses at most `flushMs` of them or `capacity` records.
 */
import { createHash } from 'node:crypto';
import { type Json, NoaError } from '@noa/sdk/host';

export type AuditOutcome = 'ok' | 'denied' | 'failed';

/** What happened, as its source tells it. */
export interface AuditEvent {
  /** `plugin.install`, `grant.approve`, `capability.use`, `capability.denial` … */
  readonly kind: string;
  /** Who did it: an administrator's subject, or `plugin:<name>`. */
  readonly actor: string;
  readonly plugin: string | null;
  readonly capability: string | null;
  readonly operation: string | null;
  readonly resources: readonly string[];
  readonly outcome: AuditOutcome;
  /** Error code of what was denied or failed. */
  readonly code: string | null;
  readonly details: Json;
}

export interface AuditRecord extends AuditEvent {
  /** The host whose chain this is. */
  readonly chain: string;
  readonly seq: number;
  /** ISO 8601. */
  readonly timestamp: string;
  /** Hash of the record before, 64 zeros for the first. */
  readonly prevHash: string;
  /** SHA-256, in hex, of the canonical JSON of all other fields. */
  readonly hash: string;
}

export interface ChainHead {
  readonly seq: number;
  readonly hash: string;
}

/** Where records are kept. Writes resolve only when the records are durable. */
export interface AuditSink<Tx> {
  head(chain: string): Promise<ChainHead | undefined>;
  append(records: readonly AuditRecord[]): Promise<void>;
  appendIn(tx: Tx, records: readonly AuditRecord[]): Promise<void>;
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
}

export interface AuditOptions<Tx> {
  readonly chain: string;
  readonly sink: AuditSink<Tx>;
  readonly now: () => number;
  /** Longest time that a use waits in memory. */
  readonly flushMs: number;
  /** Records that may wait in memory; with more, `admit` refuses further uses. */
  readonly capacity: number;
  /** Told when a flush fails; the records stay and are tried again. */
  readonly onError: (error: unknown) => void;
  /** Told of each administrative change once it is durable; may not reject. The change waits for it. */
  readonly onChange?: () => Promise<void>;
}

export const EMPTY_HASH = '0'.repeat(64);
/** Records in one write; bounds the size of one statement. */
const BATCH = 500;

export class Audit<Tx> {
  readonly #options: AuditOptions<Tx>;
  #head: ChainHead = { seq: 0, hash: EMPTY_HASH };
  /** False at first and after a failed write, whose fate is unknown until the head is read again. */
  #headKnown = false;
  /** The last record of the flush whose fate is unknown, and how many waiting items it covers. */
  #attempt: { hash: string; items: number } | undefined;
  /** Not yet chained: hashes are computed when a batch is written, in order. */
  readonly #waiting: { event: AuditEvent; at: number }[] = [];
  /** Uses that were refused and events that were only counted since the last flush. */
  #refused = 0;
  #timer: NodeJS.Timeout | undefined;
  /** Writers take turns: each continues the chain where the one before left it. */
  #turn: Promise<void> = Promise.resolve();

  constructor(options: AuditOptions<Tx>) {
    this.#options = options;
  }

  /** The last durable record. */
  get head(): ChainHead {
    return this.#head;
  }

  /** Throws UNAVAILABLE while the log cannot keep up: asked before a use, so that none goes unrecorded. */
  admit(): void {
    if (this.#waiting.length < this.#options.capacity) return;
    this.#refused += 1;
    throw new NoaError('UNAVAILABLE', 'the audit log cannot keep up: try again later', {
      retryAfterMs: 1000,
    });
  }

  /**
   * Notes a use or a denial without waiting for the disk. What comes beyond twice the capacity (refusals,
   * for uses are held back by `admit`) is only counted; the count is a record of its own.
   */
  record(event: AuditEvent): void {
    if (this.#waiting.length >= 2 * this.#options.capacity) {
      this.#refused += 1;
      return;
    }
    this.#waiting.push({ event, at: this.#options.now() });
    this.#schedule();
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#waiting.length === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.flush().catch((error: unknown) => {
        this.#options.onError(error);
        this.#schedule();
      });
    }, this.#options.flushMs);
    this.#timer.unref();
  }

  /** Writes all that waits. Resolves when it is durable. */
  flush(): Promise<void> {
    return this.#exclusive(async () => {
      this.#noteRefused();
      while (this.#waiting.length > 0) {
        const batch = this.#waiting.slice(0, BATCH);
        const records = this.#chain(batch);
        this.#attempt = { hash: records.at(-1)?.hash ?? '', items: batch.length };
        await this.#options.sink.append(records);
        this.#settle(records);
      }
    });
  }

  /**
   * Runs an administrative change and writes its records in the same transaction: either both are
   * durable or neither. The change runs alone among this host's writers of the log.
   */
  async change<T>(work: (tx: Tx, note: (event: AuditEvent) => void) => Promise<T>): Promise<T> {
    const changed = await this.#exclusive(async () => {
      let records: AuditRecord[] = [];
      const result = await this.#options.sink.transaction(async (tx) => {
        const events: { event: AuditEvent; at: number }[] = [];
        const value = await work(tx, (event) => events.push({ event, at: this.#options.now() }));
        records = this.#chain(events);
        if (records.length > 0) await this.#options.sink.appendIn(tx, records);
        return value;
      });
      this.#settle(records);
      return result;
    });
    await this.#options.onChange?.();
    return changed;
  }

  /** Lets writers take turns, and finds the true head again after a write that failed. */
  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(async () => {
      if (!this.#headKnown) await this.#readHead();
      this.#headKnown = false;
      const value = await work();
      this.#headKnown = true;
      return value;
    });
    this.#turn = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }

  async #readHead(): Promise<void> {
    const { sink, chain } = this.#options;
    this.#head = (await sink.head(chain)) ?? { seq: 0, hash: EMPTY_HASH };
    // A write whose answer was lost may have been made: then its items must not be written again.
    if (this.#attempt?.hash === this.#head.hash) this.#waiting.splice(0, this.#attempt.items);
    this.#attempt = undefined;
  }

  #chain(items: readonly { event: AuditEvent; at: number }[]): AuditRecord[] {
    let { seq, hash: prevHash } = this.#head;
    return items.map(({ event, at }) => {
      seq += 1;
      const body = {
        ...event,
        chain: this.#options.chain,
        seq,
        timestamp: new Date(at).toISOString(),
        prevHash,
      };
      const hash = hashRecord(body);
      prevHash = hash;
      return { ...body, hash };
    });
  }

  #noteRefused(): void {
    if (this.#refused === 0) return;
    const event: AuditEvent = {
      kind: 'audit.overflow',
      actor: 'host',
      plugin: null,
      capability: null,
      operation: null,
      resources: [],
      outcome: 'failed',
      code: 'UNAVAILABLE',
      details: { refused: this.#refused },
    };
    this.#refused = 0;
    this.#waiting.push({ event, at: this.#options.now() });
  }

  /** Takes note of a write that succeeded. */
  #settle(records: readonly AuditRecord[]): void {
    const last = records.at(-1);
    if (last) this.#head = { seq: last.seq, hash: last.hash };
    if (this.#attempt) this.#waiting.splice(0, this.#attempt.items);
    this.#attempt = undefined;
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    await this.flush();
  }
}

/** SHA-256 over the record without its hash, keys sorted at every level (as RFC 8785 orders them). */
export function hashRecord(record: Omit<AuditRecord, 'hash'>): string {
  const { chain, seq, timestamp, kind, actor, plugin, capability, operation } = record;
  const { resources, outcome, code, details, prevHash } = record;
  const body = { chain, seq, timestamp, kind, actor, plugin, capability, operation };
  const text = canonical({ ...body, resources: [...resources], outcome, code, details, prevHash });
  return createHash('sha256').update(text).digest('hex');
}

function canonical(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const members = Object.keys(value)
      .sort()
      .map((key) => `${JSON.stringify(key)}:${canonical(value[key] ?? null)}`);
    return `{${members.join(',')}}`;
  }
  return JSON.stringify(value);
}

export interface Verification {
  readonly ok: boolean;
  readonly records: number;
  readonly chains: readonly ({ readonly chain: string } & ChainHead)[];
  /** The first thing found wrong. */
  readonly problem?: string;
}

/**
 * Checks records in the order of their chains, from each chain's first record on: that each hashes to
 * what it says and follows the one before. It cannot see that records are missing after the last one:
 * compare the head with one noted elsewhere for that.
 */
export async function verifyRecords(
  records: Iterable<AuditRecord> | AsyncIterable<AuditRecord>,
): Promise<Verification> {
  const heads = new Map<string, ChainHead>();
  let count = 0;
  const report = (problem?: string): Verification => ({
    ok: problem === undefined,
    records: count,
    chains: [...heads].map(([chain, head]) => ({ chain, ...head })),
    ...(problem === undefined ? {} : { problem }),
  });
  for await (const record of records) {
    const head = heads.get(record.chain) ?? { seq: 0, hash: EMPTY_HASH };
    const name = `record ${record.seq} of chain ${record.chain}`;
    if (record.seq !== head.seq + 1) return report(`${name} does not follow record ${head.seq}`);
    if (record.prevHash !== head.hash)
      return report(`${name} does not continue the hash before it`);
    if (hashRecord(record) !== record.hash) return report(`${name} was changed: its hash differs`);
    heads.set(record.chain, { seq: record.seq, hash: record.hash });
    count += 1;
  }
  return report();
}
