/**
 * The decoder-only transformer of `demo-generator` as an ONNX graph with a key-value cache:
 * input_ids [batch, seq], past_kv [2 × layers, batch, heads, past, width] → logits [batch, pieces] of what
 * follows the last token, present_kv.
 */
import { Graph } from '../models/onnx.ts';
import type { StoredTensor } from '../models/safetensors.ts';

const HEADS = 4;

/** The graph over weights that lie in `location`. */
export function buildDecoder(location: string, weights: ReadonlyMap<string, StoredTensor>): Buffer {
  const g = new Graph(location, weights);
  const [pieces = 0, width = 0] = g.tensor('tokens.weight').shape;
  const size = width / HEADS;
  const layers = [...weights.keys()].filter((name) =>
    /^layers\.\d+\.ln1\.weight$/.test(name),
  ).length;
  const ids = g.input('input_ids', 'I64', ['batch', 'seq']);
  const past = g.input('past_kv', 'F32', [layers * 2, 'batch', HEADS, 'past', size]);
  const lengthOf = (value: string, axis: number): string =>
    g.op('Gather', [g.op('Shape', [value]), g.ints(axis)], { axis: 0 });
  const before = lengthOf(past, 3);
  const total = g.op('Add', [before, lengthOf(ids, 1)]);
  const asked = g.op('Range', [before, total, g.ints(1)]);
  const known = g.op('Range', [g.ints(0), total, g.ints(1)]);
  const later = g.op('Greater', [
    g.op('Unsqueeze', [known, g.ints([0])]),
    g.op('Unsqueeze', [asked, g.ints([1])]),
  ]);
  const bias = g.op('Mul', [g.toFloat(later), g.floats(-1e9)]);
  const rows = (name: string, at: string): string =>
    g.toFloat(g.op('Gather', [g.stored(name), at], { axis: 0 }));
  const lin = (x: string, name: string): string =>
    g.op('Add', [g.op('MatMul', [x, g.weight(`${name}.weight`)]), g.weight(`${name}.bias`)]);
  const norm = (x: string, name: string): string =>
    g.op('LayerNormalization', [x, g.weight(`${name}.weight`), g.weight(`${name}.bias`)], {
      axis: -1,
      epsilon: { float: 1e-5 },
    });
  const pasts = g.split(past, Array<number>(layers * 2).fill(1), 0);
  const presents: string[] = [];
  let x = g.op('Add', [rows('tokens.weight', ids), rows('positions.weight', asked)]);
  for (let index = 0; index < layers; index += 1) {
    const layer = `layers.${index}`;
    const [q = '', k = '', v = ''] = g.split(
      lin(norm(x, `${layer}.ln1`), `${layer}.qkv`),
      [width, width, width],
      2,
    );
    const form = g.ints([0, 0, HEADS, size]);
    const heads = (value: string): string =>
      g.op('Transpose', [g.op('Reshape', [value, form])], { perm: [0, 2, 1, 3] });
    const extended = (value: string, at: number): string => {
      const earlier = g.op('Squeeze', [pasts[at] ?? '', g.ints([0])]);
      const all = g.op('Concat', [earlier, heads(value)], { axis: 2 });
      presents.push(g.op('Unsqueeze', [all, g.ints([0])]));
      return all;
    };
    const keys = extended(k, index * 2);
    const values = extended(v, index * 2 + 1);
    const products = g.op('MatMul', [heads(q), g.op('Transpose', [keys], { perm: [0, 1, 3, 2] })]);
    const scores = g.op('Add', [g.op('Mul', [products, g.floats(1 / Math.sqrt(size))]), bias]);
    const mixed = g.op('MatMul', [g.op('Softmax', [scores], { axis: -1 }), values]);
    const joined = g.op('Reshape', [
      g.op('Transpose', [mixed], { perm: [0, 2, 1, 3] }),
      g.ints([0, 0, width]),
    ]);
    x = g.op('Add', [x, lin(joined, `${layer}.out`)]);
    const inner = g.op('Relu', [lin(norm(x, `${layer}.ln2`), `${layer}.fc1`)]);
    x = g.op('Add', [x, lin(inner, `${layer}.fc2`)]);
  }
  const last = g.op('Gather', [norm(x, 'ln'), g.ints(-1)], { axis: 1 });
  const unembed = g.op('Transpose', [g.weight('tokens.weight')], { perm: [1, 0] });
  g.output('logits', g.op('MatMul', [last, unembed]), 'F32', ['batch', pieces]);
  g.output('present_kv', g.op('Concat', presents, { axis: 0 }), 'F32', [
    layers * 2,
    'batch',
    HEADS,
    'total',
    size,
  ]);
  return g.build();
}
