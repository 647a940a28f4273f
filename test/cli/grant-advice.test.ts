/** What is told of rights before they are decided: explain, suggest and diff, over REST and the CLI. */
import { type CloudEvent, covers, NoaError } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import type { AuditRecord } from '../../host/kernel/audit.ts';
import { deliveryRecord } from '../../host/kernel/delivery.ts';
import type { Grant } from '../../host/kernel/grants.ts';
import { leastGrants } from '../../host/kernel/least-grants.ts';
import { bundleOf, RunningHost } from '../e2e/running-host.ts';

const host = await RunningHost.start();
t.teardown(() => host.dispose());
await host.install(await bundleOf('plugins/examples/notes'));

const explain = (...args: string[]) => host.cli('grant', 'explain', 'notes', ...args);
const diff = async (): Promise<string> => (await host.cli('grant', 'diff', 'notes')).stdout;
let ids = new Map<string, string>();

t.test('explain names the rule that decides, and what would change it', async (t) => {
  t.match(await explain('cache.increment', 'notes:reads:1'), {
    code: 0,
    stdout:
      /^denied \(pending\): cache\.increment on "notes:reads:1" is asked for, and nobody has decided\nwhat would allow it: noa grant approve [0-9a-f-]{36}\n$/,
  });
  t.match(await explain('http.request'), {
    stdout:
      /^denied \(unrequested\): plugin\.json does not ask for http\.request; it asks for nothing of http\nwhat would allow it: a version of notes whose plugin\.json asks for it/,
  });
  t.match(await explain('cache.get', 'other:1'), { stdout: /^denied \(unrequested\)/ });
  t.match(await explain('log.write'), { stdout: /^allowed \(open\): log is open to every plugin/ });
  t.match(await explain('cache.fly'), { code: 1, stderr: /INVALID_ARGUMENT .*no operation "fly"/ });
  t.match(await explain('magic'), {
    code: 1,
    stderr: /INVALID_ARGUMENT .*write CAPABILITY\.OPERATION, for example cache\.get/,
  });
  t.match(await host.cli('grant', 'explain', 'none', 'cache.get'), {
    code: 1,
    stderr: /NOT_FOUND/,
  });

  ids = await host.approve('notes');
  const id = ids.get('cache') ?? '';
  t.match(await explain('cache.increment', 'notes:reads:1'), {
    stdout: new RegExp(`^allowed \\(granted\\): grant ${id} .* was approved by bootstrap at `),
  });
  const narrow = { operations: ['increment'], resources: ['notes:reads:7'] };
  t.match(await host.post(`/v1/grants/${id}/approve`, narrow), { status: 200 });
  t.match(await explain('cache.increment', 'notes:reads:1'), {
    stdout: /^denied \(narrowed\): .*that does not cover/,
  });
  t.match(await explain('cache.increment', 'notes:reads:7'), { stdout: /^allowed \(granted\)/ });
  await host.request('DELETE', `/v1/grants/${id}`);
  t.match(await explain('cache.increment'), { stdout: /^denied \(revoked\): .* was revoked by/ });
  t.match(await host.get('/v1/grants/explain?plugin=notes&capability=cache&operation=get'), {
    status: 200,
    body: { allowed: false, rule: 'unrequested', remedy: String },
  });
  t.match(await host.get('/v1/grants/explain?plugin=notes'), { status: 400 });
});

t.test('diff sets requests against grants, and shows grants that nothing asks for', async (t) => {
  t.match(await diff(), /^STATUS +WHAT +GIVEN\n[^]*granted +db [^]*revoked +cache increment /);
  await host.post(`/v1/grants/${ids.get('cache')}/approve`, { resources: ['notes:reads:7'] });
  t.match(
    await diff(),
    /narrowed +cache increment on notes:reads:\* +increment on notes:reads:7\*/,
  );
  const idle = { plugin: 'notes', capability: 'cache', operations: ['set'], resources: ['x:*'] };
  t.match(await host.post('/v1/grants', idle), { status: 201 });
  t.match(await diff(), /unrequested +cache set on x:\*/);
  t.match(await host.get('/v1/grants/diff?plugin=none'), { status: 404 });
});

