/** What the host and the process that keeps the vectors tell each other, as structured clones. */
import { isErrorCode, NoaError } from '@noa/sdk/host';
import type { VectorStore } from '../store.ts';

export type Method = Exclude<keyof VectorStore, 'system' | 'check' | 'close'>;

export interface Request {
  readonly id: number;
  readonly method: Method;
  readonly args: readonly unknown[];
}

export type Reply =
  /** What searches, once it is loaded, and why it is not zvec. */
  | { readonly type: 'ready'; readonly engine: 'zvec' | 'exact'; readonly reason?: string }
  | { readonly type: 'answer'; readonly id: number; readonly value: unknown }
  | {
      readonly type: 'failure';
      readonly id: number;
      readonly code: string;
      readonly message: string;
    }
  /** Of what nobody waits for. */
  | { readonly type: 'trouble'; readonly message: string };

export function asFailure(id: number, error: unknown): Reply {
  const known = error instanceof NoaError;
  const message = error instanceof Error ? error.message : String(error);
  return { type: 'failure', id, code: known ? error.code : 'INTERNAL', message };
}

/** A fault of the engine itself is no NoaError, and its words are for the log alone. */
export function asError(code: string, message: string): Error {
  return isErrorCode(code) && code !== 'INTERNAL'
    ? new NoaError(code, message)
    : new Error(message);
}
