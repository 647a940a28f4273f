/** Schedules of a plugin on two hosts: one of them calls at each time, also when one is killed. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'pg';
import t from 'tap';
import { nextTime } from '../../host/kernel/schedules.ts';
import { bundleOf, eventually, type RunningHost } from './running-host.ts';
import { twoHosts } from './two-hosts.ts';

interface Tick {
  readonly name: string;
  readonly at: string;
  readonly done: boolean;
}

t.setTimeout(180_000);
const { one, two, url } = await twoHosts(t);
const pool = new Pool({ connectionString: url });
// A server that ends says so to connections that are closing.
pool.on('error', () => undefined);
t.teardown(() => pool.end());

async function ticks(name: string, host: RunningHost = one): Promise<Tick[]> {
  const { body } = await host.call('ticker', 'ticks');
  return ((body['ticks'] ?? []) as Tick[]).filter((tick) => tick.name === name);
}

/** Has the schedule have been due ten minutes ago, while no host runs. */
async function missed(name: string): Promise<void> {
  const past = `update noa.schedules set next_at = now() - interval '10 minutes' where name = $1`;
  const { rowCount } = await pool.query(past, [name]);
  if (rowCount !== 1) throw new Error(`there is no schedule ${name}`);
}

t.test('each time is met once by the hosts together, by cron and by interval', async (t) => {
  await one.install(await bundleOf('test/fixtures/plugins/ticker'));
  await one.approve('ticker');
  await eventually('both serve', async () => (await two.call('ticker', 'ticks')).status === 200);
  await eventually('it begins', async () => (await ticks('second')).length > 0);
  await sleep(5000);
  for (const name of ['second', 'interval']) {
    const seen = await ticks(name);
    const spanMs = Date.parse(seen.at(-1)?.at ?? '') - Date.parse(seen[0]?.at ?? '');
    const expected = spanMs / 1000 + 1;
    t.ok(Math.abs(seen.length - expected) < 1.5, `${name}: ${seen.length} in ${spanMs} ms`);
    t.ok(seen.length >= 4);
  }
  t.strictSame(await ticks('minutely'), [], 'an interval begins with a wait');
});

t.test('runs and failures are in the audit', async (t) => {
  await eventually('records of both hosts', async () => {
    const pages = await Promise.all(
      [one, two].map((host) => host.get('/v1/audit?plugin=ticker&limit=1000')),
    );
    const records = pages.flatMap(({ body }) => body['records'] as Record<string, unknown>[]);
    const runs = records.filter(({ kind }) => kind === 'schedule.run');
    const failed = runs.find(({ outcome }) => outcome === 'failed');
    return runs.some(({ outcome }) => outcome === 'ok') && failed?.['code'] === 'PLUGIN_TRAP';
  });
  t.pass();
});

t.test('a call that fails by no fault of the plugin is told like one that does', async (t) => {
  await eventually('in the health of a host', async () => {
    const views = await Promise.all(
      [one, two].map((host) => host.get('/v1/plugins/ticker/health')),
    );
    return views.some(({ body }) => {
      const last = body['lastError'] as { export: string; code: string } | null;
      return last?.export === 'refuse' && last.code === 'CAPABILITY_DENIED';
    });
  });
  const logs = await Promise.all([one, two].map((host) => host.get('/v1/plugins/ticker/logs')));
  t.match(
    JSON.stringify(logs.map(({ body }) => body)),
    /refuse, called by schedule: CAPABILITY_DENIED not by this plugin/,
  );
});

t.test('times that were missed are made up for by one call', async (t) => {
  await Promise.all([one.stop(), two.stop()]);
  await missed('minutely');
  await Promise.all([one.start(), two.start()]);
  await eventually('it is made up for', async () => (await ticks('minutely')).length > 0);
  await sleep(1500);
  t.equal((await ticks('minutely')).length, 1);
});

t.test('a host that is killed in the middle of a call leaves it to another', async (t) => {
  await Promise.all([one.stop(), two.stop()]);
  await missed('slow');
  await two.start();
  await eventually('the call has begun', async () => (await ticks('slow', two)).length === 1);
  await two.kill();
  await one.start();
  // The lease: the export's deadline and five seconds.
  await eventually('it ends', async () => (await ticks('slow')).some(({ done }) => done), 30_000);
  await sleep(500);
  t.strictSame(
    (await ticks('slow')).map(({ done }) => done),
    [false, false, true],
  );
  await two.start();
});

t.test('a removed plugin is called no more', async (t) => {
  await one.request('DELETE', '/v1/plugins/ticker');
  const { rows } = await pool.query('select name from noa.schedules');
  t.strictSame(rows, []);
});

t.test('the next time lies after now and after the last, in the zone that was named', (t) => {
  const name = 'n';
  const at = (text: string) => Date.parse(text);
  const every = { name, export: 'e', everyMs: 1000 };
  t.equal(nextTime(every, 5000, 5100), 6000);
  t.equal(nextTime(every, 5000, 9000), 10_000, 'what was missed is skipped');
  t.equal(nextTime(every, 5000, 4000), 6000, 'a clock that is behind repeats nothing');
  const daily = { name, export: 'e', cron: '30 2 * * *', timezone: 'Europe/Vienna' };
  const day = at('2026-01-10T12:00:00Z');
  t.equal(nextTime(daily, day, day), at('2026-01-11T01:30:00Z'));
  const summer = at('2026-07-10T12:00:00Z');
  t.equal(nextTime(daily, summer, summer), at('2026-07-11T00:30:00Z'));
  const before = at('2026-10-24T12:00:00Z');
  const first = nextTime(daily, before, before);
  t.equal(new Set([first, nextTime(daily, first, first)]).size, 2);
  t.ok(
    nextTime(daily, first, first) - first >= 24 * 3_600_000,
    'an hour that comes twice counts once',
  );
  t.end();
});
