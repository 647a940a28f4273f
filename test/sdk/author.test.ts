/** What authors' tools make of a folder: types, bundles; and what the reader refuses of a bundle. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { stripTypeScriptTypes } from 'node:module';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import tar, { type Header } from 'tar-stream';
import { generateTypes, packPlugin, readPluginFolder } from '@noa/sdk/author';
import {
  BUNDLE_LIMITS,
  type ErrorCode,
  type JsonSchema,
  NoaError,
  parseManifest,
  readBundle,
} from '@noa/sdk/host';

const WASM = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);
const SHA256 = createHash('sha256').update(WASM).digest('hex');
const MANIFEST = {
  name: 'notes',
  version: '1.2.3',
  runtime: { kind: 'wasm', file: 'dist/notes.wasm' },
  exports: { read: {} },
};

type Entry = [header: Partial<Header>, content?: string | Uint8Array];

/** A bundle as anyone could make it. */
async function archive(...entries: Entry[]): Promise<Buffer> {
  const pack = tar.pack();
  for (const [header, content = ''] of entries) {
    pack.entry({ name: '', ...header }, Buffer.from(content));
  }
  pack.finalize();
  return gzipSync(await buffer(pack));
}

const manifestEntry = (manifest: object = MANIFEST): Entry => [
  { name: 'plugin.json' },
  JSON.stringify(manifest),
];
const wasmEntry: Entry = [{ name: 'dist/notes.wasm' }, WASM];

async function refuses(
  t: Test,
  bundle: Uint8Array | Promise<Uint8Array>,
  message: RegExp,
  code: ErrorCode = 'INVALID_ARGUMENT',
  limits = BUNDLE_LIMITS,
): Promise<void> {
  await t.rejects(readBundle(await bundle, limits), { name: 'NoaError', code, message });
}

async function folder(t: Test, files: Record<string, string | Uint8Array>): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'noa-author-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(dir, name)), { recursive: true });
    await writeFile(path.join(dir, name), content);
  }
  return dir;
}

const FOLDER = {
  'plugin.json': JSON.stringify(MANIFEST),
  'dist/notes.wasm': WASM,
  'migrations/0001_notes.sql': '-- Up Migration\ncreate table notes (id int);\n',
  'README.md': '# Notes\n',
  'src/index.ts': 'export {};\n',
  'node_modules/x/index.js': 'no',
  'migrations/notes.txt': 'no',
};

const PACKED = ['README.md', 'dist/notes.wasm', 'migrations/0001_notes.sql', 'plugin.json'];

void t.test('a folder packs to equal bytes each time, and reads back whole', async (t) => {
  const packed = await packPlugin(await folder(t, FOLDER));
  const again = await packPlugin(await folder(t, FOLDER));
  t.equal(packed.file, 'notes-1.2.3.tgz');
  t.equal(Buffer.compare(packed.bytes, again.bytes), 0);
  t.equal(packed.sha256, createHash('sha256').update(packed.bytes).digest('hex'));
  const { manifest, files } = await readBundle(packed.bytes);
  t.equal(manifest.runtime.sha256, SHA256);
  t.same([...files.keys()].toSorted(), PACKED);
  t.same(files.get('dist/notes.wasm'), Buffer.from(WASM));
  t.same(JSON.parse(Buffer.from(files.get('plugin.json') ?? []).toString()), manifest);
});

void t.test('a folder of just plugin.json and a module is a plugin', async (t) => {
  const dir = await folder(t, {
    'plugin.json': JSON.stringify({ ...MANIFEST, runtime: { kind: 'wasm', file: 'x.wasm' } }),
    'x.wasm': WASM,
  });
  const { files } = await readBundle((await packPlugin(dir)).bytes);
  t.same([...files.keys()], ['plugin.json', 'x.wasm']);
});

