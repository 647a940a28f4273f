/** HTTP/2 on the one port: the same answers as over HTTP/1.1, gRPC beside them, and callers that misuse frames. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import {
  connect as connectHttp2,
  type ClientHttp2Session,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
} from 'node:http2';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import {
  Client,
  credentials,
  type sendUnaryData,
  Server,
  type ServerUnaryCall,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import t from 'tap';
import { echo, functions, waiting } from './echo.ts';
import {
  ACK,
  CODE,
  END_HEADERS,
  END_STREAM,
  frame,
  PREFACE,
  ping,
  RawHttp2,
  request,
  reset,
  settings,
  TYPE,
} from './frames.ts';
import { ADMIN, manifest, startFront } from './front.ts';

t.setTimeout(120_000);

const run = promisify(execFile);
const AUTH = { authorization: `Bearer ${ADMIN}` };
const JSON_BODY = { 'content-type': 'application/json' };

interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** With which the stream ended. */
  readonly code: number;
}

function send(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
  body?: string,
): Promise<Reply> {
  return new Promise((resolve) => {
    const stream = session.request({ ...AUTH, ...headers }, { endStream: body === undefined });
    let answer: IncomingHttpHeaders = {};
    let text = '';
    stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    stream.on('response', (given) => (answer = given)).on('error', () => undefined);
    stream.on('close', () => {
      const code = stream.rstCode;
      resolve({ status: Number(answer[':status'] ?? 0), headers: answer, text, code });
    });
    if (body !== undefined) stream.end(body);
  });
}

async function open(port: number): Promise<ClientHttp2Session> {
  const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => undefined);
  await once(session, 'connect');
  return session;
}

async function until(what: string, test: () => boolean): Promise<void> {
  for (const end = Date.now() + 20_000; !test(); await sleep(10)) {
    if (Date.now() > end) throw new Error(`it did not come to pass: ${what}`);
  }
}

/** A gRPC service without a schema: its messages are bytes. */
const say = {
  serverOptions: {},
  addTo: (server: Server): void => {
    const answer = (
      { request: given }: ServerUnaryCall<Buffer, Buffer>,
      done: sendUnaryData<Buffer>,
    ) => done(null, Buffer.from(`said ${String(given)}`));
    server.register('/test.Echo/Say', answer, asIs, asIs, 'unary');
  },
  enter: () => undefined,
  drain: () => undefined,
};

function asIs(bytes: Buffer): Buffer {
  return bytes;
}

function callSay(client: Client, words: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const done = (error: ServiceError | null, value?: Buffer) =>
      error === null ? resolve(String(value)) : reject(error);
    client.makeUnaryRequest('/test.Echo/Say', asIs, asIs, Buffer.from(words), done);
  });
}

/** Node's own, of headers that HTTP/2 does not have. */
const warnings: Error[] = [];
process.on('warning', (warning) => warnings.push(warning));

