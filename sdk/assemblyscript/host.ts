/**
 * The host's functions and the way of bytes through its blocks (sdk/abi.md). Text is UTF-8 there and
 * UTF-16 here.
 */

@external('extism:host/env', 'input_offset')
declare function inputOffset(): u64;
@external('extism:host/env', 'input_length')
declare function inputLength(): u64;
@external('extism:host/env', 'alloc')
declare function allocBlock(length: u64): u64;
@external('extism:host/env', 'free')
declare function freeBlock(block: u64): void;
@external('extism:host/env', 'length')
declare function lengthOf(block: u64): u64;
@external('extism:host/env', 'output_set')
declare function outputSet(block: u64, length: u64): void;
@external('extism:host/env', 'error_set')
declare function errorSet(block: u64): void;
@external('extism:host/env', 'config_get')
declare function configGet(key: u64): u64;
@external('extism:host/env', 'log_debug')
declare function logDebug(line: u64): void;
@external('extism:host/env', 'log_info')
declare function logInfo(line: u64): void;
@external('extism:host/env', 'log_warn')
declare function logWarn(line: u64): void;
@external('extism:host/env', 'log_error')
declare function logError(line: u64): void;
@external('extism:host/user', 'noa_call')
declare function noaCall(request: u64): u64;
@external('extism:host/user', 'noa_call_bytes')
declare function noaCallBytes(request: u64, attachment: u64): u64;
@external('extism:host/user', 'noa_reply_bytes')
declare function noaReplyBytes(): u64;
@external('extism:host/user', 'noa_clock')
declare function noaClock(): u64;
@external('extism:host/user', 'noa_random')
declare function noaRandom(): u64;
@external('extism:host/user', 'noa_read')
declare function noaRead(address: u64, pointer: usize, length: i32): void;
@external('extism:host/user', 'noa_write')
declare function noaWrite(address: u64, pointer: usize, length: i32): void;

export enum Level {
  Debug,
  Info,
  Warn,
  Error,
}

/** A new block; 0 for no bytes. */
function put(bytes: ArrayBuffer): u64 {
  const length = bytes.byteLength;
  if (length == 0) return 0;
  const block = allocBlock(length);
  noaWrite(block, changetype<usize>(bytes), length);
  return block;
}

/** A lone surrogate, which UTF-8 does not have, becomes U+FFFD. */
function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text, false, String.UTF8.ErrorMode.REPLACE);
}

function putText(text: string): u64 {
  return put(utf8(text));
}

function copy(address: u64, length: i32): ArrayBuffer {
  const bytes = new ArrayBuffer(length);
  noaRead(address, changetype<usize>(bytes), length);
  return bytes;
}

/** The bytes of a block of ours, which ends with this; none for block 0. */
function take(block: u64): ArrayBuffer {
  if (block == 0) return new ArrayBuffer(0);
  const bytes = copy(block, <i32>lengthOf(block));
  freeBlock(block);
  return bytes;
}

function release(block: u64): void {
  if (block != 0) freeBlock(block);
}

export function input(): string {
  return String.UTF8.decode(copy(inputOffset(), <i32>inputLength()));
}

export function setOutput(text: string): void {
  const bytes = utf8(text);
  outputSet(put(bytes), bytes.byteLength);
}

export function setError(text: string): void {
  errorSet(putText(text));
}

/** Empty when there is none. */
export function configuration(): string {
  return String.UTF8.decode(take(configGet(putText('noa'))));
}

export function writeLog(level: Level, line: string): void {
  const block = putText(line);
  if (level == Level.Debug) logDebug(block);
  else if (level == Level.Info) logInfo(block);
  else if (level == Level.Warn) logWarn(block);
  else logError(block);
}

/** Request and reply as JSON text. */
export function request(text: string): string {
  const block = putText(text);
  const reply = String.UTF8.decode(take(noaCall(block)));
  release(block);
  return reply;
}

/** What came beside the last reply of `requestBytes`. */
export let beside: ArrayBuffer = new ArrayBuffer(0);

/** The same with bytes beside the request and the reply. */
export function requestBytes(text: string, attachment: ArrayBuffer): string {
  const block = putText(text);
  const sent = put(attachment);
  const reply = String.UTF8.decode(take(noaCallBytes(block, sent)));
  beside = take(noaReplyBytes());
  release(sent);
  release(block);
  return reply;
}

/** Nanoseconds since 1970-01-01T00:00:00Z. */
export function nanoseconds(): u64 {
  return noaClock();
}

export function randomBits(): u64 {
  return noaRandom();
}
