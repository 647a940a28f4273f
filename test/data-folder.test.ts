/** The data folder: one host at a time whatever happens to it, and secrets that are whole and private. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { openDataFolder, readBootstrapToken } from '../host/data-folder.ts';

const quiet = (): void => {};
const CHILD = `
  const { openDataFolder } = await import(${JSON.stringify(join(import.meta.dirname, '../host/data-folder.ts'))});
  process.once('message', async () => {
    try {
      await openDataFolder(process.argv[1], () => {});
      process.send('won');
    } catch (error) {
      process.send(error.code + ' ' + error.message);
    }
  });
  setInterval(() => {}, 1000);
  process.send('ready');
`;

async function scratch(t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'noa-data-'));
  t.teardown(() => rm(dir, { recursive: true }));
  return join(dir, 'data');
}

/** A process that opens the folder when it is told to, and keeps it. */
async function starter(t: Test, path: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', CHILD, path], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child, 'message');
  return child;
}

async function open(child: ChildProcess): Promise<string> {
  const answer = once(child, 'message');
  child.send('open');
  return String((await answer)[0]);
}

t.test(
  'of starters at the same moment exactly one wins, also over the lock of a killed host',
  async (t) => {
    const path = await scratch(t);
    let holder: ChildProcess | undefined;
    for (let round = 1; round <= 4; round += 1) {
      const starters = await Promise.all([1, 2, 3].map(() => starter(t, path)));
      if (holder !== undefined) {
        t.match(
          await open(await starter(t, path)),
          `process id ${holder.pid}`,
          'the holder is named',
        );
        holder.kill('SIGKILL');
        await once(holder, 'exit');
      }
      const answers = await Promise.all(starters.map(open));
      const winners = starters.filter((_, i) => answers[i] === 'won');
      t.equal(winners.length, 1, `round ${round}: ${answers.join(' | ')}`);
      const refused = answers.filter((answer) => answer !== 'won');
      t.ok(refused.every((answer) => answer.startsWith('CONFLICT the data folder')));
      holder = winners[0];
      for (const loser of starters) if (loser !== holder) loser.kill('SIGKILL');
    }
    const locks = readdirSync(path).filter((name) => name.startsWith('lock'));
    t.strictSame(locks, ['lock.4'], 'older locks and drafts are gone');
  },
);

t.test('a released folder can be taken again, and a process id alone proves nothing', async (t) => {
  const path = await scratch(t);
  const first = await openDataFolder(path, quiet);
  await t.rejects(openDataFolder(path, quiet), {
    code: 'CONFLICT',
    message: new RegExp(`id ${process.pid};`),
  });
  await first.release();
  await first.release();
  const second = await openDataFolder(path, quiet);
  t.equal(second.hostId, first.hostId, 'the same host');
  await second.release();

  // This very process id, but of a process that began at another time.
  const lock = { pid: process.pid, started: '1', space: '' };
  const [name = ''] = readdirSync(path).filter((file) => file.startsWith('lock'));
  const third = await openDataFolder(path, quiet);
  const now = readdirSync(path).find((file) => file.startsWith('lock') && file !== name) ?? name;
  const { space } = JSON.parse(readFileSync(join(path, now), 'utf8')) as { space: string };
  await third.release();
  writeFileSync(join(path, now), JSON.stringify({ ...lock, space }));
  const fourth = await openDataFolder(path, quiet);
  t.pass('a recycled process id does not hold the folder');
  await fourth.release();
});

t.test(
  'a holder that cannot be looked at is waited for, and believed when it shows life',
  async (t) => {
    const path = await scratch(t);
    const folder = await openDataFolder(path, quiet);
    await folder.release();
    const name = readdirSync(path).find((file) => file.startsWith('lock')) ?? '';
    writeFileSync(
      join(path, name),
      JSON.stringify({ pid: 1, started: '1', space: 'another container' }),
    );
    const beat = setInterval(() => {
      const now = new Date();
      utimesSync(join(path, name), now, now);
    }, 300);
    t.teardown(() => clearInterval(beat));
    const notices: string[] = [];
    const refused = openDataFolder(path, (text) => notices.push(text));
    await t.rejects(refused, { code: 'CONFLICT', message: /another container or machine/ });
    t.match(notices, [/^waiting up to 15 s/]);
  },
);

t.test('secrets are made once, whole, and for their owner only', async (t) => {
  const path = await scratch(t);
  const first = await openDataFolder(path, quiet);
  const { token, made } = await first.bootstrapToken(undefined);
  t.match({ token, made }, { token: /^[\w-]{43}$/, made: true });
  t.strictSame(await first.bootstrapToken(undefined), { token, made: false });
  const given = 'x'.repeat(40);
  t.strictSame(await first.bootstrapToken(given), { token: given, made: false }, 'configured wins');
  const key = await first.rootKey(undefined);
  t.equal(key.length, 32);
  const configured = Buffer.alloc(48, 9);
  t.strictSame(await first.rootKey(configured.toString('base64')), configured);
  t.strictSame(await first.rootKey(configured.toString('base64url')), configured);
  await first.release();

  t.equal(await readBootstrapToken(path), token);
  t.equal(await readBootstrapToken(join(path, 'none')), undefined);
  const again = await openDataFolder(path, quiet);
  t.strictSame(await again.bootstrapToken(undefined), { token, made: false });
  t.strictSame(await again.rootKey(undefined), key);
  t.equal(again.hostId, first.hostId);
  await again.release();
  for (const name of ['bootstrap-token', 'root-key']) {
    t.equal(statSync(join(path, name)).mode & 0o777, 0o600, name);
  }
  t.equal(statSync(path).mode & 0o077 & ~0o011, 0, 'the folder cannot be listed by others');
});

t.test('a damaged secret is refused, not replaced', async (t) => {
  const path = await scratch(t);
  const folder = await openDataFolder(path, quiet);
  await folder.rootKey(undefined);
  writeFileSync(join(path, 'root-key'), 'short');
  await t.rejects(folder.rootKey(undefined), {
    code: 'INVALID_ARGUMENT',
    message: /root-key is damaged/,
  });
  writeFileSync(join(path, 'bootstrap-token'), '');
  await t.rejects(folder.bootstrapToken(undefined), { message: /bootstrap-token is damaged/ });
  writeFileSync(join(path, 'bootstrap-token.new'), 'left by a crash');
  await rm(join(path, 'bootstrap-token'));
  t.match(await folder.bootstrapToken(undefined), { made: true }, 'a left draft is no obstacle');
  await folder.release();
});

t.test('a place that cannot be a data folder is refused in one line', async (t) => {
  const dir = await scratch(t).then((path) => join(path, '..'));
  writeFileSync(join(dir, 'file'), '');
  await t.rejects(openDataFolder(join(dir, 'file'), quiet), {
    code: 'INVALID_ARGUMENT',
    message: /is not a folder/,
  });
  await t.rejects(openDataFolder(join(dir, 'file/x'), quiet), { message: /is not a folder/ });
  await t.rejects(openDataFolder('/proc/noa', quiet), {
    code: 'UNAVAILABLE',
    message: /cannot be written/,
  });
  const closed = await openDataFolder(join(dir, 'closed'), quiet);
  await closed.release();
  chmodSync(closed.path, 0o500);
  if (process.getuid?.() !== 0) {
    await t.rejects(openDataFolder(closed.path, quiet), {
      code: 'UNAVAILABLE',
      message: /cannot be written \(EACCES\)/,
    });
  }
  chmodSync(closed.path, 0o700);
});
