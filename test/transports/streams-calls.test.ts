/** Calls of exports that emit values before they answer: as JSON, as server-sent events, over WebSocket. */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';
import { EventSource } from 'eventsource';
import { type Json, NoaError } from '@noa/sdk/host';
import t from 'tap';
import type { DenialRecord } from '../../host/gateway/denials.ts';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import type { RuntimeCall } from '../../host/kernel/loader.ts';
import { ADMIN, manifest, type Problem, RawText, READER, startFront } from './front.ts';
import { MemoryEvents } from './memory-events.ts';
import { SseClient, until } from './sse.ts';
import { Client } from './websocket-client.ts';

t.setTimeout(120_000);

const stream = true;
const counter = manifest({
  name: 'counter',
  exports: {
    count: {
      input: { type: 'object', properties: { to: { type: 'integer' }, size: { type: 'integer' } } },
      output: { type: 'object', required: ['done'] },
      stream,
      idempotent: true,
    },
    pretty: { stream },
    fails: { stream },
    silent: { stream },
    relay: {},
    plain: {},
  },
  limits: { maxOutputBytes: 4096, concurrency: 64, timeoutMs: 60_000 },
  contributes: {
    routes: [{ method: 'GET', path: '/count', export: 'count' }],
  },
});

/** What the running calls have come to. */
const progress = { emitted: 0, running: 0, ended: [] as string[] };

const emit = (call: RuntimeCall, value: Json): Promise<unknown> =>
  call.invoke('stream', 'emit', { value }, call.signal);

async function count(input: Json, call: RuntimeCall): Promise<Json> {
  const { to = 3, size = 0 } = input as { to?: number; size?: number };
  progress.running += 1;
  try {
    for (let n = 1; n <= to; n += 1) {
      await emit(call, size === 0 ? n : 'x'.repeat(size));
      progress.emitted += 1;
      await turn(); // a plugin's values come from another thread
    }
    progress.ended.push('OK');
    return { done: true };
  } catch (error) {
    progress.ended.push((error as NoaError).code);
    throw error;
  } finally {
    progress.running -= 1;
  }
}

async function start(options: Parameters<typeof startFront>[0] = {}) {
  const front = await startFront({ events: new MemoryEvents(), ...options });
  await front.install(counter, {
    count,
    pretty: async (_input, call) => {
      await emit(call, { text: 'a\n\nevent: error\ndata: b' });
      return new RawText('{\n\n  "event": "forged"\n\n}');
    },
    fails: async (_input, call) => {
      await emit(call, 1);
      throw new NoaError('CONFLICT', 'half-way');
    },
    silent: () => ({ quiet: true }),
    relay: (_input, call) => emit(call, 1),
    plain: () => 'plain',
  });
  return front;
}

const path = (name: string) => `/v1/plugins/counter/exports/${name}`;

await t.test('calls that take no stream get it as one answer', async (t) => {
  const front = await start();
  t.teardown(() => front.close());
  t.match(await front.post(path('count'), { to: 3 }), {
    status: 200,
    body: { items: [1, 2, 3], result: { done: true } },
  });
  t.match(await front.get('/plugins/counter/count?to=2'), {
    body: { items: [1, 2], result: { done: true } },
  });
  t.strictSame((await front.post(path('silent'))).body, { items: [], result: { quiet: true } });
  t.match(await front.post<Problem>(path('count'), { to: 5, size: 1000 }), {
    status: 429,
    body: { code: 'RESOURCE_EXHAUSTED', detail: /limits\.maxOutputBytes.*call it as a stream/ },
  });
  t.match(await front.post<Problem>(path('relay')), {
    status: 400,
    body: { code: 'INVALID_ARGUMENT', detail: /"stream": true/ },
  });
  t.match(await front.post<Problem>(path('fails')), { status: 409, body: { detail: 'half-way' } });
});

