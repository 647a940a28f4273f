/**
 * Compute and memory: loops, recursion, bombs of memory, of blocks, of output and of log lines, calls
 * that wait for ever, and storms of all of it. One attacker is WebAssembly written by hand, which keeps
 * to no SDK's rules; the other is TypeScript with capabilities to wait for.
 */
import { readFile } from 'node:fs/promises';
import t, { type Test } from 'tap';
import { eventually } from '../e2e/running-host.ts';
import { assemble, built, packed, Target } from './target.ts';

const brute = await packed(
  {
    name: 'brute',
    exports: {
      echo: { idempotent: true },
      loop: { timeoutMs: 300 },
      switch: { timeoutMs: 300 },
      fill: { timeoutMs: 300 },
      churn: { timeoutMs: 1000 },
      deep: {},
      grow: {},
      table: {},
      blocks: {},
      leak: {},
      huge: {},
      long: {},
      store: {},
      byte: {},
      free: {},
      elsewhere: {},
      inner: {},
      lines: {},
      nothing: {},
      proto: {},
    },
    limits: { memoryMiB: 8, timeoutMs: 2000, maxInputBytes: 65_536, maxOutputBytes: 65_536 },
  },
  assemble(`(module
    (import "extism:host/env" "input_offset" (func $input (result i64)))
    (import "extism:host/env" "input_length" (func $input_length (result i64)))
    (import "extism:host/env" "output_set" (func $output (param i64 i64)))
    (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
    (import "extism:host/env" "free" (func $free (param i64)))
    (import "extism:host/env" "length" (func $length (param i64) (result i64)))
    (import "extism:host/env" "load_u64" (func $load (param i64) (result i64)))
    (import "extism:host/env" "store_u64" (func $store (param i64 i64)))
    (import "extism:host/env" "store_u8" (func $store8 (param i64 i32)))
    (import "extism:host/env" "config_get" (func $config (param i64) (result i64)))
    (import "extism:host/env" "log_info" (func $log (param i64)))
    (memory 1)
    (table $t 1 funcref)
    (func $echo (result i32) (call $output (call $input) (call $input_length)) (i32.const 0))
    (func (export "echo") (result i32) (call $echo))

    ;; Time
    (func (export "loop") (result i32) (loop $l (br $l)) (i32.const 0))
    (func (export "switch") (result i32) (local $i i32)
      (loop $l (block $a (block $b
        (br_table $a $b $l (i32.and (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3))))
        (br $l)) (br $l)) (i32.const 0))
    (func (export "fill") (result i32)
      (drop (memory.grow (i32.const 100)))
      (loop $l (memory.fill (i32.const 0) (i32.const 7) (i32.const 6000000)) (br $l)) (i32.const 0))
    (func (export "churn") (result i32)
      (loop $l (call $free (call $alloc (i64.const 64))) (br $l)) (i32.const 0))

    ;; Stack
    (func $deep (param i64 i64 i64 i64) (result i64)
      (i64.add (local.get 0) (call $deep (local.get 1) (local.get 2) (local.get 3) (local.get 0))))
    (func (export "deep") (result i32)
      (drop (call $deep (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))) (i32.const 0))

    ;; Memory: takes until it is refused, and never returns when it got more than its bound.
    (func $within (param $got i32) (param $bound i32) (result i32)
      (if (i32.gt_u (local.get $got) (local.get $bound)) (then (loop $f (br $f))))
      (call $echo))
    (func (export "grow") (result i32)
      (loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (call $within (memory.size) (i32.const 128)))
    (func (export "table") (result i32)
      (loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
      (call $within (table.size $t) (i32.const 65536)))
    (func (export "blocks") (result i32) (local $n i32)
      (loop $l
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i64.ne (call $alloc (i64.const 1000000)) (i64.const 0))))
      (call $within (local.get $n) (i32.const 16)))
    (func (export "leak") (result i32) (local $n i32)
      (loop $l
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i64.ne (call $alloc (i64.const 1)) (i64.const 0))))
      (call $within (local.get $n) (i32.const 1000000)))
    (func (export "huge") (result i32)
      (call $within
        (i32.or (i64.ne (i64.const 0) (call $alloc (i64.const -1)))
          (i32.or (i64.ne (i64.const 0) (call $alloc (i64.const 0x7fffffffffffffff)))
            (i64.ne (i64.const 0) (call $alloc (i64.const 0xffffffff)))))
        (i32.const 0)))

    ;; Outputs that are not there, too long, or elsewhere
    (func (export "long") (result i32)
      (call $output (call $alloc (i64.const 8)) (i64.const 104857600)) (i32.const 0))
    (func (export "store") (result i32)
      (call $store (i64.const 0x7fffffff0000) (i64.const -1)) (call $echo))
    (func (export "byte") (result i32) (call $store8 (i64.const -8) (i32.const 255)) (call $echo))
    (func (export "free") (result i32) (call $free (i64.const 12345)) (call $echo))
    (func (export "elsewhere") (result i32) (call $output (i64.const -1) (i64.const 10)) (i32.const 0))
    ;; Reads a megabyte behind its input, and never returns should it find anything there.
    (func (export "inner") (result i32) (local $i i64) (local $sum i64)
      (loop $l
        (local.set $sum (i64.or (local.get $sum)
          (call $load (i64.add (i64.add (call $input) (i64.const 4096)) (local.get $i)))))
        (br_if $l (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 8))) (i64.const 1000000))))
      (if (i64.ne (local.get $sum) (i64.const 0)) (then (loop $f (br $f))))
      (call $echo))
    (func (export "lines") (result i32) (local $i i32) (local $b i64)
      (loop $l
        (local.set $b (call $alloc (i64.const 4000)))
        (call $store8 (local.get $b) (i32.const 10))
        (call $log (local.get $b))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20000))))
      (call $echo))
    (func (export "nothing") (result i32) (i32.const 0))
    (func (export "proto") (result i32) (local $b i64)
      ;; "__proto__" as a key of the configuration
      (local.set $b (call $alloc (i64.const 9)))
      (call $store (local.get $b) (i64.const 0x5f6f746f72705f5f))
      (call $store8 (i64.add (local.get $b) (i64.const 8)) (i32.const 0x5f))
      (if (i64.ne (call $config (local.get $b)) (i64.const 0)) (then unreachable))
      (call $echo)))`),
);

