/** The command line against a running host, from a new plugin to its removal, and the audit of it all. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { eventually, RunningHost } from '../e2e/running-host.ts';
import { NOA, noa as runNoa, type Run } from './noa.ts';

const host = await RunningHost.start();
t.teardown(() => host.dispose());
const cwd = await mkdtemp(join(tmpdir(), 'noa-cli-'));
t.teardown(() => rm(cwd, { recursive: true }));
const env = {
  NOA_URL: host.url,
  NOA_DATA__PATH: host.dataPath,
  NOA_AUTH__BOOTSTRAP_TOKEN: host.token,
};

function noa(...args: string[]): Promise<Run> {
  return runNoa(args, { cwd, env });
}

/** Runs with --json, expects success and answers what was printed. */
async function json<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await noa(...args, '--json');
  if (code !== 0) throw new Error(`noa ${args.join(' ')}: ${stdout}${stderr}`);
  return JSON.parse(stdout) as T;
}

interface Grant {
  readonly id: string;
  readonly capability: string;
  readonly operations: readonly string[];
  readonly resources: readonly string[];
  readonly status: string;
}

const MANIFEST = {
  name: 'tally',
  version: '1.0.0',
  runtime: { kind: 'wasm', file: 'dist/tally.wasm' },
  exports: {
    add: {
      input: {
        type: 'object',
        properties: { by: { type: 'integer' } },
        additionalProperties: false,
      },
      output: { type: 'object', properties: { total: { type: 'integer' } }, required: ['total'] },
    },
  },
  capabilities: [
    {
      capability: 'cache',
      operations: ['get', 'increment'],
      resources: ['tally:*'],
      reason: 'Keeps the total.',
    },
    {
      capability: 'db',
      operations: ['query'],
      resources: ['tally.*'],
      optional: true,
      reason: 'Later reports.',
    },
  ],
};

const source = (word: string): string => `import { definePlugin } from '@noa/sdk';
import type { Plugin } from './noa.gen.ts';

export default definePlugin<Plugin>({
  async add({ by }, { cache, log }) {
    const total = await cache.increment('tally:total', by ?? 1);
    log.info('${word}', { total });
    return { total };
  },
});
`;

async function write(version: string, word: string): Promise<void> {
  await writeFile(join(cwd, 'tally/plugin.json'), JSON.stringify({ ...MANIFEST, version }));
  await writeFile(join(cwd, 'tally/src/index.ts'), source(word));
}

t.test(
  'a new plugin is built and installed by one command, which shows what it asks for',
  async (t) => {
    t.match(await noa('plugin', 'list'), {
      code: 0,
      stdout: /no plugin is installed\nnext: noa plugin new/,
    });
    t.match(await noa('plugin', 'new', 'tally'), { code: 0 });
    await write('1.0.0', 'counted');
    const { code, stdout, stderr } = await noa('plugin', 'install', 'tally');
    t.match({ code, stderr }, { code: 0, stderr: /building tally/ });
    t.match(stdout, /^installed tally 1\.0\.0 {2}bundle sha256:[0-9a-f]{64}\n/);
    t.match(stdout, /\ncache +get,increment +tally:\* +pending +Keeps the total\.\n/);
    t.match(stdout, /\ndb +query +tally\.\* +pending \(optional\) +Later reports\.\n/);
    t.match(
      stdout,
      /\ntally 1\.0\.0 is pending.*; noa grant approve tally --all\nnext: noa grant approve tally --all\n$/,
    );
    t.ok(
      stdout.split('\n').every((line) => line.startsWith('installed') || line.length <= 80),
      '80 columns',
    );
  },
);

t.test('refusals of the host keep their code, and end with 1', async (t) => {
  t.match(await noa('plugin', 'call', 'tally', 'add', '{}'), {
    code: 1,
    stderr: /^error: GRANT_PENDING /,
  });
  t.match(await noa('plugin', 'show', 'none'), { code: 1, stderr: /^error: NOT_FOUND / });
  t.match(await noa('plugin', 'install', 'tally'), { code: 1, stderr: /^error: CONFLICT / });
  t.match(await noa('plugin', 'install', './absent'), {
    code: 1,
    stderr: /NOT_FOUND there is no file or folder \.\/absent/,
  });
  await writeFile(join(cwd, 'not-a-bundle.tgz'), 'hello');
  t.match(await noa('plugin', 'install', 'not-a-bundle.tgz'), {
    code: 1,
    stderr: /INVALID_ARGUMENT/,
  });
  const wrong = await noa('plugin', 'list', '--token', 'x'.repeat(40), '--json');
  t.equal(wrong.code, 1);
  t.match(JSON.parse(wrong.stdout), { error: { code: 'UNAUTHENTICATED' } });
});

