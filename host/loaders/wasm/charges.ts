/**
 * Decides where in a function body fuel is taken, and how much. A region is code that runs as a whole
 * once its first instruction does, branches out of it aside. Those that begin a loop's turn or hold a
 * call always charge, because whatever runs for long turns loops or calls; any other charges when it is
 * large, else the region that leads to it pays for both. To charge each basic block, or each function's
 * entry as well, costs several times as much. Invariants: what a body costs depends on its bytes alone;
 * it is decoded in linear time, or refused by ModuleError.
 */
import { OP, instruction, weightOf } from './instructions.ts';
import { ModuleError, Reader } from './reader.ts';

/** Code to insert before the instruction at offset `at`. */
export type Charge =
  | { readonly at: number; readonly cost: number }
  /** Of a tight loop: it is put into a second one, whose header asks, so that its own holds no call. */
  | { readonly at: number; readonly cost: number; readonly type: Uint8Array }
  | { readonly at: number; readonly closes: 'loop' }
  /** A branch out of a tight loop has one label more to cross. */
  | { readonly at: number; readonly to: number; readonly label: number }
  /** By the topmost operand, an i32: how much the instruction there works on. */
  | { readonly at: number; readonly weight: number };

/** Of each turn of a loop, besides its instructions. */
const TURN = 2;
/** A region that costs less does not charge for itself. */
const LARGE = 48;
/** What a region pays at most for small ones behind its branches: of many, few are taken. */
const FOLDED = 64;

/** Far less than a slice: a tight loop goes on only when its turn is paid whole. */
const TIGHT = 1 << 14;

const MAX_BODY_BYTES = 1 << 20;
const MAX_LOCALS = 10_000;
const MAX_BRANCHES = 1 << 14;

interface Region {
  readonly at: number;
  always: boolean;
  /** The one that leads here. */
  readonly from: Region | undefined;
  cost: number;
}

/** A loop without calls and loops in it. */
interface Tight {
  readonly region: Region;
  /** Of the loop's frame. */
  readonly depth: number;
  readonly type: Uint8Array;
  isTight: boolean;
}

/** What is done only where the loop stays tight. */
interface Rewrite {
  readonly at: number;
  readonly of: Tight;
  readonly charge: Charge;
}

interface Frame {
  /** The region in which the block stands. */
  readonly region: Region;
  /** The outermost frame to which code in this one branches, by its depth from the function's own. */
  reach: number;
}

