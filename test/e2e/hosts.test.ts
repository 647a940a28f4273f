/** Two hosts on one database: what is decided on one holds on the other within a second. */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { CONVERGENCE_MS } from '../../host/kernel/kernel.ts';
import { bundleOf, eventually } from './running-host.ts';
import { twoHosts } from './two-hosts.ts';

const { one, two } = await twoHosts(t);

t.test('a plugin installed and granted on one host serves on both, on the same data', async (t) => {
  await one.install(await bundleOf('plugins/examples/notes'));
  await one.approve('notes');
  const created = await one.post('/plugins/notes/notes', { text: 'shared' });
  t.equal(created.status, 201);
  const path = `/plugins/notes/notes/${String(created.body['id'])}`;
  await eventually('the other host serves it', async () => (await two.get(path)).status === 200);
});

t.test(
  'a grant revoked on one host is denied on the other within the published bound',
  async (t) => {
    const { body } = await one.get('/v1/grants?plugin=notes');
    const grants = body['grants'] as { id: string; capability: string }[];
    const id = grants.find(({ capability }) => capability === 'db')?.id;
    t.match(await two.post('/plugins/notes/notes', { text: 'before' }), { status: 201 });
    t.match(await one.request('DELETE', `/v1/grants/${id}`), { status: 200 });
    // The bound, and what a machine under test may add to a timer.
    await sleep(CONVERGENCE_MS + 1500);
    t.match(await two.post('/plugins/notes/notes', { text: 'after' }), {
      status: 403,
      body: { code: 'CAPABILITY_DENIED' },
    });
    t.match(await two.post(`/v1/grants/${id}/approve`), { status: 200 });
    t.match(await two.post('/plugins/notes/notes', { text: 'again' }), { status: 201 });
  },
);

t.test('administration on both hosts at once takes turns, and both chains verify', async (t) => {
  const rogue = await bundleOf('test/fixtures/plugins/rogue');
  const both = await Promise.all([one.post('/v1/plugins', rogue), two.post('/v1/plugins', rogue)]);
  t.strictSame(
    both.map(({ status }) => status).toSorted((a, b) => a - b),
    [201, 409],
  );
  await Promise.all(
    Array.from({ length: 10 }, async (_, index) => {
      const host = index % 2 === 0 ? one : two;
      await host.post(`/v1/plugins/rogue/${index % 4 < 2 ? 'disable' : 'enable'}`);
    }),
  );
  const verified = await two.post('/v1/audit/verify');
  t.match(verified.body, { ok: true });
  t.equal((verified.body['chains'] as unknown[]).length, 2);
});
