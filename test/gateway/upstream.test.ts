/** Routes to other servers: what goes through, in which form, and what a caller is told when it cannot. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import {
  createServer as createTcpServer,
  type AddressInfo,
  type LookupFunction,
  type Socket,
} from 'node:net';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { isOwnPath, routes as key } from '../../host/config/routes.ts';
import { Breaker } from '../../host/gateway/upstream/breaker.ts';
import { UpstreamRoutes } from '../../host/gateway/upstream/routes.ts';
import { ADMIN } from '../transports/front.ts';
import { Backend, bodyOf, CALLER, routesOf, startGateway, until } from './upstream-kit.ts';

t.setTimeout(120_000);

const echo = (): Backend =>
  new Backend((request, response) => {
    void bodyOf(request).then((text) => {
      const { method, url, headers } = request;
      response.end(JSON.stringify({ method, url, headers, text }));
    });
  });

type Echo = { method: string; url: string; headers: Record<string, string>; text: string };

/** A request whose body and answer the test moves itself. */
function open(
  port: number,
  {
    headers,
    ...options
  }: Omit<RequestOptions, 'headers'> & {
    headers?: { [name: string]: string | number };
  },
) {
  const request = httpRequest({
    host: '127.0.0.1',
    port,
    ...options,
    headers: { authorization: `Bearer ${ADMIN}`, ...headers },
  });
  const answer = once(request, 'response').then(([response]) => response as IncomingMessage);
  answer.catch(() => undefined);
  request.on('error', () => undefined);
  return { request, answer };
}

void t.test('headers', async (t) => {
  const backend = await echo().listen();
  const plain = [{ url: backend.url }];
  const gateway = await startGateway([
    { name: 'plain', path: '/plain', upstreams: plain },
    {
      name: 'trusted',
      path: '/trusted',
      upstreams: plain,
      forward_authorization: true,
      forward_identity: true,
      headers: {
        request: { set: { 'x-key': 'k', 'x-both': 'route' }, remove: ['cookie'] },
        response: { set: { 'x-frame-options': 'DENY' }, remove: ['server'] },
      },
    },
  ]);
  t.teardown(async () => {
    await gateway.close();
    await backend.close();
  });
  const sent = {
    connection: 'keep-alive, X-Drop-Me',
    'x-drop-me': '1',
    te: 'trailers',
    'proxy-authorization': 'Basic eA==',
    'keep-alive': 'timeout=5',
    'x-forwarded-for': '6.6.6.6',
    'x-forwarded-proto': 'https',
    'x-forwarded-whatever': 'x',
    'x-real-ip': '6.6.6.6',
    forwarded: 'for=6.6.6.6',
    'x-noa-subject': 'bootstrap',
    'x-noa-roles': 'admin',
    x_noa_subject: 'bootstrap',
    'x_forwarded-for': '6.6.6.6',
    x_real_ip: '6.6.6.6',
    'x-http-method-override': 'DELETE',
    'x-original-url': '/admin',
    'x-api-key': 'secret-of-this-host',
    cookie: 'a=1',
    'x-both': 'caller',
    'x-request-id': 'my-id-1',
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    tracestate: 'vendor=1',
    via: '1.0 fred',
  };
  const ask = async (path: string, headers: Record<string, string> = sent) => {
    const all = { authorization: `Bearer ${CALLER}`, ...headers };
    const { request, answer } = open(gateway.port, { path, headers: all });
    request.end();
    const response = await answer;
    return { response, body: JSON.parse(await bodyOf(response)) as Echo };
  };

  await t.test('of one connection end with it, and nobody says who he is', async (t) => {
    const { headers } = (await ask('/plain')).body;
    const gone = Object.keys(sent).filter(
      (name) =>
        !/^(connection|x-forwarded-(for|proto)|forwarded|cookie|x-both|x-request-id|trace.*|via)$/.test(
          name,
        ),
    );
    for (const name of [...gone, 'authorization']) t.notOk(name in headers, name);
    t.equal(headers['x-forwarded-for'], '127.0.0.1');
    t.equal(headers['x-forwarded-proto'], 'http');
    t.equal(headers['x-forwarded-host'], `127.0.0.1:${gateway.port}`);
    t.match(headers['forwarded'], /^for=127\.0\.0\.1;host="127\.0\.0\.1:\d+";proto=http$/);
    t.equal(
      headers['host'],
      backend.url.slice('http://'.length),
      'the server is asked by its name',
    );
    t.equal(headers['via'], '1.0 fred, 1.1 noa');
    t.match(
      headers,
      { cookie: 'a=1', 'x-both': 'caller' },
      'what is the application’s goes through',
    );
  });

  await t.test('the request id and the trace go on', async (t) => {
    const { headers } = (await ask('/plain')).body;
    t.equal(headers['x-request-id'], 'my-id-1');
    t.match(
      headers['traceparent'],
      /^00-0af7651916cd43dd8448eb211c80319c-(?!b7ad6b7169203331)[0-9a-f]{16}-01$/,
    );
    t.equal(headers['tracestate'], 'vendor=1');
    const other = (await ask('/plain', { traceparent: 'junk', tracestate: 'vendor=1' })).body;
    t.notOk(
      'tracestate' in other.headers,
      'the state of a trace that is not carried on is dropped',
    );
  });

  await t.test('a route may say otherwise', async (t) => {
    const { response, body } = await ask('/trusted');
    t.equal(body.headers['authorization'], `Bearer ${CALLER}`);
    t.equal(body.headers['x-api-key'], sent['x-api-key']);
    t.equal(body.headers['x-noa-subject'], 'user:anna%20%C3%BC', 'who it is, in ASCII');
    t.equal(body.headers['x-noa-roles'], 'clerk,a%2Cb');
    t.match(body.headers, { 'x-key': 'k', 'x-both': 'route' });
    t.notOk('cookie' in body.headers);
    t.equal(response.headers['x-frame-options'], 'DENY');
  });

  await t.test('of the answer', async (t) => {
    backend.behaviour = (_request, response) => {
      const fields = [
        ['Set-Cookie', 'a=1'],
        ['Set-Cookie', 'b=2'],
        ['Server', 's'],
        ['X-Request-Id', 'theirs'],
        ['Alt-Svc', 'h3=":443"'],
        ['Connection', 'x-hop'],
        ['X-Hop', '1'],
        ['Content-Type', 'a/b'],
      ];
      response.writeHead(207, 'Odd', fields.flat());
      response.end('body');
    };
    const answer = await gateway.get('/trusted');
    t.equal(answer.status, 207);
    t.same(answer.headers.getSetCookie(), ['a=1', 'b=2']);
    t.equal(answer.headers.get('content-type'), 'a/b');
    t.not(answer.headers.get('x-request-id'), 'theirs');
    for (const name of ['alt-svc', 'x-hop', 'server']) t.notOk(answer.headers.has(name), name);
    backend.behaviour = (_request, response) => void response.writeHead(304, { etag: '"1"' }).end();
    t.match(await gateway.get('/plain'), { status: 304, text: '' });
    t.match(await gateway.request('HEAD', '/plain'), { status: 304 });
  });
});

