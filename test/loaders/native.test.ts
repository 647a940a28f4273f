/** Native plugins: what may run, what they see of the host, and how their calls end. */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type Json,
  type Limits,
  type Manifest,
  type NoaError,
  DEFAULT_LIMITS,
} from '@noa/sdk/host';
import t, { type Test } from 'tap';
import type { Loader, Runtime } from '../../host/kernel/loader.ts';
import { createNativeLoader, type NativeLoad } from '../../host/loaders/native/loader.ts';
import { IsolatedRuntime } from '../../host/loaders/process/runtime.ts';
import { createTieredLoader } from '../../host/loaders/select.ts';
import { call, hanging, refusal } from './sandbox.ts';

t.setTimeout(120_000);
const linux = process.platform === 'linux';

const MODULE = `
import { definePlugin, NoaError } from '@noa/sdk';
import { readFileSync } from 'node:fs';

class CopiedError extends Error {
  name = 'NoaError';
  code = 'CONFLICT';
  details = { by: 'copy' };
}
let kept;

export default definePlugin({
  echo: (input, { config }) => ({ input, config }),
  self: () => ({
    pid: process.pid,
    environment: Object.keys(process.env),
    file: readFileSync('/etc/hostname', 'utf8').length > 0,
    folder: process.cwd(),
  }),
  use: async ({ sql }, { db, blob }) => ({
    rows: await db.query(sql),
    text: new TextDecoder().decode(await blob.read('a')),
  }),
  order: async (_, { cache }) => Promise.all(Array.from({ length: 200 }, (_, n) => cache.get('k' + n))),
  remote: async () => (await fetch('https://example.org/x')).text(),
  keep: (_, { db }) => { kept = db; },
  kept: () => kept.query('select 1').then(() => 'through', (error) => error.code),
  told: (_, { log }) => { log.info('line', { n: 1 }); console.warn('a %s', 'b'); },
  flood: (_, { log }) => { for (let n = 0; n < 100000; n += 1) log.info('x'); },
  loop: () => { for (;;); },
  never: () => new Promise(() => undefined),
  own: () => { throw new NoaError('NOT_FOUND', 'no such row', { details: { row: 1 } }); },
  copied: () => { throw new CopiedError('taken'); },
  broken: () => { throw new TypeError('a bug'); },
  notJson: () => 1n,
  long: () => 'x'.repeat(100000),
  reject: () => { void Promise.reject(new Error('left alone')); return 1; },
});
`;

