/**
 * Bundles and configuration: archives that write elsewhere or explode, manifests that pollute, loop or
 * stall, modules that are not what the manifest says. All of it is offered by an administrator who was
 * deceived; nothing of it may be installed, or what is installed must not run.
 */
import { createHash } from 'node:crypto';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { eventually } from '../e2e/running-host.ts';
import { assemble, packed, Target } from './target.ts';

const target = await Target.start(t, []);
const { host } = target;
const refusal = { kind: 'plugin.install', outcome: 'failed' };

const ECHO = assemble(`(module
  (import "extism:host/env" "input_offset" (func $at (result i64)))
  (import "extism:host/env" "input_length" (func $length (result i64)))
  (import "extism:host/env" "output_set" (func $output (param i64 i64)))
  (memory 1)
  (func (export "run") (result i32) (call $output (call $at) (call $length)) (i32.const 0)))`);
const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const manifest = (more: object = {}) => ({
  name: 'trojan',
  version: '1.0.0',
  noa: '^1.0.0',
  runtime: { kind: 'wasm', file: 'plugin.wasm', sha256: digest(ECHO) },
  exports: { run: {} },
  ...more,
});

const NATIVE = Buffer.from('export default { run: () => process.exit() };');

interface Entry {
  readonly name: string;
  readonly content?: string | Uint8Array;
  /** ustar's type flag: 0 file, 1 hard link, 2 symbolic link, 3 device, 5 folder, x and L extensions. */
  readonly type?: string;
  readonly link?: string;
  /** What the header says of the size, as it stands there. */
  readonly size?: string;
  readonly checksum?: string;
}

