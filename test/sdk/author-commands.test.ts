/** The author's commands, from a new folder to a bundle, as the command line runs them. */
import { execFile, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Command, CommanderError } from 'commander';
import t, { type Test } from 'tap';
import { type Json, NoaError, readBundle } from '@noa/sdk/host';
import { dev } from '../../host/cli/author/dev.ts';
import { changes } from '../../host/cli/author/watch.ts';
import {
  type AuthorIo,
  type DevHost,
  registerAuthorCommands,
} from '../../host/cli/plugin-author.ts';

interface Ran {
  readonly results: Record<string, unknown>[];
  readonly text: string;
}

interface Around {
  host?: DevHost;
  signal?: AbortSignal;
  seen?: (value: Record<string, unknown>) => void;
}

/** Runs `noa plugin …ARGS` in this process. */
async function noa(args: readonly string[], around: Around = {}): Promise<Ran> {
  const results: Record<string, unknown>[] = [];
  const texts: string[] = [];
  const io: AuthorIo = {
    result: (value, text) => {
      results.push({ ...value });
      texts.push(text);
      around.seen?.({ ...value });
    },
    note: () => {},
    json: () => true,
    signal: around.signal ?? new AbortController().signal,
    connect: () => Promise.resolve(around.host),
  };
  const plugin = new Command('plugin').exitOverride().configureOutput({ writeErr: () => {} });
  registerAuthorCommands(plugin, io);
  await plugin.parseAsync(args, { from: 'user' });
  return { results, text: texts.join('\n') };
}

async function made(t: Test, name = 'hits'): Promise<string> {
  const parent = await mkdtemp(path.join(tmpdir(), 'noa-commands-'));
  t.teardown(() => rm(parent, { recursive: true, force: true }));
  const dir = path.join(parent, name);
  await noa(['new', name, '--dir', dir]);
  return dir;
}

void t.test('a new plugin builds, tests, packs and inspects as it is', async (t) => {
  const dir = await made(t);
  const {
    results: [built],
  } = await noa(['build', dir]);
  t.match(built, {
    name: 'hits',
    exports: ['hit', 'read'],
    file: path.join(dir, 'dist/hits.wasm'),
  });
  t.ok(Number(built?.['milliseconds']) < 5000, `${String(built?.['milliseconds'])} ms`);
  const {
    results: [tested],
  } = await noa(['test', dir]);
  t.match(tested, { failed: 0, failures: [] });
  t.ok(Number(tested?.['passed']) >= 6, 'at both levels');
  const here = process.cwd();
  process.chdir(path.dirname(dir));
  const {
    results: [packed],
  } = await noa(['pack', 'hits']);
  process.chdir(here);
  const file = String(packed?.['file']);
  t.equal(path.basename(file), 'hits-0.1.0.tgz');
  const { manifest, files } = await readBundle(readFileSync(file));
  t.equal(manifest.runtime.sha256, built?.['sha256']);
  t.same([...files.keys()].toSorted(), ['README.md', 'dist/hits.wasm', 'plugin.json']);
  for (const place of [dir, file]) {
    const {
      results: [report],
      text,
    } = await noa(['inspect', place]);
    t.match(report, {
      bundle: { manifest: { name: 'hits' } },
      module: { exports: ['hit', 'read'] },
    });
    t.match(text, /cache {2}get, increment {2}hits:hits:\* {2}Keeps the count of each page\./);
    t.match(text, /POST {2}\/plugins\/hits\/hits\/:page {2}hit, 200/);
  }
  const {
    results: [report],
  } = await noa(['inspect', path.join(dir, 'dist/hits.wasm')]);
  t.match(report, {
    module: {
      sha256: built?.['sha256'],
      imports: {
        'extism:host/user': [
          'noa_call',
          'noa_call_bytes',
          'noa_clock',
          'noa_random',
          'noa_read',
          'noa_reply_bytes',
          'noa_write',
        ],
      },
    },
  });
});

