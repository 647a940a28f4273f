/**
 * Decides whether a module may be installed, before any of it runs: what it imports, what it exports
 * and how large it may become. Deny by default: an import that is not in the tables here is refused.
 */
import type { Limits, Manifest } from '@noa/sdk/host';
import { NoaError } from '@noa/sdk/host';
import { ModuleError, clamp, readOutline } from './binary.ts';
import type { ImportEntry, Outline } from './binary.ts';
import { printable } from './text.ts';
import { WASI_MODULE, WASI_TYPES } from './wasi.ts';

export const ENV_MODULE = 'extism:host/env';
export const USER_MODULE = 'extism:host/user';
/** Names that begin so are given to what the host adds to a module; none may export one itself. */
const RESERVED = 'noa:';
export const MEMORY_EXPORT = 'noa:memory';

const PAGES_PER_MIB = 16;
/** 4 GiB, the most that a 32-bit memory can have. */
const MAX_PAGES = 1 << 16;
const MAX_TABLES = 4;
const MAX_TABLE_SLOTS = 1 << 16;
const MAX_IMPORTS = 256;
/** Beside the bounds of one function, in charges.ts: what compiling may be made to cost. */
const MAX_FUNCTIONS = 100_000;

const LOG = '(i64) -> nothing';
/** The imports this host provides, with their types. */
const PROVIDED: { readonly [module: string]: { readonly [name: string]: string } } = {
  [ENV_MODULE]: {
    alloc: '(i64) -> i64',
    free: '(i64) -> nothing',
    length: '(i64) -> i64',
    length_unsafe: '(i64) -> i64',
    load_u8: '(i64) -> i32',
    load_u64: '(i64) -> i64',
    store_u8: '(i64, i32) -> nothing',
    store_u64: '(i64, i64) -> nothing',
    input_offset: '() -> i64',
    input_length: '() -> i64',
    input_load_u8: '(i64) -> i32',
    input_load_u64: '(i64) -> i64',
    output_set: '(i64, i64) -> nothing',
    error_set: '(i64) -> nothing',
    config_get: '(i64) -> i64',
    var_get: '(i64) -> i64',
    var_set: '(i64, i64) -> nothing',
    log_trace: LOG,
    log_debug: LOG,
    log_info: LOG,
    log_warn: LOG,
    log_error: LOG,
    get_log_level: '() -> i32',
    http_request: '(i64, i64) -> i64',
    http_status_code: '() -> i32',
    http_headers: '() -> i64',
  },
  [USER_MODULE]: {
    noa_call: '(i64) -> i64',
    noa_clock: '() -> i64',
    noa_random: '() -> i64',
    noa_call_bytes: '(i64, i64) -> i64',
    noa_reply_bytes: '() -> i64',
    noa_read: '(i64, i32, i32) -> nothing',
    noa_write: '(i64, i32, i32) -> nothing',
  },
  [WASI_MODULE]: WASI_TYPES,
};

/** Imports that wait for the host. */
export const SUSPENDING: ReadonlySet<string> = new Set([
  'noa_call',
  'noa_call_bytes',
  'http_request',
]);

export interface Admitted {
  /** The module to compile: the installed bytes with clamped limits. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Whether it can call the host and so needs a stack that can be set aside. */
  readonly suspends: boolean;
  /** Slots that its tables may come to have together. */
  readonly tableSlots: number;
}

function refuse(message: string): never {
  throw new ModuleError(message);
}

function checkImport(entry: ImportEntry): void {
  const name = `"${printable(entry.module, 64)}" "${printable(entry.name, 64)}"`;
  if (entry.kind !== 'function') {
    refuse(`The module imports the ${entry.kind} ${name}; it must define its own.`);
  }
  if (entry.module.startsWith('wasi') && PROVIDED[entry.module] === undefined) {
    refuse(
      `The module imports ${name}: of WASI there is only preview 1 here ("${WASI_MODULE}"). Build for wasm32-wasip1 or for a freestanding target (Rust: wasm32-unknown-unknown).`,
    );
  }
  const provided = PROVIDED[entry.module];
  if (provided === undefined || !Object.hasOwn(provided, entry.name)) {
    refuse(
      `The module imports ${name}, which this host does not provide; remove it or build with the NOA SDK.`,
    );
  }
  const expected = provided[entry.name];
  if (expected !== entry.signature) {
    refuse(`The module imports ${name} as ${entry.signature}; its type is ${expected}.`);
  }
}

