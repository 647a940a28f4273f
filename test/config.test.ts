/** Configuration: every source in its place, every fault named with its fix, nothing secret shown. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { stringify } from 'smol-toml';
import t, { type Test } from 'tap';
import {
  type Config,
  ConfigError,
  configChanges,
  type Finding,
  inspectConfig,
  loadConfig,
  type LoadOptions,
} from '../host/config.ts';
import { defaultsFile, reference } from '../host/config/document.ts';
import { KEY_LIST } from '../host/config/keys.ts';

const ROOT = join(import.meta.dirname, '..');
const TOKEN = 'a-token-that-is-longer-than-32-characters';

/** A working folder of its own with these files. */
function folder(t: Test, files: Readonly<Record<string, string>> = {}): string {
  const dir = t.testdir();
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), text);
  }
  return dir;
}

function load(cwd: string, options: Partial<LoadOptions> = {}): Config {
  return loadConfig({ env: {}, cwd, ...options });
}

function faults(cwd: string, options: Partial<LoadOptions> = {}): readonly Finding[] {
  try {
    load(cwd, options);
  } catch (error) {
    if (error instanceof ConfigError) return error.details as Finding[];
    throw error;
  }
  return [];
}

t.test('without any source every key has its default, and the whole is frozen', async (t) => {
  const cwd = folder(t);
  const config = load(cwd);
  t.match(config, {
    server: { host: '127.0.0.1', port: 8080 },
    data: { path: join(cwd, '.noa') },
    inference: { device: 'auto', max_batch_size: 32, timeout_ms: 5000 },
    observability: { log_level: 'info', log_format: undefined, metrics_bind: '127.0.0.1' },
  });
  t.equal(config.database.url, undefined);
  t.throws(() => Object.assign(config.server, { port: 1 }), TypeError);
  t.throws(() => Object.assign(config, { server: {} }), TypeError);
});

t.test('each source outranks the one below it', async (t) => {
  const cwd = folder(t, {
    'config/default.toml':
      '[server]\nport = 1001\nhost = "10.0.0.1"\ndrain_ms = 1\n[data]\npath = "d"\n',
    'config/production.toml': '[server]\nport = 1002\nhost = "10.0.0.2"\ndrain_ms = 2\n',
    'mine.toml': 'server = { port = 1003, host = "10.0.0.3" }\n',
  });
  const env = { NOA_SERVER__PORT: '1004' };
  const flags = { 'server.port': '1005' };
  const at = (options: Partial<LoadOptions>) => load(cwd, options).server;
  t.match(at({}), { port: 1001, host: '10.0.0.1', drain_ms: 1 });
  t.match(at({ profile: 'production' }), { port: 1002, host: '10.0.0.2', drain_ms: 2 });
  const named = { profile: 'production', file: 'mine.toml' };
  t.match(at(named), { port: 1003, host: '10.0.0.3', drain_ms: 2 });
  t.match(at({ ...named, env }), { port: 1004, host: '10.0.0.3', drain_ms: 2 });
  t.match(at({ ...named, env, flags }), { port: 1005, host: '10.0.0.3', drain_ms: 2 });
  const fromEnv = { NOA_PROFILE: 'production', NOA_CONFIG: join(cwd, 'mine.toml') };
  t.match(at({ env: fromEnv }), { port: 1003, drain_ms: 2 }, 'the environment names files too');
  t.equal(load(cwd).data.path, join(cwd, 'd'), 'relative paths start at the working folder');

  const { entries } = inspectConfig({ cwd, ...named, env, flags });
  const source = (path: string) => entries.find((entry) => entry.path === path)?.source;
  t.equal(source('server.port'), '--port');
  t.equal(source('server.host'), 'mine.toml');
  t.equal(source('server.drain_ms'), 'config/production.toml:4');
  t.equal(source('data.path'), 'config/default.toml:6');
  t.equal(source('cache.url'), 'default');
});