/** An archive (POSIX ustar) as it should not be written. */
function tar(entries: readonly Entry[]): Buffer {
  const blocks = entries.flatMap(
    ({ name, content = '', type = '0', link = '', size, checksum }) => {
      const data = Buffer.from(content);
      const header = Buffer.alloc(512);
      header.write(name, 0, 100, 'latin1');
      header.write('0000644\u00000000000\u00000000000\u0000', 100, 'latin1');
      header.write(size ?? data.length.toString(8).padStart(11, '0'), 124, 12, 'latin1');
      header.write('00000000000', 136, 12, 'latin1');
      header.write('        ' + type, 148, 'latin1');
      header.write(link, 157, 100, 'latin1');
      header.write('ustar\u000000', 257, 'latin1');
      const sum = header.reduce((total, byte) => total + byte, 0);
      header.write(checksum ?? `${sum.toString(8).padStart(6, '0')}\u0000 `, 148, 8, 'latin1');
      return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
    },
  );
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

const whole: Entry[] = [
  { name: 'plugin.json', content: JSON.stringify(manifest()) },
  { name: 'plugin.wasm', content: ECHO },
];
const archive = (...more: Entry[]) => gzipSync(tar([...whole, ...more]));

/** Why each is refused: another reason would leave the defence untried. */
const REASONS: { readonly [what: string]: string } = {
  up: 'not a safe path',
  'up inside': 'not a safe path',
  absolute: 'not a safe path',
  'a drive': 'not a safe path',
  backslashes: 'not a safe path',
  'a symbolic link': 'a symbolic link',
  'a link, then a write through it': 'a symbolic link',
  'a hard link': 'a hard link',
  'a character device': 'a character device',
  'a block device': 'a block device',
  'a pipe': 'a pipe',
  'another name by a pax header': 'header that sets path',
  'another name by a GNU header': 'an entry of unknown kind',
  'one name twice': '"plugin.wasm" twice',
  'a file that nobody asked for': 'does not belong in it',
  'a compressed bomb': 'unpacks to more than',
  'a bomb of one file': 'unpacks to more than',
  'a bomb in members': 'unpacks to more than',
  'a hundred thousand entries': 'more than 512 entries',
  'a size beyond the end': 'is cut off',
  'a negative size': 'is damaged',
  'a size in base 256': 'is damaged',
  'a wrong checksum': 'is damaged',
  'cut off': 'is damaged',
  'not gzip': 'not a gzip archive',
  'nothing in it': 'is cut off',
  'a tar without gzip': 'not a gzip archive',
  'another module than the digest': 'whose SHA-256 is',
  'a module that is not there': 'holds no plugin.wasm',
  'no manifest': 'holds no plugin.json',
  'a module outside': '/runtime/file must match',
  'an export that the module has not': 'names the export "absent"',
  'a first-party runtime': '/runtime/kind',
  'a native runtime': 'allow_native',
  'a prototype': '/__proto__ is not a usable key',
  'an export called __proto__': '/exports/__proto__ is not a usable key',
  'an unknown key': '/grants is not a known key',
  'a name of the host': '/name is a reserved name',
  'a name of the database': '/name is a reserved name',
  'a name that is a path': '/name must match',
  'a version that is a path': '/version must match',
  'a route that climbs': '/contributes/routes/0/path must match',
  'three megabytes': 'is longer than',
  'a million levels': 'levels deep',
  'a schema from elsewhere': 'leads to no schema inside',
  'a schema of the machine': 'leads to no schema inside',
  'a schema that is itself': 'check of one part of a value too long',
  'a schema that doubles at each level': 'more than 500 schemas',
  'a pattern of ten thousand states': 'a pattern of up to',
  'a pattern with a look-behind': 'error parsing regexp',
  'thousands of properties': 'more than 500 schemas',
  'no module': 'not a WebAssembly 1.0 module',
  'half a module': 'cut short',
  'a module and more': 'cut short',
  'an import of another WASI': 'only preview 1',
  'an import of the host’s inside': 'which this host does not provide',
  'an import with another type': 'its type is',
  'an imported memory': 'imports the memory',
  'two memories': 'has 2 memories',
  'four gigabytes': 'over limits.memoryMiB',
  'a table of a billion': 'a table of 1000000000 slots',
  'a name kept for the host': 'kept for the host',
  'a start that never ends': 'did not end within',
  'a start that traps': 'trapped',
  'a start that recurses': 'stack overflow',
};

/** All are refused, each for its own reason, and nothing is installed. */
async function refused(t: Test, bundles: Record<string, Uint8Array>) {
  for (const [what, bundle] of Object.entries(bundles)) {
    const { status, body } = await target.offer(bundle);
    t.match({ status, body }, { status: /^4(00|13)$/, body: { detail: REASONS[what] } }, what);
    t.ok(REASONS[what], `${what} has a reason`);
  }
  t.match(await host.get('/v1/plugins/trojan'), { status: 404 });
}

target.attack('archives that reach out of their place', { audit: refusal }, async (t) => {
  const evil = { content: 'evil' };
  await refused(t, {
    up: archive({ name: '../../noa-was-here', ...evil }),
    'up inside': archive({ name: 'migrations/../../noa-was-here', ...evil }),
    absolute: archive({ name: '/tmp/noa-was-here', ...evil }),
    'a drive': archive({ name: 'C:\\noa-was-here', ...evil }),
    backslashes: archive({ name: '..\\..\\noa-was-here', ...evil }),
    'a symbolic link': archive({ name: 'README.md', type: '2', link: '/etc/passwd' }),
    'a link, then a write through it': archive(
      { name: 'migrations', type: '2', link: '/tmp' },
      { name: 'migrations/noa-was-here', ...evil },
    ),
    'a hard link': archive({ name: 'LICENSE', type: '1', link: '/etc/passwd' }),
    'a character device': archive({ name: 'README.md', type: '3' }),
    'a block device': archive({ name: 'README.md', type: '4' }),
    'a pipe': archive({ name: 'README.md', type: '6' }),
    'another name by a pax header': archive(
      { name: 'x', type: 'x', content: '30 path=../../noa-was-here\n' },
      { name: 'README.md', ...evil },
    ),
    'another name by a GNU header': archive(
      { name: '././@LongLink', type: 'L', content: '../../noa-was-here\u0000' },
      { name: 'README.md', ...evil },
    ),
    'one name twice': archive({ name: 'plugin.wasm', ...evil }),
    'a file that nobody asked for': archive({ name: '.bashrc', ...evil }),
  });
  for (const place of ['/tmp/noa-was-here', join(host.dataPath, '../noa-was-here')]) {
    await t.rejects(access(place));
  }
});

target.attack('archives that explode or lie about their size', { audit: refusal }, async (t) => {
  const zeros = Buffer.alloc(64 << 20);
  const header = tar([{ name: 'README.md', size: '77777777777' }]).subarray(0, 512);
  await refused(t, {
    'a compressed bomb': gzipSync(Buffer.concat([tar(whole), zeros, zeros, zeros, zeros])),
    'a bomb of one file': gzipSync(Buffer.concat([header, zeros, zeros])),
    'a bomb in members': Buffer.concat(
      Array.from({ length: 40 }, () => gzipSync(zeros.subarray(0, 8 << 20))),
    ),
    'a hundred thousand entries': gzipSync(
      tar(Array.from({ length: 100_000 }, (_, i) => ({ name: `migrations/${i}.sql` }))),
    ),
    'a size beyond the end': gzipSync(tar([...whole, { name: 'README.md', size: '00077777777' }])),
    'a negative size': gzipSync(tar([...whole, { name: 'README.md', size: '-0000000001' }])),
    'a size in base 256': gzipSync(
      tar([...whole, { name: 'README.md', size: '\u00ff'.repeat(12) }]),
    ),
    'a wrong checksum': gzipSync(tar([...whole, { name: 'README.md', checksum: '000000\u0000 ' }])),
    'cut off': archive().subarray(0, 200),
    'not gzip': Buffer.from('plugin'),
    'nothing in it': gzipSync(Buffer.alloc(0)),
    'a tar without gzip': tar(whole),
  });
});

target.attack('something else than what was promised', { audit: refusal }, async (t) => {
  const other = assemble('(module (memory 1) (func (export "run") (result i32) (i32.const 0)))');
  const json = (value: object) => ({ name: 'plugin.json', content: JSON.stringify(value) });
  const wasm = { name: 'plugin.wasm', content: ECHO };
  await refused(t, {
    'another module than the digest': gzipSync(
      tar([json(manifest()), { ...wasm, content: other }]),
    ),
    'a module that is not there': gzipSync(tar([json(manifest())])),
    'no manifest': gzipSync(tar([wasm])),
    'a module outside': gzipSync(
      tar([json(manifest({ runtime: { kind: 'wasm', file: '../../etc/passwd' } })), wasm]),
    ),
    'an export that the module has not': packedRaw(manifest({ exports: { absent: {} } })),
    'a first-party runtime': packedRaw(
      manifest({ runtime: { kind: 'builtin', file: 'plugin.wasm' } }),
    ),
    'a native runtime': gzipSync(
      tar([
        json(manifest({ runtime: { kind: 'native', file: 'plugin.mjs', sha256: digest(NATIVE) } })),
        { name: 'plugin.mjs', content: NATIVE },
      ]),
    ),
  });
  const good = await packed(manifest({ name: 'harmless' }), ECHO);
  t.match(
    await host.request('PUT', '/v1/plugins/notes', good),
    { status: 400 },
    'as another plugin',
  );
});

/** Without the SDK's own check of the manifest. */
function packedRaw(value: object | string): Uint8Array {
  const content = typeof value === 'string' ? value : JSON.stringify(value);
  return gzipSync(
    tar([
      { name: 'plugin.json', content },
      { name: 'plugin.wasm', content: ECHO },
    ]),
  );
}

target.attack(
  'manifests that pollute, stall or take names of others',
  { audit: refusal },
  async (t) => {
    const input = (schema: object) => packedRaw(manifest({ exports: { run: { input: schema } } }));
    const nested = (depth: number): object =>
      depth === 0 ? { type: 'string' } : { allOf: [nested(depth - 1), nested(depth - 1)] };
    await refused(t, {
      'a prototype': packedRaw(
        JSON.stringify(manifest()).replace('{', '{"__proto__":{"admin":true},'),
      ),
      'an export called __proto__': packedRaw(
        JSON.stringify(manifest()).replace('"run":{}', '"__proto__":{}'),
      ),
      'an unknown key': packedRaw(manifest({ grants: ['*'] })),
      'a name of the host': packedRaw(manifest({ name: 'noa' })),
      'a name of the database': packedRaw(manifest({ name: 'pg-catalog' })),
      'a name that is a path': packedRaw(manifest({ name: '../notes' })),
      'a version that is a path': packedRaw(manifest({ version: '1.0.0/../../x' })),
      'a route that climbs': packedRaw(
        manifest({
          contributes: { routes: [{ method: 'GET', path: '/../../v1/grants', export: 'run' }] },
        }),
      ),
      'three megabytes': packedRaw(manifest({ description: 'x'.repeat(3 << 20) })),
      'a million levels': packedRaw('['.repeat(500_000) + ']'.repeat(500_000)),
      'a schema from elsewhere': input({ $ref: 'http://169.254.169.254/schema.json' }),
      'a schema of the machine': input({ $ref: 'file:///etc/passwd' }),
      'a schema that is itself': input({ $ref: '#' }),
      'a schema that doubles at each level': input(nested(12)),
      'a pattern of ten thousand states': input({ type: 'string', pattern: '(a{1,100}){1,100}$' }),
      'a pattern with a look-behind': input({ type: 'string', pattern: '(?<=a)\\1' }),
      'thousands of properties': input({
        type: 'object',
        properties: Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`p${i}`, {}])),
      }),
    });
  },
);

