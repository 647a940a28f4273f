/** The README's transcript, typed word for word: every `$` line runs, and its output is what is shown. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import t from 'tap';
import { RunningHost } from './e2e/running-host.ts';

const ROOT = resolve(import.meta.dirname, '..');

interface Step {
  readonly command: string;
  /** Lines as shown; `…` stands for anything. */
  readonly shown: string[];
}

/** The `$` lines of all console blocks with what is shown below each. */
function transcript(markdown: string): Step[] {
  const steps: Step[] = [];
  for (const [, block = ''] of markdown.matchAll(/```console\n(.*?)```/gs)) {
    for (const line of block.trimEnd().split('\n')) {
      if (line.startsWith('$ ')) steps.push({ command: line.slice(2), shown: [] });
      else steps.at(-1)?.shown.push(line);
    }
  }
  return steps;
}

/** A line `…` alone stands for any lines, `…` within a line for any text. */
function pattern(shown: readonly string[]): RegExp {
  const lines = shown.map((line) =>
    line === '…'
      ? '(?:.*\\n)*?'
      : `${line
          .split('…')
          .map((part) => RegExp.escape(part))
          .join('.*?')}\\n`,
  );
  return new RegExp(`^${lines.join('')}$`);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

t.test('the README works when typed as written', async (t) => {
  const markdown = await readFile(join(ROOT, 'README.md'), 'utf8');
  const steps = transcript(markdown);
  t.ok(steps.length >= 10, 'the transcript is there');

  // A clone of the repository to type in: what is written there stays there.
  const clone = await mkdtemp(join(tmpdir(), 'noa-readme-'));
  t.teardown(() => rm(clone, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
  for (const name of await readdir(ROOT)) {
    if (!['.git', '.noa', '.tap', 'hello'].includes(name)) {
      await symlink(join(ROOT, name), join(clone, name));
    }
  }
  const port = await freePort();
  const host = await RunningHost.start({
    dataPath: join(clone, '.noa'),
    env: { NOA_SERVER__PORT: String(port), NOA_PLUGINS__BUILTIN: 'inference,retrieval' },
    anonymous: true,
  });
  t.teardown(() => host.stop());

  for (const { command, shown } of steps) {
    const { code, output } = await type(command.replaceAll(':8080', `:${port}`), clone, port);
    t.match(output, pattern(shown), `$ ${command}`);
    t.equal(code, shown[0]?.startsWith('error: ') ? 1 : 0, `exit code of ${command}`);
  }
});

/** Runs a line as a shell would, with both streams as a terminal shows them. */
function type(
  command: string,
  cwd: string,
  port: number,
): Promise<{ code: number; output: string }> {
  const env = {
    PATH: `${join(ROOT, 'node_modules/.bin')}:/usr/local/bin:/usr/bin:/bin`,
    HOME: tmpdir(),
    NOA_URL: `http://127.0.0.1:${port}`,
    npm_config_loglevel: 'silent',
    npm_config_update_notifier: 'false',
  };
  return new Promise((resolved) => {
    execFile('/bin/bash', ['-c', `${command} 2>&1`], { cwd, env }, (error, stdout) => {
      const code = typeof error?.code === 'number' ? error.code : error ? 1 : 0;
      resolved({ code, output: stdout.endsWith('\n') ? stdout : `${stdout}\n` });
    });
  });
}