t.test('all that is wrong with a list of tables is told at once, each with its place', (t) => {
  const routes = [
    { name: 'a', path: 'b', bogus: 2 },
    { name: 'c', path: '/c', upstreams: [] },
  ];
  const env = { NOA_GATEWAY__ROUTES: JSON.stringify(routes) };
  try {
    loadConfig({ env, cwd: t.testdir() });
    t.fail('it was taken');
  } catch (error) {
    const text = String(error);
    for (const place of ['/0/upstreams is required', '/0/bogus', '/0/path', '/1/upstreams']) {
      t.ok(text.includes(place), `${place} in ${text}`);
    }
  }
  t.end();
});

t.test('every key can be set by a file, and by a variable of its name', async (t) => {
  const samples: Readonly<Record<string, string | number | boolean | (string | object)[]>> = {
    'plugins.allow_native': true,
    'plugins.approve_builtin': false,
    'plugins.native': [`/srv/tool.mjs@sha256:${'0a'.repeat(32)}`],
    'plugins.http_private_hosts': ['billing.internal', '10.0.0.1', '::1'],
    'plugins.builtin': ['inference'],
    'plugins.untrusted': ['my-notes', 'digest'],
    'inference.untrusted': ['mine', 'group-*'],
    'server.host': '::1',
    'database.url': 'postgres://u:p@localhost/noa',
    'cache.url': 'rediss://localhost:6380/1',
    'qdrant.url': 'http://localhost:6333',
    'qdrant.api_key': 'key',
    'inference.device': 'cpu',
    'auth.bootstrap_token': TOKEN,
    'auth.root_key': Buffer.alloc(32, 7).toString('base64'),
    'auth.token_life_seconds': 61,
    'auth.issuer': 'https://noa.example',
    'auth.issuers': [
      {
        name: 'corp',
        issuer: 'https://id.example',
        audience: 'noa',
        jwks_url: 'http://127.0.0.1:9/keys',
        algorithms: ['ES256'],
        claim: 'groups',
        map: [{ value: 'staff', scopes: ['plugins:call'], roles: ['staff'] }],
        level: 'L2',
      },
    ],
    'observability.log_level': 'trace',
    'observability.log_format': 'pretty',
    'observability.metrics_bind': 'metrics.internal',
    'server.grpc_reflection': 'off',
    'server.openapi': 'authenticated',
    'gateway.default_policy': 'deny',
    'gateway.policies': [{ name: 'no-removal', effect: 'deny', operations: ['DELETE *'] }],
    'server.allowed_origins': ['https://console.example.com'],
    'observability.otlp_endpoint': 'https://collector:4318',
    'observability.otlp_headers': 'authorization=Bearer abc,x-tenant=7',
    'observability.service_name': 'noa-eu',
    'observability.trace_ratio': 0.25,
    'observability.trace_parent': 'ignore',
  };
  for (const { path, variable, key } of KEY_LIST) {
    // What fits only together, or is more than it was, has a test of its own.
    if (path.startsWith('server.tls.')) continue;
    if (path === 'gateway.routes' || path === 'inference.upstreams') continue;
    const fallback = typeof key.default === 'number' ? key.default + 1 : '/some/path';
    const sample = path === 'server.workers' ? 1 : (samples[path] ?? fallback);
    const names = path.split('.');
    const tree = names.reduceRight<unknown>((below, name) => ({ [name]: below }), sample);
    const cwd = folder(t, { 'x.toml': stringify(tree) });
    const read = (options: Partial<LoadOptions>): unknown =>
      names.reduce<unknown>(
        (at, name) => (typeof at === 'object' && at !== null ? Reflect.get(at, name) : undefined),
        load(cwd, options),
      );
    t.strictSame(read({ file: 'x.toml' }), sample, `${path} from a file`);
    const isTables = Array.isArray(sample) && typeof sample[0] === 'object';
    const text = isTables ? JSON.stringify(sample) : `${sample as string | number | boolean}`;
    t.strictSame(read({ env: { [variable]: text } }), sample, `${path} from ${variable}`);
  }
});

