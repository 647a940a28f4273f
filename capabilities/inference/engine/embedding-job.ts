/** A request for embeddings, which may be run in several pieces at several workers, and how their answers come together. */
import type { Embedded } from '../backend.ts';
import type { Piece, Request } from './embedding-queue.ts';
import type { EmbedAnswer } from './protocol.ts';

export interface EmbeddingJob extends Request {
  readonly fail: (error: Error) => void;
  readonly done: (embedded: Embedded) => void;
  vectors: Float32Array | undefined;
  tokens: number;
  /** Texts without an answer. */
  left: number;
  /** A worker was lost with a piece of it. */
  again: boolean;
  over: boolean;
}

/** Gives each request its rows of a run over `rows` texts; whoever has all of theirs is answered. */
export function handOut(
  { vectors, tokens }: EmbedAnswer,
  pieces: Piece<EmbeddingJob>[],
  rows: number,
): void {
  const dimensions = vectors.length / rows;
  let at = 0;
  for (const { request, from, to } of pieces) {
    const count = to - from;
    if (!request.over) {
      request.vectors ??= new Float32Array(request.texts.length * dimensions);
      const part = vectors.subarray(at * dimensions, (at + count) * dimensions);
      request.vectors.set(part, from * dimensions);
      request.tokens += tokens.slice(at, at + count).reduce((sum, one) => sum + one, 0);
      request.left -= count;
      if (request.left === 0) {
        request.over = true;
        request.done({ dimensions, vectors: request.vectors, tokens: request.tokens });
      }
    }
    at += count;
  }
}
