/** The front itself: whom it lets in, the ids of a request, and what is noted of it. */
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { echo, functions } from './echo.ts';
import { ADMIN, type Problem, READER, startFront } from './front.ts';

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
    t.ok(limited.length > 20, `${limited.length} of 60 were limited`);
    t.equal(limited[0]?.body.code, 'RATE_LIMITED');
    t.equal(limited[0]?.headers.get('retry-after'), '1');
    t.equal((await front.get('/v1/grants')).status, 200);
    t.ok(front.denied.length <= 40, `${front.denied.length} records`);
    await sleep(1100);
    await guess();
    const counted = front.denied.reduce((sum, { suppressed }) => sum + suppressed, 0);
    t.equal(counted + front.denied.length, 61, 'each denial is recorded or counted');
    t.match(front.denied[0], { kind: 'authentication', path: '/v1/grants', subject: undefined });
    t.notMatch(JSON.stringify([front.denied, front.logged]), /xxxx|secret/);
  },
);

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
