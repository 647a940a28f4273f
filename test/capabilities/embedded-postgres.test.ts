/** The launcher of the embedded PostgreSQL: what it survives, and what it says when it cannot start. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chown, mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t, { type Test } from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import { attachPostgres, startPostgres } from '../../capabilities/db/embedded.ts';
import { eventually, failure, scratchFolder } from './database.ts';

// Starts of PostgreSQL on a machine that others load too.
t.setTimeout(120_000);

const root = process.getuid?.() === 0;
const launcher = new URL('../../capabilities/db/embedded.ts', import.meta.url).href;

async function scratch(t: Test): Promise<string> {
  const folder = await scratchFolder();
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

function start(dataDir: string, more: Partial<Parameters<typeof startPostgres>[0]> = {}) {
  return startPostgres({ dataDir, log: () => {}, ...more });
}

async function ask(url: string, sql: string): Promise<{ [column: string]: unknown }[]> {
  const client = new pg.Client(connectionConfig(url));
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query<{ [column: string]: unknown }>(sql)).rows;
  } finally {
    await client.end();
  }
}

/** Processes that work in a data folder, the server's children included. */
async function processesOf(dataDir: string): Promise<number[]> {
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const line = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '');
    if (line.includes(dataDir)) found.push(Number(entry));
  }
  return found;
}

async function gone(dataDir: string): Promise<void> {
  const left = await processesOf(dataDir);
  if (left.length > 0) throw new Error(`still there: ${left.join(', ')}`);
}

/** A host in a process of its own; resolves with it when it says the url, or when initdb has begun. */
async function host(
  dataDir: string,
  {
    user,
    until = 'postgresql:',
    hideSetpriv = false,
  }: { user?: number; until?: string; hideSetpriv?: boolean } = {},
): Promise<{ child: ChildProcess; said: () => string }> {
  const program = `
    const user = ${user ?? 'undefined'};
    if (user !== undefined) process.setgid(user), process.setuid(user);
    const { startPostgres } = await import(${JSON.stringify(launcher)});
    const server = await startPostgres({
      dataDir: ${JSON.stringify(dataDir)},
      log: () => {},
      onProgress: (step) => console.log(step),
    }).catch((error) => { console.log(error.code, error.message); process.exit(1); });
    console.log(server.url);
    setInterval(() => {}, 1000);`;
  const node = [process.execPath, '--input-type=module', '-e', program];
  const hidden = 'mount --bind /dev/null /usr/bin/setpriv && exec "$@"';
  const [command = '', ...args] = hideSetpriv
    ? ['unshare', '-m', 'sh', '-c', hidden, 'sh', ...node]
    : node;
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/' });
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
  await eventually(async () => {
    if (!said.includes(until) && child.exitCode === null) throw new Error(`it said ${said}`);
  }, 30_000);
  return { child, said: () => said };
}

async function killed(child: ChildProcess): Promise<void> {
  const exit = new Promise((done) => child.once('exit', done));
  child.kill('SIGKILL');
  await exit;
}