void t.test('a folder gives away nothing outside itself', async (t) => {
  const secret = await folder(t, { 'notes.wasm': 'secret', '0001_x.sql': 'secret' });
  const linkedFile = await folder(t, { 'plugin.json': FOLDER['plugin.json'], 'dist/a': '' });
  await symlink(path.join(secret, 'notes.wasm'), path.join(linkedFile, 'dist/notes.wasm'));
  await t.rejects(readPluginFolder(linkedFile), {
    code: 'INVALID_ARGUMENT',
    message: /not a plain file/,
  });
  const linkedFolder = await folder(t, { 'plugin.json': FOLDER['plugin.json'] });
  await symlink(secret, path.join(linkedFolder, 'dist'));
  await t.rejects(readPluginFolder(linkedFolder), { code: 'INVALID_ARGUMENT' });
  const linkedMigrations = await folder(t, {
    'plugin.json': FOLDER['plugin.json'],
    'dist/notes.wasm': WASM,
  });
  await symlink(secret, path.join(linkedMigrations, 'migrations'));
  await t.rejects(readPluginFolder(linkedMigrations), { code: 'INVALID_ARGUMENT' });
  await t.rejects(readPluginFolder(path.join(secret, 'none')), { code: 'NOT_FOUND' });
  await t.rejects(readPluginFolder(secret), { code: 'NOT_FOUND', message: /no plugin\.json/ });
});

void t.test('archives made with tar and by other tools are taken', async (t) => {
  const dotted = await archive(
    [{ name: './', type: 'directory' }],
    [{ name: './plugin.json' }, JSON.stringify(MANIFEST)],
    [{ name: './dist/', type: 'directory' }],
    [{ name: './dist/notes.wasm' }, WASM],
  );
  t.equal((await readBundle(dotted)).manifest.runtime.sha256, SHA256);
  const { 'src/index.ts': _source, 'migrations/notes.txt': _text, ...rest } = FOLDER;
  const dir = await folder(t, { ...rest, 'node_modules/x/index.js': '' });
  for (const format of ['gnu', 'ustar', 'pax']) {
    const byTar = execFileSync('tar', [
      'cz',
      `--format=${format}`,
      '--exclude=node_modules',
      '-C',
      dir,
      '.',
    ]);
    t.same([...(await readBundle(byTar)).files.keys()].toSorted(), PACKED, format);
  }
});

void t.test('what is packed unpacks with tar', async (t) => {
  const { bytes } = await packPlugin(await folder(t, FOLDER));
  const list = execFileSync('tar', ['tvz'], {
    input: bytes,
    env: { ...process.env, TZ: 'UTC' },
  }).toString();
  t.match(list, /^-rw-r--r-- 0\/0 +8 1970-01-01 00:00 dist\/notes\.wasm$/m);
  const extract = tar.extract();
  extract.end(gunzipSync(bytes));
  const names: string[] = [];
  for await (const entry of extract) {
    names.push(entry.header.name);
    entry.resume();
  }
  t.same(names, PACKED);
});

