/** gRPC: streams, the event log, deadlines, cancellation, bounds, and the end of the host; by real clients. */
import { connect, constants } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ServiceError, status } from '@grpc/grpc-js';
import type { Json } from '@noa/sdk/host';
import t from 'tap';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import type { Principal } from '../../host/kernel/chain.ts';
import { ADMIN, type Exports, manifest, READER } from './front.ts';
import { headers, startGrpc } from './grpc-front.ts';

const INVOKE = 'noa.api.v1.InferenceService/Invoke';
const STREAM = 'noa.api.v1.InferenceService/Stream';
const WATCH = 'noa.api.v1.OrchestrationService/Watch';
const SUBSCRIBE = 'noa.api.v1.EventService/Subscribe';
const UI_EVENTS = 'noa.ui.UiSchemaService/StreamEvents';

const streaming = manifest({
  name: 'streaming',
  limits: { timeoutMs: 60_000 },
  exports: { invoke: {}, stream: { stream: true }, watch: {} },
  contributes: {
    grpc: [
      { method: INVOKE, export: 'invoke' },
      { method: STREAM, export: 'stream' },
      { method: WATCH, export: 'watch' },
    ],
  },
});

type Call = Parameters<Exports[string]>[1];
const emit = (call: Call, value: Json): Promise<unknown> =>
  call.invoke('stream', 'emit', { value }, call.signal);

t.test('a stream is what the export emits, then what it answers', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(streaming, {
    stream: async (_input, call) => {
      for (const text of ['a', 'b', 'c']) await emit(call, { text });
      return { finish_reason: 'stop' };
    },
    watch: () => ({ workflow_id: 'w', state: 'done' }),
  });
  const stream = front.stream(STREAM, { prompt: 'p' }, headers(ADMIN, { 'x-request-id': 'r-1' }));
  t.match(await stream.ended, { code: status.OK });
  t.match(stream.all, [
    { text: 'a', request_id: 'r-1' },
    { text: 'b', request_id: 'r-1' },
    { text: 'c' },
    { text: '', finish_reason: 'stop' },
  ]);
  t.strictSame(stream.metadata?.get('x-request-id'), ['r-1']);

  t.comment('an export that does not stream answers with one message');
  const once = front.stream(WATCH, { task: 'w' });
  t.match(await once.ended, { code: status.OK });
  t.match(once.all, [{ workflow_id: 'w', state: 'done' }]);
  t.match(
    front.observed.map(({ method, code }) => [method, code]),
    [
      ['Stream', 'OK'],
      ['Watch', 'OK'],
    ],
  );
});

t.test('a stream that fails in the middle says so after what was sent', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(streaming, {
    stream: async (_input, call) => {
      await emit(call, { text: 'first' });
      await emit(call, { nonsense: true });
    },
  });
  const stream = front.stream(STREAM, {});
  const ended = await stream.ended;
  t.match(ended, { code: status.INTERNAL, details: /\/nonsense is no member/ });
  t.strictSame(ended.metadata.get('noa-code'), ['PLUGIN_OUTPUT_INVALID']);
  t.match(stream.all, [{ text: 'first' }]);
});

t.test('a caller that leaves ends the call of the plugin', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  const begun = Promise.withResolvers<AbortSignal>();
  const wait: Exports[string] = (_input, { signal }) => {
    begun.resolve(signal);
    return new Promise(() => undefined);
  };
  await front.install(streaming, { invoke: wait });
  let cancel = (): void => undefined;
  const call = front.call(INVOKE, {}, headers(), { cancel: (way) => (cancel = way) });
  const signal = await begun.promise;
  t.notOk(signal.aborted);
  const aborted = new Promise((done) => signal.addEventListener('abort', done));
  cancel();
  await t.rejects(call, { code: status.CANCELLED });
  await aborted;
  while (front.observed.length === 0) await sleep(5);
  t.match(front.observed, [{ code: 'CANCELLED' }]);
  t.match(front.logged, [{ status: 499, plugin: 'streaming' }]);
});

