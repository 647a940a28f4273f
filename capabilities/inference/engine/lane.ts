/**
 * A worker, as a process of its own: it ends with the host, and its end is told exactly once. Not a thread:
 * the runtime brings the whole process down when a thread is ended in the middle of a run (measured with
 * onnxruntime-node 1.30: SIGABRT five times of five), and a run can be ended in no other way.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { bareEnvironment } from '@noa/sdk/host';
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

/** Its channel closes with the host, and it ends then by itself. It has no environment of the host's. */
export function openProcess({ received, ended }: LaneEvents): Lane {
  const child = fork(FILE, [], {
    env: bareEnvironment(),
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