void t.test('what an installation refuses of a manifest is refused before', async (t) => {
  const dir = await made(t);
  const file = path.join(dir, 'plugin.json');
  const good = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  const reason = 'To test.';
  const asks = (capability: string, operation: string, resource: string): object => ({
    capabilities: [{ capability, operations: [operation], resources: [resource], reason }],
  });
  for (const [part, message] of [
    [asks('http', 'request', 'api.example.com'), /http: the resource "api\.example\.com" must be/],
    [asks('db', 'query', 'hits'), /db: .*"hits"/],
    [
      asks('cach', 'get', 'hits:*'),
      /"cach" is not a capability of this host; did you mean cache\?/,
    ],
    [asks('redis', 'get', 'hits:*'), /"redis" is not a capability of this host; it has db, cache/],
    [asks('cache', 'gte', 'hits:*'), /no operation "gte"/],
    [asks('log', 'write', 'hits'), /"log" is open to every plugin and needs no grant/],
    [{ noa: '^2.0.0' }, /noa: the plugin needs ABI \^2\.0\.0, this host speaks 1\./],
  ] as const) {
    await writeFile(file, JSON.stringify({ ...good, ...part }));
    for (const command of ['build', 'types', 'pack']) {
      await t.rejects(
        noa([command, dir]),
        { name: 'NoaError', code: 'INVALID_ARGUMENT', message },
        command,
      );
    }
  }
  t.notOk(existsSync(path.join(dir, 'dist')), 'nothing is written');
});

void t.test('a plugin may ask for any one capability alone', { timeout: 60_000 }, async (t) => {
  const dir = await made(t);
  const file = path.join(dir, 'plugin.json');
  const good = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  for (const [capability, operation, resource, use] of [
    ['db', 'query', 'hits.*', "db.query('select 1', [])"],
    ['blob', 'readText', 'hits/*', "blob.readText('hits/x')"],
    ['secrets', 'read', 'key', "secrets.read('key')"],
    [
      'http',
      'request',
      'GET https://api.example.com/*',
      "http.request({ method: 'GET', url: 'https://api.example.com/' })",
    ],
    ['events', 'publish', 'hits.*', "events.publish('hits.x', 'hit')"],
    ['plugin', 'call', 'notes/*', "plugin.call('notes', 'list', {})"],
  ] as const) {
    const asked = { operations: [operation.replace('Text', '')], resources: [resource] };
    const capabilities = [{ capability, ...asked, reason: 'To test.' }];
    const { contributes: _routes, ...rest } = good;
    const manifest = { ...rest, exports: { hit: {} }, capabilities };
    await writeFile(file, JSON.stringify(manifest));
    const source = `import { definePlugin } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';
export default definePlugin<Plugin>({ hit: (_input, { ${capability} }) => ${use} });
`;
    await writeFile(path.join(dir, 'src/index.ts'), source);
    t.match((await noa(['build', dir])).results, [{ name: 'hits' }], capability);
  }
});

void t.test('builds are byte-identical wherever the folder lies', async (t) => {
  const [one, two] = [await made(t), await made(t)];
  const {
    results: [first],
  } = await noa(['build', one]);
  const out = path.join(two, 'elsewhere/x.wasm');
  const {
    results: [second],
  } = await noa(['build', two, '--out', out, '--no-check']);
  t.equal(first?.['sha256'], second?.['sha256']);
  t.ok(existsSync(out));
  t.notOk(existsSync(path.join(two, 'dist')));
});

