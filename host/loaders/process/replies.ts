/**
 * Reads what a process says of a plugin. Each text may be the plugin's own, in any form: it is answered
 * with a value within its bounds, or the process has broken the protocol.
 */
import { type ErrorCode, NoaError } from '@noa/sdk/host';
import { isUtf8 } from 'node:buffer';
import type { CallCost, Harm, LogLevel, RuntimeStats } from '../../kernel/loader.ts';
import { GUEST_CODES, bounded, retryOf } from '../wasm/outcome.ts';
import { printable } from '../wasm/text.ts';
import { FrameError } from './frames.ts';

const LEVELS: readonly string[] = ['debug', 'info', 'warn', 'error'] satisfies LogLevel[];
/** Twice what the sandbox itself lets through: its texts pass as they are. */
const MAX_MESSAGE_CHARS = 4096;
const MAX_LINE_CHARS = 8192;
export const MAX_ERROR_BYTES = 256 << 10;
const MAX_INSTANCES = 1 << 20;

/** The error that a process reports. What only the host may say of itself is taken for the plugin's fault. */
export function readFailure(bytes: Buffer): NoaError {
  if (bytes.length > MAX_ERROR_BYTES) throw new FrameError(`an error of ${bytes.length} bytes`);
  const body = parse(bytes);
  const { code, message, details } = body;
  if (typeof code !== 'string' || typeof message !== 'string')
    throw new FrameError('a wrong error');
  const known = GUEST_CODES.has(code) ? (code as ErrorCode) : 'PLUGIN_TRAP';
  const options = {
    ...(details === undefined ? {} : { details: bounded(details) }),
    ...retryOf(body),
  };
  return new NoaError(known, printable(message, MAX_MESSAGE_CHARS), options);
}

/** An output; the bytes of a request or an output are UTF-8 or a lie of the process. */
export function readText(bytes: Buffer): string {
  if (!isUtf8(bytes)) throw new FrameError('a text that is not UTF-8');
  return bytes.toString('utf8');
}

export function readLevel(head: string): LogLevel {
  if (!LEVELS.includes(head)) throw new FrameError('an unknown log level');
  return head as LogLevel;
}

export function readHarm(head: string): Harm {
  if (head !== 'overran' && head !== 'crashed') throw new FrameError('an unknown harm');
  return head;
}

export function readLine(bytes: Buffer): string {
  return printable(bytes.toString('utf8', 0, 4 * MAX_LINE_CHARS), MAX_LINE_CHARS);
}

export function readUsage(head: string): RuntimeStats {
  const [, instances = '', memoryBytes = ''] = /^(\d{1,7}) (\d{1,15})$/.exec(head) ?? [];
  if (instances === '' || Number(instances) > MAX_INSTANCES) throw new FrameError('a wrong usage');
  return { instances: Number(instances), memoryBytes: Number(memoryBytes) };
}

/** "fuel milliseconds"; undefined where nothing is said. The process's own account of itself. */
export function readCost(text: string): CallCost | undefined {
  if (text === '') return undefined;
  const [, fuel, ms] = /^(\d{1,16}) (\d{1,9}(?:\.\d{1,3})?)$/.exec(text) ?? [];
  if (fuel === undefined || ms === undefined) throw new FrameError('a wrong cost');
  return { fuel: Number(fuel), executionMs: Number(ms) };
}

/** The number of a request within its call, and what the call has cost so far. */
export function readRequestHead(head: string): { number: number; cost: CallCost | undefined } {
  const [number = '', ...cost] = head.split(' ');
  return { number: readNumber(number), cost: readCost(cost.join(' ')) };
}

function readNumber(head: string): number {
  if (!/^\d{1,15}$/.test(head)) throw new FrameError('a wrong number');
  return Number(head);
}

function parse(bytes: Buffer): { readonly [key: string]: unknown } {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    if (typeof value === 'object' && value !== null) return { ...value };
  } catch {
    // Not JSON: a wrong error like any other.
  }
  throw new FrameError('an error that is not JSON');
}
