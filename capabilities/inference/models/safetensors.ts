/**
 * SafeTensors files: where each tensor lies, so that an ONNX graph can name it as external data without a
 * copy. Invariant: a header is believed only when its tensors fill the file exactly, without overlap.
 * Format: eight bytes little-endian, length of the header; the header as JSON; the tensors.
 */
import { open } from 'node:fs/promises';
import { NoaError } from '@noa/sdk/host';

const MAX_HEADER = 16 << 20;
const MAX_TENSORS = 65_536;
const MAX_RANK = 8;
const PREFIX = 8;

const BYTES_OF = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;

export type Dtype = keyof typeof BYTES_OF;

export interface StoredTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** From the beginning of the file. */
  readonly offset: number;
  readonly length: number;
}

export interface NewTensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView;
}

/** Length of the header that follows the first eight bytes of a file of `fileBytes`. */
function headerLength(prefix: Buffer, fileBytes: number): number {
  if (prefix.length < PREFIX) throw broken('is shorter than its first eight bytes');
  const length = prefix.readBigUInt64LE(0);
  if (length < 2n || length > BigInt(MAX_HEADER) || length > BigInt(fileBytes - PREFIX)) {
    throw broken(`says that its header has ${length} bytes, which it cannot have`);
  }
  return Number(length);
}

/**
 * The tensors by name. `head` begins with the file's beginning and holds at least its header.
 * Throws NoaError INVALID_ARGUMENT for all that is not a whole and sound file of `fileBytes` bytes.
 */
export function parseHeader(head: Buffer, fileBytes: number): ReadonlyMap<string, StoredTensor> {
  const length = headerLength(head, fileBytes);
  const base = PREFIX + length;
  if (head.length < base) throw broken('ends within its header');
  let header: unknown;
  try {
    header = JSON.parse(
      new TextDecoder('utf-8', { fatal: true }).decode(head.subarray(PREFIX, base)),
    );
  } catch (error) {
    throw broken('has a header that is not JSON', error);
  }
  if (!isRecord(header)) throw broken('has a header that is not an object');
  const entries = Object.entries(header).filter(([name]) => name !== '__metadata__');
  if (entries.length > MAX_TENSORS) throw broken(`has over ${MAX_TENSORS} tensors`);
  const tensors = entries.map(([name, value]) => [name, storedTensor(name, value, base)] as const);
  let end = base;
  for (const [name, { offset, length: bytes }] of tensors.toSorted(byPlace)) {
    if (offset !== end) throw broken(`leaves a gap or an overlap before tensor ${shown(name)}`);
    end += bytes;
  }
  if (end !== fileBytes) {
    throw broken(`has ${fileBytes} bytes where its header tells of ${end}: it was cut or added to`);
  }
  return new Map(tensors);
}

/** As `parseHeader`, of the file at `path`. */
export async function readHeader(path: string): Promise<ReadonlyMap<string, StoredTensor>> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const prefix = Buffer.alloc(Math.min(PREFIX, size));
    await file.read(prefix, 0, prefix.length, 0);
    const head = Buffer.alloc(PREFIX + headerLength(prefix, size));
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    return parseHeader(head.subarray(0, bytesRead), size);
  } finally {
    await file.close();
  }
}

/** A file of these tensors in this order; the header is padded so that they begin at a multiple of eight. */
export function writeSafetensors(
  tensors: readonly NewTensor[],
  metadata: { readonly [key: string]: string } = {},
): Buffer {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let end = 0;
  for (const { name, dtype, shape, data } of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] };
    end += data.byteLength;
  }
  const text = JSON.stringify(header);
  const bytes = Buffer.from(text + ' '.repeat((8 - (Buffer.byteLength(text) % 8)) % 8));
  const prefix = Buffer.alloc(PREFIX);
  prefix.writeBigUInt64LE(BigInt(bytes.length));
  return Buffer.concat([
    prefix,
    bytes,
    ...tensors.map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)),
  ]);
}

function storedTensor(name: string, value: unknown, base: number): StoredTensor {
  if (!isRecord(value)) throw broken(`tells nothing of tensor ${shown(name)}`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (!isDtype(dtype)) throw broken(`gives tensor ${shown(name)} an unknown dtype`);
  if (!isCounts(shape) || shape.length > MAX_RANK) {
    throw broken(`gives tensor ${shown(name)} a shape that is none`);
  }
  if (!isCounts(offsets) || offsets.length !== 2) {
    throw broken(`gives tensor ${shown(name)} no two data_offsets`);
  }
  const [from = 0, to = 0] = offsets;
  const length = shape.reduce((product, each) => product * each, BYTES_OF[dtype]);
  if (length !== to - from) {
    throw broken(`gives tensor ${shown(name)} ${to - from} bytes where its shape needs ${length}`);
  }
  return { dtype, shape, offset: base + from, length };
}

type Named = readonly [string, StoredTensor];

function byPlace([, a]: Named, [, b]: Named): number {
  return a.offset - b.offset || a.length - b.length;
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === 'string' && Object.hasOwn(BYTES_OF, value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((each) => Number.isSafeInteger(each) && each >= 0);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shown(name: string): string {
  return JSON.stringify(name.slice(0, 100));
}

function broken(how: string, cause?: unknown): NoaError {
  return new NoaError(
    'INVALID_ARGUMENT',
    `The SafeTensors file ${how}; fetch or export it again.`,
    {
      cause,
    },
  );
}
