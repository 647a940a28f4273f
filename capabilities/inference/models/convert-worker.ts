/** The thread in which a model is converted, because it takes half a second of one processor. */
import { parentPort, workerData } from 'node:worker_threads';
import { type Conversion, convert } from './convert.ts';

/** What the thread says: how far it is, and at last the folder. */
export type ConvertMessage =
  | { readonly step: string; readonly done: number; readonly total: number }
  | { readonly folder: string };

const say = (message: ConvertMessage): void => parentPort?.postMessage(message);
const folder = await convert(workerData as Conversion, (step, done, total) => {
  say({ step, done, total });
});
say({ folder });