t.test(
  'approve without more takes what is required; --capability and --all the rest',
  async (t) => {
    const approved = await json<Grant[]>('grant', 'approve', 'tally');
    t.match(approved, [{ capability: 'cache', status: 'approved' }]);
    t.equal(approved.length, 1);
    const again = await noa('grant', 'approve', 'tally');
    t.match(again, {
      code: 0,
      stdout:
        /^nothing of tally waits for approval\nleft: db \(pending\); noa grant approve tally --all/,
    });
    t.match(await noa('grant', 'approve', 'tally', '--capability', 'http'), {
      code: 1,
      stderr: /waits for: db/,
    });
    t.match(await noa('grant', 'approve', 'none'), { code: 1, stderr: /NOT_FOUND/ });
    t.match(await json('grant', 'approve', 'tally', '--capability', 'db'), [{ capability: 'db' }]);
    t.match(await noa('plugin', 'show', 'tally'), {
      code: 0,
      stdout: /tally 1\.0\.0 is serving\n[\s\S]*exports +add\n/,
    });
  },
);

t.test('an export is called with its input from the argument or from standard input', async (t) => {
  t.match(await noa('plugin', 'call', 'tally', 'add', '{"by":2}'), {
    code: 0,
    stdout: '{\n  "total": 2\n}\n',
  });
  const piped = await runNoa(['plugin', 'call', 'tally', 'add', '-', '--json'], {
    cwd,
    env,
    input: '{"by":3}',
  });
  t.match(piped, { code: 0, stdout: '{"total":5}\n' });
  t.match(await noa('plugin', 'call', 'tally', 'add', '{'), {
    code: 1,
    stderr: /the input must be JSON/,
  });
  const broken = await noa('plugin', 'call', 'tally', 'add', '{"by":"x"}');
  t.match(broken, { code: 1, stderr: /^error: INVALID_ARGUMENT [^\n]*by[^\n]*\n$/ }, 'said once');
  t.match(await noa('plugin', 'call', 'tally', 'add'), {
    code: 1,
    stderr: /INVALID_ARGUMENT add takes an input: noa plugin call tally add '\{"by":0\}'\n$/,
  });
  t.match(await noa('plugin', 'call', 'tally', 'none'), { code: 1, stderr: /NOT_FOUND/ });
  const logs = await noa('plugin', 'logs', 'tally');
  t.match(logs, {
    code: 0,
    stdout: /^\S+Z {2}info {3}counted \{"total":2\}\n\S+Z {2}info {3}counted /,
  });
});

t.test('grants are narrowed, added, shown, and taken back at once', async (t) => {
  const revoked = await json<Grant[]>('grant', 'revoke', 'tally');
  const cache = revoked.find(({ capability }) => capability === 'cache');
  t.match(await noa('plugin', 'call', 'tally', 'add', '{}'), {
    code: 1,
    stderr: /CAPABILITY_DENIED|GRANT_PENDING/,
  });
  t.match(await noa('grant', 'revoke', 'tally'), {
    code: 0,
    stdout: 'tally has no approved grant\n',
  });
  const id = cache?.id ?? '';
  t.match(await noa('grant', 'approve', 'tally'), { stdout: /left: .*cache \(revoked\).*--all/ });
  const narrow = await json<Grant[]>('grant', 'approve', id, '--resources', 'tally:other');
  t.strictSame(narrow[0]?.resources, ['tally:other*']);
  t.match(await noa('plugin', 'call', 'tally', 'add', '{}'), {
    code: 1,
    stderr: /CAPABILITY_DENIED/,
  });
  t.match(await noa('grant', 'approve', 'tally', '--all', '--resources', 'x,y'), { code: 1 });
  t.match(await noa('grant', 'approve', id), { code: 0, stdout: /^approved tally: cache / });
  t.match(await noa('plugin', 'call', 'tally', 'add', '{}', '--json'), {
    code: 0,
    stdout: /"total":6/,
  });

  const added = await json<Grant>(
    'grant',
    'add',
    'tally',
    'cache',
    '--operations',
    'get, set',
    '--resources',
    'x:*',
    '--reason',
    'try',
  );
  t.match(added, {
    operations: ['get', 'set'],
    resources: ['x:*'],
    status: 'approved',
    reason: 'try',
  });
  t.match(await noa('grant', 'show', added.id), { code: 0, stdout: /reason +try\n/ });
  t.match(await noa('grant', 'revoke', added.id), {
    code: 0,
    stdout: /^revoked tally: cache get,set on x:\*/,
  });
  t.match(await noa('grant', 'list', 'tally'), {
    code: 0,
    stdout: /ID +PLUGIN +STATUS +WHAT\n[\s\S]*revoked/,
  });
  t.match(await json('grant', 'list', 'none'), []);
});