void t.test('what is wrong in the source is said in the lines of the source', async (t) => {
  const dir = await made(t);
  const source = path.join(dir, 'src/index.ts');
  const good = readFileSync(source, 'utf8');
  const fails = (message: RegExp): Promise<unknown> =>
    t.rejects(noa(['build', dir]), { name: 'NoaError', code: 'INVALID_ARGUMENT', message });
  await writeFile(source, good.replace('cache.increment(', 'cache.delete('));
  await fails(
    /src\/index\.ts\(\d+,\d+\): error TS2339: Property 'delete' does not exist .*\. Ask for it in plugin\.json → capabilities\.\n?/,
  );
  await writeFile(source, good.replace('{ cache, log }', '{ cache, log, db }'));
  await fails(
    /error TS2339: Property 'db' does not exist on type 'Context<Plugin>'\. Ask for it in plugin\.json → capabilities\.$/m,
  );
  await t.rejects(noa(['test', dir]), {
    message: /^The TypeScript check found:\n(?!.*TS2339[^]*TS2339).*TS2339.*$/s,
  });
  await writeFile(source, good.replace('{ cache, log }', '{ cache, log, dc }'));
  await fails(/error TS2339: Property 'dc' does not exist on type 'Context<Plugin>'\.$/m);
  for (const [line, message] of [
    ["import fs from 'node:fs';", /TS2591: 'node:fs' is a part of Node, .*: keep data in .*'db'/],
    ["import fs from 'fs/promises';", /'fs\/promises' is a part of Node, where plugins do not run/],
    ['const x = Buffer.from(y);', /'Buffer' is a part of Node, .*: use Uint8Array/],
    ["const x = require('y');", /'require' is a part of Node, .*: use import/],
  ] as const) {
    await writeFile(source, `${line}\n${good}`);
    await fails(message);
    await fails(/^(?!.*@types\/node)/s);
  }
  await writeFile(source, good.replace('async hit(', 'async hits('));
  await fails(/src\/index\.ts\(\d+,\d+\): error TS/);
  await t.rejects(noa(['build', dir, '--no-check']), { message: /has no such handler/ });
  await writeFile(source, good.replace('const key', 'const pid = process.pid;\nconst key'));
  await fails(
    /src\/index\.ts\(\d+,\d+\): error TS2\d+: 'process' is a part of Node, .*: read settings/,
  );
  await writeFile(source, good.replace('const key', 'const key ='));
  await fails(/src\/index\.ts/);
  t.notOk(existsSync(path.join(dir, 'dist')), 'nothing is written');
  await writeFile(source, good);
  await writeFile(
    path.join(dir, 'test/hits.test.ts'),
    "import { test } from 'node:test';\ntest('no', () => { throw new Error('x'); });\n",
  );
  await t.rejects(noa(['test', dir]), {
    message: /0 passed, 1 failed/,
    details: { failures: ['no'] },
  });
  await rm(path.join(dir, 'test'), { recursive: true });
  await t.rejects(noa(['test', dir]), { code: 'NOT_FOUND', message: /no test\/\*\.test\.ts/ });
  await writeFile(path.join(dir, 'plugin.json'), '{}');
  await t.rejects(noa(['types', dir]), { message: /\/name is required/ });
  await t.rejects(noa(['types', path.dirname(dir)]), {
    code: 'NOT_FOUND',
    message: /no .*plugin\.json/,
  });
});

void t.test(
  'a plugin beyond the host’s folder builds by its package.json’s path to the SDK',
  async (t) => {
    const dir = await made(t);
    const text = readFileSync(path.join(dir, 'package.json'), 'utf8');
    const { devDependencies } = JSON.parse(text) as { devDependencies: Record<string, string> };
    const given = devDependencies['@noa/sdk'] ?? '';
    t.match(given, /^file:\.\.\/.*sdk\/js$/);
    // As after a clone of the plugin: what npm installs is not there yet.
    await rm(path.join(dir, 'node_modules'), { recursive: true });
    await t.rejects(noa(['build', dir]), {
      message: /SDK is not installed for hits: run npm install/,
    });
    // What npm makes of a path: a link.
    await mkdir(path.join(dir, 'node_modules/@noa'), { recursive: true });
    await symlink(
      path.resolve(dir, given.slice(5)),
      path.join(dir, 'node_modules/@noa/sdk'),
      'dir',
    );
    t.match((await noa(['build', dir])).results, [{ name: 'hits' }]);
  },
);

