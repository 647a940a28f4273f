/** The calls that led to a call: carried beside a token, never inside the guest. */
import type { Span } from '@noa/sdk/host';
import type { CallerToken } from './caller-tokens.ts';
import type { Emit } from './emission.ts';
import type { HeldStreams } from './held-streams.ts';
import type { Token } from './tokens.ts';

/** Whoever stands behind a request. Never taken from a client's own header. */
export interface Principal {
  /** `bootstrap`, later a user or client id; shown in the audit log. */
  readonly subject: string;
  /** Administrative and calling rights, `admin` covers all. */
  readonly scopes: readonly string[];
  /** Names that policies go by. */
  readonly roles?: readonly string[];
  /** Of its rate limit, `L1` to `L5`; any other counts as L5. */
  readonly level?: string;
  /** Of a machine caller that came with a capability token: what it calls is held to this. */
  readonly token?: CallerToken;
}

export interface Chain {
  /** Plugins from the first called to the one that calls now. */
  readonly plugins: readonly string[];
  /** The present token of the one that calls now: a long call outlives a single token. */
  readonly token: () => Promise<Token>;
  /** That token is for this call alone, because a budget is on it, and ends with it. */
  readonly perCall: boolean;
  readonly principal: Principal;
  readonly requestId: string;
  readonly traceId: string;
  /** Milliseconds since the epoch; a call that it makes ends no later. */
  readonly deadline: number;
  /** Of the call of the one that calls now, when it is traced. */
  readonly span?: Span | undefined;
  /** Takes what the one that calls now emits; nothing of this goes on to what it calls. */
  readonly emit?: Emit | undefined;
  /** What drivers answer to the one that calls now, bit by bit. */
  readonly streams: HeldStreams;
}

/** The type of what the broker put beside a driver's call. */
export function isChain(value: unknown): value is Chain {
  return (
    typeof value === 'object' &&
    value !== null &&
    'token' in value &&
    typeof value.token === 'function' &&
    'plugins' in value &&
    Array.isArray(value.plugins)
  );
}
