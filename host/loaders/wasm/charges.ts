/**
 * Decodes a function body into the regions of code that fuel is taken for, and what each costs: its
 * instructions and the values that it moves. Invariants: what a body costs depends on its bytes and the
 * types of what it calls alone; it is decoded in linear time, or refused by ModuleError.
 */
import { LEAVING, MOVE, OP, instruction, weightOf } from './instructions.ts';
import { growthOf } from './operands.ts';
import { ModuleError, Reader } from './reader.ts';
import { settle } from './regions.ts';
import type { Charge, Found, Region, Tight } from './regions.ts';
import { NOTHING, arityOf, blockArity } from './signatures.ts';
import type { Arity, Signatures } from './signatures.ts';

/** Of each turn of a loop, besides its instructions. */
const TURN = 2;
/** Of a local, which is zero at the entry. */
const CLEARED = 1 / 16;
/** Of a value that an exception carries: it is taken apart, and put together where it is caught. */
const CARRIED = 16;

const MAX_BODY_BYTES = 1 << 20;
const MAX_LOCALS = 10_000;
const MAX_BRANCHES = 1 << 14;
/** Of one function: regions, and what else charging it may change. */
const MAX_PLACES = 1 << 17;
/** The engine's compiler keeps what it knows of each local and operand at each of them. */
const MAX_STATES = 1 << 23;
/** A call only looks at them. */
const KEPT_BY_CALL = 1 / 16;

interface Frame {
  /** The region in which the block stands. */
  readonly region: Region;
  /** Values that a branch to it moves, and those that its end does. */
  readonly label: number;
  readonly results: number;
  readonly params: number;
  /** Operands below the block's own. */
  readonly base: number;
  /** The outermost frame to which code in this one branches, by its depth from the function's own. */
  reach: number;
}

class Body {
  readonly #found: Found[] = [];
  /** By the region of its turn. */
  readonly #loops = new Map<Region, Tight>();
  /** The innermost loop that may be tight. */
  #loop: Tight | undefined;
  readonly #reader: Reader;
  readonly #bytes: Uint8Array;
  readonly #signatures: Signatures;
  /** Values that the function gives. */
  readonly #results: number;
  readonly #locals: number;
  /** Operands on the stack, those of the frames outside included. */
  #height = 0;
  /** Locals and operands at each place so far. */
  #states = 0;
  readonly #frames: Frame[] = [];
  #region: Region;

  constructor({ bytes, start, end, signatures, index }: FunctionBody) {
    this.#bytes = bytes;
    this.#signatures = signatures;
    const { params, results } = arityOf(signatures, signatures.functions[index]);
    this.#results = results;
    this.#reader = new Reader(bytes, start, end);
    const locals = this.#skipLocals();
    this.#locals = params + locals;
    this.#region = this.#enter(undefined, false, locals * CLEARED);
  }