void t.test('what does not belong in a bundle is refused', async (t) => {
  const long = `dist/${'a'.repeat(200)}.wasm`;
  const bad: [Entry, RegExp][] = [
    [[{ name: '../evil' }, 'x'], /safe path/],
    [[{ name: 'migrations/../../evil' }, 'x'], /safe path/],
    [[{ name: '/etc/passwd' }, 'x'], /safe path/],
    [[{ name: 'C:\\evil' }, 'x'], /safe path/],
    [[{ name: 'a\u0000b' }, 'x'], /does not belong/],
    [[{ name: 'a\nb' }, 'x'], /safe path/],
    [[{ name: long }, 'x'], /extended header that sets path/],
    [[{ name: '..', type: 'directory' }], /safe path/],
    [[{ name: 'README.md', type: 'symlink', linkname: '/etc/passwd' }], /symbolic link/],
    [[{ name: 'README.md', type: 'link', linkname: 'plugin.json' }], /hard link/],
    [[{ name: 'README.md', type: 'character-device' }], /character device/],
    [[{ name: 'README.md', type: 'fifo' }], /a pipe/],
    [[{ name: 'plugin.json' }, '{}'], /twice/],
    [[{ name: './plugin.json' }, '{}'], /twice/],
    [[{ name: 'evil.sh' }, 'x'], /does not belong/],
    [[{ name: 'migrations/x.sql' }, 'x'], /does not belong/],
    [[{ name: 'migrations/0001_a/b.sql' }, 'x'], /does not belong/],
  ];
  for (const [entry, message] of bad) {
    await refuses(t, archive(manifestEntry(), wasmEntry, entry), message);
  }
  const manifestIn = (runtime: object): Entry => manifestEntry({ ...MANIFEST, runtime });
  await refuses(t, archive(wasmEntry), /no plugin\.json/);
  await refuses(t, archive(manifestEntry()), /no dist\/notes\.wasm/);
  await refuses(
    t,
    archive(manifestEntry({ ...MANIFEST, name: 'X' }), wasmEntry),
    /\/name must match/,
  );
  await refuses(
    t,
    archive([{ name: 'plugin.json' }, Uint8Array.of(0xff, 0xfe)], wasmEntry),
    /UTF-8/,
  );
  const other = { ...MANIFEST.runtime, sha256: 'a'.repeat(64) };
  await refuses(t, archive(manifestIn(other), wasmEntry), /SHA-256/);
  await refuses(
    t,
    archive(manifestIn({ ...other, file: '../x.wasm' }), wasmEntry),
    /\/runtime\/file/,
  );
});

void t.test('bundles over a bound are refused before they cost', async (t) => {
  const bomb = gzipSync(Buffer.alloc(200 << 20), { level: 9 });
  t.ok(bomb.length < 300_000);
  const before = process.memoryUsage().rss;
  const small = { ...BUNDLE_LIMITS, maxUnpackedBytes: 1 << 20 };
  await refuses(t, bomb, /unpacks to more than/, 'PAYLOAD_TOO_LARGE', small);
  t.ok(process.memoryUsage().rss - before < 64 << 20);
  const forged = gunzipSync(await archive(wasmEntry, manifestEntry()));
  forged.write('77777777777\0', 124);
  checksum(forged.subarray(0, 512));
  await refuses(t, gzipSync(forged), /cut off/);
  const good = gunzipSync(await archive(manifestEntry(), wasmEntry));
  const tail = (bytes: Uint8Array): Buffer => gzipSync(Buffer.concat([good, bytes]));
  await readBundle(tail(new Uint8Array(9000)));
  await refuses(t, tail(new Uint8Array(2 << 20)), /data after its end/);
  await refuses(t, tail(Uint8Array.of(1)), /data after its end/);
  await refuses(t, gzipSync(good.subarray(0, good.length - 1024)), /cut off/);
  const many = Array.from({ length: 600 }, (_, i): Entry => [{ name: `d${i}`, type: 'directory' }]);
  await refuses(t, archive(...many), /more than 512 entries/, 'PAYLOAD_TOO_LARGE');
  await refuses(t, new Uint8Array(BUNDLE_LIMITS.maxBytes + 1), /more than/, 'PAYLOAD_TOO_LARGE');
});

function checksum(header: Buffer): void {
  header.fill(32, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
}

void t.test('any bytes are a bundle or refused, never another failure', async (t) => {
  const good = gunzipSync(await archive(manifestEntry(), wasmEntry, [{ name: 'README.md' }, 'x']));
  const reads = async (bytes: Uint8Array): Promise<void> => {
    try {
      await readBundle(bytes);
    } catch (error) {
      if (!(error instanceof NoaError)) throw error;
    }
  };
  await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), reads), { numRuns: 100 });
  const plain = fc.uint8Array({ maxLength: 2000 }).map((bytes) => gzipSync(bytes));
  await fc.assert(fc.asyncProperty(plain, reads), { numRuns: 100 });
  const edit = fc.record({
    at: fc.nat(good.length - 1),
    bytes: fc.uint8Array({ maxLength: 16 }),
    sum: fc.boolean(),
  });
  const edited = fc.array(edit, { minLength: 1, maxLength: 6 }).map((edits) => {
    const copy = Buffer.from(good);
    for (const { at, bytes, sum } of edits) {
      copy.set(bytes.subarray(0, copy.length - at), at);
      const start = at - (at % 512);
      if (sum) checksum(copy.subarray(start, start + 512));
    }
    return gzipSync(copy);
  });
  await fc.assert(fc.asyncProperty(edited, reads), { numRuns: 400 });
  const cut = fc.nat(good.length).map((length) => gzipSync(good.subarray(0, length)));
  await fc.assert(fc.asyncProperty(cut, reads), { numRuns: 100 });
  t.pass();
});

