/** HTTP/1.1 itself: requests that are none, callers that are slow, too many or gone, and the listener's end. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { echo, functions } from './echo.ts';
import { ADMIN, type Exports, manifest, startFront } from './front.ts';

await t.test('protocol', async (t) => {
  const front = await startFront({
    limits: { headersTimeoutMs: 300, requestTimeoutMs: 600, maxHeaderBytes: 8192 },
  });
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const host = `Host: x\r\nAuthorization: Bearer ${ADMIN}\r\n`;
  const post = `POST /plugins/echo/any HTTP/1.1\r\n${host}Content-Type: application/json\r\n`;
  /** Status and problem of the one answer that came. */
  const refused = (answer: string) => {
    const [head = '', body = ''] = answer.split('\r\n\r\n');
    t.match(head, /content-type: application\/problem\+json/i);
    t.equal(answer.match(/HTTP\/1\.1 \d{3}/g)?.length, 1, 'exactly one answer');
    return { status: Number(head.slice(9, 12)), ...(JSON.parse(body) as { code: string }) };
  };

  await t.test('a request of two lengths is not taken, and what it hides is not run', async (t) => {
    const smuggled = `GET /plugins/echo/notes/latest HTTP/1.1\r\n${host}\r\n`;
    for (const lengths of [
      'Content-Length: 4\r\nTransfer-Encoding: chunked\r\n',
      'Transfer-Encoding: chunked\r\nContent-Length: 4\r\n',
      'Content-Length: 4\r\nContent-Length: 5\r\n',
      'Content-Length: 4, 5\r\n',
      'Content-Length: +4\r\n',
      'Content-Length: 0x4\r\n',
      'Content-Length : 4\r\n',
      'Transfer-Encoding: chunked, identity\r\n',
      'Transfer-Encoding: xchunked\r\n',
    ]) {
      const before = front.observed.length;
      const answer = await front.raw(`${post}${lengths}\r\n0\r\n\r\n${smuggled}`);
      t.match(refused(answer), { status: 400, code: 'INVALID_ARGUMENT' }, JSON.stringify(lengths));
      await sleep(10);
      const routes = front.observed.slice(before).map(({ route }) => route);
      t.notOk(routes.includes('/plugins/echo/notes/latest'));
    }
  });

  await t.test(
    'lines that are not HTTP, and chunks that are none, end the connection',
    async (t) => {
      for (const bytes of [
        'GARBAGE\r\n\r\n',
        '\u0016\u0003\u0001\u0002\u0000',
        `GET /health HTTP/9.9\r\nHost: x\r\n\r\n`,
        'GET /health HTTP/1.1\r\nConnection: close\r\n\r\n',
        `GET /health HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n`,
        `GET /health HTTP/1.1\r\nHost: x\r\n folded: 1\r\n\r\n`,
        `GET /hea\u0000lth HTTP/1.1\r\nHost: x\r\n\r\n`,
      ]) {
        t.match(
          refused(await front.raw(bytes)),
          { status: 400 },
          JSON.stringify(bytes.slice(0, 40)),
        );
      }
      const chunks = `${post}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n`;
      t.match(refused(await front.raw(chunks)), { status: 400 });
    },
  );

  await t.test(
    'slow headers and slow bodies are cut, an idle connection does no harm',
    async (t) => {
      const started = performance.now();
      const slow = await Promise.all([
        front.raw('GET /health HTTP/1.1\r\n', {
          later: Array<string>(40).fill('X: y\r\n'),
          pauseMs: 50,
        }),
        front.raw(`${post}Content-Length: 1000\r\n\r\n`, { later: Array<string>(40).fill(' ') }),
        front.raw('GET /hea'),
      ]);
      for (const answer of slow)
        t.match(refused(answer), { status: 408, code: 'DEADLINE_EXCEEDED' });
      t.ok(performance.now() - started < 5000);
      t.equal((await front.get('/health')).status, 200);
    },
  );

  await t.test('headers and a target over the limit are refused', async (t) => {
    const long = 'x'.repeat(9000);
    for (const head of [`GET /${long} HTTP/1.1\r\n`, `GET / HTTP/1.1\r\nX-Long: ${long}\r\n`]) {
      const answer = refused(await front.raw(`${head}Host: x\r\n\r\n`));
      t.match(answer, { status: 431, code: 'PAYLOAD_TOO_LARGE' });
    }
  });

  await t.test('a malformed target is a problem with ids, noted like any other', async (t) => {
    const close = 'Connection: close\r\n\r\n';
    for (const target of [
      '/plugins/echo/%',
      '/%zz',
      '/plugins/echo/%ff%fe',
      '/v1/plugins/%c0%af',
    ]) {
      const answer = await front.raw(`GET ${target} HTTP/1.1\r\n${host}${close}`);
      t.match(refused(answer), { status: 400, code: 'INVALID_ARGUMENT' }, target);
      t.match(answer, /x-request-id: /i);
    }
    t.match(front.observed.at(-1), { route: 'unmatched', status: 400 });
    const long = await front.raw(`GET /v1/plugins/${'x'.repeat(300)} HTTP/1.1\r\n${host}${close}`);
    t.match(refused(long), { status: 400 });
    for (const target of [
      '/plugins/../v1/plugins',
      '//v1/plugins',
      '/plugins/echo/../../v1/plugins',
    ]) {
      const answer = await front.raw(`GET ${target} HTTP/1.1\r\n${host}${close}`);
      t.match(refused(answer), { status: 404 }, `${target} is not resolved`);
    }
    const absolute = `GET http://x/plugins/echo/notes/7?limit=1 HTTP/1.1\r\n${host}${close}`;
    t.match(await front.raw(absolute), /200 OK[^]*"id":"7"/, 'an absolute target is its path');
  });

  await t.test('methods nobody knows, CONNECT and an upgrade do no harm', async (t) => {
    const close = 'Connection: close\r\n\r\n';
    t.match(refused(await front.raw(`PROPFIND /v1/plugins HTTP/1.1\r\n${host}${close}`)), {
      status: 405,
    });
    t.match(refused(await front.raw(`TRACE /plugins/echo/any HTTP/1.1\r\n${host}${close}`)), {
      status: 405,
    });
    t.equal(await front.raw(`CONNECT 127.0.0.1:22 HTTP/1.1\r\n${host}\r\n`), '');
    const upgrade = `GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n`;
    t.match(
      await front.raw(
        `${upgrade}Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: close\r\n\r\n`,
      ),
      /^HTTP\/1\.1 200 OK/,
    );
  });

  await t.test('requests in a pipeline are answered in order', async (t) => {
    const get = (id: number, more = '') =>
      `GET /plugins/echo/notes/${id} HTTP/1.1\r\n${host}${more}\r\n`;
    const answer = await front.raw(get(1) + get(2) + get(3, 'Connection: close\r\n'));
    t.strictSame(answer.match(/"id":"\d"/g), ['"id":"1"', '"id":"2"', '"id":"3"']);
  });
});