await t.test('every route answers as it does over HTTP/1.1', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const session = await open(front.port);
  t.teardown(() => session.destroy());
  const json = (value: unknown) => ({ headers: JSON_BODY, body: JSON.stringify(value) });
  const asked: [method: string, path: string, init?: { headers?: object; body?: string }][] = [
    ['GET', '/health'],
    ['GET', '/metrics'],
    ['GET', '/openapi.json'],
    ['GET', '/v1/plugins'],
    ['GET', '/v1/plugins/none'],
    ['GET', '/v1/plugins', { headers: { authorization: 'Bearer wrong' } }],
    ['HEAD', '/v1/plugins'],
    ['DELETE', '/v1/plugins'],
    ['GET', '/nothing/here'],
    ['GET', '/%zz'],
    ['POST', '/plugins/echo/notes', json({ text: 'a — 世界' })],
    ['POST', '/plugins/echo/notes', json({ text: '' })],
    ['POST', '/plugins/echo/notes', json('x'.repeat(200_000))],
    ['POST', '/plugins/echo/notes', { headers: JSON_BODY, body: '{"half":' }],
    ['POST', '/plugins/echo/notes', { headers: { 'content-type': 'text/plain' }, body: 'x' }],
    ['POST', '/plugins/echo/notes', { headers: { ...JSON_BODY, 'content-encoding': 'gzip' } }],
    ['GET', '/plugins/echo/notes/7?limit=2&tags=a&tags=b'],
    ['PUT', '/plugins/echo/notes/7', json({ done: true })],
    ['DELETE', '/plugins/echo/notes/7'],
    ['PATCH', '/plugins/echo/notes/7', json({})],
    ['GET', '/plugins/echo/fail'],
    ['GET', '/plugins/echo/trap'],
    ['OPTIONS', '/plugins/echo/notes'],
  ];
  // What differs from one request to the next, or belongs to one protocol alone.
  const own = /^(:status|date|connection|keep-alive|transfer-encoding|traceparent|x-request-id)$/;
  const plain = (headers: Iterable<[string, unknown]>) =>
    Object.fromEntries([...headers].filter(([name]) => !own.test(name)));
  const steady = (body: string) =>
    body.replaceAll(/"(traceId|timestamp|createdAt|since)":"[^"]*"/g, '');
  for (const [method, path, { headers = {}, body } = {}] of asked) {
    const init = { method, headers: { ...AUTH, ...headers }, body: body ?? null };
    const first = await fetch(front.url + path, init);
    const expected = steady(await first.text());
    const reply = await send(session, { ':method': method, ':path': path, ...headers }, body);
    const name = `${method} ${path} ${body?.slice(0, 20) ?? ''}`;
    t.equal(reply.status, first.status, name);
    t.equal(steady(reply.text), expected, name);
    t.strictSame(plain(Object.entries(reply.headers)), plain(first.headers), name);
    t.equal(reply.code, 0, name);
    t.match(reply.headers, { 'x-request-id': /./, traceparent: /^00-/ }, name);
    t.notOk('connection' in reply.headers, name);
  }
  const expecting = { ':method': 'POST', ':path': '/plugins/echo/any', expect: '100-continue' };
  t.match(await send(session, { ...expecting, ...JSON_BODY }, '{"a":1}'), { text: '{"a":1}' });
  t.match(front.logged.at(-1), { remoteAddress: '127.0.0.1', subject: 'root', status: 200 });
  t.strictSame(warnings, []);

  const events = session.request({ ...AUTH, ':path': '/v1/events', accept: 'text/event-stream' });
  let told = '';
  events.setEncoding('utf8').on('data', (chunk: string) => (told += chunk));
  events.on('error', () => undefined);
  await until('the stream of events begins', () => told.startsWith('retry:'));
  events.close(CODE.cancel);
  const isEvents = ({ route }: { readonly route: string }) => route === '/v1/events';
  await until('its end is noted', () => front.logged.some(isEvents));
  t.strictSame(warnings, []);
});

await t.test('what is no sound request is refused, and no second one hides in it', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const post = { ...AUTH, ...JSON_BODY, ':method': 'POST', ':path': '/plugins/echo/any' };
  const outcome = async (headers: Record<string, string>, body?: Buffer): Promise<unknown> => {
    const raw = new RawHttp2(front.port);
    raw.send(request(1, headers, body && END_HEADERS), body ?? Buffer.alloc(0));
    const over = () => raw.resetOf(1) !== undefined || raw.of(TYPE.data, 1).length > 0;
    await raw.until(over);
    const answer = String(raw.of(TYPE.data, 1)[0]?.payload ?? '');
    raw.destroy();
    return answer === '' ? (raw.resetOf(1) ?? 'closed') : answer;
  };
  const data = (text: string) => frame(TYPE.data, END_STREAM, 1, Buffer.from(text));
  t.equal(await outcome({ ...post, 'content-length': '7' }, data('{"a":1}')), '{"a":1}');
  t.equal(await outcome({ ...post, 'content-length': '9' }, data('{"a":1}')), CODE.protocol);
  t.equal(await outcome({ ...post, 'content-length': '2' }, data('{"a":1}')), 'closed');
  for (const wrong of [
    { 'content-length': '0x1' },
    { 'transfer-encoding': 'chunked' },
    { connection: 'close' },
    { upgrade: 'websocket' },
    { Upper: 'x' },
    { ':status': '200' },
    { ':path': '' },
    { ':path': 'v1/plugins' },
    { ':authority': '' },
    { ':method': 'CONNECT' },
  ]) {
    t.equal(await outcome(wrong), CODE.protocol, JSON.stringify(wrong));
  }
  t.match(await outcome({ host: 'else' }), /"status":400.*:authority/);
  t.match(await outcome({ host: 'x' }), /"status":"ok"/);
  t.match(await outcome({ ...AUTH, 'x-request-id': 'a\r\nb', ':path': '/none' }), /"status":404/);
  t.match(
    front.logged.at(-1),
    { requestId: /^[0-9a-f]{16}$/ },
    'a field with a line end is passed over',
  );
  const big = await outcome({ big: 'x'.repeat(10_000), more: 'x'.repeat(10_000) });
  t.ok(big === CODE.calm || big === 'closed', `headers over the limit: ${String(big)}`);
});