void t.test(
  'the scripts of a plugin beyond the host’s folder find noa, and so does npm install',
  { timeout: 60_000 },
  async (t) => {
    const dir = await made(t);
    // Nothing of this test's own runner: npm's PATH is what the scripts have.
    const PATH = process.env['PATH']?.split(':').filter((folder) => !folder.includes('.bin'));
    const env = { PATH: [path.dirname(process.execPath), ...(PATH ?? [])].join(':') };
    const { stdout } = await promisify(execFile)('npm', ['test'], { cwd: dir, env });
    t.match(stdout, /6 passed, 0 failed/);
    const text = readFileSync(path.join(dir, 'package.json'), 'utf8');
    const { devDependencies } = JSON.parse(text) as { devDependencies: Record<string, string> };
    const host = devDependencies['@noa/host'] ?? '';
    t.match(host, /^file:\.\.\/.*host$/);
    const named = readFileSync(path.join(dir, host.slice(5), 'package.json'), 'utf8');
    t.match(JSON.parse(named), { name: '@noa/host', bin: { noa: 'noa.js' } });
  },
);

void t.test('new refuses what it cannot make', async (t) => {
  const dir = await made(t);
  await t.rejects(noa(['new', 'hits', '--dir', dir]), { code: 'CONFLICT', message: /not empty/ });
  for (const name of ['Hits', 'Bad Name', '-x', 'noa', 'ab--c', '', 'x'.repeat(100)]) {
    await t.rejects(noa(['new', '--dir', `${dir}-b`, '--', name]), {
      name: 'CommanderError',
      message: /for argument 'name'\. Lower-case words .*joined by single hyphens[^|]*$/,
    });
  }
  await t.rejects(noa(['new', 'hits', '--lang', 'cobol', '--dir', `${dir}-c`]), {
    name: 'CommanderError',
    message: /Allowed choices are ts, rust, c, as\..*A module of another language installs/,
  });
  await t.rejects(noa(['new']), CommanderError);
  t.notOk(existsSync(`${dir}-b`));
  t.notOk(existsSync(`${dir}-c`));
});

void t.test(
  'dev installs each good build, shows the log, and survives a bad one',
  { timeout: 60_000 },
  async (t) => {
    const dir = await made(t);
    const source = path.join(dir, 'src/index.ts');
    const good = readFileSync(source, 'utf8');
    const sent: string[] = [];
    const versions = new Set<string>();
    const host: DevHost = {
      url: 'http://127.0.0.1:0',
      send: async (method, at, bundle): Promise<Json> => {
        if (method === 'GET') {
          const lines = [{ seq: 2, level: 'info', message: 'served' }];
          return at.endsWith('logs')
            ? { lines: [{ level: 'info', message: 'old' }], next: 1 }
            : { lines, next: 2 };
        }
        sent.push(`${method} ${at}`);
        if (method === 'PUT' && versions.size === 0 && sent.length === 1) {
          throw new NoaError('NOT_FOUND', 'there is no plugin hits');
        }
        const { manifest } = await readBundle(bundle ?? new Uint8Array());
        versions.add(String(manifest.runtime.sha256));
        return { name: manifest.name, state: 'pending' };
      },
    };
    const abort = new AbortController();
    const events: Record<string, unknown>[] = [];
    let wake = Promise.withResolvers<void>();
    const running = noa(['dev', dir], {
      host,
      signal: abort.signal,
      seen: (event) => {
        events.push(event);
        wake.resolve();
      },
    });
    const event = async (matches: (event: Record<string, unknown>) => boolean): Promise<void> => {
      while (!events.some(matches)) {
        await wake.promise;
        wake = Promise.withResolvers();
      }
      events.length = 0;
    };
    await event(({ event: kind }) => kind === 'installed');
    t.same(sent, ['PUT /v1/plugins/hits', 'POST /v1/plugins']);
    await event(
      ({ event: kind, line }) => kind === 'log' && JSON.stringify(line).includes('served'),
    );
    await writeFile(source, good.replace('cache.increment(', 'cache.decrement('));
    await event(({ event: kind }) => kind === 'failed');
    await writeFile(source, good.replace("log.info('hit'", "log.info('counted'"));
    await event(({ event: kind }) => kind === 'installed');
    t.equal(sent.at(-1), 'PUT /v1/plugins/hits');
    t.equal(versions.size, 2);
    abort.abort();
    await running;
  },
);

