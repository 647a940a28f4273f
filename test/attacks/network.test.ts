/**
 * Network: a plugin that may ask one service for one path, and wants the metadata of the cloud, the
 * host's own administration, another port, or the credentials of a request to travel elsewhere.
 */
import { lookup } from 'node:dns/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { built, Target } from './target.ts';

/** What arrived at a server of the test. */
const arrived: string[] = [];
const bomb = gzipSync(Buffer.alloc(64 << 20));

async function serve(name: string): Promise<{ port: number; server: Server }> {
  const server = createServer((request, response) => {
    const { url = '/', headers } = request;
    arrived.push(`${name} ${request.method} ${url} ${headers.authorization ?? '-'}`);
    const to = new URL(url, 'http://x').searchParams.get('to');
    if (to !== null) response.writeHead(302, { location: to }).end();
    else if (url === '/open/loop') response.writeHead(302, { location: url }).end();
    else if (url.startsWith('/open/bomb')) {
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(bomb);
    } else if (url.startsWith('/open/endless')) {
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536)));
      };
      response.on('drain', more);
      more();
    } else if (url.startsWith('/open/drip')) {
      const timer = setInterval(() => response.write('.'), 50);
      response.on('close', () => clearInterval(timer));
    } else if (url.startsWith('/open/headers')) {
      response.writeHead(200, { 'x-evil': 'a'.repeat(12_000), 'set-cookie': 'session=1' }).end('x');
    } else response.end('reached');
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, server };
}
const [service, other] = await Promise.all([serve('service'), serve('other')]);
const base = `http://127.0.0.1:${service.port}`;

const spy = await built(
  {
    name: 'spy',
    exports: { fetch: {} },
    capabilities: [
      {
        capability: 'http',
        operations: ['request'],
        resources: [
          `GET ${base}/open/*`,
          `POST ${base}/open/only`,
          // Granted, and still not reached: no operator has listed these hosts.
          'GET http://localhost/*',
          'GET http://169.254.169.254/*',
          'GET http://[fd00:ec2::254]/*',
          'GET http://10.0.0.1/*',
          'GET http://[fe80::1]/*',
        ],
        reason: 'Asks its service.',
      },
    ],
    limits: { timeoutMs: 3000, memoryMiB: 64 },
  },
  `import { definePlugin } from '@noa/sdk';
   export default definePlugin({
     async fetch({ url, method, headers, body }) {
       const response = await fetch(url, { method, headers, body });
       const text = await response.text();
       return { status: response.status, url: response.url, length: text.length, text: text.slice(0, 50) };
     },
   });`,
);
const target = await Target.start(t, [spy], { NOA_PLUGINS__HTTP_PRIVATE_HOSTS: '127.0.0.1' });
const { host } = target;
/** Why: the address that a granted name has, or the grants. */
const ADDRESS = /does not connect plugins/;
const GRANT = /has no grant/;
const denial = { kind: 'capability.denial', plugin: 'spy', capability: 'http' };
const reach = (url: string, more: object = {}) => target.call('spy', 'fetch', { url, ...more });

target.attack(
  'what it may, it can: the service answers',
  { audit: { plugin: 'spy', outcome: 'ok' } },
  async (t) => {
    t.match(await reach(`${base}/open/x`), { status: 200, body: { text: 'reached' } });
    t.strictSame(arrived.splice(0), ['service GET /open/x -']);
  },
);

target.attack(
  'another port, path, method, scheme or spelling of the host',
  { audit: denial },
  async (t) => {
    const { port } = service;
    for (const url of [
      `http://127.0.0.1:${other.port}/open/x`,
      `${base}/closed`,
      `${base}/open/../closed`,
      `${base}/open/%2e%2e/closed`,
      `${base}/open%2f..%2fclosed`,
      `${base}//open/x`,
      `https://127.0.0.1:${port}/open/x`,
      `http://127.0.0.1:${port}@evil.test/open/x`,
      `http://evil.test:${port}/open/x`,
      `http://127.0.0.1.nip.test:${port}/open/x`,
      `http://[::ffff:127.0.0.1]:${port}/open/x`,
      `http://[::1]:${port}/open/x`,
      `http://0.0.0.0:${port}/open/x`,
      'file:///etc/passwd',
      'data:text/plain,x',
      'ftp://127.0.0.1/',
      'javascript:1',
    ]) {
      const { status } = await reach(url);
      t.ok([400, 403, 500].includes(status), `${url} → ${status}`);
    }
    for (const method of ['POST', 'PUT', 'DELETE', 'CONNECT', 'TRACE', 'get x', 'GET\r\nx: y']) {
      const { status } = await reach(`${base}/open/x`, { method });
      t.not(status, 200, method);
    }
    // Spellings of the one granted address are that address.
    for (const same of [`http://2130706433:${port}/open/y`, `http://0x7f.1:${port}/open/y`]) {
      t.match(await reach(same), { status: 200 });
    }
    t.strictSame(
      arrived.splice(0).filter((line) => !line.endsWith('/open/y -')),
      [],
      'nothing of it was sent',
    );
  },
);