  #skipLocals(): number {
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
    return locals;
  }

  #add(found: Found): void {
    if (this.#found.length === MAX_PLACES) {
      throw new ModuleError(
        `The module has a function with more than ${MAX_PLACES} loops, calls and branches; split it.`,
      );
    }
    this.#keep(1);
    this.#found.push(found);
  }

  #keep(part: number): void {
    this.#states += part * (this.#locals + this.#height);
    if (this.#states > MAX_STATES) {
      throw new ModuleError(
        `The module has a function whose locals and operands, added up over its loops, calls and branches, are more than ${MAX_STATES}; split it or optimise for size.`,
      );
    }
  }

  #enter(from: Region | undefined, always = false, cost = 0): Region {
    this.#region = { at: this.#reader.at, always, from, cost, folded: 0 };
    this.#add(this.#region);
    return this.#region;
  }

  read(): Charge[] {
    const reader = this.#reader;
    this.#open({ params: 0, results: this.#results }, false);
    while (this.#frames.length > 0) {
      const at = reader.at;
      this.#step(at, reader.byte());
    }
    if (!reader.done) throw new ModuleError('The module has a function that ends before its body.');
    return settle(this.#found, this.#loops);
  }

  #step(at: number, op: number): void {
    const reader = this.#reader;
    switch (op) {
      case OP.block:
        return this.#open(this.#blockType(), false);
      case OP.try:
        this.#loosen();
        return this.#open(this.#blockType(), false);
      case OP.tryTable:
        this.#loosen();
        this.#open(this.#blockType(), false);
        return this.#catches();
      case OP.loop: {
        const type = this.#blockType();
        this.#open(type, true);
        return this.#turn(at + 1, type.params);
      }
      case OP.if:
        this.#region.cost += 1;
        this.#grow(-1);
        this.#open(this.#blockType(), false);
        return void this.#enter(this.#region);
      case OP.catch: {
        const carried = this.#carried(reader.number());
        this.#otherwise(carried);
        this.#region.cost += CARRIED * carried;
        return;
      }
      case OP.else:
        return this.#otherwise(this.#top().params);
      case OP.catchAll:
        return this.#otherwise(0);
      case OP.delegate:
        reader.number();
        return this.#close();
      case OP.end:
        return this.#close();
      case OP.br:
      case OP.brIf:
        if (op === OP.brIf) this.#grow(-1);
        this.#region.cost += 1 + MOVE * this.#branch();
        if (op === OP.br) this.#height = this.#top().base;
        return void this.#enter(this.#region);
      case OP.brTable:
        return this.#branches();
      default:
        return this.#plain(at, op);
    }
  }

  #blockType(): Arity {
    return blockArity(this.#signatures, this.#reader.blockType());
  }

  /** How many values the exceptions with this tag carry. */
  #carried(tag: number): number {
    return arityOf(this.#signatures, this.#signatures.tags[tag]).params;
  }

  /** Of a call, by its operand that is read at `after`; of anything else nothing. */
  #called(op: number, after: number): Arity {
    if (op < OP.call || op > OP.returnCallIndirect) return NOTHING;
    const operand = new Reader(this.#bytes, after, this.#reader.at).number();
    const isDirect = op === OP.call || op === OP.returnCall;
    return arityOf(this.#signatures, isDirect ? this.#signatures.functions[operand] : operand);
  }

  #plain(at: number, op: number): void {
    const reader = this.#reader;
    const after = reader.at;
    this.#region.cost += instruction(reader, op);
    // In whatever length it is written.
    const operand = (): number => new Reader(this.#bytes, after, reader.at).number();
    const number = op === OP.bulk || op === OP.vector ? operand() : 0;
    const { params, results } = this.#called(op, after);
    this.#region.cost += params + results;
    this.#grow(-params);
    if (op === OP.callIndirect) this.#grow(-1);
    this.#grow(results + growthOf(op, number));
    if (op >= OP.call && op <= OP.returnCallIndirect) {
      this.#region.always = true;
      this.#keep(KEPT_BY_CALL);
      this.#loosen();
    } else if (op === OP.rethrow) this.#loosen();
    else if (op === OP.throw) this.#region.cost += CARRIED * this.#carried(operand());
    else if (op === OP.return) this.#region.cost += this.#results;
    if (LEAVING.has(op)) {
      this.#reach(0);
      this.#height = this.#top().base;
    }
    const weight = weightOf(op, number);
    if (weight === undefined) return;
    this.#add({ at, weight });
    this.#loosen(); // What weighs is a call.
  }

  /** Below its base no block takes anything: what cannot be reached may do as if. */
  #grow(by: number): void {
    this.#height = Math.max(this.#top().base, this.#height + by);
  }

  /** Begins a loop whose type stands at this offset. */
  #turn(typeAt: number, params: number): void {
    this.#loosen();
    const region = this.#enter(this.#region, true, TURN + MOVE * params);
    const type = this.#bytes.subarray(typeAt, region.at);
    this.#loop = { region, depth: this.#frames.length - 1, type, isTight: true };
    this.#loops.set(region, this.#loop);
  }

  #loosen(): void {
    if (this.#loop !== undefined) this.#loop.isTight = false;
    this.#loop = undefined;
  }

  #open({ params, results }: Arity, isLoop: boolean): void {
    const reach = this.#frames.length;
    const label = isLoop ? params : results;
    const base = Math.max(this.#frames.at(-1)?.base ?? 0, this.#height - params);
    this.#frames.push({ region: this.#region, reach, label, results, params, base });
    this.#height = base + params;
  }

  #top(): Frame {
    const top = this.#frames.at(-1);
    if (top === undefined) throw new ModuleError('The module has a function with an end too many.');
    return top;
  }

  /** Begins another arm of a block, with so many operands. */
  #otherwise(operands: number): void {
    const { region, results, base } = this.#top();
    this.#region.cost += MOVE * results;
    this.#height = base + operands;
    this.#enter(region);
  }

  #close(): void {
    const { region, reach, results, base } = this.#top();
    this.#region.cost += MOVE * results;
    this.#frames.pop();
    this.#height = base + results;
    const depth = this.#frames.length;
    if (depth === this.#loop?.depth) {
      const { at } = this.#reader;
      this.#add({ at, of: this.#loop, charge: { at, closes: 'loop' } });
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

  /** Reads the label of a branch; answers how many values it moves. */
  #branch(): number {
    const { at } = this.#reader;
    const label = this.#reader.number();
    const depth = Math.max(0, this.#frames.length - 1 - label);
    this.#reach(depth);
    if (this.#loop !== undefined && depth < this.#loop.depth) {
      const charge = { at, to: this.#reader.at, label: label + 1 };
      this.#add({ at, of: this.#loop, charge });
    }
    return this.#frames[depth]?.label ?? 0;
  }

  #branches(): void {
    const reader = this.#reader;
    const count = reader.number();
    if (count > MAX_BRANCHES) {
      throw new ModuleError(
        `The module has a br_table of ${count} targets; at most ${MAX_BRANCHES} are allowed.`,
      );
    }
    this.#grow(-1);
    let moved = 0;
    for (let left = count + 1; left > 0; left -= 1) moved = this.#branch();
    this.#region.cost += 4 + MOVE * moved;
    this.#height = this.#top().base;
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
}

/** Of which module and where the body stands, and whose it is. */
export interface FunctionBody {
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly end: number;
  readonly signatures: Signatures;
  /** Of the function, imports first. */
  readonly index: number;
}

/** In the order of their places. Throws ModuleError. */
export function chargesOf(of: FunctionBody): Charge[] {
  const bytes = of.end - of.start;
  if (bytes > MAX_BODY_BYTES) {
    throw new ModuleError(
      `The module has a function of ${bytes} bytes; at most ${MAX_BODY_BYTES} are allowed. Split it or optimise for size.`,
    );
  }
  return new Body(of).read();
}