await t.test('a reader that stalls is cut, a call that takes long is not', async (t) => {
  const front = await startFront({ limits: { stallTimeoutMs: 300 } });
  t.teardown(() => front.close());
  const large = 'x'.repeat(4 << 20);
  const slow = manifest({
    name: 'slow',
    limits: { maxOutputBytes: 16 << 20 },
    exports: { sleep: {}, large: {} },
    contributes: {
      routes: [
        { method: 'GET', path: '/sleep', export: 'sleep' },
        { method: 'GET', path: '/large', export: 'large' },
      ],
    },
  });
  await front.install(slow, { sleep: () => sleep(1000, 'rested'), large: () => large.repeat(4) });
  t.equal((await front.get('/plugins/slow/sleep')).text, '"rested"');
  const socket = connect(front.port, '127.0.0.1').pause();
  const request = `GET /plugins/slow/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN}\r\n\r\n`;
  socket.on('error', () => undefined).write(request);
  while (!front.observed.some(({ status }) => status === 499)) await sleep(20);
  t.match(front.observed.at(-1), { route: '/plugins/slow/large', status: 499 });
  socket.destroy();
});

await t.test('what is no HTTP behind a request does not break into its answer', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  const large = manifest({
    name: 'large',
    limits: { maxOutputBytes: 16 << 20 },
    exports: { large: {} },
    contributes: { routes: [{ method: 'GET', path: '/', export: 'large' }] },
  });
  await front.install(large, { large: () => 'x'.repeat((16 << 20) - 2) });
  const socket = connect(front.port, '127.0.0.1').on('error', () => undefined);
  let text = '';
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  const closed = once(socket, 'close');
  socket.write(`GET /plugins/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN}\r\n\r\n`);
  while (text === '') await sleep(1);
  socket.pause().write('\u0016\u0003GARBAGE\r\n\r\n');
  await sleep(50);
  socket.resume();
  await closed;
  t.ok(text.startsWith('HTTP/1.1 200 OK'));
  t.equal(text.match(/HTTP\/1\.1/g)?.length, 1);
});

