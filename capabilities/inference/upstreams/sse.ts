/**
 * Decoder of server-sent events (HTML standard, section 9.2.6): bytes in, the `data` of each event out.
 * Invariant: what comes out depends on the bytes alone, not on where the chunks were cut, and what is kept
 * between two chunks is at most MAX_EVENT_LENGTH characters.
 */

/** Of the `data` of one event, and of any line. */
export const MAX_EVENT_LENGTH = 1 << 20;

export class SseDecoder {
  readonly #decoder = new TextDecoder();
  #line = '';
  #data: string[] = [];
  #size = 0;
  /** The last chunk ended in CR: a LF that follows belongs to it. */
  #afterCr = false;

  /** The events that this chunk completes. Throws RangeError for one that is too long. */
  push(chunk: Uint8Array): string[] {
    return this.#take(this.#decoder.decode(chunk, { stream: true }));
  }

  /** What stands at the end without the empty line that completes an event. */
  end(): string[] {
    const events = this.#take(this.#decoder.decode());
    return [...events, ...this.#lineEnds(''), ...this.#lineEnds('')];
  }

  #take(text: string): string[] {
    if (text === '') return [];
    const events: string[] = [];
    let start = this.#afterCr && text.startsWith('\n') ? 1 : 0;
    this.#afterCr = text.endsWith('\r');
    const ends = /\r\n|\n|\r/g;
    ends.lastIndex = start;
    for (let end = ends.exec(text); end !== null; end = ends.exec(text)) {
      events.push(...this.#lineEnds(text.slice(start, end.index)));
      start = ends.lastIndex;
    }
    this.#line += text.slice(start);
    if (this.#line.length > MAX_EVENT_LENGTH) throw tooLong();
    return events;
  }

  #lineEnds(rest: string): string[] {
    const line = this.#line + rest;
    this.#line = '';
    if (line.length > MAX_EVENT_LENGTH) throw tooLong();
    if (line === '') {
      const event = this.#data.join('\n');
      const has = this.#data.length > 0;
      this.#data = [];
      this.#size = 0;
      return has ? [event] : [];
    }
    const value = /^data(?::[ ]?|$)/.exec(line);
    if (value !== null) {
      const data = line.slice(value[0].length);
      this.#size += data.length + 1;
      if (this.#size > MAX_EVENT_LENGTH) throw tooLong();
      this.#data.push(data);
    }
    return [];
  }
}

function tooLong(): RangeError {
  return new RangeError(`an event is over ${MAX_EVENT_LENGTH} characters`);
}
