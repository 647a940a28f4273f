/** The test host: handlers in the process and the built module must not differ in what a test can see. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { buildPlugin } from '@noa/sdk/build';
import { type Json, NoaError, parseManifest } from '@noa/sdk/host';
import {
  type BlobPort,
  type Cache,
  type Db,
  type Http,
  definePlugin,
  type PluginPort,
  type Secrets,
} from '@noa/sdk';
import { createTestHost, provideLoader, type TestHost } from '@noa/sdk/testing';
import { builtinBytes } from '../../host/builtin.ts';
import { createWasmLoader } from '../../host/loaders/wasm/loader.ts';

interface Probe {
  exports: {
    run(input: { what: string; arg?: Json }): unknown;
    typed(input: { n: number }): { n: number };
  };
  config: { greeting: string };
  capabilities: {
    db: Db;
    cache: Cache;
    blob: BlobPort;
    secrets: Secrets;
    http: Http;
    plugin: PluginPort;
  };
}

const MANIFEST = {
  name: 'probe',
  version: '1.0.0',
  runtime: { kind: 'wasm', file: 'dist/probe.wasm' },
  exports: {
    run: {
      input: { type: 'object', properties: { what: { type: 'string' } }, required: ['what'] },
    },
    typed: {
      input: { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'] },
      output: {
        type: 'object',
        properties: { n: { type: 'integer', maximum: 9 } },
        required: ['n'],
      },
    },
  },
  capabilities: [
    {
      capability: 'db',
      operations: ['query', 'execute', 'transaction'],
      resources: ['probe.*'],
      reason: 'r',
    },
    {
      capability: 'cache',
      operations: ['get', 'set', 'delete', 'increment', 'lock'],
      resources: ['probe:*'],
      reason: 'r',
    },
    {
      capability: 'blob',
      operations: ['read', 'write', 'list', 'delete'],
      resources: ['probe/*'],
      reason: 'r',
    },
    { capability: 'secrets', operations: ['read'], resources: ['key', 'unset'], reason: 'r' },
    {
      capability: 'http',
      operations: ['request'],
      resources: ['GET https://API.test/v1/*', 'POST https://api.test:443/v1/*'],
      reason: 'r',
    },
    {
      capability: 'events',
      operations: ['publish', 'subscribe'],
      resources: ['probe.*'],
      reason: 'r',
    },
    { capability: 'plugin', operations: ['call'], resources: ['other/ask'], reason: 'r' },
  ],
  config: {
    type: 'object',
    properties: { greeting: { type: 'string', default: 'hello' } },
    additionalProperties: false,
  },
  limits: { timeoutMs: 300, maxInputBytes: 2000, maxOutputBytes: 2000 },
};

/** The same text is run in this process and built into the module. */
const SOURCE = `
import { definePlugin, NoaError } from '@noa/sdk';
const actions = {
  config: (_, { config }) => config,
  query: (arg, { db }) => db.query('select ' + arg, [1, null, { a: [true] }]),
  execute: (arg, { db }) => db.execute('update ' + arg),
  transaction: (arg, { db }) => db.transaction(arg.map((sql) => ({ sql }))),
  set: async ([key, value, ttlMs], { cache }) => (await cache.set(key, value, ttlMs ? { ttlMs } : {}), null),
  get: (key, { cache }) => cache.get(key),
  delete: (key, { cache }) => cache.delete(key),
  increment: (key, { cache }) => cache.increment(key, 2),
  async lock(key, { cache }) {
    const first = await cache.lock(key, { ttlMs: 1000 });
    const second = await cache.lock(key, { ttlMs: 1000 });
    return [second, await first.release(), await first.release(), (await cache.lock(key, { ttlMs: 1 })) !== null];
  },
  async blob(path, { blob }) {
    const text = await blob.write(path, 'grüße');
    const bytes = await blob.write(path + '2', new Uint8Array([9, 0, 255, 128]).subarray(1), { ifNoneMatch: '*' });
    const part = [...await blob.read(path + '2', { offset: 1, length: 2 })];
    const page = await blob.list({ prefix: path, limit: 1 });
    return [text, bytes, await blob.readText(path), part, page, await blob.delete(path), await blob.delete(path)];
  },
  read: (path, { blob }) => blob.readText(path),
  create: (path, { blob }) => blob.write(path, '', { ifNoneMatch: '*' }),
  list: (prefix, { blob }) => blob.list({ prefix }),
  request: ([method, url, body], { http }) =>
    http.request({ method, url, ...(body && { body, headers: { 'X-A': '1' } }) }),
  async fetch([url, init, kind]) {
    const body = { form: new URLSearchParams({ a: 'b c&d' }), bytes: new Uint8Array([0, 255]) }[kind];
    const response = await fetch(kind === 'url' ? new URL(url) : url, { ...init, ...(body && { body }) });
    const copy = response.clone();
    return [
      response.status, response.ok, response.url, [...response.headers], response.headers.getSetCookie(),
      response.headers.get('X-Kind'), response.headers.has('none'), await copy.text(), copy.bodyUsed,
      response.bodyUsed, [...(await response.bytes()).slice(0, 9)], response.bodyUsed,
    ];
  },
  async json(url) {
    const made = new Response('{"made":1}', { headers: new Headers({ 'X-Kind': 'made' }) });
    const buffer = await (await fetch(url)).arrayBuffer();
    return [await (await fetch(url)).json(), buffer.byteLength, await made.json(), [...made.headers], made.status];
  },
  async twice(url) {
    const response = await fetch(url);
    await response.text();
    return response.text().then(() => 'read', (error) => error instanceof TypeError);
  },
  withBody: (url) => fetch(url, { body: 'x' }).then(() => 'sent', (error) => error instanceof TypeError),
  aborted: (url) => fetch(url, { signal: AbortSignal.abort(new NoaError('CONFLICT', 'gone')) }),
  secret: (name, { secrets }) => secrets.read(name),
  publish: ([subject, type, data], { events }) => events.publish(subject, type, data),
  subscribe: ([subject, options], { events }) => events.subscribe(subject, options),
  call: (arg, { plugin }) => plugin.call('other', arg, { x: 1 }),
  log: (arg, { log }) => (log.info('line', { arg }), log.warn('plain'), undefined),
  random: (_, { random }) => [random.bytes(4).length, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab]/.test(random.uuid())],
  throws: (arg) => { throw new NoaError('CONFLICT', arg, { details: { at: 1 } }); },
  traps: () => { throw new TypeError('guest bug'); },
  rejectsText: () => Promise.reject('text'),
  cyclic: () => { const a = {}; a.a = a; return a; },
  date: () => ({ at: new Date(0), gone: undefined }),
  big: () => 'x'.repeat(3000),
  never: () => new Promise(() => {}),
};
export default definePlugin({
  run: ({ what, arg }, context) => actions[what](arg, context),
  typed: ({ n }) => ({ n: n * 2 }),
});
`;

