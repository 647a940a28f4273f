/** A request's trace leaves the host whole, tells nothing that is secret, and costs nobody an answer. */
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { bundleOf, eventually, repacked, RunningHost } from '../e2e/running-host.ts';
import { type CollectedSpan, Collector } from './collector.ts';

t.setTimeout(180_000);

const CALLER = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
/** Everything that a trace must not tell. */
const SECRETS = {
  text: 'secret-of-a-body',
  query: 'secret-of-a-query',
  sql: 'secret_of_sql',
  credential: 'secret-of-a-header',
  caller: 'secret-of-the-caller',
};

/** Another server, which a plugin asks. */
const asked: IncomingHttpHeaders[] = [];
const server = createServer((request, response) => {
  asked.push(request.headers);
  if (request.url?.startsWith('/moved')) {
    response.writeHead(302, { location: '/there?token=secret-of-a-query' }).end();
  } else response.end('welcome');
});
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => server.close());
const { port } = server.address() as AddressInfo;

const reason = 'It is on the way.';
const cache = {
  capability: 'cache',
  operations: ['get', 'set'],
  resources: ['pilgrim:*'],
  reason,
};
const pilgrim = await bundleOf('test/fixtures/plugins/pilgrim');

async function pilgrimHost(env: Record<string, string>): Promise<RunningHost> {
  const host = await RunningHost.start({
    env: {
      NOA_PLUGINS__HTTP_PRIVATE_HOSTS: '127.0.0.1',
      NOA_OBSERVABILITY__LOG_FORMAT: 'json',
      ...env,
    },
  });
  t.teardown(() => host.dispose());
  await host.install(
    await repacked(pilgrim, {
      capabilities: [
        { capability: 'db', operations: ['query'], resources: ['pilgrim.*'], reason },
        cache,
        {
          capability: 'http',
          operations: ['request'],
          resources: [`GET http://127.0.0.1:${port}/*`],
          reason,
        },
        { capability: 'plugin', operations: ['call'], resources: ['hostel/*'], reason },
      ],
    }),
  );
  await host.install(
    await repacked(pilgrim, { name: 'hostel', capabilities: [cache], contributes: {} }),
  );
  await host.approve('hostel');
  await host.approve('pilgrim');
  return host;
}

function journey(host: RunningHost, headers: Record<string, string> = {}) {
  const body = {
    url: `http://127.0.0.1:${port}/moved?token=${SECRETS.query}`,
    sql: `select $1::text as ${SECRETS.sql}`,
    text: SECRETS.text,
    credential: SECRETS.credential,
  };
  return host.request('POST', `/plugins/pilgrim/journeys/7?key=${SECRETS.caller}`, body, headers);
}

/** The trace as a tree of names, in order of time. */
function tree(spans: readonly CollectedSpan[], parentId: string): object[] {
  return spans
    .filter((span) => span.parentId === parentId)
    .sort((a, b) => Number(a.start - b.start))
    .map(({ name, kind, spanId }) => {
      const children = tree(spans, spanId);
      return { [`${kind} ${name}`]: children.length === 1 ? children[0] : children };
    });
}