t.test(
  'deadlines: what is left of one reaches the plugin, and what is over is refused',
  async (t) => {
    const front = await startGrpc();
    t.teardown(() => front.close());
    let called = 0;
    let deadline = 0;
    await front.install(streaming, {
      invoke: (input, call) => {
        called += 1;
        deadline = call.deadline;
        const { prompt } = input as { prompt: string };
        return prompt === 'wait' ? new Promise(() => undefined) : {};
      },
    });
    await front.call(INVOKE, {}, headers(), { deadline: Date.now() + 20_000 });
    t.ok(deadline > Date.now() + 10_000 && deadline <= Date.now() + 20_000);
    await front.call(INVOKE, {});
    t.ok(deadline > Date.now() + 30_000, 'else the own time-out of the plugin holds');

    const wait = Buffer.from('\0\0\0\0\x06\n\x04wait', 'latin1');
    t.match(await raw(front.port, { 'grpc-timeout': '200m' }, wait), {
      'grpc-status': '4',
      'noa-code': 'DEADLINE_EXCEEDED',
    });
    t.match(front.observed[2], { code: 'DEADLINE_EXCEEDED' });

    t.comment('the forms that clients do not write by themselves');
    const before = called;
    for (const timeout of ['0m', '0n', '1n']) {
      t.match(await raw(front.port, { 'grpc-timeout': timeout }), { 'grpc-status': '4' });
    }
    t.equal(called, before);
    t.comment('of years: none');
    for (const timeout of ['99999999H', '99999999M', '3000000S', '86400000m']) {
      const trailers = await raw(front.port, { 'grpc-timeout': timeout });
      t.match(trailers, { 'grpc-status': '0' }, timeout);
    }
    t.match(await raw(front.port, { 'grpc-timeout': 'soon' }), { 'grpc-status': '13' });
  },
);

/** A call with headers of its own; answers the trailers. */
async function raw(
  port: number,
  more: Record<string, string>,
  body: Buffer = Buffer.alloc(5),
): Promise<Record<string, unknown>> {
  const session = connect(`http://127.0.0.1:${port}`);
  const stream = session.request({
    [constants.HTTP2_HEADER_METHOD]: 'POST',
    [constants.HTTP2_HEADER_PATH]: `/${INVOKE}`,
    'content-type': 'application/grpc',
    te: 'trailers',
    authorization: `Bearer ${ADMIN}`,
    ...more,
  });
  stream.on('error', () => undefined);
  const trailers = new Promise<Record<string, unknown>>((done) => {
    stream.on('response', (found) => found['grpc-status'] !== undefined && done({ ...found }));
    stream.on('trailers', (found: Record<string, unknown>) => done(found));
    stream.on('close', () => done({}));
  });
  stream.end(body);
  stream.resume();
  const found = await trailers;
  session.destroy();
  return found;
}

t.test('a method that there is not is UNIMPLEMENTED, and noted without its name', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  t.strictSame(front.observed, [], 'the trial of the port is nobody');
  const path = '/noa.api.v1.InferenceService/Guess';
  t.match(await raw(front.port, { ':path': path }), { 'grpc-status': '12' });
  t.match(front.observed, [{ service: 'unknown', method: 'unknown', code: 'UNIMPLEMENTED' }]);
  t.match(front.logged, [{ route: 'unknown', path, remoteAddress: '127.0.0.1' }]);
});

t.test('messages over the limit, and what is no message', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  await front.install(streaming, { invoke: () => ({ text: 'x'.repeat(100_000) }) });
  const failure = async (prompt: string): Promise<ServiceError> =>
    (await front.call(INVOKE, { prompt }).catch((caught: unknown) => caught)) as ServiceError;
  for (const prompt of ['x'.repeat(65 << 10), 'the answer is too long']) {
    const error = await failure(prompt);
    t.equal(error.code, status.RESOURCE_EXHAUSTED);
    t.strictSame(error.metadata.get('noa-code'), ['PAYLOAD_TOO_LARGE']);
  }
  t.match(
    front.observed.map(({ code }) => code),
    ['RESOURCE_EXHAUSTED', 'RESOURCE_EXHAUSTED'],
  );
  const broken = Buffer.from([0, 0, 0, 0, 1, 0x0f]); // a tag with a wire type that there is not
  t.match(await raw(front.port, {}, broken), {
    'grpc-status': '3',
    'grpc-message': /no%20noa.api.v1.InvokeRequest/,
  });
});