t.test('one server through its life', async (t) => {
  const dataDir = join(await scratch(t), 'postgres');
  const lines: string[] = [];
  const steps: string[] = [];
  const exits: Error[] = [];
  const coldAt = performance.now();
  let server = await start(dataDir, {
    log: (level, message) => lines.push(`${level} ${message}`),
    onProgress: (step) => steps.push(step),
    onExit: (reason) => exits.push(reason),
  });
  t.comment(`cold start ${Math.round(performance.now() - coldAt)} ms`);
  t.match(steps, [/creating the embedded PostgreSQL/]);
  t.equal(await attachPostgres(dataDir), server.url, 'another process finds it');

  t.test('it is on a private socket alone, durable, and not root', async (t) => {
    const sql = `SELECT current_user AS me, current_setting('listen_addresses') AS tcp,
      current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commits,
      current_setting('full_page_writes') AS pages, current_setting('server_version_num')::int / 10000 AS major`;
    t.same(await ask(server.url, sql), [
      { me: 'noa', tcp: '', fsync: 'on', commits: 'on', pages: 'on', major: 18 },
    ]);
    const sockets = new URL(server.url).searchParams.get('host') ?? '';
    t.equal((await stat(sockets)).mode & 0o777, 0o700);
    t.equal((await stat(join(dataDir, 'cluster'))).mode & 0o777, 0o700);
    const status = await readFile(`/proc/${server.pid}/status`, 'utf8');
    t.notMatch(status, /^Uid:\s+0\s/m);
    t.match(status, /^CapEff:\s+0+$/m, 'without any capability');
    if (root) t.match(status, /^NoNewPrivs:\s+1$/m);
  });

  t.test('variables of the environment change nothing', async (t) => {
    const hostile = {
      PGHOST: 'nowhere.invalid',
      PGPORT: '1',
      PGUSER: 'x',
      PGDATABASE: 'x',
      PGPASSWORD: 'x',
      PGSSLMODE: 'require',
    };
    t.teardown(() => Object.keys(hostile).forEach((name) => delete process.env[name]));
    Object.assign(process.env, hostile);
    t.same(await ask(server.url, 'SELECT current_user AS me'), [{ me: 'noa' }]);
  });

  t.test('a second start on the same folder names the process that has it', async (t) => {
    const error = await failure(start(dataDir));
    t.match(error, {
      code: 'UNAVAILABLE',
      message: new RegExp(`process ${server.pid} already serves`),
    });
    t.same(await ask(server.url, 'SELECT 1 AS one'), [{ one: 1 }], 'which goes on');
  });

  t.test(
    'kill -9 of the server: it is back by itself and nothing acknowledged is lost',
    async (t) => {
      await ask(server.url, 'CREATE TABLE kept (n int)');
      let last = 0;
      for (let round = 0; round < 3; round += 1) {
        const client = new pg.Client(connectionConfig(server.url));
        client.on('error', () => {});
        await client.connect();
        const pid = server.pid ?? 0;
        setTimeout(() => process.kill(pid, 'SIGKILL'), 60);
        try {
          for (;;) {
            await client.query('INSERT INTO kept VALUES ($1)', [last + 1]);
            last += 1;
          }
        } catch {
          await eventually(() => ask(server.url, 'SELECT 1'), 10_000);
        }
        t.not(server.pid, pid);
        const [row] = await ask(server.url, 'SELECT count(*)::int AS n FROM kept');
        t.ok(Number(row?.['n']) >= last, `${last} acknowledged, ${String(row?.['n'])} there`);
        last = Number(row?.['n']);
      }
      t.ok(lines.some((line) => /^error .*restart 1 in 100 ms/.test(line)));
      t.same(exits, []);
    },
  );

  t.test('stop, and a warm start', async (t) => {
    await server.stop();
    await server.stop();
    t.equal(await attachPostgres(dataDir), undefined);
    await gone(dataDir);
    const warmAt = performance.now();
    server = await start(dataDir);
    t.comment(`warm start ${Math.round(performance.now() - warmAt)} ms`);
    t.not((await ask(server.url, 'SELECT count(*)::int AS n FROM kept'))[0]?.['n'], 0);
    await server.stop();
  });

  t.test('a lock file that a stranger’s process seems to hold', async () => {
    const lock = [
      process.pid,
      join(dataDir, 'cluster'),
      0,
      5432,
      join(dataDir, 'run'),
      '',
      '',
      'ready',
    ];
    await writeFile(join(dataDir, 'cluster', 'postmaster.pid'), lock.join('\n'));
    if (root) await chown(join(dataDir, 'cluster', 'postmaster.pid'), 65534, 65534);
    t.equal(await attachPostgres(dataDir), undefined);
    server = await start(dataDir);
    await server.stop();
  });

  t.test('damage is named', async (t) => {
    const control = join(dataDir, 'cluster', 'global', 'pg_control');
    const whole = await readFile(control);
    await writeFile(control, Buffer.alloc(whole.length, 'x'));
    const garbled = await failure(start(dataDir));
    t.match(garbled, { code: 'UNAVAILABLE', message: /did not start: .*(FATAL|PANIC)/ });
    await writeFile(control, '');
    const notWhole = { message: /is not a whole PostgreSQL data folder; restore it from a backup/ };
    t.match(await failure(start(dataDir)), notWhole);
    await writeFile(control, whole);
    await writeFile(join(dataDir, 'cluster', 'PG_VERSION'), '17\n');
    t.match(await failure(start(dataDir)), { message: /written by PostgreSQL 17 and this is 18/ });
    await writeFile(join(dataDir, 'cluster', 'PG_VERSION'), '');
    t.match(await failure(start(dataDir)), notWhole);
    await writeFile(join(dataDir, 'cluster', 'PG_VERSION'), '18\n');
    await gone(dataDir);
    server = await start(dataDir);
    await server.stop();
  });

  t.test('a server that cannot stay is given up after a few tries', async (t) => {
    const failed = Promise.withResolvers<Error>();
    const conf = join(dataDir, 'cluster', 'postgresql.conf');
    const before = await readFile(conf);
    server = await start(dataDir, { onExit: failed.resolve });
    await writeFile(conf, 'nonsense here\n');
    process.kill(server.pid ?? 0, 'SIGKILL');
    const reason = await failed.promise;
    t.match(reason, { code: 'UNAVAILABLE', message: /given up after 5 restarts: .*FATAL/ });
    await server.stop();
    await writeFile(conf, before);
  });
});

t.test('kill -9 of the host: no process is left, and the next start is clean', async (t) => {
  const dataDir = join(await scratch(t), 'postgres');
  const first = await host(dataDir, { until: 'creating' });
  await sleep(120);
  await killed(first.child);
  await eventually(() => gone(dataDir), 3_000);
  t.pass('in the middle of initdb');
  for (let round = 0; round < 2; round += 1) {
    const { child, said } = await host(dataDir);
    t.match(said(), /postgresql:/);
    await killed(child);
    const { child: next } = await host(dataDir);
    t.match(await attachPostgres(dataDir), /postgresql:/, 'a start at once takes over');
    await killed(next);
    await eventually(() => gone(dataDir), 3_000);
  }
  t.same((await readdir(dataDir)).toSorted(), ['cluster', 'run'], 'no leftovers');
});