t.test(
  'native plugins are allowed by true alone, and listed by path and whole digest',
  async (t) => {
    const cwd = folder(t);
    const digest = `@sha256:${'0a'.repeat(32)}`;
    const listed = { NOA_PLUGINS__NATIVE: `lib/a.mjs${digest}, /b@c.js${digest}` };
    t.strictSame(load(cwd, { env: listed }).plugins.native, [
      `${join(cwd, 'lib/a.mjs')}${digest}`,
      `/b@c.js${digest}`,
    ]);
    t.equal(load(cwd, { env: listed }).plugins.allow_native, false);
    for (const value of ['yes', '1', 'TRUE']) {
      const found = faults(cwd, { env: { NOA_PLUGINS__ALLOW_NATIVE: value } });
      t.match(found, [{ path: 'plugins.allow_native' }], value);
    }
    for (const value of ['/a.mjs', digest, `/a.mjs${digest.slice(0, -1)}`, `/a${digest}0`, '*']) {
      const found = faults(cwd, { env: { NOA_PLUGINS__NATIVE: value } });
      t.match(found, [{ path: 'plugins.native' }], value);
    }
  },
);

t.test('an unknown key names its place and the key it resembles', async (t) => {
  const cwd = folder(t, {
    'x.toml': '[server]\nprot = 1\n\n[sevrer]\nport = 1\n\n[data]\nlog_level = "info"\nzzz = 1\n',
  });
  t.strictSame(faults(cwd, { file: 'x.toml' }), [
    {
      path: 'server.prot',
      message: 'is not a known key',
      source: 'x.toml:2',
      fix: 'Write server.port, or remove it.',
    },
    {
      path: 'sevrer',
      message: 'is not a known key',
      source: 'x.toml:4',
      fix: 'Write server, or remove it.',
    },
    {
      path: 'data.log_level',
      message: 'is not a known key',
      source: 'x.toml:8',
      fix: 'Write observability.log_level, or remove it.',
    },
    { path: 'data.zzz', message: 'is not a known key', source: 'x.toml:9', fix: 'Remove it.' },
  ]);
  const inherited = folder(t, { 'x.toml': '[constructor]\nx = 1\n[server]\ntoString = 1\n' });
  t.match(faults(folder(t, { 'x.toml': '"" = 1\n"a b".c = 1\n' }), { file: 'x.toml' }), [
    { path: '""' },
    { path: '"a b"' },
  ]);
  t.not(faults(inherited, { file: 'x.toml' }).length, 0, 'names that objects inherit are no keys');
});

t.test('an unknown NOA_ variable is a fault; what others set beside it is not', async (t) => {
  const cwd = folder(t);
  const fixes = Object.fromEntries(
    faults(cwd, {
      env: { NOA_SERVR__PORT: '1', NOA_PORT: '1', NOA_SERVER_PORT: '1', NOA_QQQQQQ: '1' },
    }).map(({ path, fix }) => [path, fix]),
  );
  t.strictSame(fixes, {
    NOA_SERVR__PORT: 'Write NOA_SERVER__PORT, or unset it.',
    NOA_PORT: 'Write NOA_SERVER__PORT, or unset it.',
    NOA_SERVER_PORT: 'Write NOA_SERVER__PORT, or unset it.',
    NOA_QQQQQQ: 'Unset it.',
  });
  const foreign = {
    NOA_URL: 'http://x',
    NOA_TOKEN: 'x',
    NOA_TEST_ANYTHING: '1',
    NOAH: '1',
    // What Kubernetes sets in a pod beside a service named noa.
    NOA_SERVICE_HOST: '10.0.0.1',
    NOA_SERVICE_PORT_HTTP: '8080',
    NOA_PORT: 'tcp://10.0.0.1:8080',
    NOA_PORT_8080_TCP_ADDR: '10.0.0.1',
    NOA_METRICS_PORT_9100_TCP_PROTO: 'tcp',
  };
  t.strictSame(faults(cwd, { env: foreign }), []);
  t.equal(load(cwd, { env: { NOA_SERVER__PORT: '' } }).server.port, 8080, 'empty means unset');
});

