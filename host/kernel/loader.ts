/**
 * The port between the kernel and whatever runs plugin code. The kernel hands a runtime an input, a
 * deadline and one function that leads to the door; the token stays on this side.
 */
import type { Json, Limits, Manifest } from '@noa/sdk/host';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** How a plugin's code ended what ran beside it: a turn that went on and on, or a crash of its worker. */
export type Harm = 'overran' | 'crashed';

export interface LoadRequest {
  readonly plugin: string;
  /** Distinguishes each (re)start of a plugin in one host; replies and tokens of an older one are void. */
  readonly generation: number;
  readonly manifest: Manifest;
  readonly limits: Limits;
  /** The raw module whose sha256 the installed bundle records. */
  readonly wasm: Uint8Array;
  /** Validated configuration, given to the guest as JSON. */
  readonly config: Json;
  /** Lines that the guest logs outside a capability call. */
  log(level: LogLevel, message: string): void;
  /**
   * The plugin's code has brought a worker down, and not because its caller gave it little time: its turn
   * had lasted for half of what the export may take. Never called for what it throws or traps on.
   */
  harmed?(what: Harm): void;
}

export interface RuntimeCall {
  readonly export: string;
  /** JSON text. */
  readonly input: string;
  /** Milliseconds since the epoch. */
  readonly deadline: number;
  /** The call may be begun again, unnoticed, when its worker falls through no fault of its own. */
  readonly idempotent?: boolean;
  /** Aborts when the caller goes away; the runtime then ends the call with CANCELLED. */
  readonly signal: AbortSignal;
  /** The only way out of the sandbox: resolves with the operation's value or rejects with NoaError. */
  invoke(capability: string, operation: string, input: Json, signal: AbortSignal): Promise<unknown>;
  /**
   * Told what the call has cost, before each `invoke` and at its end: of a call that was given up, a
   * moment after its answer, and never when its worker had to be ended.
   */
  spent?(cost: CallCost): void;
}

/**
 * Where a plugin's code runs: in the sandbox, in a thread of the host or in a process of its own; without a
 * sandbox, as a program of the operator's; or as a part of the host.
 */
export type Isolation = 'thread' | 'process' | 'native' | 'builtin';

/** What a call has cost the host's processors so far. */
export interface CallCost {
  /** About the machine instructions of the plugin's code; the same for the same work on any machine. */
  readonly fuel: number;
  /** Time that its code has executed, in milliseconds; waiting is no part of it. */
  readonly executionMs: number;
}

export interface RuntimeStats {
  /** Live instances of this plugin. */
  readonly instances: number;
  /** Linear memory of those instances, in bytes. */
  readonly memoryBytes: number;
}

export interface Runtime {
  /** Absent: `thread`. */
  readonly isolation?: Isolation;
  /**
   * Runs one export and answers its output as JSON text. Rejects with NoaError: DEADLINE_EXCEEDED,
   * CANCELLED, PLUGIN_TRAP (trap or uncaught exception), RESOURCE_EXHAUSTED (a bound of the sandbox),
   * UNAVAILABLE (a bystander's worker was recycled and the call is not idempotent; retryable), or the code the guest chose.
   */
  call(call: RuntimeCall): Promise<string>;
  stats(): RuntimeStats;
  /** Ends running calls with UNAVAILABLE and frees everything. Idempotent. */
  stop(): Promise<void>;
}

export interface Loader {
  /**
   * Judges a module before it is installed: valid, within the limits, exporting what the manifest
   * promises and importing no more than it may. Rejects with NoaError INVALID_ARGUMENT in plain words.
   */
  inspect(manifest: Manifest, limits: Limits, wasm: Uint8Array): Promise<void>;
  load(request: LoadRequest): Promise<Runtime>;
  /** Ends all runtimes and workers. */
  close(): Promise<void>;
}
