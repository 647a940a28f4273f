/**
 * What the engine and its workers tell each other.
 * Invariant: a worker answers each request once, by `answer` or `failure` under its id, whatever it was.
 */
import { type ErrorCode, isErrorCode, NoaError } from '@noa/sdk/host';
import type { Tensor } from '../backend.ts';
import type { Device, GenerateParameters, ModelFiles, Turn } from '../models/runner.ts';

/** Names a loaded model to a worker: `id@version`. */
export type Key = string;

export type Work =
  | { readonly kind: 'embed'; readonly texts: readonly string[]; readonly truncate: boolean }
  | { readonly kind: 'classify'; readonly texts: readonly string[] }
  | { readonly kind: 'rerank'; readonly query: string; readonly texts: readonly string[] }
  | { readonly kind: 'tokenize'; readonly texts: readonly string[] }
  | {
      readonly kind: 'run';
      readonly inputs: readonly Tensor[];
      readonly outputs: readonly string[] | undefined;
    }
  | {
      readonly kind: 'generate';
      readonly prompt: string;
      /** What `prompt` was made from, for a model that was taught a form of its own. */
      readonly turns: readonly Turn[] | undefined;
      readonly parameters: GenerateParameters;
    };

export type ToWorker =
  | {
      readonly type: 'load';
      readonly id: number;
      readonly key: Key;
      readonly files: ModelFiles;
      readonly device: Device;
      readonly threads: number;
    }
  | { readonly type: 'unload'; readonly key: Key }
  | { readonly type: 'work'; readonly id: number; readonly key: Key; readonly work: Work }
  /** The consumer of a generation has taken so many parts. */
  | { readonly type: 'taken'; readonly id: number; readonly count: number }
  | { readonly type: 'cancel'; readonly id: number };

export type FromWorker =
  | { readonly type: 'ready' }
  | { readonly type: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly type: 'part'; readonly id: number; readonly value: unknown }
  | { readonly type: 'failure'; readonly id: number; readonly error: Failure };

/** Of a generation that the consumer has not taken; the worker waits for it then. */
export const MAX_AHEAD = 64;

/** Answers, by the kind of work. Numbers of `embed` are rows in the order of the texts. */
export interface LoadAnswer {
  readonly memoryBytes: number;
}
export interface EmbedAnswer {
  readonly vectors: Float32Array<ArrayBuffer>;
  /** Of each text. */
  readonly tokens: readonly number[];
}
export interface ScoresAnswer {
  readonly scores: Float32Array<ArrayBuffer>;
  readonly tokens: number;
}

/** A NoaError on its way; a fault of the worker's own has no code. */
export interface Failure {
  readonly code?: ErrorCode;
  readonly message: string;
}

export function toFailure(error: unknown): Failure {
  if (error instanceof NoaError) return { code: error.code, message: error.message };
  return { message: error instanceof Error ? error.message : String(error) };
}

export function fromFailure({ code, message }: Failure): NoaError {
  if (isErrorCode(code)) return new NoaError(code, message);
  return new NoaError('INTERNAL', 'the model failed', { cause: new Error(message) });
}
