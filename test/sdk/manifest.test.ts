/** The manifest as authors and attackers write it: every rule, and schemas that cannot explode. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import t from 'tap';
import {
  compileCoercion,
  compileSchema,
  DEFAULT_LIMITS,
  effectiveLimits,
  MANIFEST_SCHEMA,
  NoaError,
  parseManifest,
  type Manifest,
} from '@noa/sdk/host';
import { compilePattern, patternSize } from '../../sdk/js/src/pattern-size.ts';

const NOTES = {
  name: 'notes',
  version: '1.0.0',
  description: 'Keeps notes.',
  license: 'MIT',
  homepage: 'https://example.org/notes',
  noa: '^1.0.0',
  runtime: { kind: 'wasm', file: 'dist/notes.wasm' },
  needs: [{ plugin: 'tags', version: '>=1 <3', optional: true }],
  provides: { memo: '1.2.0' },
  exports: {
    create: {
      input: {
        type: 'object',
        properties: { text: { type: 'string', minLength: 1 } },
        required: ['text'],
        additionalProperties: false,
      },
      output: { type: 'object' },
      timeoutMs: 1000,
    },
    read: { idempotent: true },
  },
  contributes: {
    routes: [
      { method: 'POST', path: '/notes', export: 'create', status: 201 },
      { method: 'GET', path: '/notes/:id', export: 'read' },
    ],
  },
  capabilities: [
    {
      capability: 'db',
      operations: ['query', 'execute'],
      resources: ['notes.*'],
      reason: 'Notes.',
    },
  ],
  config: { type: 'object', properties: { key: { type: 'string', secret: true } } },
  limits: { memoryMiB: 128, timeoutMs: 2000 },
};

interface Finding {
  path: string;
  rule: string;
  message: string;
  fix: string;
}

/** A copy of the manifest above with `value` at a JSON path; undefined removes. */
function changed(path: string, value: unknown): unknown {
  const copy = structuredClone<Record<string, unknown>>(NOTES);
  const keys = path.split('/').slice(1);
  const last = keys.pop() ?? '';
  let at = copy;
  for (const key of keys) at = at[key] as Record<string, unknown>;
  if (value === undefined) delete at[last];
  else at[last] = value;
  return copy;
}

function refusal(source: unknown): { message: string; findings: Finding[] } {
  try {
    parseManifest(source);
  } catch (error) {
    if (!(error instanceof NoaError) || error.code !== 'INVALID_ARGUMENT') throw error;
    return { message: error.message, findings: error.details as Finding[] };
  }
  throw new Error(`accepted: ${JSON.stringify(source)?.slice(0, 200)}`);
}

void t.test('a whole manifest is read from text and from a value, as a fresh copy', async (t) => {
  const read = parseManifest(NOTES);
  t.same(read, NOTES);
  t.not(read, NOTES);
  t.same(parseManifest(`\uFEFF${JSON.stringify(NOTES)}`), NOTES);
  const least: Manifest = parseManifest({
    name: 'a',
    version: '0.0.1',
    runtime: { kind: 'wasm', file: 'a.wasm' },
    exports: { run: {} },
  });
  t.same(effectiveLimits(least), DEFAULT_LIMITS);
  t.same(effectiveLimits(read), { ...DEFAULT_LIMITS, memoryMiB: 128, timeoutMs: 2000 });
});

const DEEP_CHAIN = Object.fromEntries(
  Array.from({ length: 30 }, (_, i) => [
    `s${i}`,
    i === 29 ? { type: 'string' } : { allOf: [ref(`s${i + 1}`), ref(`s${i + 1}`)] },
  ]),
);

/** Many patterns that all judge the same properties. */
function crowd(size: number): object {
  const patterns = Array.from({ length: size }, (_, i) => [`^a{0,${i}}`, { type: 'number' }]);
  return { patternProperties: Object.fromEntries(patterns) as object };
}

function members(count: number, schema: object): { properties: object } {
  const names = Array.from({ length: count }, (_, i) => [`p${i}`, schema] as const);
  return { properties: Object.fromEntries(names) };
}

function ref(name: string): { $ref: string } {
  return { $ref: `#/$defs/${name}` };
}

