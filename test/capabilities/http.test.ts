/** The capability `http` against real servers on loopback, most of them hostile. */
import { readFileSync } from 'node:fs';
import { type IncomingMessage, type ServerResponse, createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type Socket, createServer as createSocketServer } from 'node:net';
import { join, posix } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { setDefaultCACertificates, getCACertificates } from 'node:tls';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { type Json, covers } from '@noa/sdk/host';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { type Resolve, reachOf } from '../../capabilities/http/address.ts';
import { readAuthorities } from '../../capabilities/http/authorities.ts';
import { MAX_RESPONSE_BYTES, http } from '../../capabilities/http/capability.ts';
import { type HttpOptions, createHttpDriver } from '../../capabilities/http/fetch.ts';
import { canonicalUrl, resourceOf } from '../../capabilities/http/target.ts';
import { failure } from './database.ts';

const TLS = join(import.meta.dirname, '../fixtures/tls');
const cert = readFileSync(join(TLS, 'cert.pem'), 'utf8');
const key = readFileSync(join(TLS, 'key.pem'), 'utf8');

interface Reply {
  status: number;
  headers: Record<string, string>;
  setCookie?: string[];
  body?: string;
  bodyBase64?: string;
  url: string;
}

type Arguments = { [name: string]: Json };

interface CallOptions {
  plugin?: string;
  resources?: string[];
  signal?: AbortSignal;
  deadline?: number;
}

/** A driver that may reach 127.0.0.1, and other hosts when they are named. */
function driver(t: Test, options: HttpOptions = {}) {
  const made = createHttpDriver({ privateHosts: ['127.0.0.1'], ...options });
  t.teardown(() => made.close());
  const any = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'].map((method) => `${method} http*`);
  const request = async (input: Arguments, call: CallOptions = {}) => {
    const frame = {
      plugin: call.plugin ?? 'notes',
      resources: call.resources ?? any,
      signal: call.signal ?? new AbortController().signal,
      deadline: call.deadline ?? Date.now() + 20_000,
      chain: undefined,
    };
    return (await made.invoke('request', { method: 'GET', ...input }, frame)) as Reply;
  };
  return { request, drop: made.drop?.bind(made) };
}

