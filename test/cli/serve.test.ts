/** `noa serve` as a process: at a terminal, and when nobody reads what it writes. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import { eventually, RunningHost } from '../e2e/running-host.ts';
import { NOA } from './noa.ts';

const ENV = {
  PATH: `${dirname(process.execPath)}:/usr/bin:/bin`,
  NOA_SERVER__PORT: '0',
  NOA_OBSERVABILITY__METRICS_PORT: '0',
};

/** The process id of the embedded PostgreSQL of a host that runs or ran in `cwd`; undefined when it ended. */
function postgresOf(cwd: string): number | undefined {
  const file = join(cwd, '.noa/postgres/cluster/postmaster.pid');
  return existsSync(file) ? Number(readFileSync(file, 'utf8').split('\n')[0]) : undefined;
}

/** Starts `command` and resolves with the URL that it tells on any output. */
async function started(
  t: Test,
  command: readonly [string, ...string[]],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
): Promise<{ child: ChildProcess; url: string; ended: Promise<unknown[]> }> {
  const [program, ...args] = command;
  const child = spawn(program, args, { cwd, env: { ...ENV, ...env } });
  const ended = once(child, 'exit');
  t.teardown(async () => {
    // First so that its PostgreSQL ends with it.
    child.kill('SIGTERM');
    if ((await Promise.race([ended, sleep(20_000, undefined, { ref: false })])) === undefined)
      child.kill('SIGKILL');
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  await eventually('it listens', async () => /Listening on http\S+/.test(output), 60_000);
  return { child, ended, url: /Listening on (http[^\s]+)/.exec(output)?.[1] ?? '' };
}

const SCRIPT = '/usr/bin/script';
const skip = !existsSync(SCRIPT) && 'there is no script(1) to make a terminal';

t.test('Ctrl-C at a terminal ends the host and its PostgreSQL, with 0', { skip }, async (t) => {
  const cwd = t.testdir();
  const line = `exec ${process.execPath} ${NOA} serve`;
  const { child, ended } = await started(t, [SCRIPT, '-qec', line, '/dev/null'], cwd);
  const postgres = postgresOf(cwd);
  t.type(postgres, 'number');
  child.stdin?.write('\u0003');
  t.strictSame(await ended, [0, null], 'script -e ends as its command does');
  t.equal(postgresOf(cwd), undefined, 'PostgreSQL has ended in order');
  t.throws(() => process.kill(postgres ?? 0, 0), { code: 'ESRCH' });
});

t.test('a host with another root key says at its start what it cannot open', async (t) => {
  const key = (letter: string) => ({ NOA_AUTH__ROOT_KEY: `${letter.repeat(43)}=` });
  const first = await RunningHost.start({ env: key('a') });
  const { dataPath } = first;
  t.match(await first.request('PUT', '/v1/secrets/mail.key', { value: 'of-great-worth' }), {
    status: 200,
  });
  await first.stop();
  const second = await RunningHost.start({ dataPath, env: key('b') });
  t.match(
    second.output,
    /auth\.root_key is not the one that sealed secret mail\.key: nothing opens/,
  );
  t.notMatch(second.output, /of-great-worth/);
  await second.stop();
  const third = await RunningHost.start({ dataPath, env: key('a') });
  t.notMatch(third.output, /auth\.root_key/);
  await third.dispose();
});

for (const format of ['json', 'pretty']) {
  t.test(`a host whose output nobody reads goes on (${format})`, async (t) => {
    const cwd = t.testdir();
    const serve = [process.execPath, NOA, 'serve', '--log-format', format] as const;
    const { child, url, ended } = await started(t, serve, cwd);
    child.stdout?.destroy();
    child.stderr?.destroy();
    for (let i = 0; i < 5; i += 1) {
      await fetch(`${url}/nothing-here`);
      child.kill('SIGHUP'); // it tells of the reload
      await sleep(100);
    }
    t.match(await fetch(`${url}/health`), { status: 200 });
    child.kill('SIGTERM');
    t.strictSame(await ended, [0, null]);
    t.equal(postgresOf(cwd), undefined);
  });
}

t.test('whoever ends npm start ends the host', async (t) => {
  const cwd = t.testdir();
  const root = dirname(dirname(NOA));
  const line = ['npm', '--prefix', root, 'start'] as const;
  const { child, url, ended } = await started(t, line, root, { NOA_DATA__PATH: join(cwd, 'data') });
  child.kill('SIGTERM');
  await ended;
  await eventually('nothing listens any more', async () => {
    return fetch(`${url}/health`).then(
      () => false,
      () => true,
    );
  });
});