t.test('upgrade, rollback, disable and enable', async (t) => {
  await write('1.1.0', 'counted again');
  await noa('plugin', 'build', 'tally');
  t.match(await noa('plugin', 'upgrade', 'tally', 'tally'), {
    code: 0,
    stdout: /^installed tally 1\.1\.0/,
  });
  await eventually('1.1.0 serves', async () => {
    return (await json<{ version: string }>('plugin', 'show', 'tally')).version === '1.1.0';
  });
  t.match(await noa('plugin', 'rollback', 'tally'), { code: 0, stdout: /^tally 1\.0\.0 is / });
  t.match(await noa('plugin', 'disable', 'tally'), { code: 0, stdout: /^tally 1\.0\.0 is / });
  t.match(await noa('plugin', 'call', 'tally', 'add', '{}'), {
    code: 1,
    stderr: /PLUGIN_DISABLED/,
  });
  t.match(await noa('plugin', 'enable', 'tally'), { code: 0 });
  t.match(await noa('plugin', 'call', 'tally', 'add', '{}', '--json'), {
    code: 0,
    stdout: /"total":7/,
  });
});

t.test('logs --follow goes on until it is interrupted', async (t) => {
  const follower = spawn(process.execPath, [NOA, 'plugin', 'logs', 'tally', '--follow', '--json'], {
    cwd,
    env: { PATH: '/usr/bin:/bin', ...env },
  });
  t.teardown(() => follower.kill('SIGKILL'));
  let seen = '';
  follower.stdout.setEncoding('utf8').on('data', (text: string) => (seen += text));
  const lines = () =>
    seen
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as { seq: number; level: string; message: string });
  await eventually('the past', async () => lines().length > 0);
  const { total } = await json<{ total: number }>('plugin', 'call', 'tally', 'add', '{}');
  const message = `counted {"total":${total}}`;
  await eventually('a new line', async () => lines().at(-1)?.message === message);
  t.match(lines().at(-1), { level: 'info' });
  t.strictSame(
    lines().map(({ seq }) => seq),
    lines().map((_, index) => index + 1),
    'each line once, in order',
  );
  const ended = once(follower, 'exit');
  follower.kill('SIGINT');
  t.strictSame(await ended, [0, null]);
});