t.test('the event log: from now on, from an id, by subject', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  const { events } = front;
  for (let i = 1; i <= 250; i += 1) events.publish(i % 2 === 0 ? 'even' : 'odd.one', { i });

  const all = front.stream(SUBSCRIBE, { since: '0' });
  await all.count(250);
  t.match(all.all[0], {
    event: {
      id: '1',
      specversion: '1.0',
      source: '/plugins/test',
      subject: 'odd.one',
      datacontenttype: 'application/json',
      data_json: '{"i":1}',
    },
  });
  const ids = all.all.map(({ event }) => Number((event as { id: string }).id));
  t.strictSame(
    ids,
    [...ids.keys()].map((i) => i + 1),
  );

  const odd = front.stream(SUBSCRIBE, { since: '240', subjects: ['odd.*'] });
  await odd.count(5);
  const fresh = front.stream(SUBSCRIBE, { subjects: ['even'] });
  await fresh.begun;
  events.publish('even', 'new');
  events.publish('odd.two', null);
  await all.count(252);
  t.match(await fresh.count(1), [{ event: { id: '251', data_json: '"new"' } }]);
  t.match((await odd.count(6)).at(-1), { event: { id: '252', data_json: 'null' } });

  for (const stream of [all, odd, fresh]) stream.call.cancel();
  while (events.listeners > 0) await sleep(5);
  while (front.observed.length < 3) await sleep(5);
  t.ok(front.observed.every(({ code }) => code === 'CANCELLED'));

  for (const wrong of [
    { since: 'x' },
    { since: '999' },
    { subjects: ['a b'] },
    { subjects: ['*a'] },
  ]) {
    t.match(await front.stream(SUBSCRIBE, wrong).ended, { code: status.INVALID_ARGUMENT });
  }
});

t.test('a reader that is slow for a while, and one that was away too long', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  const { events } = front;
  const slow = front.stream(SUBSCRIBE, {});
  await slow.begun;
  slow.call.pause();
  for (let i = 0; i < 5000; i += 1) {
    events.publish('many', 'x'.repeat(2000));
    if (i % 100 === 0) await sleep(1); // the log is read meanwhile
  }
  slow.call.resume();
  await slow.count(5000);
  const ids = slow.all.map(({ event }) => Number((event as { id: string }).id));
  t.strictSame(
    ids,
    [...ids.keys()].map((i) => i + 1),
  );

  events.drop(4990);
  const late = front.stream(SUBSCRIBE, { since: '10' });
  t.match(await late.count(11), [{ gap: { after: '10', missing: 4980 }, event: null }]);
  t.match(late.all[1], { event: { id: '4991' }, gap: null });
  const ui = front.stream(UI_EVENTS, { since: '10' });
  t.match(await ui.count(1), [{ event_type: 'gap', payload_json: /"missing":4980/ }]);
});