void t.test(
  'a save is seen however it is made: by writing, by renaming a new file into place, in new folders',
  { timeout: 30_000 },
  async (t) => {
    const dir = t.testdir({ 'plugin.json': '{}', src: { 'index.ts': '' } });
    const abort = new AbortController();
    const seen = changes(dir, abort.signal);
    const replace = async (file: string): Promise<void> => {
      await writeFile(path.join(dir, 'draft.tmp'), String(Math.random()));
      await rename(path.join(dir, 'draft.tmp'), path.join(dir, file));
    };
    const saves: [how: string, save: () => Promise<unknown>][] = [
      ['written', () => writeFile(path.join(dir, 'src/index.ts'), '1')],
      ['replaced', () => replace('src/index.ts')],
      ['replaced again', () => replace('src/index.ts')],
      ['written after that', () => writeFile(path.join(dir, 'src/index.ts'), '2')],
      ['plugin.json replaced', () => replace('plugin.json')],
      ['a new folder', () => mkdir(path.join(dir, 'src/deep/er'), { recursive: true })],
      ['replaced in it', () => replace('src/deep/er/x.ts')],
      ['tests that are new', () => mkdir(path.join(dir, 'test'))],
      ['replaced there', () => replace('test/x.test.ts')],
      ['src moved away', () => rename(path.join(dir, 'src'), path.join(dir, 'old'))],
      ['and back', () => rename(path.join(dir, 'old'), path.join(dir, 'src'))],
      ['written in what came back', () => writeFile(path.join(dir, 'src/index.ts'), '3')],
    ];
    for (const [how, save] of saves) {
      const next = seen.next();
      await sleep(200); // what the last save set off has ended
      await save();
      const late = sleep(3000, 'late', { signal: abort.signal }).catch(() => 'ended');
      t.not(await Promise.race([next, late]), 'late', how);
    }
    const last = seen.next();
    abort.abort();
    t.match(await last, { done: true });
  },
);

void t.test('dev says when what it sent does not serve', { timeout: 60_000 }, async (t) => {
  const dir = await made(t);
  const plugin = { name: 'hits', version: '0.1.0', reason: null, candidate: null };
  for (const [answer, text] of [
    [{ ...plugin, state: 'serving' }, /^✓ installed hits, serving$/],
    [
      { ...plugin, state: 'pending' },
      /^… hits waits for its grants: noa grant approve hits --all$/,
    ],
    [
      { ...plugin, state: 'serving', candidate: { version: '0.2.0', reason: 'it asks for more' } },
      /^… hits waits, and the version before serves: it asks for more; noa grant approve/,
    ],
    [
      { ...plugin, state: 'serving', reason: 'the new version cannot start: no table' },
      /^✗ hits was taken, and is serving: the new version cannot start: no table$/,
    ],
    [{ ...plugin, state: 'failed', reason: 'no table' }, /^✗ hits .*failed: no table$/],
  ] as const) {
    const abort = new AbortController();
    const lines: string[] = [];
    const host: DevHost = {
      url: 'http://127.0.0.1:0',
      send: (method) => Promise.resolve(method === 'PUT' ? answer : { lines: [], next: 0 }),
    };
    const io: AuthorIo = {
      result: (value, line) => {
        if (JSON.stringify(value).includes('"installed"')) {
          lines.push(line);
          abort.abort();
        }
      },
      note: () => undefined,
      json: () => false,
      signal: abort.signal,
      connect: () => Promise.resolve(host),
    };
    await dev(dir, io);
    t.match(lines, [text]);
  }
});

