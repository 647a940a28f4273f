/**
 * Makes a module count what it executes. An i64 global goes down at function entries and loop headers
 * (regions.ts); below zero the guest asks the host, many times a millisecond, whether it may go
 * on, and traps when it may not. So a runaway is ended where it stands, within its thread, and what a
 * call costs is known: the same call costs the same fuel on every machine.
 *
 * Everything is added at the end of its index space, so that no index of the module's own changes. The
 * caller has seen the engine accept the module as it was: its own code cannot name what is added here.
 */
import { readFileSync } from 'node:fs';
import type { Section } from './binary.ts';
import { readSections } from './binary.ts';
import { chargesOf } from './charges.ts';
import { OP } from './instructions.ts';
import { Output } from './output.ts';
import { MAX_ENTRIES, ModuleError, Reader, leb, signedLeb } from './reader.ts';
import type { Charge } from './regions.ts';
import { readSignatures } from './signatures.ts';
import type { Signatures } from './signatures.ts';

export const FUEL_EXPORT = {
  /** i64 global: fuel left of the present slice. */
  left: 'noa:fuel',
  /** i64 global: all slices so far. What has been burned is this less `left`. */
  taken: 'noa:taken',
  /** Table whose one slot is a function () -> i32 that the host puts there: 0 ends the guest. */
  ask: 'noa:ask',
  /** The start function, if there is one: the host calls it once it has filled the slot. */
  start: 'noa:start',
} as const;

/** Fuel after which the guest asks: short enough to be ended soon, long enough to cost nothing. */
export const SLICE = 1 << 18;

const ID = {
  custom: 0,
  type: 1,
  function: 3,
  table: 4,
  global: 6,
  export: 7,
  start: 8,
  code: 10,
} as const;
/** Sections in the order in which they must come. */
const ORDER = [1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11];
const I32 = 0x7f;
const I64 = 0x7e;
const FUNCREF = 0x70;
const EMPTY = 0x40;

function constant(value: number): number[] {
  return [OP.i64Const, ...signedLeb(value)];
}

/** What the added code is made of, with the indexes of this module. */
class Parts {
  readonly #types: number;
  readonly #tables: number;
  readonly #globals: number;
  readonly #left: readonly number[];
  readonly #taken: readonly number[];
  readonly #refuel: readonly number[];
  readonly #weigh: readonly number[];
  readonly #charges = new Map<number, Uint8Array>();

  constructor({ types, functions, tableCount, globalCount }: Signatures) {
    this.#types = types.length;
    this.#tables = tableCount;
    this.#globals = globalCount;
    this.#left = leb(globalCount);
    this.#taken = leb(globalCount + 1);
    this.#refuel = leb(functions.length);
    this.#weigh = leb(functions.length + 1);
  }

  /** What a charge puts into the code. */
  code(charge: Charge): ArrayLike<number> {
    if ('label' in charge) return leb(charge.label);
    if ('closes' in charge) return [OP.end];
    if ('weight' in charge) return this.weigh(charge.weight);
    return 'type' in charge ? this.turn(charge.cost, charge.type) : this.charge(charge.cost);
  }

