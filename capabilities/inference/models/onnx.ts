/**
 * Writes ONNX graphs for architectures that this host knows, so that weights in SafeTensors run as they lie.
 * Field numbers are those of onnx.proto3 (IR version 8). Invariant: what is written holds no weights but
 * small constants; the rest is external data in a file beside it.
 */
import type { Dtype, StoredTensor } from './safetensors.ts';

const OPSET = 17;
const IR_VERSION = 8;

/** `TensorProto.DataType`. */
const TYPE = { F32: 1, U8: 2, I8: 3, I64: 7, F16: 10 } as const;
type GraphType = keyof typeof TYPE;

type Attribute = number | readonly number[] | { readonly float: number };
/** A number, or the name of a dimension that may be any. */
type Dimension = number | string;

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

const int = (field: number, value: number): Buffer =>
  Buffer.concat([varint(field << 3), varint(value)]);

function bytes(field: number, content: string | Uint8Array): Buffer {
  const body = typeof content === 'string' ? Buffer.from(content) : content;
  return Buffer.concat([varint((field << 3) | 2), varint(body.length), body]);
}

function float(field: number, value: number): Buffer {
  const body = Buffer.alloc(4);
  body.writeFloatLE(value);
  return Buffer.concat([varint((field << 3) | 5), body]);
}

function attribute(name: string, value: Attribute): Buffer {
  const FLOAT = 1;
  const INT = 2;
  const INTS = 7;
  if (typeof value === 'number')
    return Buffer.concat([bytes(1, name), int(3, value), int(20, INT)]);
  if ('float' in value) {
    return Buffer.concat([bytes(1, name), float(2, value.float), int(20, FLOAT)]);
  }
  return Buffer.concat([bytes(1, name), ...value.map((each) => int(8, each)), int(20, INTS)]);
}

function valueInfo(name: string, type: GraphType, shape: readonly Dimension[]): Buffer {
  const dimensions = shape.map((each) =>
    bytes(1, typeof each === 'string' ? bytes(2, each) : int(1, each)),
  );
  const tensor = Buffer.concat([int(1, TYPE[type]), bytes(2, Buffer.concat(dimensions))]);
  return Buffer.concat([bytes(1, name), bytes(2, bytes(1, tensor))]);
}

/** A graph under construction; every step answers the name of its result. */
export class Graph {
  readonly #nodes: Buffer[] = [];
  readonly #initializers: Buffer[] = [];
  readonly #inputs: Buffer[] = [];
  readonly #outputs: Buffer[] = [];
  readonly #external = new Set<string>();
  readonly #location: string;
  readonly #weights: ReadonlyMap<string, StoredTensor>;
  #names = 0;
  #contributed = false;

  /** `weights` lie in the file `location` in the folder of the graph. */
  constructor(location: string, weights: ReadonlyMap<string, StoredTensor>) {
    this.#location = location;
    this.#weights = weights;
  }

  input(name: string, type: GraphType, shape: readonly Dimension[]): string {
    this.#inputs.push(valueInfo(name, type, shape));
    return name;
  }

  output(name: string, value: string, type: GraphType, shape: readonly Dimension[]): void {
    this.#node('Identity', [value], [name]);
    this.#outputs.push(valueInfo(name, type, shape));
  }

  op(
    operator: string,
    inputs: readonly string[],
    attributes: { readonly [name: string]: Attribute } = {},
  ): string {
    const name = this.#name();
    this.#node(operator, inputs, [name], attributes);
    return name;
  }

  split(value: string, sizes: readonly number[], axis: number): string[] {
    const names = sizes.map(() => this.#name());
    this.#node('Split', [value, this.ints(sizes)], names, { axis });
    return names;
  }

  /** An operator of the runtime's own domain. */
  contributed(operator: string, inputs: readonly string[]): string {
    const name = this.#name();
    this.#contributed = true;
    this.#node(operator, inputs, [name], {}, 'com.microsoft');
    return name;
  }

  byte(value: number): string {
    return this.#constant('U8', [], Buffer.from([value]));
  }

  floats(value: number): string {
    const data = Buffer.alloc(4);
    data.writeFloatLE(value);
    return this.#constant('F32', [], data);
  }

  /** A vector; a lone number is a scalar. */
  ints(values: number | readonly number[]): string {
    const list = typeof values === 'number' ? [values] : values;
    const data = Buffer.alloc(list.length * 8);
    list.forEach((each, at) => data.writeBigInt64LE(BigInt(each), at * 8));
    return this.#constant('I64', typeof values === 'number' ? [] : [list.length], data);
  }

  /** A tensor of the weights as it is stored. */
  stored(name: string): string {
    const tensor = this.tensor(name);
    if (this.#external.has(name)) return name;
    this.#external.add(name);
    const where = { location: this.#location, offset: tensor.offset, length: tensor.length };
    this.#initializers.push(
      Buffer.concat([
        ...tensor.shape.map((each) => int(1, each)),
        int(2, TYPE[graphType(tensor.dtype)]),
        bytes(8, name),
        ...Object.entries(where).map(([key, value]) =>
          bytes(13, Buffer.concat([bytes(1, key), bytes(2, String(value))])),
        ),
        int(14, 1),
      ]),
    );
    return name;
  }

  /** A tensor of the weights as 32-bit floats. */
  weight(name: string): string {
    const stored = this.stored(name);
    return this.tensor(name).dtype === 'F32' ? stored : this.toFloat(stored);
  }

  toFloat(value: string): string {
    return this.op('Cast', [value], { to: TYPE.F32 });
  }

  tensor(name: string): StoredTensor {
    const tensor = this.#weights.get(name);
    if (tensor === undefined) throw new Error(`the weights hold no tensor ${name}`);
    return tensor;
  }

  build(): Buffer {
    const graph = Buffer.concat([
      ...this.#nodes.map((each) => bytes(1, each)),
      bytes(2, 'noa'),
      ...this.#initializers.map((each) => bytes(5, each)),
      ...this.#inputs.map((each) => bytes(11, each)),
      ...this.#outputs.map((each) => bytes(12, each)),
    ]);
    const domains = [bytes(8, Buffer.concat([bytes(1, ''), int(2, OPSET)]))];
    if (this.#contributed) {
      domains.push(bytes(8, Buffer.concat([bytes(1, 'com.microsoft'), int(2, 1)])));
    }
    return Buffer.concat([int(1, IR_VERSION), bytes(2, 'noa'), ...domains, bytes(7, graph)]);
  }

  #node(
    operator: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: { readonly [name: string]: Attribute } = {},
    domain = '',
  ): void {
    this.#nodes.push(
      Buffer.concat([
        ...inputs.map((each) => bytes(1, each)),
        ...outputs.map((each) => bytes(2, each)),
        bytes(3, `${operator}_${outputs[0]}`),
        bytes(4, operator),
        ...Object.entries(attributes).map(([name, value]) => bytes(5, attribute(name, value))),
        bytes(7, domain),
      ]),
    );
  }

  #constant(type: GraphType, shape: readonly number[], data: Buffer): string {
    const name = this.#name();
    this.#initializers.push(
      Buffer.concat([
        ...shape.map((each) => int(1, each)),
        int(2, TYPE[type]),
        bytes(8, name),
        bytes(9, data),
      ]),
    );
    return name;
  }

  #name(): string {
    this.#names += 1;
    return `v${this.#names}`;
  }
}

function graphType(dtype: Dtype): GraphType {
  if (dtype === 'F32' || dtype === 'F16' || dtype === 'I8' || dtype === 'I64') return dtype;
  throw new Error(`a graph takes no weights of ${dtype}`);
}