void t.test('dev without a host tests after each change', { timeout: 60_000 }, async (t) => {
  const dir = await made(t);
  const abort = new AbortController();
  const kinds: unknown[] = [];
  await noa(['dev', dir], {
    signal: abort.signal,
    seen: (event) => {
      kinds.push(event['event']);
      if (event['event'] === 'tested') abort.abort();
    },
  });
  t.same(kinds, ['built', 'tested']);
});

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs `noa plugin …ARGS` as a process; `stop` is called with its output so far, and true ends it. */
async function noaProcess(
  args: readonly string[],
  cwd: string,
  stop: (out: string) => boolean = () => false,
): Promise<Ended> {
  const entry = path.resolve(import.meta.dirname, '../../host/noa.js');
  const nowhere = { NOA_URL: 'http://127.0.0.1:9', NOA_DATA__PATH: path.join(cwd, 'data') };
  const child = spawn(process.execPath, [entry, 'plugin', ...args], {
    cwd,
    env: { ...process.env, ...nowhere },
  });
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk.toString();
    if (stop(out)) child.kill('SIGINT');
  });
  child.stderr.on('data', (chunk: Buffer) => {
    err += chunk.toString();
  });
  const code = await new Promise<number | null>((resolve) => {
    child.on('close', resolve);
  });
  return { code, out, err };
}

void t.test('as processes: exit codes, text and JSON', { timeout: 60_000 }, async (t) => {
  const cwd = path.dirname(await made(t, 'first'));
  const make = await noaProcess(['new', 'hits'], cwd);
  t.match(make, {
    code: 0,
    out: /^made hits in hits\n(linked .*\n)?next: noa plugin test hits\n$/,
  });
  t.match(await noaProcess(['new', 'hits'], cwd), {
    code: 1,
    out: '',
    err: /CONFLICT .*hits is not empty/,
  });
  t.match(await noaProcess(['new'], cwd), { code: 2, err: /missing required argument 'name'/ });
  t.match(await noaProcess(['new', 'x', '--language', 'c'], cwd), { code: 2, err: /--language/ });
  t.match(await noaProcess(['new', 'Bad Name'], cwd), { code: 2, err: /USAGE .*'Bad Name'/ });
  t.match(await noaProcess(['new', 'x', '--lang', 'go'], cwd), { code: 2, err: /USAGE .*'go'/ });
  const test = path.join(cwd, 'hits/test/hits.test.ts');
  const passing = readFileSync(test, 'utf8');
  await writeFile(
    test,
    "import { test } from 'node:test';\ntest('no', () => { throw new Error(); });\n",
  );
  const failing = await noaProcess(['test', 'hits'], cwd);
  t.match(failing, {
    code: 1,
    out: /✖ no/,
    err: /^building hits …\nerror: INVALID_ARGUMENT The tests of hits fail: 0 passed, 1 failed\.\n$/,
  });
  await writeFile(test, passing);
  const { code, out } = await noaProcess(['test', 'hits', '--json'], cwd);
  t.equal(code, 0);
  t.match(JSON.parse(out), { failed: 0, failures: [] });
  const shown = await noaProcess(['test', 'hits'], cwd);
  t.match(shown, { code: 0, out: /✔ hit counts, read does not[^]*6 passed, 0 failed\n$/ });
  t.match(await noaProcess(['pack', 'hits'], cwd), {
    code: 0,
    out: /^hits-0\.1\.0\.tgz {2}\d+ KiB\nbundle {2}sha256:[0-9a-f]{64}\n$/,
  });
  t.match(await noaProcess(['inspect', 'hits-0.1.0.tgz'], cwd), {
    code: 0,
    out: /^hits 0\.1\.0\nCounts hits of pages\./,
  });
  await writeFile(path.join(cwd, 'hits/plugin.json'), '{"name": "Hits"}');
  const refused = await noaProcess(['build', 'hits', '--json'], cwd);
  t.equal(refused.code, 1);
  const { error } = JSON.parse(refused.out) as {
    error: { code: string; details: { path: string }[] };
  };
  t.equal(error.code, 'INVALID_ARGUMENT');
  t.ok(error.details.some(({ path: at }) => at === '/name'));
});

void t.test('as a process: dev ends at an interrupt', { timeout: 60_000 }, async (t) => {
  const dir = await made(t);
  const { code, out, err } = await noaProcess(['dev'], dir, (text) =>
    text.includes('passed, 0 failed'),
  );
  t.match(out, /✓ built dist\/hits\.wasm/);
  t.match(err, /no host answers/);
  t.equal(code, 0);
});
