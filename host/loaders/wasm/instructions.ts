/**
 * The instructions of WebAssembly by their opcodes: how far each reaches and what it costs. Source: the
 * binary format of the core specification 3.0 (section 5.4), and the legacy exception handling proposal.
 * Invariant: an opcode that is not known here is refused, so that nothing runs of which nobody has
 * thought. What branches is decoded by charges.ts.
 */
import { ModuleError } from './reader.ts';
import type { Reader } from './reader.ts';

export const OP = {
  unreachable: 0x00,
  block: 0x02,
  loop: 0x03,
  if: 0x04,
  else: 0x05,
  try: 0x06,
  catch: 0x07,
  throw: 0x08,
  rethrow: 0x09,
  throwRef: 0x0a,
  end: 0x0b,
  br: 0x0c,
  brIf: 0x0d,
  brTable: 0x0e,
  return: 0x0f,
  call: 0x10,
  callIndirect: 0x11,
  returnCall: 0x12,
  returnCallIndirect: 0x13,
  delegate: 0x18,
  catchAll: 0x19,
  tryTable: 0x1f,
  globalGet: 0x23,
  globalSet: 0x24,
  memoryGrow: 0x40,
  i32Const: 0x41,
  i64Const: 0x42,
  i64LtS: 0x53,
  i64Add: 0x7c,
  i64Sub: 0x7d,
  bulk: 0xfc,
  vector: 0xfd,
} as const;

/** What follows one of these in its block cannot be reached. */
export const LEAVING: ReadonlySet<number> = new Set([
  OP.unreachable,
  OP.return,
  OP.returnCall,
  OP.returnCallIndirect,
  OP.throw,
  OP.rethrow,
  OP.throwRef,
]);

/** Fuel by instruction, where it is not 1: about the machine's own instructions that it becomes. */
const FREE = 0;
/** Of a value to or from a local, or a constant: nothing once it is optimised, before that one of each. */
export const MOVE = 0.25;
const MEMORY = 2;
const CALL = 8;
const INDIRECT = 12;
const VECTOR = 2;
const BULK = 16;
/** The host is asked for the memory, and every view of it is made anew. */
const GROW = 1000;
/** The engine makes an exception and looks for who catches it. */
const THROW = 1024;
/** Dividers take many cycles, and what is not one instruction of the machine becomes several. */
const DIVIDE_I32 = 12;
const DIVIDE_I64 = 24;
const DIVIDE_FLOAT = 12;
const CONVERT = 4;
const DIVIDE_VECTOR = 24;
const LONG_VECTOR = 8;

function refuse(what: string): never {
  throw new ModuleError(`The module uses ${what}; build it without.`);
}

function memoryAccess(reader: Reader): void {
  const alignment = reader.number();
  if (alignment & 0x40) reader.number(); // The memory's index.
  reader.skipNumber();
}

/** Passes over what follows an opcode that has been read, and answers the instruction's fuel. */
export function instruction(reader: Reader, op: number): number {
  if (op >= 0x28 && op <= 0x3e) {
    memoryAccess(reader);
    return MEMORY;
  }
  if (op >= 0x45 && op <= 0xc4) return numeric(op);
  switch (op) {
    case OP.unreachable:
    case 0x01: // nop
    case 0x1a: // drop
      return FREE;
    case OP.return:
      return 1;
    case 0x20: // local.get, local.set, local.tee
    case 0x21:
    case 0x22:
    case 0xd0: // ref.null
      reader.number();
      return MOVE;
    case OP.throw:
    case OP.rethrow:
      reader.number();
      return THROW;
    case OP.throwRef:
      return THROW;
    case 0xd2: // ref.func: asks the engine
    case OP.call:
    case OP.returnCall:
      reader.number();
      return CALL;
    case OP.callIndirect:
    case OP.returnCallIndirect:
      reader.number();
      reader.number();
      return INDIRECT;
    case 0x1b: // select
    case 0xd1: // ref.is_null
      return 1;
    case 0x1c: // select of a type
      reader.valueTypes();
      return 1;
    case OP.globalGet:
    case OP.globalSet:
    case 0x3f: // memory.size
      reader.number();
      return 1;
    case 0x25: // table.get, table.set
    case 0x26:
      reader.number();
      return MEMORY;
    case OP.memoryGrow:
      reader.number();
      return GROW;
    case OP.i32Const:
    case OP.i64Const:
      reader.skipNumber();
      return MOVE;
    case 0x43: // f32.const
      reader.skip(4);
      return MOVE;
    case 0x44: // f64.const
      reader.skip(8);
      return MOVE;
    case OP.bulk:
      return numbered(reader);
    case OP.vector:
      return vector(reader);
    case 0x14:
    case 0x15:
    case 0xd3:
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xfb:
      return refuse('typed references or garbage-collected types (the GC proposal)');
    case 0xfe:
      return refuse('atomic instructions (the threads proposal)');
    default:
      return refuse(`the instruction 0x${op.toString(16)}, which this host does not know`);
  }
}

/** Comparisons, arithmetic and conversions of numbers. */
function numeric(op: number): number {
  if (op >= 0x6d && op <= 0x70) return DIVIDE_I32; // div and rem
  if (op >= 0x7f && op <= 0x82) return DIVIDE_I64;
  if (op === 0x91 || op === 0x95 || op === 0x9f || op === 0xa3) return DIVIDE_FLOAT; // sqrt and div
  return op >= 0xa8 && op <= 0xba ? CONVERT : 1;
}

/** Weights of the operand that says how much is worked on, in 1/16 of fuel. */
const BYTE = 1;
const SLOT = 64;
const PAGE = 65536;

/** What a unit of the topmost operand weighs, for the instructions whose work is by their operand. */
export function weightOf(op: number, number: number): number | undefined {
  if (op === OP.memoryGrow) return PAGE;
  if (op !== OP.bulk) return undefined;
  if (number === 8 || number === 10 || number === 11) return BYTE; // memory.init, copy, fill
  if (number === 12 || number === 14 || number === 15 || number === 17) return SLOT; // table.*
  return undefined;
}

/** Instructions behind 0xfc: saturating conversions, bulk memory and tables. */
function numbered(reader: Reader): number {
  const number = reader.number();
  if (number <= 7) return CONVERT;
  if (number > 17) refuse(`the instruction 0xfc ${number}, which this host does not know`);
  reader.number();
  if (number === 8 || number === 10 || number === 12 || number === 14) reader.number();
  return BULK;
}

/** Instructions behind 0xfd: 128-bit vectors, relaxed ones included. */
function vector(reader: Reader): number {
  const number = reader.number();
  if (number > 0x113) refuse(`the instruction 0xfd ${number}, which this host does not know`);
  if (number <= 11 || (number >= 84 && number <= 93)) memoryAccess(reader);
  if (number === 12 || number === 13) reader.skip(16);
  if ((number >= 21 && number <= 34) || (number >= 84 && number <= 91)) reader.skip(1);
  if (number === 227 || number === 231 || number === 239 || number === 243) return DIVIDE_VECTOR;
  const isShift = number >= 107 && number <= 109; // of bytes
  return isShift || number === 98 || number === 213 ? LONG_VECTOR : VECTOR; // popcnt, i64x2.mul
}
