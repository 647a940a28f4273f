/** The event log as server-sent events and as pages: order, replay, bounds, and what ends a stream. */
import { once } from 'node:events';
import { connect } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import t from 'tap';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import { EventFeed } from '../../host/transports/streams/feed.ts';
import { Subscription } from '../../host/transports/streams/subscription.ts';
import { ADMIN, type Problem, READER, startFront } from './front.ts';
import { MemoryEvents } from './memory-events.ts';
import { SseClient, until } from './sse.ts';

t.setTimeout(120_000);

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

await t.test('events as a stream', async (t) => {
  const events = new MemoryEvents();
  const front = await startFront({ events, streams: { beatMs: 50 } });
  t.teardown(() => front.close());
  const open = (query = '', headers: Record<string, string> = {}) =>
    SseClient.open(`${front.url}/v1/events${query}`, ADMIN, { headers });

  await t.test('what is published comes as CloudEvents, by subject', async (t) => {
    const all = await open();
    const some = await open('?subjects=orders.*,exact&subjects=other');
    t.match(all.response, {
      statusCode: 200,
      headers: {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-store',
        'x-request-id': /./,
      },
    });
    const subjects = ['orders.created', 'exact', 'exact.not', 'other', 'order'];
    const ids = subjects.map((subject) => events.publish(subject, { text: 'a\nb — 世界' }));
    await until('all come', () => all.ids.length === 5 && some.ids.length === 3);
    t.strictSame(all.ids, ids);
    t.strictSame(some.ids, [ids[0], ids[1], ids[3]]);
    t.equal(all.frames[0]?.event, 'told');
    t.match(JSON.parse(all.frames[0]?.data ?? ''), {
      specversion: '1.0',
      id: String(ids[0]),
      subject: 'orders.created',
      data: { text: 'a\nb — 世界' },
    });
    t.match(all.text, /^retry: \d+\n\n/);
    await until('signs of life', () => all.text.endsWith(':\n\n'));
    all.close();
    some.close();
  });

  await t.test(
    'one replays from an id, then follows, and misses none and gets none twice',
    async (t) => {
      const first = events.publish('replay.n');
      for (let n = 0; n < 700; n += 1) events.publish(n % 2 === 0 ? 'replay.n' : 'else', n);
      const clients = await Promise.all([
        open(`?since=${first - 1}`),
        open(`?since=${first - 1}&subjects=replay.n`),
        open('?since=1', { 'last-event-id': String(first + 300) }),
        open(`?cursor=${first + 690}`),
      ]);
      let last = 0;
      for (let n = 0; n < 200; n += 1) {
        last = events.publish('replay.n', n);
        if (n % 20 === 0) await sleep(1);
      }
      await until('all come', () => clients.every(({ ids }) => ids.at(-1) === last));
      const [whole, even, header, cursor] = clients.map(({ ids }) => ids);
      t.strictSame(whole, range(first, last));
      t.strictSame(even, [
        ...range(first, first + 700).filter((id) => id === first || (id - first) % 2 === 1),
        ...range(first + 701, last),
      ]);
      t.strictSame(header, range(first + 301, last));
      t.strictSame(cursor, range(first + 691, last));
      for (const client of clients) client.close();
    },
  );

  await t.test('what the log keeps no longer is told', async (t) => {
    const last = events.publish('kept');
    events.drop(10);
    const client = await open('?since=4&subjects=kept');
    await until('it comes', () => client.ids.length > 0);
    t.match(client.frames[0], { event: 'gap', id: undefined });
    t.match(JSON.parse(client.frames[0]?.data ?? ''), { after: '4', missing: 6 });
    t.strictSame(client.ids, [last]);
    client.close();
    const none = await open(`?since=${last}`);
    const next = events.publish('kept');
    await until('the next comes', () => none.frames.length > 0);
    t.strictSame(none.ids, [next], 'nothing is missing after the newest');
    none.close();
  });

  await t.test('wrong requests are refused before the stream begins', async (t) => {
    const problem = async (query: string, headers = {}) =>
      (await front.request<Problem>('GET', `/v1/events${query}`, { headers })).body;
    const code = 'INVALID_ARGUMENT';
    t.match(await problem('?since=99999999'), { code, detail: /newest event has the id/ });
    t.match(await problem('?since=x'), { code, detail: /since/ });
    t.match(await problem('', { 'last-event-id': '-1' }), { code, detail: /id of an event/ });
    t.match(await problem('?subjects=a%20b'), { code, detail: /subjects/ });
    t.match(await problem('?subjects=a*b'), { code, detail: /subjects/ });
    t.match(await problem(`?subjects=${range(1, 65).join(',')}`), { code, detail: /64 at most/ });
    t.match(await problem('?token=x'), { code });
    t.match(await front.request('GET', '/v1/events', { token: READER }), {
      status: 403,
      body: { code: 'PERMISSION_DENIED', detail: /events:read/ },
    });
    t.match(await front.request('GET', '/v1/events', { token: null }), { status: 401 });
    t.match(await front.request('POST', '/v1/events'), { status: 405 });
  });

  await t.test('pages of JSON lead from one to the next', async (t) => {
    const first = events.publish('page.a');
    for (let n = 0; n < 6; n += 1) events.publish(n % 3 === 0 ? 'page.b' : 'page.a', n);
    const page = async (query: string) =>
      front.request<{ events: { id: string }[]; next: string | null; last: string; gap?: object }>(
        'GET',
        `/v1/events?subjects=page.*&${query}`,
        { headers: { accept: 'application/json' } },
      );
    const { body: one } = await page(`since=${first - 1}&limit=4`);
    t.strictSame(
      one.events.map(({ id }) => Number(id)),
      range(first, first + 3),
    );
    const { body: two } = await page(`cursor=${one.next}&limit=4`);
    t.match(two, { next: null, last: String(first + 6) });
    t.strictSame(
      two.events.map(({ id }) => Number(id)),
      range(first + 4, first + 6),
    );
    const { body: begin } = await page('limit=1');
    t.match(begin, { events: [{ id: String(first) }], gap: { after: '0', missing: 10 } });
    t.equal((await front.request('HEAD', '/v1/events')).status, 200);
  });

  await t.test('a log that is away ends a stream that needs it, and no other', async (t) => {
    const following = await open();
    events.failure = new Error('away');
    events.publish('unheard');
    const late = await open('?since=1');
    await until('the late one ends', () => late.ended);
    t.match(late.frames, [{ event: 'error', data: /"code":"UNAVAILABLE"/ }]);
    await until('it is in the log', () => front.errors.length === 2);
    events.failure = undefined;
    const last = events.publish('heard');
    events.notice();
    await until('both come', () => following.ids.length === 2);
    t.strictSame(following.ids, [last - 1, last]);
    t.equal(following.ended, false);
    following.close();
  });

  await until('all is freed', () => events.listeners === 0);
});