const HOOK = { on: 'beforeRequest', export: 'read', operations: ['GET /orders/*'] };
const SCHEDULE = { name: 'n', cron: '0 3 * * *', export: 'create', input: { text: 'x' } };

const INVOKE = 'noa.api.v1.InferenceService/Invoke';

/** Where the change is, what is written there, where the finding must point, its rule. */
const WRONG: [string, unknown, (string | undefined)?, string?][] = [
  ['/name', undefined, '/name', 'required'],
  ['/name', 7, '/name', 'type'],
  ['/name', ''],
  ['/name', 'Notes'],
  ['/name', 'my_notes'],
  ['/name', 'a--b'],
  ['/name', '-a'],
  ['/name', '1a'],
  ['/name', 'a\n'],
  ['/name', 'a'.repeat(49)],
  ['/name', 'noa', '/name', 'not'],
  ['/name', 'public'],
  ['/name', 'information-schema'],
  ['/name', 'pg-catalog'],
  ['/name', 'constructor'],
  ['/version', 'v1.0.0'],
  ['/version', '1.0'],
  ['/version', '1.0.0-01'],
  ['/nam', 'x', '/nam', 'additionalProperties'],
  ['/homepage', 'javascript:alert(1)'],
  ['/noa', 'about one', '/noa', 'range'],
  ['/runtime', undefined, '/runtime', 'required'],
  ['/runtime/kind', 'builtin', '/runtime/kind', 'kind'],
  ['/runtime/kind', 'docker', '/runtime/kind', 'enum'],
  ['/runtime/file', undefined, '/runtime', 'required'],
  ['/runtime/kind', 'native', '/runtime/file', 'pattern'],
  ['/runtime/file', '../x.wasm'],
  ['/runtime/file', '/x.wasm'],
  ['/runtime/file', 'a/./x.wasm'],
  ['/runtime/file', 'a\\x.wasm'],
  ['/runtime/file', 'x.js'],
  ['/runtime/sha256', 'AB'],
  ['/needs/0/version', 'latest-ish!', '/needs/0/version', 'range'],
  ['/needs/0/plugin', 'No'],
  ['/provides', { constructor: '1.0.0' }, '/provides/constructor', 'not'],
  ['/provides/memo', 'x'],
  ['/exports', {}],
  ['/exports', { 'bad-name': {} }, '/exports/bad-name', 'pattern'],
  ['/exports', { toString: {} }, '/exports/toString', 'not'],
  ['/exports', { memory: {} }, '/exports/memory', 'not'],
  ['/exports/create/timeoutMs', 0],
  ['/exports/create/timeoutMs', 2001, '/exports/create/timeoutMs', 'limit'],
  ['/exports/create/streams', true, '/exports/create/stream', 'additionalProperties'],
  ['/exports/read/input', { type: 'strin' }, '/exports/read/input/type', 'json-schema'],
  ['/exports/read/input', { minLength: 1 }, '/exports/read/input', 'strict'],
  ['/exports/read/input', { type: 'object', propertys: {} }, '/exports/read/input', 'strict'],
  ['/exports/read/output', { type: 'string', pattern: '(?=a)' }, '/exports/read/output', 'strict'],
  ['/exports/read/output', { type: 'string', pattern: '(' }, '/exports/read/output'],
  [
    '/exports/read/output',
    { type: 'string', format: 'url' },
    '/exports/read/output/format',
    'format',
  ],
  ['/exports/read/input', { $ref: 'https://example.org/x' }, '/exports/read/input/$ref', 'local'],
  ['/exports/read/input', { $ref: 'other.json#/x' }, '/exports/read/input/$ref', 'local'],
  ['/exports/read/input', { $ref: '#/nowhere' }, '/exports/read/input/$ref', 'local'],
  ['/exports/read/input', { $ref: '#/const', const: { type: 'string' } }, undefined, 'local'],
  ['/exports/read/input', { $id: 'x', type: 'object' }, '/exports/read/input/$id', 'local'],
  [
    '/exports/read/input',
    { $schema: 'http://json-schema.org/draft-07/schema#' },
    undefined,
    'dialect',
  ],
  ['/exports/read/input', { type: 'object', secret: true }, '/exports/read/input/secret', 'secret'],
  ['/exports/read/input', { type: 'array', uniqueItems: true }, undefined, 'bounded'],
  [
    '/exports/read/input',
    { type: 'string', pattern: '(a?){1000}' },
    '/exports/read/input/pattern',
    'bounded',
  ],
  [
    '/exports/read/output',
    { type: 'object', patternProperties: { '((a{10}){10}){100}': {} } },
    '/exports/read/output/patternProperties/((a{10}){10}){100}',
    'bounded',
  ],
  [
    '/exports/read/input',
    { type: 'string', pattern: '[[:alpha:](](a{999}){999}' },
    '/exports/read/input/pattern',
    'bounded',
  ],
  ['/exports/read/input', { type: 'string', 'noa:cost': { least: -1e9 } }, undefined, 'strict'],
  ['/exports/read/input', { allOf: [{ $ref: '#' }] }, '/exports/read/input', 'bounded'],
  ['/exports/read/input', { ...ref('s0'), $defs: DEEP_CHAIN }, '/exports/read/input', 'bounded'],
  [
    '/exports/read/input',
    {
      type: 'object',
      anyOf: [{ properties: { c: { $ref: '#' } } }, { properties: { c: { $ref: '#' } } }],
    },
    '/exports/read/input',
    'bounded',
  ],
  [
    '/exports/read/input',
    { enum: Array.from({ length: 5000 }, (_, i) => i) },
    undefined,
    'bounded',
  ],
  ['/exports/read/input', { type: 'object', ...crowd(300) }, undefined, 'bounded'],
  ['/exports/read/input', { type: 'object', ...members(600, {}) }, undefined, 'bounded'],
  [
    '/exports/read/input',
    {
      type: 'object',
      ...members(480, { type: 'string', maxLength: 3, minLength: 1, enum: ['a'], default: 'a' }),
    },
    undefined,
    'bounded',
  ],
  [
    '/exports/read/input',
    { type: 'object', required: Array.from({ length: 2000 }, (_, i) => `p${i}`) },
    undefined,
    'bounded',
  ],
  [
    '/exports/read/input',
    { type: 'object', dependentRequired: { a: Array.from({ length: 600 }, (_, i) => `p${i}`) } },
    undefined,
    'bounded',
  ],
  [
    '/exports',
    Object.fromEntries(
      Array.from({ length: 60 }, (_, i) => [
        `e${i}`,
        { input: { type: 'object', ...members(400, { type: 'string' }) } },
      ]),
    ),
    '/exports/e',
    'bounded',
  ],
  [
    '/capabilities',
    Array.from({ length: 6 }, (_, i) => ({
      capability: 'cache',
      operations: ['get'],
      resources: Array.from({ length: 50 }, (_each, j) => `k${i}.${j}:*`),
      reason: 'x',
    })),
    '/capabilities',
    'bounded',
  ],
  ['/exports/read/input', { type: 'object', allOf: Array.from({ length: 40 }, () => crowd(40)) }],
  ['/exports/read/input', { enum: Array.from({ length: 3e5 }, (_, i) => i) }, '', 'bounded'],
  ['/contributes/routes/0/method', 'TRACE'],
  ['/contributes/routes/0/path', 'notes'],
  ['/contributes/routes/0/path', '/a/../b'],
  ['/contributes/routes/0/path', '/a//b'],
  ['/contributes/routes/0/path', '/a/*'],
  ['/contributes/routes/0/path', '/%2e'],
  ['/contributes/routes/0/path', '/:'],
  ['/contributes/routes/0/path', '/notes/:nope', '/contributes/routes/0/path', 'input'],
  ['/contributes/routes/0/status', 404],
  ['/contributes/routes/1/path', '/:a/:a', '/contributes/routes/1/path', 'duplicate'],
  ['/contributes/routes/1/export', 'valueOf', '/contributes/routes/1/export', 'export'],
  [
    '/contributes/routes/0',
    { method: 'GET', path: '/notes/:other', export: 'read' },
    '/contributes/routes/1',
    'duplicate',
  ],
  ['/capabilities/0/reason', undefined, '/capabilities/0/reason', 'required'],
  ['/capabilities/0/reason', ''],
  ...['\0', '\n', '\u001b[2K', '\u007f', '\u009b', '\u200f', '\u202e', '\u2067', '\ufeff'].flatMap(
    (character): (typeof WRONG)[number][] => [
      ['/capabilities/0/reason', `a${character}b`],
      ['/capabilities/0/resources', [`a${character}b`], '/capabilities/0/resources/0'],
      ['/description', `a${character}`],
      ['/license', character],
      ['/homepage', `https://a.example/${character}`],
    ],
  ),
  ['/capabilities/0/operations', []],
  ['/capabilities/0/operations', ['query', 'query'], '/capabilities/0/operations', 'uniqueItems'],
  ['/capabilities/0/resources', []],
  ['/capabilities/0/resources', ['a*b'], '/capabilities/0/resources/0', 'pattern'],
  ['/capabilities/0/resources', ['a b'], '/capabilities/0/resources/0', 'pattern'],
  ['/capabilities/1', { ...NOTES.capabilities[0] }, '/capabilities/1', 'duplicate'],
  ['/config', { type: 'string' }, '/config/type', 'config'],
  ['/config/properties/key/secret', 'yes', '/config', 'strict'],
  [
    '/contributes/subscriptions',
    [{ subject: 'a*b', export: 'create' }],
    '/contributes/subscriptions/0/subject',
    'pattern',
  ],
  [
    '/contributes/subscriptions',
    [{ subject: 'a', export: 'gone' }],
    '/contributes/subscriptions/0/export',
    'export',
  ],
  [
    '/contributes/subscriptions',
    [1, 1].map(() => ({ subject: 'a', export: 'create' })),
    '/contributes/subscriptions/1',
    'duplicate',
  ],
  [
    '/contributes/subscriptions',
    [{ subject: 'a', export: 'create', from: 1 }],
    '/contributes/subscriptions/0/from',
    'additionalProperties',
  ],
  [
    '/contributes/grpc',
    [{ method: 'noa.api.v1.InferenceService/Guess', export: 'create' }],
    '/contributes/grpc/0/method',
    'enum',
  ],
  [
    '/contributes/grpc',
    [{ method: INVOKE, export: 'gone' }],
    '/contributes/grpc/0/export',
    'export',
  ],
  [
    '/contributes/grpc',
    [1, 1].map(() => ({ method: INVOKE, export: 'create' })),
    '/contributes/grpc/1/method',
    'duplicate',
  ],
  ['/contributes/hooks', [{ ...HOOK, on: 'during' }], '/contributes/hooks/0/on', 'enum'],
  ['/contributes/hooks', [{ ...HOOK, export: 'gone' }], '/contributes/hooks/0/export', 'export'],
  [
    '/contributes/hooks',
    [{ ...HOOK, operations: [] }],
    '/contributes/hooks/0/operations',
    'minItems',
  ],
  [
    '/contributes/hooks',
    [{ ...HOOK, operations: ['GET /*/x'] }],
    '/contributes/hooks/0/operations/0',
    'pattern',
  ],
  [
    '/contributes/hooks',
    [{ ...HOOK, on: 'afterResponse', failOpen: true }],
    '/contributes/hooks/0/failOpen',
    'hook',
  ],
  [
    '/contributes/schedules',
    [{ name: 'n', export: 'create' }],
    '/contributes/schedules/0',
    'schedule',
  ],
  [
    '/contributes/schedules',
    [{ ...SCHEDULE, everyMs: 1000 }],
    '/contributes/schedules/0',
    'schedule',
  ],
  [
    '/contributes/schedules',
    [{ name: 'n', everyMs: 999, export: 'create' }],
    '/contributes/schedules/0/everyMs',
    'minimum',
  ],
  [
    '/contributes/schedules',
    [{ ...SCHEDULE, cron: '99 * * * *' }],
    '/contributes/schedules/0/cron',
    'schedule',
  ],
  [
    '/contributes/schedules',
    [{ ...SCHEDULE, cron: '0 0 30 2 *' }],
    '/contributes/schedules/0/cron',
    'schedule',
  ],
  [
    '/contributes/schedules',
    [{ ...SCHEDULE, cron: '@daily' }],
    '/contributes/schedules/0/cron',
    'pattern',
  ],
  [
    '/contributes/schedules',
    [{ ...SCHEDULE, timezone: 'Mars/North' }],
    '/contributes/schedules/0/cron',
    'schedule',
  ],
  [
    '/contributes/schedules',
    [{ ...SCHEDULE, export: 'gone' }],
    '/contributes/schedules/0/export',
    'export',
  ],
  ['/contributes/schedules', [SCHEDULE, SCHEDULE], '/contributes/schedules/1/name', 'duplicate'],
  [
    '/contributes/schedules',
    [{ ...SCHEDULE, input: 7 }],
    '/contributes/schedules/0/input',
    'input',
  ],
  ['/limits/memoryMiB', 0],
  ['/limits/memoryMiB', 1025],
  ['/limits/memoryMiB', 1.5],
  ['/limits/timeoutMs', 9],
  ['/limits/timeoutMs', 600_001],
  ['/limits/concurrency', 1025],
  ['/limits/maxInputBytes', (16 << 20) + 1],
  ['/limits/maxOutputBytes', 0],
  ['/limits/maxOutputBytes', (16 << 20) + 1],
  ['/limits/cpu', 1, '/limits/cpu', 'additionalProperties'],
];

