/** What a real host says of itself: its OpenAPI document, which its answers keep, its page, and its neighbours. */
import t from 'tap';
import { connectionConfig } from '../../capabilities/db/connection.ts';
import type { HostView } from '../../host/kernel/hosts.ts';
import { HostRegister } from '../../host/store/hosts.ts';
import { openStatePool } from '../../host/store/pool.ts';
import { Conformance, type OpenApiDocument } from '../transports/conformance.ts';
import { lint } from '../transports/lint.ts';
import { bundleOf, eventually, type RunningHost } from './running-host.ts';
import { twoHosts } from './two-hosts.ts';

const { one, two, url } = await twoHosts(t);
const bundle = await bundleOf('plugins/examples/notes');

async function documentOf(host: RunningHost): Promise<OpenApiDocument> {
  const answer = await fetch(new URL('/openapi.json', host.url));
  if (answer.status !== 200) throw new Error(`no credential is needed, and yet: ${answer.status}`);
  return (await answer.json()) as OpenApiDocument;
}

await t.test('every answer of a host is as its document says', async (t) => {
  t.equal((await fetch(new URL('/docs', one.url))).status, 200);
  await one.install(bundle);
  await one.approve('notes');
  const document = await documentOf(one);
  t.ok(document.paths['/plugins/notes/notes/{id}']?.['get'], 'with the routes of a plugin');
  t.strictSame(await lint(document), [], 'two linters of others find nothing');
  const conformance = new Conformance(document);
  const ask = async (method: string, path: string, status: number, body?: unknown) => {
    const binary = body instanceof Uint8Array;
    const type = binary ? 'application/gzip' : 'application/json';
    const sent = binary ? new Uint8Array(body) : JSON.stringify(body);
    const response = await fetch(new URL(path, one.url), {
      method,
      headers: {
        authorization: `Bearer ${one.token}`,
        ...(body === undefined ? {} : { 'content-type': type }),
      },
      ...(body === undefined ? {} : { body: sent }),
    });
    const text = await response.text();
    const { headers } = response;
    t.equal(response.status, status, `${method} ${path}: ${text.slice(0, 200)}`);
    t.ok(conformance.operation(method, path), `${method} ${path} is in the document`);
    t.equal(conformance.fault(method, path, { status: response.status, headers, text }), undefined);
    return (headers.get('content-type')?.includes('json') ? JSON.parse(text) : {}) as {
      [member: string]: unknown;
    };
  };

  const note = await ask('POST', '/plugins/notes/notes', 201, { text: 'as told' });
  await ask('GET', `/plugins/notes/notes/${String(note['id'])}`, 200);
  await ask('GET', '/plugins/notes/notes/x', 404);
  await ask('POST', '/plugins/notes/notes', 400, { text: 1 });
  await ask('POST', '/v1/plugins/notes/exports/list', 200, {});
  await ask('POST', '/v1/plugins', 409, bundle);
  await ask('POST', '/v1/plugins', 400, new Uint8Array([1]));
  await ask('PUT', '/v1/plugins/notes', 200, bundle);
  for (const path of ['', '/health', '/config', '/logs', '/dead-letters']) {
    await ask('GET', `/v1/plugins/notes${path}`, 200);
  }
  await ask('PUT', '/v1/plugins/notes/config', 400, { settings: { no: 1 } });
  await ask('DELETE', '/v1/plugins/notes/dead-letters', 200);
  await ask('POST', '/v1/plugins/notes/pin', 200, {});
  await ask('POST', '/v1/plugins/notes/rollback', 409);
  await ask('POST', '/v1/plugins/notes/unpin', 200);
  const { grants } = await ask('GET', '/v1/grants?plugin=notes', 200);
  const all = grants as { id: string; capability: string }[];
  const id = all.find(({ capability }) => capability === 'db')?.id;
  await ask('GET', `/v1/grants/${id}`, 200);
  await ask('DELETE', `/v1/grants/${id}`, 200);
  await ask('POST', '/plugins/notes/notes', 403, { text: 'x' });
  await ask('POST', `/v1/grants/${id}/approve`, 200);
  await ask('GET', '/v1/grants/explain?plugin=notes&capability=db&operation=query', 200);
  await ask('GET', '/v1/grants/suggest?plugin=notes', 200);
  await ask('GET', '/v1/grants/diff?plugin=notes', 200);
  await ask('PUT', '/v1/secrets/key', 200, { value: 'v' });
  await ask('GET', '/v1/secrets', 200);
  await ask('DELETE', '/v1/secrets/key', 204);
  await ask('POST', '/v1/tokens/rotate', 200);
  await ask('GET', '/v1/tokens/keys', 200);
  await ask('GET', '/v1/audit', 200);
  await ask('POST', '/v1/audit/verify', 200);
  await ask('GET', '/v1/hosts', 200);
  await ask('GET', '/metrics', 200);
  await ask('GET', '/ready', 200);
  await ask('GET', '/health', 200);
  await ask('GET', '/v1/plugins/none', 404);
  await ask('DELETE', '/v1/plugins/notes', 204);
});

