/**
 * Streams of a real host: events by every kind of client, through a kill -9 with nothing lost, and exports
 * that emit, in a thread of the host and in a process of their own.
 */
import { EventSource } from 'eventsource';
import t from 'tap';
import { SseClient, until } from '../transports/sse.ts';
import { Client } from '../transports/websocket-client.ts';
import { bundleOf, eventually, repacked, RunningHost } from './running-host.ts';

t.setTimeout(180_000);
const near = await bundleOf('test/fixtures/plugins/streamer');
const far = await repacked(near, { name: 'streamer-far' });
const host = await RunningHost.start({ env: { NOA_PLUGINS__UNTRUSTED: 'streamer-far' } });
t.teardown(() => host.dispose());
for (const [name, bundle] of [
  ['streamer', near],
  ['streamer-far', far],
] as const) {
  await host.install(bundle);
  await host.approve(name);
  await eventually('it serves', async () => (await host.call(name, 'count')).status === 200);
}

async function publish(many: number, subject = 'stream.a'): Promise<number[]> {
  const answer = await host.call('streamer', 'publish', { subject, many });
  if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
  return answer.body['ids'] as number[];
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

await t.test('EventSource, fetch and WebSocket get the same events by the same ids', async (t) => {
  const source = new EventSource(`${host.url}/v1/events?subjects=stream.*`, {
    fetch: (url, init) =>
      fetch(url, {
        ...init,
        headers: { ...init.headers, authorization: `Bearer ${host.token}` },
      }),
  });
  const sourced: number[] = [];
  source.addEventListener('told', ({ lastEventId }) => sourced.push(Number(lastEventId)));
  await until('it is open', () => source.readyState === source.OPEN);
  const fetched = await SseClient.open(`${host.url}/v1/events`, host.token);
  const socket = await Client.open(`${host.url}/ws/events`, host.token);
  socket.send({ type: 'subscribe', subjects: ['stream.b'] });
  await until('it follows', () => socket.of('subscribed').length === 1);
  const a = await publish(20);
  const b = await publish(20, 'stream.b');
  await until('all come', () => [sourced, fetched.ids].every(({ length }) => length === 40));
  await until('these too', () => socket.ids.length === 20);
  t.strictSame(sourced, [...a, ...b]);
  t.strictSame(fetched.ids, [...a, ...b]);
  t.strictSame(socket.ids, b);
  const page = await host.request('GET', '/v1/events?subjects=stream.b', undefined, {
    accept: 'application/json',
  });
  t.strictSame(
    (page.body['events'] as { id: string }[]).map(({ id }) => Number(id)),
    b,
  );
  source.close();
  fetched.close();
  socket.socket.close();
});

await t.test('a client goes on after kill -9 with nothing lost and nothing twice', async (t) => {
  const [first = 0] = await publish(1);
  const acknowledged: number[] = [];
  const publishing = Promise.all(
    range(1, 4).map(async () => {
      for (let n = 0; n < 100; n += 1) acknowledged.push(...(await publish(3)));
    }),
  ).catch(() => 'the host was killed');
  const before = await SseClient.open(`${host.url}/v1/events?since=${first}`, host.token);
  const socket = await Client.open(`${host.url}/ws/events`, host.token);
  socket.send({ type: 'subscribe', since: String(first) });
  await until('it is in mid-stream', () => before.ids.length > 100 && socket.ids.length > 100);
  await host.kill();
  await publishing;
  await until('they hear of it', () => before.ended && socket.closed !== undefined);
  await host.start();
  const resume = String(before.ids.at(-1));
  const after = await SseClient.open(`${host.url}/v1/events?since=${first}`, host.token, {
    headers: { 'last-event-id': resume },
  });
  const again = await Client.open(`${host.url}/ws/events`, host.token);
  again.send({ type: 'subscribe', since: String(socket.ids.at(-1)) });
  await eventually('it serves', async () => (await host.call('streamer', 'count')).status === 200);
  const last = (await publish(5)).at(-1) ?? 0;
  await until('all come', () => after.ids.at(-1) === last && again.ids.at(-1) === last);
  t.strictSame([...before.ids, ...after.ids], range(first + 1, last));
  t.notOk([...before.frames, ...after.frames].some(({ event }) => event === 'gap'));
  t.strictSame([...socket.ids, ...again.ids], range(first + 1, last));
  t.ok(acknowledged.length > 0 && acknowledged.every((id) => id <= last));
  after.close();
  again.socket.close();
});

for (const plugin of ['streamer', 'streamer-far']) {
  await t.test(`exports of ${plugin} emit`, async (t) => {
    const call = `${host.url}/v1/plugins/${plugin}/exports`;
    t.strictSame((await host.call(plugin, 'count', { to: 2 })).body, {
      items: [
        { n: 1, text: 'ü1' },
        { n: 2, text: 'ü2' },
      ],
      result: { emitted: 2 },
    });
    const other = plugin === 'streamer' ? 'streamer-far' : 'streamer';
    t.match(await host.call(plugin, 'relay', { to: other }), {
      status: 200,
      body: { items: [{ n: 1 }, { n: 2 }], result: { emitted: 2 } },
    });
    const sse = await SseClient.open(`${host.url}/plugins/${plugin}/count?to=500`, host.token);
    await until('it ends', () => sse.ended);
    t.strictSame(
      sse.frames.slice(0, -1).map(({ id }) => Number(id)),
      range(1, 500),
    );
    t.match(sse.frames.at(-1), { event: 'result', data: '{"emitted":500}' });

    const socket = await Client.open(`${host.url}/ws/stream`, host.token);
    socket.send({ id: 'all', plugin, export: 'count', input: { to: 100 } });
    socket.send({ id: 'held', plugin, export: 'count', input: { to: 100 }, credit: 3 });
    socket.send({ id: 'late', plugin, export: 'brief', input: { to: 2 }, credit: 1 });
    const of = (id: string) => socket.frames.filter((frame) => frame['id'] === id);
    await until('one ends', () => of('all').length === 101);
    await until('one is late', () => of('late').length === 2);
    t.match(of('late')[1], { type: 'error', code: 'DEADLINE_EXCEEDED' });
    t.equal(of('held').length, 3);
    socket.send({ type: 'cancel', id: 'held' });
    await until('one is cancelled', () => of('held').length === 4);
    t.match(of('held')[3], { type: 'error', code: 'CANCELLED' });
    socket.socket.close();

    const paused = await SseClient.open(`${call}/count`, host.token, {
      body: JSON.stringify({ to: 1_000_000, size: 1000 }),
      paused: true,
    });
    paused.close();
    await eventually('a caller that leaves takes its call with it', async () => {
      const { body } = await host.get(`/v1/plugins/${plugin}`);
      return body['state'] === 'serving' && (await host.call(plugin, 'count')).status === 200;
    });
  });
}

await t.test('at its end the host tells those that are connected', async (t) => {
  const sse = await SseClient.open(`${host.url}/v1/events`, host.token);
  const socket = await Client.open(`${host.url}/ws/stream`, host.token);
  t.equal(await host.stop(), 0);
  await until('both end', () => sse.ended && socket.closed !== undefined);
  t.equal(sse.response.complete, true);
  t.equal(socket.closed?.code, 1001);
});
