/** Turns the ways in which a job can fail into the errors that a caller may see. */
import { NoaError } from '@noa/sdk/host';
import type { ErrorCode } from '@noa/sdk/host';
import type { Failure } from './protocol.ts';
import { printable } from './text.ts';

/**
 * Codes that a guest may answer with: what a handler can know, and what a capability or another plugin
 * can have answered to it. Not the ones by which the host speaks of itself, of its caller's credential
 * or of its own state (INTERNAL, UNAUTHENTICATED, CANCELLED, PLUGIN_QUARANTINED …).
 */
export const GUEST_CODES: ReadonlySet<string> = new Set<ErrorCode>([
  'INVALID_ARGUMENT',
  'PERMISSION_DENIED',
  'CAPABILITY_DENIED',
  'NOT_FOUND',
  'CONFLICT',
  'GRANT_PENDING',
  'PLUGIN_DISABLED',
  'PAYLOAD_TOO_LARGE',
  'RATE_LIMITED',
  'RESOURCE_EXHAUSTED',
  'PLUGIN_TRAP',
  'PLUGIN_OUTPUT_INVALID',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
]);

const CODES: { readonly [failure in Exclude<Failure, 'error'>]: ErrorCode } = {
  trap: 'PLUGIN_TRAP',
  output: 'PLUGIN_OUTPUT_INVALID',
  exhausted: 'RESOURCE_EXHAUSTED',
  invalid: 'INVALID_ARGUMENT',
  cancelled: 'UNAVAILABLE',
};

const MAX_MESSAGE_CHARS = 2048;
const MAX_STACK_CHARS = 8192;
const MAX_DETAILS_CHARS = 16384;
const MAX_DETAILS_DEPTH = 32;
const MAX_DETAILS_VALUES = 1000;
const MAX_RETRY_MS = 3_600_000;

export function failure(reason: Failure, text: string): NoaError {
  if (reason === 'error') return guestError(text);
  return new NoaError(CODES[reason], text || 'The plugin was stopped; try again.');
}

/**
 * The error that a guest set: JSON `{code, message, details?, retryAfterMs?, stack?}`, or plain text. Without a code
 * that a guest may choose it is PLUGIN_TRAP, marked as the guest's, with the guest's stack as a detail.
 */
function guestError(text: string): NoaError {
  const body = parse(text);
  const message = printable(string(body['message']) ?? text, MAX_MESSAGE_CHARS);
  const code = string(body['code']);
  if (code !== undefined && GUEST_CODES.has(code) && code !== 'PLUGIN_TRAP') {
    const details = bounded(body['details']);
    return new NoaError(code as ErrorCode, message, { details, ...retryOf(body) });
  }
  const stack = string(body['stack']);
  if (stack === undefined) return new NoaError('PLUGIN_TRAP', `The plugin reported: ${message}`);
  const guestStack = stack
    .slice(0, MAX_STACK_CHARS)
    .split('\n')
    .map((line) => printable(line, MAX_MESSAGE_CHARS))
    .join('\n');
  return new NoaError('PLUGIN_TRAP', `The plugin reported: ${message}`, {
    details: { guestStack },
  });
}

/** When to come again, as an error says it: what is no time is left out. */
export function retryOf({ retryAfterMs }: { readonly [key: string]: unknown }): {
  retryAfterMs?: number;
} {
  if (typeof retryAfterMs !== 'number' || !(retryAfterMs >= 0)) return {};
  return { retryAfterMs: Math.min(Math.ceil(retryAfterMs), MAX_RETRY_MS) };
}

function parse(text: string): { readonly [key: string]: unknown } {
  if (!text.startsWith('{')) return {};
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch {
    return {}; // Plain text that happens to begin with a brace.
  }
}

function string(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/**
 * Whoever passes the details on writes them as JSON, which recurses: what is too deep for that, or too
 * much for an error, is left out here.
 */
export function bounded(details: unknown): unknown {
  if (details === undefined) return undefined;
  const pending: { value: unknown; depth: number }[] = [{ value: details, depth: 1 }];
  let values = 0;
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { value, depth } = next;
    values += 1;
    if (values > MAX_DETAILS_VALUES) return `left out: more than ${MAX_DETAILS_VALUES} values`;
    if (typeof value !== 'object' || value === null) continue;
    if (depth > MAX_DETAILS_DEPTH) return `left out: more than ${MAX_DETAILS_DEPTH} levels deep`;
    const inside: unknown[] = Object.values(value);
    for (const inner of inside) pending.push({ value: inner, depth: depth + 1 });
  }
  return JSON.stringify(details).length <= MAX_DETAILS_CHARS
    ? details
    : `left out: more than ${MAX_DETAILS_CHARS} characters`;
}
