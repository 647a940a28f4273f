/** console, written to the plugin's log: log and info as info, trace and debug as debug. */
import { describe, trace } from './describe.ts';
import { log, type LogLevel } from './engine.ts';

const format = (values: unknown[]): string =>
  values.map((value) => (value instanceof Error ? trace(value) : describe(value))).join(' ');

type Write = (...values: unknown[]) => void;

const at =
  (level: LogLevel): Write =>
  (...values) =>
    log(level, format(values));

export const console: Record<
  'debug' | 'trace' | 'log' | 'info' | 'dir' | 'warn' | 'error',
  Write
> & {
  assert(condition?: unknown, ...values: unknown[]): void;
} = {
  debug: at('debug'),
  trace: at('debug'),
  log: at('info'),
  info: at('info'),
  dir: at('info'),
  warn: at('warn'),
  error: at('error'),
  assert(condition, ...values) {
    if (!condition) log('error', format(['assertion failed:', ...values]));
  },
};