await t.test('a thousand subscribers cost one read', async (t) => {
  const events = new MemoryEvents();
  const front = await startFront({ events });
  t.teardown(() => front.close());
  const path = `${front.url}/v1/events?subjects=all.*`;
  const clients: SseClient[] = [];
  while (clients.length < 1000) {
    const some = Array.from({ length: 100 }, () => SseClient.open(path, ADMIN));
    clients.push(...(await Promise.all(some)));
  }
  await t.test('one more of the same identity is refused', async (t) => {
    const refused = await front.request<Problem>('GET', '/v1/events');
    t.match(refused, { status: 429, body: { detail: /streams.max_per_identity/ } });
    t.ok(refused.headers.get('retry-after'));
  });
  const reads = events.reads;
  const rounds = 30;
  for (let n = 0; n < rounds; n += 1) {
    events.publish(`all.${n}`, n);
    events.publish('none', n);
    await sleep(1);
  }
  await until('all come to all', () => clients.every(({ ids }) => ids.length === rounds), 60_000);
  t.ok(clients.every(({ ids }) => ids.every((id, index) => id === 1 + index * 2)));
  t.ok(events.reads - reads <= rounds * 4 + 2, `${events.reads - reads} reads`);
  for (const client of clients) client.close();
  await until('all are gone', () => events.listeners === 0);
  const again = await SseClient.open(path, ADMIN);
  t.equal(again.response.statusCode, 200, 'room was given back');
  again.close();
});

await t.test('a subscriber that never reads is cut, and the others go on', async (t) => {
  const events = new MemoryEvents();
  const front = await startFront({ events, streams: { stallMs: 300 } });
  t.teardown(() => front.close());
  const path = `${front.url}/v1/events`;
  const [deaf, late, well] = await Promise.all([
    SseClient.open(path, ADMIN, { paused: true }),
    SseClient.open(`${path}?since=0`, ADMIN, { paused: true }),
    SseClient.open(path, ADMIN),
  ]);
  const data = 'x'.repeat(100_000);
  const gone = () => front.logged.length === 2; // what it kept open is over
  let last = 0;
  while (!gone() && last < 2000) {
    last = events.publish('big', data);
    await sleep(5);
  }
  t.ok(gone(), `both were cut after ${last} events`);
  await until('the other has all', () => well.ids.at(-1) === last);
  t.strictSame(well.ids, range(1, last));
  t.strictSame([deaf.text, late.text], ['', '']);
  for (const client of [deaf, late, well]) client.close();
  await until('all is freed', () => events.listeners === 0);
});

