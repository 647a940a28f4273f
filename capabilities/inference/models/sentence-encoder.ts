/**
 * The Universal Sentence Encoder lite (Cer et al. 2018; Apache-2.0) as a dense ONNX graph: from the shards of
 * its TensorFlow.js release to named weights, and from these the graph. Two transformer layers of four heads,
 * mean over the tokens, one dense layer with tanh, unit length.
 */
import { Graph } from './onnx.ts';
import type { NewTensor, StoredTensor } from './safetensors.ts';

export const DIMENSIONS = 512;
export const MAX_TOKENS = 128;
const HEADS = 4;
/** Width of each layer: the embeddings', then the output's. */
const WIDTHS = [256, 512] as const;
/** Weights of eight bits are kept to seven, because sums of products may saturate on older processors. */
const WEIGHT_LEVELS = 63;
const EMBEDDING_LEVELS = 127;
/**
 * What enters each matrix of eight bits is cut beyond so much. The bounds are constants, for a vector shall not
 * depend on what it is computed with; these bring most texts of WordNet and of technical documentation closest
 * to their vectors of 16 bits (cosine .998 in the mean, .994 at the least).
 */
const PEAKS: { readonly [matrix: string]: number } = {
  'layers.0.residual': 2.16,
  'layers.0.qkv': 2.2,
  'layers.0.out': 4.56,
  'layers.0.fc1': 3,
  'layers.0.fc2': 7.6,
  'layers.1.qkv': 2.3,
  'layers.1.out': 4.2,
  'layers.1.fc1': 6.4,
  'layers.1.fc2': 20.4,
};
/** Smaller ones stay as they are. */
const WORTH_SHRINKING = 1000;

export type Precision = 'f16' | 'q8';

interface ShardedWeight {
  readonly name: string;
  readonly shape: readonly number[];
}

interface Weight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** Our name of each weight, and its name in the release. */
function sources(): [name: string, source: string][] {
  const applied = 'module_apply_default/Encoder_en/KonaTransformer/Encode/';
  const stored = 'module/Encoder_en/KonaTransformer/Encode/';
  const concat = 'ConcatPartitions/concat';
  const tanh = 'module/Encoder_en/hidden_layers/tanh_layer_0/';
  const timing = 'TransformerStack/Layer_0/AddTimingSignal/TimingSignal/ExpandDims_1';
  const list: [string, string][] = [
    ['embeddings', 'module/Embeddings_en'],
    ['timing', applied + timing],
    ['layers.0.residual.weight', `${applied}Layer_0/TransformerLayer/dense/kernel/${concat}`],
    ['layers.0.residual.bias', `${applied}Layer_0/TransformerLayer/dense/bias/${concat}`],
    ['pooler.weight', `${tanh}weights`],
    ['pooler.bias', `${tanh}bias`],
  ];
  for (const index of WIDTHS.keys()) {
    const layer = `${applied}Layer_${index}/TransformerLayer/`;
    const kernels = `${stored}Layer_${index}/TransformerLayer/MultiheadAttention/`;
    const stack = `${applied}TransformerStack/Layer_${index}/TransformerLayer/FFN/`;
    const norm = 'layer_prepostprocess/layer_norm/layer_norm_';
    const to = `layers.${index}.`;
    list.push(
      [`${to}ln1.weight`, `${layer}${norm}scale/${concat}`],
      [`${to}ln1.bias`, `${layer}${norm}bias/${concat}`],
      [`${to}qkv.weight`, `${kernels}qkv_transform_single/kernel/part_0`],
      [`${to}qkv.bias`, `${layer}MultiheadAttention/qkv_transform_single/bias/${concat}`],
      [`${to}out.weight`, `${kernels}output_transform_single/kernel/part_0`],
      [`${to}out.bias`, `${layer}MultiheadAttention/output_transform_single/bias/${concat}`],
      [`${to}ln2.weight`, `${layer}FFN/${norm}scale/${concat}`],
      [`${to}ln2.bias`, `${layer}FFN/${norm}bias/${concat}`],
      [`${to}fc1.weight`, `${stack}conv1/Tensordot/Reshape_1`],
      [`${to}fc1.bias`, `${layer}FFN/conv1/bias/${concat}`],
      [`${to}fc2.weight`, `${stack}conv2/Tensordot/Reshape_1`],
      [`${to}fc2.bias`, `${layer}FFN/conv2/bias/${concat}`],
    );
  }
  return list;
}

