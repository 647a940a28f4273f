/**
 * The life of a plugin on one host while its clients go on calling: upgrade, a version that waits, pin,
 * rollback, disable, removal with its data kept or dropped. No client sees any of the moves fail.
 */
import t from 'tap';
import { type Answer, bundleOf, eventually, repacked, RunningHost } from './running-host.ts';

const CLIENTS = 6;
const notes = await bundleOf('plugins/examples/notes');
const host = await RunningHost.start();
t.teardown(() => host.dispose());
await host.install(notes);
await host.approve('notes');

/** Calls without a pause until `work` is done; answers what was not 2xx, and how many were called. */
async function underLoad(work: () => Promise<void>): Promise<{ calls: number; bad: Answer[] }> {
  let going = true;
  const bad: Answer[] = [];
  let calls = 0;
  const client = async (id: number): Promise<void> => {
    while (going) {
      const answer =
        id % 2 === 0
          ? await host.post('/plugins/notes/notes', { text: `of client ${id}` })
          : await host.get('/plugins/notes/notes');
      calls += 1;
      if (answer.status >= 300) bad.push(answer);
    }
  };
  const clients = Array.from({ length: CLIENTS }, (_, id) => client(id));
  try {
    await work();
  } finally {
    going = false;
    await Promise.all(clients);
  }
  return { calls, bad };
}

const upgrade = (bundle: Uint8Array): Promise<Answer> =>
  host.request('PUT', '/v1/plugins/notes', bundle);
const show = async (): Promise<Answer['body']> => (await host.get('/v1/plugins/notes')).body;
const post = (verb: string, body?: unknown) => host.post(`/v1/plugins/notes/${verb}`, body);

/** Kinds of all administrative records: under load they are many pages apart. */
async function recordedKinds(): Promise<string[]> {
  const kinds: string[] = [];
  for (let cursor: string | null = ''; cursor !== null;) {
    const query: string = cursor === '' ? '' : `&cursor=${cursor}`;
    const { body } = await host.get(`/v1/audit?limit=1000${query}`);
    const records = body['records'] as { kind: string }[];
    kinds.push(...records.map(({ kind }) => kind));
    cursor = body['next'] as string | null;
  }
  return kinds.filter((kind) => !kind.startsWith('capability.'));
}

t.test('upgrades and rollbacks under constant load fail no request', async (t) => {
  const served: unknown[] = [];
  const { calls, bad } = await underLoad(async () => {
    for (const version of ['1.1.0', '1.2.0', '1.3.0']) {
      t.match(await upgrade(await repacked(notes, { version })), { status: 200 });
      served.push((await show())['version']);
    }
    t.match(await post('rollback'), { status: 200, body: { version: '1.2.0' } });
    served.push((await show())['version']);
  });
  t.strictSame(served, ['1.1.0', '1.2.0', '1.3.0', '1.2.0']);
  t.strictSame(bad, []);
  t.ok(calls > 20, `${calls} calls`);
});

t.test('a version that asks for more waits while the old one serves', async (t) => {
  const { manifest } = (await show()) as { manifest: { capabilities: object[] } };
  const more = {
    capability: 'blob',
    operations: ['write'],
    resources: ['exports/*'],
    reason: 'Writes exports.',
  };
  const wider = await repacked(notes, {
    version: '2.0.0',
    capabilities: [...manifest.capabilities, more],
  });
  const { bad } = await underLoad(async () => {
    const candidate = { version: '2.0.0', reason: /asks for grants that are not decided/ };
    t.match(await upgrade(wider), {
      status: 200,
      body: { version: '1.2.0', state: 'serving', candidate },
    });
    t.match(await host.cli('plugin', 'list'), {
      stdout: /notes +1\.2\.0 +serving +2\.0\.0 waits: it asks for/,
    });
    t.match(await host.cli('plugin', 'show', 'notes'), { stdout: /candidate +2\.0\.0 waits/ });
    await host.approve('notes');
    t.match(await show(), { version: '2.0.0', state: 'serving', candidate: null });
  });
  t.strictSame(bad, []);
});

t.test('a rotation of the signing key fails no request, and is on record', async (t) => {
  const kids: string[] = [];
  const { bad, calls } = await underLoad(async () => {
    for (let i = 0; i < 3; i += 1) {
      const { status, body } = await host.post('/v1/tokens/rotate');
      t.equal(status, 200);
      kids.push(String(body['kid']));
      await host.get('/plugins/notes/notes');
    }
    t.match(await host.cli('token', 'rotate'), { code: 0, stdout: /^k-\w+ signs from now on/ });
  });
  t.strictSame(bad, []);
  t.ok(calls > 10, `${calls} calls`);
  const { body } = await host.get('/v1/tokens/keys');
  const keys = body['keys'] as { kid: string; retiredAt: string | null }[];
  t.equal(keys.filter(({ retiredAt }) => retiredAt === null).length, 1);
  t.equal(keys[0]?.retiredAt, null);
  t.ok(kids.every((kid) => keys.some((key) => key.kid === kid && key.retiredAt !== null)));
  t.match(await host.cli('token', 'keys'), { code: 0, stdout: /k-\w+ +\S+Z +signs\n/ });
  const rotations = (await recordedKinds()).filter((kind) => kind === 'key.rotate');
  t.equal(rotations.length, 4);
});