await t.test('a call as server-sent events', async (t) => {
  const front = await start({ streams: { beatMs: 30 } });
  t.teardown(() => front.close());
  const call = (name: string, body: Json = null) =>
    SseClient.open(front.url + path(name), ADMIN, { body: JSON.stringify(body) });

  await t.test('each value is a frame, then comes the result', async (t) => {
    const client = await call('count', { to: 3 });
    await until('it ends', () => client.ended);
    t.match(client.response.headers, { 'content-type': /^text\/event-stream/, traceparent: /./ });
    t.strictSame(client.frames, [
      { id: '1', event: undefined, data: '1' },
      { id: '2', event: undefined, data: '2' },
      { id: '3', event: undefined, data: '3' },
      { id: undefined, event: 'result', data: '{"done":true}' },
    ]);
    const forged = await call('pretty');
    await until('it ends', () => forged.ended);
    t.equal(forged.frames.length, 2);
    t.match(forged.frames[1], { event: 'result', data: '{"event":"forged"}' });
    const silent = await call('silent');
    await until('it ends', () => silent.ended);
    t.match(silent.frames, [{ event: 'result', data: '{"quiet":true}' }]);
  });

  await t.test(
    'a failure has its status before the first value, and is a frame after it',
    async (t) => {
      const wrong = await call('count', { to: 'x' });
      t.equal(wrong.response.statusCode, 400);
      t.match(wrong.response.headers['content-type'], /problem\+json/);
      const late = await call('fails');
      await until('it ends', () => late.ended);
      t.equal(late.response.statusCode, 200);
      t.match(late.frames, [
        { data: '1' },
        { event: 'error', data: /"status":409.*"detail":"half-way","code":"CONFLICT"/ },
      ]);
      const headers = { accept: 'text/event-stream' };
      t.match(await front.request('POST', path('plain'), { headers }), {
        status: 200,
        text: '"plain"',
      });
      t.equal((await front.request('POST', path('count'), { headers, token: READER })).status, 403);
    },
  );

  await t.test('a client that comes again by itself is stopped', async (t) => {
    const url = `${front.url}/plugins/counter/count?to=2`;
    const source = new EventSource(url, {
      fetch: (address, init) =>
        fetch(address, {
          ...init,
          headers: { ...init.headers, authorization: `Bearer ${ADMIN}` },
        }),
    });
    const values: unknown[] = [];
    source.addEventListener('message', ({ data }) => values.push(data));
    await until('it is closed', () => source.readyState === source.CLOSED);
    t.strictSame(values, ['1', '2'], 'and the call is not repeated');
  });

  await t.test(
    'an export emits no faster than its caller takes, and ends when that leaves',
    async (t) => {
      progress.emitted = 0;
      progress.ended.length = 0;
      const client = await SseClient.open(`${front.url}${path('count')}`, ADMIN, {
        body: JSON.stringify({ to: 100_000, size: 1000 }),
        paused: true,
      });
      let before = 0;
      let still = 0;
      await until('it stands still', () => {
        still = progress.emitted === before && before > 0 ? still + 1 : 0;
        before = progress.emitted;
        return still === 20;
      });
      const { emitted } = progress;
      t.ok(emitted < 20_000, `after ${emitted} values`);
      client.close();
      await until('the call ends', () => progress.running === 0);
      t.strictSame(progress.ended, ['CANCELLED']);
      t.ok(progress.emitted < emitted + 100);
    },
  );
});

