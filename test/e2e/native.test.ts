/** A native plugin in a whole host: refused by default, allowed by its digest, and heard of everywhere. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeBundle } from '@noa/sdk/author';
import t, { type Test } from 'tap';
import { eventually, RunningHost } from './running-host.ts';

t.setTimeout(120_000);

const MODULE = `
import { definePlugin } from '@noa/sdk';
export default definePlugin({
  pid: () => process.pid,
  remember: async ({ key, value }, { cache }) => {
    await cache.set(key, value);
    return cache.get(key);
  },
  sql: (_, { db }) => db.query('select 1'),
  loop: () => { for (;;); },
});
`;
const SHA256 = createHash('sha256').update(MODULE).digest('hex');

function bundle(module: string): Uint8Array {
  const manifest = {
    name: 'tool',
    version: '1.0.0',
    runtime: { kind: 'native', file: 'dist/tool.mjs' },
    exports: { pid: {}, remember: {}, sql: {}, loop: {} },
    contributes: { routes: [{ method: 'POST', path: '/remember', export: 'remember' }] },
    capabilities: [
      { capability: 'cache', operations: ['get', 'set'], resources: ['t:*'], reason: 'Its state.' },
    ],
    limits: { timeoutMs: 1000 },
  };
  const encoder = new TextEncoder();
  const files = { 'plugin.json': JSON.stringify(manifest), 'dist/tool.mjs': module };
  return writeBundle(new Map(Object.entries(files).map(([k, v]) => [k, encoder.encode(v)])));
}

const folder = await mkdtemp(join(tmpdir(), 'noa-native-e2e-'));
const file = join(folder, 'tool.mjs');
await writeFile(file, MODULE);
t.teardown(() => rm(folder, { recursive: true, force: true }));

const env = {
  NOA_PLUGINS__ALLOW_NATIVE: 'true',
  NOA_PLUGINS__NATIVE: `${file}@sha256:${SHA256}`,
};
const [plain, host] = await Promise.all([RunningHost.start(), RunningHost.start({ env })]);
t.teardown(() => Promise.all([plain.dispose(), host.dispose()]));

t.test('a host whose operator said nothing refuses it, and says what to set', async (t) => {
  const answer = await plain.post('/v1/plugins', bundle(MODULE));
  t.match(answer, { status: 400, body: { code: 'INVALID_ARGUMENT' } });
  t.match(answer.body['detail'], 'plugins.allow_native = true');
  t.match(answer.body['detail'], `plugins.native as PATH@sha256:${SHA256}`);
  t.match(await plain.get('/v1/plugins/tool'), { status: 404 });
  t.match(
    (await plain.cli('doctor')).stdout,
    /native plugins.*none: plugins.allow_native is false/,
  );
});

let pid = 0;

t.test('a listed one is installed, granted and called', async (t) => {
  const other = await host.post('/v1/plugins', bundle(`${MODULE}//`));
  t.match(other, { status: 400, body: { detail: /its module is not listed: add PATH@sha256:/ } });

  await host.install(bundle(MODULE));
  t.match((await host.get('/v1/plugins/tool')).body, { isolation: null, state: 'pending' });
  await host.approve('tool');
  t.match((await host.get('/v1/plugins/tool')).body, { isolation: 'native', state: 'serving' });
  t.match((await host.cli('plugin', 'show', 'tool')).stdout, /isolation\s+native/);

  const remembered = await host.post('/plugins/tool/remember', { key: 't:a', value: 'grüße' });
  t.match(remembered, { status: 200, body: { text: '"grüße"' } });
  t.match(await host.call('tool', 'remember', { key: 'other', value: 1 }), {
    status: 403,
    body: { code: 'CAPABILITY_DENIED' },
  });
  t.match(await host.call('tool', 'sql'), { status: 403, body: { code: 'CAPABILITY_DENIED' } });
  pid = Number((await host.call('tool', 'pid')).body['text']);
  t.not(pid, host.pid, 'not in the process of the host');
});

t.test('the operator hears of it in the log, the audit and from doctor', async (t) => {
  t.match(host.output, /plugins.allow_native: 1 listed modules may run without a sandbox/);
  t.match(host.output, /native plugin tool runs without a sandbox/);
  await eventually('the load is in the audit', async () => {
    const { records } = (await host.get('/v1/audit?limit=100&plugin=tool')).body;
    const found = (records as { kind: string; details: object }[]).filter(
      ({ kind }) => kind === 'plugin.native',
    );
    if (found.length > 0) {
      t.match(found, [{ details: { version: '1.0.0', module: `sha256:${SHA256}` } }]);
    }
    return found.length > 0;
  });
  const doctor = await host.cli('doctor');
  t.match(doctor.stdout, /native plugins.*ALLOWED, without a sandbox/);
  t.match(doctor.stdout, file);
});

const linux = process.platform === 'linux';
t.test('its process ends with a host that is killed in its loop', { skip: !linux }, async (t) => {
  const looping = host.call('tool', 'loop').catch(() => undefined); // its host is killed
  await eventually('it loops', async () => {
    const beside = host.call('tool', 'pid').catch(() => undefined);
    const late = new Promise((resolve) => setTimeout(resolve, 300, 'late'));
    return (await Promise.race([beside, late])) === 'late';
  });
  await host.kill();
  await looping;
  await eventually('it is gone', () => Promise.resolve(!existsSync(`/proc/${pid}`)));
  t.pass('it is gone');
});

/** Between two attempts to start it; during one the host does not know yet. */
async function fails(t: Test, of: RunningHost, reason: RegExp): Promise<void> {
  let body: Record<string, unknown> = {};
  await eventually('it has failed', async () => {
    ({ body } = await of.get('/v1/plugins/tool'));
    return /failed|quarantined/.test(String(body['state']));
  });
  t.match(body, { isolation: null, reason });
}

t.test('taken off the list, or changed in its place, it is not loaded', async (t) => {
  await writeFile(file, `${MODULE}//`);
  await host.start();
  t.match(await host.call('tool', 'pid'), { status: 503 });
  await fails(t, host, /is not there or has another content/);
  const doctor = await host.cli('doctor');
  t.equal(doctor.code, 1);
  t.match(doctor.stdout, /not there, or not with the listed digest/);
  await host.stop();

  const without = await RunningHost.start({ dataPath: host.dataPath });
  t.teardown(() => without.stop());
  await fails(t, without, /this host runs none/);
});