t.test('the audit log is listed in pages, exported and verified offline', async (t) => {
  const first = await json<{ records: { seq: number }[]; next: string }>(
    'audit',
    'list',
    '--limit',
    '2',
  );
  t.equal(first.records.length, 2);
  const second = await json<{ records: { seq: number }[] }>(
    'audit',
    'list',
    '--limit',
    '2',
    '--cursor',
    first.next,
  );
  t.equal(second.records[0]?.seq, (first.records[1]?.seq ?? 0) - 1, 'pages join');
  t.match(await noa('audit', 'list', '--plugin', 'tally'), {
    code: 0,
    stdout: /TIME +OUTCOME +ACTOR +WHAT\n/,
  });
  t.match(await noa('audit', 'list', '--limit', '0'), { code: 1, stderr: /INVALID_ARGUMENT/ });
  t.match(await noa('audit', 'verify'), {
    code: 0,
    stdout: /^intact, \d+ records checked\nchain \S+: \d+ records, head /,
  });

  t.match(await noa('audit', 'export', 'audit.ndjson'), {
    code: 0,
    stdout: /^\d+ records written to audit\.ndjson\n/,
  });
  t.match(await noa('audit', 'export', 'nowhere/audit.ndjson'), {
    code: 1,
    stderr: /^error: INVALID_ARGUMENT .*cannot be written \(ENOENT\).*\n$/,
  });
  await mkdir(join(cwd, 'exports/taken'), { recursive: true });
  await mkdir(join(cwd, 'exports/mine.draft'));
  await writeFile(join(cwd, 'exports/mine.pages'), 'mine');
  t.match(await noa('audit', 'export', 'exports/taken'), {
    code: 1,
    stderr: /^error: INVALID_ARGUMENT .*taken cannot be written \(E\w+\): name a file .*\n$/,
  });
  t.match(await noa('audit', 'export', 'exports/mine'), { code: 0 });
  t.strictSame(
    (await readdir(join(cwd, 'exports'))).toSorted(),
    ['mine', 'mine.draft', 'mine.pages', 'taken'],
    'nothing is left behind',
  );
  t.equal(await readFile(join(cwd, 'exports/mine.pages'), 'utf8'), 'mine', 'or taken away');
  t.equal((await stat(join(cwd, 'exports/mine'))).mode & 0o777, 0o600);
  const lines = (await readFile(join(cwd, 'audit.ndjson'), 'utf8')).trim().split('\n');
  const seqs = lines.map((line) => (JSON.parse(line) as { seq: number }).seq);
  t.strictSame(
    seqs,
    seqs.map((_, i) => i + 1),
    'oldest first, none missing',
  );
  const verify = async (name: string, content: readonly string[]) => {
    await writeFile(join(cwd, name), `${content.join('\n')}\n`);
    return noa('audit', 'verify', name);
  };
  t.match(await verify('same', lines), { code: 0, stdout: /^intact/ });
  const changed = lines.map((line, i) =>
    i === 2 ? line.replace(/"actor":"[^"]*"/, '"actor":"nobody"') : line,
  );
  t.match(await verify('changed', changed), { code: 1, stdout: /^BROKEN: record 3 .*changed/ });
  t.match(await verify('missing', lines.toSpliced(2, 1)), {
    code: 1,
    stdout: /^BROKEN: record 4 .*does not follow/,
  });
  t.match(await verify('swapped', lines.toSpliced(1, 2, lines[2] ?? '', lines[1] ?? '')), {
    code: 1,
  });
  const secret = (await readFile(join(cwd, 'audit.ndjson'), 'utf8')).includes(host.token);
  t.notOk(secret, 'no token in it');
});

t.test('commands for a host at rest see that one is running', async (t) => {
  t.match(await noa('migrate', 'status'), { code: 0, stdout: /0001_\w+ +\d{4}-/ });
  t.match(await noa('migrate', 'run'), { code: 0, stdout: 'nothing is pending\n' });
  t.match(await noa('migrate', 'revert'), {
    code: 1,
    stderr: /CONFLICT a host is running on this database/,
  });
  const metrics = /Metrics on http:\/\/127\.0\.0\.1:(\d+)/.exec(host.output)?.[1] ?? '';
  const ports = ['--port', new URL(host.url).port, '--metrics-port', metrics];
  t.match(await noa('doctor', ...ports), {
    code: 0,
    stdout:
      /data folder: .* is in use by the host with process id \d+[^]*✔ port: .* is used by a running host\n✔ metrics port: .* is used by a running host/,
  });
  t.match(await noa('doctor', '--port', metrics, '--metrics-port', '0'), {
    code: 1,
    stdout: /✖ port: cannot listen/,
  });
  const tls = await noa('plugin', 'list', '--url', host.url.replace('http:', 'https:'));
  t.match(tls, { code: 1, stderr: /^error: UNAVAILABLE https:\S+ does not speak TLS: write http/ });
  t.match(await runNoa(['serve', '--port', '0'], { cwd, env: { NOA_DATA__PATH: host.dataPath } }), {
    code: 1,
    stderr: /error: CONFLICT the data folder .* is in use by the host with process id \d+; stop it/,
  });
});

t.test('a removed plugin is gone', async (t) => {
  t.match(await noa('plugin', 'remove', 'tally', '--keep-data'), {
    code: 0,
    stdout: 'removed tally; its data stays\n',
  });
  t.match(await noa('plugin', 'show', 'tally'), { code: 1, stderr: /NOT_FOUND/ });
  t.match(await noa('plugin', 'remove', 'tally'), { code: 1, stderr: /NOT_FOUND/ });
});

t.test('a host at rest is migrated with its own embedded database', async (t) => {
  await host.stop();
  t.match(await noa('migrate', 'status'), { code: 0, stdout: /0001_\w+ +\d{4}-/ });
  t.match(await noa('plugin', 'list'), { code: 1, stderr: /no host answers at/ });
});
