/**
 * How the operand stack grows by an instruction that neither branches nor calls (core specification 3.0,
 * chapter 3.4). What the engine's compiler takes grows with the stack's height, so it is bounded.
 */
import { OP } from './instructions.ts';

type Range = readonly [first: number, last: number];

function within(ranges: readonly Range[], number: number): boolean {
  return ranges.some(([first, last]) => number >= first && number <= last);
}

/** Comparisons and arithmetic with two operands. */
const BINARY: readonly Range[] = [
  [0x46, 0x4f],
  [0x51, 0x66],
  [0x6a, 0x78],
  [0x7c, 0x8a],
  [0x92, 0x98],
  [0xa0, 0xa6],
];

/** Of `number` values more, for an instruction by its opcode and, behind 0xfc and 0xfd, its number. */
export function growthOf(op: number, number: number): number {
  if (op === OP.bulk) return numbered(number);
  if (op === OP.vector) return vector(number);
  if (op >= 0x36 && op <= 0x3e) return -2; // stores
  if (within(BINARY, op)) return -1;
  switch (op) {
    case 0x20: // local.get
    case OP.globalGet:
    case 0x3f: // memory.size
    case OP.i32Const:
    case OP.i64Const:
    case 0x43: // f32.const
    case 0x44: // f64.const
    case 0xd0: // ref.null
    case 0xd2: // ref.func
      return 1;
    case 0x1a: // drop
    case 0x21: // local.set
    case OP.globalSet:
      return -1;
    case 0x1b: // select
    case 0x1c:
    case 0x26: // table.set
      return -2;
    default: // One value becomes another, or none is touched.
      return 0;
  }
}

function numbered(number: number): number {
  if (number <= 7 || number === 9 || number === 13) return 0; // conversions, data.drop, elem.drop
  if (number === 16) return 1; // table.size
  return number === 15 ? -1 : -3; // table.grow; init, copy and fill
}

/** One vector becomes another or a number, or a number a vector; loads. */
const UNARY: readonly Range[] = [
  [0, 10],
  [15, 22],
  [24, 25],
  [27, 27],
  [29, 29],
  [31, 31],
  [33, 33],
  [77, 77],
  [83, 83],
  [92, 100],
  [103, 106],
  [116, 117],
  [122, 122],
  [124, 129],
  [131, 132],
  [135, 138],
  [148, 148],
  [160, 164],
  [167, 170],
  [192, 202],
  [224, 227],
  [236, 239],
  [248, 255],
  [0x101, 0x104],
];
/** Stores, and what takes three vectors. */
const TERNARY: readonly Range[] = [
  [11, 11],
  [82, 82],
  [88, 91],
  [0x105, 0x10c],
  [0x113, 0x113],
];

function vector(number: number): number {
  if (number === 12) return 1; // v128.const
  if (within(UNARY, number)) return 0;
  return within(TERNARY, number) ? -2 : -1;
}
