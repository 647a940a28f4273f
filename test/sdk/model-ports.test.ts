/** The ports `inference` and `vector`: the same requests from the sandbox and natively, as the tables want them. */
import {
  DEFAULT_LIMITS,
  type Json,
  type JsonSchema,
  compileSchema,
  makePorts,
} from '@noa/sdk/host';
import { generateTypes } from '@noa/sdk/author';
import { buildPlugin } from '@noa/sdk/build';
import t from 'tap';
import { inference } from '../../capabilities/inference/capability.ts';
import { vector } from '../../capabilities/vector/capability.ts';
import { bytesTable } from '../../host/loaders/wasm/attachment.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';
import { call, manifestOf } from '../loaders/sandbox.ts';

const USE = `
export async function use({ inference, vector }) {
  const embedded = await inference.embed('m', ['a', 'b'], { dimensions: 2 });
  const shared = embedded.vectors[0].buffer === embedded.vectors[1].buffer;
  const ran = await inference.run('t', [
    { name: 'x', shape: [3], datatype: 'UINT8', data: Uint8Array.of(1, 2, 3) },
    { name: 'y', shape: [2], datatype: 'UINT8', data: Uint8Array.of(4, 5) },
  ]);
  const rest = [
    await inference.rerank('m', 'q', ['a']),
    await inference.classify('m', ['a'], { labels: ['x', 'y'] }),
    await inference.generate('m', { prompt: 'a', parameters: { seed: 1 } }),
    await inference.tokenize('m', ['a']),
    await inference.models(),
    await inference.manage('m', 'load'),
    await vector.create('docs', { vectors: { default: { dimensions: 2, distance: 'cosine' } } }),
    await vector.list(),
    await vector.describe('docs'),
    await vector.alias('now', 'docs'),
    await vector.unalias('now'),
    await vector.upsert('docs', [
      { id: 'a', payload: { n: 1 }, vector: embedded.vectors[0] },
      { id: 'b', vector: [0.25, 4] },
    ]),
    await vector.search('docs', { sparse: { indices: [1], values: [1] }, limit: 1 }),
    await vector.deletePoints('docs', { ids: ['a'] }),
    await vector.delete('docs'),
  ];
  const found = await vector.search('docs', {
    vector: new Float32Array([1, 0.5]), limit: 2, withVectors: true,
    filter: { field: 'n', eq: 1 },
  });
  const page = await vector.scroll('docs', { limit: 2, withVectors: true });
  const uneven = await vector.upsert('docs', [{ id: 'a', vector: [1] }, { id: 'b' }]).catch(String);
  const plain = (rows) => rows.map((row) => [...row]);
  return {
    rows: plain(embedded.vectors), shared, tokens: embedded.tokens,
    outputs: ran.outputs.map(({ data, ...form }) => ({ ...form, data: [...data] })),
    rest: rest.map((each) => each ?? null), hits: found.hits, found: plain(found.vectors.default),
    page: plain(page.vectors.default), next: page.next, uneven,
  };
}
`;

const packed = (...floats: number[]) =>
  Buffer.from(Float32Array.from(floats).buffer).toString('base64');
const model = { id: 'm', version: '1', task: 'embedding', state: 'ready', backend: 'local' };
const collection = { collection: 'docs', vectors: {}, sparse: [], points: 0, aliases: [] };
const hits = [
  { id: 'a', score: 1 },
  { id: 'b', score: 0.5 },
];

function answer(operation: string, { action, vector: query }: { [name: string]: Json }): Json {
  switch (operation) {
    case 'inference.embed':
      return { model: 'm', dimensions: 2, count: 2, base64: packed(1, 0, 0, 1), tokens: 5 };
    case 'inference.rerank':
      return { model: 'm', scores: [0.5], tokens: 2, method: 'cosine' };
    case 'inference.classify':
      return { model: 'm', results: [[{ label: 'x', score: 1 }]], tokens: 1, method: 'likeness' };
    case 'inference.generate':
      return { model: 'm', text: 'b', finishReason: 'stop' };
    case 'inference.run':
      return {
        model: 't',
        version: '1',
        outputs: ['p', 'q'].map((name) => {
          return { name, shape: [3], datatype: 'UINT8', base64: btoa(name.repeat(3)) };
        }),
      };
    case 'inference.tokenize':
      return { tokens: [[{ id: 1, text: 'a', start: 0, stop: 1 }]] };
    case 'inference.models':
      return { models: [model] };
    case 'inference.manage':
      return model;
    case 'vector.manage':
      if (action === 'create') return { created: true };
      if (action === 'list' || action === 'describe') return { collections: [collection] };
      return { deleted: true };
    case 'vector.upsert':
      return { upserted: 2 };
    case 'vector.search':
      if (query === undefined) return { hits: [] };
      return { hits, vectors: [{ name: 'default', base64: packed(1, 2, 3, 4) }] };
    case 'vector.scroll': {
      const points = hits.map(({ id }) => ({ id, payload: {} }));
      return { points, next: 'b', vectors: [{ name: 'default', base64: packed(5, 6, 7, 8) }] };
    }
    default:
      return { deleted: 1 };
  }
}