await t.test('gRPC and REST share a connection, a limit and an end', async (t) => {
  const front = await startFront({ grpc: say, limits: { maxConnections: 3 } });
  const session = await open(front.port);
  const client = new Client(`127.0.0.1:${front.port}`, credentials.createInsecure());
  t.equal(await callSay(client, 'hello'), 'said hello');
  t.match(await send(session, { ':path': '/health' }), { status: 200 });
  const grpc = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' };
  t.match(await send(session, { ...grpc, ':path': '/test.Echo/Unknown' }, ''), {
    headers: { 'grpc-status': String(status.UNIMPLEMENTED) },
  });
  const web = { ':method': 'POST', 'content-type': 'application/grpc-web', ':path': '/x' };
  t.match(await send(session, web, ''), { status: 404 });
  t.equal(session.remoteSettings.maxConcurrentStreams, 256);

  const third = connect(front.port, '127.0.0.1').on('error', () => undefined);
  await once(third, 'connect');
  await sleep(20);
  t.equal(await front.raw('GET /health HTTP/1.1\r\nHost: x\r\n\r\n'), '', 'the fourth is dropped');
  third.destroy();

  const over = once(session, 'close');
  await front.close(5000);
  await over;
  t.match(await callSay(client, 'late').catch((error: unknown) => error), {
    code: status.UNAVAILABLE,
  });
  client.close();
});

await t.test(
  'without a way into the gRPC library, calls are refused and all else goes on',
  async (t) => {
    // As if another version of it had no such method.
    const own = Object.getOwnPropertyDescriptor(Server.prototype, '_streamHandler');
    t.ok(own, 'the pinned version has it');
    Object.defineProperty(Server.prototype, '_streamHandler', { ...own, value: undefined });
    const front = await startFront({ grpc: say }).finally(() => {
      Object.defineProperty(Server.prototype, '_streamHandler', { ...own });
    });
    t.teardown(() => front.close());
    t.match(front.errors, [{ message: 'gRPC calls are refused, all else is served' }]);
    const client = new Client(`127.0.0.1:${front.port}`, credentials.createInsecure());
    await t.rejects(callSay(client, 'hello'), { code: status.UNIMPLEMENTED });
    client.close();
    const session = await open(front.port);
    t.match(await send(session, { ':path': '/health' }), { status: 200 });
    session.destroy();
  },
);

await t.test('a caller that takes its request back has its call stopped', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const headers = { ...AUTH, ...JSON_BODY, ':method': 'POST', ':path': '/plugins/echo/wait' };
  const session = await open(front.port);
  const call = session.request(headers).on('error', () => undefined);
  call.end('{}');
  await until('the call runs', () => waiting.length === 1);
  call.close(CODE.cancel);
  await until('the call is told', () => waiting[0]?.aborted === true);
  await until('it is noted', () => front.logged.length > 0);
  t.match(front.logged.at(-1), { status: 499, remoteAddress: '127.0.0.1' });
  const second = session.request(headers).on('error', () => undefined);
  second.end('{}');
  await until('another runs', () => waiting.length === 2);
  session.destroy();
  await until('it is told that the connection is gone', () => waiting[1]?.aborted === true);
  t.match(front.logged.at(-1), { status: 499, remoteAddress: '127.0.0.1' });
  // A body that stays half is no request at all.
  const half = await open(front.port);
  const begun = half.request(headers).on('error', () => undefined);
  begun.write('{');
  await sleep(50);
  begun.close(CODE.cancel);
  await until('it is noted too', () => front.logged.length === 3);
  half.destroy();
  t.equal(waiting.length, 2);
});