t.test('two hosts that start at the same moment: one serves, the other says why not', async (t) => {
  const dataDir = join(await scratch(t), 'postgres');
  const both = await Promise.all([1, 2].map(() => host(dataDir, { until: '\n' })));
  await eventually(async () => {
    for (const { said } of both)
      if (!/postgresql:|UNAVAILABLE/.test(said())) throw new Error(said());
  }, 20_000);
  const said = both
    .map((each) => each.said())
    .toSorted((one) => (one.includes('UNAVAILABLE') ? 1 : -1));
  t.match(said[0], /postgresql:/);
  t.match(said[1], /UNAVAILABLE .*process \d+ already serves|UNAVAILABLE .*lock file/);
  for (const { child } of both) if (child.exitCode === null) await killed(child);
  await eventually(() => gone(dataDir), 3_000);
});

t.test('a data path too long for a socket', async (t) => {
  const dataDir = join(await scratch(t), 'long-'.repeat(24), 'postgres');
  const server = await start(dataDir);
  const sockets = new URL(server.url).searchParams.get('host') ?? '';
  t.ok(sockets.length < 80 && !sockets.startsWith(dataDir), sockets);
  t.equal((await stat(sockets)).mode & 0o777, 0o700);
  t.equal(await attachPostgres(dataDir), server.url);
  t.same(await ask(server.url, 'SELECT 1 AS one'), [{ one: 1 }]);
  await server.stop();
  t.notOk(await stat(sockets).catch(() => undefined), 'and its folder goes with it');
});

t.test('folders that are in the way are named', async (t) => {
  const folder = await scratch(t);
  await writeFile(join(folder, 'file'), '');
  t.match(await failure(start(join(folder, 'file', 'postgres'))), {
    code: 'UNAVAILABLE',
    message: /the folder .* cannot be made or written \(ENOTDIR\)/,
  });
  await writeFile(join(folder, 'cluster'), 'x');
  t.match(await failure(start(folder)), { message: /not a whole PostgreSQL data folder/ });
});

t.test('below a folder that is closed to others', { skip: !root && 'not root' }, async (t) => {
  const closed = join(await scratch(t), 'closed');
  await mkdir(closed, { mode: 0o700 });
  const server = await start(join(closed, 'postgres')).catch((error: Error) => error);
  if (server instanceof Error) {
    // Where the kernel does not let us keep the right to pass.
    t.match(server, {
      code: 'UNAVAILABLE',
      message: /user 65534, which cannot reach .* closed to others/,
    });
    return;
  }
  const { pid, url } = server;
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  t.match(status, /^CapEff:\s+0+4$/m, 'with that one right, CAP_DAC_READ_SEARCH');
  t.match(status, /^CapBnd:\s+0+4$/m);
  t.same(await ask(url, 'SELECT 1 AS one'), [{ one: 1 }]);
  await server.stop();
});

t.test('as another user than root', { skip: !root && 'it already is' }, async (t) => {
  const folder = await scratch(t);
  const dataDir = join(folder, 'postgres');
  const refused = await host(dataDir, { user: 65534 });
  t.match(refused.said(), /UNAVAILABLE .*cannot be made or written \(EACCES\)/);
  await chown(folder, 65534, 65534);
  const { child } = await host(dataDir, { user: 65534 });
  t.match(await attachPostgres(dataDir), /postgresql:/);
  await killed(child);
  await eventually(() => gone(dataDir), 3_000);
  const server = await start(dataDir);
  t.same(await ask(server.url, 'SELECT 1 AS one'), [{ one: 1 }], 'root takes such a folder over');
  await server.stop();
});

const canHide =
  root &&
  spawnSync('unshare', ['-m', 'mount', '--bind', '/dev/null', '/usr/bin/setpriv']).status === 0;
t.test('where there is no setpriv', { skip: !canHide && 'setpriv cannot be hidden' }, async (t) => {
  const folder = await scratch(t);
  const dataDir = join(folder, 'postgres');
  const asRoot = await host(dataDir, { hideSetpriv: true });
  t.match(asRoot.said(), /UNAVAILABLE .*does not run as root and there is no setpriv/);
  await chown(folder, 65534, 65534);
  await rm(dataDir, { recursive: true, force: true });
  const { child } = await host(dataDir, { user: 65534, hideSetpriv: true });
  const pid = (await processesOf(dataDir))[0] ?? 0;
  t.match(await attachPostgres(dataDir), /postgresql:/);
  t.ok(pid > 0);
  await killed(child);
  await eventually(() => gone(dataDir), 3_000);
});
