/** kill -9 is a normal day: what was acknowledged is there after it, and nothing is left running. */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { bundleOf, eventually, RunningHost } from './running-host.ts';

const host = await RunningHost.start();
t.teardown(() => host.dispose());
const notes = await bundleOf('plugins/examples/notes');

/** Processes whose command line names the host's data folder. */
async function processesOf(dataPath: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(dataPath)) found.push(command.replaceAll('\0', ' '));
  }
  return found;
}

t.test('a killed host leaves no process behind, and the next start is clean', async (t) => {
  t.ok((await processesOf(host.dataPath)).length > 0, 'PostgreSQL runs below the data folder');
  await host.kill();
  await eventually(
    'all processes are gone',
    async () => (await processesOf(host.dataPath)).length === 0,
  );
  await host.start();
  t.match(await host.get('/ready'), { status: 200 });
});

t.test(
  'acknowledged notes, grants and audit records survive kills in the middle of traffic',
  async (t) => {
    await host.install(notes);
    await host.approve('notes');
    const acknowledged: string[] = [];
    for (let round = 0; round < 4; round++) {
      let running = true;
      const writers = Array.from({ length: 4 }, async () => {
        while (running) {
          const answer = await host
            .post('/plugins/notes/notes', { text: `round ${round}` })
            .catch(() => undefined);
          if (answer?.status === 201) acknowledged.push(String(answer.body['id']));
        }
      });
      await sleep(100 + Math.random() * 300);
      await host.kill();
      running = false;
      await Promise.all(writers);
      await host.start();
    }
    t.ok(acknowledged.length > 0);
    const missing: string[] = [];
    for (const id of acknowledged) {
      const { status } = await host.get(`/plugins/notes/notes/${id}`);
      if (status !== 200) missing.push(id);
    }
    t.strictSame(missing, [], `${acknowledged.length} notes were acknowledged`);
    t.match((await host.post('/v1/audit/verify')).body, { ok: true });
  },
);

t.test('a kill between any two steps of administration leaves a host that goes on', async (t) => {
  const steps = [
    () => host.request('DELETE', '/v1/plugins/notes'),
    () => host.post('/v1/plugins', notes),
    () => host.approve('notes').then(() => ({ status: 200 })),
    () => host.post('/v1/plugins/notes/disable'),
    () => host.post('/v1/plugins/notes/enable'),
  ];
  for (const [index, step] of steps.entries()) {
    const outcome = step().catch(() => undefined);
    await sleep(Math.random() * 60);
    await host.kill();
    const answer = await outcome;
    await host.start();
    const { body } = await host.get('/v1/plugins');
    const plugins = body['plugins'] as { name: string; state: string; enabled: boolean }[];
    t.match((await host.post('/v1/audit/verify')).body, { ok: true }, `audit after step ${index}`);
    if (answer !== undefined && answer.status < 300) {
      const there = plugins.find(({ name }) => name === 'notes');
      t.equal(there !== undefined, index !== 0, `step ${index} was acknowledged and holds`);
      if (index >= 3) t.equal(there?.enabled, index === 4);
    } else await step().catch(() => undefined);
  }
  const state = (await host.get('/v1/plugins/notes')).body['state'];
  if (state === 'pending') await host.approve('notes');
  t.match(await host.post('/plugins/notes/notes', { text: 'alive' }), { status: 201 });
});

t.test('SIGTERM finishes what runs, exits 0 and leaves nothing running', async (t) => {
  // Settled from the start: a connection that is only being made when the host stops is refused.
  const settled = Promise.allSettled(
    Array.from({ length: 8 }, () => host.post('/plugins/notes/notes', { text: 'last' })),
  );
  await sleep(5);
  t.equal(await host.stop(), 0);
  const wrong = (await settled).filter(
    (each) => each.status === 'fulfilled' && each.value.status >= 500,
  );
  t.strictSame(wrong, []);
  t.strictSame(await processesOf(host.dataPath), []);
  await host.start();
});
