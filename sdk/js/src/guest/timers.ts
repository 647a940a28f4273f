/**
 * setTimeout and its kin, honest about a plugin that cannot sleep: a timer fires when the job queue is
 * empty and its time has come by the host's clock, never before. Time passes while the plugin computes
 * and while it waits for a capability. Timers belong to one call and end with it.
 */
import * as engine from './engine.ts';

interface Timer {
  due: number;
  readonly every: number | undefined;
  readonly callback: (...values: unknown[]) => void;
  readonly values: unknown[];
}

let pending: Map<number, Timer> | undefined;
let lastId = 0;

export function open(): void {
  pending = new Map();
}

export function close(): void {
  pending = undefined;
}

/** Runs the timer that is due longest; false when none is. An exception of its callback is logged by the engine. */
export function fire(): boolean {
  const next = first();
  if (next === undefined || next.timer.due > engine.clock()) return false;
  const { id, timer } = next;
  if (timer.every === undefined) pending?.delete(id);
  else timer.due = engine.clock() + timer.every;
  queueMicrotask(() => timer.callback(...timer.values));
  return true;
}

/** Milliseconds until the next timer, undefined without one. */
export function nearest(): number | undefined {
  const next = first();
  return next && Math.max(0, next.timer.due - engine.clock());
}

function first(): { id: number; timer: Timer } | undefined {
  let best: { id: number; timer: Timer } | undefined;
  for (const [id, timer] of pending ?? []) {
    if (best === undefined || timer.due < best.timer.due) best = { id, timer };
  }
  return best;
}

function add(callback: unknown, delay: unknown, repeat: boolean, values: unknown[]): number {
  if (typeof callback !== 'function') throw new TypeError('a timer takes a function');
  if (pending === undefined) throw new Error('timers work inside a handler only');
  const number = Number(delay);
  // One millisecond and less is "as soon as the queue is empty", as browsers and Node have it.
  const wait = number > 1 ? number : 0;
  lastId += 1;
  pending.set(lastId, {
    due: wait === 0 ? 0 : engine.clock() + wait,
    every: repeat ? wait : undefined,
    callback: callback as Timer['callback'],
    values,
  });
  return lastId;
}

export const setTimeout = (callback: unknown, delay?: unknown, ...values: unknown[]): number =>
  add(callback, delay, false, values);
export const setInterval = (callback: unknown, delay?: unknown, ...values: unknown[]): number =>
  add(callback, delay, true, values);
export const clearTimeout = (id?: unknown): void => void pending?.delete(Number(id));