void t.test('each broken rule is refused with its path, rule and fix', async (t) => {
  for (const [at, value, path = at, rule] of WRONG) {
    const { message, findings } = refusal(changed(at, value));
    const label = `${at} = ${JSON.stringify(value)?.slice(0, 60)}`;
    const found = findings.find(
      (finding) => finding.path.startsWith(path) && (rule === undefined || finding.rule === rule),
    );
    t.ok(found, label, { findings });
    t.ok(found?.fix.endsWith('.'), `${label}: the fix is a sentence`);
    t.ok(
      message.includes(found?.path ?? '?') && message.includes(found?.fix ?? '?'),
      `${label}: in the message`,
    );
  }
});

void t.test('all findings are reported at once, and a misspelled key is named', async (t) => {
  const { message, findings } = refusal({
    ...NOTES,
    capabilites: [],
    name: 'X',
    limits: { memory: 1 },
  });
  t.same(findings.map(({ path }) => path).toSorted(), ['/capabilites', '/limits/memory', '/name']);
  t.match(message, 'write "capabilities"');
  t.match(message, 'write "memoryMiB"');
});

void t.test('text that is no manifest at all is refused in plain words', async (t) => {
  t.match(refusal('{"name":').message, /is not JSON/);
  t.match(refusal(undefined).message, /is missing/);
  t.match(refusal('[]').message, /must be object/);
  t.match(refusal(' '.repeat((1 << 20) + 1)).message, /longer than/);
  t.match(refusal('['.repeat(5e5) + ']'.repeat(5e5)).message, /nested more than 64/);
  t.match(refusal(`{"config":${'{"a":'.repeat(1e5)}1${'}'.repeat(1e5)}}`).message, /nested more/);
});