async function folder(manifest: object = MANIFEST): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'noa-testing-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  await mkdir(path.join(dir, 'src'));
  await writeFile(path.join(dir, 'src/index.ts'), SOURCE);
  await writeFile(path.join(dir, 'plugin.json'), JSON.stringify(manifest));
  return dir;
}

/** The default export of SOURCE, loaded as this process's own module. */
async function handlers(dir: string): Promise<ReturnType<typeof definePlugin<Probe>>> {
  const local = path.join(dir, 'handlers.mjs');
  const sdk = import.meta.resolve('@noa/sdk');
  await writeFile(local, SOURCE.replaceAll("'@noa/sdk'", JSON.stringify(sdk)));
  const loaded = (await import(local)) as { default: ReturnType<typeof definePlugin<Probe>> };
  return loaded.default;
}

/** The outcome of a call as a test sees it. */
async function outcome(host: TestHost<Probe>, what: string, arg: Json = null): Promise<unknown> {
  try {
    return { value: await host.callUnchecked('run', { what, arg }) };
  } catch (error) {
    if (!(error instanceof NoaError)) throw error;
    return { code: error.code, details: error.details, first: error.message.split('\n', 1)[0] };
  }
}

const OPERATIONS: [what: string, arg?: Json][] = [
  ['config'],
  ['query', 'rows'],
  ['query', 'nothing'],
  ['execute', 'count'],
  ['execute', 'conflict'],
  ['transaction', ['select rows', 'update count']],
  ['get', 'probe:a'],
  ['set', ['probe:a', { deep: [1, null] }]],
  ['get', 'probe:a'],
  ['increment', 'probe:a'],
  ['increment', 'probe:n'],
  ['increment', 'probe:n'],
  ['delete', 'probe:n'],
  ['delete', 'probe:n'],
  ['get', 'elsewhere:a'],
  ['lock', 'probe:l'],
  ['blob', 'probe/a'],
  ['create', 'probe/a2'],
  ['read', 'probe/none'],
  ['read', 'probe/../x'],
  ['read', 'other/x'],
  ['list', 'probe/'],
  ['list', ''],
  ['secret', 'key'],
  ['secret', 'unset'],
  ['secret', 'other'],
  ['request', ['GET', 'https://api.test/v1/json']],
  ['request', ['POST', 'https://api.test/v1/echo', 'grüße']],
  ['request', ['GET', 'https://api.test/v2/json']],
  ['request', ['GET', 'http://api.test/v1/json']],
  ['fetch', ['https://api.test/v1/json?q=1#part', {}]],
  ['fetch', ['https://api.test/v1/json', { headers: { Accept: 'a', 'X-B': ' b ' } }, 'url']],
  ['fetch', ['https://api.test/v1/bytes', { redirect: 'manual' }]],
  ['fetch', ['https://api.test/v1/empty', { method: 'post' }]],
  ['fetch', ['https://api.test/v1/echo', { method: 'POST', body: 'text' }]],
  ['fetch', ['https://api.test/v1/echo', { method: 'POST' }, 'form']],
  ['fetch', ['https://api.test/v1/echo', { method: 'POST', headers: [['a', 'b']] }, 'bytes']],
  ['fetch', ['https://api.test/v1/cookies', {}]],
  ['fetch', ['https://api.test/v1/down', {}]],
  ['fetch', ['https://api.test/v1/unscripted', {}]],
  ['fetch', ['https://evil.test/v1/json', {}]],
  ['fetch', ['https://api.test/v1/json', { method: 'DELETE' }]],
  ['json', 'https://api.test/v1/json'],
  ['twice', 'https://api.test/v1/json'],
  ['withBody', 'https://api.test/v1/json'],
  ['aborted', 'https://api.test/v1/json'],
  ['publish', ['probe.a', 'told', { n: [1] }]],
  ['publish', ['probe.b', 'told']],
  ['publish', ['other.a', 'told']],
  ['publish', ['probe.big', 'told', 'x'.repeat(1000)]],
  ['subscribe', ['probe.*']],
  ['subscribe', ['probe.*', { after: '1', limit: 1 }]],
  ['subscribe', ['probe.b']],
  ['subscribe', ['*']],
  ['call', 'ask'],
  ['call', 'other'],
  ['log', 'x'],
  ['random'],
  ['throws', 'taken'],
  ['date'],
];