t.test(
  'the events of the user interface: by workflow and type, and all notifications',
  async (t) => {
    const front = await startGrpc();
    t.teardown(() => front.close());
    const { events } = front;
    const add = (subject: string, type: string, data: Json) =>
      events.publish(subject, data, { type });
    add('workflow/w-1', 'workflow/state', { state: 'running' });
    add('workflow/w-2', 'workflow/state', { state: 'done' });
    add('workflow/w-1', 'internal', null);
    add('orders.created', 'workflow/state', null);
    add('notification', 'notification', 'hello');
    add('workflow/w-1', 'workflow/stage', { stage: 's' });
    const one = front.stream(UI_EVENTS, { workflow_id: 'w-1', since: '0' });
    t.match(await one.count(3), [
      {
        event_type: 'workflow/state',
        workflow_id: 'w-1',
        payload_json: '{"state":"running"}',
        id: '1',
        timestamp: /^\d{4}-/,
      },
      { event_type: 'notification', workflow_id: '', payload_json: '"hello"', id: '5' },
      { event_type: 'workflow/stage', workflow_id: 'w-1', id: '6' },
    ]);
    const states = front.stream(UI_EVENTS, { event_types: ['workflow/state'], since: '0' });
    t.match(await states.count(2), [{ id: '1' }, { id: '2', workflow_id: 'w-2' }]);
    for (const wrong of [
      { event_types: ['other'] },
      { workflow_id: 'w*' },
      { workflow_id: '', since: '-1' },
    ]) {
      t.match(await front.stream(UI_EVENTS, wrong).ended, { code: status.INVALID_ARGUMENT });
    }
  },
);

t.test('a reader that takes nothing is cut off, and holds no more than a bound', async (t) => {
  const front = await startGrpc({ stallMs: 300 });
  t.teardown(() => front.close());
  const { events } = front;
  for (let i = 0; i < 400; i += 1) events.publish('big', 'x'.repeat(16_000), { silent: true });
  const stream = front.stream(SUBSCRIBE, { since: '0' });
  stream.call.pause();
  while (front.observed.length === 0) await sleep(20);
  t.match(front.observed, [{ method: 'Subscribe', code: 'RESOURCE_EXHAUSTED' }]);
  t.equal(events.listeners, 0);
  stream.call.resume();
  t.match(await stream.ended, { code: status.RESOURCE_EXHAUSTED });
  t.ok(stream.all.length < 300, `${stream.all.length} came`);
});

t.test('streams are bounded for each identity, and end with the right to them', async (t) => {
  let isRevoked = false;
  const known = new Authenticator({
    credentials: [
      { token: READER, principal: { subject: 'follower', scopes: ['events:read'] } },
      { token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } },
    ],
    now: Date.now,
  });
  const gateway = new Gateway({ authenticator: known, denied: () => undefined });
  const identify = gateway.identify.bind(gateway);
  gateway.identify = (arrival) => {
    const principal = identify(arrival) as Principal;
    return isRevoked && principal.subject === 'follower' ? { ...principal, scopes: [] } : principal;
  };
  const streams = { max_connections: 4, max_per_identity: 2, heartbeat_ms: 50 };
  const front = await startGrpc({ gateway, streams });
  t.teardown(() => front.close());
  const open = (token: string) => front.stream(SUBSCRIBE, {}, headers(token));
  const followers = [open(READER), open(READER)];
  await Promise.all(followers.map(({ begun }) => begun));
  t.match(await open(READER).ended, {
    code: status.RESOURCE_EXHAUSTED,
    details: /follower has 2 .*streams.max_per_identity/,
  });
  const admin = open(ADMIN);
  await admin.begun;
  isRevoked = true;
  for (const { ended } of followers) {
    t.match(await ended, { code: status.PERMISSION_DENIED, details: /events:read/ });
  }
  isRevoked = false;
  await open(READER).begun;
  front.events.publish('a');
  await admin.count(1);
});

t.test('a host that stops ends its streams of events and lets calls finish', async (t) => {
  const front = await startGrpc();
  t.teardown(() => front.close());
  const begun = Promise.withResolvers<() => void>();
  await front.install(streaming, {
    invoke: () => new Promise((resolve) => begun.resolve(() => resolve({ text: 'finished' }))),
  });
  const stream = front.stream(SUBSCRIBE, { since: '0' });
  front.events.publish('a');
  await stream.count(1);
  const call = front.call(INVOKE, {});
  const finish = await begun.promise;
  const down = front.listener.close(20_000);
  t.match(await stream.ended, { code: status.UNAVAILABLE, details: /the host stops/ });
  finish();
  t.match(await call, { message: { text: 'finished' } });
  await down;
});
