/** What `noa plugin inspect` tells of a plugin before anybody installs it. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { describe, inspect } from '../../host/cli/author/inspect.ts';
import { bundleOf, repacked } from '../e2e/running-host.ts';

t.test('what a plugin is called for shows, with the rights that it asks for by that', async (t) => {
  const schedules = [
    { name: 'nightly', cron: '30 2 * * *', timezone: 'Europe/Vienna', export: 'seen' },
    { name: 'often', everyMs: 90_000, export: 'seen' },
  ];
  const subscriptions = [
    { subject: 'test.*', export: 'onEvent' },
    { subject: 'test.*', export: 'seen' },
  ];
  const listener = await bundleOf('test/fixtures/plugins/listener');
  const file = join(t.testdir(), 'listener.tgz');
  const contributes = { schedules, subscriptions };
  await writeFile(file, await repacked(listener, { contributes }));
  const report = await inspect(file);
  t.match(report.bundle?.requests.at(-1), {
    capability: 'events',
    operations: ['subscribe'],
    resources: ['test.*'],
  });
  t.equal(report.bundle?.requests.length, 3);
  const text = describe(report);
  t.match(text, /\n {2}events +subscribe +test\.\* +Events on test\.\* are delivered to/);
  t.match(text, /\nsubscriptions\n {2}test\.\* +onEvent\n {2}test\.\* +seen\n/);
  t.match(
    text,
    /\n {2}nightly +30 2 \* \* \* Europe\/Vienna +seen\n {2}often +every 90000 ms +seen\n/,
  );
});
