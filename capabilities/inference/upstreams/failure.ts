/**
 * What a failure of an upstream means: for the caller, for the next try, and for the operator. Invariant:
 * what a caller reads names the group alone; addresses, keys and control characters are not in it.
 */
import { type ErrorCode, type Json, NoaError } from '@noa/sdk/host';

/** Longest wait that an upstream can ask for. */
const MAX_RETRY_AFTER_MS = 3_600_000;
/** How long a member rests whose key is refused: only the operator can mend that. */
const REFUSED_REST_MS = 60_000;
const MAX_WORDS = 300;

/**
 * `none`: another try would end the same way. `other`: another member may do better. `rest`: so may this
 * one, after a while.
 */
export type NextTry = 'none' | 'other' | 'rest';

/** How one try ended. */
export class Failed extends Error {
  readonly error: NoaError;
  readonly next: NextTry;
  /** For the operator's log. */
  readonly notice: string | undefined;
  /** How long the member asked, or needs, to be left alone. */
  readonly restMs: number | undefined;

  constructor(
    error: NoaError,
    next: NextTry,
    { notice, restMs }: { readonly notice?: string; readonly restMs?: number } = {},
  ) {
    super(error.message, { cause: error });
    this.error = error;
    this.next = next;
    this.notice = notice;
    this.restMs = restMs;
  }
}

/** An upstream that cannot be used as it is, in words that follow the group's name. */
export function unusable(
  group: string,
  why: string,
  next: NextTry = 'rest',
  cause?: unknown,
): Failed {
  const options = cause === undefined ? {} : { cause };
  return new Failed(said('UNAVAILABLE', group, why, options), next, { notice: why });
}

export function said(
  code: ErrorCode,
  group: string,
  why: string,
  options: { readonly cause?: unknown; readonly retryAfterMs?: number } = {},
): NoaError {
  return new NoaError(code, `inference: the upstream group ${group} ${why}`, options);
}

/** An answer whose status is not 200. `body` is its beginning; `key` is kept out of what is said of it. */
export function refusal(
  group: string,
  status: number,
  body: string,
  { restMs, key }: { readonly restMs: number | undefined; readonly key: string | undefined },
): Failed {
  const words = wordsOf(body, key);
  const because = words === '' ? '' : `: ${words}`;
  if (status === 401 || status === 403) {
    const error = said(
      'UNAVAILABLE',
      group,
      'does not let this host in; its operator can mend that',
    );
    const notice = `refuses the key (${status})`;
    return new Failed(error, 'other', { notice, restMs: REFUSED_REST_MS });
  }
  if (status === 402 || status === 429) {
    const wait = restMs === undefined ? {} : { retryAfterMs: restMs };
    const error = said('RATE_LIMITED', group, 'takes no more requests for now; try later', wait);
    return new Failed(error, 'rest', restMs === undefined ? {} : { restMs });
  }
  if (status === 404) {
    return new Failed(said('NOT_FOUND', group, `does not have the model${because}`), 'other');
  }
  if (status === 413) {
    return new Failed(
      said('PAYLOAD_TOO_LARGE', group, `finds the request too large${because}`),
      'none',
    );
  }
  if (status === 408 || status >= 500) {
    const wait = restMs === undefined ? {} : { retryAfterMs: restMs };
    const error = said('UNAVAILABLE', group, `failed (status ${status})`, wait);
    const rest = restMs === undefined ? {} : { restMs };
    return new Failed(error, 'rest', { notice: `failed (${status})${because}`, ...rest });
  }
  if (status >= 400) {
    return new Failed(said('INVALID_ARGUMENT', group, `refuses the request${because}`), 'none');
  }
  if (status >= 300) {
    const why = `redirects (${status}), which is not followed: its url is to be the place itself`;
    return unusable(group, why);
  }
  return unusable(group, `answered with status ${status}, which has no meaning here`);
}

/** An error inside an answer that had begun well. */
export function errorInside(group: string, value: Json, key: string | undefined): NoaError {
  const words = wordsOf(JSON.stringify({ error: value }), key);
  return said('UNAVAILABLE', group, `gave up on its answer${words === '' ? '' : `: ${words}`}`);
}

/** RFC 9110, section 10.2.3 (seconds or a date), and the milliseconds that some servers give. */
export function retryAfterMs(
  headers: { readonly [name: string]: string | string[] | undefined },
  now: number,
): number | undefined {
  const { 'retry-after-ms': exact, 'retry-after': value } = headers;
  let ms: number | undefined;
  if (typeof exact === 'string' && /^\d{1,9}(\.\d{1,9})?$/.test(exact)) ms = Number(exact);
  else if (typeof value !== 'string') return undefined;
  else if (/^\d{1,9}(\.\d{1,9})?$/.test(value)) ms = Number(value) * 1000;
  else ms = Date.parse(value) - now;
  return Number.isNaN(ms) ? undefined : Math.ceil(Math.min(MAX_RETRY_AFTER_MS, Math.max(0, ms)));
}

/** The `message` of an error as OpenAI and its likes write it, in one bounded line. */
function wordsOf(body: string, key: string | undefined): string {
  const message = messageOf(body);
  const open = key === undefined ? message : message.replaceAll(key, '[key]');
  const line = open.replaceAll(/[\p{C}\p{Z}]+/gu, ' ').trim();
  return line.length > MAX_WORDS ? `${line.slice(0, MAX_WORDS).toWellFormed()}…` : line;
}

function messageOf(body: string): string {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    return ''; // A page for people, or half of an answer: nothing to hand on.
  }
  for (const name of ['error', 'message', 'detail']) {
    const inner = member(value, name);
    if (typeof inner === 'string') return inner;
    const deeper = member(inner, 'message');
    if (typeof deeper === 'string') return deeper;
  }
  return '';
}

function member(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}