const exportsOf = (source: string): string[] =>
  [...source.matchAll(/^ {2}(\w+): (?:async )?\(/gm)].map(([, name = '']) => name);

function manifestOf(source: string): Manifest {
  const exports = Object.fromEntries(exportsOf(source).map((name) => [name, {}]));
  const runtime = { kind: 'native', file: 'plugin.mjs' } as const;
  return { name: 'tool', version: '1.0.0', runtime, exports };
}

const sha256 = (source: string): string => createHash('sha256').update(source).digest('hex');

interface Placed {
  readonly loader: Loader;
  readonly file: string;
  readonly loads: NativeLoad[];
  readonly notices: string[];
}

/** A loader of a host whose operator allowed and listed this source. */
function place(
  t: Test,
  source: string,
  change: { allowed?: boolean; listed?: string[] } = {},
): Placed {
  const folder = mkdtempSync(join(tmpdir(), 'noa-native-'));
  const file = join(folder, 'plugin.mjs');
  writeFileSync(file, source);
  const loads: NativeLoad[] = [];
  const notices: string[] = [];
  const loader = createNativeLoader({
    allowed: true,
    listed: [`${file}@sha256:${sha256(source)}`],
    ...change,
    onLoad: (load) => loads.push(load),
    onNotice: (message) => notices.push(message),
  });
  t.teardown(async () => {
    await loader.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { loader, file, loads, notices };
}

interface Setup {
  readonly limits?: Partial<Limits>;
  readonly config?: Json;
  readonly log?: (level: string, message: string) => void;
  readonly harmed?: (what: string) => void;
}

function load(loader: Loader, source: string, setup: Setup = {}): Promise<Runtime> {
  return loader.load({
    plugin: 'tool',
    generation: 1,
    manifest: manifestOf(source),
    limits: { ...DEFAULT_LIMITS, ...setup.limits },
    wasm: Buffer.from(source),
    config: setup.config ?? {},
    log: setup.log ?? (() => undefined),
    harmed: setup.harmed ?? (() => undefined),
  });
}

function pidOf(runtime: Runtime): number {
  if (!(runtime instanceof IsolatedRuntime) || runtime.pid === undefined) throw new Error('no pid');
  return runtime.pid;
}

t.test('it runs only when it is allowed, listed and in its place', async (t) => {
  const inspect = ({ loader }: Placed, source = MODULE): Promise<void> =>
    loader.inspect(manifestOf(source), DEFAULT_LIMITS, Buffer.from(source));
  const both = async (placed: Placed, source: string, words: RegExp): Promise<void> => {
    const expected = { code: 'INVALID_ARGUMENT', message: words };
    t.match(await refusal(inspect(placed, source)), expected);
    t.match(await refusal(load(placed.loader, source)), expected);
    t.same(placed.loads, [], 'and nothing was loaded');
  };
  const entry = `PATH@sha256:${sha256(MODULE)}`;

  const off = place(t, MODULE, { allowed: false });
  await both(off, MODULE, new RegExp(`plugins.allow_native = true.*plugins.native as ${entry}`));
  await both(
    place(t, MODULE, { listed: [] }),
    MODULE,
    new RegExp(`add ${entry} to plugins.native`),
  );
  const other = `${MODULE}\n`;
  await both(place(t, MODULE), other, new RegExp(`add PATH@sha256:${sha256(other)}`));

  const placed = place(t, MODULE);
  await inspect(placed);
  t.same(placed.loads, [], 'an inspection runs nothing');
  writeFileSync(placed.file, MODULE.replace('a bug', 'a BUG'));
  await both(placed, MODULE, /is not there or has another content/);
  rmSync(placed.file);
  await both(placed, MODULE, /is not there or has another content/);
  mkdirSync(placed.file);
  await both(placed, MODULE, /is not there or has another content/);
  t.notMatch((await refusal(inspect(placed))).message, placed.file, 'no path of the host is told');
});

t.test('a plugin that is named untrusted is not native', async (t) => {
  const { loader } = place(t, MODULE);
  for (const untrusted of [['tool'], ['*']]) {
    const tiers = createTieredLoader({
      shared: loader,
      isolated: loader,
      native: loader,
      builtin: loader,
      untrusted,
    });
    const inspected = tiers.inspect(manifestOf(MODULE), DEFAULT_LIMITS, Buffer.from(MODULE));
    t.match(await refusal(inspected), { code: 'INVALID_ARGUMENT', message: /plugins.untrusted/ });
    t.match(await refusal(load(tiers, MODULE)), { code: 'INVALID_ARGUMENT' });
  }
});

t.test(
  'a handler sees its input, its ports and the machine, and nothing of the host',
  async (t) => {
    const { loader, loads } = place(t, MODULE);
    const lines: string[] = [];
    const log = (level: string, message: string): number => lines.push(`${level} ${message}`);
    const runtime = await load(loader, MODULE, { config: { a: 1 }, log });
    t.equal(runtime.isolation, 'native');
    t.same(loads, [{ plugin: 'tool', version: '1.0.0', sha256: sha256(MODULE) }]);
    t.same(JSON.parse(await call(runtime, 'echo', '"grüße"')), {
      input: 'grüße',
      config: { a: 1 },
    });

    const self = JSON.parse(await call(runtime, 'self', 'null')) as Record<string, unknown>;
    t.match(self, { pid: pidOf(runtime), environment: [], file: true, folder: '/' });
    t.not(self['pid'], process.pid, 'a process of its own');
    const { instances, memoryBytes } = runtime.stats();
    t.ok(instances === 1 && memoryBytes > 1 << 20, `${memoryBytes} bytes`);

    const asked: unknown[] = [];
    const invoke = async (capability: string, operation: string, input: Json): Promise<unknown> => {
      asked.push([capability, operation, input]);
      if (capability === 'db') return { rows: [{ n: 1 }] };
      return capability === 'blob' ? { base64: Buffer.from('blob').toString('base64') } : {};
    };
    const used = JSON.parse(await call(runtime, 'use', '{"sql":"select 1"}', { invoke })) as Json;
    t.same(used, { rows: [{ n: 1 }], text: 'blob' });
    t.same(asked[0], ['db', 'query', { sql: 'select 1', params: [] }]);

    await call(runtime, 'told', 'null');
    t.same(lines, ['info line {"n":1}', 'warn a b']);
  },
);

t.test('the door decides, call by call', async (t) => {
  const runtime = await load(place(t, MODULE).loader, MODULE);
  const denied = { code: 'CAPABILITY_DENIED' };
  t.match(await refusal(call(runtime, 'use', '{"sql":"select 1"}')), denied);
  t.match(await refusal(call(runtime, 'remote', 'null')), denied, 'fetch goes there too');

  await call(runtime, 'keep', 'null', { invoke: async () => ({ rows: [] }) });
  const kept = await call(runtime, 'kept', 'null', { invoke: async () => ({ rows: [] }) });
  t.equal(kept, '"UNAVAILABLE"', 'ports that outlive their call lead nowhere');

  let now = 0;
  let most = 0;
  const invoke = async (): Promise<unknown> => {
    most = Math.max(most, ++now);
    await delay(1);
    now -= 1;
    return { value: 1 };
  };
  const answers: unknown = JSON.parse(await call(runtime, 'order', 'null', { invoke }));
  t.same(answers, Array(200).fill(1));
  t.equal(most, 1, 'one capability call at a time');
});

t.test('what a handler throws is reported as in the sandbox', async (t) => {
  const lines: string[] = [];
  const log = (level: string, message: string): number => lines.push(`${level} ${message}`);
  const limits = { maxOutputBytes: 1000 };
  const runtime = await load(place(t, MODULE).loader, MODULE, { limits, log });
  const thrown = (name: string): Promise<NoaError> => refusal(call(runtime, name, 'null'));
  t.match(await thrown('own'), { code: 'NOT_FOUND', message: 'no such row', details: { row: 1 } });
  t.match(await thrown('copied'), { code: 'CONFLICT', message: 'taken', details: { by: 'copy' } });
  const bug = await thrown('broken');
  t.match(bug, { code: 'PLUGIN_TRAP', message: 'The plugin reported: TypeError: a bug' });
  const { guestStack } = bug.details as { guestStack: string };
  t.match(guestStack, /noa-plugin:tool\.mjs:\d+/);
  t.notMatch(guestStack, /file:|node:/, 'without paths of the host');
  t.match(await thrown('notJson'), { code: 'PLUGIN_OUTPUT_INVALID', message: /is not JSON/ });
  t.match(await thrown('long'), { code: 'PLUGIN_OUTPUT_INVALID', message: /100002 bytes/ });
  t.equal(await call(runtime, 'reject', 'null'), '1');
  await call(runtime, 'flood', 'null');
  t.ok(lines.some((line) => line.startsWith('error unhandled rejection: Error: left alone')));
  t.equal(await call(runtime, 'reject', 'null'), '1', 'and a flood of lines is no end');
});

t.test('a module that cannot be loaded says why', async (t) => {
  const reasons: [string, RegExp][] = [
    ['export default 1', /the default export is no plugin/],
    ['/*\n  go: (\n*/ export default { handlers: {} }', /no handler for the export go/],
    ['throw new Error("at the top")', /at the top/],
    ['import "./beside.mjs"', /beside/],
    ['export default {', /SyntaxError/],
  ];
  for (const [source, message] of reasons) {
    const placed = place(t, source);
    t.match(await refusal(load(placed.loader, source)), { code: /PLUGIN_TRAP/, message }, source);
  }
});

t.test('a loop ends at its deadline, with its process, and the next call works', async (t) => {
  const { loader } = place(t, MODULE);
  const harms: string[] = [];
  const limits = { timeoutMs: 300 };
  const runtime = await load(loader, MODULE, { limits, harmed: (what) => harms.push(what) });
  const before = pidOf(runtime);
  const since = performance.now();
  t.match(await refusal(call(runtime, 'loop', 'null', { ms: 300 })), { code: 'DEADLINE_EXCEEDED' });
  t.ok(performance.now() - since < 1500, 'the caller is answered at the deadline');
  const beside = await refusal(call(runtime, 'echo', '1'));
  t.match(beside, { code: 'UNAVAILABLE', retryAfterMs: 50 }, 'what waits behind it may try again');
  t.same(harms, ['overran']);
  t.equal(await call(runtime, 'echo', '1'), '{"input":1,"config":{}}');
  t.not(pidOf(runtime), before, 'in another process');
});

t.test('a caller that goes away harms nobody, and a handler that stays is ended', async (t) => {
  const harms: string[] = [];
  const limits = { timeoutMs: 1000, concurrency: 1 };
  const setup = { limits, harmed: (what: string) => harms.push(what) };
  const runtime = await load(place(t, MODULE).loader, MODULE, setup);
  const before = pidOf(runtime);
  const gone = new AbortController();
  const { invoke, called, aborted } = hanging();
  const waiting = call(runtime, 'use', '{"sql":"x"}', { invoke, signal: gone.signal });
  await called;
  gone.abort();
  t.match(await refusal(waiting), { code: 'CANCELLED' });
  await aborted;
  t.equal(await call(runtime, 'echo', '1'), '{"input":1,"config":{}}', 'its handler has ended');

  const left = [1, 2].map(() => refusal(call(runtime, 'never', 'null', { ms: 100 })));
  t.match(await Promise.all(left), [{ code: 'DEADLINE_EXCEEDED' }, { code: 'DEADLINE_EXCEEDED' }]);
  const full = await refusal(call(runtime, 'echo', '1'));
  t.match(
    full,
    { code: 'RESOURCE_EXHAUSTED', message: /still running/ },
    'what is left is bounded',
  );
  t.equal(pidOf(runtime), before);
  while (harms.length === 0) await delay(50);
  t.equal(await call(runtime, 'echo', '1'), '{"input":1,"config":{}}');
  t.not(pidOf(runtime), before);
  t.same(harms, ['overran']);
});

t.test('kill -9 in the middle of a call', { skip: !linux }, async (t) => {
  const { loader, notices } = place(t, MODULE);
  const harms: string[] = [];
  const runtime = await load(loader, MODULE, { harmed: (what) => harms.push(what) });
  const { invoke, called, aborted } = hanging();
  const waiting = refusal(call(runtime, 'use', '{"sql":"x"}', { invoke }));
  await called;
  process.kill(pidOf(runtime), 'SIGKILL');
  t.match(await waiting, { code: 'UNAVAILABLE', message: /ended in the middle/ });
  await aborted;
  t.equal(await call(runtime, 'echo', '1'), '{"input":1,"config":{}}');
  t.same(notices, ['the process of the plugin tool got SIGKILL']);
  t.same(harms, [], 'it is not the plugin that did it');
  const command = readFileSync(`/proc/${pidOf(runtime)}/cmdline`, 'utf8');
  t.match(command, `--max-old-space-size=${DEFAULT_LIMITS.memoryMiB}`, 'its heap is bounded');
});
