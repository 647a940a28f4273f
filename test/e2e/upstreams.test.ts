/** Routes to other servers and hooks of plugins on a real host: configured, reloaded, killed and judged. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { Backend } from '../gateway/upstream-kit.ts';
import { bundleOf, eventually, RunningHost } from './running-host.ts';

t.setTimeout(240_000);

const folder = await mkdtemp(join(tmpdir(), 'noa-gateway-'));
const file = join(folder, 'gateway.toml');
const behaviour: Backend['behaviour'] = (request, response) =>
  void response.setHeader('content-type', 'application/json').end(JSON.stringify(request.headers));
const [first, second] = await Promise.all([
  new Backend(behaviour).listen(),
  new Backend(behaviour).listen(),
]);

const configure = (more = ''): Promise<void> =>
  writeFile(
    file,
    `[[gateway.routes]]
name = "orders"
path = "/orders"
upstreams = [{ url = "${first.url}", weight = 2 }, { url = "${second.url}" }]
retries = { attempts = 2, backoff_ms = 1 }
breaker = { failures = 2, open_ms = 60_000 }
[gateway.routes.headers.request]
set = { authorization = "env:ORDERS_KEY", x-plain = "text" }
${more}`,
  );
await configure();
const host = await RunningHost.start({
  env: { NOA_CONFIG: file, ORDERS_KEY: 'Bearer of-the-route' },
});
t.teardown(async () => {
  await host.dispose();
  await Promise.all(
    [first.close(), second.close()].map((closing) => closing.catch(() => undefined)),
  );
  await rm(folder, { recursive: true });
});

await t.test('a server that is killed in the middle of an answer', async (t) => {
  const answer = await host.get('/orders/1');
  t.match(answer, {
    status: 200,
    body: { authorization: 'Bearer of-the-route', 'x-plain': 'text' },
  });
  t.notMatch(JSON.stringify(answer.body), host.token);
  const shown = await host.cli('config', 'print');
  t.match(shown.stdout, /env:ORDERS_KEY/);
  t.notMatch(shown.stdout, /of-the-route/, 'what a reference leads to is never shown');

  first.behaviour = (_request, response) => void response.write('half', () => void first.close());
  const statuses: (number | string)[] = [];
  for (let i = 0; i < 12; i += 1) {
    statuses.push(
      await host.get('/orders/1').then(
        ({ status }) => status,
        () => 'broken',
      ),
    );
  }
  t.equal(statuses.filter((status) => status === 'broken').length, 1, 'one caller sees it');
  t.same(
    statuses.slice(-8),
    Array(8).fill(200),
    'the others are served by the server that is left',
  );
  const { body } = await host.get('/metrics');
  const text = String(body['text']);
  t.match(
    text,
    new RegExp(`noa_upstream_breaker_state\\{route="orders",upstream="${first.url}"\\} 2`),
  );
  t.match(
    text,
    new RegExp(
      `noa_upstream_requests_total\\{route="orders",upstream="${first.url}",code="connect"\\} \\d`,
    ),
  );
  t.match(
    text,
    new RegExp(
      `noa_upstream_requests_total\\{route="orders",upstream="${second.url}",code="2xx"\\} \\d`,
    ),
  );
  t.match(host.output, /a server behind route orders is given a pause: connect \(ECONNREFUSED\)/);
});

await t.test(
  'SIGHUP takes routes and takes them away, and a wrong one changes nothing',
  async (t) => {
    await configure(
      `[[gateway.routes]]\nname = "more"\npath = "/more"\nupstreams = [{ url = "${second.url}" }]\n`,
    );
    t.match(await host.get('/more'), { status: 404 });
    host.signal('SIGHUP');
    await eventually('the new route', async () => (await host.get('/more')).status === 200);
    await configure(
      `[[gateway.routes]]\nname = "bad"\npath = "/v1/bad"\nupstreams = [{ url = "${second.url}" }]\n`,
    );
    host.signal('SIGHUP');
    await eventually('the refusal', async () =>
      host.output.includes("would shadow the host's own /v1"),
    );
    t.match(await host.get('/more'), { status: 200 });
    await configure();
    host.signal('SIGHUP');
    await eventually('the end of the route', async () => (await host.get('/more')).status === 404);
    t.match(await host.get('/orders/1'), { status: 200 });
  },
);

await t.test('a plugin that judges requests', async (t) => {
  const ask = (mode: string) => host.request('GET', '/orders/1', undefined, { 'x-mode': mode });
  const view = await host.install(await bundleOf('test/fixtures/plugins/sentry'));
  t.match(view, { state: 'pending' });
  t.match(await ask('deny'), { status: 200 }, 'not before it is granted');
  await host.approve('sentry');
  await eventually('the hook', async () => (await ask('deny')).status === 403);
  t.match(await ask('deny'), { body: { code: 'PERMISSION_DENIED', detail: 'not for bootstrap' } });
  const marked = await ask('mark');
  t.match(marked, { status: 200, body: { 'x-seen-by': 'sentry' } });
  t.equal(marked.headers.get('x-seen'), 'yes');
  t.match(await ask('throw'), { status: 503, body: { code: 'UNAVAILABLE' } });
  t.match(
    await ask('spin'),
    { status: 503, body: { code: 'UNAVAILABLE' } },
    'one that never ends is ended',
  );
  t.match(await ask('none'), { status: 200 });
  t.match((await host.cli('plugin', 'show', 'sentry')).stdout, /hooks +beforeRequest \* to judge/);
  t.match((await host.cli('audit', 'list', '--json')).stdout, /hook of plugin sentry/);
  await eventually('what it was told afterwards', async () => {
    const { body } = await host.call('sentry', 'noted');
    return Number(body['ok']) >= 2 && Number(body['refused']) >= 2;
  });

  await host.post('/v1/plugins/sentry/disable');
  t.match(await ask('deny'), { status: 200 });
  await host.post('/v1/plugins/sentry/enable');
  t.match(await ask('deny'), { status: 403 });
  t.match(await host.request('DELETE', '/v1/plugins/sentry', undefined, { 'x-mode': 'deny' }), {
    status: 204,
  });
  t.match(await ask('deny'), { status: 200 });
});
