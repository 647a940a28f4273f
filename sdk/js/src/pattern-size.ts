/**
 * Estimates from its text how large a pattern becomes when it is compiled: RE2 writes every counted
 * repetition out, so that ten characters can mean ten thousand instructions, and sizes of groups inside
 * groups multiply. Invariant: the estimate is never below the true number of instructions.
 */
import { RE2JS } from 're2js';

/** A matcher for a pattern as JSON Schema (ECMA-262) writes it. Throws Error when it is none. */
export function compilePattern(pattern: string): RE2JS {
  return RE2JS.compile(RE2JS.translateRegExp(pattern));
}

/**
 * At least the instructions that `compilePattern` makes; the pattern need not be correct. Infinity when it
 * holds what only RE2 knows and could hide the rest: `\Q`, or `[:` in a class.
 */
export function patternSize(source: string): number {
  const pattern = RE2JS.translateRegExp(source);
  const outer: number[] = [];
  let size = 3; // the beginning, the end and what stands for nothing
  let last = 0; // of the atom that a repetition would repeat
  const atom = (instructions: number): void => {
    last = instructions;
    size += instructions;
  };
  for (let at = 0; at < pattern.length; at += 1) {
    const char = pattern[at];
    if (char === '\\') {
      at += 1;
      if (pattern[at] === 'Q') return Infinity; // A quotation, which ECMA-262 does not have.
      if (/[pPx]/.test(pattern[at] ?? '') && pattern[at + 1] === '{') {
        at = closing(pattern, '}', at);
      }
      atom(1);
    } else if (char === '[') {
      at = classEnd(pattern, at);
      if (at === Infinity) return at;
      atom(1);
    } else if (char === '(' && /^\(\?[A-Za-z-]*\)/.test(pattern.slice(at, at + 16))) {
      at = closing(pattern, ')', at); // Flags are no atom: what follows repeats what came before them.
    } else if (char === '(') {
      outer.push(size);
      size = 0;
      last = 0;
      if (pattern[at + 1] === '?') at += 1;
    } else if (char === ')') {
      const group = size + 3;
      size = outer.pop() ?? 0;
      atom(group);
    } else if (char === '|') {
      size += 3; // the choice, and what stands for an empty side
      last = 0;
    } else if (char === '*' || char === '+' || char === '?') {
      size += 2;
      last += 2;
    } else {
      const count = char === '{' ? /^\{(\d+)(,(\d*))?\}/.exec(pattern.slice(at, at + 32)) : null;
      if (count === null) atom(1);
      else {
        const [text, least, open, most] = count;
        // Of {2,} the last stands for all that may follow.
        const times = Math.max(Number(least) + (open === ',' ? 1 : 0), Number(most ?? 0), 1);
        const repeated = (last + 1) * times;
        size += repeated - last;
        last = repeated;
        at += text.length - 1;
      }
    }
  }
  return outer.reduce((total, each) => total + each, size);
}

function closing(pattern: string, text: string, from: number): number {
  const at = pattern.indexOf(text, from);
  return at < 0 ? pattern.length : at + text.length - 1;
}

/**
 * Where the class that opens at `start` has its last bracket; a bracket that comes first is a member.
 * Infinity when it may hold a named class of POSIX, which ECMA-262 does not have.
 */
function classEnd(pattern: string, start: number): number {
  let at = start + 1;
  if (pattern[at] === '^') at += 1;
  for (let first = true; at < pattern.length; first = false) {
    if (pattern[at] === ']' && !first) return at;
    if (pattern.startsWith('[:', at)) return Infinity;
    at += pattern[at] === '\\' ? 2 : 1;
  }
  return at;
}