/** The weights by our names. `shards` are the release's shards one after another: 32-bit floats in the order of `listed`. */
export function readShards(listed: readonly ShardedWeight[], shards: Buffer): Weight[] {
  const places = new Map<string, { shape: readonly number[]; from: number; to: number }>();
  let end = 0;
  for (const { name, shape } of listed) {
    const bytes = shape.reduce((product, each) => product * each, 4);
    places.set(name, { shape, from: end, to: end + bytes });
    end += bytes;
  }
  if (end !== shards.length) throw new Error(`the shards have ${shards.length} bytes, not ${end}`);
  return sources().map(([name, source]) => {
    const place = places.get(source);
    if (place === undefined) throw new Error(`the release holds no weight ${source}`);
    const values = new Float32Array((place.to - place.from) / 4);
    Buffer.from(values.buffer).set(shards.subarray(place.from, place.to));
    // Kernels of convolutions of size 1 × 1 are matrices.
    const shape = place.shape.length === 4 ? place.shape.slice(2) : place.shape;
    return { name, shape, values };
  });
}

/** The weights as they are to be stored. */
export function store(weights: readonly Weight[], precision: Precision): NewTensor[] {
  return weights.flatMap(({ name, shape, values }): NewTensor[] => {
    if (shape.length !== 2 || values.length <= WORTH_SHRINKING) {
      return [{ name, dtype: 'F32', shape, data: values }];
    }
    const byRow = name === 'embeddings';
    if (precision === 'f16' || !(byRow || matrixOf(name) in PEAKS)) {
      return [{ name, dtype: 'F16', shape, data: new Float16Array(values) }];
    }
    const [rows = 0, columns = 0] = shape;
    const { levels, scales } = quantize(values, rows, columns, byRow);
    return [
      { name: `${name}.levels`, dtype: 'I8', shape, data: levels },
      { name: `${name}.scales`, dtype: 'F32', shape: byRow ? [rows, 1] : [columns], data: scales },
    ];
  });
}

const matrixOf = (weight: string): string => weight.replace(/\.weight$/, '');

/** Symmetric, one scale for each row or column. */
function quantize(
  values: Float32Array,
  rows: number,
  columns: number,
  byRow: boolean,
): { levels: Int8Array; scales: Float32Array } {
  const most = byRow ? EMBEDDING_LEVELS : WEIGHT_LEVELS;
  const scales = new Float32Array(byRow ? rows : columns);
  const lane = (at: number): number => (byRow ? Math.floor(at / columns) : at % columns);
  for (const [at, value] of values.entries()) {
    scales[lane(at)] = Math.max(scales[lane(at)] ?? 0, Math.abs(value));
  }
  for (const [at, peak] of scales.entries()) scales[at] = peak === 0 ? 1 : peak / most;
  const levels = new Int8Array(values.length);
  for (const [at, value] of values.entries()) {
    levels[at] = Math.round(value / (scales[lane(at)] ?? 1));
  }
  return { levels, scales };
}

/** How what enters a matrix becomes bytes: with a sign, but not behind a rectifier. */
function inputOf(g: Graph, matrix: string): { scale: string; zero: string } {
  const peak = PEAKS[matrix] ?? 1;
  const isRectified = matrix.endsWith('.fc2');
  return {
    scale: g.floats(peak / (isRectified ? 255 : 127)),
    zero: g.byte(isRectified ? 0 : 128),
  };
}

