/**
 * What is in a document. Invariant: what may take any amount of work (HTML, PDF) is parsed in a thread that
 * ends at its bounds of time and memory, few at a time.
 */
import { Worker } from 'node:worker_threads';
import { NoaError } from '@noa/sdk';
import { type ParsedDocument, refused, textOf } from './document.ts';
import { parseMarkdown, parsePlain } from './plain.ts';

const TIME_MS = 20_000;
const MEMORY_MB = 512;
/** Threads at one time; as many again may wait. */
const MAX_THREADS = 2;
const MAX_WAITING = 16;

/** Throws INVALID_ARGUMENT in words for whoever sent it. */
export async function parse(bytes: Uint8Array, mediaType: string): Promise<ParsedDocument> {
  if (bytes.length === 0) throw refused('is empty');
  if (mediaType === 'text/plain') return parsePlain(textOf(bytes));
  if (mediaType === 'text/markdown') return parseMarkdown(textOf(bytes));
  await takePlace();
  try {
    return await parseApart(bytes, mediaType);
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

let running = 0;
const waiting: (() => void)[] = [];

async function takePlace(): Promise<void> {
  if (running >= MAX_THREADS) {
    if (waiting.length >= MAX_WAITING) {
      const words = `${MAX_WAITING} documents wait to be read already; try again`;
      throw new NoaError('RESOURCE_EXHAUSTED', words, { retryAfterMs: 5000 });
    }
    await new Promise<void>((resolve) => waiting.push(resolve));
  }
  running += 1;
}

interface Told {
  readonly document?: ParsedDocument;
  readonly words?: string;
  readonly isOwn?: boolean;
}

async function parseApart(bytes: Uint8Array, mediaType: string): Promise<ParsedDocument> {
  const worker = new Worker(new URL('./worker.ts', import.meta.url), {
    workerData: { bytes, mediaType },
    env: {},
    resourceLimits: { maxOldGenerationSizeMb: MEMORY_MB },
    stdout: true,
    stderr: true,
  });
  const told = new Promise<ParsedDocument>((resolve, reject) => {
    const late = refused(`takes more than ${TIME_MS / 1000} s to read: send it in parts`);
    const timer = setTimeout(() => reject(late), TIME_MS);
    worker.on('message', ({ document, words = '', isOwn }: Told) => {
      clearTimeout(timer);
      if (document !== undefined) resolve(document);
      else
        reject(
          isOwn
            ? new NoaError('INVALID_ARGUMENT', words)
            : refused('cannot be read: it is damaged, or of another kind'),
        );
    });
    worker.on('error', (error: Error & { code?: string }) => {
      clearTimeout(timer);
      const isMemory = error.code === 'ERR_WORKER_OUT_OF_MEMORY';
      reject(
        isMemory ? refused(`takes more than ${MEMORY_MB} MiB to read: send it in parts`) : error,
      );
    });
  });
  try {
    return await told;
  } finally {
    await worker.terminate();
  }
}