target.attack(
  'a pattern that explodes elsewhere is linear here',
  { audit: { kind: 'plugin.install', outcome: 'ok', plugin: 'patient' } },
  async (t) => {
    const schema = { type: 'string', pattern: '^(a+)+$' };
    const config = { type: 'object', properties: { x: { ...schema, default: 'a' } } };
    const exports = { run: { input: schema } };
    t.match(
      await target.offer(await packed(manifest({ name: 'patient', exports, config }), ECHO)),
      {
        status: 201,
      },
    );
    const started = performance.now();
    const answer = await target.call('patient', 'run', 'a'.repeat(50_000) + '!');
    t.match(answer, { status: 400, body: { code: 'INVALID_ARGUMENT' } });
    t.comment(`answered in ${Math.round(performance.now() - started)} ms`);
  },
);

target.attack(
  'plugins that need each other in a circle',
  { audit: { kind: 'plugin.install', plugin: 'ring-c' } },
  async (t) => {
    for (const [name, next] of [
      ['ring-a', 'ring-b'],
      ['ring-b', 'ring-c'],
      ['ring-c', 'ring-a'],
    ] as const) {
      const needs = [{ plugin: next, version: '*' }];
      const { status } = await target.offer(await packed(manifest({ name, needs }), ECHO));
      t.ok([201, 400, 409].includes(status));
    }
    const { body } = await host.get('/v1/plugins/ring-c');
    t.match(JSON.stringify(body), /ring-a.*ring-b|ring-b.*ring-a/, 'the circle is named');
    t.not((await target.call('ring-c', 'run', 1)).status, 200);
    t.match(await host.get('/ready'), { status: 200 });
  },
);

