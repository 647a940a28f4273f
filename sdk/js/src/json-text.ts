/**
 * Bounds on JSON that comes from outside, checked on its text before it is parsed. Invariant: what passes
 * is read in about a tenth of a second at most and can be written again without overflowing a stack.
 * Bytes alone do not bound that: a MiB of small objects takes sixty times as long to read as a MiB of text.
 */
import type { Json } from './json.ts';

export const JSON_BOUNDS = {
  /** Arrays and objects inside one another. */
  depth: 128,
  /** Values of all levels; an empty array or object counts as two. */
  values: 200_000,
};

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;

/** What in this text is over a bound, in words that follow "the output …"; nothing is said of its syntax. */
export function jsonExcess(text: string): string | undefined {
  const { depth, values } = JSON_BOUNDS;
  // Each level takes two characters, each value at least one: most texts need no closer look.
  if (text.length <= 2 * depth || (text.length < values && openers(text) <= depth))
    return undefined;
  let level = 0;
  let count = 1;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = stringEnd(text, at);
      if (at < 0) return undefined; // The parser refuses it there.
    } else if (code === 0x5b || code === 0x7b) {
      level += 1;
      count += 1;
      if (level > depth) return `is nested more than ${depth} levels deep`;
    } else if (code === 0x5d || code === 0x7d) level -= 1;
    else if (code === COMMA) count += 1;
    if (count > values) return `holds more than ${values} values`;
  }
  return undefined;
}

/** The value in `text`. Throws SyntaxError when it is not JSON, RangeError when it is over a bound. */
export function parseJson(text: string): Json {
  const excess = jsonExcess(text);
  if (excess !== undefined) throw new RangeError(`the JSON ${excess}`);
  return JSON.parse(text) as Json;
}

/** Opening brackets, also those in strings, counted to one over the bound on depth. */
function openers(text: string): number {
  let count = 0;
  for (const bracket of '[{') {
    for (let at = text.indexOf(bracket); at >= 0; at = text.indexOf(bracket, at + 1)) {
      count += 1;
      if (count > JSON_BOUNDS.depth) return count;
    }
  }
  return count;
}

/** Where the string that starts at `start` has its last quote; -1 when it has none. */
function stringEnd(text: string, start: number): number {
  let end = start;
  for (;;) {
    end = text.indexOf('"', end + 1);
    if (end < 0) return end;
    let first = end;
    while (text.charCodeAt(first - 1) === BACKSLASH) first -= 1;
    if ((end - first) % 2 === 0) return end;
  }
}
