/**
 * Makes a module count what it executes. An i64 global goes down at function entries and loop headers
 * (charges.ts); below zero the guest asks the host, every tenth of a millisecond or so, whether it may go
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
import type { Charge } from './charges.ts';
import { OP } from './instructions.ts';
import { MAX_ENTRIES, ModuleError, Reader, leb, section, signedLeb } from './reader.ts';

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
export const SLICE = 1 << 20;

const ID = {
  custom: 0,
  type: 1,
  import: 2,
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

/** How many of each there are, imports first. */
interface Counts {
  readonly types: number;
  readonly functions: number;
  readonly tables: number;
  readonly globals: number;
}

function count(bytes: Uint8Array, sections: readonly Section[]): Counts {
  const open = (id: number): Reader | undefined => {
    const found = sections.find((each) => each.id === id);
    return found && new Reader(bytes, found.body, found.end);
  };
  const own = (id: number): number => open(id)?.count() ?? 0;
  const imported = [0, 0, 0, 0, 0];
  const reader = open(ID.import);
  for (let left = reader?.count() ?? 0; reader !== undefined && left > 0; left -= 1) {
    reader.name();
    reader.name();
    const kind = reader.byte();
    if (kind === 0) reader.number();
    else if (kind === 1) reader.tableType();
    else if (kind === 2) reader.extent('memory');
    else if (kind === 3) {
      reader.valueType();
      reader.byte();
    } else {
      reader.byte();
      reader.number();
    }
    imported[kind] = (imported[kind] ?? 0) + 1;
  }
  return {
    types: own(ID.type),
    functions: (imported[0] ?? 0) + own(ID.function),
    tables: (imported[1] ?? 0) + own(ID.table),
    globals: (imported[3] ?? 0) + own(ID.global),
  };
}

function constant(value: number): number[] {
  return [OP.i64Const, ...signedLeb(value)];
}

/** What the added code is made of, with the indexes of this module. */
class Parts {
  readonly #counts: Counts;
  readonly #left: readonly number[];
  readonly #taken: readonly number[];
  readonly #refuel: readonly number[];
  readonly #weigh: readonly number[];
  readonly #charges = new Map<number, Uint8Array>();

  constructor(counts: Counts) {
    this.#counts = counts;
    this.#left = leb(counts.globals);
    this.#taken = leb(counts.globals + 1);
    this.#refuel = leb(counts.functions);
    this.#weigh = leb(counts.functions + 1);
  }

  /** The code that takes the place of what stands between these offsets. */
  insertion(charge: Charge): { at: number; to: number; code: Uint8Array } {
    const { at } = charge;
    if ('label' in charge) return { at, to: charge.to, code: Uint8Array.from(leb(charge.label)) };
    if ('closes' in charge) return { at, to: at, code: Uint8Array.of(OP.end) };
    if ('weight' in charge) return { at, to: at, code: this.weigh(charge.weight) };
    const { cost } = charge;
    const code = 'type' in charge ? this.turn(cost, charge.type) : this.charge(cost);
    return { at, to: at, code };
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
    const { types, tables, globals } = this.#counts;
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
    const { types, tables } = this.#counts;
    const ask = [OP.i32Const, 0, OP.callIndirect, ...leb(types), ...leb(tables)];
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

/** The bodies of the code section with their charges, without the section's count. */
function charged(bytes: Uint8Array, { body: start, end }: Section, parts: Parts): Uint8Array[] {
  const reader = new Reader(bytes, start, end);
  const pieces: Uint8Array[] = [];
  for (let left = reader.count(); left > 0; left -= 1) {
    const size = reader.number();
    const from = reader.at;
    reader.skip(size);
    const inserted = chargesOf(bytes, from, reader.at).map((charge) => parts.insertion(charge));
    const grown = inserted.reduce((sum, { at, to, code }) => sum + code.length - (to - at), size);
    pieces.push(Uint8Array.from(leb(grown)));
    let last = from;
    for (const { at, to, code } of inserted) {
      pieces.push(bytes.subarray(last, at), code);
      last = to;
    }
    pieces.push(bytes.subarray(last, reader.at));
  }
  return pieces;
}

/** Sections that name places in function bodies, which move: hints for the engine's compiler. */
const HINTS = 'metadata.code.';

/**
 * A copy of the module that counts. Exports `FUEL_EXPORT` beside its own; it has no start section, but
 * exports its start function. Throws ModuleError.
 */
export function meter(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const sections = readSections(bytes);
  const counts = count(bytes, sections);
  if (counts.functions > MAX_ENTRIES) throw new ModuleError('The module has too many functions.');
  const parts = new Parts(counts);
  const startSection = sections.find(({ id }) => id === ID.start);
  const start = startSection && new Reader(bytes, startSection.body, startSection.end).number();
  const added = new Map(parts.added(start));

  const pieces: Uint8Array[] = [bytes.subarray(0, 8)];
  const write = (id: number, old?: Section): void => {
    const extra = added.get(id) ?? [];
    added.delete(id);
    const reader = old && new Reader(bytes, old.body, old.end);
    const length = reader?.count() ?? 0;
    const content =
      old === undefined
        ? []
        : id === ID.code
          ? charged(bytes, old, parts)
          : [bytes.subarray(reader?.at, old.end)];
    pieces.push(section(id, [leb(length + extra.length), ...content, ...extra]));
  };
  const writeAbsent = (before: number): void => {
    for (const id of ORDER.slice(0, before)) if (added.has(id)) write(id);
  };
  for (const each of sections) {
    if (each.id === ID.start) continue;
    if (each.id === ID.custom) {
      const hint = new Reader(bytes, each.body, each.end).name().startsWith(HINTS);
      if (!hint) pieces.push(bytes.subarray(each.start, each.end));
      continue;
    }
    writeAbsent(ORDER.indexOf(each.id));
    if (added.has(each.id)) write(each.id, each);
    else pieces.push(bytes.subarray(each.start, each.end));
  }
  writeAbsent(ORDER.length);
  return Uint8Array.from(Buffer.concat(pieces));
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
