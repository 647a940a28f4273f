/**
 * How a failed command ends: exit code 1 and `error: CODE message` on the error output, its particulars
 * indented below; with --json `{"error": {code, message, details?}}` on standard output instead.
 */
import { NoaError } from '@noa/sdk/host';
import { printable } from '../telemetry/plugin-logs.ts';

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly details?: unknown;
}

/** A failure that is no NoaError is a fault of the program: it shows where it happened. */
export function failureOf(error: unknown): Failure {
  if (error instanceof NoaError) return error.toBody();
  if (error instanceof Error) {
    return { code: 'INTERNAL', message: error.message, details: error.stack?.split('\n').slice(1) };
  }
  return { code: 'INTERNAL', message: String(error) };
}

export function describeFailure({ code, message, details }: Failure): string {
  // One that the message has said already is not said again.
  const more = particulars(details).filter((line) => !message.includes(line.trim()));
  return [`error: ${code} ${message.split('\n').map(printable).join('\n  ')}`, ...more].join('\n');
}

function particulars(details: unknown): string[] {
  if (details === undefined || details === null) return [];
  const items = Array.isArray(details) ? details : Object.entries(details);
  return items.map((item) => `  ${printable(sentence(item))}`);
}

function sentence(item: unknown): string {
  if (typeof item === 'string') return item.trim();
  if (Array.isArray(item))
    return item.map((part) => (typeof part === 'string' ? part : JSON.stringify(part))).join(': ');
  if (typeof item !== 'object' || item === null) return String(item);
  const { path, message, source, fix } = item as Record<string, unknown>;
  if (typeof path !== 'string' || typeof message !== 'string') return JSON.stringify(item);
  const place = typeof source === 'string' ? ` (${source})` : '';
  const remedy = typeof fix === 'string' ? `. ${fix}` : '';
  return `${path === '' ? '(root)' : path} ${message}${place}${remedy}`;
}