t.test('one trace leads from a request to all that its plugins reach', async (t) => {
  const collector = await Collector.start();
  t.teardown(() => collector.close());
  const host = await pilgrimHost({
    NOA_OBSERVABILITY__OTLP_ENDPOINT: `${collector.url}/base/`,
    NOA_OBSERVABILITY__OTLP_HEADERS: 'x-collector=open sesame,x-tenant=7',
    NOA_OBSERVABILITY__TRACE_RATIO: '0',
    NOA_OBSERVABILITY__SERVICE_NAME: 'gate',
    NOA_PLUGINS__UNTRUSTED: 'hostel',
    NOA_GATEWAY__ROUTES: JSON.stringify([
      { name: 'inn', path: '/inn', upstreams: [{ url: `http://127.0.0.1:${port}` }] },
    ]),
  });
  t.equal((await journey(host)).status, 200);
  t.equal((await journey(host, { traceparent: CALLER.replace(/1$/, '0') })).status, 200);
  asked.splice(0);
  const answer = await journey(host, { traceparent: CALLER });
  t.match(answer, { status: 200, body: { answer: 'welcome', rested: SECRETS.text } });
  const [, traceId = '', parentId = ''] = CALLER.split('-');
  const [, answeredTrace, spanId] = answer.headers.get('traceparent')?.split('-') ?? [];
  t.equal(answeredTrace, traceId);

  const spans = () => collector.spans.filter((span) => span.traceId === traceId);
  await eventually('the trace arrives', () =>
    Promise.resolve(spans().some((span) => span.kind === 'server')),
  );
  t.strictSame(tree(spans(), parentId), [
    {
      'server POST /plugins/pilgrim/journeys/:id': {
        'internal call pilgrim/journey': [
          { 'internal db.query': { 'client postgresql query': [] } },
          { 'internal cache.set': { 'client redis set': [] } },
          { 'internal cache.get': { 'client redis get': [] } },
          { 'internal http.request': [{ 'client GET': [] }, { 'client GET': [] }] },
          {
            'internal plugin.call': {
              'internal call hostel/rest': {
                'internal cache.get': { 'client redis get': [] },
              },
            },
          },
        ],
      },
    },
  ]);
  t.equal(spans().length, collector.spans.length, 'what is not sampled sends nothing');
  const named = (name: string) => spans().filter((span) => span.name === name);
  const [root] = named('POST /plugins/pilgrim/journeys/:id');
  t.match(root, {
    spanId,
    failed: false,
    attributes: {
      'http.request.method': 'POST',
      'http.route': '/plugins/pilgrim/journeys/:id',
      'url.path': '/plugins/pilgrim/journeys/7',
      'http.response.status_code': 200,
      'noa.plugin': 'pilgrim',
      'noa.request_id': answer.headers.get('x-request-id'),
    },
    resource: { 'service.name': 'gate', 'service.version': /^\d/, 'service.instance.id': /./ },
  });
  t.ok(root && root.end > root.start && root.end < BigInt(Date.now() + 1) * 1_000_000n);
  t.match(named('call hostel/rest')[0]?.attributes, {
    'noa.plugin': 'hostel',
    'noa.export': 'rest',
    'noa.isolation': 'process',
    'noa.execution_ms': Number,
    'noa.fuel': Number,
  });
  t.match(named('postgresql query')[0]?.attributes, {
    'db.system.name': 'postgresql',
    'db.operation.name': 'SELECT',
  });
  const hops = named('GET').sort((a, b) => Number(a.start - b.start));
  t.match(
    hops.map(({ attributes }) => attributes),
    [
      { 'url.full': `http://127.0.0.1:${port}/moved`, 'http.response.status_code': 302 },
      { 'url.full': `http://127.0.0.1:${port}/there`, 'http.response.status_code': 200 },
    ],
  );
  t.strictSame(
    asked.map(({ traceparent, tracestate }) => [traceparent, tracestate]),
    hops.map((hop) => [`00-${traceId}-${hop.spanId}-01`, undefined]),
    'the other server goes on with the trace, and not with a state of another one',
  );

  for (const secret of [...Object.values(SECRETS), host.token]) {
    t.notOk(collector.raw.includes(secret), `${secret} is in no span`);
  }
  t.match(collector.requests[0], {
    path: '/base/v1/traces',
    headers: {
      'content-type': 'application/x-protobuf',
      'x-collector': 'open sesame',
      'x-tenant': '7',
    },
  });
  t.notMatch(host.output, /open sesame|secret-of/);
  const access = host.output.split('\n').find((line) => line.includes(`"span_id":"${spanId}"`));
  t.match(access, `"trace_id":"${traceId}"`);

  const routed = await host.request('GET', `/inn/door?key=${SECRETS.query}`, undefined, {
    traceparent: CALLER.replaceAll('a', 'b'),
  });
  t.equal(routed.status, 200);
  const [, routedTrace = ''] = routed.headers.get('traceparent')?.split('-') ?? [];
  const routedSpans = () => collector.spans.filter((span) => span.traceId === routedTrace);
  await eventually('its trace arrives', () => Promise.resolve(routedSpans().length === 2));
  const [client, front] = routedSpans().sort((a, b) => a.kind?.localeCompare(b.kind ?? '') ?? 0);
  t.match(
    [client, front],
    [
      {
        name: 'GET',
        kind: 'client',
        parentId: front?.spanId,
        attributes: { 'server.address': '127.0.0.1', 'server.port': port },
      },
      { name: 'GET /inn/*', kind: 'server' },
    ],
  );
  t.equal(asked.at(-1)?.traceparent, `00-${routedTrace}-${client?.spanId}-01`);
  t.notOk(collector.raw.includes(SECRETS.query));
});