target.attack(
  'the machine’s own addresses, and the host’s own door',
  { audit: { plugin: 'spy', capability: 'http', outcome: /denied|failed/ } },
  async (t) => {
    const headers = { authorization: `Bearer ${'x'.repeat(40)}` };
    for (const [url, detail] of [
      ['http://169.254.169.254/latest/meta-data/iam/', ADDRESS],
      ['http://[fd00:ec2::254]/latest/', ADDRESS],
      ['http://10.0.0.1/', ADDRESS],
      ['http://[fe80::1]/', ADDRESS],
      ['http://metadata.google.internal/', GRANT],
      ['http://192.168.0.1/', GRANT],
      [`${host.url}/v1/grants`, GRANT],
      [`${host.url}/metrics`, GRANT],
    ] as const) {
      const { status, body } = await reach(url, { headers });
      t.match({ status, body }, { status: 403, body: { code: 'CAPABILITY_DENIED', detail } }, url);
    }
  },
);

target.attack(
  'a granted name that leads to a private address',
  { audit: { plugin: 'spy', capability: 'http', outcome: /denied|failed/ } },
  async (t) => {
    t.match(
      (await lookup('localhost', { all: true })).map(({ address }) => address),
      /127|::1/,
    );
    t.match(await reach('http://localhost/anything'), {
      status: 403,
      body: { code: 'CAPABILITY_DENIED', detail: ADDRESS },
    });
  },
);

target.attack(
  'redirects to where it may not go',
  { audit: { plugin: 'spy', capability: 'http', outcome: /denied|failed/ } },
  async (t) => {
    for (const [to, status] of [
      ['/closed', 403],
      [`http://127.0.0.1:${other.port}/open/x`, 403],
      [`${host.url}/v1/grants`, 403],
      ['http://169.254.169.254/', 403],
      ['http://localhost/x', 403],
      ['file:///etc/passwd', 400],
      ['//evil.test/x', 403],
    ] as const) {
      const answer = await reach(`${base}/open/r?to=${encodeURIComponent(to)}`);
      t.match(answer, { status }, `${to} ${JSON.stringify(answer.body)}`);
    }
    const loop = await reach(`${base}/open/loop`);
    t.match(loop, { status: 429, body: { detail: /more than 5 redirects/ } });
    const lines = arrived.splice(0);
    t.ok(lines.length > 0);
    t.ok(
      lines.every((line) => line.startsWith('service GET /open/')),
      'only the first step was taken',
    );
  },
);

target.attack(
  'requests with more in them than they say',
  { audit: { plugin: 'spy', code: /INVALID_ARGUMENT|PLUGIN_TRAP/ } },
  async (t) => {
    for (const headers of [
      { host: 'evil.test' },
      { 'x-a': 'b\r\nx-forged: 1' },
      { 'transfer-encoding': 'chunked' },
      { 'content-length': '5' },
      { connection: 'upgrade', upgrade: 'websocket' },
      { 'x\u0000y': 'z' },
    ]) {
      const answer = await reach(`${base}/open/only`, { method: 'POST', headers, body: 'x' });
      t.match(
        answer.body,
        { code: /^(INVALID_ARGUMENT|PLUGIN_TRAP)$/ },
        `${JSON.stringify(headers)} ${JSON.stringify(answer.body)}`,
      );
    }
    t.strictSame(arrived.splice(0), [], 'nothing of it was sent');
  },
);

target.attack(
  'answers that never end, drip, explode or carry headers without measure',
  { audit: { plugin: 'spy', capability: 'http', outcome: 'failed' } },
  async (t) => {
    const [bomb, endless, drip] = await Promise.all(
      ['bomb', 'endless', 'drip'].map((name) => reach(`${base}/open/${name}`)),
    );
    t.match(bomb, { status: 429, body: { code: 'RESOURCE_EXHAUSTED' } }, 'the bomb');
    t.match(endless, { status: 429, body: { code: 'RESOURCE_EXHAUSTED' } }, 'the endless one');
    t.match(drip, { status: 504, body: { code: 'DEADLINE_EXCEEDED' } }, 'the dripping one');
    const headers = await reach(`${base}/open/headers`);
    t.match(headers, { status: 200, body: { text: 'x' } }, JSON.stringify(headers.body));
    t.match(await reach(`${base}/open/x`), { status: 200 }, 'and the next request works');
  },
);

target.aftermath();
