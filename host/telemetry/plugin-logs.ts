/**
 * The last lines that each plugin logged, for whoever reads them over the administration API. Invariant:
 * memory is bounded by lines, by their length and by a rate; a flood is cut and counted, and no
 * character of a guest can move the cursor of a terminal or forge a line.
 */

export interface LogLine {
  /** Rises by one with every line of a plugin, from 1 at the start of the host. */
  readonly seq: number;
  /** ISO 8601. */
  readonly timestamp: string;
  readonly level: string;
  readonly message: string;
}

export interface LogPage {
  readonly lines: readonly LogLine[];
  /** The `since` of the following page. */
  readonly next: number;
}

export interface PluginLogsOptions {
  /** Lines kept for each plugin. */
  readonly lines: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

/** Characters kept of one message. */
const MAX_MESSAGE = 8192;
const RATE_PER_SECOND = 100;
const BURST = 1000;

interface Log {
  lines: LogLine[];
  next: number;
  /** Lines that may be written at once; refills at RATE_PER_SECOND. */
  allowance: number;
  refilledAt: number;
  /** Since the last line that was kept, and in all. */
  dropped: number;
  droppedInAll: number;
}

export class PluginLogs {
  readonly #options: PluginLogsOptions;
  readonly #logs = new Map<string, Log>();

  constructor(options: PluginLogsOptions) {
    this.#options = options;
  }

  /** The lines that are kept of this: none when the plugin floods, two when a flood has just ended. */
  append(plugin: string, level: string, message: string): readonly LogLine[] {
    const now = this.#options.now();
    const log = this.#logs.get(plugin) ?? {
      lines: [],
      next: 1,
      allowance: BURST,
      refilledAt: now,
      dropped: 0,
      droppedInAll: 0,
    };
    this.#logs.set(plugin, log);
    const refill = ((now - log.refilledAt) * RATE_PER_SECOND) / 1000;
    log.allowance = Math.min(BURST, log.allowance + Math.max(0, refill));
    log.refilledAt = now;
    if (log.allowance < 1) {
      log.dropped += 1;
      log.droppedInAll += 1;
      return [];
    }
    log.allowance -= 1;
    const timestamp = new Date(now).toISOString();
    const added: LogLine[] = [];
    const add = (of: string, text: string) => {
      added.push({ seq: log.next, timestamp, level: of, message: text });
      log.next += 1;
    };
    if (log.dropped > 0)
      add('warn', `${log.dropped} lines were dropped: more than ${RATE_PER_SECOND} a second`);
    log.dropped = 0;
    add(level, printable(message));
    log.lines.push(...added);
    // Cut seldom and in blocks, so that a line costs the same however many are kept.
    const { lines } = this.#options;
    if (log.lines.length > 2 * lines) log.lines = log.lines.slice(-lines);
    return added;
  }

  /** Lines after `since` (0 for all), oldest first; `next` is the `since` of the following page. */
  read(plugin: string, { since, limit }: { since: number; limit: number }): LogPage {
    const log = this.#logs.get(plugin);
    if (log === undefined) return { lines: [], next: 0 };
    const kept = log.lines.slice(-this.#options.lines);
    // A `since` of before a restart counts from the start.
    const after = since >= log.next ? 0 : since;
    const lines = kept.filter(({ seq }) => seq > after).slice(0, limit);
    return { lines, next: lines.at(-1)?.seq ?? after };
  }

  /** Lines that were not kept because there were too many at once. */
  dropped(plugin: string): number {
    return this.#logs.get(plugin)?.droppedInAll ?? 0;
  }

  /** Frees the lines of a removed plugin. */
  forget(plugin: string): void {
    this.#logs.delete(plugin);
  }
}

/** One bounded line; control characters and overrides of direction show as `\u001b`. */
export function printable(text: string): string {
  const cut = text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}… (cut)` : text;
  return cut.replaceAll(/[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/gu, (character) => {
    if (character === '\t') return ' ';
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}
