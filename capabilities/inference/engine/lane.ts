/**
 * Where a worker runs: a thread of this process, or a process of its own for models that the operator does
 * not trust. Either ends with the host, and its end is told exactly once.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { FromWorker, ToWorker } from './protocol.ts';

export interface Lane {
  post(message: ToWorker): void;
  /** Ends it; `ended` is told as of any other end. */
  end(): void;
}

export interface LaneEvents {
  readonly received: (message: FromWorker) => void;
  /** Once, with what is known of the reason. */
  readonly ended: (reason: string) => void;
}

export type OpenLane = (events: LaneEvents) => Lane;

const FILE = fileURLToPath(new URL('./worker.ts', import.meta.url));
/** Of JavaScript: weights and tensors lie outside of the heap. */
const HEAP_MB = 512;

export function openThread({ received, ended }: LaneEvents): Lane {
  const worker = new Worker(FILE, {
    env: {},
    stdout: true,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
  let reason: string | undefined;
  worker.on('message', received);
  worker.on('error', (error: Error) => {
    reason = error.message;
  });
  worker.on('exit', (code) => ended(reason ?? `the thread ended with ${code}`));
  worker.unref();
  return {
    post: (message) => worker.postMessage(message),
    end: () => void worker.terminate(),
  };
}

/** Its channel closes with the host, and it ends then by itself. */
export function openProcess({ received, ended }: LaneEvents): Lane {
  const child = fork(FILE, [], {
    env: {},
    execArgv: [`--max-old-space-size=${HEAP_MB}`],
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  let over = false;
  const end = (reason: string): void => {
    if (over) return;
    over = true;
    ended(reason);
  };
  child.on('message', (message) => received(message as FromWorker));
  child.on('error', (error) => end(error.message));
  child.on('exit', (code, signal) => end(`the process ended with ${signal ?? code}`));
  child.unref();
  child.channel?.unref();
  return {
    post: (message) => {
      if (child.connected) child.send(message);
    },
    end: () => void child.kill('SIGKILL'),
  };
}
