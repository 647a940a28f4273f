/**
 * The driver of `log`: hands lines to the host's logger. Invariant: what a plugin writes is one line of
 * bounded length without control characters, so it can neither forge other lines nor drive a terminal.
 */
import { type Driver, type Json, NoaError } from '@noa/sdk/host';
import { LEVELS, type Level } from './capability.ts';

/** Longest message, and longest text anywhere in the fields, in characters. */
const MAX_TEXT = 4_096;
/** Values in the fields, counted over all levels. */
const MAX_VALUES = 64;
const MAX_DEPTH = 4;

export interface LogOptions {
  /** Takes one line; `fields` is safe to print as it is. */
  readonly write: (
    plugin: string,
    level: Level,
    message: string,
    fields: { [name: string]: Json },
  ) => void;
}

export function createLogDriver({ write }: LogOptions): Driver {
  return {
    async invoke(_operation, input, { plugin }) {
      if (!isObject(input)) throw wrong('the arguments', 'an object');
      const { level: given, message, fields = {} } = input;
      const level = LEVELS.find((each) => each === given);
      if (!level) throw wrong('level', `one of ${LEVELS.join(', ')}`);
      if (typeof message !== 'string') throw wrong('message', 'a string');
      if (!isObject(fields)) throw wrong('fields', 'an object');
      const left = { values: MAX_VALUES };
      write(plugin, level, oneLine(message), boundObject(fields, left, MAX_DEPTH));
      return {};
    },
    async check() {},
    async close() {},
  };
}

/** Escapes control characters, line separators and what changes the direction of text; cuts the rest. */
export function oneLine(text: string): string {
  const cut = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT).toWellFormed()}…` : text;
  return cut.replace(
    /[\p{Cc}\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function boundObject(
  fields: { readonly [name: string]: Json },
  left: { values: number },
  depth: number,
): { [name: string]: Json } {
  const kept: [string, Json][] = [];
  for (const [name, value] of Object.entries(fields)) {
    if (left.values <= 0) break;
    left.values -= 1;
    kept.push([oneLine(name), bound(value, left, depth)]);
  }
  return Object.fromEntries(kept);
}

function bound(value: Json, left: { values: number }, depth: number): Json {
  if (typeof value === 'string') return oneLine(value);
  if (typeof value !== 'object' || value === null) return value;
  if (depth === 0) return '…';
  if (!Array.isArray(value)) return boundObject(value, left, depth - 1);
  const kept: Json[] = [];
  for (const item of value) {
    if (left.values <= 0) break;
    left.values -= 1;
    kept.push(bound(item, left, depth - 1));
  }
  return kept;
}

function isObject(value: Json | undefined): value is { [name: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wrong(field: string, rule: string): NoaError {
  return new NoaError('INVALID_ARGUMENT', `log: ${field} must be ${rule}`);
}
