/** The capabilities that need no grant: log, clock and random; and what every driver says of a stopped call. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Driver, type Json, NoaError, stopped } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import { clock } from '../../capabilities/clock/capability.ts';
import { createClockDriver } from '../../capabilities/clock/system.ts';
import { log } from '../../capabilities/log/capability.ts';
import { createLogDriver } from '../../capabilities/log/host.ts';
import { random } from '../../capabilities/random/capability.ts';
import { createRandomDriver } from '../../capabilities/random/system.ts';
import { failure } from './database.ts';

async function call(driver: Driver, operation: string, input: Json) {
  const { signal } = new AbortController();
  const frame = { plugin: 'notes', resources: [], signal, deadline: Infinity, chain: undefined };
  return (await driver.invoke(operation, input, frame)) as { [name: string]: Json };
}

function recorder() {
  const lines: unknown[][] = [];
  return { lines, driver: createLogDriver({ write: (...line) => void lines.push(line) }) };
}

/** Every text in a value, keys included. */
function textsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, item]) => [name, ...textsOf(item)]);
}

t.test('a line reaches the host’s log under the plugin’s name', async (t) => {
  const { lines, driver } = recorder();
  await call(driver, 'write', {
    level: 'warn',
    message: 'héllo',
    fields: { id: 7, list: [true, null] },
  });
  await call(driver, 'write', { level: 'info', message: '' });
  t.same(lines, [
    ['notes', 'warn', 'héllo', { id: 7, list: [true, null] }],
    ['notes', 'info', '', {}],
  ]);
});

t.test('nobody forges a line or drives a terminal', async (t) => {
  const { lines, driver } = recorder();
  const text = 'a\r\n{"level":50}\u001b[2J\u0000\u009b31m\u2028\u202eend';
  await call(driver, 'write', { level: 'info', message: text, fields: { [text]: [{ x: text }] } });
  const escaped = 'a\\u000d\\u000a{"level":50}\\u001b[2J\\u0000\\u009b31m\\u2028\\u202eend';
  t.same(lines[0], ['notes', 'info', escaped, { [escaped]: [{ x: escaped }] }]);
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary' }), fc.jsonValue(), async (message, value) => {
      const json = JSON.parse(JSON.stringify({ value })) as Json;
      await call(driver, 'write', { level: 'debug', message, fields: json });
      const written = lines.pop() ?? [];
      t.notMatch(written[2], /[\p{Cc}\u2028\u2029\u202e]/u);
      for (const text of textsOf(written[3])) t.notMatch(text, /[\p{Cc}\u2028\u2029\u202e]/u);
    }),
  );
});

t.test('size and depth are bounded', async (t) => {
  const { lines, driver } = recorder();
  let deep: Json = 'bottom';
  for (let level = 0; level < 1_000; level += 1) deep = { deep };
  const wide = Object.fromEntries(
    Array.from({ length: 10_000 }, (_, n) => [`k${n}`, 'x'.repeat(9_000)]),
  );
  await call(driver, 'write', {
    level: 'info',
    message: 'x'.repeat(1 << 20),
    fields: { deep, wide },
  });
  t.ok(JSON.stringify(lines[0]).length < 64 * 4_200);
  t.equal(String(lines[0]?.[2]).length, 4_097);
  const text = '{"level":"info","message":"m","fields":{"__proto__":{"x":1}}}';
  const prototype = JSON.parse(text) as Json;
  await call(driver, 'write', prototype);
  t.equal(JSON.stringify(lines[1]?.[3]), '{"__proto__":{"x":1}}');
  t.equal(({} as { x?: unknown }).x, undefined);
});

t.test('wrong arguments are named', async (t) => {
  const { driver } = recorder();
  const wrong: [Json, RegExp][] = [
    [{ level: 'fatal', message: '' }, /level must be one of debug, info, warn, error/],
    [{ level: 'info', message: 1 }, /message must be a string/],
    [{ level: 'info', message: '', fields: [] }, /fields must be an object/],
    ['text', /arguments must be an object/],
  ];
  for (const [input, message] of wrong) {
    t.match(await failure(call(driver, 'write', input)), { code: 'INVALID_ARGUMENT', message });
  }
});

t.test('clock and random', async (t) => {
  t.same(
    await call(
      createClockDriver(() => 1234.9),
      'now',
      {},
    ),
    { epochMs: 1234 },
  );
  const { epochMs } = await call(createClockDriver(), 'now', {});
  t.ok(Math.abs(Number(epochMs) - Date.now()) < 1_000);
  const driver = createRandomDriver();
  const seen = new Set<Json>();
  for (const length of [0, 1, 16, 1_024]) {
    const { base64 } = await call(driver, 'bytes', { length });
    t.equal(Buffer.from(typeof base64 === 'string' ? base64 : '', 'base64').length, length);
  }
  for (let n = 0; n < 100; n += 1)
    seen.add((await call(driver, 'bytes', { length: 16 }))['base64'] ?? null);
  t.equal(seen.size, 100);
  for (const length of [-1, 1_025, 1.5, '16', null]) {
    t.match(await failure(call(driver, 'bytes', { length })), { code: 'INVALID_ARGUMENT' });
  }
});

t.test('they are open to all, at a bounded rate, and name no resources', async (t) => {
  for (const capability of [log, clock, random]) {
    t.ok(capability.always.ratePerSecond >= 200);
    t.equal(capability.normalizeResource('*'), '*');
    t.throws(() => capability.normalizeResource('x'), { code: 'INVALID_ARGUMENT' });
  }
});

void t.test('what stopped a call is told by its signal, whatever the clock says', async (t) => {
  const deadline = Date.now() + 60_000;
  const late = new NoaError('DEADLINE_EXCEEDED', 'the call took too long');
  const timer = AbortSignal.timeout(1);
  while (!timer.aborted) await sleep(1);
  const reasons: [AbortSignal, string][] = [
    [timer, 'DEADLINE_EXCEEDED'],
    [AbortSignal.any([timer, new AbortController().signal]), 'DEADLINE_EXCEEDED'],
    [AbortSignal.abort(late), 'DEADLINE_EXCEEDED'],
    [AbortSignal.abort(), 'CANCELLED'],
    [AbortSignal.abort(new NoaError('CANCELLED', 'the caller left')), 'CANCELLED'],
  ];
  for (const [signal, code] of reasons) t.match(stopped('any', { signal, deadline }), { code });
  t.match(stopped('any', { signal: AbortSignal.abort(), deadline: Date.now() }), {
    code: 'DEADLINE_EXCEEDED',
  });
});
