/**
 * Protocols: callers without a plugin, who misuse connections, frames and lengths of the one port. Most
 * never become a request, and leave no audit record.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import {
  CODE,
  END_HEADERS,
  END_STREAM,
  fields,
  frame,
  ping,
  PREFACE,
  RawHttp2,
  request,
  reset,
  settings,
  TYPE,
} from '../transports/frames.ts';
import { Target } from './target.ts';

t.setTimeout(240_000);

/** Connections of one kind at one time. */
const CROWD = 300;

const target = await Target.start(t, []);
const { host } = target;
const port = Number(new URL(host.url).port);
const AUTH = { authorization: `Bearer ${host.token}` };
const CREDENTIAL = `Authorization: Bearer ${host.token}\r\n`;

/** One connection of HTTP/1.1 or of nothing, and what came on it. */
class Raw {
  readonly socket: Socket;
  text = '';
  isClosed = false;

  constructor(first: string) {
    this.socket = connect(port, '127.0.0.1')
      .setEncoding('latin1')
      .on('data', (chunk: string) => (this.text += chunk))
      .on('error', () => undefined)
      .on('close', () => (this.isClosed = true));
    if (first !== '') this.socket.write(first);
  }

  get statuses(): string[] {
    return [...this.text.matchAll(/^HTTP\/1\.1 (\d{3})/gm)].map(([, status = '']) => status);
  }
}

function crowd<T>(make: (index: number) => T, size = CROWD): T[] {
  return Array.from({ length: size }, (_, index) => make(index));
}

/** Resolves when the host has ended all of them; they do something meanwhile. */
async function ended<T extends { readonly isClosed: boolean }>(
  all: readonly T[],
  meanwhile: (one: T) => void = () => undefined,
): Promise<void> {
  for (const end = Date.now() + 60_000; all.some(({ isClosed }) => !isClosed); await sleep(250)) {
    if (Date.now() > end) throw new Error('the host has not ended every connection');
    for (const one of all) if (!one.isClosed) meanwhile(one);
  }
}

target.attack('headers that come a line at a time, by the hundred', {}, async (t) => {
  const all = crowd(() => new Raw('GET /health HTTP/1.1\r\nHost: x\r\n'));
  await ended(all, ({ socket }) => void (socket.destroyed || socket.write('X: y\r\n')));
  t.ok(
    all.every(({ statuses }) => statuses.join() === '408'),
    'each is told that it is too slow',
  );
});

target.attack('connections that say nothing, half of something, or hang up half', {}, async (t) => {
  const silent = crowd(() => new Raw(''));
  const halves = crowd(() => new Raw('PRI'));
  const greeted = crowd(() => new RawHttp2(port, PREFACE));
  const halfOpen = crowd(() => {
    const raw = new Raw('GET /health HTTP/1.1\r\nHo');
    raw.socket.end();
    return raw;
  });
  await ended([...silent, ...halves, ...greeted, ...halfOpen]);
  t.ok([...silent, ...halves].every(({ text }) => text === ''));
});

target.attack(
  'bodies that come a byte at a time, by the hundred, in both protocols',
  {},
  async (t) => {
    const head = `POST /plugins/notes/notes HTTP/1.1\r\nHost: x\r\n${CREDENTIAL}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n`;
    const slow = crowd(() => new Raw(head));
    const post = {
      ...AUTH,
      'content-type': 'application/json',
      ':method': 'POST',
      ':path': '/plugins/notes/notes',
    };
    const streams = crowd((index) => index * 2 + 1, 200);
    const multiplexed = crowd(() => new RawHttp2(port), 10);
    for (const raw of multiplexed) raw.send(...streams.map((id) => request(id, post, END_HEADERS)));
    for (let round = 0; round < 12; round += 1) {
      await sleep(250);
      for (const { socket } of slow) socket.write(' ');
      for (const raw of multiplexed) {
        raw.send(...streams.map((id) => frame(TYPE.data, 0, id, Buffer.from(' '))));
      }
    }
    t.ok(
      slow.every(({ isClosed }) => !isClosed),
      'while they keep to their time they are borne',
    );
    for (const { socket } of [...slow, ...multiplexed]) socket.destroy();
  },
);

target.attack('headers over the limit, and headers without an end', {}, async (t) => {
  const long = 'x'.repeat(100_000);
  const lines = crowd(() => new Raw(`GET /health HTTP/1.1\r\nHost: x\r\nX: ${long}\r\n\r\n`), 50);
  const targets = crowd(() => new Raw(`GET /${long} HTTP/1.1\r\nHost: x\r\n\r\n`), 50);
  const frames = crowd(() => new RawHttp2(port), 50);
  const part = fields({ x: 'y'.repeat(16_000) });
  for (const raw of frames) {
    const more = Array<Buffer>(60).fill(frame(TYPE.continuation, 0, 1, part));
    raw.send(request(1, {}, END_STREAM), ...more);
  }
  await ended([...lines, ...targets, ...frames]);
  t.ok([...lines, ...targets].every(({ statuses }) => /^(431)?$/.test(statuses.join())));
  t.ok([...lines, ...targets].some(({ statuses }) => statuses.join() === '431'));
  t.ok(frames.every((raw) => raw.of(TYPE.data).length === 0));
});

