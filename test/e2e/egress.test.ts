/** A plugin reaches other servers through the whole host: as far as it was granted, and no further. */
import { createServer } from 'node:http';
import t from 'tap';
import { bundleAt, eventually, RunningHost } from './running-host.ts';

const SECRET = 'Bearer of-the-plugin';

const seen: string[] = [];
/** Ends the answers to /v1/hold. */
const held: (() => void)[] = [];
const server = createServer((request, response) => {
  const { method, url = '', headers } = request;
  seen.push(`${method} ${url} ${headers.authorization ?? ''}`.trim());
  const to = new URL(url, 'http://x').searchParams.get('to');
  if (url.startsWith('/v1/hold')) {
    held.push(() => response.writeHead(302, { location: to ?? '/' }).end());
  } else if (to !== null) response.writeHead(302, { location: to }).end();
  else if (url === '/v1/silent') return;
  else if (url === '/v1/large') response.end(Buffer.alloc(4 << 20));
  else if (url === '/v1/binary') response.end(Buffer.alloc(3_000_000, 0xff));
  else if (url === '/v1/control') response.end(Buffer.alloc(3_000_000, 1));
  else response.setHeader('content-type', 'text/plain').end('grüße');
});
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => {
  server.closeAllConnections();
  server.close();
});
const address = server.address();
if (typeof address !== 'object' || address === null) throw new Error('the server has no port');
const { port } = address;
const url = `http://127.0.0.1:${port}`;

/** The fixture, whose manifest names the port of this run. */
const bundle = (): Promise<Uint8Array> => bundleAt('test/fixtures/plugins/courier', port);

const courier = await bundle();

async function courierHost(env: Record<string, string>): Promise<RunningHost> {
  const host = await RunningHost.start({ env });
  t.teardown(() => host.dispose());
  await host.install(courier);
  return host;
}

t.test('fetch in a plugin goes where a grant and the operator let it', async (t) => {
  const host = await courierHost({ NOA_PLUGINS__HTTP_PRIVATE_HOSTS: '127.0.0.1' });
  const get = (path: string, more: object = {}) =>
    host.call('courier', 'get', { url: path.startsWith('/') ? url + path : path, ...more });
  t.match(await get('/v1/a'), { status: 409, body: { code: 'GRANT_PENDING' } });
  await host.approve('courier');
  const headers = { authorization: SECRET };
  t.match(await get('/v1/a?q=1', { headers }), {
    status: 200,
    body: { status: 200, url: `${url}/v1/a?q=1`, type: 'text/plain', length: 7, text: 'grüße' },
  });
  t.match(await get('/v1/b', { method: 'POST', body: 'x' }), { body: { status: 200 } });
  t.match(await get('/v1/binary'), { body: { status: 200, length: 3_000_000 } });
  t.match(await get('/v1/control'), { body: { status: 200, length: 3_000_000 } });
  t.match(await host.call('courier', 'port', { method: 'GET', url: `${url}/v1/c` }), {
    body: { status: 200, body: 'grüße', url: `${url}/v1/c` },
  });
  t.same(seen.splice(0), [
    `GET /v1/a?q=1 ${SECRET}`,
    'POST /v1/b',
    'GET /v1/binary',
    'GET /v1/control',
    'GET /v1/c',
  ]);

  const denied = { status: 403, body: { code: 'CAPABILITY_DENIED' } };
  for (const path of [
    '/',
    '/v2/a',
    '/v1/../admin',
    '/v1%2fa',
    'http://127.1:1/v1/',
    `${host.url}/v1/grants`,
  ]) {
    t.match(await get(path), denied, path);
  }
  t.match(await get('/v1/a', { method: 'PUT', body: 'x' }), denied);
  t.match(await get(`http://localhost:${port}/v1/a`), denied, 'granted, but not listed');
  t.match(await get('/v1/..%2fadmin'), { status: 400 });
  t.same(seen.splice(0), [], 'nothing of this was sent');

  t.match(await get('/v1/r?to=/v1/there'), { body: { url: `${url}/v1/there` } });
  for (const to of [
    '/admin',
    `${host.url}/v1/grants`,
    'http://169.254.169.254/latest/meta-data/',
  ]) {
    t.match(await get(`/v1/r?to=${encodeURIComponent(to)}`), denied, to);
  }
  t.notOk(seen.some((line) => line.includes('/admin ') || line.endsWith('/admin')));

  t.match(await get('/v1/large'), { status: 429, body: { code: 'RESOURCE_EXHAUSTED' } });
  t.match(await get('/v1/silent'), { status: 504, body: { code: 'DEADLINE_EXCEEDED' } });

  const { body } = await host.get('/v1/audit?plugin=courier&limit=100');
  t.match(JSON.stringify(body), `GET ${url}/v1/a`, 'each use names its resource');
  t.notMatch(JSON.stringify(body), /q=1|of-the-plugin/, 'and neither query nor credential');
  t.notMatch(host.output, /q=1|of-the-plugin/);

  const uses = body['records'] as { kind: string; resources: string[] }[];
  t.ok(
    uses.some(({ kind, resources: [from, to] }) => {
      const hops = [`GET ${url}/v1/r`, `GET ${url}/v1/there`];
      return kind === 'capability.use' && from === hops[0] && to === hops[1];
    }),
    'a redirect is told with where it led',
  );
  t.ok(
    uses.some(
      ({ kind, resources: [, to] }) => kind === 'capability.denial' && to === `GET ${url}/admin`,
    ),
    'and where it did not',
  );

  const grants = (await host.get('/v1/grants?plugin=courier')).body['grants'] as { id: string }[];
  const path = `/v1/grants/${grants[0]?.id}`;
  const late = get('/v1/hold?to=/v1/late');
  await eventually('the request is there', () => Promise.resolve(held.length > 0));
  await host.post(`${path}/approve`, { resources: [`GET ${url}/v1/hold`] });
  held[0]?.();
  t.match(await late, denied, 'a redirect is asked for when it comes');
  t.notOk(seen.includes('GET /v1/late'));
  t.match(await host.post(`${path}/approve`, { resources: [`GET ${url}/v1/only`] }), {
    status: 200,
  });
  t.match(await get('/v1/only'), { body: { status: 200 } });
  t.match(await get('/v1/a'), denied);
  t.match(await host.post(`${path}/approve`, { resources: ['GET http*'] }), { status: 400 });
  await host.request('DELETE', path);
  t.match(await get('/v1/only'), denied, 'revoked');
});

t.test('without the operator’s word a grant of a private address opens nothing', async (t) => {
  const host = await courierHost({});
  await host.approve('courier');
  seen.length = 0;
  t.match(await host.call('courier', 'get', { url: `${url}/v1/a` }), {
    status: 403,
    body: { code: 'CAPABILITY_DENIED', detail: /http_private_hosts/ },
  });
  t.same(seen, []);
});