function script(host: TestHost<Probe>): void {
  host.secrets.set('key', 'value of key');
  host.db
    .onQuery(/^select rows/, ({ params }) => [{ n: 1, params }])
    .onQuery(/^update count/, { rows: [], rowCount: 7 })
    .onQuery(/^update conflict/, () => {
      throw new NoaError('CONFLICT', 'duplicate key');
    });
  host.http
    .onRequest(/\/v.\/json/, { json: { a: 'ü' }, headers: { 'X-Kind': 'json' } })
    .onRequest('https://api.test/v1/bytes', { status: 404, body: new Uint8Array([255, 0]) })
    .onRequest(({ url }) => url.endsWith('/empty'), { status: 204 })
    .onRequest(/\/echo$/, ({ method, headers, body }) => ({ json: { method, headers, body } }))
    .onRequest(/\/cookies$/, { setCookie: ['a=1, 2', 'b=2'], body: '\u{feff}bom' })
    .onRequest(/\/down$/, () => {
      throw new NoaError('UNAVAILABLE', 'the other side is away');
    });
  host.plugin.onCall('other', 'ask', (input) => ({ asked: input }));
}

void t.test('the module needs a runner that provides the loader, and says so', async (t) => {
  const dir = await folder();
  await build(dir);
  await t.rejects(createTestHost<Probe>({ folder: dir }), {
    code: 'UNAVAILABLE',
    message: /noa plugin test/,
  });
});