void t.test('keys that reach a prototype are refused and pollute nothing', async (t) => {
  const text = JSON.stringify(NOTES);
  for (const poisoned of [
    text.replace('"license"', '"__proto__":{"polluted":1},"license"'),
    text.replace('"text":', '"__proto__":{"default":{"polluted":1}},"text":'),
    text.replace('"license"', '"constructor":{"prototype":{"polluted":1}},"license"'),
  ]) {
    t.not(poisoned, text);
    refusal(poisoned);
  }
  t.notOk('polluted' in {});
});

void t.test(
  'any JSON is either a manifest or refused with findings, never another error',
  async () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => {
        if (refusal(value).findings.length === 0) throw new Error('no finding');
      }),
      { numRuns: 200 },
    );
    const paths = WRONG.map(([path]) => path);
    fc.assert(
      fc.property(fc.constantFrom(...paths), fc.jsonValue({ maxDepth: 4 }), (path, value) => {
        try {
          parseManifest(changed(path, value));
        } catch (error) {
          if (!(error instanceof NoaError)) throw error;
        }
      }),
      { numRuns: 500 },
    );
  },
);

void t.test('recursive schemas that walk down a value are welcome', async (t) => {
  const tree = {
    type: 'object',
    properties: {
      left: { $ref: '#' },
      right: { $ref: '#' },
      tags: { type: 'array', items: ref('tag') },
    },
    $defs: { tag: { type: 'string', maxLength: 3 } },
  };
  const manifest = parseManifest(changed('/exports/read/input', tree));
  const check = compileSchema(manifest.exports['read']?.input ?? {});
  t.same(check({ left: { right: { tags: ['abc'] } } }), []);
  t.same(check({ left: { right: { tags: ['abcd'] } } }), [
    {
      path: '/left/right/tags/0',
      rule: 'maxLength',
      message: 'must NOT have more than 3 characters',
    },
  ]);
  let deep: object = {};
  for (let i = 0; i < 1e5; i++) deep = { left: deep };
  t.match(check(deep), [{ rule: 'depth' }], 'a value too deep for the stack is a violation');
});