await t.test('over HTTP/2 it is the same', async (t) => {
  const events = new MemoryEvents();
  const front = await startFront({ events, streams: { stallMs: 300 } });
  // A connection each: what one does not read takes from the window of all on it.
  const open = () => {
    const session = connect(front.url);
    t.teardown(() => session.destroy());
    return session.request({ ':path': '/v1/events', authorization: `Bearer ${ADMIN}` });
  };
  const [well, deaf] = [open(), open()];
  let text = '';
  well.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  const ids = () => [...text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));
  let reset: number | undefined;
  deaf.pause();
  deaf.on('error', () => undefined); // a reset is an end too
  deaf.on('close', () => (reset = deaf.rstCode));
  await Promise.all([once(well, 'response'), once(deaf, 'response')]);
  let last = 0;
  while (front.logged.length === 0 && last < 2000) {
    last = events.publish('big', 'x'.repeat(10_000));
    await sleep(5);
  }
  await until('one that does not read is cut', () => front.logged.length === 1);
  await until('the other has all', () => ids().at(-1) === last);
  t.strictSame(ids(), range(1, last));
  t.ok(last < 2000, `after ${last} events`);
  const ended = once(well, 'end');
  await front.close(5000);
  await ended;
  t.equal(well.rstCode, 0, 'at the end of the host it is ended, not cut');
  t.equal(events.listeners, 0);
  t.ok(reset === undefined || reset > 0);
});

await t.test('one that is too slow is told so, and can go on where it was', async (t) => {
  const events = new MemoryEvents();
  const feed = new EventFeed({ events, onError: (message) => t.fail(message) });
  const sent: string[] = [];
  let room = Promise.withResolvers<void>();
  let reason: NoaError | undefined;
  const subscription = new Subscription({ feed, subjects: ['*'], since: undefined });
  await subscription.open();
  await subscription.run({
    connection: {
      closed: false,
      send: (frame) => {
        sent.push(String(frame));
        return room.promise;
      },
      beat: () => undefined,
      end: (error) => (reason = error),
    },
    frames: { event: ({ id }) => String(id), gap: () => 'gap' },
  });
  for (let n = 0; n < 1000; n += 1) events.publish('a');
  await until('it waits', () => sent.length === 1 && events.reads > 4);
  t.equal(reason, undefined, 'what waits is bounded, and here it fits');
  const before = room;
  room = Promise.withResolvers<void>();
  before.resolve();
  await until('the next goes', () => sent.length === 2);
  for (let n = 0; n < 1100; n += 1) events.publish('a');
  await until('it is ended', () => reason !== undefined);
  t.match(reason, { code: 'RESOURCE_EXHAUSTED', message: /go on after 2$/ });
  t.strictSame(sent, ['1', '2']);
  await until('all is freed', () => events.listeners === 0);
  t.equal(feed.followers, 0);
});

await t.test('a stream ends with its credential and with the host', async (t) => {
  const events = new MemoryEvents();
  let holds = true;
  const authenticator = new Authenticator({
    credentials: [{ token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } }],
    now: Date.now,
  });
  const gateway = new Gateway({ authenticator, denied: () => undefined });
  const identify = gateway.identify.bind(gateway);
  gateway.identify = (arrival) => {
    if (!holds) throw new NoaError('UNAUTHENTICATED', 'the token is revoked');
    return identify(arrival);
  };
  const front = await startFront({ events, gateway, streams: { beatMs: 20 } });
  const path = `${front.url}/v1/events`;
  const revoked = await SseClient.open(path, ADMIN);
  holds = false;
  await until('it ends', () => revoked.ended);
  t.match(revoked.frames.at(-1), { event: 'error', data: /"code":"UNAUTHENTICATED"/ });
  holds = true;
  const last = await SseClient.open(path, ADMIN);
  const id = events.publish('a');
  await until('it follows', () => last.ids.length === 1);
  await front.close(10_000);
  await until('it ends', () => last.ended);
  t.strictSame(last.ids, [id]);
  t.equal(last.response.complete, true, 'not cut: a client comes again by itself');
  t.equal(events.listeners, 0);
});