await t.test('calls over a WebSocket', async (t) => {
  const denied: DenialRecord[] = [];
  const gateway = new Gateway({
    authenticator: new Authenticator({
      credentials: [
        { token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } },
        { token: READER, principal: { subject: 'reader', scopes: [] } },
      ],
      now: Date.now,
    }),
    denied: (denial) => denied.push(denial),
  });
  const front = await start({ gateway });
  t.teardown(() => front.close());
  const open = () => Client.open(`${front.url}/ws/stream`, ADMIN);
  const request = (id: string, name: string, input: Json = null, more: object = {}) => ({
    id,
    plugin: 'counter',
    export: name,
    input,
    ...more,
  });
  const over = (client: Client, id: string) =>
    client.frames.some(
      (frame) => frame['id'] === id && ['result', 'error'].includes(String(frame['type'])),
    );

  await t.test('several run on one connection', async (t) => {
    const client = await open();
    client.send(request('a', 'count', { to: 200 }));
    client.send({ type: 'request', ...request('b', 'count', { to: 2 }) });
    client.send(request('c', 'plain'));
    client.send(request('d', 'fails'));
    client.send(request('e', 'none'));
    client.send({ id: 'f', plugin: 'nobody', export: 'x' });
    client.send(request('g', 'count', { to: 'x' }));
    await until('all end', () => 'abcdefg'.split('').every((id) => over(client, id)));
    const of = (id: string) => client.frames.filter((frame) => frame['id'] === id);
    t.strictSame(
      of('a')
        .slice(0, -1)
        .map(({ value }) => value),
      Array.from({ length: 200 }, (_, index) => index + 1),
    );
    t.strictSame(of('a').at(-1), { id: 'a', type: 'result', value: { done: true } });
    t.match(of('b'), [{ type: 'chunk', value: 1 }, { value: 2 }, { type: 'result' }]);
    t.match(of('c'), [{ type: 'result', value: 'plain' }]);
    t.match(of('d'), [{ type: 'chunk' }, { type: 'error', code: 'CONFLICT' }]);
    t.match(of('e'), [{ type: 'error', code: 'NOT_FOUND' }]);
    t.match(of('f'), [{ type: 'error', code: 'NOT_FOUND' }]);
    t.match(of('g'), [{ type: 'error', code: 'INVALID_ARGUMENT', message: /to/ }]);
    client.socket.close();
  });

  await t.test('credit, cancellation and bounds', async (t) => {
    const client = await open();
    progress.ended.length = 0;
    client.send(request('a', 'count', { to: 100 }, { credit: 0 }));
    client.send(request('b', 'count', { to: 3 }));
    await until('the other is over', () => over(client, 'b'));
    t.equal(client.frames.filter(({ id }) => id === 'a').length, 0, 'one without credit waits');
    client.send({ type: 'credit', id: 'a', count: 2 });
    await until('two come', () => client.frames.filter(({ id }) => id === 'a').length === 2);
    client.send(request('a', 'plain'));
    await until('an id is one call', () => client.of('error').length === 1);
    t.match(client.of('error'), [{ id: 'a', code: 'CONFLICT' }]);
    client.send({ type: 'cancel', id: 'a' });
    await until('it is over', () => client.of('error').length === 2);
    t.match(client.of('error')[1], { id: 'a', code: 'CANCELLED' });
    t.equal(client.frames.filter(({ type, id }) => id === 'a' && type === 'chunk').length, 2);
    t.strictSame(progress.ended, ['OK', 'CANCELLED']);
    for (let n = 0; n < 17; n += 1) {
      client.send(request(`n${n}`, 'count', { to: 1 }, { credit: 0 }));
    }
    await until('one is too many', () => client.of('error').length === 3);
    t.match(client.of('error')[2], { id: 'n16', code: 'RESOURCE_EXHAUSTED' });
    client.send({ type: 'cancel', id: 'nobody' });
    client.send({ type: 'credit', id: 'nobody', count: 1 });
    const wrong = [{ type: 'credit', id: 'n0', count: 0 }, { id: 'a b' }, { plugin: 'counter' }];
    for (const frame of [...wrong, request('x', '../y'), request('x', 'plain', 1, { more: 1 })]) {
      client.send(frame);
    }
    await until('each is refused', () => client.of('error').length === 8);
    t.equal(progress.running, 16);
    client.socket.terminate();
    await until('its calls are cancelled', () => progress.running === 0);
    t.strictSame(new Set(progress.ended.slice(2)), new Set(['CANCELLED']));
  });

  await t.test('one that does not read holds its calls up, and takes them with it', async (t) => {
    const client = await open();
    client.socket.pause();
    progress.emitted = 0;
    client.send(request('a', 'count', { to: 1_000_000, size: 1000 }));
    let before = 0;
    let still = 0;
    await until('it stands still', () => {
      still = progress.emitted === before && before > 0 ? still + 1 : 0;
      before = progress.emitted;
      return still === 20;
    });
    t.ok(before < 20_000, `after ${before} values`);
    client.socket.terminate();
    await until('it is over', () => progress.running === 0);
    t.equal(progress.ended.at(-1), 'CANCELLED');
  });

  await t.test('each call obeys the policy, as it does over HTTP', async (t) => {
    const client = await open();
    const levels = { l1: 1, l2: 1, l3: 1, l4: 1, l5: 1 };
    gateway.reload({
      levels,
      default_policy: 'allow',
      policies: [
        {
          name: 'no-calls',
          effect: 'deny',
          operations: ['POST /v1/plugins/:name/exports/:export'],
          when: { transports: ['websocket'] },
        },
      ],
    });
    client.send(request('a', 'plain'));
    await until('it is refused', () => over(client, 'a'));
    t.match(client.of('error'), [{ id: 'a', code: 'PERMISSION_DENIED' }]);
    t.equal((await front.post(path('plain'))).status, 200);
    t.match(denied.at(-1), { kind: 'policy', path: '/v1/plugins/counter/exports/plain' });
    client.socket.close();
    gateway.reload({ levels, default_policy: 'allow' });
  });

  await t.test('it asks for the right to call', async (t) => {
    const client = new Client(`${front.url}/ws/stream`, [], { authorization: `Bearer ${READER}` });
    const [, response] = (await once(client.socket, 'unexpected-response')) as [
      unknown,
      IncomingMessage,
    ];
    t.equal(response.statusCode, 403);
    client.socket.terminate();
  });
});