/** The types of one export whose input has this schema. */
function typesOf(input: JsonSchema, more: object = {}): string {
  return generateTypes(parseManifest({ ...MANIFEST, exports: { read: { input } }, ...more }));
}

void t.test('types say what a schema says', async (t) => {
  const cases: [JsonSchema, string][] = [
    [{}, 'export type ReadInput = Json;'],
    [{ type: 'string' }, 'export type ReadInput = string;'],
    [{ type: ['integer', 'null'] }, 'export type ReadInput = number | null;'],
    [{ enum: ['a', "b'", 1, null] }, "export type ReadInput = 'a' | 'b\\'' | 1 | null;"],
    [{ const: true }, 'export type ReadInput = true;'],
    [{ type: 'array', items: { enum: [1, 2] } }, 'export type ReadInput = (1 | 2)[];'],
    [
      { type: 'array', prefixItems: [{ type: 'string' }, {}], minItems: 1, items: false },
      '[string, Json?];',
    ],
    [
      { type: 'object', additionalProperties: false },
      'export type ReadInput = Record<string, never>;',
    ],
    [{ type: 'object', additionalProperties: { type: 'number' } }, 'Record<string, number>;'],
    [
      { type: 'object', properties: { a: { type: 'string' } }, required: ['a', 'b'] },
      '{\n  a: string;\n  b: Json;\n}',
    ],
    [
      { type: 'object', properties: { 'x-y': {} }, additionalProperties: true },
      "{\n  'x-y'?: Json;\n  [key: string]: unknown;\n}",
    ],
    [
      { anyOf: [{ type: 'string' }, { type: 'number' }] },
      'export type ReadInput = string | number;',
    ],
    [
      {
        type: 'array',
        items: { $ref: '#/$defs/tag-name' },
        $defs: { 'tag-name': { type: 'string' } },
      },
      'export type ReadInput = ReadInputTagName[];',
    ],
    [
      { type: 'object', properties: { kids: { type: 'array', items: { $ref: '#' } } } },
      '{\n  kids?: ReadInput[];\n}',
    ],
    [
      { type: 'string', description: 'One */ two\nthree' },
      '/**\n * One *\\/ two\n * three\n */\nexport type ReadInput',
    ],
  ];
  for (const [schema, text] of cases) {
    const written = typesOf(schema);
    t.ok(written.includes(text), JSON.stringify(schema), { written, text });
    t.equal(typesOf(schema), written, 'the same again');
  }
  const capabilities = [
    { capability: 'cache', operations: ['set'], resources: ['a*'], reason: 'r' },
    { capability: 'db', operations: ['execute', 'query'], resources: ['a.*'], reason: 'r' },
    { capability: 'cache', operations: ['get', 'set'], resources: ['b*'], reason: 'r' },
    { capability: 'blob', operations: ['read', 'list'], resources: ['*'], reason: 'r' },
    { capability: 'secrets', operations: ['read'], resources: ['key'], reason: 'r' },
    { capability: 'http', operations: ['request'], resources: ['GET https://a/*'], reason: 'r' },
    { capability: 'events', operations: ['publish'], resources: ['a.*'], reason: 'r' },
  ];
  const plugin = typesOf({}, { capabilities, config: { type: 'object', properties: { a: {} } } });
  t.match(plugin, "db: Pick<Db, 'query' | 'execute'>;\n    cache: Pick<Cache, 'get' | 'set'>;");
  t.match(plugin, 'config: Config;');
  const filled = typesOf(
    { type: 'object', properties: { a: { type: 'string', default: 'x' } } },
    {
      config: {
        type: 'object',
        properties: {
          a: { type: 'string', default: 'x' },
          b: { type: 'string' },
          c: { type: 'object', properties: { d: { type: 'integer', default: 1 } } },
          e: { anyOf: [{ type: 'object', properties: { f: { type: 'integer', default: 1 } } }] },
        },
      },
    },
  );
  t.match(filled, /interface Config \{\n  a: string;\n  b\?: string;\n  c\?: \{\n    d: number;/);
  t.match(filled, /e\?: \{\n    f\?: number;/, 'defaults of branches are not filled in');
  t.match(filled, /a\?: string/, 'an input is what its caller sends');
  t.match(plugin, "blob: Pick<BlobPort, 'read' | 'readText' | 'list'>;");
  t.match(plugin, "secrets: Pick<Secrets, 'read'>;");
  t.match(plugin, "http: Pick<Http, 'request'>;");
  t.match(plugin, "events: Pick<EventsPort, 'publish'>;");
  t.match(
    plugin,
    "import type { BlobPort, Cache, Db, EventsPort, Http, Json, Secrets } from '@noa/sdk';",
  );
  const onEvents = {
    exports: { on: {}, both: {}, own: { input: { type: 'object' } } },
    contributes: {
      subscriptions: ['on', 'both', 'own'].map((name) => ({ subject: 'a.*', export: name })),
      schedules: [{ name: 'n', everyMs: 1000, export: 'both' }],
    },
  };
  const handlers = generateTypes(parseManifest({ ...MANIFEST, ...onEvents }));
  t.match(handlers, 'on(input: CloudEvent): unknown;');
  t.match(handlers, 'both(input: Json): unknown;');
  t.match(handlers, 'own(input: OwnInput): unknown;');
  t.match(handlers, "import type { CloudEvent, Json } from '@noa/sdk';");
  const exports = {
    a: { input: { type: 'object', properties: {} } },
    A: { input: { type: 'string' } },
  };
  t.match(generateTypes(parseManifest({ ...MANIFEST, exports })), 'A(input: AInput2): unknown;');
  const asks = (capability: string, operation: string): (() => string) => {
    const request = { capability, operations: [operation], resources: ['*'], reason: 'r' };
    return () => typesOf({}, { capabilities: [request] });
  };
  t.throws(asks('graph', 'search'), {
    message:
      /\/capabilities\/0\/capability.*no port.*db, cache, blob, secrets, http, events, plugin/,
  });
  t.throws(asks('db', 'drop'), {
    message: /\/capabilities\/0\/operations.*query, execute, transaction/,
  });
  t.throws(asks('log', 'write'), { message: /open to every plugin/ });
});

void t.test('no text of a manifest gets out of the types that are made of it', async (t) => {
  const nasty = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 12 }),
    fc.constantFrom(
      '*/ evil() /*',
      "'; evil();'",
      '`${evil()}`',
      '\u2028evil()',
      '\\',
      "\\'",
      '\n',
      '"',
      '//',
    ),
  );
  fc.assert(
    fc.property(nasty, nasty, nasty, (description, name, value) => {
      if (name === '__proto__' || name === '') return;
      const written = typesOf({
        type: 'object',
        description,
        properties: { [name]: { enum: [value], description: value } },
        required: [value],
        additionalProperties: { const: name },
      });
      const code = stripTypeScriptTypes(written)
        .replaceAll(/\/\*[^]*?\*\/|^\/\/.*$/gm, '')
        .replaceAll(';', '');
      if (code.trim() !== '') throw new Error(code);
    }),
    { numRuns: 500 },
  );
  t.pass();
});