class Body {
  readonly #found: (Region | Rewrite | Charge)[] = [];
  /** By the region of its turn. */
  readonly #loops = new Map<Region, Tight>();
  /** The innermost loop that may be tight. */
  #loop: Tight | undefined;
  readonly #reader: Reader;
  readonly #bytes: Uint8Array;
  readonly #frames: Frame[] = [];
  #region: Region;

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.#bytes = bytes;
    this.#reader = new Reader(bytes, start, end);
    this.#skipLocals();
    this.#region = this.#enter(undefined);
  }

  #skipLocals(): void {
    const reader = this.#reader;
    let locals = 0;
    for (let groups = reader.count(); groups > 0; groups -= 1) {
      locals += reader.number();
      reader.valueType();
    }
    if (locals > MAX_LOCALS) {
      throw new ModuleError(
        `The module has a function with ${locals} locals; at most ${MAX_LOCALS} are allowed.`,
      );
    }
  }

  #enter(from: Region | undefined, always = false, cost = 0): Region {
    this.#region = { at: this.#reader.at, always, from, cost };
    this.#found.push(this.#region);
    return this.#region;
  }

  read(): void {
    const reader = this.#reader;
    this.#open();
    while (this.#frames.length > 0) {
      const at = reader.at;
      this.#step(at, reader.byte());
    }
    if (!reader.done) throw new ModuleError('The module has a function that ends before its body.');
  }

  #step(at: number, op: number): void {
    const reader = this.#reader;
    switch (op) {
      case OP.block:
        reader.blockType();
        return this.#open();
      case OP.try:
        this.#loosen();
        reader.blockType();
        return this.#open();
      case OP.tryTable:
        this.#loosen();
        reader.blockType();
        this.#open();
        return this.#catches();
      case OP.loop:
        reader.blockType();
        this.#open();
        return this.#turn(at + 1);
      case OP.if:
        reader.blockType();
        this.#region.cost += 1;
        this.#open();
        return void this.#enter(this.#region);
      case OP.catch:
        reader.number();
        return this.#otherwise();
      case OP.else:
      case OP.catchAll:
        return this.#otherwise();
      case OP.delegate:
        reader.number();
        return this.#close();
      case OP.end:
        return this.#close();
      case OP.br:
        this.#branch();
        return void this.#enter(this.#region);
      case OP.brIf:
        this.#region.cost += 1;
        this.#branch();
        return void this.#enter(this.#region);
      case OP.brTable:
        return this.#branches();
      default:
        return this.#plain(at, op);
    }
  }

  #plain(at: number, op: number): void {
    const reader = this.#reader;
    const after = reader.at;
    this.#region.cost += instruction(reader, op);
    if (op >= OP.call && op <= OP.returnCallIndirect) {
      this.#region.always = true;
      this.#loosen();
    } else if (op === OP.rethrow) this.#loosen();
    const leaves = op === OP.returnCall || op === OP.returnCallIndirect || op === OP.return;
    if (leaves || op === OP.throw || op === OP.rethrow || op === OP.throwRef) this.#reach(0);
    // In whatever length it is written.
    const number = op === OP.bulk ? new Reader(this.#bytes, after, reader.at).number() : 0;
    const weight = weightOf(op, number);
    if (weight === undefined) return;
    this.#found.push({ at, weight });
    this.#loosen(); // What weighs is a call.
  }

  /** Begins a loop whose type stands at this offset. */
  #turn(typeAt: number): void {
    this.#loosen();
    const region = this.#enter(this.#region, true, TURN);
    const type = this.#bytes.subarray(typeAt, region.at);
    this.#loop = { region, depth: this.#frames.length - 1, type, isTight: true };
    this.#loops.set(region, this.#loop);
  }

  #loosen(): void {
    if (this.#loop !== undefined) this.#loop.isTight = false;
    this.#loop = undefined;
  }

  #open(): void {
    this.#frames.push({ region: this.#region, reach: this.#frames.length });
  }

  #top(): Frame {
    const top = this.#frames.at(-1);
    if (top === undefined) throw new ModuleError('The module has a function with an end too many.');
    return top;
  }

  #otherwise(): void {
    this.#enter(this.#top().region);
  }

  #close(): void {
    const { region, reach } = this.#top();
    this.#frames.pop();
    const depth = this.#frames.length;
    if (depth === this.#loop?.depth) {
      const { at } = this.#reader;
      this.#found.push({ at, of: this.#loop, charge: { at, closes: 'loop' } });
      this.#loop = undefined;
    }
    if (depth === 0) return;
    this.#reach(reach);
    // What follows runs whenever the block was entered, unless the block can be left for further out.
    if (reach < depth) this.#enter(region);
    else this.#region = region;
  }

  #reach(depth: number): void {
    const top = this.#top();
    if (depth < top.reach) top.reach = depth;
  }

  /** Reads the label of a branch. */
  #branch(): void {
    const { at } = this.#reader;
    const label = this.#reader.number();
    const depth = Math.max(0, this.#frames.length - 1 - label);
    this.#reach(depth);
    if (this.#loop === undefined || depth >= this.#loop.depth) return;
    const charge = { at, to: this.#reader.at, label: label + 1 };
    this.#found.push({ at, of: this.#loop, charge });
  }

  #branches(): void {
    const reader = this.#reader;
    const count = reader.number();
    if (count > MAX_BRANCHES) {
      throw new ModuleError(
        `The module has a br_table of ${count} targets; at most ${MAX_BRANCHES} are allowed.`,
      );
    }
    this.#region.cost += 4;
    for (let left = count + 1; left > 0; left -= 1) this.#branch();
    this.#enter(this.#region);
  }

  #catches(): void {
    const reader = this.#reader;
    for (let left = reader.count(); left > 0; left -= 1) {
      const kind = reader.byte();
      if (kind > 3) throw new ModuleError('The module has a try_table with an unknown clause.');
      if (kind < 2) reader.number();
      this.#branch();
    }
  }

  /** The charges that remain when small regions have been added to those that lead to them. */
  result(): Charge[] {
    const regions = this.#found.filter((found) => 'always' in found);
    const kept = new Set<Region>();
    for (const region of regions.toReversed()) {
      const { always, cost, from } = region;
      if (always || cost >= LARGE) kept.add(region);
      else if (from !== undefined && from.cost + cost <= FOLDED) from.cost += cost;
    }
    for (const loop of this.#loops.values()) loop.isTight &&= loop.region.cost <= TIGHT;
    return this.#found.flatMap((found): Charge[] => {
      if ('of' in found) return found.of.isTight ? [found.charge] : [];
      if (!('always' in found)) return [found];
      if (!kept.has(found)) return [];
      const { at, cost } = found;
      const loop = this.#loops.get(found);
      return [loop?.isTight === true ? { at, cost, type: loop.type } : { at, cost }];
    });
  }
}

/** Of the body between these offsets, in the order of their places. Throws ModuleError. */
export function chargesOf(bytes: Uint8Array, start: number, end: number): Charge[] {
  if (end - start > MAX_BODY_BYTES) {
    throw new ModuleError(
      `The module has a function of ${end - start} bytes; at most ${MAX_BODY_BYTES} are allowed. Split it or optimise for size.`,
    );
  }
  const body = new Body(bytes, start, end);
  body.read();
  return body.result();
}