await t.test('a connection that rests is closed after its time', async (t) => {
  const front = await startFront({ limits: { keepAliveTimeoutMs: 100 } });
  t.teardown(() => front.close());
  const started = performance.now();
  const get = 'GET /health HTTP/1.1\r\nHost: x\r\n\r\n';
  const answer = await front.raw(get, { later: [get, get] });
  t.equal(answer.match(/200 OK/g)?.length, 3);
  t.ok(performance.now() - started < 5000);
});

await t.test('connections over the limit are dropped, those within are served', async (t) => {
  const front = await startFront({ limits: { maxConnections: 3 } });
  t.teardown(() => front.close());
  const held = await Promise.all(
    Array.from({ length: 3 }, async () => {
      const socket = connect(front.port, '127.0.0.1').on('error', () => undefined);
      await once(socket, 'connect');
      return socket;
    }),
  );
  await sleep(20);
  t.equal(await front.raw('GET /health HTTP/1.1\r\nHost: x\r\n\r\n'), '');
  held[0]?.destroy();
  await sleep(20);
  t.match(
    await front.raw('GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    /200 OK/,
  );
  for (const socket of held) socket.destroy();
});

await t.test('closing finishes what runs, takes nothing new, and is over in time', async (t) => {
  const works = manifest({
    name: 'works',
    limits: { maxOutputBytes: 16 << 20 },
    exports: { nap: {}, never: {}, large: {} },
    contributes: {
      routes: [
        { method: 'GET', path: '/nap/:ms', export: 'nap' },
        { method: 'GET', path: '/never', export: 'never' },
        { method: 'GET', path: '/large', export: 'large' },
      ],
    },
  });
  let signal: AbortSignal | undefined;
  const exports: Exports = {
    nap: (input) => sleep(Number((input as { ms: string }).ms), 'done'),
    never: (_input, call) => {
      signal = call.signal;
      return new Promise(() => undefined);
    },
    large: () => 'x'.repeat((16 << 20) - 2),
  };

  const gentle = await startFront();
  await gentle.install(works, exports);
  await gentle.get('/health'); // leaves an idle connection behind
  const early = gentle.get('/plugins/works/nap/50');
  const running = gentle.get('/plugins/works/nap/400');
  await early;
  const started = performance.now();
  const closed = gentle.close(5000);
  const onItsWay = await gentle.get('/health');
  t.strictSame(
    [onItsWay.status, onItsWay.headers.get('connection')],
    [200, 'close'],
    'a connection that was there a moment ago is served once more',
  );
  await t.rejects(once(connect(gentle.port, '127.0.0.1'), 'connect'), 'no new one is taken');
  const last = await running;
  t.strictSame([last.status, last.text, last.headers.get('connection')], [200, '"done"', 'close']);
  await closed;
  t.ok(performance.now() - started < 2000, 'it does not wait out its grace');

  const midway = await startFront();
  await midway.install(works, exports);
  const reader = connect(midway.port, '127.0.0.1').on('error', () => undefined);
  reader.write(
    `GET /plugins/works/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN}\r\n\r\n`,
  );
  let received = 0;
  reader.on('data', (chunk) => (received += chunk.length));
  while (received === 0) await sleep(1);
  reader.pause();
  const end = performance.now();
  const over = midway.close(5000);
  await sleep(100);
  const ended = once(reader, 'close');
  reader.resume();
  await Promise.all([over, ended]);
  t.ok(performance.now() - end < 2000, 'a connection that outlives its answer is closed');
  t.ok(received > 16 << 20, `the answer is whole: ${received}`);

  const hard = await startFront();
  await hard.install(works, exports);
  const cut = t.rejects(hard.get('/plugins/works/never'));
  while (signal === undefined) await sleep(5);
  await hard.close(200);
  await cut;
  t.equal(signal.aborted, true);
});

await t.test('what keeps it from listening is said in words for an operator', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  const start = (address: { host: string; port: number }) => startFront({}, address);
  await t.rejects(start({ host: '127.0.0.1', port: front.port }), {
    code: 'CONFLICT',
    message: `port ${front.port} on 127.0.0.1 is in use by another process: choose another with --port`,
  });
  for (const host of ['203.0.113.1', 'no.such.host.invalid']) {
    await t.rejects(start({ host, port: 0 }), { code: 'INVALID_ARGUMENT', message: /--host/ });
  }
});
