/** Routes of plugins: from a request to an export's input, and from its outcome to an answer. */
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Json } from '@noa/sdk/host';
import fc from 'fast-check';
import t from 'tap';
import { echo, functions, waiting } from './echo.ts';
import { ADMIN, bundle, manifest, type Problem, startFront } from './front.ts';

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
      const least = '['.repeat(129) + ']'.repeat(129);
      t.match(await front.request('POST', '/plugins/echo/any', { body: least, headers }), {
        status: 400,
        body: { code: 'INVALID_ARGUMENT', detail: /more than 128 levels deep/ },
      });
      t.match(await front.get('/plugins/echo/heap'), {
        status: 500,
        body: { code: 'PLUGIN_OUTPUT_INVALID', detail: /more than 200000 values/ },
      });
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

      const deep = await front.get<Problem>('/plugins/echo/deep');
      t.match(deep, { status: 409, body: { code: 'CONFLICT', detail: 'too deep to be written' } });
      t.notOk('details' in deep.body, 'particulars that cannot be written are left out');

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
    while (waiting.length === 0) await sleep(5);
    await sleep(30);
    t.equal(waiting[0]?.aborted, false, 'a complete body is no departure');
    controller.abort();
    await t.rejects(call);
    while (waiting[0]?.aborted !== true) await sleep(5);
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