function checkSizes(outline: Outline, limits: Limits): void {
  const pages = limits.memoryMiB * PAGES_PER_MIB;
  if (outline.memories.length > 1) {
    refuse(`The module has ${outline.memories.length} memories; build it with one.`);
  }
  const initial = outline.memories[0]?.min ?? 0;
  if (initial > pages) {
    refuse(
      `The module starts with ${initial / PAGES_PER_MIB} MiB of memory, over limits.memoryMiB = ${limits.memoryMiB}; raise the limit or shrink its initial memory.`,
    );
  }
  if (outline.functionCount > MAX_FUNCTIONS) {
    refuse(
      `The module has ${outline.functionCount} functions; at most ${MAX_FUNCTIONS} are allowed.`,
    );
  }
  if (outline.tables.length > MAX_TABLES) {
    refuse(`The module has ${outline.tables.length} tables; at most ${MAX_TABLES} are allowed.`);
  }
  for (const table of outline.tables) {
    if (table.min > MAX_TABLE_SLOTS) {
      refuse(
        `The module has a table of ${table.min} slots; at most ${MAX_TABLE_SLOTS} are allowed.`,
      );
    }
  }
}

function checkExports(outline: Outline, manifest: Manifest): void {
  for (const name of outline.exports) {
    if (!name.startsWith(RESERVED)) continue;
    refuse(`The module exports "${printable(name, 64)}", a name kept for the host; rename it.`);
  }
  for (const name of Object.keys(manifest.exports)) {
    const signature = outline.functions.get(name);
    if (signature === undefined) {
      refuse(
        `The manifest names the export "${name}" but the module does not export such a function; export it or remove it from exports.`,
      );
    }
    if (signature !== '() -> i32') {
      refuse(
        `The export "${name}" has the type ${signature}; it must be () -> i32, with its input and output exchanged through the ABI.`,
      );
    }
  }
}

/** Judges a module and answers what to compile. Throws NoaError INVALID_ARGUMENT with the rule and the fix. */
export function admit(
  manifest: Manifest,
  limits: Limits,
  wasm: Uint8Array,
  maxModuleBytes: number,
): Admitted {
  try {
    if (wasm.length > maxModuleBytes) {
      refuse(`The module has ${wasm.length} bytes; at most ${maxModuleBytes} are allowed.`);
    }
    const outline = readOutline(wasm);
    if (outline.imports.length > MAX_IMPORTS) {
      refuse(
        `The module has ${outline.imports.length} imports; at most ${MAX_IMPORTS} are allowed.`,
      );
    }
    for (const entry of outline.imports) checkImport(entry);
    checkSizes(outline, limits);
    checkExports(outline, manifest);
    const caps = {
      memoryPages: Math.min(limits.memoryMiB * PAGES_PER_MIB, MAX_PAGES),
      tableSlots: MAX_TABLE_SLOTS,
      memoryExport: MEMORY_EXPORT,
    };
    return {
      bytes: clamp(wasm, outline, caps),
      suspends: outline.imports.some((entry) => SUSPENDING.has(entry.name)),
      tableSlots: outline.tables.reduce(
        (slots, { max = MAX_TABLE_SLOTS }) => slots + Math.min(max, MAX_TABLE_SLOTS),
        0,
      ),
    };
  } catch (error) {
    if (!(error instanceof ModuleError)) throw error;
    throw new NoaError('INVALID_ARGUMENT', `runtime.file: ${error.message}`);
  }
}