await t.test('what the document calls open is open, and nothing else is', async (t) => {
  await one.install(bundle);
  await one.approve('notes');
  const { paths } = await documentOf(one);
  const operations = Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, { security }]) => ({ path, method, security })),
  );
  t.ok(
    operations.some(({ path }) => path === '/v1/auth/token'),
    'with all that a real host mounts',
  );
  for (const { path, method, security } of operations) {
    const target = new URL(path.replaceAll(/\{\w+\}/g, 'x'), one.url);
    const answer = await fetch(target, { method: method.toUpperCase() });
    const asks = answer.headers.get('www-authenticate')?.startsWith('Bearer ') === true;
    await answer.body?.cancel();
    t.equal(answer.status === 401 && asks, security?.length !== 0, `${method} ${path}`);
  }
  t.match(await one.request('DELETE', '/v1/plugins/notes'), { status: 204 });
});

await t.test('the document of another host follows what is installed', async (t) => {
  const told = async () => '/plugins/notes/notes' in (await documentOf(two)).paths;
  await one.install(bundle);
  await one.approve('notes');
  await eventually('the other host tells the routes', told);
  t.match(await one.request('DELETE', '/v1/plugins/notes'), { status: 204 });
  await eventually('and no longer', async () => !(await told()));
});

await t.test('hosts on one database see each other, and who is gone', async (t) => {
  const list = async () => (await one.get('/v1/hosts')).body['hosts'] as HostView[];
  await eventually('both are listed', async () => (await list()).length === 2);
  const both = await list();
  t.strictSame(new Set(both.map((host) => host.url)), new Set([one.url, two.url]));
  for (const { state, version } of both)
    t.match({ state, version }, { state: 'present', version: /^\d/ });
  const id = both.find((host) => host.url === two.url)?.id;

  const before = both.find((host) => host.url === one.url)?.seenAt ?? '';
  await eventually('a host is seen again and again', async () => {
    return (await list()).some((host) => host.url === one.url && host.seenAt > before);
  });
  await two.kill();
  await using state = openStatePool({ ...connectionConfig(url), max: 2 }, () => undefined);
  const unseenFor = (time: string) =>
    state.pool.query(`update noa.hosts set seen_at = now() - $2::interval where id = $1`, [
      id,
      time,
    ]);
  await unseenFor('2 minutes');
  const away = (await list()).find((host) => host.id === id);
  t.equal(away?.state, 'away');

  const again = new HostRegister(state.pool, {
    id: id ?? '',
    version: '9.9.9',
    onError: (message) => t.fail(message),
  });
  again.enter('http://192.0.2.1');
  await eventually('it is back', async () => {
    const found = (await list()).find((host) => host.id === id);
    return found?.state === 'present' && found.startedAt > (away?.startedAt ?? '');
  });
  await again[Symbol.asyncDispose]();
  t.equal((await list()).length, 1, 'one that is stopped leaves the list');

  const other = `insert into noa.hosts values ('old', '0', 'http://192.0.2.2', now(), now() - interval '25 hours')`;
  await state.pool.query(other);
  await eventually('one that is long gone is forgotten', async () => (await list()).length === 1);
  t.equal(await one.stop(), 0);
  const { rowCount } = await state.pool.query('select from noa.hosts');
  t.equal(rowCount, 0, 'a host takes its own row away');
});