void t.test('paths', async (t) => {
  const backend = await echo().listen();
  const at = (path = '') => [{ url: `${backend.url}${path}` }];
  const gateway = await startGateway([
    { name: 'all', path: '/', upstreams: at() },
    { name: 'shop', path: '/shop', upstreams: at('/base/'), strip_prefix: true },
    {
      name: 'cart',
      path: '/shop/cart',
      upstreams: at(),
      methods: ['GET', 'POST'],
      scope: 'orders:read',
    },
    { name: 'admin', path: '/shop/admin', upstreams: at(), scope: 'shop:admin' },
  ]);
  t.teardown(async () => {
    await gateway.close();
    await backend.close();
  });
  const urlOf = async (path: string) => {
    const { request, answer } = open(gateway.port, { path });
    request.end();
    const response = await answer;
    const body = JSON.parse(await bodyOf(response)) as Partial<Echo> & { code?: string };
    return body.url ?? `${response.statusCode} ${body.code}`;
  };

  await t.test('are sent as they came, but for the prefix', async (t) => {
    for (const [path, sent] of [
      ['/shop', '/base/'],
      ['/shop/', '/base/'],
      ['/shop/a%2Fb/%C3%BC?x=%2e%2e/&y=1?2', '/base/a%2Fb/%C3%BC?x=%2e%2e/&y=1?2'],
      ['/shop?x', '/base/?x'],
      ['/shopping/a', '/shopping/a'],
      ['/shop/cart/1', '/shop/cart/1'],
      ['/else//where', '/else//where'],
      [`/shop/${'x'.repeat(2000)}`, `/base/${'x'.repeat(2000)}`],
      ['http://else.example/shop/a?b', '/base/a?b'],
    ] as const) {
      t.equal(await urlOf(path), sent, path);
    }
  });

  await t.test('that a server would read as others are refused', async (t) => {
    const seen = backend.seen.length;
    for (const tail of [
      '../x',
      '%2e%2e/x',
      '..%2fx',
      '..;/x',
      '%252e%252e%252fx',
      'a/..',
      './a',
      '..%5cx',
    ]) {
      t.equal(await urlOf(`/shop/${tail}`), '400 INVALID_ARGUMENT', tail);
    }
    for (const path of [
      '/shop/%61dmin/x',
      '/shop/%2561dmin/x',
      '/shop/admin%2fx',
      '/shop//admin/x',
      '/shop/admin;a=1/x',
      '/shop/admin%3bx',
      '/shop\\admin/x',
      '/%73hop/admin',
      '//shop/cart/1',
      '/%76%31/none',
    ]) {
      t.equal(
        await urlOf(path),
        '404 NOT_FOUND',
        `${path} is no way round what the route asks for`,
      );
    }
    t.equal(backend.seen.length, seen);
  });

  await t.test('of this host are never handed on', async (t) => {
    for (const path of [
      '/v1/nothing',
      '/plugins/none/x',
      '/metrics/x',
      '/noa.api.v1.X/Y',
      '/.well-known/x',
    ]) {
      t.match(await urlOf(path), /^404 /, path);
    }
    t.match(await gateway.get('/v1/plugins'), { status: 200 });
    t.match(await gateway.get('/health'), { status: 200 });
    t.match(await gateway.request('GET', '/shop/a', { token: null }), { status: 401 });
  });

  await t.test('take the methods and the scope that the route says', async (t) => {
    const put = await gateway.request('PUT', '/shop/cart', { token: CALLER });
    t.match(put, { status: 405, body: { code: 'METHOD_NOT_ALLOWED' } });
    t.equal(put.headers.get('allow'), 'GET, POST, HEAD, OPTIONS');
    t.match(await gateway.request('HEAD', '/shop/cart', { token: CALLER }), { status: 200 });
    t.match(await gateway.request('GET', '/shop/cart', { token: CALLER }), { status: 200 });
    const refused = await gateway.request('GET', '/shop/admin', { token: CALLER });
    t.match(refused, { status: 403, body: { code: 'PERMISSION_DENIED' } });
    const asked = ['/shop/admin/*', '/shop/cart/*'];
    t.match(gateway.observed.at(-1), { route: asked[0], status: 403 });
    t.ok(
      gateway.observed.some(({ route }) => route === asked[1]),
      'metrics tell the route',
    );
  });
});

