/** The port `log` of a plugin without a sandbox. Bounded here: the host ends a process that floods it. */
import type { LoadRequest, LogLevel } from '../../kernel/loader.ts';

/** As much of a line as the host keeps. */
const MAX_LINE_CHARS = 8192;
/** More than the host shows, so that it can say how many were dropped; less than it bears. */
const MAX_LINES_PER_SECOND = 5000;

type Write = (message: unknown, fields?: Readonly<Record<string, unknown>>) => void;
export type PluginLog = { readonly [Level in LogLevel]: Write };

export function createPluginLog(send: LoadRequest['log']): PluginLog {
  let second = 0;
  let lines = 0;
  const write =
    (level: LogLevel): Write =>
    (message, fields) => {
      const now = Math.floor(performance.now() / 1000);
      lines = now === second ? lines + 1 : 1;
      second = now;
      if (lines > MAX_LINES_PER_SECOND) return;
      const added = fields === undefined ? '' : ` ${JSON.stringify(fields)}`;
      const text = `${String(message)}${added}`;
      send(level, text.slice(0, MAX_LINE_CHARS).toWellFormed());
    };
  return { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') };
}
