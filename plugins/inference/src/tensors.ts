/**
 * Tensors of the Open Inference Protocol, version 2, between its JSON form and bytes
 * (https://github.com/kserve/open-inference-protocol, "Tensor Data"). Invariant: a tensor that is made has as
 * many elements as its shape says, each of them a value of its datatype.
 */
import { type Json, NoaError, type TensorData } from '@noa/sdk';
import { MAX_NUMBERS } from './embedding.ts';

export interface JsonTensor {
  name: string;
  shape: number[];
  datatype: string;
  data: Json[];
}

interface Kind {
  readonly bytes: number;
  /** Undefined: not a value of this datatype. */
  write(view: DataView, at: number, value: Json): boolean;
  read(view: DataView, at: number): Json;
}

const whole = (
  bytes: number,
  least: number,
  most: number,
  set: (view: DataView, at: number, value: number) => void,
  get: (view: DataView, at: number) => number,
): Kind => ({
  bytes,
  write: (view, at, value) => {
    if (typeof value !== 'number' || !Number.isInteger(value)) return false;
    if (value < least || value > most) return false;
    set(view, at, value);
    return true;
  },
  read: get,
});

/** Of 64 bits; JSON carries what a double holds exactly, and texts of digits what it does not. */
const long = (
  least: bigint,
  most: bigint,
  set: (view: DataView, at: number, value: bigint) => void,
  get: (view: DataView, at: number) => bigint,
): Kind => ({
  bytes: 8,
  write: (view, at, value) => {
    const digits = typeof value === 'string' || typeof value === 'number' ? `${value}` : '';
    if (!/^-?\d{1,20}$/.test(digits)) return false;
    if (typeof value === 'number' && !Number.isSafeInteger(value)) return false;
    const big = BigInt(digits);
    if (big < least || big > most) return false;
    set(view, at, big);
    return true;
  },
  read: (view, at) => {
    const big = get(view, at);
    const number = Number(big);
    return Number.isSafeInteger(number) ? number : String(big);
  },
});

const real = (
  bytes: number,
  set: (view: DataView, at: number, value: number) => void,
  get: (view: DataView, at: number) => number,
): Kind => ({
  bytes,
  write: (view, at, value) => {
    if (typeof value !== 'number') return false;
    set(view, at, value);
    return true;
  },
  // JSON has no NaN and no infinity.
  read: (view, at) => {
    const value = get(view, at);
    return Number.isFinite(value) ? value : null;
  },
});

const KINDS: { readonly [datatype: string]: Kind } = {
  BOOL: {
    bytes: 1,
    write: (view, at, value) => {
      if (typeof value !== 'boolean' && value !== 0 && value !== 1) return false;
      view.setUint8(at, Number(value));
      return true;
    },
    read: (view, at) => view.getUint8(at) !== 0,
  },
  UINT8: whole(
    1,
    0,
    255,
    (v, at, x) => v.setUint8(at, x),
    (v, at) => v.getUint8(at),
  ),
  INT8: whole(
    1,
    -128,
    127,
    (v, at, x) => v.setInt8(at, x),
    (v, at) => v.getInt8(at),
  ),
  UINT16: whole(
    2,
    0,
    0xffff,
    (v, at, x) => v.setUint16(at, x, true),
    (v, at) => v.getUint16(at, true),
  ),
  INT16: whole(
    2,
    -0x8000,
    0x7fff,
    (v, at, x) => v.setInt16(at, x, true),
    (v, at) => v.getInt16(at, true),
  ),
  UINT32: whole(
    4,
    0,
    2 ** 32 - 1,
    (v, at, x) => v.setUint32(at, x, true),
    (v, at) => v.getUint32(at, true),
  ),
  INT32: whole(
    4,
    -(2 ** 31),
    2 ** 31 - 1,
    (v, at, x) => v.setInt32(at, x, true),
    (v, at) => v.getInt32(at, true),
  ),
  UINT64: long(
    0n,
    2n ** 64n - 1n,
    (v, at, x) => v.setBigUint64(at, x, true),
    (v, at) => v.getBigUint64(at, true),
  ),
  INT64: long(
    -(2n ** 63n),
    2n ** 63n - 1n,
    (v, at, x) => v.setBigInt64(at, x, true),
    (v, at) => v.getBigInt64(at, true),
  ),
  FP16: real(
    2,
    (v, at, x) => v.setFloat16(at, x, true),
    (v, at) => v.getFloat16(at, true),
  ),
  FP32: real(
    4,
    (v, at, x) => v.setFloat32(at, x, true),
    (v, at) => v.getFloat32(at, true),
  ),
  FP64: real(
    8,
    (v, at, x) => v.setFloat64(at, x, true),
    (v, at) => v.getFloat64(at, true),
  ),
};

