/**
 * The order in which one thread gives turns: in rotation over the plugins that want one, so that of a
 * plugin's many calls one turn at most lies between two turns of another. Within a plugin, what was
 * begun goes first. Replies and cancellations of one call keep their order.
 */
import type { ToThread } from './protocol.ts';
import type { Unit } from './unit.ts';

export type Turn = Extract<
  ToThread,
  readonly ['compile' | 'warm' | 'call' | 'reply' | 'cancel', ...unknown[]]
>;

/** What one plugin, or the host itself, wants of the thread. */
export class Lane {
  readonly unit: Unit | undefined;
  /** Of calls that have begun. */
  readonly resumes: Turn[] = [];
  readonly starts: Turn[] = [];
  /** Whether it is in the rotation. */
  listed = false;

  constructor(unit?: Unit) {
    this.unit = unit;
  }
}

export class Turns {
  readonly #rotation: Lane[] = [];

  add(lane: Lane, turn: Turn): void {
    if (turn[0] === 'reply' || turn[0] === 'cancel') lane.resumes.push(turn);
    else lane.starts.push(turn);
    if (lane.listed) return;
    lane.listed = true;
    this.#rotation.push(lane);
  }

  /** Takes a job out that has not begun; false when it is not here. */
  withdraw(id: number): boolean {
    for (const { starts } of this.#rotation) {
      const at = starts.findIndex((turn) => turn[1] === id);
      if (at < 0) continue;
      starts.splice(at, 1);
      return true;
    }
    return false;
  }

  /** The next turn, or undefined when there is none that may be taken now. */
  next(mayBegin: (lane: Lane) => boolean): Turn | undefined {
    for (let left = this.#rotation.length; left > 0; left -= 1) {
      const lane = this.#rotation.shift();
      if (lane === undefined) break;
      const { resumes, starts } = lane;
      const turn =
        resumes.shift() ?? (starts.length > 0 && mayBegin(lane) ? starts.shift() : undefined);
      lane.listed = resumes.length + starts.length > 0;
      if (lane.listed) this.#rotation.push(lane);
      if (turn !== undefined) return turn;
    }
    return undefined;
  }
}
