/** Vectors through a whole host of two processes: a plugin in the sandbox keeps and finds, while what keeps them is killed. */
import { execFileSync } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { bundleOf, eventually, RunningHost } from './running-host.ts';

t.setTimeout(180_000);
const host = await RunningHost.start({
  env: { NOA_SERVER__WORKERS: '2', NOA_INFERENCE__TIMEOUT_MS: '20000' },
});
t.teardown(() => host.dispose());
await host.install(await bundleOf('test/fixtures/plugins/librarian'));
const TEXTS = ['A kitten is asleep.', 'Interest rates rose again.', 'The match ended in a draw.'];
const find = (text: string, part: object = {}) => host.call('librarian', 'find', { text, ...part });
const ask = (method: string, ...args: unknown[]) => host.call('librarian', 'ask', { method, args });

t.test('nothing is kept without a grant, and nothing beyond it', async (t) => {
  t.match(await host.call('librarian', 'keep', { texts: TEXTS }), { status: 409 });
  await host.approve('librarian');
  await eventually('it serves', async () => (await ask('list')).status === 200);
  const beyond = await ask('create', 'other', {
    vectors: { default: { dimensions: 2, distance: 'dot' } },
  });
  t.match(beyond, { status: 403, body: { code: 'CAPABILITY_DENIED' } });
});

t.test('texts are found by what they mean, with vectors as typed arrays', async (t) => {
  t.match(await host.call('librarian', 'keep', { texts: TEXTS }), { status: 200 });
  const { status, body } = await find('the cat sleeps', { withVectors: true, limit: 2 });
  t.equal(status, 200, JSON.stringify(body));
  t.match(body, {
    hits: [{ id: TEXTS[0], payload: { text: TEXTS[0] } }, {}],
    widths: [512, 512],
    floats: true,
  });
  t.match(await find('a cat', { filter: { field: 'length', gt: 20 } }), {
    body: { hits: [{ payload: { length: 26 } }, { payload: { length: 26 } }] },
  });
  t.match(
    await ask('search', 'docs', {
      sparse: { name: 'words', indices: [19], values: [2] },
      limit: 5,
    }),
    {
      body: { hits: [{ id: TEXTS[0], score: 2 }] },
    },
  );
  t.match(await ask('search', 'docs', { vector: [1, 2], limit: 1 }), {
    status: 400,
    body: { detail: /has 2 dimensions, and default has 512/ },
  });
  t.match(await ask('scroll', 'docs', { limit: 2 }), { body: { next: String } });
  t.match(await host.get('/ready'), { body: { checks: { vector: { status: 'ok' } } } });
});

t.test('the process of the vectors is killed, and so is the host: all is there', async (t) => {
  const keepers = () =>
    execFileSync('pgrep', ['-f', `embedded/child.ts ${join(host.dataPath, 'vectors')}`])
      .toString()
      .split('\n')
      .filter((line) => line !== '')
      .map(Number);
  const [pid = 0, ...others] = keepers();
  t.same(others, [], 'one for both processes of the host');
  const searches = Array.from({ length: 20 }, () => find('the cat sleeps'));
  process.kill(pid, 'SIGKILL');
  for (const answer of await Promise.all(searches))
    t.equal(answer.status, 200, JSON.stringify(answer.body));
  await host.kill();
  await eventually('it ends with its host', async () => {
    try {
      return keepers().length === 0;
    } catch {
      return true; // pgrep found none
    }
  });
  await host.start();
  t.match(await find('the cat sleeps', { limit: 1 }), { body: { hits: [{ id: TEXTS[0] }] } });
});

t.test('a plugin that is removed with its data leaves no vectors', async (t) => {
  t.equal((await host.request('DELETE', '/v1/plugins/librarian')).status, 204);
  await eventually('its space is gone', async () => {
    const left = await readdir(join(host.dataPath, 'vectors'));
    return !left.includes('librarian');
  });
  t.pass();
});