t.test(
  'a wrong value is reported with its rule, what was given, and a fix; all at once',
  async (t) => {
    const cwd = folder(t, { 'x.toml': '[server]\nport = "http"\n[inference]\ndevice = "gpu"\n' });
    const env = {
      NOA_SERVER__DRAIN_MS: '-1',
      NOA_DATABASE__URL: 'mysql://u:hidden@h/d',
      NOA_DATA__PATH: 'a\0b',
    };
    const flags = { 'observability.metrics_port': '65536' };
    const found = faults(cwd, { file: 'x.toml', env, flags });
    t.same(
      found.map(({ path, source }) => [path, source]),
      [
        ['server.port', 'x.toml:2'],
        ['server.drain_ms', 'environment NOA_SERVER__DRAIN_MS'],
        ['data.path', 'environment NOA_DATA__PATH'],
        ['database.url', 'environment NOA_DATABASE__URL'],
        ['inference.device', 'x.toml:4'],
        ['observability.metrics_port', '--metrics-port'],
      ],
    );
    t.match(found[0], {
      message: 'must be a whole number from 0 to 65535, not "http"',
      fix: 'Give such a value, or leave it out, which gives 8080.',
    });
    t.equal(found[4]?.message, 'must be one of auto, cpu, cuda, not "gpu"');
    t.notMatch(JSON.stringify(found), 'hidden', 'a secret is not repeated');

    for (const [path, wrong] of [
      ['server.port', [1.5, true, [8080], { a: 1 }, 65_536, -1, 2n ** 60n]],
      ['server.host', ['', 'a b', 'http://x', 'x/y', 7]],
      ['cache.url', ['localhost:6379', 'redis://', 'http://x', 5]],
      ['auth.bootstrap_token', ['short', 'x'.repeat(31), `${'x'.repeat(31)} y`, 'x'.repeat(513)]],
      ['auth.root_key', ['x', Buffer.alloc(31).toString('base64'), `${'x'.repeat(60)}!`]],
      ['observability.log_level', ['verbose', 'INFO', 1]],
    ] as const) {
      const [section = '', name = ''] = path.split('.');
      for (const value of wrong) {
        const at = folder(t, { 'x.toml': stringify({ [section]: { [name]: value } }) });
        t.match(faults(at, { file: 'x.toml' })[0]?.path ?? '', path, `wrong values of ${path}`);
      }
    }
  },
);

t.test('a file that is not there, not readable or not TOML is one fault', async (t) => {
  const cwd = folder(t, {
    'x.toml': '[server]\nport = = 1\n',
    'y.toml': '[server]\nport = 1\nport = 2\n',
  });
  t.match(faults(cwd, { file: 'none.toml' }), [{ path: 'none.toml', message: /ENOENT/ }]);
  t.match(faults(cwd, { file: '.' }), [{ message: /EISDIR/ }]);
  t.match(faults(cwd, { file: 'x.toml' }), [{ message: /is not TOML/, source: /^x\.toml:2:/ }]);
  t.match(faults(cwd, { file: 'y.toml' }), [{ message: /is not TOML/, source: /^y\.toml:3:/ }]);
  t.match(faults(cwd, { profile: 'none' }), [{ path: 'none', source: '--profile' }]);
  t.match(faults(cwd, { profile: '../x' }), [{ path: '../x' }], 'a profile is a name, not a path');
  t.match(faults(cwd, { env: { NOA_PROFILE: 'none' } }), [{ source: 'environment NOA_PROFILE' }]);
  t.match(faults(folder(t, { 'z.toml': 'server = 1\n' }), { file: 'z.toml' }), [
    { path: 'server', message: 'is a section, not a value', fix: 'Write a table: [server].' },
  ]);
});

t.test('a secret may be a reference to a variable or a file', async (t) => {
  const cwd = folder(t, { token: `${TOKEN}\n`, 'short.txt': 'short' });
  const token = (reference: string, env = {}) =>
    load(cwd, { env: { ...env, NOA_AUTH__BOOTSTRAP_TOKEN: reference } }).auth.bootstrap_token;
  t.equal(token('env:ADMIN', { ADMIN: TOKEN }), TOKEN);
  t.equal(token('env:NOA_ADMIN', { NOA_ADMIN: TOKEN }), TOKEN, 'whatever its name');
  t.equal(token('file:token'), TOKEN, 'relative to the working folder, without the last newline');
  t.equal(token(`file:${join(cwd, 'token')}`), TOKEN);
  const fault = (reference: string) =>
    faults(cwd, { env: { NOA_AUTH__BOOTSTRAP_TOKEN: reference } });
  t.match(fault('env:NONE'), [
    { path: 'auth.bootstrap_token', message: /variable NONE, which is not set/ },
  ]);
  t.match(fault('file:none'), [{ message: /file none, which cannot be read: ENOENT/ }]);
  t.match(fault('file:short.txt'), [
    { message: 'must be 32 to 512 printable ASCII characters without white space' },
  ]);
  t.match(
    faults(cwd, { env: { NOA_DATA__PATH: 'env:X', NOA_SERVER__HOST: 'env:X' } }),
    [{ path: 'server.host' }],
    'only secrets are references',
  );
});

