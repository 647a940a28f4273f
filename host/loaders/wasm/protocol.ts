/**
 * What the host's thread and a sandbox thread say to each other: batches of flat tuples, because the
 * structured clone of an object with named keys costs three times as much.
 *
 * A job is a call, a compilation or a warm-up. Its id is its serial number times PLACES, plus its place
 * in the host's table; serial numbers count up and begin anew after 2^32. A message about an id that is
 * unknown is dropped by either side.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Limits } from '@noa/sdk/host';
import type { LogLevel } from '../../kernel/loader.ts';

export type ToThread =
  | readonly ['compile', id: number, bytes: Uint8Array]
  /** Makes a plugin known; `unit` names one load of one plugin. */
  | readonly ['load', unit: number, plugin: PluginUnit]
  | readonly ['unload', unit: number]
  /** Creates an instance (its start function runs) and keeps it idle. */
  | readonly ['warm', id: number, unit: number]
  | readonly ['call', id: number, unit: number, name: string, input: string, inputBytes: number]
  /** The reply, with what stands beside it when the guest asked for that. */
  | readonly ['reply', id: number, envelope: string, attachment?: Uint8Array | undefined]
  /** Ends a job that is queued or waits for a reply; answered by `failed`. */
  | readonly ['cancel', id: number];

/** What a job has cost so far: fuel, and the time in ms that its turns took. */
export type Cost = readonly [fuel: number, executionMs: number];

export type FromThread =
  | readonly ['compiled', id: number, module: WebAssembly.Module]
  | readonly ['done', id: number, ...Cost, output: string]
  | readonly ['failed', id: number, ...Cost, reason: Failure, text: string]
  /**
   * A capability call: the guest of this job waits for one `reply`. `attachment` stands beside the
   * request; null for none, absent when the guest does not speak of attachments.
   */
  | readonly [
      'invoke',
      id: number,
      ...Cost,
      request: string,
      attachment?: Uint8Array | null | undefined,
    ]
  | readonly ['log', unit: number, level: LogLevel, text: string]
  | readonly ['usage', unit: number, instances: number, bytes: number];

/**
 * Why a job failed: `error` carries the guest's own error block, all others a sentence of ours;
 * `cancelled` acknowledges `cancel`.
 */
export type Failure = 'error' | 'trap' | 'output' | 'exhausted' | 'invalid' | 'cancelled';

export interface PluginUnit {
  readonly module: WebAssembly.Module;
  readonly suspends: boolean;
  /** Slots that the tables of one instance may come to have. */
  readonly tableSlots: number;
  /** Configuration as JSON text. */
  readonly config: string;
  readonly limits: Limits;
}

/** What a thread is born with. */
export interface ThreadData {
  readonly port: MessagePort;
  /** Int32Array over the words below: WORD, then one for each place. */
  readonly words: SharedArrayBuffer;
  readonly arena: WebAssembly.Module;
  readonly fiber: WebAssembly.Module;
  readonly bounds: ThreadBounds;
}

export interface ThreadBounds {
  /** Calls that may hold a stack at one time; the others wait in the thread. */
  readonly fibers: number;
  /** Linear memory of all instances of one thread, in bytes. */
  readonly memoryBytes: number;
  readonly idleInstances: number;
  readonly idleMs: number;
  /** One request to a capability, in bytes. */
  readonly requestBytes: number;
}

/** More jobs than a thread can hold; a serial number times this is still an exact integer. */
export const PLACES = 2 ** 20;

/** A job's serial number as a shared word. */
export function wordOf(id: number): number {
  return Math.floor(id / PLACES) | 0;
}

/** Indexes of the shared words. Jobs are named by `wordOf`. */
export const WORD = {
  /** The job whose guest code executes now; 0 when none does. */
  executing: 0,
  /** Counts turns, so that two looks can tell whether one of them lasts. */
  turns: 1,
  /** Log lines that the executing turn has lost to the rate limit. */
  dropped: 2,
  /** Set to 1 by the host before it ends the thread: no further job begins. */
  stop: 3,
  /** Plugins loaded in this host, on whichever thread; set by the host. */
  plugins: 4,
  /** The job that the host has given up: its code ends where it next asks whether it may go on. */
  end: 5,
} as const;

/**
 * From this index on, one word for each place: 0 while its job has not begun, then the job, by whichever
 * side is first; the complement of the job when the host has recalled it.
 */
export const BEGUN = Object.keys(WORD).length;