/** A door that holds every request and answer against the operation tables. */
function door(seen: [string, Json][]) {
  return async (capability: string, operation: string, args: object): Promise<unknown> => {
    const operations: {
      readonly [name: string]: { readonly input: JsonSchema; readonly output: JsonSchema };
    } = { ...(capability === 'inference' ? inference : vector).operations };
    const table = operations[operation];
    if (table === undefined) throw new Error(`there is no ${capability}.${operation}`);
    const input = JSON.parse(JSON.stringify(args)) as { [name: string]: Json };
    const name = `${capability}.${operation}`;
    seen.push([name, input]);
    const value = answer(name, input);
    const faults = [...compileSchema(table.input)(input), ...compileSchema(table.output)(value)];
    if (faults.length > 0) throw new Error(`${name}: ${JSON.stringify(faults)}`);
    return value;
  };
}

t.test('ports write what the operation tables want, natively and in the sandbox', async (t) => {
  const dir = t.testdir({
    'use.js': USE,
    'tsconfig.json': '{}',
    src: {
      'index.ts': `import { definePlugin } from '@noa/sdk';
import { use } from '../use.js';
export default definePlugin({ use: (_input, ports) => use(ports) });
`,
    },
  });
  const native: [string, Json][] = [];
  const { use } = (await import(`${dir}/use.js`)) as { use: (ports: object) => Promise<Json> };
  const here = await use(makePorts(door(native)));
  t.match(here, {
    rows: [
      [1, 0],
      [0, 1],
    ],
    shared: true,
    tokens: 5,
    outputs: [
      { name: 'p', data: [112, 112, 112] },
      { name: 'q', data: [113, 113, 113] },
    ],
    found: [
      [1, 2],
      [3, 4],
    ],
    page: [
      [5, 6],
      [7, 8],
    ],
    next: 'b',
    uneven: /all points have a vector, or none has/,
  });
  const sent = new Map(native);
  t.match(sent.get('inference.run'), { inputs: [{ base64: 'AQID' }, { base64: 'BAU=' }] });
  t.match(sent.get('vector.upsert'), {
    points: [{ id: 'a', payload: { n: 1 } }, { id: 'b' }],
    vectors: [{ base64: packed(1, 0, 0.25, 4) }],
  });

  const built = await buildPlugin({ dir, exports: ['use'], memoryMiB: 32 });
  const loader = createWasmLoader({ threads: 1, bytes: bytesTable([inference, vector]) });
  t.teardown(() => loader.close());
  const runtime = await loader.load({
    plugin: 'models',
    generation: 1,
    manifest: manifestOf(['use'], 'models'),
    limits: DEFAULT_LIMITS,
    wasm: built.wasm,
    config: {},
    log: () => undefined,
    harmed: () => undefined,
  });
  const guest: [string, Json][] = [];
  const ask = door(guest);
  const output = await call(runtime, 'use', '{}', {
    invoke: (capability, operation, input) => ask(capability, operation, input as object),
  });
  t.strictSame(JSON.parse(output), here, 'the same answers');
  t.strictSame(guest, native, 'to the same requests');
});

t.test('generated types have the methods of the operations that were asked for', (t) => {
  const capabilities = [
    { capability: 'vector', operations: ['search', 'delete'], resources: ['*'], reason: 'r' },
    { capability: 'inference', operations: ['embed'], resources: ['m'], reason: 'r' },
  ];
  const text = generateTypes({ ...manifestOf(['use']), capabilities });
  t.match(text, "inference: Pick<Inference, 'embed'>;");
  t.match(text, "vector: Pick<VectorPort, 'search' | 'deletePoints'>;");
  const manage = [{ ...capabilities[0], capability: 'vector', operations: ['manage'] }];
  const managed = generateTypes({
    ...manifestOf(['use']),
    capabilities: manage.map((each) => ({ reason: 'r', resources: ['*'], ...each })),
  });
  t.match(
    managed,
    "Pick<VectorPort, 'create' | 'delete' | 'list' | 'describe' | 'alias' | 'unalias'>",
  );
  t.throws(
    () =>
      generateTypes({
        ...manifestOf(['use']),
        capabilities: [
          { capability: 'vector', operations: ['create'], resources: ['*'], reason: 'r' },
        ],
      }),
    { code: 'INVALID_ARGUMENT', message: /"create" has no port/ },
  );
  t.end();
});
