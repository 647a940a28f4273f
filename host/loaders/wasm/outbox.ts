/** What a sandbox thread has to say, sent in batches: a message of its own costs more than its content. */
import type { MessagePort } from 'node:worker_threads';
import type { Cost, Failure, FromThread } from './protocol.ts';

/** A message waits at most this long, in ms, for others to share its batch. */
const HOLD_MS = 0.25;

export class Outbox {
  readonly #port: MessagePort;
  readonly #figures: () => readonly FromThread[];
  #messages: FromThread[] = [];
  #sent = 0;

  /** `figures` are asked for with each batch: what has changed since the last. */
  constructor(port: MessagePort, figures: () => readonly FromThread[]) {
    this.#port = port;
    this.#figures = figures;
  }

  add(message: FromThread): void {
    this.#messages.push(message);
  }

  fail(id: number, reason: Failure, text = '', cost: Cost = [0, 0]): void {
    this.#messages.push(['failed', id, ...cost, reason, text]);
  }

  /** `now` is the monotonic time in ms. */
  sendDue(now: number): void {
    if (now - this.#sent > HOLD_MS) this.send(now);
  }

  send(now = performance.now()): void {
    this.#sent = now;
    this.#messages.push(...this.#figures());
    if (this.#messages.length === 0) return;
    this.#port.postMessage(this.#messages);
    this.#messages = [];
  }
}
