/** /ws/events with real clients and raw frames: who may connect, what is told, what is bounded. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoaError } from '@noa/sdk/host';
import t from 'tap';
import { WebSocket } from 'ws';
import { Gateway } from '../../host/gateway/gateway.ts';
import { Authenticator } from '../../host/gateway/identity/authenticator.ts';
import { readCertificate } from '../../host/transports/port/tls.ts';
import { ADMIN, READER, startFront } from './front.ts';
import { MemoryEvents } from './memory-events.ts';
import { until } from './sse.ts';
import { Client, type Frame } from './websocket-client.ts';

t.setTimeout(120_000);

const bearer = { authorization: `Bearer ${ADMIN}` };

const opened = (url: string) => Client.open(`${url}/ws/events`, ADMIN);

/** The answer to a handshake that is refused. */
async function refusal(url: string, protocols: string[] = [], headers = {}): Promise<Frame> {
  const socket = new WebSocket(url.replace('http', 'ws'), protocols, { headers });
  socket.on('error', () => undefined);
  const [, response] = (await once(socket, 'unexpected-response')) as [unknown, IncomingMessage];
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode, ...(JSON.parse(text) as Frame) };
}

await t.test('events over a WebSocket', async (t) => {
  const events = new MemoryEvents();
  const front = await startFront({ events, allowedOrigins: ['https://console.example.com'] });
  t.teardown(() => front.close());
  const { host } = new URL(front.url);
  const path = `${front.url}/ws/events`;

  await t.test('several subscriptions share a connection', async (t) => {
    const client = await opened(front.url);
    client.send({ type: 'subscribe', subjects: ['a.*'] });
    client.send({ type: 'subscribe', id: 'b', subjects: 'b,c', since: '0' });
    await until('both are told', () => client.of('subscribed').length === 2);
    t.match(client.of('subscribed'), [
      { subjects: ['a.*'], after: '0', id: undefined },
      { subjects: ['b', 'c'], after: '0', id: 'b' },
    ]);
    for (const subject of ['a.x', 'b', 'd', 'c', 'a.y']) events.publish(subject, { text: 'ü' });
    await until('they come', () => client.ids.length === 4);
    t.match(client.of('event'), [
      { event: { specversion: '1.0', id: '1', subject: 'a.x', data: { text: 'ü' } } },
      { id: 'b', event: { id: '2' } },
      { id: 'b', event: { id: '4' } },
      { event: { id: '5' } },
    ]);
    client.send({ type: 'subscribe', id: 'b' });
    client.send({ type: 'unsubscribe', id: 'b' });
    client.send({ type: 'unsubscribe', id: 'b' });
    client.send({ type: 'ping' });
    await until('it answers', () => client.of('pong').length === 1);
    t.match(client.of('error'), [
      { id: 'b', code: 'CONFLICT' },
      { id: 'b', code: 'NOT_FOUND' },
    ]);
    events.publish('b');
    events.publish('a.z');
    await until('the other goes on', () => client.ids.includes(7));
    t.notOk(client.ids.includes(6));
    client.socket.close();
    await until('all is freed', () => events.listeners === 0);
  });

  await t.test('it replays from an id and tells what is missing', async (t) => {
    const first = events.publish('r');
    for (let n = 0; n < 600; n += 1) events.publish('r', n);
    events.drop(first + 9);
    const client = await opened(front.url);
    client.send({ type: 'subscribe', since: String(first - 1), subjects: ['r'] });
    const last = events.publish('r', 'live');
    await until('all come', () => client.ids.at(-1) === last);
    t.match(client.of('gap'), [{ after: String(first - 1), missing: 10 }]);
    t.equal(client.ids.length, last - first - 9);
    t.ok(client.ids.every((id, index) => id === first + 10 + index));
    client.send({ type: 'subscribe', id: 'x', since: '999999' });
    client.send({ type: 'subscribe', id: 'y', since: 'z' });
    await until('both are refused', () => client.of('error').length === 2);
    t.match(client.of('error'), [
      { id: 'x', code: 'INVALID_ARGUMENT', message: /newest event/ },
      { id: 'y', code: 'INVALID_ARGUMENT' },
    ]);
    client.socket.terminate();
    await until('all is freed', () => events.listeners === 0);
  });

  await t.test('what is no message is told, and the connection goes on', async (t) => {
    const client = await opened(front.url);
    const wrong = ['', '[]', '{', '{"type":"nope"}', '{"type":"constructor"}'];
    wrong.push('{"type":"subscribe","subjects":["a b"]}', '{"type":"subscribe","more":1}');
    wrong.push(`{"type":"subscribe","id":"${'x'.repeat(65)}"}`, '['.repeat(60_000));
    for (const text of wrong) client.socket.send(text);
    await until('each is answered', () => client.of('error').length === wrong.length);
    t.ok(client.of('error').every(({ code }) => code === 'INVALID_ARGUMENT'));
    for (let n = 0; n < 17; n += 1) client.send({ type: 'subscribe', id: `s${n}` });
    await until('one is too many', () => client.of('error').length === wrong.length + 1);
    t.match(client.of('error').at(-1), { id: 's16', code: 'RESOURCE_EXHAUSTED' });
    client.socket.send(Buffer.from([1, 2]));
    await until('bytes end it', () => client.closed !== undefined);
    t.equal(client.closed?.code, 1003);
    await until('all is freed', () => events.listeners === 0);
  });

  await t.test('nobody connects without a credential and its scope', async (t) => {
    t.match(await refusal(path), { status: 401, code: 'UNAUTHENTICATED' });
    t.match(await refusal(path, [], { authorization: 'Bearer wrong' }), { status: 401 });
    t.match(await refusal(path, ['noa.events.v1', 'noa.bearer.wrong']), { status: 401 });
    t.match(await refusal(`${path}?access_token=${ADMIN}`), { status: 401 });
    const reader = { authorization: `Bearer ${READER}` };
    t.match(await refusal(path, [], reader), { status: 403, detail: /events:read/ });
    t.match(await refusal(`${front.url}/ws/none`, [], bearer), { status: 404, code: 'NOT_FOUND' });
    t.match(await front.get('/ws/events'), { status: 400, body: { detail: /WebSocket/ } });
    t.match(await front.post('/ws/events'), { status: 405 });
    const plain = await front.raw(
      `GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n`,
    );
    t.match(plain, /^HTTP\/1.1 200 /, 'a path that speaks no WebSocket answers as ever');
  });

  await t.test(
    'a browser sends its credential as a subprotocol, which is not repeated',
    async (t) => {
      const client = new Client(path, ['noa.events.v1', `noa.bearer.${ADMIN}`]);
      const [response] = (await once(client.socket, 'upgrade')) as [IncomingMessage];
      t.equal(response.headers['sec-websocket-protocol'], 'noa.events.v1');
      t.notMatch(response.rawHeaders.join('\n'), new RegExp(ADMIN));
      client.socket.close();
      await once(client.socket, 'close');
      t.match(await refusal(path, [`noa.bearer.${ADMIN}`]), {
        status: 400,
        detail: /noa.events.v1/,
      });
      t.match(await refusal(path, ['chat'], bearer), { status: 400, detail: /noa.events.v1/ });
      await until('it is in the log', () => front.logged.some(({ status }) => status === 101));
      t.notMatch(JSON.stringify([front.logged, front.denied, front.errors]), new RegExp(ADMIN));
    },
  );

  await t.test('a page of another origin is refused', async (t) => {
    const from = (origin: string) => ({ ...bearer, origin });
    for (const origin of ['https://evil.example', 'null', `http://${host}.evil.example`, 'x']) {
      t.match(await refusal(path, [], from(origin)), { status: 403, code: 'PERMISSION_DENIED' });
    }
    for (const origin of [front.url, 'https://console.example.com']) {
      const client = new Client(path, [], from(origin));
      await once(client.socket, 'open');
      client.socket.close();
    }
    t.match(await refusal(path, [], from('https://console.example.com:444')), { status: 403 });
  });

  await t.test('messages that are too long, unmasked or broken end the connection', async (t) => {
    const big = await opened(front.url);
    big.socket.send('x'.repeat((64 << 10) + 1));
    await until('it ends', () => big.closed !== undefined);
    t.equal(big.closed?.code, 1009);
    const unmasked = Buffer.concat([Buffer.from([0x81, 15]), Buffer.from('{"type":"ping"}')]);
    const reserved = Buffer.from([0xf1, 0x80, 0, 0, 0, 0]);
    const huge = Buffer.from([0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    for (const [bytes, code] of [
      [unmasked, 1002],
      [reserved, 1002],
      [huge, 1009],
    ] as const) {
      const { socket, received } = await handshake(front.port);
      socket.write(bytes);
      await once(socket, 'close');
      const frame = received();
      t.equal(frame[0], 0x88, 'a close frame');
      t.equal(frame.readUInt16BE(2), code);
    }
    t.strictSame(front.errors, [], 'what a client breaks is no fault of the host');
  });
});

/** A WebSocket whose frames are written by hand. */
async function handshake(port: number): Promise<{ socket: Socket; received: () => Buffer }> {
  const socket = connect(port, '127.0.0.1');
  let bytes = Buffer.alloc(0);
  socket.on('error', () => undefined);
  socket.on('data', (chunk) => (bytes = Buffer.concat([bytes, chunk])));
  const key = randomBytes(16).toString('base64');
  socket.write(
    `GET /ws/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\nAuthorization: ${bearer.authorization}\r\n\r\n`,
  );
  await until('it is open', () => bytes.includes('\r\n\r\n'));
  const head = bytes.indexOf('\r\n\r\n') + 4;
  return { socket, received: () => bytes.subarray(head) };
}

await t.test('those that do not read are cut, and the others go on', async (t) => {
  const events = new MemoryEvents();
  const front = await startFront({ events, streams: { stallMs: 500, endMs: 200 } });
  t.teardown(() => front.close());
  const [deaf, well] = await Promise.all([opened(front.url), opened(front.url)]);
  for (const client of [deaf, well]) client.send({ type: 'subscribe' });
  await until(
    'both follow',
    () => deaf.of('subscribed').length + well.of('subscribed').length === 2,
  );
  deaf.socket.pause();
  const data = 'x'.repeat(100_000);
  let last = 0;
  while (front.logged.length === 0 && last < 2000) {
    last = events.publish('big', data);
    await sleep(5);
  }
  t.equal(front.logged.length, 1, `cut after ${last} events`);
  await until('the other has all', () => well.ids.at(-1) === last);
  t.equal(well.ids.length, last);
  deaf.socket.resume();
  await until('it hears of its end', () => deaf.closed !== undefined);
  t.ok(deaf.ids.length < last && deaf.ids.every((id, index) => id === index + 1));

  const pings = await handshake(front.port);
  pings.socket.pause();
  const ping = Buffer.concat([Buffer.from([0x89, 0xfd, 0, 0, 0, 0]), Buffer.alloc(125)]);
  const many = Buffer.concat(Array.from({ length: 5000 }, () => ping));
  for (let n = 0; n < 1000 && front.logged.length === 1; n += 1) {
    if (pings.socket.writableLength < 1 << 20) pings.socket.write(many);
    await sleep(5);
  }
  await until('a flood of pings is cut', () => front.logged.length === 2);
  pings.socket.destroy();
  well.socket.close();
  await until('all is freed', () => events.listeners === 0);
});

await t.test('over TLS it is the same', async (t) => {
  const events = new MemoryEvents();
  const folder = resolve(import.meta.dirname, '../fixtures/tls');
  const files = { cert: `${folder}/cert.pem`, key: `${folder}/key.pem`, clientCa: undefined };
  const certificate = await readCertificate(files);
  const onRefused = (error: unknown) => t.fail(String(error));
  const tls = { files, certificate, onRotated: () => undefined, onRefused };
  const front = await startFront({ events, tls });
  t.teardown(() => front.close());
  const socket = new WebSocket(`wss://127.0.0.1:${front.port}/ws/events`, {
    headers: bearer,
    rejectUnauthorized: false, // the certificate is of the tests' own making
  });
  await once(socket, 'open');
  socket.send('{"type":"ping"}');
  const [answer] = (await once(socket, 'message')) as [Buffer];
  t.equal(answer.toString(), '{"type":"pong"}');
  const closed = once(socket, 'close');
  await front.close(1000);
  t.strictSame((await closed)[0], 1001);
});

await t.test('a connection ends with its other end, its credential and the host', async (t) => {
  const events = new MemoryEvents();
  const authenticator = new Authenticator({
    credentials: [{ token: ADMIN, principal: { subject: 'root', scopes: ['admin'] } }],
    now: Date.now,
  });
  const gateway = new Gateway({ authenticator, denied: () => undefined });
  const identify = gateway.identify.bind(gateway);
  let holds = true;
  gateway.identify = (arrival) => {
    if (!holds) throw new NoaError('UNAUTHENTICATED', 'the token is revoked');
    return identify(arrival);
  };
  const front = await startFront({ events, gateway, streams: { beatMs: 200, maxPerIdentity: 3 } });
  const alive = await opened(front.url);
  const dead = await handshake(front.port);
  await once(dead.socket, 'close');
  t.equal(alive.closed, undefined, 'one that answers pings stays');
  const crowd = [await opened(front.url), await opened(front.url)];
  t.match(await refusal(`${front.url}/ws/events`, [], bearer), {
    status: 429,
    code: 'RESOURCE_EXHAUSTED',
  });
  holds = false;
  await until('they end', () => [alive, ...crowd].every(({ closed }) => closed !== undefined));
  t.match(alive.closed, { code: 1008 });
  t.match(alive.of('error'), [{ code: 'UNAUTHENTICATED' }]);
  holds = true;
  const last = await opened(front.url);
  last.send({ type: 'subscribe' });
  await until('it follows', () => last.of('subscribed').length === 1);
  const stubborn = await handshake(front.port);
  const closing = front.close(500);
  await until('it is told', () => last.closed !== undefined);
  t.equal(last.closed?.code, 1001);
  await closing;
  stubborn.socket.destroy();
  t.equal(events.listeners, 0);
});
