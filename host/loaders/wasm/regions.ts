/**
 * Decides where in a function body fuel is taken, and how much. A region is code that runs as a whole
 * once its first instruction does, branches out of it aside. Those that begin a loop's turn or hold a
 * call always charge, because whatever runs for long turns loops or calls; any other charges when it is
 * large, else the region that leads to it pays for both, or it charges when that has enough to pay. To
 * charge each basic block costs several times as much. Invariant: but for a function's small entry, no
 * region's cost is lost.
 */

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

/** A region that costs less does not charge for itself. */
const LARGE = 48;
/** What a region pays at most for small ones behind its branches; what is more charges for itself. */
const FOLDED = 64;
/** Far less than a slice: a tight loop goes on only when its turn is paid whole. */
const TIGHT = 1 << 14;

export interface Region {
  readonly at: number;
  always: boolean;
  /** The one that leads here. */
  readonly from: Region | undefined;
  cost: number;
  /** Of small regions behind its branches, which it pays beside its own. */
  folded: number;
}

/** A loop without calls and loops in it. */
export interface Tight {
  readonly region: Region;
  /** Of the loop's frame. */
  readonly depth: number;
  readonly type: Uint8Array;
  isTight: boolean;
}

/** What is done only where the loop stays tight. */
export interface Rewrite {
  readonly at: number;
  readonly of: Tight;
  readonly charge: Charge;
}

export type Found = Region | Rewrite | Charge;

/** The charges that remain when small regions have been added to those that lead to them. */
export function settle(all: readonly Found[], loops: ReadonlyMap<Region, Tight>): Charge[] {
  const kept = new Set<Region>();
  for (let index = all.length - 1; index >= 0; index -= 1) {
    const region = all[index];
    if (region === undefined || !('always' in region)) continue;
    const { always, from } = region;
    const cost = costOf(region);
    if (always || cost >= LARGE) kept.add(region);
    else if (from === undefined) continue;
    else if (from.folded + cost <= FOLDED) from.folded += cost;
    else kept.add(region);
  }
  for (const loop of loops.values()) loop.isTight &&= costOf(loop.region) <= TIGHT;
  return all.flatMap((found): Charge[] => {
    if ('of' in found) return found.of.isTight ? [found.charge] : [];
    if (!('always' in found)) return [found];
    if (!kept.has(found)) return [];
    const { at } = found;
    const cost = Math.ceil(costOf(found));
    const loop = loops.get(found);
    return [loop?.isTight === true ? { at, cost, type: loop.type } : { at, cost }];
  });
}

function costOf({ cost, folded }: Region): number {
  return cost + folded;
}
