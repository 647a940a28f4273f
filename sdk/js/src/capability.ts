/**
 * The contract between a capability and the host. A capability is a table of operations; the host's
 * broker, the client of built-in plugins and the import of WASM guests are all made from that table.
 * A driver does the work behind it (embedded, PostgreSQL, Redis …) and is chosen by configuration.
 */
import { NoaError } from './errors.ts';
import type { Json, JsonSchema } from './json.ts';
import type { Span } from './tracing.ts';

/** What one call may consume; counted against the budget of the token that carried it. */
export interface Usage {
  rows?: number;
  tokens?: number;
  bytes?: number;
}

export interface Operation {
  /** One sentence for the reference. */
  readonly summary: string;
  /** Schema of `arguments`; the broker validates before the driver sees them. */
  readonly input: JsonSchema;
  /** Schema of the value that the driver answers; published in the reference. */
  readonly output: JsonSchema;
  /** True when the call may be repeated without a second effect. */
  readonly idempotent: boolean;
  /**
   * Schema of one item, of an operation whose driver may answer an `AsyncIterable` of items instead of a
   * value. Its caller gets `{stream}` and takes the items by `stream.next`; `usage` is asked for each item
   * in place of the value.
   */
  readonly items?: JsonSchema;
  /**
   * The resources that these arguments touch. The broker requires a grant for each. Absent when only
   * the driver can tell (SQL text): then the driver enforces `DriverCall.resources` itself.
   */
  readonly resources?: (input: never) => string[];
  /** What the call used, from its arguments and its answer. */
  readonly usage?: (input: never, output: never) => Usage;
}

export interface Capability {
  /** `db`, `cache` … */
  readonly name: string;
  readonly summary: string;
  /** How a resource is written, for error messages and the reference: `schema.table`, `key prefix` … */
  readonly resource: string;
  /** Open to every plugin without a grant (log, clock, random); `ratePerSecond` bounds each plugin. */
  readonly always?: { readonly ratePerSecond: number };
  readonly operations: { readonly [name: string]: Operation };
  /**
   * Checks one resource pattern of a manifest or a grant and answers its canonical form: an exact name,
   * or a prefix that ends in `*`. Throws NoaError INVALID_ARGUMENT that says how it is written.
   */
  normalizeResource(pattern: string): string;
}

/** What the broker tells a driver about the call it has already checked. */
export interface DriverCall {
  /** The plugin in whose name the operation runs. */
  readonly plugin: string;
  /** Resource patterns that the token allows for this operation. */
  readonly resources: readonly string[];
  /**
   * Asks the door for one more resource, which came up while the operation ran: its answer is that of
   * this moment, and the log tells it with the call. Rejects with CAPABILITY_DENIED.
   */
  readonly also?: (resource: string) => Promise<void>;
  /** Aborts at the deadline or when the caller goes away; the driver must stop its work then. */
  readonly signal: AbortSignal;
  /** Milliseconds since the epoch. */
  readonly deadline: number;
  /** Opaque proof of the calling chain; only the `plugin` driver reads it. */
  readonly chain: unknown;
  /** Of this operation, when the call is traced; the driver begins children for what it waits for. */
  readonly span?: Span | undefined;
}

/**
 * Why a call was stopped: DEADLINE_EXCEEDED or CANCELLED. A timer may fire within the millisecond before
 * its time, so the clock alone does not tell.
 */
export function stopped(
  driver: string,
  { signal, deadline }: Pick<DriverCall, 'signal' | 'deadline'>,
): NoaError {
  const reason: unknown = signal.reason;
  const isTimer = reason instanceof DOMException && reason.name === 'TimeoutError';
  const isLate = reason instanceof NoaError && reason.code === 'DEADLINE_EXCEEDED';
  return isTimer || isLate || Date.now() >= deadline
    ? new NoaError('DEADLINE_EXCEEDED', `${driver}: the call’s time is over, and it was stopped`)
    : new NoaError('CANCELLED', `${driver}: the caller went away, and the call was stopped`);
}

/** A grant as a driver sees it: which operations on which resource patterns. */
export interface DriverGrant {
  readonly operations: readonly string[];
  readonly resources: readonly string[];
}

/** What a driver needs to prepare a plugin's own area before its first call. */
export interface Provision {
  readonly plugin: string;
  readonly grants: readonly DriverGrant[];
  /** SQL migrations of the bundle in order of name (`db` only). */
  readonly migrations: readonly { readonly name: string; readonly sql: string }[];
}

/**
 * A driver. `invoke` rejects with NoaError (UNAVAILABLE when its engine is away, INVALID_ARGUMENT for
 * what the engine refuses as wrong, CAPABILITY_DENIED for what it refuses as forbidden); any other
 * rejection is a bug and reaches the plugin as INTERNAL without its text.
 */
export interface Driver {
  invoke(operation: string, input: Json, call: DriverCall): Promise<unknown>;
  /** Resolves when the engine answers now; rejects with the reason. At most 2 seconds. */
  check(): Promise<void>;
  /** Makes or updates the plugin's own area so that the engine itself enforces these grants. Idempotent. */
  provision?(request: Provision): Promise<void>;
  /** Deletes the plugin's own area and all that is in it. Idempotent. */
  drop?(plugin: string): Promise<void>;
  /** Releases connections. Called once, also after a failed start. */
  close(): Promise<void>;
}

/** Identity with a type check; keeps a capability's operation names as literal types. */
export function defineCapability<const C extends Capability>(capability: C): C {
  return capability;
}

/** True when `pattern` (exact, or a prefix ending in `*`) covers `resource` (a name or a narrower pattern). */
export function covers(pattern: string, resource: string): boolean {
  if (pattern.endsWith('*')) return resource.startsWith(pattern.slice(0, -1));
  return pattern === resource;
}