await t.test('frames that cost and ask for nothing end their connection', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const bystander = await open(front.port);
  const flood = async (make: (round: number) => readonly Buffer[]): Promise<RawHttp2> => {
    const raw = new RawHttp2(front.port);
    for (let round = 0; !raw.isClosed; round += 1) {
      raw.send(...make(round));
      await sleep(1);
    }
    return raw;
  };
  const path = { ...AUTH, ':path': '/plugins/echo/notes/1' };
  const taken = await flood((round) =>
    Array.from({ length: 50 }, (_, index) => round * 100 + index * 2 + 1).flatMap((stream) => [
      request(stream, path),
      reset(stream),
    ]),
  );
  t.equal(taken.goaway, CODE.calm, 'requests taken back at once');
  const calls = front.observed.length;
  t.ok(calls < 4000, `${calls} requests were begun`);
  const pings = await flood(() => Array<Buffer>(200).fill(ping()));
  t.equal(pings.goaway, CODE.calm, 'pings');
  const resized = await flood((round) => Array<Buffer>(20).fill(settings([3, 100 + round])));
  t.equal(resized.goaway, CODE.calm, 'settings');
  const begun = request(1, {}, END_STREAM); // whose headers never end
  const endless = await flood((round) =>
    round === 0 ? [begun] : [frame(TYPE.continuation, 0, 1, Buffer.from([0, 1, 0x78, 1, 0x79]))],
  );
  t.ok(endless.isClosed, 'headers without an end');
  const bad = await flood((round) => [
    request(round * 2 + 1, { ...path, connection: 'close' }),
    frame(TYPE.window, 0, round * 2 + 1, Buffer.alloc(4)),
  ]);
  t.ok(bad.isClosed, 'streams that the host has to reset');
  t.match(await send(bystander, { ':path': '/health' }), { status: 200 });
  bystander.destroy();
});

await t.test('a connection that does not move is ended', async (t) => {
  const front = await startFront({
    limits: {
      headersTimeoutMs: 300,
      requestTimeoutMs: 600,
      keepAliveTimeoutMs: 600,
      stallTimeoutMs: 600,
    },
  });
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const large = manifest({
    name: 'large',
    exports: { large: {}, nap: {} },
    contributes: {
      routes: [
        { method: 'GET', path: '/', export: 'large' },
        { method: 'GET', path: '/nap', export: 'nap' },
      ],
    },
  });
  await front.install(large, {
    large: () => 'x'.repeat(20_000),
    nap: () => sleep(4000, 'rested'),
  });
  const napper = await open(front.port);
  const rested = send(napper, { ':path': '/plugins/large/nap' });

  await Promise.all([
    t.test('a preface in part, or without the settings behind it', async (t) => {
      for (const first of [PREFACE.subarray(0, 3), PREFACE]) {
        const raw = new RawHttp2(front.port, first);
        await raw.closed();
        t.equal(raw.of(TYPE.data).length, 0);
      }
    }),
    t.test('one without requests, told by GOAWAY', async (t) => {
      const raw = new RawHttp2(front.port);
      raw.send(request(1, {}));
      await raw.closed();
      t.match([raw.goaway, raw.of(TYPE.headers, 1).length], [CODE.none, 1]);
    }),
    t.test('a body that does not come', async (t) => {
      const raw = new RawHttp2(front.port);
      const post = { ...AUTH, ...JSON_BODY, ':method': 'POST', ':path': '/plugins/echo/any' };
      raw.send(request(1, post, END_HEADERS));
      while (raw.resetOf(1) === undefined && !raw.isClosed) {
        raw.send(frame(TYPE.data, 0, 1, Buffer.from(' ')));
        await sleep(50);
      }
      t.equal(raw.resetOf(1), CODE.cancel);
      raw.destroy();
    }),
    t.test('an answer that is not taken, beside others that are', async (t) => {
      const raw = new RawHttp2(front.port, Buffer.concat([PREFACE, settings([4, 1000])]));
      raw.send(request(1, { ...AUTH, ':path': '/plugins/large' }));
      for (let stream = 3; raw.resetOf(1) === undefined && !raw.isClosed; stream += 2) {
        raw.send(request(stream, {}));
        await sleep(50);
      }
      t.equal(raw.resetOf(1), CODE.cancel);
      raw.destroy();
    }),
  ]);
  t.match(await rested, { status: 200, text: '"rested"' }, 'a call that takes long is not cut');
  napper.destroy();
});