void t.test(
  'a compiled schema names the very value and shares nothing with its caller',
  async (t) => {
    const check = compileSchema({
      type: 'object',
      properties: {
        'a/b': { type: 'string' },
        kind: { enum: ['x', 'y'] },
        hasOwnProperty: { type: 'string' },
      },
      required: ['a/b'],
      additionalProperties: false,
    });
    t.same(check({ 'a/b': 'ok', kind: 'x' }), []);
    t.match(check({}), [{ path: '/a~1b', rule: 'required', message: 'is required' }]);
    t.match(check({ 'a/b': 1 }), [{ path: '/a~1b', rule: 'type' }]);
    t.match(check({ 'a/b': '', kind: 'z' }), [{ message: 'must be one of "x", "y"' }]);
    t.match(check(JSON.parse('{"a/b":"","__proto__":{}}')), [{ path: '/__proto__' }]);
    t.match(check({ 'a/b': '', ['\u001b[31m\r\n'.repeat(999)]: 1 }), [
      { path: /^\/(\\u00[0-9a-f]{2}|\[31m)+\\?u?…$/ },
    ]);
    t.match(check(null), [{ path: '', rule: 'type' }]);
    t.match(compileSchema({ type: 'object', required: ['valueOf'] })({}), [{ path: '/valueOf' }]);
  },
);

void t.test(
  'of a choice between types it is told what the value of one lacks, or all types',
  async (t) => {
    const check = compileSchema({
      type: 'object',
      properties: {
        input: {
          anyOf: [
            { type: 'string', maxLength: 3 },
            { type: 'array', items: { type: 'string' }, maxItems: 2 },
          ],
        },
        stream: { type: ['boolean', 'null'] },
      },
    });
    t.same(check({ input: ['a', 'b'] }), []);
    t.match(check({ input: 5 }), [{ path: '/input', message: 'must be string or array' }]);
    t.match(check({ input: ['a', 'b', 'c'] }), [{ path: '/input', rule: 'maxItems' }]);
    t.match(check({ input: ['a', 5] }), [{ path: '/input/1', message: 'must be string' }]);
    t.match(check({ input: 'long' }), [{ path: '/input', rule: 'maxLength' }]);
    t.match(check({ stream: 1 }), [{ path: '/stream', message: 'must be boolean or null' }]);
  },
);

void t.test('defaults are filled in only when asked for', async (t) => {
  const schema = { type: 'object', properties: { n: { type: 'integer', default: 5 } } };
  const plain = {};
  t.same(compileSchema(schema)(plain), []);
  t.same(plain, {});
  t.same(compileSchema(schema, { defaults: true })(plain), []);
  t.same(plain, { n: 5 });
});

void t.test(
  'a pattern that explodes elsewhere is linear here, and patterns are not mixed up',
  async (t) => {
    const check = compileSchema({
      type: 'object',
      properties: {
        a: { type: 'string', pattern: '^(a+)+$' },
        b: { type: 'string', pattern: '^\\u00e9\\p{L}$' },
      },
      patternProperties: { '^(x+x+)+y$': { type: 'number' } },
    });
    const started = performance.now();
    t.match(check({ a: `${'a'.repeat(1e5)}!` }), [{ path: '/a', rule: 'pattern' }]);
    t.same(check({ ['x'.repeat(2e4)]: 1 }), []);
    t.ok(performance.now() - started < 2000, `${performance.now() - started} ms`);
    t.same(check({ a: 'aa', b: 'éa' }), []);
    t.match(check({ b: 'aa' }), [{ path: '/b' }]);
  },
);

void t.test('patterns are judged by their size before they are compiled', async (t) => {
  const started = performance.now();
  const { findings } = refusal(
    changed('/exports/read/output', { type: 'string', pattern: '(a?){1000}'.repeat(2000) }),
  );
  t.match(findings, [{ rule: 'bounded', message: /up to \d+ steps, over the 2500/, fix: /\{n\}/ }]);
  const many = Array.from({ length: 12 }, (_, i) => [`p${i}`, pattern(`^.{1,${1000 - i}}$`)]);
  const all = { type: 'object', properties: Object.fromEntries(many) as object };
  const over = refusal(changed('/exports/read/output', all)).findings;
  t.match(over, [{ path: /properties\/p10\/pattern$/, message: /are left of 20000/ }]);
  t.ok(performance.now() - started < 2000, `${performance.now() - started} ms`);

  const token = fc.constantFrom(
    ...'ab.^$|*+?()[]-:{},/1é😀'.split(''),
    ...'(?: (?i) (?P<n> [^ [[:alpha:] {3} {0} {2,} {2,5} {30}'.split(' '),
    ...'\\ \\p{L} \\pL \\d \\w \\x{61} \\u0061 \\u{1F600} \\b \\E \\]'.split(' '),
  );
  let compiled = 0;
  fc.assert(
    fc.property(fc.array(token, { maxLength: 14 }), (tokens) => {
      const source = tokens.join('');
      let size;
      try {
        size = compilePattern(source).programSize();
      } catch {
        return true; // Not a pattern.
      }
      compiled += 1;
      return patternSize(source) >= size;
    }),
    { numRuns: 5000 },
  );
  t.ok(compiled > 500, `${compiled} patterns: the estimate is never too small`);
});

void t.test('no value makes a check long, whatever the schema compares it with', async (t) => {
  // A fixed sequence without a pattern of its own, so that no state of a matcher comes back.
  let seed = 12345;
  const letter = () => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return seed & 0x10000 ? 'a' : 'b';
  };
  const letters = (length: number) => Array.from({ length }, letter).join('');
  const all = (size: number, schema: object) => Array.from({ length: size }, () => schema);
  const keys = (size: number) => Array.from({ length: size }, (_, i) => [`k${i}`, 1] as const);
  const hostile: [string, object, unknown][] = [
    ['a pattern', pattern('^([ab]?){350}$'), `${letters(20_000)}!`],
    [
      'patterns of many texts',
      { type: 'array', items: pattern('^([ab]*a[ab]{90}[cd])?[ab]*$') },
      Array.from({ length: 4000 }, () => letters(490)),
    ],
    [
      'a long list of choices',
      { type: 'array', items: { type: 'string', enum: keys(4000).map(([key]) => key) } },
      Array.from({ length: 199_000 }, () => 'k3999'),
    ],
    [
      'lengths of a long text',
      { anyOf: all(200, { type: 'string', minLength: 1e9 }) },
      'x'.repeat(16 << 20),
    ],
    [
      'members of a large object',
      {
        type: 'object',
        allOf: all(200, { type: 'object', additionalProperties: { type: 'integer' } }),
      },
      Object.fromEntries(keys(99_000)),
    ],
    [
      'pairs of lists',
      { type: 'array', maxItems: 200, uniqueItems: true },
      Array.from({ length: 200 }, (_, i) => [i, ...all(990, {})]),
    ],
    [
      'unique texts',
      { type: 'array', items: { type: 'string' }, uniqueItems: true },
      keys(199_000).map(([key]) => key),
    ],
  ];
  for (const [what, schema, value] of hostile) {
    const output = parseManifest(changed('/exports/read/output', schema)).exports['read']?.output;
    const check = compileSchema(output ?? {});
    const started = process.threadCpuUsage();
    t.match(check(value), [{ path: '', rule: 'bounded' }], what);
    const { user, system } = process.threadCpuUsage(started);
    t.ok(user + system < 1_000_000, `${what}: ${(user + system) / 1000} ms`);
    t.match(check(null), [{ rule: /type|anyOf/ }], 'and the next value is judged anew');
  }
  const rows = {
    type: 'array',
    items: {
      type: 'object',
      additionalProperties: false,
      required: ['id', 'kind'],
      properties: {
        id: pattern('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
        kind: { type: 'string', enum: keys(200).map(([key]) => key) },
      },
    },
  };
  const row = { id: '01234567-89ab-cdef-0123-456789abcdef', kind: 'k99' };
  t.same(compileSchema(rows)(Array.from({ length: 5000 }, () => row)), [], 'large lists are fine');
});

function pattern(text: string): object {
  return { type: 'string', pattern: text };
}

void t.test('text parameters are read as the types the schema wants, and no further', async (t) => {
  const read = compileCoercion({
    type: 'object',
    allOf: [{ type: 'object', properties: { deep: ref('flag') } }],
    properties: {
      n: { type: 'integer' },
      x: { type: ['number', 'null'] },
      flag: ref('flag'),
      either: { anyOf: [{ type: 'integer' }, { type: 'string' }] },
      list: { type: 'array', items: { type: 'number' } },
      pick: { enum: [1, 2] },
      text: { type: 'string' },
    },
    $defs: { flag: { type: 'boolean' } },
  });
  t.same(
    read({
      n: '42',
      x: '-1.5e3',
      flag: 'true',
      deep: 'false',
      either: '7',
      list: ['1', 'b'],
      pick: '2',
      text: '1',
    }),
    { n: 42, x: -1500, flag: true, deep: false, either: '7', list: [1, 'b'], pick: 2, text: '1' },
  );
  t.same(read({ n: '0x10', x: 'null', flag: '1', list: '3', unknown: '4', gone: undefined }), {
    n: '0x10',
    x: null,
    flag: '1',
    list: [3],
    unknown: '4',
  });
  t.same(read({ n: '', x: ' 1', pick: '01', text: ['a', 'b'] }), {
    n: '',
    x: ' 1',
    pick: '01',
    text: ['a', 'b'],
  });
  const poisoned = read(JSON.parse('{"__proto__":"x"}') as Record<string, string>);
  t.same(Object.keys(poisoned), ['__proto__']);
  t.equal(Object.getPrototypeOf(poisoned), Object.prototype);
});

void t.test('the largest schemas that are taken compile and check in bounded time', (t) => {
  const text = { type: 'string', format: 'date-time', maxLength: 30 };
  const of = <T>(count: number, value: T): { [name: string]: T } =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, value]));
  const time = '2026-01-01T00:00:00Z';
  for (const [what, schema, value] of [
    ['many members', { type: 'object', ...members(490, text) }, of(490, time)],
    [
      'one shared part in many places',
      {
        type: 'object',
        $defs: { part: { type: 'object', ...members(100, text) } },
        ...members(380, ref('part')),
      },
      of(380, of(100, time)),
    ],
    ['many required names', { type: 'object', required: Object.keys(of(1900, 0)) }, of(1900, 0)],
    [
      'names that require others',
      { type: 'object', dependentRequired: of(200, ['p0']) },
      of(200, 0),
    ],
  ] as const) {
    const started = process.threadCpuUsage();
    const input = parseManifest(changed('/exports/read/input', schema)).exports['read']?.input;
    const check = compileSchema(input ?? {});
    const compiled = process.threadCpuUsage(started);
    const millis = (compiled.user + compiled.system) / 1000;
    t.ok(millis < 5_000, `${what}: compiled in ${millis} ms`);
    t.same(check(value), [], what);
    t.same(check(value), [], 'and again');
  }
  t.end();
});

void t.test('the published schema is the schema, and it compiles strictly', async (t) => {
  t.doesNotThrow(() => compileSchema(MANIFEST_SCHEMA));
  const file = fileURLToPath(import.meta.resolve('@noa/sdk/plugin.schema.json'));
  t.same(JSON.parse(readFileSync(file, 'utf8')), MANIFEST_SCHEMA);
});

void t.test(
  'a schema is compiled once, by its content and options, and not kept for ever',
  async (t) => {
    const schema = { type: 'object', properties: { count: { type: 'integer', default: 7 } } };
    const check = compileSchema(schema);
    t.equal(compileSchema(structuredClone(schema)), check);
    const filled = {};
    t.same(compileSchema(schema, { defaults: true })(filled), []);
    t.same(filled, { count: 7 });
    const left = {};
    t.same(check(left), []);
    t.same(left, {}, 'the one without defaults fills nothing');
    for (let length = 1; length <= 300; length += 1)
      compileSchema({ type: 'string', maxLength: length });
    t.not(compileSchema(schema), check);
    t.match(check({ count: 'x' }), [{ path: '/count', rule: 'type' }], 'whoever has it goes on');
  },
);
