/** Entry of a sandbox thread: plugin code runs here and nowhere else. */
import { workerData } from 'node:worker_threads';
import { Executor } from './executor.ts';
import type { ThreadData } from './protocol.ts';

new Executor(workerData as ThreadData);
