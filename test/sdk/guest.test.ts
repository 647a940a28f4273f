/**
 * What a handler sees and what its caller gets, through real instances of a built plugin. The web
 * platform's parts are compared with Node's own, run on the same source.
 */
import { readFileSync } from 'node:fs';
import { NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import * as web from '../fixtures/guest/every/src/web.ts';
import { guest, value } from './every.ts';

// Timers such as AbortSignal.timeout's do not keep the process alive while a test waits for them.
const alive = setInterval(() => undefined, 1000);
t.teardown(() => clearInterval(alive));

type UrlCase = Parameters<typeof web.url>[0];

function urlCases(): UrlCase[] {
  const file = new URL('../fixtures/guest/urls.json', import.meta.url);
  const { urls, bases, targets, set } = JSON.parse(readFileSync(file, 'utf8')) as {
    readonly urls: string[];
    readonly bases: string[];
    readonly targets: string[];
    readonly set: [string, string][];
  };
  return [
    ...urls.map((url) => ({ url })),
    ...urls.flatMap((url) => bases.map((base) => ({ url, base }))),
    ...targets.flatMap((url) => set.map(([name, to]) => ({ url, set: { [name]: to } }))),
  ];
}

void t.test('JSON goes in and comes out unchanged, whatever its text and length', async (t) => {
  const instance = guest();
  await fc.assert(
    fc.asyncProperty(fc.json({ stringUnit: 'binary' }), async (json) => {
      t.strictSame(await value(instance.callText('echo', json)), JSON.parse(json));
    }),
    { numRuns: 300 },
  );
  for (const length of [0, 1, 5, 6, 7, 8, 13, 14, 300_000]) {
    const text = 'é'.repeat(length);
    t.equal(await value(instance.call('echo', text)), text, `${length} letters`);
  }
  t.equal(await value(instance.call('echo')), null, 'no input is undefined, which is null');
  const own = await instance.callText('echo', '{"__proto__": {"x": 1}, "constructor": 2}');
  t.equal(JSON.stringify(own), '{"output":{"__proto__":{"x":1},"constructor":2}}');
  t.strictSame(await instance.callText('echo', '{"a":'), {
    code: 'INVALID_ARGUMENT',
    message: 'the input is not JSON',
  });
  t.equal(await value(instance.call('echo', 'still well')), 'still well');
});

void t.test('the language is there, and the door to the host is out of sight', async (t) => {
  const expected: unknown = JSON.parse(JSON.stringify(web.language()));
  t.strictSame(await value(guest().call('language')), expected);
});

void t.test(
  'handlers see configuration and log, and ports write the requests of the ABI',
  async (t) => {
    const replies: Record<string, unknown> = {
      'db.query': { rows: [{ n: 1 }] },
      'db.execute': { rows: [], rowCount: 2 },
      'db.transaction': { results: [{ rows: [], rowCount: 1 }] },
      'cache.get': { value: { a: 1 } },
      'cache.set': {},
      'cache.delete': { deleted: true },
      'cache.increment': { value: 7 },
      'plugin.call': { output: 'answer' },
      'log.write': {},
    };
    const instance = guest({
      config: { greeting: 'Hej' },
      answer({ capability, operation, arguments: input }) {
        if (operation !== 'lock') return replies[`${capability}.${operation}`];
        return input['release'] === 'token'
          ? { released: true }
          : { acquired: true, token: 'token' };
      },
    });
    t.strictSame(await value(instance.call('greet', { name: 'Ω' })), { text: 'Hej, Ω!' });
    t.strictSame(await value(guest().call('greet', { name: 'x' })), { text: 'Hello, x!' });
    t.strictSame(instance.logs, ['info greeting Ω']);
    t.match(await value(instance.call('ports')), {
      query: [{ n: 1 }],
      execute: { rows: [], rowCount: 2 },
      transaction: [{ rows: [], rowCount: 1 }],
      get: { a: 1 },
      set: null,
      delete: true,
      increment: 7,
      lock: true,
      call: 'answer',
      bytes: 20,
      uuid: /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    });
    t.strictSame(
      instance.calls.map((call) => [call.capability, call.operation, call.arguments]),
      [
        ['cache', 'lock', { key: 'l', ttlMs: 5 }],
        ['log', 'write', { level: 'warn', message: 'with fields', fields: { n: 1 } }],
        ['db', 'query', { sql: 'select $1', params: [1] }],
        ['db', 'execute', { sql: 'delete from t', params: [] }],
        ['db', 'transaction', { statements: [{ sql: 'a', params: [null] }, { sql: 'b' }] }],
        ['cache', 'get', { key: 'k' }],
        ['cache', 'set', { key: 'k', value: { a: 1 }, ttlMs: 9 }],
        ['cache', 'delete', { key: 'k' }],
        ['cache', 'increment', { key: 'n', by: 2 }],
        ['cache', 'lock', { key: 'l', release: 'token' }],
        ['plugin', 'call', { plugin: 'other', export: 'fn', input: { x: 1 } }],
      ],
    );
  },
);

void t.test("an error keeps its code when it is a NoaError, the host's included", async (t) => {
  const denied = new NoaError('CAPABILITY_DENIED', 'not granted', { details: { to: 'x' } });
  const instance = guest({
    answer() {
      throw denied;
    },
  });
  t.strictSame(await instance.call('ports'), denied.toBody());
  t.strictSame(await instance.call('fail', { how: 'noa' }), {
    code: 'NOT_FOUND',
    message: 'no such note',
    details: { id: 7 },
  });
  t.strictSame(await instance.call('fail', { how: 'noa-odd-details' }), {
    code: 'CONFLICT',
    message: 'odd',
  });
});

void t.test('anything else that is thrown is a trap that says what and where', async (t) => {
  const instance = guest();
  const message = async (how: string): Promise<unknown> => {
    const ended = await instance.call('fail', { how });
    return 'code' in ended && [ended.code, ended.message];
  };
  t.strictSame(await message('error'), ['PLUGIN_TRAP', 'Custom: deep é 日本 🙂']);
  t.strictSame(await message('string'), ['PLUGIN_TRAP', 'just text']);
  t.strictSame(await message('undefined'), ['PLUGIN_TRAP', 'undefined']);
  t.strictSame(await message('object'), ['PLUGIN_TRAP', '{"a":1}']);
  t.strictSame(await message('hostile'), ['PLUGIN_TRAP', 'object that cannot be printed']);
  t.strictSame(await message('surrogate'), ['PLUGIN_TRAP', 'Error: lone \u{fffd} surrogate']);
  t.match(await message('bigint'), [
    'PLUGIN_OUTPUT_INVALID',
    /'fail' answered is not JSON: .*BigInt/,
  ]);
  t.match(await message('cycle'), ['PLUGIN_OUTPUT_INVALID', /circular/]);
  t.equal(await value(instance.call('fail', { how: '' })), null);
});

void t.test('a call that cannot settle any more is ended with the reason', async (t) => {
  const instance = guest();
  t.match(await instance.call('hang'), { code: 'PLUGIN_TRAP', message: /'hang' never settled/ });
  t.match(await instance.call('timers', { how: 'future' }), {
    code: 'PLUGIN_TRAP',
    message: /'timers' awaits a timer that is due in \d+ ms, and a plugin cannot sleep/,
  });
  t.strictSame(await value(instance.call('timers', { how: 'order' })), ['microtask', 'timeout', 3]);
  t.strictSame(
    await value(instance.call('timers', { how: 'left' })),
    [],
    'timers end with the call',
  );
});

void t.test('what fails beside the answer is logged, and the answer stands', async (t) => {
  const instance = guest({
    answer() {
      throw new NoaError('CAPABILITY_DENIED', 'not granted');
    },
  });
  t.equal(await value(instance.call('stray')), 'answered');
  t.equal(instance.logs.length, 4);
  t.equal(instance.logs.shift(), 'debug  ', 'an empty line');
  t.match(instance.logs[0], /^info a {"b":\[1\]} null undefined 2 RangeError: shown\n\s+at stray/);
  t.strictSame(instance.logs.slice(1).toSorted(), [
    "error unhandled rejection in 'stray': NoaError: not granted",
    "error unhandled rejection in 'stray': TypeError: from a microtask",
  ]);
});

void t.test('randomness and time are live: no two instances and no two calls agree', async (t) => {
  const [one, two] = [guest(), guest()];
  const seen: Record<string, unknown>[] = [];
  for (const instance of [one, one, two]) {
    seen.push((await value(instance.call('chance'))) as Record<string, unknown>);
  }
  for (const key of ['random', 'uuid', 'bytes']) {
    t.equal(new Set(seen.map((chance) => JSON.stringify(chance[key]))).size, 3, key);
  }
  for (const { now, date, elapsed } of seen) {
    t.ok(Math.abs(Number(now) - Date.now()) < 60_000 && String(date).startsWith('20'));
    t.ok(Number(elapsed) >= 0 && Number(elapsed) < 60_000);
  }
  t.strictSame([await value(one.call('state')), await value(one.call('state'))], [1, 2]);
  t.equal(await value(two.call('state')), 1, 'state is of one instance');
});

void t.test(
  'performance.now starts at 0 and never goes back, whatever the clock does',
  async (t) => {
    const clock = [5000, 5001, 5002, 4000, 4001];
    let reads = 0;
    const instance = guest({ clock: () => clock[Math.min(reads++, clock.length - 1)] ?? 0 });
    const elapsed: number[] = [];
    for (let call = 0; call < 5; call++) {
      elapsed.push(((await value(instance.call('chance'))) as { elapsed: number }).elapsed);
    }
    t.equal(elapsed[0], 0);
    t.strictSame(
      elapsed,
      elapsed.toSorted((a, b) => a - b),
    );
  },
);

void t.test('recursion ends in an error that leaves the instance well', async (t) => {
  const instance = guest();
  const shapes = (await value(instance.call('overflow', { how: '' }))) as string[];
  /** Native recursion on what the plugin itself nested: beyond V8's stack, and contained. */
  const contained = ['flat', 'stringify', 'eval'];
  for (const how of shapes.filter((shape) => !contained.includes(shape))) {
    const ended = await instance.call('overflow', { how });
    if (how === 'regexp') t.ok('output' in ended, how);
    else t.match(ended, { code: 'PLUGIN_TRAP', message: /call stack|too many|out of memory/ }, how);
    t.equal(await value(instance.call('echo', how)), how);
  }
  for (const how of contained) {
    await t.rejects(guest().call('overflow', { how }), { name: 'RangeError' }, how);
  }
  const deep = await instance.callText('echo', '['.repeat(500_000));
  t.match(deep, { code: 'INVALID_ARGUMENT' }, "nor does a deep input reach V8's stack");
});

void t.test('memory ends where the build says, and the instance can go on', async (t) => {
  const instance = guest();
  t.equal(await value(instance.call('allocate', { mib: 20 })), 20);
  t.match(await instance.call('allocate', { mib: 40 }), {
    code: 'PLUGIN_TRAP',
    message: /out of memory/,
  });
  t.equal(await value(instance.call('echo', 'well')), 'well');
  const memory = instance.exports['memory'];
  t.ok(memory instanceof WebAssembly.Memory && memory.buffer.byteLength <= 32 << 20);
});

void t.test("the web platform's parts do what Node's own do", async (t) => {
  const instance = guest();
  const same = async (name: string, input: unknown, expected: unknown): Promise<void> => {
    const wanted: unknown = JSON.parse(JSON.stringify(expected));
    t.strictSame(await value(instance.call(name, input)), wanted, JSON.stringify(input));
  };
  t.strictSame(await value(instance.call('web')), {
    ...(JSON.parse(JSON.stringify(await web.web())) as object),
    intl: false,
  });
  for (const input of urlCases()) await same('url', input, web.url(input));
  for (const query of ['?a=1&a=2&b', '=&&a=b=c', 'a+b=%20+', '%zz=%E9', 'é=🙂', 'b=1&a=2&b=3']) {
    await same('parameters', { query }, web.parameters(query));
  }
  const pieces =
    'c3a9 e697a5 f09f9982 eda080 eda081edb080 c0af f8888080 f0808080 f4908080 efbbbf e6 e697 f09f f09f99 41 80 efbfbd ed959c'.split(
      ' ',
    );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom(...pieces), { maxLength: 8 }),
      fc.nat(20),
      fc.boolean(),
      async (parts, cut, fatal) => {
        const hex = parts.join('');
        // Not against Node's own streaming, which loses a U+FEFF behind the first chunk.
        const whole = web.decode({ hex, fatal });
        await same('decode', { hex, fatal }, whole);
        await same('decode', { hex, fatal, cut }, whole);
      },
    ),
  );
  for (const text of ['', 'aé日🙂z', 'a\ud800b', 'a\u0000b']) {
    for (let room = 0; room < 9; room += 1) {
      await same('encode', { text, room }, web.encode({ text, room }));
    }
  }
});