t.test('what fails says how, and one call cannot flood a trace', async (t) => {
  const collector = await Collector.start();
  t.teardown(() => collector.close());
  const host = await pilgrimHost({
    NOA_OBSERVABILITY__OTLP_ENDPOINT: collector.url,
    NOA_OBSERVABILITY__TRACE_RATIO: '1',
  });
  const traceOf = (answer: { headers: Headers }) => {
    const [, traceId = ''] = answer.headers.get('traceparent')?.split('-') ?? [];
    return collector.spans.filter((span) => span.traceId === traceId);
  };
  const complete = (answer: { headers: Headers }) =>
    eventually('the trace arrives', () =>
      Promise.resolve(traceOf(answer).some(({ kind }) => kind === 'server')),
    );

  const failed = await host.call('pilgrim', 'stumble');
  t.match(failed, { status: 400, body: { code: 'INVALID_ARGUMENT' } });
  await complete(failed);
  const failures = traceOf(failed)
    .filter((span) => span.failed)
    .map(({ name, attributes }) => [name, attributes['error.type']]);
  t.strictSame(
    new Map(failures as [string, string][]),
    new Map([
      ['postgresql query', '42P01'],
      ['db.query', 'INVALID_ARGUMENT'],
      ['call pilgrim/stumble', 'INVALID_ARGUMENT'],
    ]),
    'a wrong request is no failure of the server',
  );
  t.notOk(collector.raw.includes('nowhere'));

  const unknown = await host.request('PROPFIND', '/nobody-has-been-here');
  await complete(unknown);
  t.match(traceOf(unknown), [{ name: '_OTHER', attributes: { 'http.request.method': '_OTHER' } }]);

  const wandered = await host.call('pilgrim', 'wander');
  t.equal(wandered.status, 200);
  await complete(wandered);
  t.equal(traceOf(wandered).length, 500);

  await eventually('a scheduled call is a trace of its own', () =>
    Promise.resolve(collector.spans.some(({ name }) => name === 'call pilgrim/tick')),
  );
  const tick = collector.spans.find(({ name }) => name === 'call pilgrim/tick');
  await eventually('with a root', () =>
    Promise.resolve(collector.spans.some(({ spanId }) => spanId === tick?.parentId)),
  );
  t.match(
    collector.spans.find(({ spanId }) => spanId === tick?.parentId),
    { name: 'schedule', kind: 'consumer', parentId: '', traceId: tick?.traceId },
  );
});

t.test('a collector that is away, refuses or is silent costs spans and nothing else', async (t) => {
  const collector = await Collector.start();
  collector.status = 400;
  const host = await pilgrimHost({
    NOA_OBSERVABILITY__OTLP_ENDPOINT: collector.url,
    NOA_OBSERVABILITY__TRACE_RATIO: '1',
  });
  const spans = async (outcome: string): Promise<number> => {
    const { body } = await host.get('/metrics');
    const line = new RegExp(`noa_trace_spans_total\\{outcome="${outcome}"\\} (\\d+)`);
    return Number(line.exec(String(body['text']))?.[1] ?? 0);
  };
  const outages = () => host.output.split('does not take traces').length - 1;
  await eventually('lost spans are counted', async () => (await spans('dropped')) > 0);
  t.match(host.output, /does not take traces \(it answers 400\)/);
  const before = await spans('dropped');
  await journey(host);
  await eventually('of each batch', async () => (await spans('dropped')) > before);
  t.equal(outages(), 1, 'one line for an outage');

  collector.status = 200;
  await eventually('it goes on', async () => (await spans('exported')) > 0);
  t.match(host.output, /takes traces again; \d+ spans were lost/);

  collector.status = undefined;
  for (let round = 0; round < 20; round += 1) {
    t.match(await journey(host), { status: 200 }, 'a silent collector keeps nobody waiting');
  }
  const started = Date.now();
  t.equal(await host.stop(), 0);
  t.ok(Date.now() - started < 15_000, 'and the end waits for it no longer than it is told');

  await collector.close();
  await host.start();
  await eventually('nobody listens', async () => {
    t.match(await journey(host), { status: 200 });
    return outages() === 1;
  });
});