/** Throws INVALID_ARGUMENT that names the tensor. */
export function toTensor({ name, shape, datatype, data }: JsonTensor): TensorData {
  const flat: Json[] = flatten(data);
  const count = shape.reduce((product, size) => product * size, 1);
  if (flat.length !== count) {
    const text = `has ${flat.length} elements, and its shape [${shape.join(', ')}] says ${count}`;
    throw wrong(name, text);
  }
  if (datatype === 'BYTES') return { name, shape, datatype, data: bytesOf(name, flat) };
  const kind = KINDS[datatype];
  if (kind === undefined) {
    throw wrong(name, `datatype is one of ${[...Object.keys(KINDS), 'BYTES'].join(', ')}`);
  }
  const bytes = new Uint8Array(count * kind.bytes);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of flat.entries()) {
    if (!kind.write(view, i * kind.bytes, value)) {
      throw wrong(name, `element ${i} is no ${datatype}: ${JSON.stringify(value).slice(0, 60)}`);
    }
  }
  return { name, shape, datatype, data: bytes };
}

/** Any nesting of arrays, in row-major order. */
export function flatten(data: readonly Json[]): Json[] {
  return data.flatMap((each) => (Array.isArray(each) ? flatten(each) : [each]));
}

/** Flat, in row-major order. Throws INVALID_ARGUMENT when these are more than an answer holds. */
export function fromTensors(tensors: readonly TensorData[]): JsonTensor[] {
  const counts = tensors.map(({ shape }) => shape.reduce((product, size) => product * size, 1));
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total > MAX_NUMBERS) {
    const text = `the answer would hold ${total} elements, over ${MAX_NUMBERS}`;
    throw new NoaError('INVALID_ARGUMENT', `inputs: ${text}; send fewer at a time`);
  }
  return tensors.map(fromTensor);
}

function fromTensor({ name, shape, datatype, data }: TensorData): JsonTensor {
  if (datatype === 'BYTES') return { name, shape, datatype, data: textsOf(data) };
  const kind = KINDS[datatype];
  if (kind === undefined) throw new TypeError(`a model answered with the datatype ${datatype}`);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const count = data.byteLength / kind.bytes;
  return {
    name,
    shape,
    datatype,
    data: Array.from({ length: count }, (_, i) => kind.read(view, i * kind.bytes)),
  };
}

/** Each with its length before it, 32 bits, little-endian ("Binary Tensor Data" of the protocol). */
function bytesOf(name: string, texts: readonly Json[]): Uint8Array {
  const parts = texts.map((text, i) => {
    if (typeof text !== 'string') throw wrong(name, `element ${i} is no text`);
    const bytes = Buffer.from(text);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    return Buffer.concat([length, bytes]);
  });
  return Buffer.concat(parts);
}

function textsOf(data: Uint8Array): string[] {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const texts: string[] = [];
  for (let at = 0; at + 4 <= bytes.length;) {
    const end = at + 4 + bytes.readUInt32LE(at);
    texts.push(bytes.toString('utf8', at + 4, end));
    at = end;
  }
  return texts;
}

function wrong(name: string, text: string): NoaError {
  return new NoaError(
    'INVALID_ARGUMENT',
    `inputs: tensor ${JSON.stringify(name.slice(0, 64))}: ${text}`,
  );
}
