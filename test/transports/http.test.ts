/** The front itself: what it lets in, what it answers, and what it does with those who do not behave. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Json, NoaError } from '@noa/sdk/host';
import { promisify } from 'node:util';
import fc from 'fast-check';
import t from 'tap';
import {
  ADMIN,
  bundle,
  type Exports,
  manifest,
  type Problem,
  RawText,
  READER,
  startFront,
} from './front.ts';

const NOTE = {
  type: 'object',
  additionalProperties: false,
  properties: {
    id: { type: 'string' },
    text: { type: 'string', minLength: 1 },
    limit: { type: 'integer' },
    tags: { type: 'array', items: { type: 'string' } },
    done: { type: 'boolean' },
  },
};

const echo = manifest({
  name: 'echo',
  limits: { maxInputBytes: 128 << 10, timeoutMs: 5000 },
  exports: {
    echo: { input: NOTE },
    any: {},
    bad: { output: { type: 'string' } },
    fail: {},
    trap: {},
    wait: {},
    garbage: {},
  },
  contributes: {
    routes: [
      { method: 'GET', path: '/', export: 'any' },
      { method: 'POST', path: '/notes', export: 'echo', status: 201 },
      { method: 'GET', path: '/notes', export: 'echo' },
      { method: 'GET', path: '/notes/latest', export: 'any', status: 202 },
      { method: 'GET', path: '/notes/:id', export: 'echo' },
      { method: 'PUT', path: '/notes/:id', export: 'echo' },
      { method: 'DELETE', path: '/notes/:key', export: 'any', status: 204 },
      { method: 'GET', path: '/notes/:id/parts/:part', export: 'any' },
      { method: 'POST', path: '/any', export: 'any' },
      { method: 'PATCH', path: '/any', export: 'any' },
      { method: 'GET', path: '/bad', export: 'bad' },
      { method: 'GET', path: '/fail', export: 'fail' },
      { method: 'GET', path: '/trap', export: 'trap' },
      { method: 'GET', path: '/garbage', export: 'garbage' },
      { method: 'POST', path: '/wait', export: 'wait' },
    ],
  },
});

let waiting: { signal: AbortSignal; input: Json } | undefined;
const functions: Exports = {
  echo: (input) => input,
  any: (input) => input,
  bad: () => ({ not: 'a string' }),
  fail: () => {
    throw new NoaError('RATE_LIMITED', 'slow down', { retryAfterMs: 1500, details: { left: 0 } });
  },
  trap: () => {
    throw new TypeError('/etc/host/secret is gone');
  },
  garbage: () => new RawText('{"half":'),
  wait: (input, { signal }) =>
    new Promise((_resolve, reject) => {
      waiting = { signal, input };
      signal.addEventListener('abort', () => reject(new NoaError('CANCELLED', 'left')));
    }),
};

await t.test('credentials', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);

  await t.test('only health is anonymous, whatever the path or method', async (t) => {
    for (const path of ['/health', '/healthz', '/ready', '/readyz']) {
      t.equal((await front.request('GET', path, { token: null })).status, 200, path);
    }
    const closed = ['/', '/metrics', '/v1/plugins', '/plugins/echo/notes', '/none', '/health/x'];
    for (const path of closed) {
      for (const method of ['GET', 'POST', 'OPTIONS', 'DELETE']) {
        const { status, headers, body } = await front.request<Problem>(method, path, {
          token: null,
        });
        t.equal(status, 401, `${method} ${path}`);
        t.equal(headers.get('www-authenticate'), 'Bearer realm="noa"');
        t.equal(body.code, 'UNAUTHENTICATED');
      }
    }
  });

  await t.test('a wrong credential is refused in every shape, and none is repeated', async (t) => {
    const shapes = [
      `Bearer ${ADMIN}x`,
      `Bearer ${ADMIN.slice(0, -1)}`,
      `Basic ${ADMIN}`,
      `Bearer`,
      `Bearer ${ADMIN} ${ADMIN}`,
      ADMIN,
      `Bearer ${'x'.repeat(5000)}`,
    ];
    for (const authorization of shapes) {
      const answer = await front.request('GET', '/v1/plugins', {
        token: null,
        headers: { authorization },
      });
      t.ok([401, 429].includes(answer.status), `${authorization.slice(0, 20)} → ${answer.status}`);
      t.notMatch(answer.text, ADMIN.slice(0, 8));
    }
    const { status } = await front.request('GET', '/v1/plugins', {
      token: null,
      headers: { authorization: `bearer  ${ADMIN} ` },
    });
    t.equal(status, 200, 'the scheme is case-insensitive');
  });

  await t.test('a caller without the right calls plugins and does not administer', async (t) => {
    front.denied.length = 0;
    const asReader = (method: string, path: string) =>
      front.request<Problem>(method, path, { token: READER });
    t.equal((await asReader('GET', '/plugins/echo/notes/latest')).status, 202);
    for (const [method, path] of [
      ['GET', '/v1/plugins'],
      ['POST', '/v1/plugins'],
      ['DELETE', '/v1/plugins/echo'],
      ['POST', '/v1/plugins/echo/exports/any'],
      ['POST', '/v1/grants'],
      ['POST', '/v1/audit/verify'],
    ] as const) {
      const { status, body } = await asReader(method, path);
      t.strictSame([status, body.code], [403, 'PERMISSION_DENIED'], `${method} ${path}`);
    }
    t.match(front.denied[0], { kind: 'authorization', subject: 'reader', method: 'GET' });
  });

  t.notMatch(JSON.stringify(front.logged), /token-of-at/, 'no credential reaches the log');
});

await t.test(
  'guessing is slowed down, its record bounded, and a right credential passes',
  async (t) => {
    const front = await startFront();
    t.teardown(() => front.close());
    const guess = () =>
      front.request<Problem>('GET', '/v1/grants?q=secret', { token: 'x'.repeat(40) });
    const answers = await Promise.all(Array.from({ length: 60 }, guess));
    const limited = answers.filter(({ status }) => status === 429);
    t.ok(limited.length > 40, `${limited.length} of 60 were limited`);
    t.equal(limited[0]?.body.code, 'RATE_LIMITED');
    t.equal(limited[0]?.headers.get('retry-after'), '1');
    t.equal((await front.get('/v1/grants')).status, 200);
    t.ok(front.denied.length <= 20, `${front.denied.length} records`);
    await sleep(1100);
    await guess();
    const counted = front.denied.reduce((sum, { suppressed }) => sum + suppressed, 0);
    t.equal(counted + front.denied.length, 61, 'each denial is recorded or counted');
    t.match(front.denied[0], { kind: 'authentication', path: '/v1/grants', subject: undefined });
    t.notMatch(JSON.stringify([front.denied, front.logged]), /xxxx|secret/);
  },
);

await t.test('routes of plugins', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);
  const notes = '/plugins/echo/notes';

  await t.test(
    'input is the query, the members of the body and the path, the last one winning',
    async (t) => {
      t.match(await front.post(`${notes}?limit=2&text=q&done=true`, { text: 'b' }), {
        status: 201,
        body: { limit: 2, text: 'b', done: true },
      });
      const put = (path: string, body: Json) =>
        front.request('PUT', path, {
          body: JSON.stringify(body),
          headers: { 'content-type': 'application/json; charset=utf-8' },
        });
      t.strictSame((await put(`${notes}/7?id=8`, { id: '9', text: 'x' })).body, {
        id: '7',
        text: 'x',
      });
      t.strictSame((await front.get(`${notes}?tags=a&tags=b`)).body, { tags: ['a', 'b'] });
      t.strictSame((await front.get(`${notes}?tags=a`)).body, { tags: ['a'] });
      t.strictSame((await front.get(`${notes}/a%2Fb%20%C3%A9%25`)).body, { id: 'a/b é%' });
      t.strictSame((await front.get('/plugins/%65cho/notes/x')).body, { id: 'x' });
      t.strictSame((await front.get('/plugins/echo')).body, {});
      t.strictSame((await front.get('/plugins/echo/')).body, {});
    },
  );

  await t.test(
    'without query and parameters the body is the input, whatever JSON it is',
    async (t) => {
      for (const value of [[1, 'two'], 'text', 3.5, false, null, { a: { b: [] } }]) {
        const { text, status } = await front.post('/plugins/echo/any', value);
        t.strictSame([status, JSON.parse(text)], [200, value]);
      }
      t.equal((await front.post('/plugins/echo/any')).text, '{}');
      const headers = { 'content-type': 'application/json' };
      t.equal(
        (await front.request('PATCH', '/plugins/echo/any', { headers, body: '' })).text,
        '{}',
      );
      t.match(await front.post('/plugins/echo/any?x=1', [1]), {
        status: 400,
        body: { detail: /object/ },
      });
    },
  );

  await t.test('any text arrives as it was sent, by path, query or body', async (t) => {
    const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 40 });
    const segment = text.filter((value) => value !== '.' && value !== '..');
    const property = fc.asyncProperty(segment, text, text, async (id, tag, body) => {
      const query = new URLSearchParams({ tags: tag }).toString();
      const sent = { text: body };
      const { body: got } = await front.request(
        'PUT',
        `${notes}/${encodeURIComponent(id)}?${query}`,
        { body: JSON.stringify(sent), headers: { 'content-type': 'application/json' } },
      );
      t.strictSame(got, { tags: [tag], text: body, id });
    });
    await fc.assert(property, { numRuns: 60 });
  });

  await t.test('a fixed segment wins over a parameter, an empty one is no parameter', async (t) => {
    t.equal((await front.get(`${notes}/latest`)).status, 202);
    t.strictSame((await front.get(`${notes}/latest/parts/p`)).body, { id: 'latest', part: 'p' });
    for (const path of [
      `${notes}/`,
      `${notes}//parts/p`,
      `${notes}/1/parts`,
      '/plugins/echo//notes',
    ]) {
      t.match(await front.get(path), { status: 404, body: { code: 'NOT_FOUND' } }, path);
    }
  });

  await t.test(
    'a successful answer has the status of its route and the text of the plugin',
    async (t) => {
      const made = await front.post(notes, { text: '“日本”' });
      t.equal(made.status, 201);
      t.equal(made.headers.get('content-type'), 'application/json; charset=utf-8');
      t.equal(made.text, '{"text":"“日本”"}');
      const gone = await front.request('DELETE', `${notes}/1`);
      t.strictSame([gone.status, gone.text, gone.headers.get('content-type')], [204, '', null]);
      const head = await front.request('HEAD', `${notes}/1`);
      t.strictSame([head.status, head.text, head.headers.get('content-length')], [200, '', '10']);
    },
  );

  await t.test('other methods are answered with those that there are', async (t) => {
    const wrong = await front.request<Problem>('DELETE', notes);
    t.match(wrong, { status: 405, body: { code: 'METHOD_NOT_ALLOWED' } });
    t.equal(wrong.headers.get('allow'), 'POST, GET, HEAD, OPTIONS');
    const asked = await front.request('OPTIONS', `${notes}/latest`);
    t.strictSame(
      [asked.status, asked.headers.get('allow')],
      [204, 'GET, PUT, DELETE, HEAD, OPTIONS'],
    );
    t.equal((await front.request('OPTIONS', '/plugins/echo/none')).status, 404);
  });

  await t.test('a body is judged before the plugin sees it', async (t) => {
    const send = (body: string | Uint8Array, type = 'application/json', more = {}) =>
      front.request<Problem>('POST', notes, { body, headers: { 'content-type': type, ...more } });
    const extra = await send('{"text":"x","evil":1}');
    t.match(extra, { status: 400, body: { code: 'INVALID_ARGUMENT', detail: /evil/ } });
    t.match(extra.body.errors, [{ path: '/evil', rule: 'additionalProperties' }]);
    t.match(await send('{"text":'), { status: 400, body: { detail: /not JSON/ } });
    t.match(await send('{"__proto__":{"admin":true}}'), {
      status: 400,
      body: { detail: /__proto__/ },
    });
    t.match(await send('{"constructor":{"prototype":{}}}'), { status: 400 });
    t.match(await send(`{"\\u005f_proto__":1}`), { status: 400 });
    t.match(await send(Buffer.from('{"text":"\xff"}', 'latin1')), {
      status: 400,
      body: { detail: /UTF-8/ },
    });
    t.match(await front.get('/plugins/echo/?__proto__=1'), {
      status: 400,
      body: { detail: /__proto__/ },
    });
    t.match(await front.get(`${notes}?constructor=1&toString=2`), { status: 400 });
    t.match(await front.get(`${notes}?limit=many`), { status: 400, body: { detail: /limit/ } });
    for (const type of [
      'text/plain',
      'application/xml',
      'nonsense',
      'multipart/form-data; boundary=x',
    ]) {
      const answer = await send('{"text":"x"}', type);
      t.match(answer, { status: 415, body: { code: 'UNSUPPORTED_MEDIA_TYPE' } }, type);
      t.match(answer.body.detail, /application\/json/);
    }
    t.equal(
      (await send('{"text":"x"}', 'application/json', { 'content-encoding': 'gzip' })).status,
      415,
    );
  });

  await t.test(
    'a value nested without end is an error of its sender, not of the host',
    async (t) => {
      const deep = '['.repeat(30_000) + ']'.repeat(30_000);
      const headers = { 'content-type': 'application/json' };
      const answer = await front.request('POST', '/plugins/echo/any', { body: deep, headers });
      t.match(answer, { status: 400, body: { code: 'INVALID_ARGUMENT', detail: /deep/ } });
    },
  );

  await t.test('a member named twice has one value for host and plugin alike', async (t) => {
    const headers = { 'content-type': 'application/json' };
    const body = '{"text":"first", "text":"last"}';
    t.equal((await front.request('POST', notes, { body, headers })).text, '{"text":"last"}');
  });

  await t.test(
    'a body over the limit is refused with the limit, by its length or while it comes',
    async (t) => {
      const at = async (size: number, chunked: boolean) => {
        const bytes = Buffer.alloc(size, 0x20);
        bytes.write('{"text":"x"}');
        const body = chunked ? new Blob([bytes]).stream() : bytes;
        return front.request<Problem>('POST', notes, {
          body,
          headers: { 'content-type': 'application/json' },
          ...(chunked ? { duplex: 'half' } : {}),
        });
      };
      for (const chunked of [false, true]) {
        t.equal((await at(128 << 10, chunked)).status, 201);
        const over = await at((128 << 10) + 1, chunked);
        t.match(over, { status: 413, body: { code: 'PAYLOAD_TOO_LARGE' } });
        t.match(over.body.detail, /131072 bytes.*maxInputBytes of plugin echo/);
      }
      // A client that reads only when it has sent all: a reset would cost it the answer.
      const size = 8 << 20;
      const socket = connect(front.port, '127.0.0.1').pause();
      const head = `POST ${notes} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN}\r\n`;
      socket.write(`${head}Content-Type: application/json\r\nContent-Length: ${size}\r\n\r\n`);
      await promisify(socket.write.bind(socket) as (bytes: Buffer, done: () => void) => void)(
        Buffer.alloc(size, 0x20),
      );
      let answer = '';
      for await (const chunk of socket.setEncoding('utf8')) answer += String(chunk);
      t.match(answer, /^HTTP\/1\.1 413 /, 'the refusal reaches who is still sending');
    },
  );

  await t.test(
    'failures are problems: the plugin’s as its own, the host’s without their text',
    async (t) => {
      const failed = await front.get<Problem>('/plugins/echo/fail?token=abc');
      t.match(failed, {
        status: 429,
        body: { code: 'RATE_LIMITED', detail: 'slow down', details: { left: 0 } },
      });
      t.equal(failed.headers.get('retry-after'), '2');
      t.equal(failed.headers.get('content-type'), 'application/problem+json');
      const { type, title, instance, traceId } = failed.body;
      t.equal(type, 'urn:noa:error:RATE_LIMITED');
      t.equal(title, 'Too many requests');
      t.equal(instance, '/plugins/echo/fail');
      t.ok(failed.headers.get('traceparent')?.includes(traceId));

      const trap = await front.get<Problem>('/plugins/echo/trap');
      t.match(trap, { status: 500, body: { code: 'INTERNAL' } });
      t.notMatch(trap.text, /secret|TypeError|\/etc/);
      t.match(front.errors.at(-1), { error: { message: /secret is gone/ } }, 'the log has it');
      t.match(await front.get('/plugins/echo/bad'), {
        status: 500,
        body: { code: 'PLUGIN_OUTPUT_INVALID' },
      });
      t.match(await front.get('/plugins/echo/garbage'), {
        status: 500,
        body: { code: 'PLUGIN_OUTPUT_INVALID' },
      });
    },
  );

  await t.test('a caller that leaves aborts its call', async (t) => {
    const controller = new AbortController();
    const call = front.request('POST', '/plugins/echo/wait', {
      body: '{"n":1}',
      headers: { 'content-type': 'application/json' },
      signal: controller.signal,
    });
    while (waiting === undefined) await sleep(5);
    await sleep(30);
    t.equal(waiting.signal.aborted, false, 'a complete body is no departure');
    controller.abort();
    await t.rejects(call);
    while (!waiting.signal.aborted) await sleep(5);
    while (!front.observed.some(({ status }) => status === 499)) await sleep(5);
    t.match(front.observed.at(-1), { route: '/plugins/echo/wait', status: 499, plugin: 'echo' });
  });

  await t.test('a plugin that does not serve says why', async (t) => {
    const asks = { capability: 'store', operations: ['get'], resources: ['x'], reason: 'to read' };
    const pending = manifest({ name: 'pending', exports: { run: {} }, capabilities: [asks] });
    await front.install(pending, { run: () => 1 });
    t.match(await front.get('/plugins/pending/'), { status: 409, body: { code: 'GRANT_PENDING' } });
    t.match(await front.get('/plugins/absent/x'), { status: 404, body: { code: 'NOT_FOUND' } });
    t.match(await front.get('/plugins/__proto__/x'), { status: 404 });
    await front.post('/v1/plugins/echo/disable');
    t.match(await front.get(notes), { status: 409, body: { code: 'PLUGIN_DISABLED' } });
    await front.post('/v1/plugins/echo/enable');
    t.match(await front.get(notes), { status: 200 });
  });

  await t.test('a new version brings its own routes', async (t) => {
    const next = manifest({
      ...echo,
      version: '2.0.0',
      contributes: { routes: [{ method: 'GET', path: '/fresh', export: 'any' }] },
    });
    await front.request('PUT', '/v1/plugins/echo', {
      body: bundle(next),
      headers: { 'content-type': 'application/gzip' },
    });
    t.equal((await front.get('/plugins/echo/fresh')).status, 200);
    t.equal((await front.get(notes)).status, 404);
  });
});

await t.test(
  'every answer carries the ids of its request, the caller’s when they are sound',
  async (t) => {
    const front = await startFront();
    t.teardown(() => front.close());
    const ask = (headers: Record<string, string>, path = '/health') =>
      front.request('GET', path, { headers });
    const trace = '4bf92f3577b34da6a3ce929d0e0e4736';
    const given = await ask({
      'x-request-id': 'order-17/a',
      traceparent: `00-${trace}-00f067aa0ba902b7-01`,
    });
    t.equal(given.headers.get('x-request-id'), 'order-17/a');
    t.match(given.headers.get('traceparent'), new RegExp(`^00-${trace}-[0-9a-f]{16}-01$`));
    t.notMatch(given.headers.get('traceparent'), /00f067aa0ba902b7/, 'the span is our own');
    for (const traceparent of [
      '',
      'garbage',
      `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
      `00-${trace}-${'0'.repeat(16)}-01`,
      `ff-${trace}-00f067aa0ba902b7-01`,
      `00-${trace}-00f067aa0ba902b7-01-more`,
      `00-${trace.toUpperCase()}-00f067aa0ba902b7-01`,
    ]) {
      const { headers } = await ask({ traceparent, 'x-request-id': '{"evil": 1}' });
      t.match(headers.get('traceparent'), /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
      t.notMatch(headers.get('traceparent'), trace);
      t.match(headers.get('x-request-id'), /^[0-9a-f]{16}$/);
    }
    t.match(
      (await ask({ 'x-request-id': 'x'.repeat(129) })).headers.get('x-request-id'),
      /^[0-9a-f]{16}$/,
    );
    const failed = await ask({ traceparent: `00-${trace}-00f067aa0ba902b7-00` }, '/nowhere');
    t.equal(failed.body['traceId'], trace);
  },
);

await t.test('what is observed and logged has patterns for labels and no query', async (t) => {
  const front = await startFront();
  t.teardown(() => front.close());
  await front.install(echo, functions);
  await front.get('/plugins/echo/notes/41?text=secret');
  await front.get('/v1/plugins/echo');
  await front.get('/v1/none/of/this');
  await front.get('/plugins/absent/x/y');
  await front.request('GET', '/health', { token: null });
  while (front.logged.length < 5) await sleep(5);
  t.strictSame(
    front.observed.map(({ method, route, status, plugin }) => [method, route, status, plugin]),
    [
      ['GET', '/plugins/echo/notes/:id', 200, 'echo'],
      ['GET', '/v1/plugins/:name', 200, undefined],
      ['GET', 'unmatched', 404, undefined],
      ['GET', '/plugins/:name/*', 404, undefined],
      ['GET', '/health', 200, undefined],
    ],
  );
  t.match(front.logged[0], {
    path: '/plugins/echo/notes/41',
    subject: 'root',
    remoteAddress: '127.0.0.1',
  });
  t.equal(front.logged[4]?.subject, undefined);
  t.ok(front.logged.every(({ seconds }) => seconds > 0 && seconds < 5));
  t.notMatch(JSON.stringify(front.logged), /secret/);
});

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
        `GET /health HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n`,
        `GET /health HTTP/1.1\r\nHost: x\r\n folded: 1\r\n\r\n`,
        `GET /hea\u0000lth HTTP/1.1\r\nHost: x\r\n\r\n`,
        'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
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
    limits: { maxOutputBytes: 64 << 20 },
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
    limits: { maxOutputBytes: 64 << 20 },
    exports: { large: {} },
    contributes: { routes: [{ method: 'GET', path: '/', export: 'large' }] },
  });
  await front.install(large, { large: () => 'x'.repeat(32 << 20) });
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
    limits: { maxOutputBytes: 64 << 20 },
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
    large: () => 'x'.repeat(32 << 20),
  };

  const gentle = await startFront();
  await gentle.install(works, exports);
  await gentle.get('/health'); // leaves an idle connection behind
  const early = gentle.get('/plugins/works/nap/50');
  const running = gentle.get('/plugins/works/nap/400');
  await early;
  const started = performance.now();
  const closed = gentle.close(5000);
  await t.rejects(gentle.get('/health'), 'no new connection is taken');
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
  t.ok(received > 32 << 20, `the answer is whole: ${received}`);

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
