/**
 * The one function that leads out of the guest, made by the engine's glue (sdk/engine/glue.wat), whose
 * operation numbers these are. It is taken off the global object before any of the plugin's code runs.
 */
import type { ErrorBody } from '../errors.ts';

type Door = (operation: number, ...values: unknown[]) => unknown;

/** The answer to a capability call. */
export type Reply = { ok: true; value: unknown } | { ok: false; error: ErrorBody };

const door = Reflect.get(globalThis, '__noa_host') as Door;
Reflect.deleteProperty(globalThis, '__noa_host');

/** Asks the host; the whole instance waits for the answer. */
export const call = (request: string): Reply => door(0, request) as Reply;
/**
 * The same with bytes beside the request, which it names by `$bytes`, and beside the reply, which names
 * its own in the same way (sdk/abi.md, "Attachments").
 */
export const callBytes = (
  request: string,
  bytes: Uint8Array = new Uint8Array(),
): { reply: Reply; bytes: Uint8Array<ArrayBuffer> } => {
  const reply = door(15, request, bytes) as Reply;
  return { reply, bytes: (door(16) as Uint8Array<ArrayBuffer> | undefined) ?? new Uint8Array() };
};
/** Sets the output of this export to a JSON text. */
export const output = (json: string): void => void door(1, json);
/** Sets the error of this export to a JSON text. */
export const fail = (json: string): void => void door(2, json);

const LOG = { debug: 3, info: 4, warn: 5, error: 6 } as const;
export type LogLevel = keyof typeof LOG;
/** A block cannot be empty, so an empty line is one space. */
export const log = (level: LogLevel, text: string): void => void door(LOG[level], text || ' ');

/** The plugin's configuration, parsed anew at each call; undefined when the host has none. */
export const config = (): unknown => door(7);
/** Milliseconds since the epoch, with their fraction. */
export const clock = (): number => door(8) as number;
/** Cryptographically random, in [0, 1). */
export const random = (): number => door(9) as number;
export const fill = (bytes: Uint8Array): void => void door(10, bytes);
/** UTF-8; a lone surrogate must have been replaced before. */
export const encode = (text: string): Uint8Array<ArrayBuffer> =>
  door(11, text) as Uint8Array<ArrayBuffer>;
export const decode = (bytes: Uint8Array): string => door(12, bytes) as string;
/** As JSON.parse, with nesting bounded by what the host's own stack can take. */
export const parse = (json: string): unknown => door(14, json);

/** Names the three functions that the engine calls; they become part of the snapshot. */
export const bind = (
  /** Starts handler `index`; never throws. */
  run: (index: number, input: unknown) => void,
  /** Called when no job is pending: 0 done, 1 failed, -1 made new jobs. */
  step: () => number,
  /** A promise was rejected without a handler; `handledLater` takes that back. */
  unhandled: (promise: Promise<unknown> | undefined, reason: unknown, handledLater: number) => void,
): void => void door(13, run, step, unhandled);
