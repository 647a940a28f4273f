/**
 * A plugin's configuration, set over REST and the CLI on one host and in force on both: judged by the
 * manifest's schema, secret values sealed and never shown, changed without a failed call.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Pool } from 'pg';
import { writeBundle } from '@noa/sdk/author';
import { readBundle } from '@noa/sdk/host';
import t from 'tap';
import { type Answer, bundleOf, eventually, repacked, type RunningHost } from './running-host.ts';
import { twoHosts } from './two-hosts.ts';

const KEY = 'kept-very-well-2718281828';
const PASSWORD = 'password-of-a-server';
const { one, two, url } = await twoHosts(t);
const herald = await bundleOf('test/fixtures/plugins/herald');
const pool = new Pool({ connectionString: url });
// A server that ends says so to connections that are closing.
pool.on('error', () => undefined);
t.teardown(() => pool.end());

const PATH = '/v1/plugins/herald/config';
const put = (settings: unknown, version?: number): Promise<Answer> =>
  one.request('PUT', PATH, { settings, ...(version === undefined ? {} : { version }) });
const settingsOn = async (host: RunningHost) => (await host.call('herald', 'settings')).body;

t.test(
  'a plugin whose configuration has no default waits for it, and says what is missing',
  async (t) => {
    const view = await one.install(herald);
    t.match(view, { state: 'pending', reason: /\/apiKey is required; noa plugin config herald/ });
    t.match(await one.call('herald', 'settings'), { status: 409, body: { code: 'GRANT_PENDING' } });
    t.match(await one.get(PATH), {
      status: 200,
      body: { version: 0, settings: {}, schema: { type: 'object' }, updatedAt: null },
    });
  },
);

t.test('what is set is judged by the schema, with the path, and holds on every host', async (t) => {
  for (const [settings, detail] of [
    [{}, /\/apiKey is required/],
    [{ apiKey: 'short' }, /\/apiKey/],
    [{ apiKey: KEY, retries: 9 }, /\/retries/],
    [{ apiKey: KEY, colour: 'red' }, /\/colour is not a known key/],
    [{ apiKey: { $secret: 'set' } }, /\/apiKey has no secret value that could be kept/],
    [{ apiKey: KEY, greeting: 'x'.repeat(70_000) }, /65536/],
  ] as const) {
    const answer = await put(settings);
    t.ok([400, 413].includes(answer.status), JSON.stringify(answer.body));
    t.match(answer.body, { detail });
    t.notOk(JSON.stringify(answer.body).includes('short'), 'no value is repeated');
  }
  t.match(await put([1]), { status: 400 });
  t.match(await put({ apiKey: KEY, servers: [{ host: 'a', password: PASSWORD }] }), {
    status: 200,
    body: {
      version: 1,
      settings: {
        apiKey: { $secret: 'set' },
        servers: [{ host: 'a', password: { $secret: 'set' } }],
      },
    },
  });
  const expected = {
    greeting: 'hello',
    retries: 2,
    keyLength: KEY.length,
    passwords: [PASSWORD.length],
  };
  t.match(await settingsOn(one), expected);
  await eventually('the other host follows', async () => 'keyLength' in (await settingsOn(two)));
  t.match(await settingsOn(two), expected);
});

t.test(
  'a change keeps secrets that it does not name anew, and lost updates are refused',
  async (t) => {
    const kept = { apiKey: { $secret: 'set' }, servers: [{ password: { $secret: 'set' } }] };
    t.match(await put({ ...kept, greeting: 'hi' }, 1), { status: 200, body: { version: 2 } });
    t.match(await settingsOn(one), {
      greeting: 'hi',
      keyLength: KEY.length,
      passwords: [PASSWORD.length],
    });
    t.match(await put({ ...kept, greeting: 'late' }, 1), {
      status: 409,
      body: { code: 'CONFLICT' },
    });
    t.match(await put({ apiKey: KEY, greeting: { $secret: 'set' } }), { status: 400 });
  },
);

t.test('a change restarts the plugin on all hosts without a failed call', async (t) => {
  let running = true;
  const failures: unknown[] = [];
  let calls = 0;
  const traffic = [one, two].map(async (host) => {
    while (running) {
      const answer = await host.call('herald', 'settings');
      calls += 1;
      if (answer.status !== 200) failures.push(answer.body);
    }
  });
  for (const greeting of ['a', 'b', 'c']) {
    const { status } = await put({ apiKey: { $secret: 'set' }, greeting });
    t.equal(status, 200);
    t.match(await settingsOn(one), { greeting }, 'at once where it was set');
  }
  await eventually('the other host', async () => (await settingsOn(two))['greeting'] === 'c');
  running = false;
  await Promise.all(traffic);
  t.strictSame(failures, []);
  t.ok(calls > 20, `${calls} calls`);
});

t.test('the CLI shows, sets and unsets; a secret never stands on the command line', async (t) => {
  const refused = await one.cli('plugin', 'config', 'herald', 'set', `apiKey=${KEY}`);
  t.equal(refused.code, 1);
  t.match(refused.stderr, /apiKey=-/);
  await writeFile(join(one.dataPath, 'key.txt'), 'another-key-of-31-characters-xx\n');
  const set = await one.cli('plugin', 'config', 'herald', 'set', 'apiKey=@key.txt', 'greeting=1.0');
  t.equal(set.code, 0, set.stderr);
  t.match(await settingsOn(one), { greeting: '1.0', keyLength: 31 });
  const shown = await one.cli('plugin', 'config', 'herald');
  t.match(shown.stdout, /apiKey\s+\(secret, set\)/);
  t.match(shown.stdout, /retries\s+2/);
  await one.cli('plugin', 'config', 'herald', 'unset', 'greeting');
  t.match(await settingsOn(one), { greeting: 'hello', keyLength: 31 });
  const missing = await one.cli('plugin', 'config', 'herald', 'unset', 'greeting');
  t.equal(missing.code, 1);
  const json = JSON.stringify({ apiKey: KEY, retries: 3 });
  await writeFile(join(one.dataPath, 'all.json'), json);
  t.equal((await one.cli('plugin', 'config', 'herald', 'set', '--file', 'all.json')).code, 0);
  t.match(await settingsOn(one), { greeting: 'hello', retries: 3, keyLength: KEY.length });
});

t.test(
  'an upgrade that does not accept what is set waits, and takes over once it does',
  async (t) => {
    const config = {
      type: 'object',
      properties: { apiKey: { type: 'string', secret: true }, region: { type: 'string' } },
      required: ['apiKey', 'region'],
    };
    const next = await repacked(herald, { version: '2.0.0', config });
    t.match(await one.request('PUT', '/v1/plugins/herald', next), {
      status: 200,
      body: {
        version: '1.0.0',
        state: 'serving',
        candidate: { version: '2.0.0', reason: /\/region is required/ },
      },
    });
    t.match(await settingsOn(one), { retries: 3 });
    t.match(await put({ region: 'eu' }), { status: 400 }, 'fits neither version');
    t.match(await put({ apiKey: { $secret: 'set' }, region: 'eu' }), { status: 200 });
    t.match(await one.get('/v1/plugins/herald'), {
      body: { version: '2.0.0', state: 'serving', candidate: null },
    });
    t.match(await settingsOn(one), { keyLength: KEY.length });
    t.match(await one.post('/v1/plugins/herald/rollback'), {
      status: 409,
      body: { detail: /does not accept .*\/region is not a known key/ },
    });
  },
);

t.test('a version that takes no configuration hinders no upgrade and no way back', async (t) => {
  const { manifest, files } = await readBundle(herald);
  const { config: _, ...bare } = manifest;
  const pack = (change: object) => {
    const text = JSON.stringify({ ...bare, name: 'crier', ...change });
    return writeBundle(new Map([...files, ['plugin.json', new TextEncoder().encode(text)]]));
  };
  const config = {
    type: 'object',
    additionalProperties: false,
    properties: { apiKey: { type: 'string', secret: true } },
    required: ['apiKey'],
  };
  await one.install(pack({ version: '0.1.0' }));
  await one.approve('crier');
  const next = pack({ version: '0.2.0', config });
  t.match(await one.request('PUT', '/v1/plugins/crier', next), {
    body: {
      version: '0.1.0',
      candidate: { reason: /\/apiKey is required; noa plugin config crier set apiKey=-$/ },
    },
  });
  const shown = await one.cli('plugin', 'config', 'crier');
  t.match(shown.stdout, /^KEY[^]*\napiKey[^]*with the keys of 0\.2\.0, which waits/);
  const open = await one.cli('plugin', 'config', 'crier', 'set', `apiKey=${KEY}`);
  t.match(open, { code: 1, stderr: /apiKey=-/ }, 'the secret rule holds for what waits');
  const path = '/v1/plugins/crier/config';
  const set = (settings: object) => one.request('PUT', path, { settings });
  t.match(await set({ apyKey: KEY }), {
    status: 400,
    body: { detail: /\/apiKey is required|\/apyKey is not a known key; it takes apiKey/ },
  });
  t.match(await set({ apiKey: KEY }), { status: 200 });
  t.match(await one.get('/v1/plugins/crier'), { body: { version: '0.2.0', state: 'serving' } });
  t.match(await set({ apiKey: KEY, colour: 1 }), {
    status: 400,
    body: { detail: /\/colour is not a known key; it takes apiKey/ },
  });

  const rollback = () => one.post('/v1/plugins/crier/rollback');
  t.match(await rollback(), { status: 200, body: { version: '0.1.0', state: 'serving' } });
  const unset = { status: 500, body: { code: 'PLUGIN_TRAP', detail: /length/ } };
  t.match(await one.call('crier', 'settings'), unset, 'it gets none, and reads its length');
  t.match(await one.get(path), { body: { settings: { apiKey: { $secret: 'set' } } } });
  t.match(await set({ apiKey: { $secret: 'set' } }), {
    status: 400,
    body: { detail: /takes none/ },
  });
  t.match(await rollback(), { status: 200, body: { version: '0.2.0', state: 'serving' } });
  t.match((await one.call('crier', 'settings')).body, { keyLength: KEY.length });
  await one.request('DELETE', '/v1/plugins/crier');
});

t.test('no secret value shows in an answer, the audit, the logs or the database', async (t) => {
  const audit = await one.get('/v1/audit?plugin=herald&limit=1000');
  const records = audit.body['records'] as { kind: string; details: unknown }[];
  const changes = records.filter(({ kind }) => kind === 'plugin.configure');
  t.match(changes.at(-1)?.details, { version: 1, set: ['apiKey', 'servers'], removed: [] });
  t.match(changes[0]?.details, { set: ['region'], removed: ['retries'] });
  const { rows } = await pool.query<{ text: string }>(
    'select c::text as text from noa.configurations c',
  );
  t.equal(rows.length, 1);
  const views = await Promise.all([one.get(PATH), two.get(PATH), one.get('/v1/plugins/herald')]);
  const everything = JSON.stringify([audit.body, rows, views]) + one.output + two.output;
  for (const value of [KEY, PASSWORD, 'another-key']) t.notOk(everything.includes(value));
  const hex = Buffer.from(KEY).toString('hex');
  t.notOk(everything.includes(hex));
  await one.request('DELETE', '/v1/plugins/herald');
  const left = await pool.query('select 1 from noa.configurations');
  t.equal(left.rowCount, 0, 'removed with its plugin');
});