target.attack('requests that are taken back at once, thousands of them', {}, async (t) => {
  const path = { ...AUTH, ':path': '/plugins/notes/notes' };
  const flood = (raw: RawHttp2, from: number, count: number): void => {
    const ids = crowd((index) => from + index * 2, count);
    raw.send(...ids.flatMap((id) => [request(id, path), reset(id)]));
  };
  // What a host has not read when it cuts makes its last words unreadable: one waits for it before it sends more.
  const patient = new RawHttp2(port);
  const until = Date.now() + 60_000;
  for (let from = 1; !patient.isClosed && Date.now() < until; from += 400) {
    const read = patient.of(TYPE.ping).length;
    flood(patient, from, 200);
    patient.send(frame(TYPE.ping, 0, 0, Buffer.alloc(8)));
    while (!patient.isClosed && patient.of(TYPE.ping).length === read) await sleep(1);
  }
  t.equal(patient.goaway, CODE.calm, 'and it is said why');
  const all = crowd(() => new RawHttp2(port), 4);
  const next = new Map(all.map((raw) => [raw, 1]));
  await ended(all, (raw) => {
    const from = next.get(raw) ?? 1;
    flood(raw, from, 1000);
    next.set(raw, from + 2000);
  });
  t.ok(
    [...next.values()].every((id) => id < 40_000),
    'soon',
  );
});

target.attack('floods of pings, settings, empty data and frames that are wrong', {}, async (t) => {
  const kinds: Buffer[] = [
    ping(),
    settings([4, 65_535]),
    settings([1, 0], [1, 4096]),
    frame(TYPE.window, 0, 0, Buffer.alloc(4)),
    frame(TYPE.headers, END_HEADERS, 1, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff])),
    frame(0x2a, 0, 1, Buffer.alloc(16_385)),
    Buffer.alloc(4096, 0xff),
  ];
  const all = kinds.map((kind) => ({ kind, raw: new RawHttp2(port) }));
  const flood = all.map(({ raw }) => raw);
  await ended(flood, (raw) => {
    const kind = all.find((each) => each.raw === raw)?.kind ?? ping();
    raw.send(...Array<Buffer>(3000).fill(kind));
  });
  t.ok(flood.every(({ isClosed }) => isClosed));
});

target.attack('answers by the hundred that nobody reads', {}, async (t) => {
  const noWindow = Buffer.concat([PREFACE, settings([4, 0])]);
  const frames = crowd(() => new RawHttp2(port, noWindow), 8);
  const path = { ...AUTH, ':path': '/openapi.json' };
  for (const raw of frames) raw.send(...crowd((index) => request(index * 2 + 1, path), 100));
  const piped = `GET /openapi.json HTTP/1.1\r\nHost: x\r\n${CREDENTIAL}\r\n`.repeat(50);
  const lines = crowd(() => {
    const raw = new Raw(piped);
    raw.socket.pause();
    return raw;
  }, 8);
  await sleep(3000);
  t.ok(frames.every((raw) => raw.of(TYPE.data).every(({ payload }) => payload.length === 0)));
  for (const { socket } of [...frames, ...lines]) socket.destroy();
});

target.attack('a second request inside of the first, by lengths that conflict', {}, async (t) => {
  const inner = `DELETE /v1/plugins/notes HTTP/1.1\r\nHost: x\r\n${CREDENTIAL}Content-Length: 0\r\n\r\n`;
  const post = `POST /v1/plugins/notes/exports/none HTTP/1.1\r\nHost: x\r\n${CREDENTIAL}Content-Type: application/json\r\n`;
  for (const lengths of [
    'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n',
    'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n',
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n',
    'Transfer-Encoding: chunked, identity\r\n',
    'Transfer-Encoding:\x0bchunked\r\n',
    'Transfer-Encoding\r\n : chunked\r\n',
    'Content-Length: 5\r\nContent-Length: 200\r\n',
    'Content-Length: 5, 200\r\n',
    'Content-Length: +5\r\n',
    'Content-Length: 0x5\r\n',
    'Content-Length : 5\r\n',
    'X: y\nContent-Length: 5\r\n',
  ]) {
    const raw = new Raw(`${post}${lengths}\r\n0\r\n\r\n${inner}`);
    await ended([raw]);
    t.strictSame(raw.statuses, ['400'], JSON.stringify(lengths));
  }
  const upgrade =
    'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n';
  for (const behind of [String(PREFACE), inner]) {
    const h2c = new Raw(`GET /health HTTP/1.1\r\nHost: x\r\n${upgrade}\r\n${behind}`);
    await ended([h2c]);
    t.strictSame(h2c.statuses, ['200'], 'h2c is passed over, and the connection ends with it');
  }

  const text = Buffer.from(inner);
  for (const [length, field] of [
    ['0', {}],
    ['5', {}],
    ['5', { 'transfer-encoding': 'chunked' }],
    [String(text.length), { connection: 'keep-alive' }],
    ['5', { 'x-a': `b\r\n\r\n${inner}` }],
  ] as const) {
    const raw = new RawHttp2(port);
    const headers = {
      ...AUTH,
      ':method': 'POST',
      ':path': '/v1/plugins/notes/exports/none',
      'content-length': length,
      ...field,
    };
    raw.send(request(1, headers, END_HEADERS), frame(TYPE.data, END_STREAM, 1, text));
    await raw.until(() => raw.resetOf(1) !== undefined);
    t.equal(raw.of(TYPE.headers).length, 0, `no answer with a length of ${length}`);
    raw.destroy();
  }
  t.match(await host.get('/v1/plugins/notes'), { status: 200, body: { state: 'serving' } });
});

target.aftermath();