async function serve(
  t: Test,
  listener: (request: IncomingMessage, response: ServerResponse) => unknown,
): Promise<string> {
  const server = createServer({ keepAliveTimeout: 30_000 }, (request, response) => {
    void listener(request, response);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${portOf(server.address())}`;
}

/** A server that reads the head of a request and does with the socket what it likes. */
async function serveRaw(t: Test, answer: (socket: Socket, head: string) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createSocketServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('data', (data) => answer(socket, data.toString('latin1')));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${portOf(server.address())}`;
}

function portOf(address: ReturnType<ReturnType<typeof createServer>['address']>): number {
  if (typeof address !== 'object' || address === null) throw new Error('the server has no port');
  return address.port;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request.setEncoding('utf8')) text += String(chunk);
  return text;
}

const at = (address: string): Resolve => {
  return async () => [{ address, family: address.includes(':') ? 6 : 4 }];
};

t.test('a request arrives as it was written, and the answer comes back whole', async (t) => {
  const seen: unknown[] = [];
  const url = await serve(t, async (request, response) => {
    const { method, url, headers } = request;
    seen.push([method, url, headers['x-a'], headers['content-length'], await bodyOf(request)]);
    response.writeHead(201, [
      ['Set-Cookie', 'a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT'],
      ['Set-Cookie', 'b=2'],
      ['X-B', '1'],
      ['X-B', '2'],
    ]);
    response.end(request.url === '/binary' ? Buffer.from([0xff, 0, 1]) : 'grüß dich');
  });
  const { request } = driver(t);
  const answer = await request({
    method: 'POST',
    url: `${url}/a b?q=ä#part`,
    headers: { 'X-A': 'b' },
    body: 'hällo',
  });
  t.match(answer, {
    status: 201,
    body: 'grüß dich',
    url: `${url}/a%20b?q=%C3%A4`,
    headers: { 'x-b': '1, 2' },
    setCookie: ['a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT', 'b=2'],
  });
  t.notOk('set-cookie' in answer.headers);
  t.match(await request({ url: `${url}/binary` }), { bodyBase64: '/wAB', body: undefined });
  await request({ method: 'PUT', url, bodyBase64: '/wAB' });
  await request({ method: 'DELETE', url, body: 'x' });
  await request({ method: 'POST', url });
  t.match(await request({ method: 'HEAD', url }), { status: 201, body: '' });
  t.same(seen, [
    ['POST', '/a%20b?q=%C3%A4', 'b', '6', 'hällo'],
    ['GET', '/binary', undefined, undefined, ''],
    ['PUT', '/', undefined, '3', '\ufffd\u0000\u0001'],
    ['DELETE', '/', undefined, '1', 'x'],
    ['POST', '/', undefined, '0', ''],
    ['HEAD', '/', undefined, undefined, ''],
  ]);
});

t.test(
  'a resource has one spelling, and a pattern names one method and a whole host',
  async (t) => {
    for (const [given, canonical] of [
      ['GET https://API.Example.com', 'GET https://api.example.com:443/'],
      ['GET https://api.example.com/v1/*', 'GET https://api.example.com:443/v1/*'],
      ['POST http://bücher.example:8080/a/../b*', 'POST http://xn--bcher-kva.example:8080/b*'],
      ['GET http://0x7f.1/*', 'GET http://127.0.0.1:80/*'],
      ['GET http://[::FFFF:127.0.0.1]/*', 'GET http://[::ffff:7f00:1]:80/*'],
      ['GET https://h/v1/..*', 'GET https://h:443/v1/..*'],
    ] as const) {
      t.equal(http.normalizeResource(given), canonical, given);
      t.equal(http.normalizeResource(canonical), canonical, 'a canonical form stays as it is');
    }
    for (const wrong of [
      '*',
      'GET *',
      'GET https://*',
      'GET https://api.example.com*',
      'GET https://api.example.com:443*',
      'GET https://*.example.com/',
      'GET https://*/x',
      'GET https://u:p@example.com/*',
      'GET https://good.example\\@evil.example/*',
      'GET https://example.com./*',
      'GET https://example.com/a?b=*',
      'GET https://example.com/a#b',
      'GET https://example.com/a/*/b',
      'GET https://example.com/v1/%2e%2e%2fadmin',
      'GET ftp://example.com/*',
      'GET file:///etc/passwd',
      'get https://example.com/*',
      'CONNECT https://example.com/*',
      '* https://example.com/*',
      'https://example.com/*',
      'GET  https://example.com/*',
      'GET https://exam ple.com/*',
      'GET https://[::1/*',
      'GET https://example.com:99999/*',
      '',
    ]) {
      t.throws(
        () => http.normalizeResource(wrong),
        { code: 'INVALID_ARGUMENT', message: /METHOD URL/ },
        wrong,
      );
    }
  },
);

/** What the most lenient server makes of a path: decoded over and over, parameters cut, then resolved. */
function lenient(path: string): string {
  let text = path;
  for (;;) {
    const next = text.replace(/%([0-9a-f]{2})/gi, (_match, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    if (next === text) break;
    text = next;
  }
  const segments = text.replaceAll('\\', '/').split('/');
  return posix.normalize(segments.map((segment) => segment.replace(/;.*/, '')).join('/'));
}

const piece = fc.constantFrom(
  '.',
  '..',
  '/',
  '//',
  '\\',
  '%2e',
  '%2E',
  '%252e',
  '%25252e',
  '%2f',
  '%252f',
  '%5c',
  ';',
  '@',

  ':',
  '?',
  '#',
  '*',
  '%',
  '%00',
  '%0d%0a',
  'v1',
  'v1/',
  'admin',
  'x',
  ' ',
  '\t',
  '\n',
  'é',
  '1',

  '\u3002',
  '\uff0e',
  '\uff0f',
  '127.0.0.1',
  '[::1]',
  'evil.example',
  'http:',
  '//evil.example/',
);

t.test('what is checked is what is sent, whatever the spelling', async (t) => {
  const lines: string[] = [];
  const url = await serve(t, (request, response) => {
    lines.push(`${request.method} http://${request.headers.host}${request.url}`);
    response.end();
  });
  const pattern = http.normalizeResource(`GET ${url}/v1/*`);
  const { request } = driver(t);
  const written = fc
    .tuple(
      fc.constantFrom(`${url}/v1/`, `${url}/v1`, url, `${url.replace('http:', 'HTTP:')}\\v1/`),
      fc.array(piece, { maxLength: 8 }),
    )
    .map(([start, pieces]) => start + pieces.join(''));
  let sent = 0;
  await fc.assert(
    fc.asyncProperty(written, async (text) => {
      let canonical: URL;
      try {
        canonical = canonicalUrl(text);
      } catch (error) {
        t.match(error, { code: 'INVALID_ARGUMENT' });
        return;
      }
      const [resource = ''] = http.operations.request.resources({ method: 'GET', url: text });
      if (canonicalUrl(canonical.href).href !== canonical.href) throw new Error('not stable');
      if (resource !== resourceOf('GET', canonical)) throw new Error('two spellings');
      if (!covers(pattern, resource)) return;
      await request({ url: text }, { resources: [pattern] });
      sent += 1;
      const line = lines.pop() ?? '';
      if (line !== `GET ${canonical.href}`)
        throw new Error(`${line} was sent for ${canonical.href}`);
      const [path = ''] = line.slice(`GET ${url}`.length).split('?');
      if (!lenient(path).startsWith('/v1/')) throw new Error(`${path} leaves the prefix`);
    }),
    { numRuns: 1500 },
  );
  t.ok(sent > 50, `${sent} were sent`);
});

t.test('spellings of forbidden addresses are one address', async (t) => {
  const { request } = driver(t, { privateHosts: [] });
  for (const host of [
    '127.0.0.1',
    '127.1',
    '0177.0.0.1',
    '0x7f000001',
    '2130706433',
    '１２７.0.0.1',
    '0',
    '0.0.0.0',
    '10.0.0.1',
    '172.31.255.255',
    '192.168.1.1',
    '100.64.0.1',
    '169.254.169.254',
    '224.0.0.1',

    '[::1]',
    '[::]',
    '[::ffff:127.0.0.1]',
    '[::ffff:a9fe:a9fe]',
    '[64:ff9b::7f00:1]',
    '[::127.0.0.1]',

    '[64:ff9b::a9fe:a9fe]',
    '[64:ff9b:1::1]',
    '[2002:7f00:1::]',
    '[fe80::1]',
    '[fd00::1]',
    '[ff02::1]',
    '255.255.255.255',
    '168.63.129.16',
    '[fec0::1]',
    '[2001::1]',
    'localhost',
  ]) {
    t.match(
      await failure(request({ url: `http://${host}:9/` })),
      { code: 'CAPABILITY_DENIED', message: /http_private_hosts/ },
      host,
    );
  }
  for (const [address, reach] of [
    ['93.184.215.14', 'public'],
    ['2606:4700::1111', 'public'],
    ['::ffff:93.184.215.14', 'public'],
    ['64:ff9b::93.184.215.14', 'public'],
    ['::ffff:10.0.0.1', 'private'],
    ['64:ff9b::10.0.0.1', 'private'],
    ['fd00:ec2::254', 'never'],
    ['fe80::1%lo', 'never'],
    ['no address', 'never'],
  ] as const) {
    t.equal(reachOf(address), reach, address);
  }
});

t.test('a listed host may be private, but never link-local', async (t) => {
  const url = await serve(t, (_request, response) => void response.end('in'));
  const named = url.replace('127.0.0.1', 'billing.test');
  const listed = driver(t, { privateHosts: ['Billing.test'], resolve: at('127.0.0.1') });
  t.match(await listed.request({ url: named }), { body: 'in' });
  t.match(
    await failure(listed.request({ url: named.replace('billing', 'other') })),
    { code: 'CAPABILITY_DENIED', message: /other\.test/ },
    'the name of somebody else for the same address is refused',
  );
  t.match(await failure(listed.request({ url })), { code: 'CAPABILITY_DENIED' });
  const metadata = driver(t, {
    privateHosts: ['meta.test', '169.254.169.254'],
    resolve: at('169.254.169.254'),
  });
  for (const host of ['meta.test', '169.254.169.254']) {
    t.match(await failure(metadata.request({ url: `http://${host}/` })), {
      code: 'CAPABILITY_DENIED',
    });
  }
  t.throws(() => createHttpDriver({ privateHosts: ['a/b'] }), /http_private_hosts/);
});

t.test(
  'an address is judged when a connection is made, and that address is connected to',
  async (t) => {
    const url = await serve(t, (_request, response) => {
      response.setHeader('connection', 'close');
      response.end('in');
    });
    const named = url.replace('127.0.0.1', 'rebind.test');
    const answers = ['127.0.0.1', '169.254.169.254'];
    let asked = 0;
    const { request } = driver(t, {
      privateHosts: ['rebind.test'],
      resolve: async () => [{ address: answers[asked++] ?? '', family: 4 }],
    });
    t.match(await request({ url: named }), { body: 'in' });
    t.equal(asked, 1, 'the name was looked up once: nothing between check and use');
    t.match(await failure(request({ url: named })), {
      code: 'CAPABILITY_DENIED',
      message: /^(?!.*169\.254)/,
    });
    const mixed = driver(t, {
      resolve: async () => [
        { address: '93.184.215.14', family: 4 },
        { address: '::1', family: 6 },
      ],
    });
    t.match(await failure(mixed.request({ url: named })), { code: 'CAPABILITY_DENIED' });
  },
);

t.test(
  'a name that does not resolve and a port that nobody listens on look the same',
  async (t) => {
    const url = await serve(t, (_request, response) => void response.end());
    const dead = await new Promise<string>((done) => {
      const server = createServer().listen(0, '127.0.0.1', () => {
        const port = portOf(server.address());
        server.close(() => done(`http://127.0.0.1:${port}`));
      });
    });
    const { request } = driver(t, {
      resolve: async () => {
        throw Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' });
      },
    });
    const away = { code: 'UNAVAILABLE', message: /could not be reached/ };
    t.match(await failure(request({ url: dead })), away);
    t.match(await failure(request({ url: 'http://absent.test/' })), away);
    t.match(await failure(request({ url: url.replace('http:', 'https:') })), {
      code: 'UNAVAILABLE',
      message: /TLS/,
    });
  },
);

t.test('a redirect is a request of its own', async (t) => {
  const seen: unknown[] = [];
  const other = await serve(t, (request, response) => {
    seen.push([
      'other',
      request.method,
      request.headers['authorization'],
      request.headers['cookie'],
    ]);
    response.end('other');
  });
  const url = await serve(t, async (request, response) => {
    const { method, url: path = '', headers } = request;
    seen.push([
      path,
      method,
      headers['authorization'],
      headers['content-type'],
      await bodyOf(request),
    ]);
    const { searchParams } = new URL(path, 'http://x');
    const to = searchParams.get('to');
    if (to === null) response.end(`at ${path}`);
    else
      response.writeHead(Number(searchParams.get('status') ?? 302), { location: to }).end('moved');
  });
  const step = (to: string, status = 302) =>
    `${url}/?status=${status}&to=${encodeURIComponent(to)}`;
  const { request } = driver(t);
  const headers = { Authorization: 'Bearer s', Cookie: 'c=1', 'Content-Type': 'text/plain' };

  t.match(await request({ url: step('/there#part'), headers }), {
    body: 'at /there',
    url: `${url}/there`,
  });
  t.match(seen.pop(), ['/there', 'GET', 'Bearer s'], 'credentials stay at one origin');

  t.match(await request({ url: step(other), headers }), { body: 'other', url: `${other}/` });
  t.same(seen.pop(), ['other', 'GET', undefined, undefined], 'and go to no other');

  for (const [status, method, result] of [
    [301, 'POST', 'GET'],
    [302, 'POST', 'GET'],
    [303, 'PUT', 'GET'],
    [303, 'HEAD', 'HEAD'],
    [302, 'PUT', 'PUT'],
    [307, 'POST', 'POST'],
    [308, 'DELETE', 'DELETE'],
  ] as const) {
    const body = method === 'HEAD' ? {} : { body: 'text' };
    await request({ method, url: step('/next', status), headers, ...body });
    const kept = result === method && method !== 'HEAD';
    t.same(
      seen.pop(),
      [
        '/next',
        result,
        'Bearer s',
        result === 'GET' ? undefined : 'text/plain',
        kept ? 'text' : '',
      ],
      `${status} ${method}`,
    );
  }

  const granted = {
    resources: [http.normalizeResource(`GET ${url}/*`), http.normalizeResource(`POST ${url}/*`)],
  };
  for (const to of [
    other,
    url.replace('http:', 'https:'),
    'http://169.254.169.254/latest/meta-data/',
    'http://[::1]/',
    '//evil.example/x',
    '\\\\evil.example/x',
  ]) {
    const before = seen.length;
    t.match(
      await failure(request({ url: step(to) }, granted)),
      { code: 'CAPABILITY_DENIED', message: /redirected/ },
      to,
    );
    t.equal(seen.length, before + 1, 'nothing was sent there');
  }
  t.match(
    await failure(request({ method: 'PUT', url: step('/x', 307), body: 'x' }, granted)),
    { code: 'CAPABILITY_DENIED', message: /PUT http/ },
    'a grant of GET and POST is none of PUT',
  );
  for (const to of ['http://169.254.169.254/', 'http://[::ffff:10.0.0.1]/', 'http://2130706434/']) {
    t.match(
      await failure(request({ url: step(to) })),
      { code: 'CAPABILITY_DENIED', message: /not at public/ },
      to,
    );
  }
  for (const to of ['file:///etc/passwd', 'http://u:p@127.0.0.1/', 'javascript:1', 'http://%']) {
    t.match(await failure(request({ url: step(to) })), { code: 'INVALID_ARGUMENT' }, to);
  }
  t.match(await request({ url: step(other), redirect: 'manual' }), {
    status: 302,
    body: 'moved',
    headers: { location: other },
  });
  t.match(await failure(request({ url: step(other), redirect: 'error' })), { code: 'CONFLICT' });
});

t.test('redirects that never end do end', async (t) => {
  let hits = 0;
  const url = await serve(t, (_request, response) => {
    hits += 1;
    response.writeHead(302, { location: `/${hits}` }).end();
  });
  const { request } = driver(t);
  t.match(await failure(request({ url })), { code: 'RESOURCE_EXHAUSTED', message: /5 redirects/ });
  t.equal(hits, 6);
});

t.test('headers that would break the framing or name another target are refused', async (t) => {
  let hits = 0;
  const url = await serve(t, (_request, response) => {
    hits += 1;
    response.end();
  });
  const { request } = driver(t);
  for (const headers of [
    'Host',
    'connection',
    'Transfer-Encoding',
    'content-length',
    'upgrade',
    'TE',
    'trailer',
    'expect',

    'proxy-authorization',
    'Proxy-Connection',
    'keep-alive',
    'accept-encoding',
    'X-HTTP-Method-Override',
    'x-original-url',
    'bad name',
    'bad\r\nname',
    '',
    'näme',
    ':path',
  ]) {
    t.match(
      await failure(request({ url, headers: { [headers]: 'x' } })),
      { code: 'INVALID_ARGUMENT', message: /header/ },
      headers,
    );
  }
  for (const value of ['a\r\nX: b', 'a\nb', 'a\0b', '日本', '\x7f']) {
    t.match(await failure(request({ url, headers: { 'x-a': value } })), {
      code: 'INVALID_ARGUMENT',
    });
  }
  for (const headers of [{ 'X-A': '1', 'x-a': '2' }, { 'x-a': 'x'.repeat(20_000) }, { 'x-a': 1 }]) {
    t.match(await failure(request({ url, headers })), { code: 'INVALID_ARGUMENT' });
  }
  for (const input of [
    { url, method: 'TRACE' },
    { url, method: 'GET', body: 'x' },
    { url: 'ftp://127.0.0.1/' },
    { url: '/relative' },
    { url: url.replace('//', '//user:secret@') },
    { url: `${url}/v1/..%2f..%5cadmin` },
  ]) {
    t.match(await failure(request(input)), { code: 'INVALID_ARGUMENT', message: /^(?!.*secret)/ });
  }
  t.match(await failure(request({ url, method: 'POST', body: 'x'.repeat(800_000) })), {
    code: 'PAYLOAD_TOO_LARGE',
  });
  t.equal(hits, 0);
});

t.test('packed answers are unpacked, within the bound', async (t) => {
  const packers = { gzip: gzipSync, br: brotliCompressSync, deflate: deflateSync };
  const url = await serve(t, (request, response) => {
    const [, name = '', what] = (request.url ?? '').split('/');
    const codings = name.split(',');
    const zeros = Buffer.alloc(what === 'bomb' ? 200 << 20 : 10);
    let body: Buffer = what === 'text' ? Buffer.from('text') : zeros;
    for (const coding of codings) {
      if (coding === 'gzip' || coding === 'br' || coding === 'deflate')
        body = packers[coding](body);
    }
    response.setHeader('content-encoding', name);
    response.end(what === 'cut' ? body.subarray(0, -5) : body);
  });
  const { request } = driver(t);
  for (const coding of ['gzip', 'br', 'deflate', 'gzip,br']) {
    const answer = await request({ url: `${url}/${coding}/text` });
    t.match(answer, { body: 'text' }, coding);
    t.notOk('content-encoding' in answer.headers);
    t.notOk('content-length' in answer.headers);
  }
  for (const coding of ['gzip', 'br', 'gzip,gzip']) {
    const before = process.memoryUsage().rss;
    t.match(await failure(request({ url: `${url}/${coding}/bomb` })), {
      code: 'RESOURCE_EXHAUSTED',
    });
    t.ok(process.memoryUsage().rss - before < 500 << 20);
  }
  t.match(await request({ url: `${url}/zstd/text` }), {
    body: 'text',
    headers: { 'content-encoding': 'zstd' },
  });
  t.match(await failure(request({ url: `${url}/gzip/cut` })), { code: 'UNAVAILABLE' });
  t.match(await request({ method: 'HEAD', url: `${url}/gzip/text` }), { status: 200, body: '' });
});

t.test('a stream that unpacks to nothing, for ever, ends at the bound', async (t) => {
  const empty = gzipSync('');
  const members = Buffer.concat(Array.from({ length: 5_000 }, () => empty));
  const url = await serve(t, (_request, response) => {
    response.setHeader('content-encoding', 'gzip');
    const more = (): void => {
      while (!response.destroyed && response.write(members));
      if (!response.destroyed) response.once('drain', more);
    };
    more();
  });
  t.match(await failure(driver(t).request({ url })), { code: 'RESOURCE_EXHAUSTED' });
});

t.test('an answer has an end, in size and in time', async (t) => {
  const url = await serve(t, (request, response) => {
    if (request.url === '/exact') return void response.end(Buffer.alloc(MAX_RESPONSE_BYTES, 'a'));
    if (request.url === '/binary') return void response.end(Buffer.alloc(MAX_RESPONSE_BYTES));
    if (request.url === '/slow') return void response.write('a');
    if (request.url === '/silent') return;
    const more = (): void => {
      while (!response.destroyed && response.write('a'.repeat(65_536)));
      if (!response.destroyed) response.once('drain', more);
    };
    more();
  });
  const { request } = driver(t);
  t.equal((await request({ url: `${url}/exact` })).body?.length, MAX_RESPONSE_BYTES);
  const binary = await request({ url: `${url}/binary` });
  t.ok(JSON.stringify(binary).length < 4 << 20, 'it fits into one reply to the sandbox');
  t.equal(Buffer.from(binary.bodyBase64 ?? '', 'base64').length, MAX_RESPONSE_BYTES);
  t.match(await failure(request({ url })), {
    code: 'RESOURCE_EXHAUSTED',
    message: /over 3000000 bytes/,
  });
  for (const path of ['/slow', '/silent']) {
    const late = { code: 'DEADLINE_EXCEEDED', message: /127\.0\.0\.1/ };
    t.match(await failure(request({ url: url + path, timeoutMs: 100 })), late);
    t.match(await failure(request({ url: url + path }, { deadline: Date.now() + 100 })), late);
    const caller = new AbortController();
    setTimeout(() => caller.abort(), 50);
    const gone = await failure(request({ url: url + path }, { signal: caller.signal }));
    t.match(gone, { code: 'CANCELLED' });
  }
  t.match(await failure(request({ url }, { signal: AbortSignal.abort() })), { code: 'CANCELLED' });
});

t.test('broken answers are failures of the other side, and never hang', async (t) => {
  const answers: { readonly [path: string]: string | Buffer } = {
    '/reset': 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc',
    '/short': 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc',
    '/chunk': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc',
    '/both': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n',
    '/twice': 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd',
    '/negative': 'HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc',
    '/garbage': 'SSH-2.0-OpenSSH_9\r\n\r\n',
    '/upgrade': 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n',
    '/fold': 'HTTP/1.1 200 OK\r\nX: a\nY: b\rZ: c\r\n\r\n',
    '/nothing': '',
  };
  const url = await serveRaw(t, (socket, head) => {
    const path = head.split(' ')[1] ?? '';
    const text = answers[path] ?? '';
    if (path === '/reset') socket.write(text, () => setTimeout(() => socket.resetAndDestroy(), 20));
    else socket.end(text);
  });
  const { request } = driver(t);
  for (const path of Object.keys(answers)) {
    t.match(await failure(request({ url: url + path })), { code: 'UNAVAILABLE' }, path);
  }
});

t.test('bytes after an answer reach no later request', async (t) => {
  let connections = 0;
  const url = await serveRaw(t, (socket) => {
    connections += 1;
    const answer = 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc';
    socket.write(`${answer}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`);
  });
  const { request } = driver(t);
  for (let count = 0; count < 3; count += 1) {
    t.match(await request({ url }).catch(() => ({ body: 'abc' })), { body: 'abc' });
  }
  t.ok(connections >= 1);
});

t.test('headers of an answer are bounded', async (t) => {
  const url = await serveRaw(t, (socket, head) => {
    socket.write('HTTP/1.1 200 OK\r\n');
    const long = head.startsWith('GET /long');
    const more = (): void => {
      while (
        !socket.destroyed &&
        socket.write(long ? 'x'.repeat(10_000) : 'a: b\r\n'.repeat(1_000))
      );
      if (!socket.destroyed) socket.once('drain', more);
    };
    more();
  });
  const { request } = driver(t);
  for (const path of ['/long', '/many']) {
    t.match(await failure(request({ url: url + path })), {
      code: 'RESOURCE_EXHAUSTED',
      message: /headers/,
    });
  }
  const slow = await serveRaw(t, (socket) => {
    const timer = setInterval(() => void socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'), 10);
    socket.once('close', () => clearInterval(timer));
  });
  t.match(await failure(request({ url: slow, timeoutMs: 200 })), { code: 'DEADLINE_EXCEEDED' });
});

t.test('requests under way are bounded, for each plugin and in all', async (t) => {
  let release = (): void => {};
  const held = new Promise<void>((done) => (release = done));
  const url = await serve(t, async (_request, response) => {
    await held;
    response.end();
  });
  const { request } = driver(t, { maxRequests: 3, maxRequestsPerPlugin: 2 });
  const full = { code: 'RESOURCE_EXHAUSTED', message: /too many/ };
  const running = [request({ url }), request({ url }), request({ url }, { plugin: 'b' })];
  t.match(await failure(request({ url })), full);
  t.match(await failure(request({ url }, { plugin: 'c' })), full);
  release();
  for (const { status } of await Promise.all(running)) t.equal(status, 200);
  t.match(await request({ url }, { plugin: 'c' }), { status: 200 });
});

t.test('connections are kept for one plugin, never shared, and closed when it goes', async (t) => {
  const ports: unknown[] = [];
  let open = 0;
  const url = await serve(t, (request, response) => {
    ports.push(request.socket.remotePort);
    open += 1;
    request.socket.removeAllListeners('close').once('close', () => (open -= 1));
    response.end();
  });
  const { request, drop } = driver(t);
  await request({ url }, { plugin: 'a' });
  await sleep(20);
  await request({ url }, { plugin: 'a' });
  await request({ url }, { plugin: 'b' });
  t.equal(ports[0], ports[1]);
  t.not(ports[1], ports[2]);
  await drop?.('a');
  await sleep(20);
  await request({ url }, { plugin: 'a' });
  t.notOk(ports.slice(0, 3).includes(ports[3]));
});

t.test(
  'a kept connection that the server has closed costs no request that may be repeated',
  async (t) => {
    const sockets = new Set<unknown>();
    const url = await serve(t, (request, response) => {
      const known = sockets.has(request.socket);
      sockets.add(request.socket);
      if (known) request.socket.resetAndDestroy();
      else response.end('fresh');
    });
    const { request } = driver(t);
    await request({ url });
    await sleep(20);
    t.match(await request({ url }), { body: 'fresh' });
    await sleep(20);
    await request({ url });
    await sleep(20);
    t.match(await failure(request({ method: 'POST', url })), { code: 'UNAVAILABLE' });
  },
);

t.test('TLS: the certificate must be trusted and name the host', async (t) => {
  const before = getCACertificates('default');
  t.teardown(() => setDefaultCACertificates(before));
  const server = createTlsServer({ key, cert }, (_request, response) => void response.end('safe'));
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const port = portOf(server.address());
  const options = { privateHosts: ['secure.test', 'other.test'], resolve: at('127.0.0.1') };
  const untrusted = { code: 'UNAVAILABLE', message: /certificate/ };
  t.match(
    await failure(driver(t, options).request({ url: `https://secure.test:${port}/` })),
    untrusted,
  );
  const own = driver(t, { ...options, authorities: [cert] });
  t.match(await own.request({ url: `https://secure.test:${port}/` }), { body: 'safe' });
  t.match(await failure(own.request({ url: `https://other.test:${port}/` })), untrusted);
  setDefaultCACertificates([...before, cert]);
  const { request } = driver(t, options);
  t.match(await request({ url: `https://secure.test:${port}/` }), { body: 'safe' });
  t.match(await failure(request({ url: `https://other.test:${port}/` })), untrusted);
  process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0';
  t.teardown(() => delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']);
  t.match(
    await failure(driver(t, options).request({ url: `https://other.test:${port}/` })),
    untrusted,
    'a variable does not turn the check off',
  );
});

t.test(
  'authorities of the operator’s own are read from a file, or the fault is named',
  async (t) => {
    const folder = t.testdir({
      'ca.pem': `two of them\n${cert}\n${cert}`,
      'no.pem': 'x',
      'key.pem': key,
    });
    t.same(readAuthorities(`${folder}/ca.pem`), [cert.trim(), cert.trim()]);
    const fault = { code: 'INVALID_ARGUMENT', message: /plugins\.http_ca_path/ };
    for (const name of ['no.pem', 'key.pem', 'absent.pem', '.']) {
      t.throws(() => readAuthorities(`${folder}/${name}`), fault, name);
    }
  },
);

t.test('proxies of the environment are not used', async (t) => {
  const url = await serve(t, (_request, response) => void response.end('direct'));
  for (const name of ['HTTP_PROXY', 'http_proxy', 'NODE_USE_ENV_PROXY']) {
    process.env[name] = name.startsWith('NODE') ? '1' : 'http://127.0.0.1:9';
    t.teardown(() => delete process.env[name]);
  }
  t.match(await driver(t).request({ url }), { body: 'direct' });
});

t.test('plugins that wait for slow servers keep no other out', async (t) => {
  const url = await serve(t, ({ url: path }, response) => {
    if (path !== '/slow') response.end('ok');
  });
  const { request } = driver(t);
  const over = new AbortController();
  const slow = ['a', 'b', 'c', 'd', 'e'].flatMap((plugin) =>
    Array.from({ length: 16 }, () =>
      request({ url: `${url}/slow` }, { plugin, signal: over.signal }).catch(
        (error: { code: string }) => error.code,
      ),
    ),
  );
  for (let n = 0; n < 10; n += 1) {
    t.match(await request({ url }, { plugin: `other-${n}` }), { status: 200 });
  }
  over.abort();
  const codes = await Promise.all(slow);
  t.equal(codes.filter((code) => code === 'RESOURCE_EXHAUSTED').length, 15);
});