/** The graph over weights that lie in `location`: input_ids, attention_mask [batch, seq] → sentence_embedding [batch, 512]. */
export function buildGraph(location: string, weights: ReadonlyMap<string, StoredTensor>): Buffer {
  const g = new Graph(location, weights);
  const quantized = weights.has('embeddings.levels');
  const ids = g.input('input_ids', 'I64', ['batch', 'seq']);
  const mask = g.toFloat(g.input('attention_mask', 'I64', ['batch', 'seq']));
  const lin = (x: string, name: string): string => {
    const bias = g.weight(`${name}.bias`);
    if (!weights.has(`${name}.weight.levels`)) {
      return g.op('Add', [g.op('MatMul', [x, g.weight(`${name}.weight`)]), bias]);
    }
    const [levels, scales] = [g.stored(`${name}.weight.levels`), g.stored(`${name}.weight.scales`)];
    const { scale, zero } = inputOf(g, name);
    const bytes = g.op('QuantizeLinear', [x, scale, zero]);
    return g.contributed('MatMulIntegerToFloat', [bytes, levels, scale, scales, zero, '', bias]);
  };
  const norm = (x: string, name: string): string =>
    g.op('LayerNormalization', [x, g.weight(`${name}.weight`), g.weight(`${name}.bias`)], {
      axis: -1,
      epsilon: { float: 1e-6 },
    });
  const rows = (name: string): string => g.op('Gather', [g.stored(name), ids], { axis: 0 });
  const embedded = quantized
    ? g.op('Mul', [g.toFloat(rows('embeddings.levels')), rows('embeddings.scales')])
    : g.toFloat(rows('embeddings'));
  const length = g.op('Gather', [g.op('Shape', [ids]), g.ints(1)], { axis: 0 });
  const places = g.toFloat(g.op('Range', [g.ints(0), length, g.ints(1)]));
  const angles = g.op('MatMul', [g.op('Unsqueeze', [places, g.ints([1])]), g.weight('timing')]);
  const timing = g.op('Concat', [g.op('Sin', [angles]), g.op('Cos', [angles])], { axis: 1 });
  const hidden = g.op('Mul', [g.op('Sub', [g.floats(1), mask]), g.floats(-1e9)]);
  const bias = g.op('Unsqueeze', [hidden, g.ints([1, 2])]);
  let x = g.op('Add', [g.op('Mul', [embedded, g.floats(2)]), timing]);
  for (const [index, width] of WIDTHS.entries()) {
    const layer = `layers.${index}`;
    const residual = index === 0 ? lin(x, `${layer}.residual`) : x;
    const [q = '', k = '', v = ''] = g.split(
      lin(norm(x, `${layer}.ln1`), `${layer}.qkv`),
      [width, width, width],
      2,
    );
    const form = g.ints([0, 0, HEADS, width / HEADS]);
    const heads = (value: string, perm: readonly number[]): string =>
      g.op('Transpose', [g.op('Reshape', [value, form])], { perm });
    const scaled = g.op('Mul', [heads(q, [0, 2, 1, 3]), g.floats(1 / Math.sqrt(width / HEADS))]);
    const scores = g.op('Add', [g.op('MatMul', [scaled, heads(k, [0, 2, 3, 1])]), bias]);
    const mixed = g.op('MatMul', [g.op('Softmax', [scores], { axis: -1 }), heads(v, [0, 2, 1, 3])]);
    const joined = g.op('Reshape', [
      g.op('Transpose', [mixed], { perm: [0, 2, 1, 3] }),
      g.ints([0, 0, width]),
    ]);
    const attended = g.op('Add', [lin(joined, `${layer}.out`), residual]);
    const inner = lin(norm(attended, `${layer}.ln2`), `${layer}.fc1`);
    const positive = quantized ? inner : g.op('Relu', [inner]); // bytes without a sign do that by themselves
    x = g.op('Add', [lin(positive, `${layer}.fc2`), attended]);
  }
  const kept = g.op('Mul', [x, g.op('Unsqueeze', [mask, g.ints([2])])]);
  const sum = g.op('ReduceSum', [kept, g.ints([1])], { keepdims: 0 });
  const tokens = g.op('ReduceSum', [mask, g.ints([1])], { keepdims: 1 });
  const mean = g.op('Div', [sum, g.op('Max', [tokens, g.floats(1)])]);
  const pooled = g.op('Tanh', [lin(mean, 'pooler')]);
  const square = g.op('ReduceSum', [g.op('Mul', [pooled, pooled]), g.ints([1])], { keepdims: 1 });
  const norm2 = g.op('Sqrt', [g.op('Max', [square, g.floats(1e-12)])]);
  g.output('sentence_embedding', g.op('Div', [pooled, norm2]), 'F32', ['batch', DIMENSIONS]);
  return g.build();
}