void t.test('both levels give equal results, errors, logs and calls', async (t) => {
  provideLoader(() => createWasmLoader({ threads: 1, bytes: builtinBytes }));
  const dir = await folder();
  await build(dir);
  const native = await createTestHost<Probe>({ folder: dir, plugin: await handlers(dir) });
  const module = await createTestHost<Probe>({ folder: dir });
  t.teardown(() => module.close());
  for (const host of [native, module]) script(host);
  for (const [what, arg] of OPERATIONS) {
    const [one, two] = [await outcome(native, what, arg), await outcome(module, what, arg)];
    t.same(two, one, `${what} ${JSON.stringify(arg) ?? ''}`);
  }
  t.same(module.calls, native.calls);
  t.same(module.log, native.log);
  t.same(module.db.statements, native.db.statements);
  t.same(module.http.requests, native.http.requests);
  t.same(module.events.published, native.events.published);
  t.match(await outcome(module, 'subscribe', ['probe.a']), {
    value: { events: [{ id: '1', source: '/plugins/probe', data: { n: [1] } }], next: '3' },
  });
  t.match(await outcome(module, 'fetch', ['https://api.test/v1/json', {}, 'url']), {
    value: [200, true, 'https://api.test/v1/json', [['content-type', 'application/json']]],
  });
  t.match(await outcome(module, 'json', 'https://api.test/v1/json'), { value: [{ a: 'ü' }, 10] });
  for (const what of ['twice', 'withBody']) {
    t.same(await outcome(module, what, 'https://api.test/v1/json'), { value: true }, what);
  }
  for (const [what, code] of [
    ['traps', 'PLUGIN_TRAP'],
    ['rejectsText', 'PLUGIN_TRAP'],
    ['cyclic', 'PLUGIN_OUTPUT_INVALID'],
    ['big', 'PLUGIN_OUTPUT_INVALID'],
    ['unknown', 'PLUGIN_TRAP'],
  ] as const) {
    const first = what === 'traps' ? 'The plugin reported: TypeError: guest bug' : /./;
    t.match(await outcome(native, what), { code, first }, `native ${what}`);
    t.match(await outcome(module, what), { code, first }, `module ${what}`);
  }
  for (const host of [native, module]) {
    t.same(await host.call('typed', { n: 3 }), { n: 6 });
    await t.rejects(host.call('typed', { n: 8 }), {
      code: 'PLUGIN_OUTPUT_INVALID',
      message: /\/n must be <= 9/,
    });
    await t.rejects(host.callUnchecked('typed', { n: 'x' }), {
      code: 'INVALID_ARGUMENT',
      message: /\/n must be integer/,
    });
    await t.rejects(host.callUnchecked('typed', { n: 1, pad: 'x'.repeat(2000) }), {
      code: 'PAYLOAD_TOO_LARGE',
    });
    await t.rejects(host.callUnchecked('nope', {}), { code: 'NOT_FOUND', message: /run, typed/ });
    t.match(await outcome(host, 'secret', 'key'), { value: 'value of key' });
    t.match(await outcome(host, 'secret', 'other'), { code: 'CAPABILITY_DENIED' });
    t.match(await outcome(host, 'read', 'other/x'), { code: 'CAPABILITY_DENIED' });
    t.match(await outcome(host, 'read', 'probe/none'), { code: 'NOT_FOUND' });
    t.match(await outcome(host, 'create', 'probe/a2'), { code: 'CONFLICT' });
    host.blob.put('probe/put', 'by the test');
    t.match(await outcome(host, 'read', 'probe/put'), { value: 'by the test' });
    t.same(host.blob.peek('probe/a2'), Buffer.from([0, 255, 128]));
    host.deny('cache');
    t.match(await outcome(host, 'get', 'probe:a'), { code: 'CAPABILITY_DENIED' });
    host.allow('cache');
    t.match(await outcome(host, 'get', 'probe:a'), { value: { deep: [1, null] } });
  }
  t.match(await outcome(native, 'never'), { code: 'DEADLINE_EXCEEDED' });
});

void t.test('native handlers live on the clock and the seed of the test', async (t) => {
  const dir = await folder();
  const plugin = definePlugin<Probe>({
    run: (_input, { clock, random }) => ({
      now: clock.now(),
      bytes: [...random.bytes(40)],
      id: random.uuid(),
    }),
    typed: ({ n }) => ({ n }),
  });
  const run = async (seed?: string): Promise<unknown> => {
    const host = await createTestHost({ folder: dir, plugin, now: 1000, ...(seed && { seed }) });
    host.clock.advance(5);
    return host.call('run', { what: '' });
  };
  t.match(await run(), { now: 1005 });
  t.same(await run(), await run());
  t.notSame(await run('a'), await run('b'));
  const actions = await createTestHost<Probe>({ folder: dir, plugin: await handlers(dir) });
  await outcome(actions, 'set', ['probe:t', 1, 50]);
  t.equal(actions.cache.peek('probe:t'), 1);
  actions.clock.advance(50);
  t.match(await outcome(actions, 'get', 'probe:t'), { value: null });
});

void t.test('a wrong manifest, configuration or module is refused at once', async (t) => {
  const dir = await folder();
  const plugin = await handlers(dir);
  const config = JSON.parse('{"greeting": 1}') as Probe['config'];
  await t.rejects(createTestHost({ folder: dir, plugin, config }), {
    message: /\/greeting must be string/,
  });
  const polite = await createTestHost({ folder: dir, plugin, config: { greeting: 'hi' } });
  t.match(await outcome(polite, 'config'), { value: { greeting: 'hi' } });
  await t.rejects(createTestHost<Probe>({ folder: dir }), {
    message: /holds no dist\/probe\.wasm/,
  });
  await mkdir(path.join(dir, 'dist'));
  await writeFile(path.join(dir, 'dist/probe.wasm'), 'no module');
  await t.rejects(createTestHost<Probe>({ folder: dir }), { code: 'INVALID_ARGUMENT' });
  const unnamed = await folder({ ...MANIFEST, name: '' });
  await t.rejects(createTestHost({ folder: unnamed, plugin }), { message: /\/name/ });
});

async function build(dir: string): Promise<void> {
  const manifest = parseManifest(MANIFEST);
  await buildPlugin({
    dir,
    exports: Object.keys(manifest.exports),
    memoryMiB: 64,
    outFile: manifest.runtime.file ?? '',
  });
}
