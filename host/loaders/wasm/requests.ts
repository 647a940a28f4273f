/**
 * Lets one large capability request of a plugin leave the thread at a time: the host's thread reads it
 * in one go, and many at once would keep it from everything else. The others wait where they are, in
 * the memory of their guests.
 */

/** A request of at least this many bytes is large: about half a millisecond to read. */
export const LARGE_REQUEST_BYTES = 64 << 10;

export class LargeRequests {
  readonly #waiting: { readonly id: number; readonly send: () => void }[] = [];
  #out: number | undefined;

  /** Sends the request of this job now, or when the one before it has been answered. */
  send(id: number, send: () => void): void {
    if (this.#out !== undefined) return void this.#waiting.push({ id, send });
    this.#out = id;
    send();
  }

  /** The job's request was answered or given up; nothing happens when it had none here. */
  settled(id: number): void {
    if (id !== this.#out) {
      const at = this.#waiting.findIndex((request) => request.id === id);
      if (at >= 0) this.#waiting.splice(at, 1);
      return;
    }
    const next = this.#waiting.shift();
    this.#out = next?.id;
    next?.send();
  }
}