t.test('what is shown of a secret is that it is set', async (t) => {
  const env = {
    NOA_AUTH__BOOTSTRAP_TOKEN: TOKEN,
    NOA_DATABASE__URL: 'postgres://u:hunter2@h/d',
    NOA_QDRANT__API_KEY: 'env:KEY',
    KEY: 'hunter2',
  };
  const { entries } = inspectConfig({ env, cwd: folder(t) });
  const shown = entries.filter(({ value }) => value === '[redacted]').map(({ path }) => path);
  t.strictSame(shown, ['database.url', 'qdrant.api_key', 'auth.bootstrap_token']);
  t.notMatch(JSON.stringify(entries), 'hunter2');
  t.notMatch(JSON.stringify(entries), TOKEN);
});

t.test('the settings of TLS are taken together or refused with what is missing', async (t) => {
  const cwd = folder(t);
  const tls = (names: Record<string, string>) =>
    Object.fromEntries(
      Object.entries(names).map(([name, value]) => [`NOA_SERVER__TLS__${name}`, value]),
    );
  const whole = { CERT_PATH: 'cert.pem', KEY_PATH: 'key.pem', CLIENT_CA_PATH: '/ca.pem' };
  t.match(load(cwd, { env: tls(whole) }).server.tls, {
    cert_path: join(cwd, 'cert.pem'),
    key_path: join(cwd, 'key.pem'),
    client_ca_path: '/ca.pem',
    development: false,
  });
  for (const right of [{ DEVELOPMENT: 'true' }, { DEVELOPMENT: 'true', CLIENT_CA_PATH: '/ca' }]) {
    t.equal(load(cwd, { env: tls(right) }).server.tls.development, true);
  }
  for (const [wrong, path, fix] of [
    [{ CERT_PATH: 'c' }, 'server.tls.cert_path', /Set server\.tls\.key_path/],
    [{ KEY_PATH: 'k' }, 'server.tls.key_path', /Set server\.tls\.cert_path/],
    [{ CLIENT_CA_PATH: 'a' }, 'server.tls.client_ca_path', /server\.tls\.key_path too/],
    [{ DEVELOPMENT: 'true', CERT_PATH: 'c', KEY_PATH: 'k' }, 'server.tls.development', /Remove it/],
    [{ DEVELOPMENT: 'true', KEY_PATH: 'k' }, 'server.tls.development', /Remove it/],
  ] as const) {
    const found = faults(cwd, { env: tls(wrong) });
    t.equal(found.length, 1);
    t.match(found, [{ path, fix }]);
  }
});

t.test('settings that do not go together are refused', async (t) => {
  const cwd = folder(t);
  const same = { 'server.port': '9100' };
  t.match(faults(cwd, { flags: same }), [
    { path: 'observability.metrics_port', message: /same as/ },
  ]);
  t.strictSame(
    faults(cwd, { flags: { 'server.port': '0', 'observability.metrics_port': '0' } }),
    [],
  );
});

t.test('of changed keys it is known which ones a running host can take', async (t) => {
  const cwd = folder(t);
  const before = load(cwd);
  const after = load(cwd, { flags: { 'observability.log_level': 'debug', 'server.port': '81' } });
  t.strictSame(configChanges(before, after), {
    reloadable: ['observability.log_level'],
    needRestart: ['server.port'],
  });
  t.strictSame(configChanges(before, load(cwd)), { reloadable: [], needRestart: [] });
  const env = { NOA_PLUGINS__HTTP_PRIVATE_HOSTS: 'a.internal, ::1' };
  t.strictSame(configChanges(load(cwd, { env }), load(cwd, { env })).needRestart, [], 'a list too');
  t.strictSame(configChanges(before, load(cwd, { env })).needRestart, [
    'plugins.http_private_hosts',
  ]);
});