void t.test('configuration', async (t) => {
  const route = { name: 'a', path: '/a', upstreams: [{ url: 'http://127.0.0.1:1' }] };
  const fault = (change: object, ...more: object[]) =>
    key.fault?.([{ ...route, ...change }, ...more]);
  t.equal(fault({}), undefined);
  for (const path of [
    '/v1',
    '/v1/x',
    '/plugins',
    '/health',
    '/ws/x',
    '/noa.api.v1.X',
    '/openapi.json',
  ]) {
    t.match(fault({ path }), /\/0\/path would shadow the host's own/, path);
    t.ok(isOwnPath(path));
  }
  t.match(fault({ path: '/v1x' }), undefined);
  t.match(fault({ path: '/a/' }), /path must be \/ or a path such as/);
  t.match(fault({ path: '/a/../b' }), /path must be \/ or a path such as/);
  t.match(fault({ path: '/%61' }), /path must be \/ or a path such as/);
  t.match(fault({}, { ...route, name: 'b' }), /\/1\/path is that of another table/);
  t.match(fault({ upstreams: [] }), /upstreams must/);
  t.match(fault({ upstreams: [{ url: 'http://u:p@h/' }] }), /url must be a URL such as/);
  t.match(fault({ upstreams: [{ url: 'ftp://h/' }] }), /url must be a URL such as/);
  t.match(fault({ headers: { request: { set: { host: 'x' } } } }), /names host, which the gateway/);
  t.match(
    fault({ headers: { request: { set: { 'x-noa-subject': 'x' } } } }),
    /names x-noa-subject/,
  );
  t.match(fault({ headers: { response: { set: { 'x-a': 'a\r\nb: c' } } } }), /must match/);
  t.match(fault({ retry: {} }), /retry is not a known key/);

  const set = { headers: { request: { set: { authorization: 'env:KEY' } } } };
  const resolve = (given: string): string => given.replace(/^env:KEY$/, 'Bearer s');
  const [read] = key.read([{ ...route, ...set }], '/', resolve) ?? [];
  t.equal(read?.headers.request.set['authorization'], 'Bearer s', 'secrets come by reference');
  const missing = (given: string): string => {
    if (given.startsWith('env:')) throw new Error('is not set');
    return given;
  };
  t.equal(
    key.fault?.([{ ...route, ...set }], missing),
    '/0/headers/request/set/authorization is not set',
  );
});

void t.test('streams', async (t) => {
  const backend = await echo().listen();
  const gateway = await startGateway([
    { name: 's', path: '/s', upstreams: [{ url: backend.url }], max_body_bytes: 64 << 20 },
    { name: 'small', path: '/small', upstreams: [{ url: backend.url }], max_body_bytes: 1000 },
  ]);
  t.teardown(async () => {
    await gateway.close();
    await backend.close();
  });

  await t.test('each part goes on when it comes, both ways', async (t) => {
    backend.behaviour = (request, response) => {
      request.on('data', (chunk: Buffer) => response.write(`<${chunk.toString()}>`));
      request.on('end', () => response.end('end'));
    };
    const { request, answer } = open(gateway.port, { path: '/s', method: 'POST' });
    request.write('one');
    const response = await answer; // which begins before the request has ended
    response.setEncoding('utf8');
    t.same(await once(response, 'data'), ['<one>']);
    request.write('two');
    t.same(await once(response, 'data'), ['<two>']);
    request.end();
    t.equal(await bodyOf(response), 'end');
  });

  await t.test('large bodies arrive whole', async (t) => {
    const bytes = randomBytes(8 << 20);
    backend.behaviour = (request, response) => void request.pipe(response);
    for (const headers of [{}, { 'content-length': bytes.length }]) {
      const { request, answer } = open(gateway.port, { path: '/s', method: 'PUT', headers });
      request.end(bytes);
      const hash = createHash('sha256');
      for await (const chunk of await answer) hash.update(chunk as Buffer);
      t.equal(hash.digest('hex'), createHash('sha256').update(bytes).digest('hex'));
    }
  });

  await t.test('a caller that does not read holds the server back', async (t) => {
    const total = 256 << 20;
    const chunk = Buffer.alloc(1 << 20);
    let written = 0;
    backend.behaviour = (_request, response) => {
      const more = (): void => {
        while (written < total) {
          written += chunk.length;
          if (!response.write(chunk)) return;
        }
        response.end();
      };
      response.on('drain', more);
      more();
    };
    const { request, answer } = open(gateway.port, { path: '/s' });
    request.end();
    const response = await answer;
    response.pause();
    for (let before = -1; before !== written;) {
      before = written;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    t.ok(written < total / 4, `${written >> 20} MiB of ${total >> 20} were taken`);
    let read = 0;
    for await (const part of response) read += (part as Buffer).length;
    t.equal(read, total, 'and then it gets all');
  });

  await t.test('a body over the limit is refused, with and without its length', async (t) => {
    backend.behaviour = (request, response) =>
      void bodyOf(request).then(
        () => response.end(),
        () => undefined,
      );
    for (const headers of [{}, { 'content-length': 5000 }]) {
      const { request, answer } = open(gateway.port, { path: '/small', method: 'POST', headers });
      request.end(Buffer.alloc(5000));
      const response = await answer;
      t.equal(response.statusCode, 413);
      t.match(JSON.parse(await bodyOf(response)), {
        code: 'PAYLOAD_TOO_LARGE',
        detail: /max_body_bytes/,
      });
    }
    const exact = open(gateway.port, { path: '/small', method: 'POST' });
    exact.request.end(Buffer.alloc(1000));
    t.equal((await exact.answer).statusCode, 200);
    t.equal([...gateway.upstreams.stats()][1]?.state, 'closed');
  });
});

void t.test('a caller that reads nothing is cut off, and its server is free', async (t) => {
  const backend = new Backend((_request, response) => {
    response.on('drain', () => response.write(Buffer.alloc(1 << 20)));
    response.write(Buffer.alloc(32 << 20));
  });
  await backend.listen();
  const gateway = await startGateway(
    [{ name: 'r', path: '/r', upstreams: [{ url: backend.url }] }],
    {
      limits: { stallTimeoutMs: 200 },
    },
  );
  t.teardown(async () => {
    await gateway.close();
    await backend.close();
  });
  const { request, answer } = open(gateway.port, { path: '/r' });
  request.end();
  const response = await answer;
  response.pause();
  await until(() => gateway.logged.length === 1);
  t.match(gateway.logged, [{ status: 499 }]);
  const [connection] = backend.seen;
  await until(() => connection?.socket.destroyed === true);
  t.pass('the connection behind it is closed');
  request.destroy();
});

void t.test('whoever leaves', async (t) => {
  const backend = await echo().listen();
  const gateway = await startGateway([
    {
      name: 'r',
      path: '/r',
      upstreams: [{ url: backend.url }],
      breaker: { failures: 2, open_ms: 60_000 },
    },
  ]);
  t.teardown(async () => {
    await gateway.close();
    await backend.close();
  });
  const left = async (method: string, begin: boolean): Promise<void> => {
    const closed = new Promise<void>((resolve) => {
      backend.behaviour = (_request, response) => {
        response.on('close', () => resolve());
        if (begin) response.write('a part');
      };
    });
    const seen = backend.seen.length;
    const { request, answer } = open(gateway.port, { path: '/r', method });
    if (method === 'POST') request.write('a part');
    else request.end();
    await until(() => backend.seen.length > seen);
    if (begin) await once(await answer, 'data');
    request.destroy();
    await closed;
  };
  for (const method of ['GET', 'POST']) {
    await left(method, false);
    t.pass(`${method}: the server hears that nobody waits for its answer`);
    await left(method, true);
    t.pass(`${method}: the server hears that nobody reads on`);
  }
  await until(() => gateway.logged.length === 4);
  t.same(
    gateway.logged.map(({ status }) => status),
    [499, 499, 499, 499],
  );
  const [stats] = gateway.upstreams.stats();
  t.equal(stats?.state, 'closed', 'none of that is held against the server');
  t.equal(stats?.requests.get('cancelled'), 2);
  backend.behaviour = (_request, response) => void response.end('fine');
  t.match(await gateway.get('/r'), { status: 200, text: 'fine' });
});

void t.test('a server that fails', async (t) => {
  const raw: { answer: (socket: Socket) => void } = { answer: () => undefined };
  const server = createTcpServer((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => raw.answer(socket));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const gateway = await startGateway([
    {
      name: 'raw',
      path: '/raw',
      upstreams: [{ url }],
      timeout_ms: 300,
      breaker: { failures: 1000 },
    },
    {
      name: 'none',
      path: '/none',
      upstreams: [{ url: 'http://127.0.0.1:1' }],
      breaker: { failures: 1000 },
    },
  ]);
  t.teardown(async () => {
    await gateway.close();
    server.close();
  });

  for (const [what, answer, status, code] of [
    ['ends without a word', (socket) => socket.end(), 502, 'UNAVAILABLE'],
    ['resets', (socket) => socket.resetAndDestroy(), 502, 'UNAVAILABLE'],
    ['speaks no HTTP', (socket) => socket.end('SSH-2.0-x\r\n'), 502, 'UNAVAILABLE'],
    ['stops in its headers', (socket) => socket.end('HTTP/1.1 200 OK\r\nA: b'), 502, 'UNAVAILABLE'],
    [
      'says two lengths',
      (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx'),
      502,
      'UNAVAILABLE',
    ],
    [
      'has endless headers',
      (socket) => socket.end(`HTTP/1.1 200 OK\r\nA: ${'x'.repeat(200_000)}`),
      502,
      'UNAVAILABLE',
    ],
    [
      'ends before its body',
      (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n'),
      502,
      'UNAVAILABLE',
    ],
    ['never answers', () => undefined, 504, 'DEADLINE_EXCEEDED'],
    [
      'stops in the middle of its headers',
      (socket) => socket.write('HTTP/1.1 200 OK\r\nA:'),
      504,
      'DEADLINE_EXCEEDED',
    ],
  ] as [string, (socket: Socket) => void, number, string][]) {
    raw.answer = answer;
    const { body, ...rest } = await gateway.get('/raw');
    t.match(rest, { status, headers: { get: Function } }, what);
    t.match(body, { status, code, detail: /^route raw: / }, what);
    t.notMatch(
      JSON.stringify(body),
      /127\.0\.0\.1|ECONN|UND_ERR/,
      'and says nothing of the server',
    );
  }
  const refused = await gateway.get('/none');
  t.match(refused, { status: 503, body: { code: 'UNAVAILABLE' } });
  t.equal(refused.headers.get('retry-after'), '1');

  for (const [what, answer] of [
    [
      'dies in the middle of its body',
      (socket) =>
        socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf', () =>
          socket.resetAndDestroy(),
        ),
    ],
    [
      'falls silent in the middle of its body',
      (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf'),
    ],
    [
      'breaks its chunks',
      (socket) =>
        socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nZZ\r\n'),
    ],
  ] as [string, (socket: Socket) => void][]) {
    raw.answer = answer;
    const { request, answer: begun } = open(gateway.port, { path: '/raw' });
    request.end();
    const response = await begun;
    t.equal(response.statusCode, 200);
    await t.rejects(
      bodyOf(response),
      { code: 'ECONNRESET' },
      `${what}: no caller takes it for whole`,
    );
  }
  t.same(gateway.errors, [], 'and the host has no fault of its own to log');
});

void t.test('repeats', async (t) => {
  const flaky = await echo().listen();
  const steady = await echo().listen();
  const retries = { attempts: 3, backoff_ms: 1 };
  const breaker = { failures: 1000 };
  const gateway = await startGateway([
    {
      name: 'one',
      path: '/one',
      upstreams: [{ url: flaky.url }],
      retries,
      breaker,
      timeout_ms: 20_000,
    },
    {
      name: 'two',
      path: '/two',
      upstreams: [{ url: flaky.url, weight: 1000 }, { url: steady.url }],
      retries,
      breaker,
    },
    { name: 'no', path: '/no', upstreams: [{ url: flaky.url }], breaker },
  ]);
  t.teardown(async () => {
    await gateway.close();
    await flaky.close();
    await steady.close();
  });
  let failures = 0;
  const answer = flaky.behaviour;
  const fail = (times: number, how: Backend['behaviour']): void => {
    failures = times;
    flaky.behaviour = (request, response) => {
      failures -= 1;
      (failures >= 0 ? how : answer)(request, response);
    };
    flaky.seen.length = 0;
    steady.seen.length = 0;
  };
  const unavailable: Backend['behaviour'] = (request, response) => {
    request.resume();
    response.writeHead(503, { 'x-from': 'server' }).end('not now');
  };

  await t.test('what may be repeated', async (t) => {
    for (const how of [
      unavailable,
      ((request) => request.socket.destroy()) as Backend['behaviour'],
    ]) {
      fail(2, how);
      t.match(await gateway.get('/one'), { status: 200 });
      t.equal(flaky.seen.length, 3);
      fail(2, how);
      const put = await gateway.request('PUT', '/one', { body: 'text' });
      t.match(
        JSON.parse(put.text),
        { method: 'PUT', text: 'text' },
        'the body goes with each attempt',
      );
      fail(2, how);
      const keyed = { body: 'text', headers: { 'idempotency-key': 'k' } };
      t.match(JSON.parse((await gateway.request('POST', '/one', keyed)).text), { text: 'text' });
      fail(1, how);
      t.match(await gateway.request('POST', '/one', { body: 'text' }), {
        status: how === unavailable ? 503 : 502,
      });
      t.equal(flaky.seen.length, 1, 'a POST is sent once');
      fail(1, how);
      t.match(await gateway.request('PUT', '/one', { body: 'x'.repeat(100_000) }), {
        status: how === unavailable ? 503 : 502,
      });
      t.equal(flaky.seen.length, 1, 'so is a body too long to be kept');
      fail(1, how);
      t.not((await gateway.get('/no')).status, 200, 'and all where the route does not ask for it');
    }
  });

  await t.test('is bounded, and the last answer is the caller’s', async (t) => {
    fail(10, unavailable);
    const last = await gateway.get('/one');
    t.match(last, { status: 503, text: 'not now' });
    t.equal(last.headers.get('x-from'), 'server');
    t.equal(flaky.seen.length, 3);
    fail(10, (_request, response) => void response.writeHead(500).end('own fault'));
    t.match(await gateway.get('/one'), { status: 500, text: 'own fault' });
    t.equal(flaky.seen.length, 1, 'of a status that the route does not name, none');
  });

  await t.test('goes to another server when there is one', async (t) => {
    fail(10, unavailable);
    t.match(await gateway.get('/two'), { status: 200 });
    t.same([flaky.seen.length, steady.seen.length], [1, 1]);
  });

  await t.test('waits as long as the server asks for, if there is the time', async (t) => {
    fail(1, (_request, response) => void response.writeHead(503, { 'retry-after': '1' }).end());
    const started = performance.now();
    t.match(await gateway.get('/one'), { status: 200 });
    t.ok(performance.now() - started >= 990);
    fail(1, (_request, response) => void response.writeHead(503, { 'retry-after': '60' }).end());
    const told = await gateway.get('/one');
    t.match(told, { status: 503 });
    t.equal(told.headers.get('retry-after'), '60', 'else the caller is told');
  });
});

void t.test('servers side by side', async (t) => {
  const backends = await Promise.all([echo().listen(), echo().listen()]);
  const [a, b] = backends;
  const breaker = { failures: 2, open_ms: 300 };
  const tables = (weight: number) => [
    { name: 'w', path: '/w', upstreams: [{ url: a.url, weight }, { url: b.url }], breaker },
    { name: 'q', path: '/q', upstreams: [{ url: a.url }], max_connections: 1, breaker },
  ];
  const gateway = await startGateway(tables(3));
  t.teardown(async () => {
    await gateway.close();
    for (const backend of backends) await backend.close();
  });
  const clear = (): void => backends.forEach(({ seen }) => void (seen.length = 0));

  await t.test('share by weight, smoothly', async (t) => {
    const order: string[] = [];
    for (let i = 0; i < 8; i += 1) {
      clear();
      await gateway.get('/w');
      order.push(a.seen.length === 1 ? 'a' : 'b');
    }
    t.equal(order.join(''), 'aabaaaba');
    gateway.upstreams.configure(routesOf(tables(1)));
    clear();
    for (let i = 0; i < 6; i += 1) await gateway.get('/w');
    t.same([a.seen.length, b.seen.length], [3, 3], 'and by another after a reload');
  });

  await t.test('a dead one is left out until a probe of it passes', async (t) => {
    await a.close();
    const statuses: number[] = [];
    for (let i = 0; i < 12; i += 1) statuses.push((await gateway.get('/w')).status);
    t.ok(statuses.filter((status) => status === 503).length >= 2);
    t.same(statuses.slice(-6), Array(6).fill(200), 'nobody is sent to it any more');
    t.match(gateway.changes, [
      { route: 'w', upstream: a.url, state: 'open', because: /connect \(ECONNREFUSED\)/ },
    ]);
    gateway.upstreams.configure(routesOf(tables(1)));
    t.match([...gateway.upstreams.stats()][0], { state: /open/ }, 'a reload does not forget it');
    await a.listen();
    clear();
    await until(() => [...gateway.upstreams.stats()][0]?.state === 'half-open');
    for (let i = 0; i < 4; i += 1) t.match(await gateway.get('/w'), { status: 200 });
    t.ok(a.seen.length >= 1);
    t.match(gateway.changes.at(-1), { route: 'w', state: 'closed' });
  });

  await t.test('with none left the caller is told when to come again', async (t) => {
    const answer = a.behaviour;
    a.behaviour = b.behaviour = (_request, response) => void response.writeHead(502).end();
    for (let i = 0; i < 4; i += 1) t.match(await gateway.get('/w'), { status: 502 });
    clear();
    const refused = await gateway.get('/w');
    t.match(refused, { status: 503, body: { code: 'UNAVAILABLE', detail: /none of the servers/ } });
    t.equal(refused.headers.get('retry-after'), '1');
    t.same([a.seen.length, b.seen.length], [0, 0]);
    a.behaviour = b.behaviour = answer;
  });

  await t.test('each has so many requests and no more', async (t) => {
    const held: (() => void)[] = [];
    a.behaviour = (_request, response) => void held.push(() => response.end('late'));
    clear();
    const first = gateway.get('/q');
    await until(() => a.seen.length === 1);
    const more = [gateway.get('/q'), gateway.get('/q')];
    t.match(await Promise.race(more), { status: 503, body: { code: 'UNAVAILABLE' } });
    t.equal(a.seen.length, 1, 'one connection');
    held.shift()?.();
    t.match(await first, { status: 200, text: 'late' });
    await until(() => held.length > 0);
    held.shift()?.();
    const statuses = (await Promise.all(more)).map(({ status }) => status);
    t.same(
      statuses.toSorted((a, b) => a - b),
      [200, 503],
      'one has waited',
    );
  });

  await t.test('a change takes no request down', async (t) => {
    let finish = (): void => undefined;
    b.behaviour = (_request, response) => {
      response.write('begun ');
      finish = () => void response.end('and ended');
    };
    gateway.upstreams.configure(routesOf([{ name: 'n', path: '/n', upstreams: [{ url: b.url }] }]));
    const { request, answer } = open(gateway.port, { path: '/n' });
    request.end();
    const response = await answer;
    gateway.upstreams.configure([]);
    t.match(await gateway.get('/n'), { status: 404 });
    finish();
    t.equal(await bodyOf(response), 'begun and ended');
    t.same([...gateway.upstreams.stats()], []);
  });
});

void t.test('a caller that is slow with its request does not make the server late', async (t) => {
  const backend = await echo().listen();
  const gateway = await startGateway([
    {
      name: 'u',
      path: '/u',
      upstreams: [{ url: backend.url }],
      timeout_ms: 2000, // also of a machine with other work
      breaker: { failures: 1 },
    },
  ]);
  t.teardown(async () => {
    await gateway.close();
    await backend.close();
  });
  const { request, answer } = open(gateway.port, { path: '/u', method: 'POST' });
  request.write('a');
  await new Promise((resolve) => setTimeout(resolve, 3000));
  request.end('b');
  const response = await answer;
  t.equal(response.statusCode, 200);
  t.match(JSON.parse(await bodyOf(response)), { text: 'ab' });
});

void t.test('a server over TLS has to be whom the route names', async (t) => {
  const pem = (name: string): string =>
    readFileSync(join(import.meta.dirname, '../fixtures/tls', name), 'utf8');
  const server = createTlsServer(
    { cert: pem('cert.pem'), key: pem('key.pem') },
    (_request, response) => {
      response.end('secret');
    },
  ).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const names: string[] = [];
  const lookup =
    (): LookupFunction =>
    (name, { all }, answer) => {
      names.push(name);
      return all
        ? answer(null, [{ address: '127.0.0.1', family: 4 }])
        : answer(null, '127.0.0.1', 4);
    };
  const answers: { status: number; text: string }[] = [];
  for (const [host, authorities] of [
    ['secure.test', [pem('cert.pem')]],
    ['secure.test', []],
    ['other.test', [pem('cert.pem')]],
  ] as const) {
    const upstreams = new UpstreamRoutes(
      { now: () => performance.now(), isOwnPath, lookup, authorities, onBreaker: () => undefined },
      routesOf([{ name: 's', path: '/s', upstreams: [{ url: `https://${host}:${port}` }] }]),
    );
    const gateway = await startGateway([], { upstreams });
    answers.push(await gateway.get('/s'));
    await gateway.close();
    await upstreams.close();
  }
  server.close();
  t.match(answers[0], { status: 200, text: 'secret' });
  t.match(answers[1], { status: 503, body: { code: 'UNAVAILABLE' } }, 'an unknown authority');
  t.match(answers[2], { status: 503, body: { code: 'UNAVAILABLE' } }, 'a certificate of another');
  t.same(
    names,
    ['secure.test', 'secure.test', 'other.test'],
    'names are looked up by the host’s own way',
  );
});

void t.test('the breaker', async (t) => {
  const breaker = new Breaker({ failures: 2, open_ms: 10, probes: 2 });
  const fail = (now: number): void => breaker.failed(breaker.enter(), now);
  fail(0);
  breaker.passed(breaker.enter());
  fail(1);
  t.equal(breaker.state(1), 'closed', 'failures count in a row alone');
  const early = breaker.enter();
  fail(2);
  t.equal(breaker.state(2), 'open');
  t.notOk(breaker.admits(11));
  t.equal(breaker.waitMs(5), 7);
  breaker.passed(early);
  t.equal(breaker.state(11), 'open', 'what began before tells nothing');
  t.equal(breaker.state(12), 'half-open');
  const probes = [breaker.enter(), breaker.enter()] as const;
  t.notOk(breaker.admits(12), 'no more probes than are wanted');
  breaker.left(probes[0]);
  t.ok(breaker.admits(12), 'one that told nothing is given back');
  breaker.passed(probes[1]);
  const last = breaker.enter();
  t.notOk(breaker.admits(12));
  breaker.failed(last, 12);
  t.equal(breaker.state(21), 'open', 'a probe that fails opens it again');
  breaker.passed(breaker.enter());
  breaker.passed(breaker.enter());
  t.equal(breaker.state(22), 'closed');
});