const waiter = await built(
  {
    name: 'waiter',
    exports: {
      echo: { idempotent: true },
      sleep: { timeoutMs: 500 },
      never: { timeoutMs: 500 },
      many: { timeoutMs: 2000 },
      hang: { timeoutMs: 3000 },
      spin: { timeoutMs: 20 },
      itself: {},
    },
    capabilities: [
      { capability: 'db', operations: ['query'], resources: ['waiter.*'], reason: 'Sleeps there.' },
      { capability: 'plugin', operations: ['call'], resources: ['waiter/*'], reason: 'Turns.' },
    ],
    limits: { timeoutMs: 10_000, concurrency: 256 },
  },
  `import { definePlugin } from '@noa/sdk';
   let kept = 0;
   export default definePlugin({
     echo: (input) => input,
     sleep: async ({ nonce }, { db }) => db.query('select pg_sleep(0.6), $1::text as nonce', [nonce]),
     never: () => new Promise(() => {}),
     many: async (input, { db }) => (await Promise.all(Array.from({ length: 500 }, () => db.query('select 1')))).length,
     hang: (input, { db }) => db.query('select pg_sleep(2)'),
     spin: () => { for (;;) kept++; },
     itself: (input, { plugin }) => plugin.call('waiter', 'itself', {}),
   });`,
);

const target = await Target.start(t, [brute, waiter], { NOA_PLUGINS__THREADS: '2' });
const { host } = target;

const failure = (plugin: string) => ({ kind: 'plugin.failure', plugin });
const ENDED = ['DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED', 'PLUGIN_TRAP', 'PLUGIN_OUTPUT_INVALID'];

/** The attacker is given up with a stated reason, and answers again at once or after a stated pause. */
async function stopped(t: Test, plugin: string, name: string): Promise<void> {
  const { status, body } = await target.call(plugin, name, { n: 1 });
  t.ok(
    status >= 429 && ENDED.includes(String(body['code'])),
    `${name}: ${status} ${String(body['detail'])}`,
  );
}
/** It got no more than its due, and can tell so. */
async function bounded(t: Test, name: string): Promise<void> {
  t.match(await target.call('brute', name, { n: 1 }), { status: 200, body: { n: 1 } }, name);
}

target.attack(
  'time: loops of every form end at their deadline',
  { audit: failure('brute') },
  async (t) => {
    for (const name of ['loop', 'switch', 'fill', 'churn']) {
      const started = performance.now();
      await stopped(t, 'brute', name);
      t.comment(`${name} ended after ${Math.round(performance.now() - started)} ms`);
      await bounded(t, 'echo');
    }
  },
);

target.attack(
  'stack: recursion without end is a trap, and the next call works',
  { audit: failure('brute') },
  async (t) => {
    await Promise.all(Array.from({ length: 8 }, () => stopped(t, 'brute', 'deep')));
    await bounded(t, 'echo');
  },
);

