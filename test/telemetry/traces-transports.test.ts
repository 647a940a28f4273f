/** Traces that begin elsewhere than with a request over HTTP: gRPC, a call within a WebSocket, hooks, deliveries. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { bundleAt, bundleOf, eventually, RunningHost } from '../e2e/running-host.ts';
import { GrpcClient, headers } from '../transports/grpc-front.ts';
import { Client } from '../transports/websocket-client.ts';
import { type CollectedSpan, Collector } from './collector.ts';

t.setTimeout(120_000);
const server = createServer((_request, response) => response.end('known'));
await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
t.teardown(() => server.close());
const { port } = server.address() as AddressInfo;
const collector = await Collector.start();
t.teardown(() => collector.close());
const host = await RunningHost.start({
  env: {
    NOA_PLUGINS__HTTP_PRIVATE_HOSTS: '127.0.0.1',
    NOA_OBSERVABILITY__OTLP_ENDPOINT: collector.url,
    NOA_OBSERVABILITY__TRACE_RATIO: '1',
  },
});
t.teardown(() => host.dispose());
await host.install(await bundleAt('test/fixtures/plugins/oracle', port));
await host.install(await bundleOf('plugins/examples/orders'));
await host.install(await bundleOf('test/fixtures/plugins/sentry'));
for (const plugin of ['oracle', 'orders', 'sentry']) await host.approve(plugin);
await eventually('all serve', async () => {
  const { body } = await host.get('/v1/plugins');
  return (body['plugins'] as { state: string }[]).every(({ state }) => state === 'serving');
});

/** Names from a span down, in order of time. */
function tree(spans: readonly CollectedSpan[], { name, kind, spanId }: CollectedSpan): object {
  const below = spans
    .filter((span) => span.parentId === spanId)
    .toSorted((a, b) => Number(a.start - b.start));
  return { [`${kind} ${name}`]: below.map((span) => tree(spans, span)) };
}

async function spanOf(what: string, fits: (span: CollectedSpan) => boolean): Promise<object> {
  await eventually(what, () => Promise.resolve(collector.spans.some(fits)));
  const root = collector.spans.find(fits);
  if (root === undefined) throw new Error(what);
  return tree(
    collector.spans.filter(({ traceId }) => traceId === root.traceId),
    root,
  );
}

t.test('a gRPC call is one trace with its caller’s, down to another server', async (t) => {
  const client = new GrpcClient(`127.0.0.1:${new URL(host.url).port}`);
  t.teardown(() => client.close());
  const [traceId, parentId] = ['a'.repeat(32), 'b'.repeat(16)];
  const metadata_json = JSON.stringify({ url: `http://127.0.0.1:${port}/known` });
  const { metadata } = await client.call(
    'noa.api.v1.InferenceService/Invoke',
    { prompt: 'why', metadata_json },
    headers(host.token, { traceparent: `00-${traceId}-${parentId}-01` }),
  );
  t.match(String(metadata.get('traceparent')[0]), new RegExp(`^00-${traceId}-`));
  const found = await spanOf('the call', (span) => span.parentId === parentId);
  t.strictSame(found, {
    'server noa.api.v1.InferenceService/Invoke': [
      { 'internal call oracle/invoke': [{ 'internal http.request': [{ 'client GET': [] }] }] },
    ],
  });
});

t.test(
  'calls within a WebSocket and the hooks before them are in the trace of the connection',
  async (t) => {
    const socket = await Client.open(`${host.url}/ws/stream`, host.token);
    const order = { item: 'tea', quantity: 1 };
    socket.send({ type: 'request', id: 'x', plugin: 'orders', export: 'place', input: order });
    await eventually('it is answered', () => Promise.resolve(socket.of('result').length === 1));
    socket.socket.close();
    const found = await spanOf('the connection', ({ name }) => name === 'GET /ws/stream');
    const [calls = []] = Object.values(found) as object[][];
    t.match(calls.at(-1), { 'internal call orders/place': [{ 'internal events.publish': [] }] });
    t.ok(
      calls.some((call) => 'internal call sentry/judge' in call),
      'the hook is told of',
    );
  },
);

t.test('the delivery of an event is a trace of its own, down to the database', async (t) => {
  t.strictSame(await spanOf('the delivery', ({ kind }) => kind === 'consumer'), {
    'consumer events': [
      {
        'internal call orders/count': [
          { 'internal db.execute': [{ 'client postgresql execute': [] }] },
        ],
      },
    ],
  });
});
