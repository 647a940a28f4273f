/**
 * One server of a group: its connections, its rest after failures, what it names its models. Invariant: a
 * failure counts once for all requests that were under way when it was seen, and a success ends it.
 */
import type { NoaError } from '@noa/sdk/host';
import { Pool } from 'undici';
import type { Line } from './exchange.ts';
import type { Failed } from './failure.ts';
import type { GroupSettings, MemberSettings } from './settings.ts';

const FIRST_REST_MS = 250;
const MAX_REST_MS = 30_000;
/** Of the head of an answer. */
const MAX_HEADER_BYTES = 32 << 10;
/** Shorter than the five seconds after which common servers close a connection. */
const KEEP_ALIVE_MS = 4000;

export class Member {
  readonly line: Line;
  readonly settings: MemberSettings;
  readonly origin: string;
  #failures = 0;
  #failedAt = 0;
  #restUntil = 0;
  #last: NoaError | undefined;

  /** `authorities`: PEM certificates to trust in place of those that Node.js trusts. */
  constructor(
    group: GroupSettings,
    settings: MemberSettings,
    authorities: readonly string[] | undefined,
  ) {
    const { origin, pathname } = new URL(settings.url);
    this.settings = settings;
    this.origin = origin;
    const pool = new Pool(origin, {
      connections: group.max_requests,
      pipelining: 1,
      allowH2: false,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      maxHeaderSize: MAX_HEADER_BYTES,
      connect: {
        timeout: group.connect_timeout_ms,
        rejectUnauthorized: true,
        ...(authorities && { ca: [...authorities] }),
      },
    });
    this.line = { group, pool, base: pathname.replace(/\/+$/, ''), key: settings.key };
  }

  /** Milliseconds until it may be asked; 0 when it may now. `now` is the time since the epoch. */
  restMs(now: number): number {
    return Math.max(0, this.#restUntil - now);
  }

  /** Why it rests. */
  get last(): NoaError | undefined {
    return this.#last;
  }

  succeeded(): void {
    this.#failures = 0;
    this.#restUntil = 0;
    this.#last = undefined;
  }

  /** Rests as long as it asked for, else twice as long with each failure, less up to half at random. */
  failed({ error, restMs }: Failed, began: number, now: number): void {
    this.#last = error;
    if (began >= this.#failedAt) this.#failures += 1;
    this.#failedAt = now;
    const longest = Math.min(MAX_REST_MS, FIRST_REST_MS * 2 ** (this.#failures - 1));
    const rest = Math.max(restMs ?? 0, longest * (1 - Math.random() / 2));
    this.#restUntil = Math.max(this.#restUntil, now + rest);
  }

  close(): Promise<void> {
    return this.line.pool.destroy();
  }
}

/** Those that may be asked now, by order; within an order by lot, a higher weight wins more often. */
export function inTurn(members: readonly Member[], now: number): Member[] {
  return members
    .filter((member) => member.restMs(now) === 0)
    .map((member) => ({ member, lot: -Math.log(1 - Math.random()) / member.settings.weight }))
    .sort((a, b) => a.member.settings.order - b.member.settings.order || a.lot - b.lot)
    .map(({ member }) => member);
}
