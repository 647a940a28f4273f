/**
 * Tensors of the Open Inference Protocol v2 to those of the runtime and back. Invariant: a tensor whose name,
 * datatype, shape and number of bytes do not agree with the model and each other never reaches the runtime.
 */
import { NoaError } from '@noa/sdk/host';
import type { InferenceSession, Tensor as RuntimeTensor } from 'onnxruntime-node';
import type { Tensor, TensorForm } from '../backend.ts';

type RuntimeType = RuntimeTensor.Type;
type TensorClass = typeof RuntimeTensor;

const MAX_ELEMENTS = 1 << 28;

interface Datatype {
  readonly type: RuntimeType;
  readonly bytes: number;
}

const DATATYPES: ReadonlyMap<string, Datatype> = new Map([
  ['BOOL', { type: 'bool', bytes: 1 }],
  ['UINT8', { type: 'uint8', bytes: 1 }],
  ['UINT16', { type: 'uint16', bytes: 2 }],
  ['UINT32', { type: 'uint32', bytes: 4 }],
  ['UINT64', { type: 'uint64', bytes: 8 }],
  ['INT8', { type: 'int8', bytes: 1 }],
  ['INT16', { type: 'int16', bytes: 2 }],
  ['INT32', { type: 'int32', bytes: 4 }],
  ['INT64', { type: 'int64', bytes: 8 }],
  ['FP16', { type: 'float16', bytes: 2 }],
  ['FP32', { type: 'float32', bytes: 4 }],
  ['FP64', { type: 'float64', bytes: 8 }],
]);

/** What a session takes or gives, in the protocol's words. */
export function formsOf(metadata: readonly InferenceSession.ValueMetadata[]): TensorForm[] {
  return metadata.map((each) => {
    if (!each.isTensor) return { name: each.name, shape: [], datatype: 'BYTES' };
    const datatype = [...DATATYPES].find(([, { type }]) => type === each.type)?.[0] ?? 'BYTES';
    const shape = each.shape.map((size) => (typeof size === 'number' && size >= 0 ? size : -1));
    return { name: each.name, shape, datatype };
  });
}

/** Throws NoaError INVALID_ARGUMENT with what is wrong and what `expected` wants. */
export function toRuntime(
  tensors: readonly Tensor[],
  expected: readonly TensorForm[],
  Runtime: TensorClass,
): Record<string, RuntimeTensor> {
  const feeds: Record<string, RuntimeTensor> = {};
  for (const tensor of tensors) {
    const form = expected.find(({ name }) => name === tensor.name);
    if (form === undefined) {
      throw invalid(
        tensor.name,
        `is no input; there are ${expected.map(({ name }) => name).join(', ')}`,
      );
    }
    if (Object.hasOwn(feeds, tensor.name)) throw invalid(tensor.name, 'is given twice');
    feeds[tensor.name] = checked(tensor, form, Runtime);
  }
  for (const { name } of expected) {
    if (!Object.hasOwn(feeds, name)) throw invalid(name, 'is missing');
  }
  return feeds;
}

function checked(tensor: Tensor, form: TensorForm, Runtime: TensorClass): RuntimeTensor {
  const { name, shape, datatype, data } = tensor;
  if (datatype !== form.datatype)
    throw invalid(name, `is ${datatype} and must be ${form.datatype}`);
  const fits =
    shape.length === form.shape.length &&
    shape.every((size, at) => form.shape[at] === -1 || form.shape[at] === size);
  if (!fits)
    throw invalid(
      name,
      `has the shape [${shape.join()}] and must have [${form.shape.join()}] (-1: any)`,
    );
  if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw invalid(name, 'has a dimension that is no count');
  }
  // The runtime ends its process over some graphs that are given none.
  if (shape[0] === 0) throw invalid(name, 'has no rows; give it one or more');
  const count = shape.reduce((product, size) => product * size, 1);
  if (count > MAX_ELEMENTS) throw invalid(name, `has over ${MAX_ELEMENTS} elements`);
  if (datatype === 'BYTES')
    return new Runtime('string', readStrings(name, data, count), [...shape]);
  const known = DATATYPES.get(datatype);
  if (known === undefined) throw invalid(name, `is ${datatype}, which no local model takes`);
  if (data.byteLength !== count * known.bytes) {
    throw invalid(
      name,
      `has ${data.byteLength} bytes where [${shape.join()}] needs ${count * known.bytes}`,
    );
  }
  const elements = elementsOf(known.type, data);
  if (/(^|_)ids?$/.test(name) && hasNegative(elements)) {
    throw invalid(name, 'holds a negative id');
  }
  return new Runtime(known.type, elements, [...shape]);
}

/** Outputs as the protocol's tensors. */
export function fromRuntime(name: string, tensor: RuntimeTensor): Tensor {
  const shape = [...tensor.dims];
  const { data } = tensor;
  if (Array.isArray(data)) {
    return { name, shape, datatype: 'BYTES', data: writeStrings(data) };
  }
  const datatype = [...DATATYPES].find(([, { type }]) => type === tensor.type)?.[0];
  if (datatype === undefined) {
    throw new NoaError(
      'INVALID_ARGUMENT',
      `Output ${name} is ${tensor.type}, which has no datatype.`,
    );
  }
  const view = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { name, shape, datatype, data: view.slice() };
}

type Elements =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;

/** A copy, aligned. */
function elementsOf(type: RuntimeType, data: Uint8Array): Elements {
  const { buffer } = data.slice();
  switch (type) {
    case 'uint16':
    case 'float16':
      return new Uint16Array(buffer);
    case 'uint32':
      return new Uint32Array(buffer);
    case 'uint64':
      return new BigUint64Array(buffer);
    case 'int8':
      return new Int8Array(buffer);
    case 'int16':
      return new Int16Array(buffer);
    case 'int32':
      return new Int32Array(buffer);
    case 'int64':
      return new BigInt64Array(buffer);
    case 'float32':
      return new Float32Array(buffer);
    case 'float64':
      return new Float64Array(buffer);
    default:
      return new Uint8Array(buffer);
  }
}

function hasNegative(elements: Elements): boolean {
  for (const each of elements) if (each < 0) return true;
  return false;
}

/** Each is four bytes little-endian, its length, and UTF-8. */
function readStrings(name: string, data: Uint8Array, count: number): string[] {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const strings: string[] = [];
  let at = 0;
  while (at < bytes.length) {
    const length = at + 4 <= bytes.length ? bytes.readUInt32LE(at) : Number.POSITIVE_INFINITY;
    if (at + 4 + length > bytes.length) throw invalid(name, 'ends within an element');
    strings.push(bytes.toString('utf8', at + 4, at + 4 + length));
    at += 4 + length;
  }
  if (strings.length !== count) throw invalid(name, `has ${strings.length} elements, not ${count}`);
  return strings;
}

function writeStrings(strings: readonly string[]): Uint8Array {
  return Buffer.concat(
    strings.flatMap((each) => {
      const text = Buffer.from(each);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(text.length);
      return [length, text];
    }),
  );
}

function invalid(name: string, problem: string): NoaError {
  return new NoaError(
    'INVALID_ARGUMENT',
    `Tensor ${JSON.stringify(name.slice(0, 100))} ${problem}.`,
  );
}