target.attack(
  'memory: pages, tables and blocks have an end',
  { audit: failure('brute') },
  async (t) => {
    const resident = async () => {
      const status = await readFile(`/proc/${host.pid}/status`, 'utf8');
      return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
    };
    const before = await resident();
    for (const name of ['grow', 'table', 'blocks', 'leak', 'huge']) {
      await bounded(t, name);
      const crowd = Array.from({ length: 8 }, () => target.call('brute', name, { n: 1 }));
      for (const { status, body } of await Promise.all(crowd)) {
        const full = status === 429 && body['code'] === 'RESOURCE_EXHAUSTED';
        t.ok(status === 200 || full, `${name}, eight at once: ${status} ${String(body['detail'])}`);
      }
    }
    const after = await resident();
    t.ok(after - before < 700, `resident memory ${Math.round(before)} → ${Math.round(after)} MiB`);
    await stopped(t, 'brute', 'long');
  },
);

target.attack('addresses that are not its own', { audit: failure('brute') }, async (t) => {
  for (const [name, code] of [
    ['inner', 'PLUGIN_TRAP'],
    ['store', 'PLUGIN_TRAP'],
    ['byte', 'PLUGIN_TRAP'],
    ['elsewhere', 'PLUGIN_OUTPUT_INVALID'],
  ] as const) {
    const { status, body } = await target.call('brute', name, { n: 1 });
    t.match({ status, body }, { status: 500, body: { code } }, name);
  }
  await bounded(t, 'free');
  await bounded(t, 'proto');
  await stopped(t, 'brute', 'nothing');
  await bounded(t, 'echo');
});

target.attack(
  'a flood of log lines is cut and counted',
  { audit: { kind: 'plugin.failure', plugin: 'brute' } },
  async (t) => {
    await target.call('brute', 'lines', { n: 1 });
    const { body } = await host.get('/v1/plugins/brute/logs?limit=1000');
    const lines = body['lines'] as { message: string }[];
    await eventually('the count of what was dropped is told', async () =>
      /\d+ log lines were dropped/.test(
        JSON.stringify((await host.get('/v1/plugins/brute/logs?limit=1000')).body),
      ),
    );
    for (const { message } of lines) t.notMatch(message, /\n/);
    await stopped(t, 'brute', 'nothing');
  },
);

target.attack('waiting for what never comes', { audit: failure('waiter') }, async (t) => {
  for (const name of ['sleep', 'never']) {
    const { status } = await target.call('waiter', name, { nonce: 'of-the-first' });
    t.ok([500, 504].includes(status), name);
  }
  // The database's answer to the first call comes during the second: it must not arrive there.
  const nonces = Array.from({ length: 20 }, (_, i) => `nonce-${i}`);
  const late = target.call('waiter', 'sleep', { nonce: 'late' });
  for (const nonce of nonces) {
    t.match(await target.call('waiter', 'echo', { nonce }), { status: 200, body: { nonce } });
  }
  t.match(await late, { status: 504 });
  t.match(await target.call('waiter', 'echo', { nonce: 'after' }), { body: { nonce: 'after' } });
});

target.attack('a crowd of calls that wait', { audit: failure('waiter') }, async (t) => {
  const crowd = Array.from({ length: 300 }, () => target.call('waiter', 'hang'));
  const statuses = (await Promise.all(crowd)).map(({ status }) => status);
  for (const status of statuses) t.ok([200, 429, 504].includes(status), String(status));
  t.ok(statuses.includes(429) || statuses.includes(504), 'not all of them are borne');
  t.match(await target.call('waiter', 'echo', { n: 2 }), { status: 200 });
});

target.attack(
  'one call that asks for thousands of rows at once',
  { audit: { kind: 'capability.use', plugin: 'waiter', capability: 'db' } },
  async (t) => {
    const { status, body } = await target.call('waiter', 'many');
    t.match(status, /^(200|504)$/, JSON.stringify(body).slice(0, 200));
    t.match(await target.call('waiter', 'echo', { n: 2 }), { status: 200 });
  },
);

target.attack(
  'a call within its own call',
  { audit: { plugin: 'waiter', capability: 'plugin' } },
  async (t) => {
    t.match(await target.call('waiter', 'itself'), { status: 409, body: { code: 'CONFLICT' } });
  },
);

target.attack(
  'a storm of time-outs puts its plugin out, not its neighbours',
  { audit: failure('waiter') },
  async (t) => {
    const statuses = new Map<number, number>();
    const until = Date.now() + 6000;
    while (Date.now() < until) {
      const { status } = await target.call('waiter', 'spin');
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    t.comment(`answers to the storm: ${JSON.stringify([...statuses])}`);
    t.ok((statuses.get(503) ?? 0) > 0, 'it is refused after a while');
    const { body } = await host.get('/v1/plugins/waiter');
    t.match(String(body['state']), /failed|quarantined/);
    t.match(await host.post('/v1/plugins/waiter/enable'), { status: 200 }, 'the way out');
    t.match(await target.call('waiter', 'echo', { n: 3 }), { status: 200, body: { n: 3 } });
  },
);

target.aftermath();