target.attack(
  'migrations that are no plugin’s business',
  { audit: { kind: 'grant.approve', plugin: 'digger' } },
  async (t) => {
    const capabilities = [
      { capability: 'db', operations: ['query'], resources: ['digger.*'], reason: 'Digs.' },
    ];
    const value = manifest({ name: 'digger', capabilities });
    const evil = [
      'drop schema noa cascade;',
      'drop table notes.notes;',
      "copy (select 1) to program 'touch /tmp/noa-was-here';",
      'alter role current_user superuser;',
    ];
    for (const [i, sql] of evil.entries()) {
      const bundle = gzipSync(
        tar([
          { name: 'plugin.json', content: JSON.stringify({ ...value, version: `1.0.${i}` }) },
          { name: 'plugin.wasm', content: ECHO },
          { name: `migrations/000${i}_dig.sql`, content: sql },
        ]),
      );
      const put = i === 0 ? undefined : await host.request('PUT', '/v1/plugins/digger', bundle);
      const answer = put ?? (await target.offer(bundle));
      t.ok([200, 201].includes(answer.status), `${sql} ${JSON.stringify(answer.body)}`);
      if (i === 0) await host.approve('digger').catch(() => undefined);
      await eventually('it is seen to fail', async () => {
        const { body } = await host.get('/v1/plugins/digger');
        return ['failed', 'quarantined', 'pending'].includes(String(body['state']));
      });
      t.not((await target.call('digger', 'run', 1)).status, 200, sql);
    }
    await t.rejects(access('/tmp/noa-was-here'));
    t.match(await host.request('DELETE', '/v1/plugins/digger'), { status: 204 });
  },
);

target.attack('modules that are no honest plugin', { audit: refusal }, async (t) => {
  const body = '(memory 1) (func (export "run") (result i32) (i32.const 0))';
  const offers: Record<string, string> = {
    'an import of another WASI': `(module (import "wasi_unstable" "proc_exit" (func (param i32))) ${body})`,
    'an import of the host’s inside': `(module (import "noa" "grant" (func)) ${body})`,
    'an import with another type': `(module (import "extism:host/env" "alloc" (func (param i32) (result i32))) ${body})`,
    'an imported memory':
      '(module (import "env" "memory" (memory 1)) (func (export "run") (result i32) (i32.const 0)))',
    'two memories': `(module (memory 1) (memory $m 1) (func (export "run") (result i32) (i32.const 0)))`,
    'four gigabytes': '(module (memory 65536) (func (export "run") (result i32) (i32.const 0)))',
    'a table of a billion': `(module (table 1000000000 funcref) ${body})`,
    'a name kept for the host': `(module ${body} (func (export "noa:memory")))`,
    'a start that never ends': `(module ${body} (func $spin (loop $l (br $l))) (start $spin))`,
    'a start that traps': `(module ${body} (func $trap unreachable) (start $trap))`,
    'a start that recurses': `(module ${body} (func $deep (call $deep)) (start $deep))`,
  };
  const modules: Record<string, Uint8Array> = {
    'no module': Buffer.from('MZ\u0090\u0000'),
    'half a module': ECHO.subarray(0, ECHO.length - 5),
    'a module and more': Buffer.concat([ECHO, Buffer.from('more')]),
  };
  for (const [what, wat] of Object.entries(offers)) modules[what] = assemble(wat);
  const bundles: Record<string, Uint8Array> = {};
  for (const [what, wasm] of Object.entries(modules)) {
    const runtime = { kind: 'wasm', file: 'plugin.wasm', sha256: digest(wasm) };
    const content = JSON.stringify(manifest({ runtime }));
    bundles[what] = gzipSync(
      tar([
        { name: 'plugin.json', content },
        { name: 'plugin.wasm', content: wasm },
      ]),
    );
  }
  await refused(t, bundles);
});

target.aftermath();