  /** Takes fuel; the stack stays as it is. */
  charge(cost: number): Uint8Array {
    const known = this.#charges.get(cost);
    if (known !== undefined) return known;
    const code = Uint8Array.from([...this.#take(constant(cost)), ...this.#check()]);
    this.#charges.set(cost, code);
    return code;
  }

  /** In the header of a tight loop: asks outside of it when its turn cannot be paid. */
  turn(cost: number, type: Uint8Array): Uint8Array {
    const short = [OP.globalGet, ...this.#left, ...constant(cost), OP.i64LtS];
    const outside = [...short, OP.if, EMPTY, OP.call, ...this.#refuel, OP.end, OP.loop, ...type];
    return Uint8Array.from([...outside, ...short, OP.brIf, 1, ...this.#take(constant(cost))]);
  }

  /** Takes fuel by the topmost operand, which stays. */
  weigh(weight: number): Uint8Array {
    return Uint8Array.from([OP.i32Const, ...signedLeb(weight), OP.call, ...this.#weigh]);
  }

  #take(amount: readonly number[]): number[] {
    const left = this.#left;
    return [OP.globalGet, ...left, ...amount, OP.i64Sub, OP.globalSet, ...left];
  }

  #check(): number[] {
    const below = [OP.globalGet, ...this.#left, ...constant(0), OP.i64LtS];
    return [...below, OP.if, EMPTY, OP.call, ...this.#refuel, OP.end];
  }

  /** Entries that are added to each section. */
  added(start: number | undefined): ReadonlyMap<number, readonly number[][]> {
    const [types, tables, globals] = [this.#types, this.#tables, this.#globals];
    const entry = (name: string, kind: number, index: number): number[] => {
      const text = Buffer.from(name);
      return [...leb(text.length), ...text, kind, ...leb(index)];
    };
    const global = [I64, 1, ...constant(0), OP.end];
    return new Map([
      [
        ID.type,
        [
          [0x60, 0, 1, I32],
          [0x60, 0, 0],
          [0x60, 2, I32, I32, 1, I32],
        ],
      ],
      [ID.function, [leb(types + 1), leb(types + 2)]],
      [ID.table, [[FUNCREF, 1, 1, 1]]],
      [ID.global, [global, global]],
      [
        ID.export,
        [
          entry(FUEL_EXPORT.left, 3, globals),
          entry(FUEL_EXPORT.taken, 3, globals + 1),
          entry(FUEL_EXPORT.ask, 1, tables),
          ...(start === undefined ? [] : [entry(FUEL_EXPORT.start, 0, start)]),
        ],
      ],
      [ID.code, [this.#refuelBody(), this.#weighBody()]],
    ]);
  }

  /** Asks; then a full slice is left, and what was burned of the one before is taken down. */
  #refuelBody(): number[] {
    const [left, taken] = [this.#left, this.#taken];
    const ask = [OP.i32Const, 0, OP.callIndirect, ...leb(this.#types), ...leb(this.#tables)];
    const obey = [OP.if, EMPTY, OP.else, OP.unreachable, OP.end];
    const slice = constant(SLICE);
    const more = [OP.globalGet, ...taken, ...slice, OP.i64Add];
    const note = [OP.globalGet, ...left, OP.i64Sub, OP.globalSet, ...taken];
    const fill = [...slice, OP.globalSet, ...left];
    return body([...ask, ...obey, ...more, ...note, ...fill]);
  }

  /** (amount, weight) -> amount, both unsigned: takes amount * weight / 16, and no more than all there is. */
  #weighBody(): number[] {
    const local = (index: number): number[] => [0x20, index, I64_EXTEND_I32_U];
    const fuel = [...local(0), ...local(1), I64_MUL, ...constant(4), I64_SHR_U];
    const most = constant(MOST_WEIGHED);
    const bounded = [...fuel, ...most, ...fuel, ...most, I64_LT_U, SELECT];
    return body([...this.#take(bounded), ...this.#check(), 0x20, 0]);
  }
}

/**
 * Fuel of growing by 4 GiB. An instruction that asks for more fails without work; were it paid for, the
 * counter would run over in a moment.
 */
const MOST_WEIGHED = 2 ** 28;
const I64_LT_U = 0x54;
const SELECT = 0x1b;
const I64_MUL = 0x7e;
const I64_SHR_U = 0x88;
const I64_EXTEND_I32_U = 0xad;

/** A function body without locals. */
function body(code: readonly number[]): number[] {
  return [...leb(code.length + 2), 0, ...code, OP.end];
}

/** More than code of the largest module that is taken comes to when compilers have written it. */
const MAX_CHARGES = 1 << 20;

/** Writes the bodies of the code section with their charges, without the section's count. */
function writeCharged(
  bytes: Uint8Array,
  { body: start, end }: Section,
  signatures: Signatures,
  out: Output,
): void {
  const parts = new Parts(signatures);
  const reader = new Reader(bytes, start, end);
  const own = reader.count();
  const imported = signatures.functions.length - own;
  let total = 0;
  for (let index = 0; index < own; index += 1) {
    const size = reader.number();
    const from = reader.at;
    reader.skip(size);
    const charges = chargesOf({
      bytes,
      start: from,
      end: reader.at,
      signatures,
      index: imported + index,
    });
    total += charges.length;
    if (total > MAX_CHARGES) {
      throw new ModuleError(
        `The module has more than ${MAX_CHARGES} loops, calls and branches that have to be charged; split it.`,
      );
    }
    out.sized(() => {
      let last = from;
      for (const charge of charges) {
        out.add(bytes.subarray(last, charge.at));
        out.add(parts.code(charge));
        last = 'to' in charge ? charge.to : charge.at;
      }
      out.add(bytes.subarray(last, reader.at));
    });
  }
}

/** Sections that name places in function bodies, which move: hints for the engine's compiler. */
const HINTS = 'metadata.code.';

/**
 * A copy of the module that counts. Exports `FUEL_EXPORT` beside its own; it has no start section, but
 * exports its start function. Throws ModuleError.
 */
export function meter(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const sections = readSections(bytes);
  const signatures = readSignatures(bytes, sections);
  if (signatures.functions.length > MAX_ENTRIES) {
    throw new ModuleError('The module has too many functions.');
  }
  const startSection = sections.find(({ id }) => id === ID.start);
  const start = startSection && new Reader(bytes, startSection.body, startSection.end).number();
  const added = new Map(new Parts(signatures).added(start));

  const out = new Output(bytes.length + (bytes.length >> 1));
  out.add(bytes.subarray(0, 8));
  const write = (id: number, old?: Section): void => {
    const extra = added.get(id) ?? [];
    added.delete(id);
    const reader = old && new Reader(bytes, old.body, old.end);
    const length = reader?.count() ?? 0;
    out.add([id]);
    out.sized(() => {
      out.add(leb(length + extra.length));
      if (old !== undefined && id === ID.code) writeCharged(bytes, old, signatures, out);
      else if (old !== undefined) out.add(bytes.subarray(reader?.at, old.end));
      for (const entry of extra) out.add(entry);
    });
  };
  const writeAbsent = (before: number): void => {
    for (const id of ORDER.slice(0, before)) if (added.has(id)) write(id);
  };
  for (const each of sections) {
    if (each.id === ID.start) continue;
    if (each.id === ID.custom) {
      const hint = new Reader(bytes, each.body, each.end).name().startsWith(HINTS);
      if (!hint) out.add(bytes.subarray(each.start, each.end));
      continue;
    }
    writeAbsent(ORDER.indexOf(each.id));
    if (added.has(each.id)) write(each.id, each);
    else out.add(bytes.subarray(each.start, each.end));
  }
  writeAbsent(ORDER.length);
  return out.bytes();
}

const askModule = new WebAssembly.Module(readFileSync(new URL('./ask.wasm', import.meta.url)));

/** A function for the slot of `FUEL_EXPORT.ask`: the guest that calls it ends when the answer is no. */
export function asking(mayGoOn: () => boolean): WebAssembly.ExportedFunction {
  const host = { ask: () => (mayGoOn() ? 1 : 0) };
  const { ask } = new WebAssembly.Instance(askModule, { host }).exports;
  return ask as WebAssembly.ExportedFunction; // As ask.wat declares.
}

interface FuelExports {
  readonly [FUEL_EXPORT.left]: { value: bigint };
  readonly [FUEL_EXPORT.taken]: { readonly value: bigint };
  readonly [FUEL_EXPORT.ask]: WebAssembly.Table;
}

/** The fuel of one instance of a module that `meter` has written. */
export class Fuel {
  readonly #exports: FuelExports;

  /** `ask` from `asking`; nothing of the module's may run before. */
  constructor(exports: Readonly<Record<string, unknown>>, ask: WebAssembly.ExportedFunction) {
    this.#exports = exports as Readonly<Record<keyof FuelExports, unknown>> as FuelExports;
    this.#exports[FUEL_EXPORT.ask].set(0, ask);
  }

  get burned(): number {
    const { [FUEL_EXPORT.left]: left, [FUEL_EXPORT.taken]: taken } = this.#exports;
    return Number(taken.value - left.value);
  }

  /** Takes fuel for what the host does for the guest, by its bytes. */
  charge(bytes: number): void {
    this.#exports[FUEL_EXPORT.left].value -= BigInt(bytes >>> 4);
  }
}
