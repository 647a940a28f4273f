/**
 * Writes a GGUF file (ggml's docs/gguf.md, version 3) of a model that says what it is told to: a llama of one
 * layer whose attention and feed-forward add nothing, so that each token leads to the one that `after` names.
 * Small and exact, and to llama.cpp a model like any other.
 */
type Value = number | string | { readonly float: number } | readonly string[] | Numbers;
type Numbers = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;

/** Of metadata. */
const TYPE = { U32: 4, I32: 5, F32: 6, STRING: 8, ARRAY: 9 } as const;
const ALIGNMENT = 32;
const VERSION = 3;
const CONTEXT = 256;
const INNER = 64;
/** Unknown, begin, end of the sequence, begin and end of a turn. */
const MARKS = ['<unk>', '<s>', '</s>', '<|turn|>', '<|end|>'];
/** What the vocabulary says of a token. */
const KIND = { PLAIN: 1, UNKNOWN: 2, MARK: 3, BYTE: 6 };
/** A template of the kind that models bring; `<|turn|>` and `<|end|>` are tokens. */
export const TEMPLATE =
  "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}";

function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}

function u64(value: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer;
}

function text(value: string): Buffer {
  const body = Buffer.from(value);
  return Buffer.concat([u64(body.length), body]);
}

function encode(value: Value): Buffer {
  if (typeof value === 'number') return Buffer.concat([u32(TYPE.U32), u32(value)]);
  if (typeof value === 'string') return Buffer.concat([u32(TYPE.STRING), text(value)]);
  const list = (type: number, length: number, ...body: Buffer[]): Buffer =>
    Buffer.concat([u32(TYPE.ARRAY), u32(type), u64(length), ...body]);
  if (value instanceof Float32Array) {
    return list(TYPE.F32, value.length, Buffer.from(value.buffer));
  }
  if (value instanceof Int32Array) return list(TYPE.I32, value.length, Buffer.from(value.buffer));
  if (!('float' in value)) return list(TYPE.STRING, value.length, ...value.map(text));
  return Buffer.concat([u32(TYPE.F32), Buffer.from(Float32Array.of(value.float).buffer)]);
}

function aligned(body: Buffer): Buffer {
  return Buffer.concat([body, Buffer.alloc((ALIGNMENT - (body.length % ALIGNMENT)) % ALIGNMENT)]);
}

/** Spaces are written ▁, and bytes <0x0A>. Dimensions of a vector: a multiple of 64 above the tokens. */
export function ggufOf(after: { readonly [token: string]: string }): {
  file: Buffer;
  dimensions: number;
} {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  );
  const words = Object.entries(after)
    .flat()
    .filter((word) => !MARKS.includes(word) && !bytes.includes(word));
  // Words are found by joining, so their beginnings are tokens too.
  const beginnings = words.flatMap((word) => [...word].map((_, at) => word.slice(0, at + 1)));
  const letters = words.flatMap((word) => [...word]);
  const tokens = [...new Set([...MARKS, ...bytes, ...letters, ...beginnings])];
  const width = Math.ceil(tokens.length / 64) * 64;
  const kindOf = (token: string, id: number): number => {
    if (id === 0) return KIND.UNKNOWN;
    if (MARKS.includes(token)) return KIND.MARK;
    return bytes.includes(token) ? KIND.BYTE : KIND.PLAIN;
  };
  const metadata: { readonly [key: string]: Value } = {
    'general.architecture': 'llama',
    'general.name': 'told',
    'general.alignment': ALIGNMENT,
    'llama.context_length': CONTEXT,
    'llama.embedding_length': width,
    'llama.block_count': 1,
    'llama.feed_forward_length': INNER,
    'llama.attention.head_count': 1,
    'llama.attention.head_count_kv': 1,
    'llama.rope.dimension_count': width,
    'llama.attention.layer_norm_rms_epsilon': { float: 1e-5 },
    'llama.vocab_size': tokens.length,
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.scores': Float32Array.from(tokens, ({ length }) => length),
    'tokenizer.ggml.token_type': Int32Array.from(tokens, kindOf),
    'tokenizer.ggml.unknown_token_id': 0,
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.eot_token_id': 4,
    'tokenizer.chat_template': TEMPLATE,
  };
  const embedding = new Float32Array(tokens.length * width);
  for (const id of tokens.keys()) embedding[id * width + id] = 1;
  const output = new Float32Array(tokens.length * width);
  for (const [from, to] of Object.entries(after)) {
    output[tokens.indexOf(to) * width + tokens.indexOf(from)] = 1;
  }
  const ones = new Float32Array(width).fill(1);
  const square = new Float32Array(width * width);
  const wide = new Float32Array(width * INNER);
  // The innermost dimension comes first.
  const tensors: [name: string, shape: number[], values: Float32Array<ArrayBuffer>][] = [
    ['token_embd', [width, tokens.length], embedding],
    ['output', [width, tokens.length], output],
    ['output_norm', [width], ones],
    ['blk.0.attn_norm', [width], ones],
    ['blk.0.ffn_norm', [width], ones],
    ['blk.0.attn_q', [width, width], square],
    ['blk.0.attn_k', [width, width], square],
    ['blk.0.attn_v', [width, width], square],
    ['blk.0.attn_output', [width, width], square],
    ['blk.0.ffn_gate', [width, INNER], wide],
    ['blk.0.ffn_up', [width, INNER], wide],
    ['blk.0.ffn_down', [INNER, width], wide],
  ];
  let offset = 0;
  const listed = tensors.map(([name, shape, values]) => {
    const isFloat = u32(0);
    const place = u64(offset);
    offset += Math.ceil(values.byteLength / ALIGNMENT) * ALIGNMENT;
    return Buffer.concat([
      text(`${name}.weight`),
      u32(shape.length),
      ...shape.map(u64),
      isFloat,
      place,
    ]);
  });
  const entries = Object.entries(metadata);
  const head = Buffer.concat([
    Buffer.from('GGUF'),
    u32(VERSION),
    u64(tensors.length),
    u64(entries.length),
    ...entries.map(([key, value]) => Buffer.concat([text(key), encode(value)])),
    ...listed,
  ]);
  const values = tensors.map(([, , each]) => aligned(Buffer.from(each.buffer)));
  return { file: Buffer.concat([aligned(head), ...values]), dimensions: width };
}
