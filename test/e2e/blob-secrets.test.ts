/** Blobs and secrets from an administrator's hands to a plugin in its sandbox, over restarts and kills. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { noa } from '../cli/noa.ts';
import { type Answer, bundleOf, RunningHost } from './running-host.ts';

const FIXTURE = 'test/fixtures/plugins/keeper';
const VALUE = 'hunter2-correct-horse';

function fingerprint(value: string): { length: number; sum: number } {
  return { length: value.length, sum: [...value].reduce((sum, c) => sum + c.charCodeAt(0), 0) };
}

async function keeperHost(t: Test, env: Record<string, string> = {}): Promise<RunningHost> {
  const host = await RunningHost.start({ env });
  t.teardown(() => host.dispose());
  await host.install(await bundleOf(FIXTURE));
  await host.approve('keeper');
  return host;
}

t.test(
  'a plugin keeps blobs within its grant and quota, over a kill, until its removal',
  async (t) => {
    const host = await keeperHost(t, { NOA_PLUGINS__BLOB_MAX_BYTES: '1000000' });
    const put = (path: string, more: object): Promise<Answer> =>
      host.call('keeper', 'put', { path, ...more });
    t.match(await put('docs/a.txt', { text: 'grüße' }), { status: 200, body: { size: 7 } });
    t.match(await put('docs/large', { size: 768_000 }), { status: 200, body: { size: 768_000 } });
    const large = { length: 768_000, sum: 768_000 * 7 };
    t.match(await host.call('keeper', 'bytes', { path: 'docs/large' }), { body: large });
    t.match(await put('docs/more', { size: 300_000 }), {
      status: 429,
      body: { code: 'RESOURCE_EXHAUSTED', detail: /plugins\.blob_max_bytes allows 1000000/ },
    });
    t.match(await put('docs/over', { size: 768_001 }), {
      body: { code: /PAYLOAD_TOO_LARGE|INVALID/ },
    });
    t.match(await put('other/a', { text: 'x' }), {
      status: 403,
      body: { code: 'CAPABILITY_DENIED' },
    });
    t.match(await put('docs/../../x', { text: 'x' }), { status: 400 });
    t.match(await host.call('keeper', 'list', {}), { status: 403 }, 'all is more than docs/*');
    await host.kill();
    await host.start();
    t.match(await host.call('keeper', 'get', { path: 'docs/a.txt' }), {
      body: { text: '"grüße"' },
    });
    t.match(await host.call('keeper', 'list', { prefix: 'docs/' }), {
      body: { entries: [{ path: 'docs/a.txt', size: 7 }, { path: 'docs/large' }], next: null },
    });
    t.match((await host.get('/ready')).body, { checks: { blob: { status: 'ok' } } });
    const folder = join(host.dataPath, 'blobs');
    t.strictSame((await readdir(folder)).toSorted(), ['.new', 'keeper']);
    const { body } = await host.get('/v1/audit?plugin=keeper&limit=100');
    t.match(
      JSON.stringify(body),
      '"capability":"blob","operation":"write","resources":["docs/a.txt"]',
    );
    t.match(await host.call('keeper', 'remove', { path: 'docs/large' }), {
      body: { text: 'true' },
    });
    t.match(await host.request('DELETE', '/v1/plugins/keeper'), { status: 204 });
    await t.rejects(access(join(folder, 'keeper')), { code: 'ENOENT' });
  },
);

t.test(
  'a secret goes from the command line to the plugin whose grant names it, and nowhere else',
  async (t) => {
    const host = await keeperHost(t, { NOA_OBSERVABILITY__LOG_LEVEL: 'trace' });
    const outputs: unknown[] = [];
    const cli = async (args: string[], input?: string) => {
      const env = { NOA_URL: host.url, NOA_TOKEN: host.token };
      const given = input === undefined ? {} : { input };
      const result = await noa(args, { cwd: host.dataPath, env, ...given });
      outputs.push(result);
      return result;
    };
    const ask = async (name?: string) => {
      const answer = await host.call('keeper', 'fingerprint', { name });
      outputs.push(answer.body);
      return answer;
    };
    t.match(await ask(), { status: 404, body: { detail: /noa secret set keeper\.key/ } });
    t.match(await cli(['secret', 'set', 'keeper.key'], `${VALUE}\n`), {
      code: 0,
      stdout: /set keeper\.key/,
    });
    t.match((await ask()).body, fingerprint(VALUE), 'without the line end');
    const file = join(host.dataPath, 'value.txt');
    await writeFile(file, `${VALUE}-2`);
    t.match(await cli(['secret', 'set', 'keeper.key', '--from-file', file]), { code: 0 });
    t.match((await ask()).body, fingerprint(`${VALUE}-2`), 'the new value at once');
    t.match(await cli(['secret', 'set', 'keeper.key', VALUE]), { code: 2 }, 'not as an argument');
    outputs.pop();
    t.match(await cli(['secret', 'set', 'keeper.key', '--from-file', 'none']), {
      code: 1,
      stderr: /none/,
    });
    t.match(await cli(['secret', 'set', 'Keeper'], VALUE), { code: 1, stderr: /small letter/ });
    t.match(await cli(['secret', 'set', 'other.key'], VALUE), { code: 0 });
    t.match(await ask('other.key'), { status: 403, body: { code: 'CAPABILITY_DENIED' } });
    t.match(await ask('absent.key'), { status: 403 }, 'what is there is not told without a grant');
    const list = await cli(['secret', 'list', '--json']);
    t.match(JSON.parse(list.stdout), [{ name: 'keeper.key' }, { name: 'other.key' }]);
    const path = '/v1/secrets/keeper.key';
    outputs.push(
      await host.request('PUT', path, { value: VALUE, more: VALUE }),
      await host.request('PUT', path, { value: [VALUE] }),
      await host.request('PUT', path, { valu: VALUE }),
      await host.request('GET', path),
      await host.request('PUT', path, { value: VALUE }, { authorization: 'Bearer wrong' }),
    );
    const anonymous = await fetch(new URL('/v1/secrets', host.url));
    t.equal(anonymous.status, 401);
    const malformed = await fetch(new URL(path, host.url), {
      method: 'PUT',
      headers: { authorization: `Bearer ${host.token}`, 'content-type': 'application/json' },
      body: `{"value": ${VALUE}}`,
    });
    const problem = await malformed.text();
    t.match(problem, /the body is not JSON: Unexpected token/);
    outputs.push(problem);
    await host.stop();
    await host.start();
    t.match((await ask()).body, fingerprint(`${VALUE}-2`), 'over a restart');
    const grants = (await host.get('/v1/grants?plugin=keeper')).body['grants'] as {
      id: string;
      capability: string;
    }[];
    const grant = grants.find(({ capability }) => capability === 'secrets');
    await host.request('DELETE', `/v1/grants/${grant?.id}`);
    t.match(
      await ask(),
      { body: { code: /CAPABILITY_DENIED|GRANT_PENDING/ } },
      'not after its grant',
    );
    t.match(await cli(['secret', 'remove', 'other.key']), { code: 0 });
    t.match(await cli(['secret', 'remove', 'other.key']), {
      code: 1,
      stderr: /there is no secret/,
    });
    const audit = await host.get('/v1/audit?limit=1000');
    const records = audit.body['records'] as { kind: string; resources: string[]; actor: string }[];
    const of = (kind: string) => records.filter((record) => record.kind === kind);
    t.match(
      of('secret.set').map(({ resources }) => resources),
      [['other.key'], ['keeper.key'], ['keeper.key']],
    );
    t.match(of('secret.remove'), [{ resources: ['other.key'], actor: 'bootstrap' }]);
    t.ok(
      of('capability.use').some(({ resources }) => resources.includes('keeper.key')),
      'reads too',
    );
    const metrics = await host.get('/metrics');
    const dump = spawn('grep', ['-rlaF', '--exclude=value.txt', VALUE, host.dataPath]);
    const said: string[] = [];
    dump.stdout.setEncoding('utf8').on('data', (text: string) => said.push(text));
    const [code] = (await once(dump, 'close')) as [number];
    t.equal(code, 1, `no file of the data folder holds the value: ${said.join('')}`);
    const everything = JSON.stringify([outputs, audit.body, metrics.body, host.output]);
    t.notOk(everything.includes('hunter2'), 'in no output, record, metric or log line');
  },
);
