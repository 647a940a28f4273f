/** The command line by itself, without a host: usage, errors, JSON, configuration, completion. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { noa, NOA, type RunOptions } from './noa.ts';

const TOKEN = 'a-token-that-is-longer-than-32-characters';

/** Runs each command in the same empty folder; answers what it printed. */
function runner(t: Test, files: Readonly<Record<string, string>> = {}) {
  const cwd = t.testdir({ ...files });
  return (args: readonly string[], options: Partial<RunOptions> = {}) =>
    noa(args, { cwd, ...options });
}

/** On a free port of loopback. */
async function listen(server: Server): Promise<{ port: number; close: () => Promise<void> }> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    port,
    close: async () => {
      server.close();
      await once(server, 'close');
    },
  };
}

t.test('wrong usage ends with 2 and a line that helps', async (t) => {
  const run = runner(t);
  for (const [args, message] of [
    [
      ['plugin', 'isntall', 'x'],
      /^error: USAGE unknown command 'isntall'\n {2}\(Did you mean install\?\)\n$/,
    ],
    [['plguin'], /unknown command 'plguin'\n.*Did you mean plugin\?/],
    [['serve', '--prot', '1'], /unknown option '--prot'\n.*Did you mean --port\?/],
    [['plugin', 'install'], /missing required argument 'path'/],
    [['plugin', 'list', 'extra'], /too many arguments/],
    [['grant', 'add', 'p', 'db'], /required option '--operations <list>' not specified/],
    [['completion', 'tcsh'], /Allowed choices are bash, zsh, fish/],
    [['plugin'], /Usage: noa plugin /],
    [[], /Usage: noa /],
  ] as const) {
    const { code, stdout, stderr } = await run(args);
    t.match({ code, stderr }, { code: 2, stderr: message }, `noa ${args.join(' ')}`);
    t.equal(stdout, '');
  }
});

t.test('a command takes code that an earlier one has compiled, and does without', async (t) => {
  const run = runner(t);
  const env = { NODE_DEBUG_NATIVE: 'COMPILE_CACHE' };
  await run(['--version']);
  const { code, stderr } = await run(['--version'], { env });
  t.equal(code, 0);
  t.match(stderr, /node_modules\/\.cache\/noa\/.* for StrippedTypeScript .*success/);
  t.match(stderr, /V8 code cache for ESM \S+cli\/main\.ts was accepted/);
  t.match(await run(['--version'], { env: { NODE_DISABLE_COMPILE_CACHE: '1' } }), {
    code: 0,
    stderr: '',
  });
});

t.test('help and version end with 0', async (t) => {
  const run = runner(t);
  t.match(await run(['--version']), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/, stderr: '' });
  t.match(await run(['--help']), {
    code: 0,
    stdout: /Usage: noa .*Commands:.*doctor.*Exit codes: 0/s,
  });
  const help = await run(['grant', 'approve', '--help']);
  t.match(help, { code: 0, stdout: /--capability.*--json/s }, 'the options that all commands take');
});

t.test('with --json an error is one object on standard output', async (t) => {
  const run = runner(t);
  const usage = await run(['plugin', 'isntall', '--json']);
  t.match(usage, { code: 2, stderr: '' });
  t.match(JSON.parse(usage.stdout), { error: { code: 'USAGE', message: /isntall/ } });
  const env = { NOA_SERVER__PORT: 'x', NOA_URL: 'http://127.0.0.1:1' };
  const failed = await run(['config', 'check', '--json'], { env });
  t.match(failed, { code: 1, stderr: '' });
  t.match(JSON.parse(failed.stdout), {
    error: { code: 'INVALID_ARGUMENT', details: [{ path: 'server.port' }] },
  });
});

t.test('without a host a client command says how to start one', async (t) => {
  const run = runner(t);
  const { port, close } = await listen(createServer());
  await close();
  const url = `http://127.0.0.1:${port}`;
  const env = { NOA_URL: url, NOA_TOKEN: TOKEN };
  for (const args of [
    ['plugin', 'list'],
    ['grant', 'approve', 'x'],
    ['audit', 'verify'],
    ['plugin', 'logs', 'x'],
  ]) {
    const { code, stdout, stderr } = await run(args, { env });
    t.match({ code, stdout }, { code: 1, stdout: '' });
    const wanted = `error: UNAVAILABLE no host answers at ${url}; start one with \`noa serve\``;
    t.equal(stderr.slice(0, wanted.length), wanted);
    t.notMatch(stderr, TOKEN);
  }
  const none = await run(['plugin', 'list', '--url', url]);
  t.match(none.stderr, /no host answers/, 'also without a token');
  t.match(
    (await run(['plugin', 'list', '--url', 'ftp://x'], { env })).stderr,
    /INVALID_ARGUMENT --url/,
  );
});