t.test('config/default.toml and config/README.md say what the table says', async (t) => {
  const read = (name: string) => readFileSync(join(ROOT, 'config', name), 'utf8');
  const stale = 'run node .ci/references.ts';
  t.equal(read('default.toml'), defaultsFile(), stale);
  t.equal(read('README.md'), reference(), stale);
  const cwd = folder(t, { 'config/default.toml': '' });
  t.strictSame(load(cwd), load(cwd, { file: join(ROOT, 'config/default.toml') }));
});

t.test('whatever a source holds, the answer is a configuration or findings', async (t) => {
  const cwd = folder(t);
  const value = fc.oneof(
    fc.string(),
    fc.integer(),
    fc.double({ noNaN: true }),
    fc.boolean(),
    fc.array(fc.string(), { maxLength: 3 }),
    fc.dictionary(fc.string(), fc.integer(), { maxKeys: 3 }),
    fc.date({ noInvalidDate: true }),
  );
  const key = fc.oneof(fc.constantFrom(...KEY_LIST.map(({ path }) => path)), fc.string());
  fc.assert(
    fc.property(key, value, fc.string(), (path, given, text) => {
      const names = path.split('.');
      const nested = names.reduceRight<unknown>((inner, name) => ({ [name]: inner }), given);
      writeFileSync(join(cwd, 'x.toml'), stringify(nested));
      for (const options of [
        { file: 'x.toml' },
        { env: { [`NOA_${names.join('__').toUpperCase()}`]: text } },
        { flags: { [path]: text } },
      ]) {
        for (const finding of faults(cwd, options)) {
          for (const part of Object.values(finding)) if (part === '') throw new Error('empty part');
        }
      }
    }),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(fc.string(), (text) => {
      writeFileSync(join(cwd, 'x.toml'), text);
      faults(cwd, { file: 'x.toml' });
    }),
    { numRuns: 300 },
  );
  t.pass('no other outcome');
});

t.test('a list of tables is judged by its schema, wherever it is written', async (t) => {
  const toml = (more: string) =>
    folder(t, {
      'config/default.toml': `[auth]\n[[auth.issuers]]\nname = "corp"\nissuer = "https://id.example"\n${more}`,
    });
  const cwd = toml('audience = "noa"\nmap = [{ value = "staff", scopes = ["plugins:call"] }]\n');
  const [issuer] = load(cwd).auth.issuers ?? [];
  t.match(issuer, {
    name: 'corp',
    algorithms: ['RS256'],
    claim: 'scope',
    level: 'L5',
    map: [{ value: 'staff', scopes: ['plugins:call'], roles: [] }],
  });
  t.throws(
    () => Object.assign(issuer?.map[0] ?? {}, { value: 'x' }),
    TypeError,
    'frozen to the leaves',
  );
  t.match(faults(toml('')), [
    { path: 'auth.issuers', message: /\/0\/audience is required/, source: /default\.toml:2/ },
  ]);
  const env = (value: unknown) => ({ env: { NOA_AUTH__ISSUERS: JSON.stringify(value) } });
  const one = { name: 'a', issuer: 'https://a.example', audience: 'noa' };
  t.match(load(cwd, env([one])).auth.issuers, [one], 'the environment outranks the file');
  const wrong: [unknown, RegExp][] = [
    [one, /must be array/],
    [[{ ...one, issuer: 'http://a.example' }], /\/0\/issuer/],
    [[{ ...one, algorithms: ['HS256'] }], /\/0\/algorithms\/0/],
    [[{ ...one, name: 'client' }], /\/0\/name/],
    [[one, { ...one, issuer: 'https://b.example' }], /\/1\/name is that of another table/],
    [[{ ...one, secret: 'x' }], /\/0\/secret/],
  ];
  for (const [value, message] of wrong) {
    t.match(faults(cwd, env(value)), [{ path: 'auth.issuers', message }]);
  }
  t.match(faults(cwd, { env: { NOA_AUTH__ISSUERS: '{' } }), [{ path: 'auth.issuers' }]);
});
