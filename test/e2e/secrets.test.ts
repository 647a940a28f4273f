/** Credentials are nowhere but where they belong: not in logs, errors, metrics, audit or configuration. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { bundleOf, RunningHost } from './running-host.ts';

const JWT = /eyJ[\w-]{10,}\.[\w-]+\.[\w-]+/;

t.test('no credential shows anywhere while everything is used', async (t) => {
  const host = await RunningHost.start({
    env: { NOA_OBSERVABILITY__LOG_LEVEL: 'trace', NOA_AUTH__ROOT_KEY: 'A'.repeat(44) },
  });
  t.teardown(() => host.dispose());
  await host.install(await bundleOf('test/fixtures/plugins/rogue'));
  await host.approve('rogue');
  const answers = await Promise.all([
    host.call('rogue', 'query', { sql: 'select current_user as me' }),
    host.call('rogue', 'query', { sql: 'select nonsense' }),
    host.call('rogue', 'query', { sql: 'select rolpassword from pg_authid' }),
    host.call('rogue', 'get', { key: 'rogue:x' }),
    host.call('rogue', 'get', { key: 'other:x' }),
    host.call('rogue', 'fail'),
    host.get(`/v1/plugins?token=${host.token}`),
    host.request('GET', '/v1/plugins', undefined, { authorization: `Bearer ${host.token}x` }),
    host.request('POST', '/v1/plugins', undefined, { cookie: `session=${host.token}` }),
  ]);
  t.equal(answers[7]?.status, 401);
  const metrics = await host.get('/metrics');
  const audit = await host.get('/v1/audit?limit=1000');
  const config = await host.cli('config', 'print');
  t.equal(config.code, 0);
  await host.stop();
  const everything = JSON.stringify([answers, metrics.body, audit.body, config]) + host.output;
  t.ok(everything.length > 5000);
  t.notOk(everything.includes(host.token), 'the bootstrap token');
  t.notOk(everything.includes('A'.repeat(44)), 'the root key');
  t.notMatch(everything, JWT, 'a capability token');
  t.notMatch(everything, /SCRAM-SHA-256/, 'a role’s password');
});

t.test('a token made at the first start is shown once and kept for its owner alone', async (t) => {
  const host = await RunningHost.start({ anonymous: true });
  t.teardown(() => host.dispose());
  const token = (await host.readFile('bootstrap-token')).trim();
  t.match(token, /^[\w-]{32,}$/);
  t.ok(host.output.includes(token), 'shown at the first start');
  for (const name of ['bootstrap-token', 'root-key']) {
    t.equal((await stat(join(host.dataPath, name))).mode & 0o777, 0o600, name);
  }
  t.match(await host.get('/v1/plugins'), { status: 401, body: { code: 'UNAUTHENTICATED' } });
  const authorization = `Bearer ${token}`;
  t.match(await host.request('GET', '/v1/plugins', undefined, { authorization }), { status: 200 });
  await host.stop();
  await host.start();
  t.notOk(host.output.includes(token), 'not shown again');
  t.match(await host.request('GET', '/v1/plugins', undefined, { authorization }), { status: 200 });
});