t.test('what is not a NOA host is not mistaken for one', async (t) => {
  const run = runner(t);
  const answer = '<html>hello</html>';
  const server = createServer((socket) => {
    socket.once('data', () => {
      socket.end(
        `HTTP/1.1 200 OK\r\ncontent-length: ${answer.length}\r\nconnection: close\r\n\r\n${answer}`,
      );
    });
  });
  const { port, close } = await listen(server);
  t.teardown(close);
  const env = { NOA_URL: `http://127.0.0.1:${port}`, NOA_TOKEN: TOKEN };
  const { code, stderr } = await run(['plugin', 'list'], { env });
  t.equal(code, 1);
  t.match(stderr, /answered 200, but not as a NOA host does; is --url right\?/);
});

t.test(
  'config check names all faults; config print shows values, their origin, and no secret',
  async (t) => {
    const run = runner(t, { 'mine.toml': '[server]\nhots = "x"\nport = 70000\n' });
    const wrong = await run(['config', 'check', '--config', 'mine.toml', '--log-level', 'loud']);
    t.equal(wrong.code, 1);
    t.match(wrong.stderr, /^error: INVALID_ARGUMENT the configuration has 3 faults\n/);
    t.match(
      wrong.stderr,
      /\n {2}server\.hots is not a known key \(mine\.toml:2\)\. Write server\.host, or remove it\.\n/,
    );
    t.match(
      wrong.stderr,
      /\n {2}server\.port must be a whole number .*, not 70000 \(mine\.toml:3\)\. Give such a value/,
    );
    t.match(wrong.stderr, /\n {2}observability\.log_level must be one of .* \(--log-level\)/);
    const same = await run(['serve', '--check-config', '--config', 'mine.toml']);
    t.match(same, { code: 1, stderr: /2 faults/ });

    const env = { NOA_AUTH__BOOTSTRAP_TOKEN: TOKEN, NOA_DATABASE__URL: 'postgres://u:hunter2@h/d' };
    const right = await run(['serve', '--check-config', '--port', '0'], { env });
    t.match(right, { code: 0, stdout: 'the configuration is right\n' });
    const print = await run(['config', 'print', '--origin', '--port', '8081'], { env });
    t.match(print.stdout, /server\.port +--port +8081\n/);
    t.match(
      print.stdout,
      /auth\.bootstrap_token +environment NOA_AUTH__BOOTSTRAP_TOKEN +"\[redacted\]"\n/,
    );
    const json = await run(['config', 'print', '--json'], { env });
    t.match(JSON.parse(json.stdout), {
      'server.port': 8080,
      'database.url': '[redacted]',
      'cache.url': null,
    });
    for (const { stdout } of [print, json]) t.notMatch(stdout, /hunter2|a-token-that/);
  },
);

t.test(
  'doctor tells what is right, what is wrong and how to mend it, and changes nothing',
  async (t) => {
    const cwd = t.testdir({ file: '' });
    const free = ['--port', '0', '--metrics-port', '0'];
    const well = await noa(['doctor', ...free], { cwd });
    t.match(well, {
      code: 0,
      stdout: /✔ Node: v2.*✔ configuration.*✔ data folder.*✔ database: embedded/s,
    });
    t.strictSame(readdirSync(cwd), ['file']);

    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close());
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : undefined;
    const env = {
      NOA_DATA__PATH: join(cwd, 'file'),
      NOA_DATABASE__URL: 'postgres://u:hunter2@127.0.0.1:1/d',
      NOA_CACHE__URL: 'redis://:hunter2@127.0.0.1:1',
    };
    const ill = await noa(['doctor', '--json', '--port', String(port), '--metrics-port', '0'], {
      cwd,
      env,
    });
    t.equal(ill.code, 1);
    const { ok, checks } = JSON.parse(ill.stdout) as {
      ok: boolean;
      checks: { name: string; ok: boolean | null; fix?: string }[];
    };
    t.equal(ok, false);
    const failed = checks.filter((check) => !(check.ok ?? true));
    t.strictSame(
      failed.map(({ name }) => name),
      ['data folder', 'database', 'cache', 'port'],
    );
    t.ok(
      failed.every(({ fix }) => fix !== undefined && fix !== ''),
      'each with its fix',
    );
    t.notMatch(ill.stdout, 'hunter2');
    const config = await noa(['doctor', ...free], { cwd, env: { NOA_SERVER__HOST: '/' } });
    t.match(config, { code: 1, stdout: /✖ configuration: server\.host must be/ });
  },
);

