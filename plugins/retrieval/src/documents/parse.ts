/**
 * What is in a document. Invariant: what may take any amount of work (HTML, PDF) or is large is parsed in a
 * thread that ends at its bounds of time and memory, few at a time.
 */
import { getCompileCacheDir } from 'node:module';
import { Worker } from 'node:worker_threads';
import { NoaError } from '@noa/sdk';
import { type ParsedDocument, refused, textOf } from './document.ts';
import { READ_HERE } from './plain.ts';

const TIME_MS = 20_000;
const MEMORY_MB = 512;
/** Unpacked beside the thread's own memory, whose limit does not count it, and beside copies of what was sent. */
const UNPACKED_BYTES = 192 << 20;
const COPIES = 4;
const WATCH_MS = 50;
const APART: ReadonlySet<string> = new Set(['text/html', 'application/pdf']);
/** A text of more is parsed apart too: it would hold up the host. */
const SMALL_BYTES = 256 << 10;
/** Threads at one time; as many again may wait. */
const MAX_THREADS = 2;
const MAX_WAITING = 16;

/** Throws INVALID_ARGUMENT in words for whoever sent it. */
export async function parse(bytes: Uint8Array, mediaType: string): Promise<ParsedDocument> {
  if (bytes.length === 0) throw refused('is empty');
  const read = READ_HERE[mediaType];
  if (read !== undefined && bytes.length <= SMALL_BYTES) return read(textOf(bytes));
  if (read === undefined && !APART.has(mediaType)) {
    throw refused(`is ${mediaType}, which is not read here`);
  }
  await takePlace();
  try {
    return await parseApart(bytes, mediaType);
  } finally {
    // The place goes to who waits longest; nobody can come between.
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
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
    return new Promise((resolve) => waiting.push(resolve));
  }
  running += 1;
}

interface Told {
  readonly document?: ParsedDocument;
  readonly words?: string;
  readonly isOwn?: boolean;
}

async function parseApart(bytes: Uint8Array, mediaType: string): Promise<ParsedDocument> {
  const kept = getCompileCacheDir();
  const worker = new Worker(new URL('./worker.ts', import.meta.url), {
    workerData: { bytes, mediaType },
    env: kept === undefined ? {} : { NODE_COMPILE_CACHE: kept },
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: MEMORY_MB },
    stdout: true,
    stderr: true,
  });
  const large = refused('takes too much memory to read: send it in parts');
  let watch: NodeJS.Timeout | undefined;
  let timer: NodeJS.Timeout | undefined;
  const told = new Promise<ParsedDocument>((resolve, reject) => {
    const late = refused(`takes more than ${TIME_MS / 1000} s to read: send it in parts`);
    timer = setTimeout(reject, TIME_MS, late);
    worker.on('online', () => {
      watch = setInterval(() => {
        worker.getHeapStatistics().then(
          ({ external_memory: held }) => {
            if (held > UNPACKED_BYTES + COPIES * bytes.length) reject(large);
          },
          // There is nothing to ask of a thread that has just ended.
          () => undefined,
        );
      }, WATCH_MS);
    });
    worker.on('message', ({ document, words = '', isOwn }: Told) => {
      if (document !== undefined) resolve(document);
      else if (isOwn) reject(new NoaError('INVALID_ARGUMENT', words));
      else reject(refused('cannot be read: it is damaged, or of another kind'));
    });
    worker.on('error', (error: Error & { code?: string }) =>
      reject(error.code === 'ERR_WORKER_OUT_OF_MEMORY' ? large : error),
    );
    worker.on('exit', () => reject(new Error('the thread that read a document ended')));
  });
  try {
    return await told;
  } finally {
    clearTimeout(timer);
    clearInterval(watch);
    await worker.terminate();
  }
}