t.test('suggest proposes what the recorded uses need, and that is enough', async (t) => {
  const id = ids.get('cache') ?? '';
  await host.post(`/v1/grants/${id}/approve`, {});
  const { body } = await host.post('/plugins/notes/notes', { text: 'x' });
  const read = () => host.get(`/plugins/notes/notes/${String(body['id'])}`);
  t.match(await read(), { status: 200 });
  const { stdout } = await host.cli('grant', 'suggest', 'notes');
  t.match(stdout, /cache set on x:\*: never used\n {2}noa grant revoke /);
  const command = /noa (grant approve \S+ --operations increment --resources) '([^']+)'/.exec(
    stdout,
  );
  t.equal(command?.[2], `notes:reads:${String(body['id'])}`);
  const [, args = '', resources = ''] = command ?? [];
  t.match(await host.cli(...args.split(' '), resources), { code: 0 });
  t.match(await read(), { status: 200 }, 'what was used is still allowed');
  t.match(await host.cli('grant', 'suggest', 'none'), { code: 1, stderr: /NOT_FOUND/ });
});

t.test('a delivery is a use of the right to subscribe, also one that the plugin failed', (t) => {
  const about = { capability: 'events', operations: ['subscribe'], resources: ['orders.placed'] };
  const decision = { requested: null, optional: false, decidedAt: null, decidedBy: null };
  const grant: Grant = {
    id: 'g',
    plugin: 'p',
    ...about,
    ...decision,
    reason: '',
    status: 'approved',
    createdAt: '',
  };
  const event = { id: '1', subject: 'orders.placed' } as CloudEvent;
  const subscription = { plugin: 'p', subject: 'orders.*', export: 'onOrder' };
  const chained = { chain: '', seq: 1, timestamp: '', prevHash: '', hash: '' };
  const records = [undefined, new NoaError('PLUGIN_TRAP', 'no')].map((failure) => ({
    ...deliveryRecord(subscription, event, failure),
    ...chained,
  }));
  const { operations, resources } = about;
  t.match(leastGrants([grant], records), [{ uses: 2, least: { operations, resources } }]);
  t.end();
});

t.test('what is suggested lies within the grant and covers every use, whatever was used', (t) => {
  const grant: Grant = {
    id: 'g',
    plugin: 'p',
    capability: 'cache',
    operations: ['get', 'set'],
    resources: ['a*', 'ab*', '😀'],
    requested: null,
    optional: false,
    reason: '',
    status: 'approved',
    createdAt: '',
    decidedAt: null,
    decidedBy: null,
  };
  const use = (operation: string, resource: string): AuditRecord => ({
    kind: 'capability.use',
    actor: 'plugin:p',
    plugin: 'p',
    capability: 'cache',
    operation,
    resources: [resource],
    outcome: 'ok',
    code: null,
    details: {},
    chain: '',
    seq: 1,
    timestamp: '',
    prevHash: '',
    hash: '',
  });
  const name = fc.oneof(
    fc.string({ unit: 'grapheme' }).map((text) => `a${text}`),
    fc.constant('😀'),
  );
  const uses = fc.array(fc.tuple(fc.constantFrom('get', 'set'), name), { maxLength: 30 });
  fc.assert(
    fc.property(uses, (list) => {
      const records = list.map(([operation, resource]) => use(operation, resource));
      const [found] = leastGrants([grant], records);
      if (found === undefined) return false;
      const { operations, resources } = found.least;
      return (
        operations.every((operation) => grant.operations.includes(operation)) &&
        resources.every((item) => grant.resources.some((pattern) => covers(pattern, item))) &&
        list.every(
          ([operation, resource]) =>
            operations.includes(operation) && resources.some((item) => covers(item, resource)),
        )
      );
    }),
  );
  t.end();
});