t.test('completion comes from the tree of commands', async (t) => {
  const run = runner(t);
  const bash = await run(['completion', 'bash']);
  t.equal(bash.code, 0);
  const complete = (...words: string[]) =>
    execFileSync('bash', [
      '-c',
      `${bash.stdout}
      COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}
      _noa; echo "\${COMPREPLY[@]}"`,
    ])
      .toString()
      .trim()
      .split(' ');
  t.strictSame(complete('noa', 'doc'), ['doctor']);
  t.strictSame(complete('noa', 'plugin', 'in'), ['inspect', 'install']);
  t.strictSame(complete('noa', '--json', 'grant', 're'), ['revoke']);
  t.strictSame(complete('noa', 'plugin', 'remove', 'x', '--keep'), ['--keep-data']);
  t.ok(complete('noa', 'serve', '--').includes('--metrics-port'));
  t.match((await run(['completion', 'zsh'])).stdout, /bashcompinit[\s\S]*complete .*-F _noa noa/);
  t.match(
    (await run(['completion', 'fish'])).stdout,
    /complete -c noa .*fish_seen_subcommand_from plugin.* -a install /,
  );
});

t.test('migrate create writes the next file, whole or not at all', async (t) => {
  const cwd = t.testdir({ '0007_old.sql': '', 'notes.txt': '' });
  const made = await noa(['migrate', 'create', 'add_index', '--dir', '.'], { cwd });
  t.match(made, { code: 0, stdout: /0008_add_index\.sql\n$/ });
  t.match(readdirSync(cwd), ['0007_old.sql', '0008_add_index.sql', 'notes.txt']);
  t.match(await noa(['migrate', 'create', 'Bad Name', '--dir', '.'], { cwd }), {
    code: 1,
    stderr: /lower-case/,
  });
});

t.test('verify finds a changed, missing or foreign line of an exported log', async (t) => {
  const run = runner(t, { broken: '{"seq":1}\n', 'not-json': 'hello\n', empty: '' });
  t.match(await run(['audit', 'verify', 'broken']), {
    code: 1,
    stderr: /line 1 is not an audit record/,
  });
  t.match(await run(['audit', 'verify', 'not-json']), {
    code: 1,
    stderr: /line 1 is not an audit record/,
  });
  t.match(await run(['audit', 'verify', 'none']), { code: 1, stderr: /NOT_FOUND/ });
  t.match(await run(['audit', 'verify', 'empty']), { code: 0, stdout: /^intact, 0 records/ });
});

t.test('a reader that has seen enough ends it without a complaint', async (t) => {
  const cwd = t.testdir();
  // `true` is gone before the first byte.
  const script = `{ sleep 0.2; "$0" "$1" completion fish; } | true; exit "\${PIPESTATUS[0]}"`;
  const run = spawnSync('bash', ['-c', script, process.execPath, NOA], { cwd });
  t.equal(run.stderr.toString(), '');
  t.equal(run.status, 0);
});

const OLD_NODE = ['/usr/bin/node', '/usr/local/bin/node'].find((path) => {
  const { status, stdout } = spawnSync(path, ['-p', 'process.versions.node.split(".")[0]']);
  return status === 0 && Number(stdout.toString()) < 24;
});
const skip = OLD_NODE === undefined && 'this machine has no older Node';

t.test('an older Node runs it through the Node that npm installed', { skip }, async (t) => {
  const cwd = t.testdir({ 'x.toml': '[server]\nport = "x"\n' });
  const run = (...args: string[]) => spawnSync(OLD_NODE ?? '', [NOA, ...args], { cwd });
  t.match(run('--version').stdout.toString(), /^\d+\.\d+\.\d+\n$/);
  const failed = run('config', 'check', '--config', 'x.toml');
  t.equal(failed.status, 1, 'its exit code is passed on');
  t.match(failed.stderr.toString(), /server\.port must be/);
});
