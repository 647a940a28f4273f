/** A plugin that the operator does not trust, in a whole host: a process of its own, the same behaviour. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import t from 'tap';
import { bundleOf, eventually, RunningHost } from './running-host.ts';

t.setTimeout(120_000);
const linux = process.platform === 'linux';
const [notes, digest, rogue] = await Promise.all(
  ['plugins/examples/notes', 'plugins/examples/digest', 'test/fixtures/plugins/rogue'].map(
    bundleOf,
  ),
);
if (!notes || !digest || !rogue) throw new Error('the bundles are missing');

const host = await RunningHost.start({ env: { NOA_PLUGINS__UNTRUSTED: 'notes, rogue' } });
t.teardown(() => host.dispose());

/** The processes of this host that run a plugin, by its name. */
function processes(): Map<string, number> {
  const found = new Map<string, number>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry) || !existsSync(`/proc/${entry}/stat`)) continue;
    const stat = readFileSync(`/proc/${entry}/stat`, 'utf8');
    const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
    const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0');
    const script = command.findIndex((part) => part.endsWith('/process/child.ts'));
    if (parent === host.pid && script > 0) found.set(command[script + 1] ?? '', Number(entry));
  }
  return found;
}

async function create(text: string): Promise<number> {
  return (await host.post('/plugins/notes/notes', { text })).status;
}

t.test('it is installed, granted and called as any other', async (t) => {
  await host.install(notes);
  t.match((await host.get('/v1/plugins/notes')).body, { isolation: null, state: 'pending' });
  await host.approve('notes');
  const { status, body } = await host.post('/plugins/notes/notes', { text: 'grüße' });
  t.equal(status, 201);
  t.match(await host.get(`/plugins/notes/notes/${String(body['id'])}`), {
    status: 200,
    body: { text: 'grüße', reads: 1 },
  });
  t.match((await host.get('/v1/plugins/notes')).body, {
    isolation: 'process',
    instances: 1,
    state: 'serving',
  });
  t.match((await host.cli('plugin', 'show', 'notes')).stdout, /isolation\s+process/);
  t.match(await host.get('/plugins/notes/absent'), { status: 404 });

  await host.install(digest);
  await host.approve('digest');
  t.match(await host.get('/plugins/digest/digest'), { status: 200, body: { notes: 1 } });
  t.match((await host.get('/v1/plugins/digest')).body, { isolation: 'thread' });
  if (linux) t.same([...processes().keys()], ['notes'], 'one process, for it alone');
});

t.test('kill -9 of its process is not seen from outside', { skip: !linux }, async (t) => {
  const pid = processes().get('notes');
  if (pid === undefined) throw new Error('notes has no process'); // 0 would be the test's own group
  process.kill(pid, 'SIGKILL');
  const told = 'the process of the plugin notes got SIGKILL';
  await eventually('the operator is told', () => Promise.resolve(host.output.includes(told)));
  t.equal(await create('after it'), 201, 'the next call works');
  t.not(processes().get('notes'), pid);
});

t.test('what it does to itself stays with it', async (t) => {
  await host.install(rogue);
  await host.approve('rogue');
  const before = linux ? processes() : undefined;
  const codes = await Promise.all(
    ['loop', 'never', 'recurse', 'grow', 'flood', 'fail', 'echo'].map(async (name) => [
      name,
      (await host.call('rogue', name, {})).status,
      await create(name),
    ]),
  );
  t.same(
    codes.map(([, , beside]) => beside),
    codes.map(() => 201),
    JSON.stringify(codes),
  );
  t.match(
    codes.map(([name, status]) => `${String(name)} ${String(status)}`),
    // What never answers is found out, unless its deadline comes first while it waits for its turn.
    ['loop 504', /never 50[04]/, 'recurse 500', 'grow 500', 'flood 200', 'fail 500', 'echo 200'],
    'each ends as it does on a thread',
  );
  t.match(await host.call('rogue', 'echo', { a: 1 }), { status: 200, body: { a: 1 } });
  if (linux) t.same(processes(), before, 'no process had to be ended for it');
  t.match(
    await host.call('rogue', 'query', { sql: 'select * from notes.notes' }),
    { status: 403 },
    'and grants are what they were',
  );
});

t.test('its process ends with the plugin, and with the host', { skip: !linux }, async (t) => {
  const { notes: pid = 0 } = Object.fromEntries(processes());
  await host.post('/v1/plugins/rogue/disable');
  await eventually('rogue is gone', () => Promise.resolve(!processes().has('rogue')));
  await host.kill();
  await eventually('notes is gone', () => Promise.resolve(!existsSync(`/proc/${pid}`)));
  await host.start();
  t.equal(await create('again'), 201);
});
