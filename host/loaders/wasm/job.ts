/** One piece of work for a sandbox thread, from its submission until the thread has let go of it. */
import type { NoaError } from '@noa/sdk/host';
import type { RuntimeCall } from '../../kernel/loader.ts';
import type { Share } from './jobs.ts';
import type { Plugin } from './plugin.ts';
import type { ToThread } from './protocol.ts';

export interface JobSpec {
  readonly plugin?: Plugin;
  /** The message that begins it; built again when it moves to another thread. */
  readonly message: (id: number) => ToThread;
  /** When it must have ended, by `performance.now()`. */
  readonly expires: number;
  /** How long it may take by its own rules, in ms: what its caller left of that does not count. */
  readonly allowanceMs: number;
  /** What the caller is told when it has not. */
  readonly expired: string;
  /** Size of the text that `message` carries, in bytes. */
  readonly bytes?: number;
  /** For a call: whose signal ends it and whose `invoke` serves its guest. */
  readonly call?: RuntimeCall;
  readonly done?: (output: string) => void;
  readonly compiled?: (module: WebAssembly.Module) => void;
  readonly failed: (error: NoaError) => void;
}

export class Job {
  readonly spec: JobSpec;
  /** Anew for each thread that it is given to. */
  id = 0;
  /** Text that its thread may hold for it, in bytes. */
  heldBytes = 0;
  /** What its plugin has of its thread. */
  share: Share | undefined;
  /** Moves to another thread so far. */
  moves = 0;
  /** Whether it was begun a second time, after its thread fell through another's fault. */
  repeated = false;
  /** Set once its submitter has been answered while the thread still holds it: when to end the thread. */
  reapAt: number | undefined;
  #abort: AbortController | undefined;

  constructor(spec: JobSpec) {
    this.spec = spec;
  }

  /** Aborts when the job is given up; made on first use. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    return this.#abort.signal;
  }

  /** Answers the submitter with an error and stops host work done for the job. */
  giveUp(error: NoaError): void {
    this.spec.failed(error);
    this.#abort?.abort(error);
  }

  /** Stops host work done for the job so far; it is about to begin anew. */
  repeat(error: NoaError): void {
    this.repeated = true;
    this.#abort?.abort(error);
    this.#abort = undefined;
  }
}
