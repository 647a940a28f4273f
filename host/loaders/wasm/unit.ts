/** One loaded plugin inside one sandbox thread: its turns, its instances and its allowances. */
import type { Instance } from './instance.ts';
import type { PluginUnit } from './protocol.ts';
import { LargeRequests } from './requests.ts';
import { Lane } from './turns.ts';

export const LOG_LINES_PER_SECOND = 100;
const LOG_BURST = 200;

export class Unit {
  readonly id: number;
  readonly spec: PluginUnit;
  /** What `config_get` answers: the whole as JSON text under "noa", and each own top-level key. */
  readonly config: ReadonlyMap<string, string>;
  readonly lane = new Lane(this);
  readonly large = new LargeRequests();
  readonly idle: Instance[] = [];
  /** Calls that have begun and not ended; each has a stack when the plugin can call the host. */
  begun = 0;
  instances = 0;
  bytes = 0;
  /** Unloaded: instances still at work are dropped when they end. */
  closed = false;
  /** Log lines lost and not yet reported. */
  dropped = 0;
  #lines = LOG_BURST;
  #refilled = 0;

  constructor(id: number, spec: PluginUnit) {
    this.id = id;
    this.spec = spec;
    this.config = configuration(spec.config);
  }

  /** Whether one more log line is allowed now (token bucket). `now` in milliseconds. */
  allowLine(now: number): boolean {
    const earned = ((now - this.#refilled) * LOG_LINES_PER_SECOND) / 1000;
    this.#lines = Math.min(LOG_BURST, this.#lines + earned);
    this.#refilled = now;
    if (this.#lines < 1) return false;
    this.#lines -= 1;
    return true;
  }
}

function configuration(json: string): Map<string, string> {
  const values = new Map<string, string>();
  const parsed: unknown = JSON.parse(json);
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) {
    for (const [key, value] of Object.entries(parsed)) {
      values.set(key, typeof value === 'string' ? value : JSON.stringify(value));
    }
  }
  values.set('noa', json);
  return values;
}