t.test('a pinned plugin changes its version in no way, also after a restart', async (t) => {
  t.match(await post('pin', { version: '1.0.0' }), {
    status: 409,
    body: { detail: /is at 2\.0\.0, not 1\.0\.0/ },
  });
  t.match(await host.cli('plugin', 'pin', 'notes', '2.0.0'), {
    code: 0,
    stdout: 'notes 2.0.0 is serving, pinned\n',
  });
  await host.stop();
  await host.start();
  await eventually('it serves', async () => (await show())['state'] === 'serving');
  const refused = { status: 409, body: { detail: /pinned to 2\.0\.0: noa plugin unpin notes/ } };
  t.match(await upgrade(await repacked(notes, { version: '2.1.0' })), refused);
  t.match(await post('rollback'), refused);
  t.match(await host.cli('plugin', 'list'), { stdout: /notes +2\.0\.0 +serving, pinned/ });
  t.match(await host.cli('plugin', 'unpin', 'notes'), { code: 0, stdout: /is serving\n$/ });
  t.match(await upgrade(await repacked(notes, { version: '2.1.0' })), {
    status: 200,
    body: { version: '2.1.0', pinned: false },
  });
  const kinds = await recordedKinds();
  for (const kind of ['plugin.pin', 'plugin.unpin', 'plugin.rollback']) t.ok(kinds.includes(kind));
});

t.test('a candidate that may serve waits for the pin to be taken away', async (t) => {
  const { manifest } = (await show()) as { manifest: { capabilities: object[] } };
  const more = {
    capability: 'secrets',
    operations: ['read'],
    resources: ['a.key'],
    reason: 'Signs.',
  };
  const capabilities = [...manifest.capabilities, more];
  await upgrade(await repacked(notes, { version: '3.0.0', capabilities }));
  await post('pin');
  await host.approve('notes');
  t.match(await show(), {
    version: '2.1.0',
    candidate: { version: '3.0.0', reason: /pinned; noa plugin unpin notes/ },
  });
  t.match(await post('unpin'), { status: 200, body: { version: '3.0.0', candidate: null } });
});

t.test(
  'disabled at run time it answers so, and nothing else; enabled it serves again',
  async (t) => {
    const { bad } = await underLoad(async () => {
      t.match(await post('disable'), { status: 200, body: { state: 'stopped' } });
      t.match(await host.get('/plugins/notes/notes'), { status: 409 });
      t.match(await post('enable'), { status: 200, body: { state: 'serving' } });
    });
    // Draining or starting it is away for a moment, and says that a retry helps.
    const codes = new Set(bad.map(({ status, body }) => `${status} ${String(body['code'])}`));
    t.ok(codes.has('409 PLUGIN_DISABLED'));
    t.ok(codes.isSubsetOf(new Set(['409 PLUGIN_DISABLED', '503 UNAVAILABLE'])), [...codes].join());
    t.match(await host.get('/plugins/notes/notes'), { status: 200 });
  },
);

t.test('what a plugin answers moves no cursor at the terminal of whoever calls it', async (t) => {
  const text = 'a\u001b[2K\u009b31m\u202eb\u2028c\u007f\r\nfake';
  const input = JSON.stringify({ text });
  for (const flags of [[], ['--json']]) {
    const { code, stdout } = await host.cli('plugin', 'call', 'notes', 'create', input, ...flags);
    t.equal(code, 0);
    // oxlint-disable-next-line no-control-regex -- these are what must not be there
    t.notMatch(stdout, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u202e]/);
    t.match(JSON.parse(stdout), { text }, 'and it is the same JSON');
  }
});

t.test('removal keeps the data, or drops it, as it is told', async (t) => {
  const again = async (): Promise<Answer> => {
    await host.install(notes);
    await host.approve('notes');
    return host.get(`/plugins/notes/notes/${id}`);
  };
  const { body } = await host.post('/plugins/notes/notes', { text: 'kept' });
  const id = String(body['id']);
  t.match(await host.cli('plugin', 'remove', 'notes', '--keep-data', '--drop-data'), {
    code: 1,
    stderr: /not both/,
  });
  t.match(await host.cli('plugin', 'remove', 'notes'), {
    code: 0,
    stdout: 'removed notes; its data stays\n',
  });
  t.match(await again(), { status: 200, body: { text: 'kept' } });
  t.match(await host.request('DELETE', '/v1/plugins/notes?data=keep'), { status: 204 });
  t.match(await again(), { status: 200, body: { text: 'kept' } });
  t.match(await host.cli('plugin', 'remove', 'notes', '--drop-data'), {
    code: 0,
    stdout: 'removed notes; its data is deleted\n',
  });
  t.match(await again(), { status: 404 });
});
