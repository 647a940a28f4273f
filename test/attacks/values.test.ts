/**
 * Values: keys and texts that harm whoever handles them carelessly. They come in as arguments, go through
 * the guest, and come out in answers, logs, metrics and the audit.
 */
import t from 'tap';
import { built, Target } from './target.ts';

const mimic = await built(
  {
    name: 'mimic',
    exports: { echo: {}, fail: {}, log: {}, cache: {}, deep: {} },
    capabilities: [
      {
        capability: 'cache',
        operations: ['get', 'set'],
        resources: ['mimic:*'],
        reason: 'Keeps values.',
      },
    ],
  },
  `import { definePlugin, NoaError } from '@noa/sdk';
   export default definePlugin({
     echo: (input) => input,
     fail: ({ code, message, details }) => { throw new NoaError(code, message, { details }); },
     log: ({ text, fields }, { log }) => { log.info(text, fields); return null; },
     cache: async ({ value }, { cache }) => {
       await cache.set('mimic:v', value);
       return { value: await cache.get('mimic:v'), polluted: ({}).polluted ?? null };
     },
     deep: ({ depth }) => { let v = []; for (let i = 0; i < depth; i++) v = [v]; return v; },
   });`,
);
/** All but the line breaks between lines. */
const UNPRINTABLE = /(?!\n)\p{Cc}|\p{Cf}/u;

const target = await Target.start(t, [mimic]);
const { host } = target;

/** Sent as text, because an object literal would set the prototype instead of the key. */
async function raw(name: string, json: string) {
  const response = await fetch(new URL(`/v1/plugins/mimic/exports/${name}`, host.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${host.token}`, 'content-type': 'application/json' },
    body: json,
  });
  return { status: response.status, text: await response.text() };
}

target.attack(
  'keys that reach a prototype are data or refused, and pollute nothing',
  { audit: { plugin: 'mimic', capability: 'cache', operation: 'set' } },
  async (t) => {
    for (const value of [
      '{"__proto__":{"polluted":1}}',
      '{"constructor":{"prototype":{"polluted":1}}}',
      '{"a":{"__proto__":{"polluted":1}}}',
      '[{"__proto__":null}]',
      '{"toString":1,"valueOf":2,"hasOwnProperty":3}',
    ]) {
      const { status, text } = await raw('cache', `{"value":${value}}`);
      t.ok([200, 400].includes(status), `${value} → ${status}`);
      if (status === 200) t.match(JSON.parse(text), { polluted: null });
      t.ok([200, 400].includes((await raw('echo', value)).status));
    }
    const list = await host.get('/v1/plugins');
    t.notMatch(JSON.stringify(list.body), /polluted/);
  },
);

target.attack(
  'line breaks, escapes and directions of text forge nothing in a log',
  { audit: { kind: 'plugin.failure', plugin: 'mimic', code: 'PLUGIN_TRAP' } },
  async (t) => {
    const evil =
      'a\r\n{"level":"info","message":"forged"}\u001b[2J\u001b]0;owned\u0007\u202egnp\u2028x\u0085y\u0000z';
    t.match(await target.call('mimic', 'log', { text: evil, fields: { [evil]: evil } }), {
      status: 200,
    });
    await target.call('mimic', 'fail', { code: 'PLUGIN_TRAP', message: evil });
    const { body } = await host.get('/v1/plugins/mimic/logs?limit=100');
    for (const { message } of body['lines'] as { message: string }[]) {
      t.notMatch(message, /[\p{Cc}\p{Cf}\u2028\u2029]/u, message);
    }
    for (const line of host.output.split('\n')) {
      t.notMatch(line, UNPRINTABLE);
      t.notMatch(line, /^\{"level":"info","message":"forged"\}/);
    }
    const { stdout } = await host.cli('plugin', 'logs', 'mimic');
    t.notMatch(stdout, UNPRINTABLE, 'nor on a terminal');
  },
);

target.attack(
  'an error of the guest is shown as the guest’s, and is no way to another status or to headers',
  { audit: { kind: 'plugin.failure', plugin: 'mimic' } },
  async (t) => {
    for (const code of ['OK', '__proto__', 'constructor', 'x\r\nset-cookie: a=b', '200', '']) {
      const answer = await target.call('mimic', 'fail', { code, message: 'm\r\nx: y' });
      t.match(answer, { status: 500, body: { code: 'PLUGIN_TRAP' } }, code);
      t.notOk(answer.headers.has('set-cookie'));
      t.match(answer.headers.get('content-type'), /^application\/problem\+json/);
    }
    const answer = await target.call('mimic', 'fail', {
      code: 'NOT_FOUND',
      message: 'x'.repeat(100_000),
      details: Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`k${i}`, i])),
    });
    t.ok([404, 500].includes(answer.status));
    t.ok(JSON.stringify(answer.body).length < 64 << 10, 'and is bounded');
  },
);

target.attack(
  'names from outside do not become labels of a metric without end',
  { audit: { kind: 'plugin.failure', plugin: 'mimic', code: 'PLUGIN_TRAP' } },
  async (t) => {
    const series = async () => {
      const response = await fetch(new URL('/metrics', host.url), {
        headers: { authorization: `Bearer ${host.token}` },
      });
      return (await response.text()).split('\n').filter((line) => !line.startsWith('#'));
    };
    await target.call('mimic', 'fail', { code: 'NOT_FOUND', message: 'first' });
    const before = await series();
    for (let i = 0; i < 50; i++) {
      await target.call('mimic', `absent${i}`);
      await target.call(`absent${i}`, 'echo');
      await host.get(`/v1/nowhere/${i}?x="}\n`);
      await target.call('mimic', 'fail', { code: 'NOT_FOUND', message: `m${i}` });
    }
    await target.call('mimic', 'fail', { code: 'PLUGIN_TRAP', message: 'for the record' });
    const after = await series();
    t.ok(after.length - before.length < 40, `${before.length} → ${after.length} series`);
    t.notMatch(after.join('\n'), /absent\d|nowhere/);
  },
);

target.attack(
  'values too deep or too many are refused on both sides of the guest',
  { audit: { kind: 'plugin.failure', plugin: 'mimic', code: 'PLUGIN_OUTPUT_INVALID' } },
  async (t) => {
    for (const [open, close] of [
      ['[', ']'],
      ['{"a":', '}'],
    ] as const) {
      const { status, text } = await raw('echo', open.repeat(5000) + '1' + close.repeat(5000));
      t.equal(status, 400, text.slice(0, 200));
    }
    const many = await raw('echo', `[${'1,'.repeat(300_000)}1]`);
    t.ok([400, 413].includes(many.status));
    t.match(await target.call('mimic', 'deep', { depth: 500 }), {
      status: 500,
      body: { code: 'PLUGIN_OUTPUT_INVALID' },
    });
  },
);

target.aftermath();