await t.test(
  'closing tells every connection, finishes what runs, and is over in time',
  async (t) => {
    const works = manifest({
      name: 'works',
      exports: { nap: {}, never: {} },
      contributes: {
        routes: [
          { method: 'GET', path: '/nap', export: 'nap' },
          { method: 'GET', path: '/never', export: 'never' },
        ],
      },
    });
    const releases: (() => void)[] = [];
    const exports = {
      nap: () => new Promise<string>((resolve) => releases.push(() => resolve('done'))),
      never: () => new Promise<never>(() => undefined),
    };
    const gentle = await startFront();
    await gentle.install(works, exports);
    const session = await open(gentle.port);
    const idle = await open(gentle.port);
    const silent = connect(gentle.port, '127.0.0.1').on('error', () => undefined);
    await once(silent, 'connect');
    const running = send(session, { ':path': '/plugins/works/nap' });
    await until('the call runs', () => releases.length === 1);
    const told = Promise.all([
      once(session, 'goaway'),
      once(idle, 'goaway'),
      once(silent, 'close'),
    ]);
    const started = performance.now();
    const closed = gentle.close(20_000);
    await told;
    releases[0]?.();
    t.match(await running, { status: 200, text: '"done"' });
    await closed;
    t.ok(performance.now() - started < 15_000, 'it does not wait out its grace');

    const racing = await startFront();
    await racing.install(works, exports);
    const begun = releases.length;
    const raw = new RawHttp2(racing.port);
    raw.send(request(1, { ...AUTH, ':path': '/plugins/works/nap' }));
    await until('its call runs', () => releases.length > begun);
    const ending = racing.close(20_000);
    await raw.until(() => raw.goaway !== undefined);
    t.equal(raw.of(TYPE.goaway)[0]?.payload.readUInt32BE(0), 2 ** 31 - 1);
    raw.send(frame(TYPE.ping, ACK, 0, raw.of(TYPE.ping)[0]?.payload));
    await raw.until(() => raw.of(TYPE.goaway).length > 1);
    t.equal(raw.of(TYPE.goaway)[1]?.payload.readUInt32BE(0), 1, 'the last one that is served');
    releases.at(-1)?.();
    await raw.closed();
    t.equal(String(raw.of(TYPE.data, 1)[0]?.payload), '"done"');
    await ending;

    const hard = await startFront();
    await hard.install(works, exports);
    const caller = await open(hard.port);
    const cut = send(caller, { ':path': '/plugins/works/never' });
    await until('it is begun', () => caller.state.nextStreamID === 3);
    await sleep(50);
    await hard.close(200);
    t.match(await cut, { status: 0 });
    t.match(hard.logged, [{ status: 499 }]);
  },
);

const curlVersion = (await run('curl', ['--version']).catch(() => ({ stdout: '' }))).stdout;
const noCurl = !curlVersion.includes('HTTP2') && 'there is no curl with HTTP/2 on this machine';

await t.test('curl gets answers by every way that it knows', { skip: noCurl }, async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const curl = async (...args: string[]) => {
    const form = '\n%{http_version} %{http_code}';
    const always = ['-sS', '-m', '20', '-w', form, '-H', `authorization: ${AUTH.authorization}`];
    return (await run('curl', [...always, ...args])).stdout;
  };
  const note = ['-H', 'content-type: application/json', '-d', '{"text":"x"}'];
  const url = `${front.url}/plugins/echo/notes`;
  const answer = (protocol: string) => `{"text":"x"}\n${protocol} 201`;
  t.equal(await curl('--http1.1', ...note, url), answer('1.1'));
  t.equal(await curl('--http2', ...note, url), answer('1.1'), 'h2c by upgrade is passed over');
  t.equal(await curl('--http2-prior-knowledge', ...note, url), answer('2'));
});
